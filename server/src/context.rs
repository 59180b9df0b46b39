//! What every request and session needs, in one place.

use writ_common::id::{Digest, FleetId};
use writ_common::shutdown::Shutdown;
use writ_common::time::SharedClock;
use writ_common::trust::Chain;

use crate::config::SessionSettings;
use crate::dispatch::Dispatcher;
use crate::sign::Signer;
use crate::store::Store;

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// The fleet.
    pub fleet: FleetId,
    /// Its trust.
    pub chain: Chain,
    /// Its signing key.
    pub signer: Signer,
    /// What is durable.
    pub store: Store,
    /// Who is connected.
    pub dispatcher: Dispatcher,
    /// Leaves agents may see: our own and those of proxies.
    pub tls_leaf_spki_digests: Vec<Digest>,
    /// Sessions.
    pub settings: SessionSettings,
    /// Entries the audit log keeps; past it the oldest go.
    pub audit_max_entries: u64,
    /// Time.
    pub clock: SharedClock,
    /// The end.
    pub shutdown: Shutdown,
}
