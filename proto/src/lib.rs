//! Generated protobuf code. Only `writ_protocol::wire`, the server's `admin` and the command line name
//! these types; everything else works on the domain types they convert to.
#![allow(
    clippy::all,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    reason = "generated code"
)]

#[cfg(feature = "services")]
pub mod codec;

/// What agents speak, and every signed document.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/writ.v1.rs"));
}

/// What operators speak.
pub mod admin {
    /// Version 1 of the admin services.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/writ.admin.v1.rs"));
    }
}

/// What a server and the Control Manager above it speak.
pub mod manager {
    /// Version 1 of the line between them.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/writ.manager.v1.rs"));
    }
}

/// The encoded `FileDescriptorSet` of every file, for server reflection and the schema snapshot.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
