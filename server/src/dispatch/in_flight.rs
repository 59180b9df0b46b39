//! That a command is under way, noted for people. Most answers are back before it is worth a write.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use writ_common::shutdown::Shutdown;

use super::places::Places;
use crate::store::Store;

/// How long an answer may take before it is noted that it is awaited.
const NOTE_EVERY: Duration = Duration::from_millis(100);
/// Targets that were sent a command and have neither answered nor been noted; past their bound a target shows
/// "waiting" until it has answered.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    places: Places,
    /// Held while what was taken is on its way to the store: who cancels waits for it.
    noting: tokio::sync::Mutex<()>,
}

impl InFlight {
    /// Which they are. What is taken of them is the caller's to note.
    #[must_use]
    pub(crate) const fn places(&self) -> &Places {
        &self.places
    }

    /// Waits until nothing that was taken is on its way to the store, and keeps it so.
    pub(super) async fn settled(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.noting.lock().await
    }
}

/// Notes what is under way, until the server ends.
pub(crate) async fn run(in_flight: Arc<InFlight>, store: Store, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(NOTE_EVERY);
    while shutdown.unless_requested(ticks.tick()).await.is_some() {
        let _noting = in_flight.noting.lock().await;
        for (command, places) in in_flight.places.take() {
            let noted = store.note_sent(command, places.iter().copied().collect());
            if let Err(error) = noted.await {
                warn!(%error, "what was sent could not be noted");
                places.into_iter().for_each(|place| in_flight.places.insert(command, place));
            }
        }
    }
}
