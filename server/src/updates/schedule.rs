//! Runs that begin by themselves.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use writ_common::backoff::jitter;
use writ_protocol::time::Timestamp;
use writ_updates::{LastRun, Outcome, UpdateError};

use super::settings::Settings;
use super::{Surroundings, has_failed, source, sync};
use crate::cm_bridge::Uplink;

/// How often it is looked whether a run is due: a command on this host may have changed the schedule.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Within so much time after its start a server looks for the first time.
const FIRST: Duration = Duration::from_secs(3);
/// How soon after a run that failed the next begins, at the latest.
const AGAIN: Duration = Duration::from_secs(600);

/// When the next run is due; `None`: not by itself.
fn due(every: Option<Duration>, last: Option<&LastRun>, source_digest: &str) -> Option<Timestamp> {
    let every = every?;
    let Some(last) = last else { return Some(Timestamp::ZERO) };
    // A source that was chosen since has not been asked yet, nor was one when somebody stopped it.
    if last.source_digest != source_digest || matches!(last.outcome, Outcome::Stopped) {
        return Some(Timestamp::ZERO);
    }
    // One that did not end took the program with it, and would do so again.
    let wait = match last.outcome {
        Outcome::Failed { .. } | Outcome::UnderWay => every.min(AGAIN),
        Outcome::Updated(_) | Outcome::Current | Outcome::Stopped => every,
    };
    Some(Timestamp::from_millis(last.began_ms) + wait)
}

/// Until the server ends.
pub(crate) async fn run(uplink: Arc<Uplink>) {
    // Servers that started together must not ask together.
    let first = tokio::time::sleep(jitter(FIRST));
    if uplink.server.shutdown.unless_requested(first).await.is_none() {
        return;
    }
    if let Some(error) = Surroundings::of(&uplink).note_killed() {
        has_failed(&uplink, "", &error).await;
    }
    loop {
        if let Err(error) = Box::pin(turn(&uplink)).await {
            warn!(%error, "it cannot be known whether an update is due");
        }
        let wait = LOOK_EVERY - jitter(LOOK_EVERY / 4);
        let poked = tokio::time::timeout(wait, uplink.server.updates.poke.notified());
        if uplink.server.shutdown.unless_requested(poked).await.is_none() {
            return;
        }
    }
}

/// Runs an update if one is due. A source that lacks something is asked too: that is how it becomes known.
async fn turn(uplink: &Uplink) -> Result<(), UpdateError> {
    let updates = &uplink.server.updates;
    let around = Surroundings::of(uplink);
    // Where nobody chose a source nothing is due, and nothing is wrong.
    if !source::is_any(&around) {
        return Ok(());
    }
    let digest = source::resolve(&around).map_or_else(|_| String::new(), |resolved| resolved.digest());
    let every = Settings::read(&updates.folder).map_or(Some(AGAIN), |settings| settings.every());
    let last = updates.folder.last_run()?;
    let now = uplink.server.clock.wall();
    // A clock that went back would put the next run far away.
    let is_ahead = last.as_ref().is_some_and(|last| last.began_ms > now.as_millis());
    if due(every, last.as_ref(), &digest).is_some_and(|due| due <= now || is_ahead) {
        // How it ended is logged, and noted.
        let _ = sync(uplink, &mut |_| {}).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn run_at(began_ms: u64, outcome: Outcome) -> LastRun {
        let (source, source_digest) = ("default".to_owned(), "default".to_owned());
        LastRun { began_ms, ended_ms: began_ms, source, source_digest, outcome }
    }

    #[test]
    fn a_run_is_due_after_its_time_and_sooner_after_a_failure() {
        let good = run_at(1_000, Outcome::Current);
        let failed = run_at(1_000, Outcome::Failed { code: String::new(), reason: String::new() });
        let at = |due: Option<Timestamp>| due.map(Timestamp::as_millis);
        assert_eq!(at(due(None, None, "default")), None);
        assert_eq!(at(due(Some(HOUR), None, "default")), Some(0));
        assert_eq!(at(due(Some(HOUR), Some(&good), "default")), Some(3_601_000));
        assert_eq!(at(due(Some(HOUR), Some(&failed), "default")), Some(601_000));
        assert_eq!(at(due(Some(HOUR / 12), Some(&failed), "default")), Some(301_000));
        assert_eq!(at(due(Some(HOUR), Some(&good), "manager")), Some(0));
        let stopped = run_at(1_000, Outcome::Stopped);
        assert_eq!(at(due(Some(HOUR), Some(&stopped), "default")), Some(0));
        // Killed, perhaps by what it fetched.
        let killed = run_at(1_000, Outcome::UnderWay);
        assert_eq!(at(due(Some(HOUR), Some(&killed), "default")), Some(601_000));
    }
}
