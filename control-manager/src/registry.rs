//! Whether a call counts, and who is listed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};
use writ_common::status::Failure;
use writ_protocol::id::EntityId;
use writ_protocol::keys::PublicKey;
use writ_protocol::limits::SKEW;
use writ_protocol::manager::{
    CallBody, EntityCall, Listing as Listed, NO_INSTRUCTIONS, ObjectsCall, Registration, Rejection,
    RejectionCode, ReplyBody, check_communication,
};
use writ_protocol::time::Timestamp;

use crate::context::Manager;
use crate::instructions;
use crate::metrics;
use crate::store::{Change, EntityAdmission, EntityRow, KeepOrUndo, StoreError, unavailable};

/// Entities under one manager.
const MAX_ENTITIES: u64 = 10_000;
/// Entities that wait to be let in, or left a moment ago: any stranger who reaches the port may be one.
const MAX_WAITING: u64 = 256;
/// A call is not believed longer than [`SKEW`]; after this nobody can say one of an entity that left again.
const LEFT_IS_KEPT: Duration = Duration::from_secs(120);

/// Answers a verified call.
///
/// # Errors
/// When the store fails.
pub(crate) async fn answer(
    manager: &Arc<Manager>,
    from: IpAddr,
    call: EntityCall,
) -> Result<Answered, Failure> {
    let key = call.key.id();
    let (was_in, answered) = decide(manager, call).await?;
    metrics::count_call(&answered.decided, was_in);
    if let Decided::Reply(ReplyBody::Rejected(Rejection { code, detail })) = &answered.decided {
        if *code == RejectionCode::NotApproved {
            // Each of its polls, and anybody may wait.
            debug!(key.id = %key, "entity waits to be let in");
        } else {
            if let Some(unsaid) = manager.hush.may_say(code.as_str(), from) {
                warn!(address = %from, unsaid, key.id = %key, code = code.as_str(), detail, "entity rejected");
            }
        }
    }
    Ok(answered)
}

/// What a call comes to.
#[derive(Debug)]
pub(crate) enum Decided {
    /// An answer.
    Reply(ReplyBody),
    /// The objects that act, to an entity that holds this version of them.
    Objects(EntityId, u64),
}

/// What a call comes to, and whether it is of an entity that was let in.
#[derive(Debug)]
pub(crate) struct Answered {
    /// What it comes to.
    pub decided: Decided,
    /// Whether its caller was let in, and by that is no stranger any more.
    pub is_in: bool,
}

impl From<ReplyBody> for Answered {
    fn from(body: ReplyBody) -> Self {
        Self { decided: Decided::Reply(body), is_in: false }
    }
}

/// Whether its caller had been let in before, and the answer.
async fn decide(manager: &Arc<Manager>, call: EntityCall) -> Result<(bool, Answered), Failure> {
    let (asked, now) = (Arc::clone(manager), manager.now());
    let decided = manager.store.change(move |change| {
        // Objects are fetched by a key of their own, for an entity.
        let known = match &call.body {
            CallBody::Objects(ObjectsCall::Fetch(_)) => {
                // Its calls are counted for themselves, so that whoever has it keeps the entity from nothing.
                let entity = change.entity_of_subscription(&call.key)?;
                entity.map(|entity| EntityRow {
                    counter: entity.subscription.as_ref().map_or(0, |subscription| subscription.counter),
                    ..entity
                })
            }
            CallBody::Register(_)
            | CallBody::Update(_)
            | CallBody::Unregister
            | CallBody::Poll(_)
            | CallBody::Objects(ObjectsCall::Subscribe(_) | ObjectsCall::Unsubscribe) => {
                change.entity_of(&call.key)?
            }
        };
        let was_in = is_let_in(known.as_ref());
        let verdict = match check_call(&asked, &call, known.as_ref(), now) {
            Ok(()) => apply(&asked, change, call, known, now)?,
            Err(rejection) => KeepOrUndo::Undo(ReplyBody::Rejected(rejection).into()),
        };
        writ_common::checkpoint!("entity_call_decided");
        Ok(match verdict {
            KeepOrUndo::Keep(decided) => KeepOrUndo::Keep((was_in, decided)),
            KeepOrUndo::Undo(decided) => KeepOrUndo::Undo((was_in, decided)),
        })
    });
    let decided = decided.await.map_err(unavailable)?;
    writ_common::checkpoint!("entity_call_stored");
    Ok(decided)
}

