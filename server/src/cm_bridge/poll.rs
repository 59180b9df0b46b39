//! Staying an entity: one connection, kept; a poll each heartbeat, and at once when there is something to say or the manager calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use writ_common::backoff::{Backoff, jitter};
use writ_common::limits::MAX_OUTCOMES;
use writ_common::manager::{CallBody, Poll, RejectionCode, ReplyBody, TaskState};

use super::legs::{Fault, Leg, Legs};
use super::line::{Answer, Line, unexpected};
use super::settings::Settings;
use super::{Held, State, obey, register};
use crate::context::Server;
use crate::store::{Alarm, AlertKind, SERVER, StoreError};

/// However often it is asked to.
const POLLS_APART: Duration = Duration::from_secs(1);
/// Until something is asked.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between tries that fail.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Keeps the line until the server ends.
pub async fn keep(server: Arc<Server>) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut open: Option<(Settings, Line)> = None;
    let mut changes = None;
    loop {
        let began = Instant::now();
        let wait = match Box::pin(turn(&server, &mut open)).await {
            Ok(wait) => {
                backoff.reset();
                wait
            }
            Err(fault) => {
                open = None;
                warn!(leg = fault.code(), error = %fault, "the Control Manager was not reached");
                server.bridge.note_error(fault.to_string());
                backoff.after_failure().max(POLLS_APART)
            }
        };
        // Whatever changed before this is found by the poll that taking an instruction asks for.
        changes = match (server.bridge.has_open_commands(), changes) {
            (false, _) => None,
            (true, None) => Some(server.store.watch()),
            (true, watching) => watching,
        };
        let asked = async {
            tokio::select! {
                () = server.bridge.poke.notified() => {}
                () = obey::something_changed(&server, &mut changes) => {}
            }
            tokio::time::sleep_until(began + POLLS_APART).await;
        };
        let woken = server.shutdown.unless_requested(tokio::time::timeout(wait, asked)).await;
        if woken.is_none() {
            return;
        }
    }
}

/// One look at what there is to do; how long to wait before the next.
async fn turn(server: &Arc<Server>, open: &mut Option<(Settings, Line)>) -> Result<Duration, Fault> {
    if server.bridge.held().departure.is_some() {
        let mut turn = server.bridge.turn().await;
        register::depart(server, &mut turn).await?;
    }
    let held = server.bridge.held();
    let Some(settings) = held.in_force.clone() else {
        *open = None;
        return Ok(NEVER);
    };
    if open.as_ref().is_none_or(|(under, _)| *under != settings) {
        let mut legs = Legs::silent();
        let line = Line::open(&settings, &server.bridge.vault, &server.clock, &mut legs).await?;
        *open = Some((settings.clone(), line));
    }
    let Some((_, line)) = open.as_ref() else { return Ok(Duration::ZERO) };
    match held.registration.state {
        State::Unregistered => return Ok(NEVER),
        State::Registering => {
            let mut turn = server.bridge.turn().await;
            if turn.registration != held.registration {
                return Ok(Duration::ZERO);
            }
            if let Err(failure) = register::finish(server, &mut turn, line, None).await {
                return Err(Fault::new(Leg::Authorization, failure.message(), "writ manager status"));
            }
            info!("a registration that was begun is finished");
            return Ok(Duration::ZERO);
        }
        State::Waiting | State::Registered | State::Rejected | State::Unknown => {}
    }
    if register::is_leaf_stale(server, &held) {
        // The manager compares it when it calls.
        let mut turn = server.bridge.turn().await;
        if let Err(failure) = register::send_update(server, &mut turn, settings.clone()).await {
            warn!(error = failure.message(), "the manager could not be told of the new TLS key");
        }
    }
    let more = poll(server, line, held).await?;
    // Entities that started together must not poll together.
    let heartbeat = settings.heartbeat;
    Ok(if more { Duration::ZERO } else { heartbeat - jitter(heartbeat / 10) })
}

