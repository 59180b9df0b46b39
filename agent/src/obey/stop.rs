//! Commands that run or wait, and how another command ends them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::info;
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::receipt::{Decision, Ending};
use writ_protocol::time::Timestamp;

use super::AgentCore;
use crate::execute::Ended;
use crate::replay::{Entry, JournalError, State};
use crate::reply::{SignedReceipt, sign_receipt};

/// What is under way, by its command.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Mutex<HashMap<CommandId, Arc<Notify>>>);

/// That a command is under way, until this is dropped.
pub(super) struct Stoppable<'a> {
    all: &'a UnderWay,
    command: CommandId,
    told: Arc<Notify>,
}

impl UnderWay {
    /// A command begins to run or to wait; it may have been told to end already.
    pub(super) fn enter(&self, command: CommandId) -> Stoppable<'_> {
        let told = Arc::clone(self.lock().entry(command).or_default());
        Stoppable { all: self, command, told }
    }

    /// Tells a command to end, also one that is about to begin.
    fn tell(&self, command: CommandId) {
        self.lock().entry(command).or_default().notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CommandId, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stoppable<'_> {
    /// Returns when it is told to end; once.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}

impl Drop for Stoppable<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.command);
    }
}

impl AgentCore {
    /// Work of the agent itself, until it is told to end. A scan then tells what it has met.
    pub(super) async fn unless_stopped(
        &self,
        work: impl Future<Output = Ended> + Send,
        stoppable: &Stoppable<'_>,
    ) -> Ended {
        tokio::pin!(work);
        tokio::select! {
            ended = &mut work => return ended,
            () = stoppable.told() => {}
        }
        // Only root's side of the host knows how an upgrade ends that it has.
        if self.upgrades.has_handed_over(stoppable.command) {
            return work.await;
        }
        match self.scans.end(stoppable.command) {
            true => Ended { ending: Ending::Stopped, ..work.await },
            false => Ended::quiet(Ending::Stopped, "it was broken off"),
        }
    }

    /// It was told to end while it waited for a place.
    pub(super) async fn end_stopped(&self, id: CommandId, digest: Digest) -> Result<(), JournalError> {
        let entry = self.journal.entry(id)?;
        let receipt = self.stopped(id, digest, entry.as_ref());
        self.keep(id, &receipt).await
    }

    /// The receipt of a command that was told to end, and does not run.
    pub(super) fn stopped(&self, id: CommandId, digest: Digest, entry: Option<&Entry>) -> SignedReceipt {
        let now = self.now();
        let (started_at, attempt, detail) = match entry.filter(|entry| entry.attempt > 0) {
            None => (now, 1, "it had not started"),
            Some(entry) => {
                let started_at = Timestamp::from_millis(entry.started_at_ms);
                (started_at, entry.attempt, "the agent ended while it ran, after it was told to end")
            }
        };
        info!(command.id = %id, "command stopped");
        let ended = Ended::quiet(Ending::Stopped, detail);
        let about = self.about(id, digest, now, attempt);
        sign_receipt(&self.identity, about, Decision::Obeyed(ended.outcome(started_at, now)), detail)
    }

    /// Ends another command; what it was found to do.
    pub(super) fn stop(&self, command: CommandId) -> Ended {
        match self.journal.stop(command) {
            Ok(Some(State::Accepted | State::Started)) => {
                self.under_way.tell(command);
                Ended::quiet(Ending::Done, "told to end; its own receipt says how it ended")
            }
            Ok(Some(State::Finished | State::Acknowledged)) => {
                Ended::quiet(Ending::Done, "it had ended before")
            }
            Ok(None) => Ended::quiet(Ending::Done, "this agent does not know it"),
            Err(error) => {
                self.under_way.tell(command);
                let why = format!("told to end, but a restart of the agent may begin it anew: {error}");
                Ended::quiet(Ending::Failed, why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_told(command: &Stoppable<'_>) -> bool {
        tokio::time::timeout(Duration::ZERO, command.told()).await.is_ok()
    }

    #[tokio::test]
    async fn a_command_hears_once_that_it_is_to_end_whether_it_has_begun_or_not() {
        let (all, command) = (UnderWay::default(), CommandId::from_bytes([1; 16]));
        all.tell(command);
        let early = all.enter(command);
        assert!(is_told(&early).await);
        assert!(!is_told(&early).await);
        drop(early);
        let running = all.enter(command);
        assert!(!is_told(&running).await);
        all.tell(command);
        assert!(is_told(&running).await);
        drop(running);
        assert!(all.lock().is_empty());
    }
}
