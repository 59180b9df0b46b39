//! Becoming an entity, staying the same one when something changes, and leaving.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use writ_common::backoff::Backoff;
use writ_common::status::Failure;
use writ_protocol::id::{EntityId, ManagerId};
use writ_protocol::limits::MAX_ADDRESSES;
use writ_protocol::manager::{
    CallBody, Listing, Mode, Registration as Wish, RegistrationToken, Rejection, RejectionCode, ReplyBody,
};
use writ_protocol::time::Timestamp;

use super::client::{ManagerClient, unexpected};
use super::legs::{Fault, Leg, Legs};
use super::settings::{Settings, host_name};
use super::{
    BridgeGuard, DEPART_FOR, DEPART_WITHIN, Departure, ManagerRecord, PRODUCT, Registration, Speaker, State,
    UpdateSource, Uplink, stored, update_source,
};
use crate::VERSION;
use crate::store::unavailable;

/// Managers that were not reached to be told that a registration ended.
const MAX_DEPARTURES: usize = 8;

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::precondition("manager_not_reached", fault.to_string())
    }
}

/// Registers by the saved settings. Twice is once.
///
/// # Errors
/// What is missing, the leg that failed, or the manager's no. Then nothing is registered, unless the answer
/// alone was lost: the registration is finished by itself then.
pub(crate) async fn register(
    uplink: &Arc<Uplink>,
    chosen: Option<UpdateSource>,
) -> Result<ManagerRecord, Failure> {
    let uplink = Arc::clone(uplink);
    let task = Arc::clone(&uplink);
    // To its end although the caller hangs up.
    uplink.server.to_the_end(async move { register_to_the_end(&task, chosen).await }).await?
}

async fn register_to_the_end(
    uplink: &Arc<Uplink>,
    chosen: Option<UpdateSource>,
) -> Result<ManagerRecord, Failure> {
    let mut turn = uplink.bridge.turn().await;
    let settings = turn.saved.clone();
    let line = open(uplink, &settings).await?;
    let (about, answer) = line.probe(None).await?;
    if turn.registration.state != State::Unregistered && turn.registration.is_authorized {
        // An answer for the manager of now must be that manager's, also to say that another one is there.
        let _same = turn.registration.check_speaker(answer)?;
    }
    let is_here = turn.registration.manager == Some(*about.manager.as_bytes());
    let chosen = if is_here { as_it_was(&turn, chosen) } else { chosen };
    let source = update_source::choose(chosen, &about.version.to_string(), settings.is_authorized())?;
    join(uplink, &mut turn, &line, settings, (about.manager, source, false)).await
}

/// What was chosen, or what holds: a server that is registered has answered already.
fn as_it_was(held: &ManagerRecord, chosen: Option<UpdateSource>) -> Option<UpdateSource> {
    let holds = (held.registration.state != State::Unregistered).then_some(held.registration.source);
    chosen.or(holds)
}

/// Registers, after everything that can fail without a trace has not.
async fn join(
    uplink: &Uplink,
    turn: &mut BridgeGuard,
    line: &ManagerClient,
    settings: Settings,
    (manager, source, is_anew): (ManagerId, UpdateSource, bool),
) -> Result<ManagerRecord, Failure> {
    let before = ManagerRecord::clone(turn);
    begin(uplink, turn, settings, (manager, source, is_anew)).await?;
    let finished = finish(uplink, turn, line, Some(before)).await;
    // Whatever is not finished is finished there.
    uplink.bridge.poke.notify_one();
    uplink.bridge.leaving.notify_one();
    finished?;
    Ok(ManagerRecord::clone(turn))
}