fn is_let_in(known: Option<&EntityRow>) -> bool {
    known.is_some_and(|known| known.admission == EntityAdmission::Approved)
}

/// What a call that counts changes. Nothing, if it is rejected all the same.
fn apply(
    manager: &Manager,
    change: &mut Change<'_>,
    call: EntityCall,
    known: Option<EntityRow>,
    now: Timestamp,
) -> Result<KeepOrUndo<Answered>, StoreError> {
    let undo = |body: ReplyBody| Ok(KeepOrUndo::Undo(body.into()));
    let was_in = is_let_in(known.as_ref());
    let EntityCall { key, epoch, counter, body, .. } = call;
    let reply = match (body, known) {
        (CallBody::Register(registration), known) => {
            let wish = Wish { registration, key, epoch, counter };
            match register(change, wish, known, now)? {
                Ok(entity) => {
                    info!(entity.id = %entity.id, name = entity.registration.display_name, "entity registered");
                    listed(manager, &entity)
                }
                Err(rejection) => return undo(ReplyBody::Rejected(rejection)),
            }
        }
        (CallBody::Update(registration), Some(mut entity)) => {
            if let Err(rejection) = check(&registration) {
                return undo(ReplyBody::Rejected(rejection));
            }
            (entity.registration, entity.counter, entity.last_contact) = (registration, counter, now);
            change.put(&entity)?;
            info!(entity.id = %entity.id, name = entity.registration.display_name, "entity updated");
            listed(manager, &entity)
        }
        (CallBody::Unregister, Some(mut entity)) => {
            // One that was rejected stays so: leaving must not wash it clean.
            if entity.admission != EntityAdmission::Rejected {
                entity.admission = EntityAdmission::Left;
            }
            (entity.counter, entity.last_contact) = (counter, now);
            change.put(&entity)?;
            change.give_up(entity.id, "the entity unregistered", now)?;
            change.end_subscription(entity.id)?;
            info!(entity.id = %entity.id, name = entity.registration.display_name, "entity unregistered");
            ReplyBody::Left
        }
        // An entity that waits may be anybody: its polls cost no write.
        (CallBody::Poll(_), Some(entity)) if entity.admission != EntityAdmission::Approved => {
            return undo(reject(RejectionCode::NotApproved, "an operator of the manager has to let it in"));
        }
        (CallBody::Poll(poll), Some(mut entity)) => {
            if poll.after > entity.sequence && poll.after != NO_INSTRUCTIONS {
                let detail = format!(
                    "the entity holds instruction {}, and this manager made {} for it: it was put back to an earlier state",
                    poll.after, entity.sequence
                );
                return undo(reject(RejectionCode::UnknownEntity, detail));
            }
            (entity.counter, entity.last_contact) = (counter, now);
            change.put(&entity)?;
            instructions::work(manager, change, &entity, poll, now)?
        }
        (CallBody::Objects(asked), Some(entity)) => {
            return subscription(change, asked, entity, counter, now);
        }
        // Said twice is said once.
        (CallBody::Unregister, None) => ReplyBody::Left,
        (CallBody::Objects(ObjectsCall::Fetch(_)), None) => {
            reject(RejectionCode::NotSubscribed, "no entity fetches objects by this key")
        }
        (CallBody::Update(_) | CallBody::Poll(_) | CallBody::Objects(_), None) => {
            reject(RejectionCode::UnknownEntity, "no entity of this key is registered here")
        }
    };
    let is_in = was_in || matches!(&reply, ReplyBody::Registered(standing) if standing.is_approved);
    Ok(KeepOrUndo::Keep(Answered { decided: Decided::Reply(reply), is_in }))
}

