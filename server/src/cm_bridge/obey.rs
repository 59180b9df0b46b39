//! What the manager says: taken once, in order, and only under its authority; done through the same door as
//! an operator's commands.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::{self, error::RecvError};
use tracing::{info, warn};
use writ_common::admin::operators::Scope;
use writ_common::admin::{Actor, AdminBackend as _, AuditLog, AuditedCall, Role};
use writ_common::status::Failure;
use writ_protocol::command::{Action, NamedAction};
use writ_protocol::envelope::{Candidate, InstructionPurpose, claimed_keyid, verify};
use writ_protocol::id::{CommandId, Digest, EntityId, ManagerId};
use writ_protocol::keys::PublicKey;
use writ_protocol::limits::{MAX_DETAIL_BYTES, MAX_INSTRUCTIONS, MAX_NAME_BYTES, SKEW};
use writ_protocol::manager::{Instruction, Order, Outcome, Task, TaskState};
use writ_protocol::time::Timestamp;

use super::{BridgeGuard, ManagerRecord, Registration, State, Uplink, register};
use crate::choose::{self, Selection};
use crate::store::{Alarm, AlertKind, SERVER, StoreError, TakenRow};
use crate::submit::{self, Expectations, Request};

/// Outcomes in one poll ([`writ_protocol::limits::MAX_OUTCOMES`]), and instructions acted on before the next.
const MAX_AT_ONCE: u32 = 64;
/// What commands of the manager are asked for by, before its operator's name.
const ACTOR: &str = "control-manager";

/// Refused instructions remembered: more than one answer holds.
const REFUSED_LATELY: usize = 4 * MAX_INSTRUCTIONS;

/// Why an instruction is not taken. The names are stable (docs/control-manager.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstructionRejection {
    /// Its seal does not hold under the authority that was uploaded.
    NotSigned,
    /// The registration has no certificate authorization.
    NotAuthorized,
    /// Another manager's.
    WrongManager,
    /// For another entity.
    WrongEntity,
    /// Of another registration.
    WrongRegistration,
    /// One of before.
    Replayed,
    /// From the future.
    NotYetValid,
}