/// What a crash must find: that something was asked for, and how.
async fn begin(
    uplink: &Uplink,
    turn: &mut BridgeGuard,
    settings: Settings,
    (manager, source, is_anew): (ManagerId, UpdateSource, bool),
) -> Result<(), Failure> {
    let mut next = ManagerRecord::clone(turn);
    let is_here = next.registration.manager == Some(*manager.as_bytes());
    // Another manager is left first; it is told when it can be.
    if !is_here && let Some(departure) = departure(&next, uplink.server.clock.wall()) {
        push_departure(&mut next, departure);
    }
    // This one hears of the new registration; the end of an old one does not matter any more.
    next.departures.retain(|departure| departure.manager != Some(*manager.as_bytes()));
    let goes_on = is_here
        && !is_anew
        && matches!(next.registration.state, State::Waiting | State::Registered | State::Registering)
        // An authority counts from a registration that was made under it.
        && next.registration.is_authorized == settings.is_authorized();
    next.registration = Registration {
        state: State::Registering,
        epoch: if goes_on { next.registration.epoch } else { 0 },
        source,
        is_authorized: settings.is_authorized(),
        manager: Some(*manager.as_bytes()),
        entity: next.registration.entity,
        // The manager that answers a new registration speaks from then on.
        speaker: next.registration.speaker.filter(|_| goes_on),
        ..Registration::default()
    };
    next.in_force = Some(settings);
    uplink.keep_line(turn, next).await.map_err(unavailable)?;
    writ_common::checkpoint!("entity_registering");
    Ok(())
}

/// Asks, and keeps the answer. Also what finishes a registration a crash or a lost answer left half done.
///
/// # Errors
/// The leg that failed, or the manager's no; after a no it is as before, or there is no registration.
pub(super) async fn finish(
    uplink: &Uplink,
    turn: &mut BridgeGuard,
    line: &ManagerClient,
    before: Option<ManagerRecord>,
) -> Result<(), Failure> {
    let Some(settings) = turn.in_force.clone() else { return Err(unexpected().into()) };
    let wish = wish(uplink, turn, &settings, true)?;
    let leaf = leaf_of(&wish);
    let to = (turn.registration.manager, turn.registration.epoch);
    let called = uplink.call(line, to, CallBody::Register(wish)).await;
    writ_common::checkpoint!("entity_answered");
    let answer = match called {
        Ok(answer) => answer,
        Err(fault) => {
            uplink.bridge.note_error(fault.to_string());
            return Err(Failure::precondition(
                "manager_answer_lost",
                format!(
                    "{fault}. Whether the manager took it is not known; it is asked again until it answers: writ manager status"
                ),
            ));
        }
    };
    let mut next = ManagerRecord::clone(turn);
    match answer.body {
        ReplyBody::Registered(standing) => {
            next.registration = registered(&turn.registration, &standing, leaf, answer.speaker);
            // It let this server in, and is spent.
            if let Some(settings) = &mut next.in_force {
                settings.token = None;
            }
            if next.saved.token == turn.in_force.as_ref().and_then(|settings| settings.token.clone()) {
                next.saved.token = None;
            }
            info!(
                target: "audit",
                { entity.id = %standing.entity, manager.id = %standing.manager, approved = standing.is_approved },
                "registered with the Control Manager"
            );
        }
        // Nobody decided anything: it is asked again when that is mended.
        ReplyBody::Rejected(rejection)
            if before.is_none()
                && matches!(rejection.code, RejectionCode::ClockSkew | RejectionCode::Replayed) =>
        {
            return Err(no(&rejection));
        }
        ReplyBody::Rejected(rejection) => {
            let held_before = |before: &ManagerRecord| {
                !matches!(before.registration.state, State::Unregistered | State::Registering)
            };
            match before.filter(held_before) {
                Some(before) => next = before,
                None => {
                    let entity = turn.registration.entity;
                    next.registration = Registration { entity, ..Registration::default() };
                    next.in_force = None;
                }
            }
            uplink.keep_line(turn, next).await.map_err(unavailable)?;
            return Err(no(&rejection));
        }
        ReplyBody::Probe(_)
        | ReplyBody::Left
        | ReplyBody::Work(_)
        | ReplyBody::Subscribed
        | ReplyBody::Unsubscribed
        | ReplyBody::Objects(_) => return Err(unexpected().into()),
    }
    uplink.keep_line(turn, next).await.map_err(unavailable)?;
    uplink.bridge.note_contact(uplink.server.clock.wall());
    Ok(())
}

