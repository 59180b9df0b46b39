//! How rollouts stand: what became of their agents, what time it is for them, what was signed.

use std::time::Duration;

use writ_common::status::Failure;
use writ_protocol::envelope::{Candidate, ReleasePurpose, verify};
use writ_protocol::id::CommandId;
use writ_protocol::trust::Chain;

use super::{RolloutClock, Stands, UnderWay, find};
use crate::context::Server;
use crate::store::rules::rollout::{Counted, Moment, Step, decide};
use crate::store::{Answers, OpenTarget, RolloutRow, StoreError, unavailable};

/// How the rollout of a command stands.
///
/// # Errors
/// When there is none, or the store fails.
pub(crate) async fn stands(server: &Server, command: CommandId) -> Result<Stands, Failure> {
    // Not held while the store counts: an operator who pauses must not wait behind those who look.
    let clock = server.rollouts.under_way.lock().await.get(&command).map(UnderWay::clock);
    let Some(clock) = clock else {
        let row = find(server, command).await?;
        let Answers { done, failed, open, .. } =
            server.store.answers(command, row.standing.released, 0).await.map_err(unavailable)?;
        let mut counted = Counted { done, failed, ..Counted::default() };
        for target in open {
            // Who was sent it may carry it out at this moment.
            *(if target.is_sent { &mut counted.unanswered } else { &mut counted.away }) += 1;
        }
        return Ok(Stands { row, counted, wait: None });
    };
    let (counted, moment) = look(server, &clock).await.map_err(unavailable)?;
    let row = clock.row;
    let wait = match decide(&row.plan, row.targets, row.standing, counted, moment) {
        Step::Wait(wait) => Some(wait),
        _ => None,
    };
    Ok(Stands { row, counted, wait })
}

/// What became of those that may obey, and what time it is for this rollout.
pub(super) async fn look(server: &Server, clock: &RolloutClock) -> Result<(Counted, Moment), StoreError> {
    let RolloutClock { row, wave_ended, releases } = clock;
    let monotonic = server.clock.monotonic();
    let since = |then: Duration| monotonic.saturating_sub(then);
    let now = server.clock.wall();
    let moment = Moment {
        now,
        since_wave: wave_ended.map(since),
        since_release: releases.last().map(|(_, at)| since(*at)),
        expires_at: row.expires_at,
    };
    let wave = row.standing.wave;
    let first = wave.checked_sub(1).map_or(0, |before| row.plan.end_of(before, row.targets));
    let Answers { done, failed, tried, open } =
        server.store.answers(row.command, row.standing.released, first).await?;
    let mut counted = Counted { done, failed, tried, ..Counted::default() };
    let registry = server.dispatcher.registry();
    let patience = row.plan.patience;
    for OpenTarget { place, agent, is_sent, last_contact } in open {
        let had = clock.released_at(place).map(since).unwrap_or_default();
        let here = registry.connected_for(agent);
        // One that was sent it and is gone may have been cut off by it.
        let has_limit = server.dispatcher.governor().most().is_some();
        let is_over = match (is_sent, here) {
            (true, _) => had >= patience,
            // It waits for its turn, which may come late, and is not away.
            (false, Some(_)) if has_limit => false,
            (false, Some(here)) => had.min(here) >= patience,
            // Away for long already: its wave does not wait for it. Else it may be about to come back.
            (false, None) => {
                had >= patience || now.since(server.last_contact(agent, last_contact)) >= patience
            }
        };
        match (is_over, is_sent, here) {
            (false, _, Some(_)) => counted.unanswered += 1,
            (false, _, None) => counted.awaited += 1,
            (true, true, _) => counted.silent += 1,
            (true, false, _) => counted.away += 1,
        }
    }
    Ok((counted, moment))
}

/// How many agents the stored release of a rollout lets obey, by the keys that the chain lists.
pub(super) fn vouched(chain: &Chain, row: &RolloutRow) -> u32 {
    if row.release.is_empty() {
        return 0;
    }
    let bundle = &chain.head().bundle;
    let listed: Vec<_> =
        bundle.signing.iter().map(|entry| Candidate::accepted(entry.certificate.key())).collect();
    match verify::<ReleasePurpose>(&row.release, &listed, 1) {
        Ok(said) if said.document().fleet == bundle.fleet && said.document().command_digest == row.digest => {
            said.document().released
        }
        Ok(_) | Err(_) => 0,
    }
}
