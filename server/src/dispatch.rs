//! From a recorded command to the agents that are connected.
//!
//! The store is the truth. What travels here only says "look": an item that finds no room in an agent's
//! outbox marks that agent as behind, and its session catches up from the store. So nothing is unbounded, and
//! a slow agent delays nobody.

mod governor;
pub(crate) mod in_flight;
pub(crate) mod places;
mod registry;

pub(crate) use governor::{Admission, Applicant, Governor, Turn};
pub(crate) use registry::{Next, Registry, SessionEnding, SessionSlot};

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use writ_protocol::audience::{AudienceProof, AudienceTree};
use writ_protocol::id::{AgentId, CommandId};
use writ_protocol::time::Timestamp;

use crate::store::{RecordedCommand, Store, StoreError, StoredEnvelope};

/// Bytes of the commands and trees kept for agents that come back; past it the oldest go and are rebuilt from
/// the store when needed.
const MAX_KEPT_BYTES: usize = 128 << 20;

/// A command as it is handed to sessions: one copy for all of them.
#[derive(Debug)]
pub(crate) struct Outgoing {
    id: CommandId,
    envelope: Bytes,
    tree: AudienceTree,
    is_staged: bool,
    terms: Terms,
}

/// What decides how long a command counts as running, and whether it needs a turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Then nobody starts it any more.
    pub expires_at: Timestamp,
    /// Whether it counts as running for `limits.running`.
    pub needs_turn: bool,
}

/// Actions that need no turn: those that end others must not wait for what they end, and what servers send of
/// themselves has a pace of its own.
const WITHOUT_TURN: [&str; 3] = ["stop-command", "stop-scan", "update-component"];

/// Whether a command with this action, as it is described, needs a turn.
pub(crate) fn needs_turn(action: &str) -> bool {
    action.split(' ').next().is_none_or(|name| !WITHOUT_TURN.contains(&name))
}

impl Terms {
    /// Of a command with this action, as it is described.
    pub(crate) fn of(action: &str, expires_at: Timestamp) -> Self {
        Self { expires_at, needs_turn: needs_turn(action) }
    }
}

impl Outgoing {
    /// The command's id.
    #[must_use]
    pub(crate) const fn id(&self) -> CommandId {
        self.id
    }

    /// Whether it has a rollout: each agent needs a release with it.
    #[must_use]
    pub(crate) const fn is_staged(&self) -> bool {
        self.is_staged
    }

    /// Its terms.
    #[must_use]
    pub(crate) const fn terms(&self) -> Terms {
        self.terms
    }

    /// The envelope, shared.
    #[must_use]
    pub(crate) const fn envelope(&self) -> &Bytes {
        &self.envelope
    }

    /// About what it costs to keep: two hashes for each leaf, the envelope, and the rest.
    fn bytes(&self) -> usize {
        let leaves = usize::try_from(self.tree.audience().count).unwrap_or(usize::MAX / 64);
        leaves * 64 + self.envelope.len() + 512
    }

    /// The proof for the agent at a place.
    #[must_use]
    pub(crate) fn proof(&self, place: u32) -> Option<AudienceProof> {
        self.tree.proof(place)
    }
}

/// Commands that need not be read from the store again.
#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<CommandId, Arc<Outgoing>>,
    oldest_first: VecDeque<CommandId>,
    bytes: usize,
}

impl Kept {
    fn insert(&mut self, outgoing: Outgoing, most_bytes: usize) -> Arc<Outgoing> {
        let outgoing = Arc::new(outgoing);
        if self.by_id.insert(outgoing.id, Arc::clone(&outgoing)).is_some() {
            return outgoing;
        }
        self.oldest_first.push_back(outgoing.id);
        self.bytes += outgoing.bytes();
        while self.bytes > most_bytes && self.oldest_first.len() > 1 {
            let gone = self.oldest_first.pop_front().and_then(|id| self.by_id.remove(&id));
            self.bytes -= gone.map_or(0, |gone| gone.bytes());
        }
        outgoing
    }
}