impl InstructionRejection {
    /// Its name.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NotSigned => "not_signed",
            Self::NotAuthorized => "not_authorized",
            Self::WrongManager => "wrong_manager",
            Self::WrongEntity => "wrong_entity",
            Self::WrongRegistration => "wrong_registration",
            Self::Replayed => "replayed",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

/// Takes an instruction, or refuses it, which changes nothing and is told here alone. In a turn: a
/// registration that ended while the manager answered takes nothing any more.
///
/// # Errors
/// When the store fails.
pub(super) async fn take(
    uplink: &Uplink,
    held: &BridgeGuard,
    key: &PublicKey,
    envelope: &Bytes,
) -> Result<(), StoreError> {
    let now = uplink.server.clock.wall();
    let last = uplink.server.store.last_taken(held.registration.epoch).await?;
    match check_instruction(&held.registration, key, envelope, last, now) {
        Ok(instruction) => {
            let is_late = instruction.expires_at <= now;
            let taken = TakenRow {
                epoch: instruction.epoch,
                sequence: instruction.sequence,
                instruction: instruction.encode().into(),
                command: CommandId::generate(now),
                state: if is_late { TaskState::Unsuccessful } else { TaskState::InProgress },
                detail: if is_late { "expired before it came".to_owned() } else { String::new() },
            };
            info!(
                target: "audit",
                {
                    sequence = instruction.sequence,
                    requested_by = instruction.requested_by,
                    task = ?instruction.task,
                    is_late
                },
                "instruction of the Control Manager taken"
            );
            uplink.server.store.take_instruction(taken, now).await?;
            writ_common::checkpoint!("instruction_taken");
            Ok(())
        }
        Err((code, detail)) => {
            // What was refused is handed over again with each answer: it is told once.
            let digest = Digest::of(envelope);
            {
                let mut live = uplink.bridge.live();
                if live.refused_lately.contains(&digest) {
                    return Ok(());
                }
                live.refused_lately.push_front(digest);
                live.refused_lately.truncate(REFUSED_LATELY);
            }
            let claimed = claimed_keyid(envelope).unwrap_or_default();
            warn!(code = code.as_str(), detail, claimed, "instruction refused");
            uplink.bridge.live().refused += 1;
            let alarm = Alarm {
                kind: AlertKind::InstructionRefused,
                code: code.as_str(),
                agent: SERVER,
                count: 1,
                detail: format!(
                    "An instruction signed as `{claimed}` was refused: {detail}. It changed nothing."
                ),
            };
            uplink.server.store.raise(alarm, None, now).await
        }
    }
}

/// The checks, in their order.
fn check_instruction(
    registration: &Registration,
    key: &PublicKey,
    envelope: &[u8],
    last: u64,
    now: Timestamp,
) -> Result<Instruction, (InstructionRejection, String)> {
    if !registration.is_authorized {
        let why = "this registration has no certificate authorization, so nobody can say whose it is";
        return Err((InstructionRejection::NotAuthorized, why.to_owned()));
    }
    let verified = verify::<InstructionPurpose>(envelope, &[Candidate::accepted(key)], 1)
        .map_err(|refusal| (InstructionRejection::NotSigned, refusal.to_string()))?;
    let instruction = verified.into_document();
    if registration.manager.map(ManagerId::from_bytes) != Some(instruction.manager) {
        return Err((InstructionRejection::WrongManager, format!("it is manager {}'s", instruction.manager)));
    }
    if registration.entity.map(EntityId::from_bytes) != Some(instruction.entity) {
        return Err((InstructionRejection::WrongEntity, format!("it is for entity {}", instruction.entity)));
    }
    if instruction.epoch != registration.epoch {
        let why = format!("it is of registration {}, not {}", instruction.epoch, registration.epoch);
        return Err((InstructionRejection::WrongRegistration, why));
    }
    if instruction.sequence <= last {
        return Err((
            InstructionRejection::Replayed,
            format!("it is number {}, and {last} was taken", instruction.sequence),
        ));
    }
    if instruction.issued_at > now + SKEW {
        return Err((
            InstructionRejection::NotYetValid,
            format!("it was made at {}, later than now", instruction.issued_at),
        ));
    }
    Ok(instruction)
}

/// Acts on what was taken and not acted on: now, or after a crash. A command has its id from before, so that
/// it becomes one.
///
/// # Errors
/// When the store fails.
pub(super) async fn act(uplink: &Arc<Uplink>, epoch: u64) -> Result<(), StoreError> {
    // The end of the registration waits for what has begun, and nothing begins after it.
    for taken in uplink.server.store.unacted(epoch, MAX_AT_ONCE).await? {
        let mut turn = uplink.bridge.turn().await;
        if turn.registration.epoch != epoch || turn.registration.state != State::Registered {
            return Ok(());
        }
        let place = (taken.epoch, taken.sequence);
        let (state, detail) = match perform(uplink, &mut turn, &taken).await {
            Ok((state, detail)) => (state, detail),
            Err(failure) => (TaskState::Unsuccessful, failure.message().to_owned()),
        };
        let detail = shortened(detail);
        info!(target: "audit", { sequence = taken.sequence, ?state, detail }, "instruction acted on");
        uplink.server.store.note_taken(place, state, detail).await?;
        uplink.bridge.open_commands().insert(taken.command);
        uplink.bridge.poke.notify_one();
    }
    Ok(())
}

fn shortened(mut detail: String) -> String {
    while detail.len() > MAX_DETAIL_BYTES {
        detail.pop();
    }
    detail
}

async fn perform(
    uplink: &Arc<Uplink>,
    turn: &mut BridgeGuard,
    taken: &TakenRow,
) -> Result<(TaskState, String), Failure> {
    let stored = Instruction::decode(&taken.instruction);
    let Some(Instruction { requested_by, task, expires_at, .. }) = stored else {
        return Ok((TaskState::Unsuccessful, "the stored instruction is damaged".to_owned()));
    };
    // Submitted before a crash: what becomes of it is the command's.
    if uplink.server.store.command(taken.command).await.map_err(crate::store::unavailable)?.is_some() {
        return Ok((TaskState::InProgress, String::new()));
    }
    if expires_at <= uplink.server.clock.wall() {
        return Ok((TaskState::Unsuccessful, "expired before it could be acted on".to_owned()));
    }
    let mut name = format!("{ACTOR}/{requested_by}");
    while name.len() > MAX_NAME_BYTES {
        name.pop();
    }
    // What an operator may do, and nothing of what changes keys or people.
    let role = Role::Operator;
    let actor = Actor {
        name,
        role,
        method: method(&task),
        request: Some(Digest::of(&taken.instruction)),
        scope: Scope::default(),
    };
    let entry = |log, outcome| {
        let subject = format!("instruction {}", taken.sequence);
        AuditedCall { log, actor: actor.clone(), subject, sent: None, outcome }
    };
    uplink.server.write(entry(AuditLog::Tries, "asked")).await?;
    let done = carry_out(uplink, turn, (taken, task), &actor).await;
    match &done {
        // A command's row is written with the command.
        Ok(Done::Submitted) => {}
        Ok(Done::Looked(_)) => uplink.server.record(entry(AuditLog::Reads, "ok")).await,
        Ok(Done::Changed(_)) => uplink.server.record(entry(AuditLog::Changes, "ok")).await,
        Err(_) => uplink.server.record(entry(AuditLog::Tries, "failed")).await,
    }
    Ok(match done? {
        Done::Submitted => (TaskState::InProgress, String::new()),
        Done::Looked(detail) | Done::Changed(detail) => (TaskState::Successful, detail),
    })
}

/// What a task came to.
enum Done {
    /// A command, which goes on by itself.
    Submitted,
    /// It asked for something.
    Looked(String),
    /// It changed something.
    Changed(String),
}

async fn carry_out(
    uplink: &Arc<Uplink>,
    turn: &mut BridgeGuard,
    (taken, task): (&TakenRow, Task),
    actor: &Actor,
) -> Result<Done, Failure> {
    match task {
        Task::Dispatch { selector, order, lifetime } => {
            let selection = if selector.is_empty() {
                Selection::All
            } else {
                Selection::Matching(choose::parse(&selector)?)
            };
            let action = match order {
                Order::Ping => Action::Ping,
                Order::Run { name, mut parameters } => {
                    parameters.sort();
                    let action = NamedAction::new(name, parameters);
                    Action::Run(action.map_err(|error| Failure::invalid("run", error.to_string()))?)
                }
            };
            let (id, rollout, parent) = (Some(taken.command), None, None);
            // Who ordered it sees what becomes of it at each agent, and could not say that it should go all
            // the same.
            let (expects, secrets) = (Expectations::default(), BTreeSet::new());
            let request = Request { id, selection, lifetime, action, rollout, parent, expects, secrets };
            let _submitted = submit::submit(&uplink.server, actor, request).await?;
            Ok(Done::Submitted)
        }
        Task::AskStatus => {
            let unavailable = crate::store::unavailable;
            let enrolled = uplink.server.store.agent_ids(None).await.map_err(unavailable)?.len();
            let connected = uplink.server.dispatcher.registry().connected();
            let head = uplink.server.chain().head().bundle.version;
            let version = crate::VERSION;
            Ok(Done::Looked(format!(
                "writ-server {version}; agents {connected} connected of {enrolled}; trust bundle {head}"
            )))
        }
        Task::ChangeCommunication { heartbeat, abnormal_after } => {
            change_communication(uplink, turn, heartbeat, abnormal_after).await?;
            Ok(Done::Changed(format!("polls every {heartbeat:?}")))
        }
    }
}

/// What the audit log calls it.
const fn method(task: &Task) -> &'static str {
    match task {
        Task::Dispatch { .. } => "/writ.manager.v1.Instruction/Dispatch",
        Task::AskStatus => "/writ.manager.v1.Instruction/AskStatus",
        Task::ChangeCommunication { .. } => "/writ.manager.v1.Instruction/ChangeCommunication",
    }
}

