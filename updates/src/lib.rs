//! Components, which are versioned files that servers and agents use, and the repositories they come from.
//!
//! A repository is one of The Update Framework, TUF 1.0: static files that any web server can hold. It is not
//! trusted, and neither is the way to it: what counts are the signatures in it, and the root that was pinned.
//!
//! An update goes through the types of [`run`]: fetched, verified, staged, active. [`Workshop`] makes
//! repositories. Nothing else knows the library that both stand on.

mod component;
mod digest;
mod folder;
mod link;
mod mirror;
mod reason;
pub mod run;
mod trusted;
mod workshop;

pub use component::{InvalidName, Name, Release, Version};
pub use folder::{Alone, Folder, Held, LastRun, Outcome, Shelf, ShelfState};
pub use link::{ByteStream, Disk, Link, LinkError, Pace, Web};
pub use mirror::{Mirrored, mirror};
pub use reason::{Reason, UpdateError};
pub use run::{Progress, Report, Source, update};
pub use trusted::Trusted;
pub use workshop::{
    Lifetimes, Offered, Published, RepositoryState, Role, RoleState, Workshop, WorkshopError,
};

/// Components in one repository. One that lists more is refused.
pub const MAX_COMPONENTS: usize = 64;
/// Bytes of one component. A longer one is refused before it is fetched.
pub const MAX_COMPONENT_BYTES: u64 = 8 << 30;
/// Questions of one run, each for one file. What needs more is refused.
pub const MAX_REQUESTS: usize = 512;
/// Bytes of one file of metadata, whatever other metadata says of it. The library takes it apart before it
/// looks for a signature, into more than a hundred times as many bytes of memory.
pub const MAX_METADATA_BYTES: u64 = 256 << 10;
/// Files of metadata in one run beside roots, and their bytes. The library follows delegations as deep as
/// they go, on its stack, and keeps all of them.
pub const MAX_METADATA_FILES: usize = 64;
/// See [`MAX_METADATA_FILES`].
pub const MAX_METADATA_IN_ALL: u64 = 2 << 20;
/// How long a run may take, however it comes.
pub const MAX_RUN: std::time::Duration = std::time::Duration::from_secs(6 * 3600);
