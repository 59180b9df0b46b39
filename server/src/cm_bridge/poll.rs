//! Staying an entity: one connection, kept; a poll each heartbeat, and at once when there is something to say
//! or the manager calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use writ_common::backoff::{Backoff, jitter};
use writ_protocol::limits::MAX_OUTCOMES;
use writ_protocol::manager::{CallBody, Outcome, Poll, RejectionCode, ReplyBody, TaskState};

use super::client::{ManagerAnswer, ManagerClient, unexpected};
use super::legs::{Fault, Leg, Legs};
use super::settings::Settings;
use super::{BridgeGuard, ManagerRecord, State, Uplink, obey, register, stored};
use crate::store::{Alarm, AlertKind, SERVER, StoreError};

/// However often it is asked to.
const POLLS_APART: Duration = Duration::from_secs(1);
/// Until something is asked.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between tries that fail.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Keeps the line until the server ends.
pub(crate) async fn run(uplink: Arc<Uplink>) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut open: Option<(Settings, ManagerClient)> = None;
    let mut changes = None;
    loop {
        let began = Instant::now();
        let wait = match Box::pin(turn(&uplink, &mut open)).await {
            Ok(wait) => {
                backoff.reset();
                wait
            }
            Err(fault) => {
                open = None;
                warn!(leg = fault.code(), error = %fault, "the Control Manager was not reached");
                uplink.bridge.note_error(fault.to_string());
                backoff.after_failure().max(POLLS_APART)
            }
        };
        // Whatever changed before this is found by the poll that taking an instruction asks for.
        changes = match (uplink.bridge.has_open_commands(), changes) {
            (false, _) => None,
            (true, None) => Some(uplink.server.store.watch()),
            (true, watching) => watching,
        };
        let asked = async {
            tokio::select! {
                () = uplink.bridge.poke.notified() => {}
                () = obey::something_changed(&uplink, &mut changes) => {}
            }
            tokio::time::sleep_until(began + POLLS_APART).await;
        };
        let woken = uplink.server.shutdown.unless_requested(tokio::time::timeout(wait, asked)).await;
        if woken.is_none() {
            return;
        }
    }
}

/// One look at what there is to do; how long to wait before the next.
async fn turn(uplink: &Arc<Uplink>, open: &mut Option<(Settings, ManagerClient)>) -> Result<Duration, Fault> {
    let held = uplink.bridge.held();
    let Some(settings) = held.in_force.clone() else {
        *open = None;
        return Ok(NEVER);
    };
    if open.as_ref().is_none_or(|(under, _)| *under != settings) {
        let mut legs = Legs::silent();
        let line =
            ManagerClient::open(&settings, &uplink.bridge.vault, &uplink.server.clock, &mut legs).await?;
        *open = Some((settings.clone(), line));
    }
    let Some((_, line)) = open.as_ref() else { return Ok(Duration::ZERO) };
    match held.registration.state {
        State::Unregistered => return Ok(NEVER),
        State::Registering => {
            let mut turn = uplink.bridge.turn().await;
            if *turn != held {
                return Ok(Duration::ZERO);
            }
            if let Err(failure) = register::finish(uplink, &mut turn, line, None).await {
                return Err(Fault::new(Leg::Authorization, failure.message(), "writ manager status"));
            }
            info!("a registration that was begun is finished");
            return Ok(Duration::ZERO);
        }
        State::Waiting | State::Registered | State::Rejected | State::Unknown => {}
    }
    if register::is_leaf_stale(uplink, &held) {
        // The manager compares it when it calls.
        let mut turn = uplink.bridge.turn().await;
        if *turn != held {
            return Ok(Duration::ZERO);
        }
        if let Err(failure) = register::send_update(uplink, &mut turn, settings.clone()).await {
            warn!(error = failure.message(), "the manager could not be told of the new TLS key");
        }
    }
    let held = uplink.bridge.held();
    let more = poll(uplink, line, held).await?;
    // Entities that started together must not poll together.
    let heartbeat = settings.heartbeat;
    Ok(if more { POLLS_APART } else { heartbeat - jitter(heartbeat / 10) })
}

