//! Targets of commands, noted in memory: for people, and only so many.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use writ_protocol::id::CommandId;

/// Notes kept; past it nothing is noted, and what people are shown is what the store has.
const MAX_NOTES: usize = 1 << 18;

/// Places in the audiences of commands.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    places: HashMap<CommandId, BTreeSet<u32>>,
    count: usize,
}

impl Places {
    /// Notes the agent at a place of a command's audience.
    pub(crate) fn insert(&self, command: CommandId, place: u32) {
        let mut notes = self.lock();
        if notes.count < MAX_NOTES && notes.places.entry(command).or_default().insert(place) {
            notes.count += 1;
        }
    }

    /// Forgets it.
    pub(crate) fn remove(&self, command: CommandId, place: u32) {
        let mut notes = self.lock();
        let Some(places) = notes.places.get_mut(&command) else { return };
        let (was_there, is_empty) = (places.remove(&place), places.is_empty());
        if is_empty {
            notes.places.remove(&command);
        }
        notes.count -= usize::from(was_there);
    }

    /// How many of a command are noted.
    #[must_use]
    pub(crate) fn count(&self, command: CommandId) -> u64 {
        let notes = self.lock();
        notes.places.get(&command).map_or(0, |places| u64::try_from(places.len()).unwrap_or(u64::MAX))
    }

    /// Whether the agent at a place is.
    #[must_use]
    pub(crate) fn has(&self, command: CommandId, place: u32) -> bool {
        self.lock().places.get(&command).is_some_and(|places| places.contains(&place))
    }

    /// Those of one command, which are forgotten.
    pub(super) fn take_of(&self, command: CommandId) -> Vec<u32> {
        let mut notes = self.lock();
        let places = notes.places.remove(&command).unwrap_or_default();
        notes.count -= places.len();
        places.into_iter().collect()
    }

    /// All, which are forgotten.
    pub(super) fn take(&self) -> HashMap<CommandId, BTreeSet<u32>> {
        std::mem::take(&mut *self.lock()).places
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_not_taken_and_the_rest_once() {
        let (places, command) = (Places::default(), CommandId::from_bytes([1; 16]));
        places.insert(command, 0);
        places.insert(command, 1);
        places.insert(command, 1);
        assert_eq!((places.count(command), places.has(command, 1)), (2, true));
        places.remove(command, 0);
        assert_eq!(places.take(), HashMap::from([(command, BTreeSet::from([1]))]));
        places.remove(command, 1);
        assert!(places.take().is_empty());
        assert_eq!(places.lock().count, 0);
    }
}
