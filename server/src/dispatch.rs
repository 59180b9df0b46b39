//! From a recorded command to the agents that are connected.
//!
//! The store is the truth. What travels here only says "look": an item that finds no room in an agent's outbox
//! marks that agent as behind, and its session catches up from the store. So nothing is unbounded, and a slow
//! agent delays nobody.

mod registry;

pub use registry::{Line, Registry, Seat};

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::broadcast;
use writ_common::audience::{AudienceProof, AudienceTree};
use writ_common::id::{AgentId, CommandId};

use crate::store::{RecordedCommand, Store, StoreError};

/// Leaves of the trees kept for agents that come back, about 64 bytes each; past it the oldest trees go and are rebuilt
/// from the store when needed.
const MAX_KEPT_LEAVES: u64 = 1 << 20;
/// Changes a watcher may fall behind by before it has to look at everything again.
const MAX_WAITING_CHANGES: usize = 1024;

/// A command as it is handed to sessions: one copy for all of them.
#[derive(Debug)]
pub struct Outgoing {
    id: CommandId,
    envelope: Bytes,
    tree: AudienceTree,
}

impl Outgoing {
    /// The command's id.
    #[must_use]
    pub const fn id(&self) -> CommandId {
        self.id
    }

    /// The envelope, shared.
    #[must_use]
    pub const fn envelope(&self) -> &Bytes {
        &self.envelope
    }

    /// The proof for the agent at a place.
    #[must_use]
    pub fn proof(&self, place: u32) -> Option<AudienceProof> {
        self.tree.proof(place)
    }
}

/// Knows who is connected and tells them of new commands.
#[derive(Debug)]
pub struct Dispatcher {
    registry: Registry,
    kept: Mutex<VecDeque<Arc<Outgoing>>>,
    /// One rebuilding at a time: agents that come back together want the same trees.
    rebuilding: tokio::sync::Mutex<()>,
    changes: broadcast::Sender<CommandId>,
}

impl Dispatcher {
    /// Nobody is connected; outboxes will have this many places.
    #[must_use]
    pub fn new(outbox: usize) -> Self {
        let (changes, _) = broadcast::channel(MAX_WAITING_CHANGES);
        Self {
            registry: Registry::new(outbox),
            kept: Mutex::default(),
            rebuilding: tokio::sync::Mutex::default(),
            changes,
        }
    }

    /// Who is connected.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Hands a recorded command to every connected target.
    pub fn announce(
        &self,
        recorded: &RecordedCommand,
        envelope: Bytes,
        tree: AudienceTree,
        targets: &[AgentId],
    ) {
        let outgoing = self.keep(Outgoing { id: recorded.id(), envelope, tree });
        for (place, agent) in (0..).zip(targets) {
            self.registry.offer(*agent, &outgoing, place);
        }
    }

    /// A command that waits in the store, with its tree.
    ///
    /// # Errors
    /// When the store fails or its audience does not make a tree.
    pub async fn load(&self, store: &Store, command: CommandId) -> Result<Arc<Outgoing>, StoreError> {
        if let Some(kept) = self.find(command) {
            return Ok(kept);
        }
        let _alone = self.rebuilding.lock().await;
        if let Some(kept) = self.find(command) {
            return Ok(kept);
        }
        let (envelope, ids) = store.envelope(command).await?.ok_or(StoreError::Damaged("waiting command"))?;
        let tree = AudienceTree::build(&ids).map_err(|_| StoreError::Damaged("audience"))?;
        Ok(self.keep(Outgoing { id: command, envelope, tree }))
    }

    fn keep(&self, outgoing: Outgoing) -> Arc<Outgoing> {
        let outgoing = Arc::new(outgoing);
        let mut kept = self.kept();
        kept.push_back(Arc::clone(&outgoing));
        let mut leaves: u64 = kept.iter().map(|kept| u64::from(kept.tree.audience().count)).sum();
        while leaves > MAX_KEPT_LEAVES && kept.len() > 1 {
            let gone = kept.pop_front().map_or(0, |gone| u64::from(gone.tree.audience().count));
            leaves = leaves.saturating_sub(gone);
        }
        outgoing
    }

    fn find(&self, command: CommandId) -> Option<Arc<Outgoing>> {
        self.kept().iter().find(|kept| kept.id == command).cloned()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Outgoing>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a command's progress changed.
    pub fn changed(&self, command: CommandId) {
        // Nobody watching is not an error.
        let _ = self.changes.send(command);
    }

    /// Listens to changes of progress.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<CommandId> {
        self.changes.subscribe()
    }
}
