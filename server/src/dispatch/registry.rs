//! Who is connected: one seat an agent, the latest proven session has it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use writ_common::id::AgentId;

use super::Outgoing;

/// The dispatcher's end of an agent's seat.
#[derive(Debug)]
struct Handle {
    number: u64,
    outbox: mpsc::Sender<(Arc<Outgoing>, u32)>,
    is_behind: Arc<AtomicBool>,
    replaced: CancellationToken,
}

/// All seats.
#[derive(Debug)]
pub struct Registry {
    outbox: usize,
    next: AtomicU64,
    seats: Arc<Mutex<HashMap<AgentId, Handle>>>,
}

/// The session's end of a seat; giving it up frees it.
#[derive(Debug)]
pub struct Seat {
    agent: AgentId,
    number: u64,
    seats: Arc<Mutex<HashMap<AgentId, Handle>>>,
    /// What the session reads.
    pub line: Line,
}

/// What a session learns from the dispatcher.
#[derive(Debug)]
pub struct Line {
    /// New commands for this agent, with its place in the audience.
    pub outbox: mpsc::Receiver<(Arc<Outgoing>, u32)>,
    /// Set when a command found no room; the session then looks into the store.
    pub is_behind: Arc<AtomicBool>,
    /// The same agent proved itself on another stream.
    pub replaced: CancellationToken,
}

impl Registry {
    pub(super) fn new(outbox: usize) -> Self {
        Self { outbox, next: AtomicU64::new(0), seats: Arc::default() }
    }

    /// Gives an agent's seat to a session; an older session of the same agent is told to end.
    #[must_use]
    pub fn seat(&self, agent: AgentId) -> Seat {
        let (sender, outbox) = mpsc::channel(self.outbox);
        // Whatever waits in the store is older than this seat: begin by catching up.
        let is_behind = Arc::new(AtomicBool::new(true));
        let replaced = CancellationToken::new();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let handle =
            Handle { number, outbox: sender, is_behind: Arc::clone(&is_behind), replaced: replaced.clone() };
        if let Some(older) = self.lock().insert(agent, handle) {
            older.replaced.cancel();
        }
        Seat { agent, number, seats: Arc::clone(&self.seats), line: Line { outbox, is_behind, replaced } }
    }

    pub(super) fn offer(&self, agent: AgentId, outgoing: &Arc<Outgoing>, place: u32) {
        if let Some(handle) = self.lock().get(&agent)
            && handle.outbox.try_send((Arc::clone(outgoing), place)).is_err()
        {
            handle.is_behind.store(true, Ordering::Release);
        }
    }

    /// Whether an agent has a proven session.
    #[must_use]
    pub fn is_connected(&self, agent: AgentId) -> bool {
        self.lock().contains_key(&agent)
    }

    /// How many agents have one.
    #[must_use]
    pub fn connected(&self) -> u64 {
        u64::try_from(self.lock().len()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AgentId, Handle>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still_ours = seats.get(&self.agent).is_some_and(|handle| handle.number == self.number);
        if is_still_ours {
            seats.remove(&self.agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_session_has_the_seat_and_an_older_one_does_not_free_it() {
        let registry = Registry::new(1);
        let agent = AgentId::from_bytes([1; 16]);
        let older = registry.seat(agent);
        let newer = registry.seat(agent);
        assert!(older.line.replaced.is_cancelled() && !newer.line.replaced.is_cancelled());
        drop(older);
        assert!(registry.is_connected(agent));
        drop(newer);
        assert!(!registry.is_connected(agent));
    }
}