fn registered(asked: &Registration, standing: &Listing, leaf: String, speaker: Speaker) -> Registration {
    Registration {
        state: if standing.is_approved { State::Registered } else { State::Waiting },
        entity: Some(*standing.entity.as_bytes()),
        manager: Some(*standing.manager.as_bytes()),
        version: standing.version.to_string(),
        epoch: standing.epoch,
        is_authorized: asked.is_authorized,
        is_sandbox_connected: standing.sandbox_connected,
        source: asked.source,
        sent_leaf: leaf,
        speaker: Some(speaker),
    }
}

/// The manager's no, for an operator here.
pub(super) fn no(rejection: &Rejection) -> Failure {
    let Rejection { code, detail } = rejection;
    Failure::precondition(
        code.as_str(),
        format!("the manager refuses ({}): {detail}; {}", code.as_str(), code.cure()),
    )
}

/// Sends what was changed.
///
/// # Errors
/// The leg that failed, or the manager's no; then the settings of before stay in force.
pub(crate) async fn update(uplink: &Arc<Uplink>) -> Result<ManagerRecord, Failure> {
    let task = Arc::clone(uplink);
    uplink
        .server
        .to_the_end(async move {
            let mut turn = task.bridge.turn().await;
            let settings = turn.saved.clone();
            send_update(&task, &mut turn, settings).await?;
            Ok(ManagerRecord::clone(&turn))
        })
        .await?
}

pub(super) async fn send_update(
    uplink: &Uplink,
    turn: &mut BridgeGuard,
    settings: Settings,
) -> Result<(), Failure> {
    if !matches!(turn.registration.state, State::Registered | State::Waiting) {
        let text = format!("this server is not registered; next: {}", turn.next_step());
        return Err(Failure::precondition("manager_not_registered", text));
    }
    if settings.is_authorized() != turn.registration.is_authorized {
        let text = "certificate authorization is made at registration: unregister and register again, or writ manager re-register";
        return Err(Failure::precondition("registration_is_older", text));
    }
    let line = open(uplink, &settings).await?;
    let (about, _) = line.probe(None).await?;
    if turn.registration.manager.is_some_and(|manager| manager != *about.manager.as_bytes()) {
        let text =
            "another manager answers there: unregister from this one first, then register with that one";
        return Err(Failure::precondition("other_manager", text));
    }
    let wish = wish(uplink, turn, &settings, false)?;
    let leaf = leaf_of(&wish);
    let to = (turn.registration.manager, turn.registration.epoch);
    let answer = uplink.call(&line, to, CallBody::Update(wish)).await?;
    match answer.body {
        ReplyBody::Registered(standing) => {
            let mut next = ManagerRecord::clone(turn);
            next.registration = registered(&turn.registration, &standing, leaf, answer.speaker);
            next.in_force = Some(settings);
            uplink.keep_line(turn, next).await.map_err(unavailable)?;
            uplink.bridge.note_contact(uplink.server.clock.wall());
            uplink.bridge.poke.notify_one();
            Ok(())
        }
        ReplyBody::Rejected(rejection) => Err(no(&rejection)),
        ReplyBody::Probe(_)
        | ReplyBody::Left
        | ReplyBody::Work(_)
        | ReplyBody::Subscribed
        | ReplyBody::Unsubscribed
        | ReplyBody::Objects(_) => Err(unexpected().into()),
    }
}

