//! What operators do to rollouts.

use std::sync::Arc;

use tracing::warn;
use writ_common::status::Failure;
use writ_protocol::id::CommandId;

use super::{end_alert, find, keep, look::look};
use crate::context::Server;
use crate::store::rules::rollout::{Step, Wait, decide};
use crate::store::{RolloutRow, RolloutState, unavailable};

/// What an operator does to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is held.
    Pause,
    /// It goes on.
    Resume,
    /// It goes on without those that are away and that it waits for.
    ResumeWithoutAway,
    /// It is over.
    Abort,
}

impl Change {
    /// Whether fewer agents obey because of it.
    pub(crate) const fn is_ending(self) -> bool {
        matches!(self, Self::Pause | Self::Abort)
    }
}

/// Does what an operator asks; whether that changed anything.
///
/// # Errors
/// When the command has no rollout, it is over, or the store fails.
pub(crate) async fn change(server: &Arc<Server>, command: CommandId, what: Change) -> Result<bool, Failure> {
    let mut all = server.rollouts.under_way.lock().await;
    let Some(under_way) = all.get_mut(&command) else {
        return change_over(server, find(server, command).await?, what).await;
    };
    let mut next = under_way.row.clone();
    match (what, next.standing.state) {
        (Change::Pause, RolloutState::Running) => next.standing.state = RolloutState::Paused,
        (Change::Pause, RolloutState::Paused) | (Change::Abort, RolloutState::Aborted) => return Ok(false),
        (Change::Pause, _) => {
            return Err(Failure::precondition("rollout_stopped", "this rollout has stopped by itself"));
        }
        (Change::Resume, RolloutState::Running) => return Ok(false),
        (Change::ResumeWithoutAway, RolloutState::Running) => {
            let (counted, moment) = look(server, &under_way.clock()).await.map_err(unavailable)?;
            let step = decide(&next.plan, next.targets, next.standing, counted, moment);
            let is_for_them = matches!(step, Step::Wait(Wait::Away(_)))
                || (matches!(step, Step::Wait(Wait::Answers(_))) && counted.unanswered == 0);
            if !is_for_them {
                let text = "it waits for no agent that is away now; see what for: writ rollouts show ID";
                return Err(Failure::precondition("waits_for_others", text));
            }
            // An operator says that those who are there have shown enough.
            next.standing.wave += 1;
            next.wave_ended_at = server.clock.wall();
            under_way.wave_ended = Some(server.clock.monotonic());
        }
        (Change::Resume | Change::ResumeWithoutAway, state) => {
            // Only failures that stopped it were seen; those of a pause stop it now.
            if state == RolloutState::Stopped {
                let (counted, _) = look(server, &under_way.clock()).await.map_err(unavailable)?;
                next.standing.forgiven = counted.failures();
            }
            next.standing.state = RolloutState::Running;
            next.reason.clear();
        }
        (Change::Abort, _) => {
            // First, that nothing is sent any more: a crash in between is made up for by the next look.
            let now = server.clock.wall();
            let cancelled = server.dispatcher.cancel(&server.store, command, next.expires_at, now).await;
            cancelled.map_err(unavailable)?;
            next.standing.state = RolloutState::Aborted;
            "aborted by an operator".clone_into(&mut next.reason);
        }
    }
    keep(server, under_way, next).await.map_err(unavailable)?;
    if under_way.row.standing.state.is_over() {
        all.remove(&command);
    }
    end_alert(server, &all).await.map_err(unavailable)?;
    drop(all);
    server.rollouts.news.notify_one();
    Ok(true)
}

/// A command was stopped or cancelled, and with that its rollout, if it has one, is over. What cannot be
/// written now is made up for by the next look at it.
pub(crate) async fn end_with_command(server: &Arc<Server>, command: CommandId) {
    let is_staged = server.rollouts.under_way.lock().await.contains_key(&command);
    if is_staged && let Err(failure) = change(server, command, Change::Abort).await {
        warn!(command.id = %command, why = failure.message(), "the rollout of a stopped command could not be ended now");
    }
}

/// One that is over may still be obeyed by agents that come back, until somebody aborts it.
async fn change_over(server: &Arc<Server>, row: RolloutRow, what: Change) -> Result<bool, Failure> {
    let state = row.standing.state;
    let now = server.clock.wall();
    match (what, state) {
        (Change::Abort, RolloutState::Aborted) => Ok(false),
        (Change::Abort, RolloutState::Finished) if now < row.expires_at => {
            let cancelled = server.dispatcher.cancel(&server.store, row.command, row.expires_at, now).await;
            cancelled.map_err(unavailable)?;
            let mut next = row;
            next.standing.state = RolloutState::Aborted;
            "aborted by an operator after its last wave".clone_into(&mut next.reason);
            server.store.keep_rollout(&next).await.map_err(unavailable)?;
            Ok(true)
        }
        _ => {
            let text = format!("this rollout is {}, and nothing is left of it to change", state.as_str());
            Err(Failure::precondition("rollout_over", text))
        }
    }
}