/// One poll; whether there is more at once.
async fn poll(server: &Arc<Server>, line: &Line, held: Held) -> Result<bool, Fault> {
    let stored = |error: StoreError| Fault::new(Leg::Input, error.to_string(), "see this server's log");
    let epoch = held.registration.epoch;
    let outcomes = obey::outcomes(server, epoch).await.map_err(stored)?;
    let ended: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.state != TaskState::InProgress)
        .map(|one| one.sequence)
        .collect();
    let is_full = outcomes.len() == MAX_OUTCOMES && !ended.is_empty();
    let after = server.store.last_taken(epoch).await.map_err(stored)?;
    let counter = server.store.next_manager_counter(server.clock.wall()).await.map_err(stored)?;
    let answer = ask(server, line, (epoch, counter), Poll { after, outcomes }).await?;
    let Answer { body, key, .. } = answer;
    match body {
        ReplyBody::Work(work) => {
            server.store.note_reported(epoch, ended).await.map_err(stored)?;
            server.bridge.note_contact(server.clock.wall());
            let is_connected = work.sandbox_connected;
            stand(server, epoch, State::Registered, Some(is_connected)).await.map_err(stored)?;
            let turn = server.bridge.turn().await;
            if turn.registration.epoch != epoch || turn.registration.state != State::Registered {
                return Ok(false);
            }
            for envelope in &work.instructions {
                obey::take(server, &turn, &key, envelope).await.map_err(stored)?;
            }
            drop(turn);
            obey::act(server, epoch).await.map_err(stored)?;
            Ok(work.has_more || is_full)
        }
        ReplyBody::Rejected(rejection) => {
            let state = match rejection.code {
                RejectionCode::UnknownEntity => State::Unknown,
                RejectionCode::RejectedEntity => State::Rejected,
                RejectionCode::NotApproved => State::Waiting,
                RejectionCode::Replayed
                | RejectionCode::ClockSkew
                | RejectionCode::TokenRefused
                | RejectionCode::InvalidRegistration => {
                    return Err(Fault::new(Leg::Authorization, rejection.detail, rejection.code.cure()));
                }
            };
            if stand(server, epoch, state, None).await.map_err(stored)? {
                warn!(
                    code = rejection.code.as_str(),
                    detail = rejection.detail,
                    "the Control Manager says no"
                );
                alarm(server, rejection.code, &rejection.detail).await.map_err(stored)?;
            }
            server.bridge.note_error(format!("{}: {}", rejection.code.as_str(), rejection.detail));
            Ok(false)
        }
        ReplyBody::Probe(_) | ReplyBody::Registered(_) | ReplyBody::Left => Err(unexpected()),
    }
}

/// A poll that nobody waits for and that never blocks the end of the program.
async fn ask(server: &Server, line: &Line, call: (u64, u64), poll: Poll) -> Result<Answer, Fault> {
    let asked = line.call(&server.bridge.key, call, CallBody::Poll(poll));
    match server.shutdown.unless_requested(asked).await {
        Some(answer) => answer,
        None => Err(Fault::new(Leg::Input, "this server is ending", "start it again")),
    }
}

/// Notes how the manager sees this server; whether that is news. Nothing, if another registration was made meanwhile.
async fn stand(server: &Server, epoch: u64, state: State, sandbox: Option<bool>) -> Result<bool, StoreError> {
    let mut turn = server.bridge.turn().await;
    let mut next = Held::clone(&turn);
    if next.registration.epoch != epoch || next.registration.state == State::Unregistered {
        return Ok(false);
    }
    next.registration.state = state;
    if let Some(sandbox) = sandbox {
        next.registration.is_sandbox_connected = sandbox;
    }
    if next == Held::clone(&turn) {
        return Ok(false);
    }
    let is_news = next.registration.state != turn.registration.state;
    server.keep_line(&mut turn, next).await?;
    Ok(is_news)
}

async fn alarm(server: &Server, code: RejectionCode, detail: &str) -> Result<(), StoreError> {
    let alarm = Alarm {
        kind: AlertKind::ManagerRejects,
        code: code.as_str(),
        agent: SERVER,
        count: 1,
        detail: format!("The Control Manager refuses this server: {detail}. Next: {}.", code.cure()),
    };
    server.store.raise(alarm, None, server.clock.wall()).await
}