/// One poll; whether there is more to be had soon.
async fn poll(uplink: &Arc<Uplink>, line: &ManagerClient, held: ManagerRecord) -> Result<bool, Fault> {
    let epoch = held.registration.epoch;
    let outcomes = obey::outcomes(uplink, epoch).await.map_err(stored)?;
    let has_ended = |outcome: &&Outcome| outcome.state != TaskState::InProgress;
    let ended: Vec<_> = outcomes.iter().filter(has_ended).map(|one| one.sequence).collect();
    let is_full = outcomes.len() == MAX_OUTCOMES && !ended.is_empty();
    let after = uplink.server.store.last_taken(epoch).await.map_err(stored)?;
    let ManagerAnswer { body, key, speaker, .. } = ask(uplink, line, &held, Poll { after, outcomes }).await?;

    // An answer counts for the line it was asked on. What an operator changed meanwhile is asked about anew.
    let mut turn = uplink.bridge.turn().await;
    if (&turn.registration, &turn.in_force) != (&held.registration, &held.in_force) {
        return Ok(true);
    }
    match body {
        ReplyBody::Work(work) => {
            uplink.server.store.note_reported(epoch, ended).await.map_err(stored)?;
            uplink.bridge.note_contact(uplink.server.clock.wall());
            if turn.registration.speaker.as_ref() != Some(&speaker) {
                let mut next = ManagerRecord::clone(&turn);
                next.registration.speaker = Some(speaker);
                uplink.keep_line(&mut turn, next).await.map_err(stored)?;
            }
            stand(uplink, &mut turn, State::Registered, work.sandbox_connected).await.map_err(stored)?;
            for envelope in &work.instructions {
                obey::take(uplink, &turn, &key, envelope).await.map_err(stored)?;
            }
            drop(turn);
            let has_taken = uplink.server.store.last_taken(epoch).await.map_err(stored)? > after;
            Box::pin(obey::act(uplink, epoch)).await.map_err(stored)?;
            Ok((work.has_more && has_taken) || is_full)
        }
        ReplyBody::Rejected(rejection) => {
            let state = match rejection.code {
                RejectionCode::UnknownEntity => State::Unknown,
                RejectionCode::RejectedEntity => State::Rejected,
                RejectionCode::NotApproved => State::Waiting,
                RejectionCode::Replayed => {
                    alarm(uplink, rejection.code, &rejection.detail).await.map_err(stored)?;
                    return Err(Fault::new(Leg::Authorization, rejection.detail, rejection.code.cure()));
                }
                RejectionCode::ClockSkew
                | RejectionCode::TokenRefused
                | RejectionCode::InvalidRegistration
                | RejectionCode::ManagerFull
                | RejectionCode::NotSubscribed
                | RejectionCode::SubscriptionRevoked => {
                    return Err(Fault::new(Leg::Authorization, rejection.detail, rejection.code.cure()));
                }
            };
            let sandbox = turn.registration.is_sandbox_connected;
            if stand(uplink, &mut turn, state, sandbox).await.map_err(stored)? {
                warn!(
                    code = rejection.code.as_str(),
                    detail = rejection.detail,
                    "the Control Manager says no"
                );
                alarm(uplink, rejection.code, &rejection.detail).await.map_err(stored)?;
            }
            // Waiting is no error.
            if state != State::Waiting {
                uplink.bridge.note_error(format!("{}: {}", rejection.code.as_str(), rejection.detail));
            }
            Ok(false)
        }
        ReplyBody::Probe(_)
        | ReplyBody::Registered(_)
        | ReplyBody::Left
        | ReplyBody::Subscribed
        | ReplyBody::Unsubscribed
        | ReplyBody::Objects(_) => Err(unexpected()),
    }
}

/// A poll that nobody waits for and that never blocks the end of the program.
async fn ask(
    uplink: &Uplink,
    line: &ManagerClient,
    held: &ManagerRecord,
    poll: Poll,
) -> Result<ManagerAnswer, Fault> {
    let to = (held.registration.manager, held.registration.epoch);
    let asked = uplink.call(line, to, CallBody::Poll(poll));
    match uplink.server.shutdown.unless_requested(asked).await {
        Some(answer) => answer,
        None => Err(Fault::new(Leg::Input, "this server is ending", "start it again")),
    }
}

/// Notes how the manager sees this server; whether that is news.
async fn stand(
    uplink: &Uplink,
    turn: &mut BridgeGuard,
    state: State,
    is_sandbox_connected: bool,
) -> Result<bool, StoreError> {
    let mut next = ManagerRecord::clone(turn);
    let is_news = next.registration.state != state;
    if !is_news && next.registration.is_sandbox_connected == is_sandbox_connected {
        return Ok(false);
    }
    (next.registration.state, next.registration.is_sandbox_connected) = (state, is_sandbox_connected);
    uplink.keep_line(turn, next).await?;
    Ok(is_news)
}

pub(super) async fn alarm(uplink: &Uplink, code: RejectionCode, detail: &str) -> Result<(), StoreError> {
    let alarm = Alarm {
        kind: AlertKind::ManagerRejects,
        code: code.as_str(),
        agent: SERVER,
        count: 1,
        detail: format!("The Control Manager refuses this server: {detail}. Next: {}.", code.cure()),
    };
    uplink.server.store.raise(alarm, None, uplink.server.clock.wall()).await
}
