//! What every request and session needs, in one place.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Notify, Semaphore};
use writ_common::admin::audit::AuditSettings;
use writ_common::hush::Hush;
use writ_common::shutdown::Shutdown;
use writ_common::status::Failure;
use writ_common::time::SharedClock;
use writ_common::tls::ServerTls;
use writ_protocol::id::{AgentId, Digest, FleetId};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use crate::config::SessionSettings;
use crate::dispatch::Dispatcher;
use crate::quota::Quotas;
use crate::rollouts::Rollouts;
use crate::sign::Signer;
use crate::store::Store;
use crate::throttle::Throttle;
use crate::traces::Traces;
use crate::unknown_fleet::UnknownFleetPeers;
use crate::updates::Updates;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// The fleet.
    pub fleet: FleetId,
    /// Its trust, which grows while it runs.
    pub trust: RwLock<Arc<Chain>>,
    /// Its signing keys.
    pub signer: Signer,
    /// What is durable.
    pub store: Store,
    /// Who is connected.
    pub dispatcher: Dispatcher,
    /// Which agents may obey commands that reach them in waves.
    pub rollouts: Rollouts,
    /// How much those with a scope have sent.
    pub quotas: Quotas,
    /// The channel.
    pub tls: ServerTls,
    /// Leaves of proxies that agents may see instead of ours.
    pub proxy_leaves: Vec<Digest>,
    /// Enrolments that failed, by source.
    pub failed_enrolments: Throttle,
    /// A bundle was published, or may have been: look at once.
    pub published: Notify,
    /// Agents of other chains.
    pub unknown_fleet: UnknownFleetPeers,
    /// Chains handed back at a time.
    pub hand_backs: Semaphore,
    /// Tokens looked up at a time from where too many were wrong.
    pub token_checks: Semaphore,
    /// Sessions.
    pub settings: SessionSettings,
    /// How much the audit logs keep.
    pub audit: AuditSettings,
    /// Time.
    pub clock: SharedClock,
    /// What strangers do is logged once a source and minute.
    pub hush: Hush,
    /// What became of commands, for a collector.
    pub traces: Traces,
    /// Lists and other components that are fetched.
    pub updates: Updates,
    /// The end.
    pub shutdown: Shutdown,
}

impl Server {
    /// The chain of trust bundles as it stands.
    #[must_use]
    pub(crate) fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs a change to its end although its caller hangs up: what the store has and what this process knows
    /// never part.
    ///
    /// # Errors
    /// When the server is shutting down.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let done = self.shutdown.spawn(change).await;
        done.map_err(|_| Failure::unavailable("the server is shutting down"))
    }

    /// SHA-256 of the SubjectPublicKeyInfo of every TLS leaf this server answers for: its own, and those of
    /// its proxies.
    #[must_use]
    pub(crate) fn leaves(&self) -> Vec<Digest> {
        let mut leaves = self.tls.leaf_spki_digests();
        leaves.extend(&self.proxy_leaves);
        leaves
    }

    /// When an agent was last heard. Any authenticated contact counts as life, whether the store has heard of
    /// it yet or not.
    #[must_use]
    pub(crate) fn last_contact(&self, agent: AgentId, stored: Timestamp) -> Timestamp {
        self.dispatcher.registry().last_heard(agent).unwrap_or_default().max(stored)
    }
}