/// Knows who is connected and tells them of new commands.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    registry: Registry,
    kept: Mutex<Kept>,
    /// One rebuilding at a time: agents that come back together want the same trees.
    rebuilding: tokio::sync::Mutex<()>,
    in_flight: Arc<in_flight::InFlight>,
    running: places::Places,
    governor: Arc<Governor>,
    /// Until when each cancelled command could have been obeyed. Asked at every delivery: copies of a
    /// command may stand in outboxes, or be read from the store at that very moment.
    cancelled: RwLock<HashMap<CommandId, Timestamp>>,
    cancelling: tokio::sync::Mutex<()>,
}

impl Dispatcher {
    /// Nobody is connected; outboxes will have this many places, and so many commands run at a time.
    #[must_use]
    pub(crate) fn new(outbox: usize, running: Option<usize>) -> Self {
        Self {
            governor: Governor::new(running),
            registry: Registry::new(outbox),
            kept: Mutex::default(),
            rebuilding: tokio::sync::Mutex::default(),
            in_flight: Arc::default(),
            running: places::Places::default(),
            cancelled: RwLock::default(),
            cancelling: tokio::sync::Mutex::default(),
        }
    }

    /// Who is connected.
    #[must_use]
    pub(crate) const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Who gives turns.
    #[must_use]
    pub(crate) const fn governor(&self) -> &Arc<Governor> {
        &self.governor
    }

    /// Hands a recorded command to every connected target.
    pub(crate) fn announce(
        &self,
        recorded: &RecordedCommand,
        (envelope, terms): (Bytes, Terms),
        tree: AudienceTree,
        targets: &[AgentId],
    ) {
        let outgoing = self.keep(Outgoing { id: recorded.id(), envelope, tree, is_staged: false, terms });
        self.registry.offer(targets, 0, &outgoing);
    }

    /// Hands a command to those of its agents that are connected, at these places of its audience.
    ///
    /// # Errors
    /// When the store fails; then their sessions find it with the next heartbeat.
    pub(crate) async fn release(
        &self,
        store: &Store,
        command: CommandId,
        targets: &[AgentId],
        places: Range<u32>,
    ) -> Result<(), StoreError> {
        let Some(outgoing) = self.load(store, command).await? else { return Ok(()) };
        let [from, to] = [places.start, places.end].map(|place| usize::try_from(place).unwrap_or(usize::MAX));
        self.registry.offer(targets.get(from..to).unwrap_or_default(), places.start, &outgoing);
        Ok(())
    }

    /// Whether a command that could still be obeyed was cancelled since the server started.
    #[must_use]
    pub(crate) fn is_cancelled(&self, command: CommandId) -> bool {
        self.cancelled.read().unwrap_or_else(PoisonError::into_inner).contains_key(&command)
    }

    /// Cancels a command: from now on no session hands it over; then what was handed over is noted, and the
    /// store told.
    ///
    /// # Errors
    /// When the store fails; then it is not cancelled.
    pub(crate) async fn cancel(
        &self,
        store: &Store,
        command: CommandId,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // One at a time: one that fails must not undo another that went well.
        let _alone = self.cancelling.lock().await;
        let is_new = {
            let mut cancelled = self.cancelled.write().unwrap_or_else(PoisonError::into_inner);
            cancelled.retain(|_, expires_at| *expires_at > now);
            cancelled.insert(command, expires_at).is_none()
        };
        let work = async {
            // Who is sent it at this moment is either among these, or in the store.
            let _settled = self.in_flight.settled().await;
            let handed_over = self.in_flight.places().take_of(command);
            if !handed_over.is_empty()
                && let Err(error) = store.note_sent(command, handed_over.clone()).await
            {
                handed_over.into_iter().for_each(|place| self.in_flight.places().insert(command, place));
                return Err(error);
            }
            store.cancel(command, now).await
        };
        let done = work.await;
        if done.is_err() && is_new {
            self.cancelled.write().unwrap_or_else(PoisonError::into_inner).remove(&command);
        }
        done
    }