/// What a call about suspicious objects changes.
fn subscription(
    change: &mut Change<'_>,
    asked: ObjectsCall,
    mut entity: EntityRow,
    counter: u64,
    now: Timestamp,
) -> Result<KeepOrUndo<Answered>, StoreError> {
    if entity.admission != EntityAdmission::Approved {
        let no = reject(RejectionCode::NotApproved, "an operator of the manager has to let it in");
        return Ok(KeepOrUndo::Undo(no.into()));
    }
    let decided = match asked {
        ObjectsCall::Fetch(held) => {
            change.note_fetch(entity.id, (held, counter), now)?;
            Decided::Objects(entity.id, held)
        }
        ObjectsCall::Subscribe(key) => {
            if let Err(no) = check_subscription(change, &entity, &key)? {
                return Ok(KeepOrUndo::Undo(no.into()));
            }
            (entity.counter, entity.last_contact) = (counter, now);
            change.put(&entity)?;
            change.subscribe(&entity, &key, now)?;
            info!(entity.id = %entity.id, key.id = %key.id(), "entity subscribed to suspicious objects");
            Decided::Reply(ReplyBody::Subscribed)
        }
        ObjectsCall::Unsubscribe => {
            (entity.counter, entity.last_contact) = (counter, now);
            change.put(&entity)?;
            change.end_subscription(entity.id)?;
            info!(entity.id = %entity.id, "entity unsubscribed from suspicious objects");
            Decided::Reply(ReplyBody::Unsubscribed)
        }
    };
    Ok(KeepOrUndo::Keep(Answered { decided, is_in: true }))
}

/// Whether an entity may fetch objects by a key.
fn check_subscription(
    change: &mut Change<'_>,
    entity: &EntityRow,
    wanted: &PublicKey,
) -> Result<Result<(), ReplyBody>, StoreError> {
    if entity.is_subscription_revoked {
        let text = "an operator of the manager revoked its subscription";
        return Ok(Err(reject(RejectionCode::SubscriptionRevoked, text)));
    }
    // Who holds the key of an entity must not speak for it by another name.
    if change.entity_of(wanted)?.is_some() || change.is_key_of_another(entity.id, wanted)? {
        let text = "the key of a subscription must be a new one";
        return Ok(Err(reject(RejectionCode::InvalidRegistration, text)));
    }
    Ok(Ok(()))
}

fn reject(code: RejectionCode, detail: impl Into<String>) -> ReplyBody {
    ReplyBody::Rejected(Rejection { code, detail: detail.into() })
}

/// The checks every call passes, in their order.
fn check_call(
    manager: &Manager,
    call: &EntityCall,
    known: Option<&EntityRow>,
    now: Timestamp,
) -> Result<(), Rejection> {
    let no = |code, detail: String| Err(Rejection { code, detail });
    if call.manager != manager.id {
        let detail = format!("the call is for manager {}, and this is {}", call.manager, manager.id);
        return no(RejectionCode::UnknownEntity, detail);
    }
    let (ahead, behind) = (call.sent_at.since(now), now.since(call.sent_at));
    if ahead.max(behind) > SKEW {
        let (by, word) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
        return no(
            RejectionCode::ClockSkew,
            format!("the entity's clock is {} s {word} the manager's, {SKEW:?} are allowed", by.as_secs()),
        );
    }
    let Some(known) = known else { return Ok(()) };
    if call.counter <= known.counter {
        return no(
            RejectionCode::Replayed,
            format!("its call {} came after call {}", call.counter, known.counter),
        );
    }
    let is_departure = matches!(call.body, CallBody::Unregister);
    if known.admission == EntityAdmission::Rejected && !is_departure {
        return no(RejectionCode::RejectedEntity, "an operator of the manager rejected it".to_owned());
    }
    let is_registration = matches!(call.body, CallBody::Register(_));
    if !is_registration {
        if known.admission == EntityAdmission::Left && !is_departure {
            return no(RejectionCode::UnknownEntity, "it unregistered".to_owned());
        }
        // An entity that asked and never heard an answer leaves without knowing the number.
        let is_unanswered = is_departure && call.epoch == 0;
        if call.epoch != known.epoch && !is_unanswered {
            let detail = format!("registration {} is not the one that holds", call.epoch);
            return no(RejectionCode::UnknownEntity, detail);
        }
    }
    Ok(())
}

