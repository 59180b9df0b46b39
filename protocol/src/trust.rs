//! Whom a fleet obeys: a chain of signed bundles, each made by the one before it (protocol.md §5).

mod bundle;
mod chain;
mod keyring;

pub use bundle::{ClassRule, Role, SigningEntry, TrustBundle};
pub use chain::{Chain, Link};
pub use keyring::Keyring;
