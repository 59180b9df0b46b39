//! What entities are told to do: issued once, handed over in order, tracked to their end.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use writ_common::admin::Actor;
use writ_common::status::Failure;
use writ_protocol::id::{Digest, EntityId, InstructionId, ManagerId};
use writ_protocol::limits::{MAX_INSTRUCTIONS, MAX_SMALL_BYTES};
use writ_protocol::manager::{Instruction, Order, Poll, ReplyBody, Task, Work};
use writ_protocol::time::Timestamp;

use crate::context::Manager;
use crate::notify;
use crate::store::{
    Change, EntityAdmission, EntityRow, Issued, KeepOrUndo, NewInstruction, StoreError, WaitingInstruction,
    unavailable,
};

/// Instructions of one entity that have not ended.
const MAX_OPEN: u64 = 1024;
/// An instruction without its envelope: with it, an entity still looks at it.
const MAX_TASK_BYTES: usize = MAX_SMALL_BYTES - 1024;
/// After an instruction may not be taken any more: time for one that was to be done and reported.
const REPORT_WITHIN: Duration = Duration::from_secs(60);

/// A well-formed wish of an operator.
#[derive(Debug)]
pub(crate) struct Request {
    /// The caller's id for it, so that asking twice is asking once.
    pub id: Option<InstructionId>,
    /// For whom, as asked; empty: for all that were let in.
    pub entities: Vec<String>,
    /// What.
    pub task: Task,
    /// How long it may wait for its entity.
    pub lifetime: Duration,
}

/// What issuing came to.
#[derive(Debug)]
pub(crate) struct Issuance {
    /// The instruction.
    pub id: InstructionId,
    /// Names of entities that `all` left out, because they have too much they have not ended.
    pub left_out: Vec<String>,
}

/// Records an instruction and has its entities call, where they can be called.
///
/// # Errors
/// When an entity was not let in or has too much to do, or the id is another instruction's.
pub(crate) async fn issue(
    manager: &Arc<Manager>,
    actor: &Actor,
    request: Request,
) -> Result<Issuance, Failure> {
    let Request { id, entities, task, lifetime } = request;
    let first = first_fingerprint(actor, &entities, &task, lifetime);
    let fingerprint = fingerprint(actor, &entities, &task, lifetime);
    if let Some(id) = id {
        // Before resolving: entities may have come and gone since the first time.
        match manager.store.request_of(id).await.map_err(unavailable)? {
            Some(known) if known == fingerprint || known == first => {
                return Ok(Issuance { id, left_out: Vec::new() });
            }
            Some(_) => return Err(taken(id)),
            None => {}
        }
    }
    let now = manager.now();
    let (entities, left_out) = choose(manager, entities).await?;
    let expires_at = now + lifetime;
    let longest = match &task {
        Task::Dispatch { lifetime, .. } => *lifetime,
        Task::AskStatus | Task::ChangeCommunication { .. } => Duration::ZERO,
    };
    let kind = describe(&task);
    let template = Instruction {
        manager: manager.id,
        entity: EntityId::from_bytes([0; 16]),
        // Placeholders: each entity gets its own when it is handed over.
        epoch: 1,
        sequence: 1,
        issued_at: now,
        expires_at,
        requested_by: actor.name.clone(),
        task,
    };
    let task = template.encode();
    if task.len() > MAX_TASK_BYTES {
        let text = format!("is {} bytes; an instruction holds at most {MAX_TASK_BYTES}", task.len());
        return Err(Failure::invalid("task", text));
    }
    let new = NewInstruction {
        id: id.unwrap_or_else(|| InstructionId::generate(now)),
        request: fingerprint,
        kind: kind.clone(),
        task,
        issued_by: actor.name.clone(),
        issued_at: now,
        expires_at,
        ends_at: expires_at + longest + REPORT_WITHIN,
    };
    let (id, targets) = (new.id, entities.clone());
    let issued = manager.store.change(move |change| change.issue(&new, &targets).map(KeepOrUndo::Keep)).await;
    match issued.map_err(unavailable)? {
        Issued::New => {}
        Issued::Known => return Ok(Issuance { id, left_out }),
        Issued::Taken => return Err(taken(id)),
    }
    info!(
        target: "audit",
        { instruction.id = %id, actor = actor.name, kind, entities = entities.len() },
        "instruction issued"
    );
    for entity in &entities {
        notify::call(manager, entity);
    }
    Ok(Issuance { id, left_out })
}

/// What timed out is open no more, from the moment somebody looks.
///
/// # Errors
/// When the store fails.
pub(crate) async fn time_out(manager: &Manager) -> Result<(), Failure> {
    let now = manager.now();
    manager.store.change(move |change| change.time_out(now).map(KeepOrUndo::Keep)).await.map_err(unavailable)
}

/// Identifies a request: [`Digest::of_parts`] of the instruction as it would be handed over at time zero,
/// which names the operator, the lifetime and the task, and of the entities as asked.
fn fingerprint(actor: &Actor, entities: &[String], task: &Task, lifetime: Duration) -> Digest {
    let instruction = Instruction {
        manager: ManagerId::from_bytes([0; 16]),
        entity: EntityId::from_bytes([0; 16]),
        epoch: 1,
        sequence: 1,
        issued_at: Timestamp::ZERO,
        expires_at: Timestamp::ZERO + lifetime,
        requested_by: actor.name.clone(),
        task: task.clone(),
    };
    let instruction = instruction.encode();
    let names = entities.iter().map(String::as_bytes);
    Digest::of_parts(std::iter::once(instruction.as_ref()).chain(names))
}

