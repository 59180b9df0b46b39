//! Suspicious objects: files, addresses, networks, domains and URLs that somebody found bad.
//!
//! An [`Object`] is one of them, and says what is done where it is met. Operators add their own, analyses
//! bring others, and [`acting()`] says which of all these act. What acts goes to agents as a [`List`], and from a
//! manager to its servers as [`ObjectsChange`]s.
//! [`stix`] reads what the world publishes; [`service`] is where operators say what they want.

mod acting;
mod change;
mod list;
mod object;
pub mod service;
pub mod stix;

pub use acting::{Act, Standing, acting};
pub use change::{InvalidChange, ObjectsChange};
pub use list::{InvalidList, List, MAX_OBJECT_BYTES, MAX_OBJECTS, fitting};
pub use object::{InvalidObject, NoSuchType, Object, ObjectType, Source};