/// In force at once, and told to the manager, which judges by it whether this server is silent.
async fn change_communication(
    uplink: &Uplink,
    turn: &mut BridgeGuard,
    heartbeat: Duration,
    abnormal_after: Duration,
) -> Result<(), Failure> {
    writ_protocol::manager::check_communication(heartbeat, abnormal_after)
        .map_err(|why| Failure::invalid("change_communication", why))?;
    let Some(mut settings) = turn.in_force.clone() else {
        return Err(Failure::precondition("manager_not_registered", "the registration ended meanwhile"));
    };
    (settings.heartbeat, settings.abnormal_after) = (heartbeat, abnormal_after);
    register::send_update(uplink, turn, settings).await?;
    let mut next = ManagerRecord::clone(turn);
    (next.saved.heartbeat, next.saved.abnormal_after) = (heartbeat, abnormal_after);
    uplink.keep_line(turn, next).await.map_err(crate::store::unavailable)
}

/// What the manager has not heard the end of, and how it stands; at most what one poll holds. Ends what has
/// ended.
///
/// # Errors
/// When the store fails.
pub(super) async fn outcomes(uplink: &Uplink, epoch: u64) -> Result<Vec<Outcome>, StoreError> {
    let mut rows = uplink.server.store.unreported(epoch, MAX_AT_ONCE).await?;
    let room = MAX_AT_ONCE - u32::try_from(rows.len()).unwrap_or(MAX_AT_ONCE);
    // What goes on is told in turns: a poll does not hold all of it.
    let told = uplink.bridge.live().told;
    let going_on = uplink.server.store.going_on(epoch, told, room).await?;
    let is_round = u32::try_from(going_on.len()).is_ok_and(|found| found < room);
    uplink.bridge.live().told = if is_round { 0 } else { going_on.last().map_or(0, |last| last.sequence) };
    rows.extend(going_on);
    let mut outcomes = Vec::new();
    for taken in rows {
        let command = uplink.server.store.command(taken.command).await?;
        let Some(command) = command else {
            let TakenRow { sequence, state, detail, .. } = taken;
            outcomes.push(Outcome { sequence, state, detail, command: None, total: 0, done: 0, failed: 0 });
            continue;
        };
        let progress = uplink.server.store.progress(taken.command).await?;
        let is_over = command.expires_at <= uplink.server.clock.wall();
        let open = progress.waiting + progress.delivered;
        let failed = progress.failed + progress.refused + progress.cancelled + if is_over { open } else { 0 };
        let (state, detail) = if open > 0 && !is_over {
            (TaskState::InProgress, String::new())
        } else if failed == 0 {
            (TaskState::Successful, String::new())
        } else {
            let detail = format!(
                "{failed} of {} agents did not do it: writ commands show {}",
                progress.targets, taken.command
            );
            (TaskState::Unsuccessful, detail)
        };
        if state == TaskState::InProgress {
            uplink.bridge.open_commands().insert(taken.command);
        } else {
            uplink.bridge.open_commands().remove(&taken.command);
            uplink.server.store.note_taken((taken.epoch, taken.sequence), state, detail.clone()).await?;
        }
        outcomes.push(Outcome {
            sequence: taken.sequence,
            state,
            detail,
            command: Some(taken.command),
            total: progress.targets,
            done: progress.done,
            failed,
        });
    }
    Ok(outcomes)
}

/// Returns when a command that an instruction became has changed.
pub(super) async fn something_changed(uplink: &Uplink, changes: &mut Option<broadcast::Receiver<CommandId>>) {
    // Most of the time nothing is open, and then every receipt of the fleet is none of our business.
    let Some(changes) = changes else { return std::future::pending().await };
    loop {
        match changes.recv().await {
            Ok(changed) if uplink.bridge.open_commands().contains(&changed) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