/// Unregisters and registers by the saved settings; the entity keeps its id.
///
/// # Errors
/// The leg that failed, or the manager's no.
pub(crate) async fn reregister(
    uplink: &Arc<Uplink>,
    chosen: Option<UpdateSource>,
) -> Result<ManagerRecord, Failure> {
    let task = Arc::clone(uplink);
    uplink
        .server
        .to_the_end(async move {
            let mut turn = task.bridge.turn().await;
            let settings = turn.saved.clone();
            let line = open(&task, &settings).await?;
            let (about, _) = line.probe(None).await?;
            let as_it_was = as_it_was(&turn, chosen);
            let version = about.version.to_string();
            let source = update_source::choose(as_it_was, &version, settings.is_authorized())?;
            join(&task, &mut turn, &line, settings, (about.manager, source, true)).await
        })
        .await?
}

/// What a manager has to hear when a registration with it ends.
fn departure(held: &ManagerRecord, now: Timestamp) -> Option<Departure> {
    let settings = held.in_force.clone().filter(|_| held.registration.state != State::Unregistered)?;
    let Registration { epoch, manager, .. } = held.registration;
    Some(Departure { settings, epoch, manager, since: now.as_millis() })
}

/// Past [`MAX_DEPARTURES`] the oldest manager is told no more.
fn push_departure(held: &mut ManagerRecord, departure: Departure) {
    held.departures.push(departure);
    while held.departures.len() > MAX_DEPARTURES {
        let forgotten = held.departures.remove(0);
        warn!(manager = forgotten.settings.endpoint(), "too many managers wait to be told; this one is not");
    }
}

/// Ends the registration here at once, and there when it can be reached.
///
/// # Errors
/// When there is none, or the store fails.
pub(crate) async fn unregister(uplink: &Arc<Uplink>) -> Result<ManagerRecord, Failure> {
    let task = Arc::clone(uplink);
    uplink
        .server
        .to_the_end(async move {
            let mut turn = task.bridge.turn().await;
            let Some(departure) = departure(&turn, task.server.clock.wall()) else {
                let text = "this server is not registered with a manager";
                return Err(Failure::precondition("manager_not_registered", text));
            };
            let mut next = ManagerRecord::clone(&turn);
            push_departure(&mut next, departure.clone());
            next.registration = Registration { entity: turn.registration.entity, ..Registration::default() };
            next.in_force = None;
            task.keep_line(&mut turn, next).await.map_err(unavailable)?;
            drop(turn);
            task.bridge.note_error(String::new());
            info!(target: "audit", "unregistered from the Control Manager");
            writ_common::checkpoint!("entity_departing");
            if let Err(error) = depart(&task, &departure).await {
                warn!(%error, "the manager was not reached; it is told later");
                task.bridge.leaving.notify_one();
            }
            Ok(task.bridge.held())
        })
        .await?
}

/// Tells managers that registrations ended, until they have heard it, or for seven days.
pub(crate) async fn keep_departures(uplink: Arc<Uplink>) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
    loop {
        let mut is_done = true;
        for departure in uplink.bridge.held().departures {
            let over = Timestamp::from_millis(departure.since) + DEPART_FOR;
            let told = if over <= uplink.server.clock.wall() {
                warn!("the manager was not reached for {DEPART_FOR:?}; it may list this server for ever");
                strike(&uplink, &departure).await
            } else {
                depart(&uplink, &departure).await
            };
            if let Err(error) = told {
                is_done = false;
                info!(%error, "the manager does not know yet that the registration ended");
            }
        }
        let wait = if is_done { DEPART_FOR } else { backoff.after_failure() };
        if is_done {
            backoff.reset();
        }
        let asked = tokio::time::timeout(wait, uplink.bridge.leaving.notified());
        if uplink.server.shutdown.unless_requested(asked).await.is_none() {
            return;
        }
    }
}

