//! Lists of files, domains and URLs of which something is known, mostly that they are bad.
//!
//! A list begins as text that somebody publishes ([`source`]). It becomes one sorted file ([`Builder`]) that
//! is looked up where it lies on disk ([`List`]). An agent holds only a small filter of it ([`Filter`]): what
//! the filter does not know is not on the list, and for the rest the agent asks. A [`delta`] makes one list the next.

mod build;
pub mod delta;
mod filter;
mod format;
mod kind;
mod list;
pub mod source;

pub use build::{BuildError, Builder, Sorted};
pub use filter::{Filter, FilterError};
pub use kind::{Key, Kind, NoSuchKind, NotOfKind};
pub use list::{List, ListError};

/// Entries in one list. Enough for the largest lists that are published; building one takes 32 bytes of
/// memory an entry, so 3.2 GB at the bound. A longer one is refused.
pub const MAX_ENTRIES: u32 = 100_000_000;

/// A number of entries as an index: every machine we run on has addresses of 32 bits or more.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
