//! That a command is under way, noted for people. Most answers are back before it is worth a write.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;
use writ_common::shutdown::Shutdown;
use writ_protocol::id::CommandId;

use crate::store::Store;

/// How long an answer may take before it is noted that it is awaited.
const NOTE_EVERY: Duration = Duration::from_millis(100);
/// Notes kept; past it a target shows "waiting" until it has answered.
const MAX_NOTES: usize = 1 << 18;

/// Targets that were sent a command and have neither answered nor been noted.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    notes: Mutex<Notes>,
    /// Held while what was taken is on its way to the store: who cancels waits for it.
    noting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Notes {
    places: HashMap<CommandId, BTreeSet<u32>>,
    count: usize,
}

impl InFlight {
    /// A command was handed to the stream of the agent at a place of its audience.
    pub(crate) fn insert(&self, command: CommandId, place: u32) {
        let mut notes = self.lock();
        if notes.count < MAX_NOTES && notes.places.entry(command).or_default().insert(place) {
            notes.count += 1;
        }
    }

    /// It was answered.
    pub(crate) fn remove(&self, command: CommandId, place: u32) {
        let mut notes = self.lock();
        let Some(places) = notes.places.get_mut(&command) else { return };
        let (was_there, is_empty) = (places.remove(&place), places.is_empty());
        if is_empty {
            notes.places.remove(&command);
        }
        notes.count -= usize::from(was_there);
    }

    /// The places of one command that are not noted yet; they are the caller's to note.
    pub(super) fn take_of(&self, command: CommandId) -> Vec<u32> {
        let mut notes = self.lock();
        let places = notes.places.remove(&command).unwrap_or_default();
        notes.count -= places.len();
        places.into_iter().collect()
    }

    /// Waits until nothing that was taken is on its way to the store, and keeps it so.
    pub(super) async fn settled(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.noting.lock().await
    }

    fn take(&self) -> HashMap<CommandId, BTreeSet<u32>> {
        std::mem::take(&mut *self.lock()).places
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes what is under way, until the server ends.
pub(crate) async fn run(in_flight: Arc<InFlight>, store: Store, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(NOTE_EVERY);
    while shutdown.unless_requested(ticks.tick()).await.is_some() {
        let _noting = in_flight.noting.lock().await;
        for (command, places) in in_flight.take() {
            let noted = store.note_sent(command, places.iter().copied().collect());
            if let Err(error) = noted.await {
                warn!(%error, "what was sent could not be noted");
                places.into_iter().for_each(|place| in_flight.insert(command, place));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_not_noted_and_the_rest_once() {
        let (in_flight, command) = (InFlight::default(), CommandId::from_bytes([1; 16]));
        in_flight.insert(command, 0);
        in_flight.insert(command, 1);
        in_flight.insert(command, 1);
        in_flight.remove(command, 0);
        assert_eq!(in_flight.take(), HashMap::from([(command, BTreeSet::from([1]))]));
        in_flight.remove(command, 1);
        assert!(in_flight.take().is_empty());
        assert_eq!(in_flight.lock().count, 0);
    }
}