    /// Notes that a command is handed to the agent at a place of its audience, unless it was cancelled. Under
    /// one lock with a cancellation, which finds each command either not handed over, or noted.
    #[must_use]
    pub(crate) fn hand_over(&self, command: CommandId, place: u32) -> bool {
        let cancelled = self.cancelled.read().unwrap_or_else(PoisonError::into_inner);
        let is_free = !cancelled.contains_key(&command);
        if is_free {
            self.in_flight.places().insert(command, place);
        }
        is_free
    }

    /// A command that waits in the store, with its tree; `None` if it was cancelled meanwhile.
    ///
    /// # Errors
    /// When the store fails or its audience does not make a tree.
    pub(crate) async fn load(
        &self,
        store: &Store,
        command: CommandId,
    ) -> Result<Option<Arc<Outgoing>>, StoreError> {
        if let Some(kept) = self.find(command) {
            return Ok(Some(kept));
        }
        let _alone = self.rebuilding.lock().await;
        if let Some(kept) = self.find(command) {
            return Ok(Some(kept));
        }
        let stored = store.envelope(command).await?.ok_or(StoreError::Damaged("waiting command"))?;
        if stored.is_cancelled {
            return Ok(None);
        }
        let StoredEnvelope { envelope, targets, rollout, action, expires_at, .. } = stored;
        let seed = rollout.map(|(seed, _)| seed);
        let tree = AudienceTree::of(seed, &targets).map_err(|_| StoreError::Damaged("audience"))?;
        let (is_staged, terms) = (seed.is_some(), Terms::of(&action, expires_at));
        Ok(Some(self.keep(Outgoing { id: command, envelope, tree, is_staged, terms })))
    }

    /// A command's envelope changed in the store: it is read again when it is needed.
    pub(crate) fn forget(&self, command: CommandId) {
        let mut kept = self.kept();
        if let Some(gone) = kept.by_id.remove(&command) {
            kept.bytes -= gone.bytes();
            kept.oldest_first.retain(|id| *id != command);
        }
    }

    fn keep(&self, outgoing: Outgoing) -> Arc<Outgoing> {
        self.kept().insert(outgoing, MAX_KEPT_BYTES)
    }

    fn find(&self, command: CommandId) -> Option<Arc<Outgoing>> {
        self.kept().by_id.get(&command).cloned()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who runs what, as far as agents say (protocol.md §6.15), and as long as their sessions last: what an
    /// agent does that is away, nobody knows.
    #[must_use]
    pub(crate) const fn running(&self) -> &places::Places {
        &self.running
    }

    /// Who was sent what and has not answered yet.
    #[must_use]
    pub(crate) const fn in_flight(&self) -> &Arc<in_flight::InFlight> {
        &self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn outgoing(number: u8) -> Outgoing {
        let tree = AudienceTree::build(&[AgentId::from_bytes([number; 16])]).unwrap();
        let envelope = Bytes::from(vec![0; 1000]);
        let terms = Terms::of("ping", Timestamp::ZERO);
        Outgoing { id: CommandId::from_bytes([number; 16]), envelope, tree, is_staged: false, terms }
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_the_oldest_goes_first() {
        let mut kept = Kept::default();
        let one = outgoing(1).bytes();
        for number in 1..=4 {
            kept.insert(outgoing(number), one * 3);
            kept.insert(outgoing(number), one * 3);
        }
        let held: Vec<_> =
            (1..=4).filter(|n| kept.by_id.contains_key(&CommandId::from_bytes([*n; 16]))).collect();
        assert_eq!(held, [2, 3, 4]);
        assert_eq!(kept.bytes, one * 3);
    }

    #[test]
    fn one_command_larger_than_the_bound_is_kept_while_it_is_the_latest() {
        let mut kept = Kept::default();
        kept.insert(outgoing(1), 1);
        assert!(kept.by_id.contains_key(&CommandId::from_bytes([1; 16])));
        kept.insert(outgoing(2), 1);
        assert_eq!(kept.by_id.len(), 1);
    }
}