/// Tells one manager. Not in a turn: operators need not wait for a manager that is gone.
async fn depart(uplink: &Uplink, departure: &Departure) -> Result<(), Fault> {
    let Departure { settings, epoch, manager, .. } = departure;
    let said = async {
        let line =
            ManagerClient::open(settings, &uplink.bridge.vault, &uplink.server.clock, &mut Legs::silent())
                .await?;
        uplink.call(&line, (*manager, *epoch), CallBody::Unregister).await
    };
    let answer = tokio::time::timeout(DEPART_WITHIN, said).await.map_err(|_| {
        let advice = "look at the firewalls in between";
        Fault::new(Leg::Tcp, format!("the manager did not answer within {DEPART_WITHIN:?}"), advice)
    })??;
    match answer.body {
        ReplyBody::Left => {}
        // It knows no such registration: that is what was wanted.
        ReplyBody::Rejected(Rejection { code: RejectionCode::UnknownEntity, .. }) => {}
        ReplyBody::Rejected(Rejection { code, detail }) => {
            return Err(Fault::new(Leg::Authorization, detail, code.cure()));
        }
        ReplyBody::Probe(_)
        | ReplyBody::Registered(_)
        | ReplyBody::Work(_)
        | ReplyBody::Subscribed
        | ReplyBody::Unsubscribed
        | ReplyBody::Objects(_) => return Err(unexpected()),
    }
    strike(uplink, departure).await?;
    info!("the Control Manager was told that the registration ended");
    Ok(())
}

/// Nobody has to hear of it any more.
async fn strike(uplink: &Uplink, departure: &Departure) -> Result<(), Fault> {
    let mut turn = uplink.bridge.turn().await;
    let mut next = ManagerRecord::clone(&turn);
    next.departures.retain(|one| one != departure);
    uplink.keep_line(&mut turn, next).await.map_err(stored)
}

pub(super) async fn open(uplink: &Uplink, settings: &Settings) -> Result<ManagerClient, Failure> {
    let mut legs = Legs::silent();
    Ok(ManagerClient::open(settings, &uplink.bridge.vault, &uplink.server.clock, &mut legs).await?)
}

/// How this server wants to be listed.
fn wish(
    uplink: &Uplink,
    held: &ManagerRecord,
    settings: &Settings,
    with_token: bool,
) -> Result<Wish, Failure> {
    let token = match settings.token.as_ref().filter(|_| with_token) {
        Some(sealed) => {
            let opened = uplink.bridge.vault.unseal(sealed);
            let opened = opened.map_err(|error| Failure::precondition("secret_lost", error.to_string()))?;
            let secret = <[u8; 32]>::try_from(opened.as_slice()).ok();
            secret.map(|secret| RegistrationToken::from_secret(secret).prove(uplink.bridge.key.public()))
        }
        None => None,
    };
    let mode = match &settings.forwarding {
        None => Mode::OneWay,
        Some(forwarding) => Mode::TwoWay {
            forwarding: forwarding.clone(),
            leaf_spki_digest: *uplink
                .server
                .tls
                .leaf_spki_digests()
                .first()
                .ok_or_else(|| Failure::unavailable("this server has no TLS certificate"))?,
        },
    };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<_> = interfaces
        .iter()
        .filter(|interface| !interface.is_loopback())
        .map(|interface| interface.ip().to_string())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    Ok(Wish {
        display_name: settings.display_name.clone(),
        host_name: host_name(),
        product: PRODUCT.to_owned(),
        version: VERSION.to_owned(),
        addresses,
        mode,
        entity: held.registration.entity.map(EntityId::from_bytes),
        token,
        heartbeat: settings.heartbeat,
        abnormal_after: settings.abnormal_after,
    })
}

/// What a manager compares when it calls; empty in one-way mode.
fn leaf_of(wish: &Wish) -> String {
    match &wish.mode {
        Mode::OneWay => String::new(),
        Mode::TwoWay { leaf_spki_digest, .. } => leaf_spki_digest.to_string(),
    }
}

/// Whether the manager was told of another TLS key than the one shown now.
pub(super) fn is_leaf_stale(uplink: &Uplink, held: &ManagerRecord) -> bool {
    let shown = uplink.server.tls.leaf_spki_digests().first().map(ToString::to_string).unwrap_or_default();
    !held.registration.sent_leaf.is_empty() && held.registration.sent_leaf != shown
}
