//! Who has said that it starts a command (protocol.md §6.15), for people. It is of the sessions of this
//! process alone: what an agent does that is away, nobody knows.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use writ_protocol::id::CommandId;

/// Notes kept; past it a target that runs shows "delivered".
const MAX_NOTES: usize = 1 << 18;

/// Places of commands whose agents have announced them and not answered.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    places: HashMap<CommandId, BTreeSet<u32>>,
    count: usize,
}

impl Running {
    /// An agent announced that it starts a command.
    pub(crate) fn insert(&self, command: CommandId, place: u32) {
        let mut notes = self.lock();
        if notes.count < MAX_NOTES && notes.places.entry(command).or_default().insert(place) {
            notes.count += 1;
        }
    }

    /// It answered, or its session ended.
    pub(crate) fn remove(&self, command: CommandId, place: u32) {
        let mut notes = self.lock();
        let Some(places) = notes.places.get_mut(&command) else { return };
        let (was_there, is_empty) = (places.remove(&place), places.is_empty());
        if is_empty {
            notes.places.remove(&command);
        }
        notes.count -= usize::from(was_there);
    }

    /// How many agents run a command.
    #[must_use]
    pub(crate) fn count(&self, command: CommandId) -> u64 {
        let notes = self.lock();
        notes.places.get(&command).map_or(0, |places| u64::try_from(places.len()).unwrap_or(u64::MAX))
    }

    /// Whether the agent at a place of its audience does.
    #[must_use]
    pub(crate) fn has(&self, command: CommandId, place: u32) -> bool {
        self.lock().places.get(&command).is_some_and(|places| places.contains(&place))
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