fn check(registration: &Registration) -> Result<(), Rejection> {
    check_communication(registration.heartbeat, registration.abnormal_after)
        .map_err(|why| Rejection { code: RejectionCode::InvalidRegistration, detail: why.to_owned() })
}

struct Wish {
    registration: Registration,
    key: PublicKey,
    epoch: u64,
    counter: u64,
}

/// The same key is the same entity, however it is called and wherever it is.
fn register(
    change: &mut Change<'_>,
    wish: Wish,
    known: Option<EntityRow>,
    now: Timestamp,
) -> Result<Result<EntityRow, Rejection>, StoreError> {
    let Wish { mut registration, key, epoch, counter } = wish;
    if let Err(rejection) = check(&registration) {
        return Ok(Err(rejection));
    }
    let shown = registration.token.take();
    let is_in = known.as_ref().is_some_and(|known| known.admission == EntityAdmission::Approved);
    let mut admission = if is_in { EntityAdmission::Approved } else { EntityAdmission::Waiting };
    // An entity that is in needs none, and spends none.
    if let Some(shown) = &shown
        && !is_in
    {
        if !change.spend(shown, &key, now)? {
            let detail = "the token is unknown, spent, revoked or expired".to_owned();
            return Ok(Err(Rejection { code: RejectionCode::TokenRefused, detail }));
        }
        admission = EntityAdmission::Approved;
    }
    let token = shown.map(|shown| shown.id);
    change.forget_left(now - LEFT_IS_KEPT)?;
    let listed_before = known.as_ref().is_some_and(|known| known.admission != EntityAdmission::Left);
    if !listed_before {
        let counts = change.counts()?;
        let strangers = counts.waiting + counts.gone;
        if counts.all >= MAX_ENTITIES || (admission == EntityAdmission::Waiting && strangers >= MAX_WAITING) {
            let detail = format!(
                "it lists {} entities, {} of them waiting to be let in, and {} left a moment ago: that is as many as it takes",
                counts.all, counts.waiting, counts.gone
            );
            return Ok(Err(Rejection { code: RejectionCode::ManagerFull, detail }));
        }
    }
    let entity = match known {
        Some(mut known) => {
            let goes_on = listed_before && epoch == known.epoch;
            if !goes_on {
                known.epoch = next_epoch(known.epoch, now);
                change.end_subscription(known.id)?;
                known.sequence = change.begin_epoch(known.id, known.epoch, now)?;
            }
            let token = token.or(known.token);
            EntityRow { registration, admission, counter, token, last_contact: now, ..known }
        }
        None => {
            let id = free_id(change, registration.entity, now)?;
            EntityRow {
                id,
                key,
                registration,
                admission,
                epoch: next_epoch(epoch, now),
                counter,
                sequence: 0,
                token,
                registered_at: now,
                last_contact: now,
                open: 0,
                subscription: None,
                is_subscription_revoked: false,
            }
        }
    };
    change.put(&entity)?;
    Ok(Ok(entity))
}

/// Greater than any before, also after the database was lost.
fn next_epoch(last: u64, now: Timestamp) -> u64 {
    now.as_millis().max(last + 1)
}

/// The id it had before, unless another key has it.
fn free_id(
    change: &mut Change<'_>,
    wanted: Option<EntityId>,
    now: Timestamp,
) -> Result<EntityId, StoreError> {
    match wanted {
        Some(wanted) if !change.is_taken(wanted)? => Ok(wanted),
        _ => Ok(EntityId::generate(now)),
    }
}

fn listed(manager: &Manager, entity: &EntityRow) -> ReplyBody {
    ReplyBody::Registered(Listed {
        entity: entity.id,
        epoch: entity.epoch,
        is_approved: entity.admission == EntityAdmission::Approved,
        manager: manager.id,
        version: manager.version,
        sandbox_connected: manager.is_sandbox_connected,
    })
}