/// The same as the first builds stored it. Instructions are kept, so this stays.
fn first_fingerprint(actor: &Actor, entities: &[String], task: &Task, lifetime: Duration) -> Digest {
    Digest::of(format!("{:?}", (&actor.name, entities, task, lifetime)).as_bytes())
}

fn taken(id: InstructionId) -> Failure {
    Failure::exists(format!(
        "instruction {id} exists and is a different one; leave the id away for a new one"
    ))
}

/// The entities that are meant, strictly ascending, and those that `all` leaves out.
async fn choose(manager: &Manager, names: Vec<String>) -> Result<(Vec<EntityRow>, Vec<String>), Failure> {
    time_out(manager).await?;
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    if names.is_empty() {
        let rows = manager.store.all_entities().await.map_err(unavailable)?;
        for entity in rows.into_iter().filter(|row| row.admission == EntityAdmission::Approved) {
            if entity.open < MAX_OPEN {
                chosen.push(entity)
            } else {
                left_out.push(entity.registration.display_name)
            }
        }
    }
    for name in names {
        let entity = manager.find_entity(&name).await?;
        if entity.admission != EntityAdmission::Approved {
            let text = format!("`{name}` was not let in: approve it first");
            return Err(Failure::precondition("entity_not_approved", text));
        }
        if entity.open >= MAX_OPEN {
            let text = format!("`{name}` has {MAX_OPEN} instructions it has not ended; is it active?");
            return Err(Failure::exhausted(text));
        }
        chosen.push(entity);
    }
    if chosen.is_empty() {
        return Err(Failure::precondition(
            "no_entities",
            "there is no entity that was let in and can take more",
        ));
    }
    chosen.sort_by_key(|row| row.id);
    chosen.dedup_by_key(|row| row.id);
    Ok((chosen, left_out))
}

/// What a poll is answered.
///
/// # Errors
/// When the database fails.
pub(crate) fn work(
    manager: &Manager,
    change: &mut Change<'_>,
    entity: &EntityRow,
    poll: Poll,
    now: Timestamp,
) -> Result<ReplyBody, StoreError> {
    let Poll { after, outcomes } = poll;
    for ended in change.note_outcomes(entity, &outcomes, now)? {
        info!(instruction.id = %ended, entity.id = %entity.id, "instruction ended");
    }
    let limit = u32::try_from(MAX_INSTRUCTIONS + 1).unwrap_or(u32::MAX);
    let mut waiting = change.take_waiting(entity, after, limit, now)?;
    let has_more = waiting.len() > MAX_INSTRUCTIONS;
    waiting.truncate(MAX_INSTRUCTIONS);
    let instructions = waiting.iter().filter_map(|one| sealed(manager, entity, one)).collect();
    Ok(ReplyBody::Work(Work { instructions, has_more, sandbox_connected: manager.is_sandbox_connected }))
}

/// Signed when it is handed over: by the key that counts then.
fn sealed(manager: &Manager, entity: &EntityRow, waiting: &WaitingInstruction) -> Option<bytes::Bytes> {
    let Some(template) = Instruction::decode(&waiting.task) else {
        warn!(entity.id = %entity.id, waiting.sequence, "a stored instruction is damaged and is not handed over");
        return None;
    };
    let whole =
        Instruction { entity: entity.id, epoch: entity.epoch, sequence: waiting.sequence, ..template };
    Some(manager.instruct(&whole))
}

/// A task for people.
#[must_use]
pub(crate) fn describe(task: &Task) -> String {
    let short =
        |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect::<String>();
    match task {
        Task::Dispatch { order, selector, .. } => {
            let mut text = match order {
                Order::Ping => "ping".to_owned(),
                Order::Run { name, parameters } => {
                    let shown = parameters.iter().map(|(name, value)| format!(" {name}={}", short(value)));
                    format!("run {name}{}", shown.collect::<String>())
                }
            };
            if !selector.is_empty() {
                text.push_str(&format!(" on {}", short(selector)));
            }
            text
        }
        Task::AskStatus => "ask status".to_owned(),
        Task::ChangeCommunication { heartbeat, abnormal_after } => {
            format!("change communication: heartbeat {heartbeat:?}, abnormal after {abnormal_after:?}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use writ_common::admin::Role;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn by(name: &str) -> Actor {
        Actor {
            name: name.to_owned(),
            role: Role::Operator,
            method: "/a/B",
            request: None,
            scope: writ_common::admin::operators::Scope::default(),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn two_requests_are_the_same_if_all_of_them_is() {
        let ping = Task::Dispatch { selector: String::new(), order: Order::Ping, lifetime: MINUTE };
        let (anna, one) = (by("anna"), names(&["one"]));
        let all = [
            fingerprint(&anna, &one, &Task::AskStatus, MINUTE),
            fingerprint(&by("bert"), &one, &Task::AskStatus, MINUTE),
            fingerprint(&anna, &names(&["one", "two"]), &Task::AskStatus, MINUTE),
            fingerprint(&anna, &names(&["onetwo"]), &Task::AskStatus, MINUTE),
            fingerprint(&anna, &one, &ping, MINUTE),
            fingerprint(&anna, &one, &Task::AskStatus, MINUTE * 2),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(fingerprint(&anna, &one, &Task::AskStatus, MINUTE), all[0]);
    }

    #[test]
    fn a_request_that_the_first_builds_stored_is_known() {
        let stored = Digest::of(br#"("anna", ["one"], AskStatus, 60s)"#);
        assert_eq!(first_fingerprint(&by("anna"), &names(&["one"]), &Task::AskStatus, MINUTE), stored);
    }
}
