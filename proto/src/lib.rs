//! Generated protobuf code. Only `writ_common::wire`, the server's `admin` and the command line name
//! these types; everything else works on the domain types they convert to.
#![allow(
    clippy::all,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    reason = "generated code"
)]

pub mod codec;

/// What agents speak, and every signed document.
pub mod v1 {
    tonic::include_proto!("writ.v1");
}

/// What operators speak.
pub mod admin {
    /// Version 1 of the admin services.
    pub mod v1 {
        tonic::include_proto!("writ.admin.v1");
    }
}

/// What a server and the Control Manager above it speak.
pub mod manager {
    /// Version 1 of the line between them.
    pub mod v1 {
        tonic::include_proto!("writ.manager.v1");
    }
}

/// The encoded `FileDescriptorSet` of every file, for server reflection and the schema snapshot.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
