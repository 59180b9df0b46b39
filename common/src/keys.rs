//! Keys and certificates as files have them, of whatever program: read, sealed, brought in and out. What a
//! key is stands in [`writ_protocol::keys`].

pub mod pem;
pub mod sealed;
pub mod transfer;
pub mod vault;
pub mod vouched;
