//! `writ.manager.v1`: the line between a server and its Control Manager.

use std::time::Duration;

use bytes::Bytes;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_call::Body as Call;
use writ_proto::manager::v1::instruction::Task as ProtoTask;
use writ_proto::manager::v1::reply::Body as Answer;

use super::field::{self, invalid, missing};
use crate::envelope::InvalidDocument;
use crate::limits::{MAX_ADDRESSES, MAX_INSTRUCTIONS, MAX_OUTCOMES, MAX_PARAMETER_BYTES, MAX_PARAMETERS};
use crate::manager::{
    CallBody, EntityCall, Instruction, Mode, Order, Outcome, Poll, ProbeAnswer, Registration, Rejection,
    RejectionCode, Reply, ReplyBody, Standing, Task, TaskState, Work,
};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn optional<T>(
    bytes: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, InvalidDocument>,
) -> Result<Option<T>, InvalidDocument> {
    if bytes.is_empty() { Ok(None) } else { read(bytes).map(Some) }
}

impl TryFrom<proto::EntityCall> for EntityCall {
    type Error = InvalidDocument;

    fn try_from(message: proto::EntityCall) -> Result<Self, InvalidDocument> {
        let proto::EntityCall { entity_key, epoch, counter, sent_at_ms, body } = message;
        Ok(Self {
            key: field::public_key("entity_key", &entity_key)?,
            epoch,
            counter,
            sent_at: field::time("sent_at_ms", sent_at_ms)?,
            body: match body.ok_or_else(|| missing("body"))? {
                Call::Register(registration) => CallBody::Register(registration.try_into()?),
                Call::Update(registration) => CallBody::Update(registration.try_into()?),
                Call::Unregister(proto::Departure {}) => CallBody::Unregister,
                Call::Poll(poll) => CallBody::Poll(poll.try_into()?),
            },
        })
    }
}

impl From<&EntityCall> for proto::EntityCall {
    fn from(call: &EntityCall) -> Self {
        let EntityCall { key, epoch, counter, sent_at, body } = call;
        Self {
            entity_key: key.spki().to_vec().into(),
            epoch: *epoch,
            counter: *counter,
            sent_at_ms: sent_at.as_millis(),
            body: Some(match body {
                CallBody::Register(registration) => Call::Register(registration.into()),
                CallBody::Update(registration) => Call::Update(registration.into()),
                CallBody::Unregister => Call::Unregister(proto::Departure {}),
                CallBody::Poll(poll) => Call::Poll(poll.into()),
            }),
        }
    }
}

impl TryFrom<proto::Registration> for Registration {
    type Error = InvalidDocument;

    fn try_from(message: proto::Registration) -> Result<Self, InvalidDocument> {
        let proto::Registration {
            display_name,
            host_name,
            product,
            version,
            addresses,
            mode,
            forwarding_address,
            notify_leaf_spki_digest,
            entity_id,
            token,
            heartbeat_ms,
            abnormal_after_ms,
        } = message;
        if addresses.len() > MAX_ADDRESSES {
            return Err(invalid("addresses", "must be at most 16"));
        }
        let mode = match proto::Mode::try_from(mode) {
            Ok(proto::Mode::OneWay)
                if forwarding_address.is_empty() && notify_leaf_spki_digest.is_empty() =>
            {
                Mode::OneWay
            }
            Ok(proto::Mode::OneWay) => {
                return Err(invalid("forwarding_address", "must be empty in one-way mode"));
            }
            Ok(proto::Mode::TwoWay) => Mode::TwoWay {
                forwarding: field::name("forwarding_address", forwarding_address)?,
                leaf_spki_digest: field::digest("notify_leaf_spki_digest", &notify_leaf_spki_digest)?,
            },
            Ok(proto::Mode::Unspecified) | Err(_) => return Err(invalid("mode", "is not one we know")),
        };
        let (heartbeat, abnormal_after) =
            (Duration::from_millis(heartbeat_ms), Duration::from_millis(abnormal_after_ms));
        if heartbeat.is_zero() || abnormal_after < heartbeat * 3 {
            return Err(invalid("abnormal_after_ms", "must be at least three heartbeats"));
        }
        Ok(Self {
            display_name: field::name("display_name", display_name)?,
            host_name: field::name("host_name", host_name)?,
            product: field::name("product", product)?,
            version: field::name("version", version)?,
            addresses: addresses
                .into_iter()
                .map(|address| field::name("addresses", address))
                .collect::<Result<_, _>>()?,
            mode,
            entity: optional(&entity_id, |bytes| field::entity("entity_id", bytes))?,
            token: optional(&token, |bytes| field::nonce("token", bytes))?,
            heartbeat,
            abnormal_after,
        })
    }
}

impl From<&Registration> for proto::Registration {
    fn from(registration: &Registration) -> Self {
        let Registration {
            display_name,
            host_name,
            product,
            version,
            addresses,
            mode,
            entity,
            token,
            heartbeat,
            abnormal_after,
        } = registration;
        let (mode, forwarding_address, leaf) = match mode {
            Mode::OneWay => (proto::Mode::OneWay, String::new(), Bytes::new()),
            Mode::TwoWay { forwarding, leaf_spki_digest } => {
                (proto::Mode::TwoWay, forwarding.clone(), leaf_spki_digest.as_bytes().to_vec().into())
            }
        };
        Self {
            display_name: display_name.clone(),
            host_name: host_name.clone(),
            product: product.clone(),
            version: version.clone(),
            addresses: addresses.clone(),
            mode: mode.into(),
            forwarding_address,
            notify_leaf_spki_digest: leaf,
            entity_id: entity.map_or_else(Bytes::new, |entity| entity.as_bytes().to_vec().into()),
            token: token.map_or_else(Bytes::new, |token| token.to_vec().into()),
            heartbeat_ms: millis(*heartbeat),
            abnormal_after_ms: millis(*abnormal_after),
        }
    }
}

impl TryFrom<proto::Poll> for Poll {
    type Error = InvalidDocument;

    fn try_from(message: proto::Poll) -> Result<Self, InvalidDocument> {
        let proto::Poll { after, outcomes } = message;
        if outcomes.len() > MAX_OUTCOMES {
            return Err(invalid("outcomes", "must be at most 64"));
        }
        Ok(Self { after, outcomes: outcomes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()? })
    }
}

impl From<&Poll> for proto::Poll {
    fn from(poll: &Poll) -> Self {
        let Poll { after, outcomes } = poll;
        Self { after: *after, outcomes: outcomes.iter().map(Into::into).collect() }
    }
}

impl TryFrom<proto::Outcome> for Outcome {
    type Error = InvalidDocument;

    fn try_from(message: proto::Outcome) -> Result<Self, InvalidDocument> {
        let proto::Outcome { sequence, state, detail, command_id, total, done, failed } = message;
        Ok(Self {
            sequence,
            state: match proto::InstructionState::try_from(state) {
                Ok(proto::InstructionState::InProgress) => TaskState::InProgress,
                Ok(proto::InstructionState::Successful) => TaskState::Successful,
                Ok(proto::InstructionState::Unsuccessful) => TaskState::Unsuccessful,
                Ok(proto::InstructionState::Unspecified) | Err(_) => {
                    return Err(invalid("state", "is not one we know"));
                }
            },
            detail: field::text("detail", detail)?,
            command: optional(&command_id, |bytes| field::command("command_id", bytes))?,
            total,
            done,
            failed,
        })
    }
}

impl From<&Outcome> for proto::Outcome {
    fn from(outcome: &Outcome) -> Self {
        let Outcome { sequence, state, detail, command, total, done, failed } = outcome;
        let state = match state {
            TaskState::InProgress => proto::InstructionState::InProgress,
            TaskState::Successful => proto::InstructionState::Successful,
            TaskState::Unsuccessful => proto::InstructionState::Unsuccessful,
        };
        Self {
            sequence: *sequence,
            state: state.into(),
            detail: detail.clone(),
            command_id: command.map_or_else(Bytes::new, |command| command.as_bytes().to_vec().into()),
            total: *total,
            done: *done,
            failed: *failed,
        }
    }
}

impl TryFrom<proto::Reply> for Reply {
    type Error = InvalidDocument;

    fn try_from(message: proto::Reply) -> Result<Self, InvalidDocument> {
        let proto::Reply { request_digest, time_ms, body } = message;
        Ok(Self {
            request: field::digest("request_digest", &request_digest)?,
            time: field::time("time_ms", time_ms)?,
            body: match body.ok_or_else(|| missing("body"))? {
                Answer::Probe(probe) => ReplyBody::Probe(probe.try_into()?),
                Answer::Registered(standing) => ReplyBody::Registered(standing.try_into()?),
                Answer::Left(proto::Left {}) => ReplyBody::Left,
                Answer::Work(work) => ReplyBody::Work(work.try_into()?),
                Answer::Rejected(rejection) => ReplyBody::Rejected(rejection.try_into()?),
            },
        })
    }
}

impl From<&Reply> for proto::Reply {
    fn from(reply: &Reply) -> Self {
        let Reply { request, time, body } = reply;
        Self {
            request_digest: request.as_bytes().to_vec().into(),
            time_ms: time.as_millis(),
            body: Some(match body {
                ReplyBody::Probe(probe) => Answer::Probe(probe.into()),
                ReplyBody::Registered(standing) => Answer::Registered(standing.into()),
                ReplyBody::Left => Answer::Left(proto::Left {}),
                ReplyBody::Work(work) => Answer::Work(work.into()),
                ReplyBody::Rejected(rejection) => Answer::Rejected(rejection.into()),
            }),
        }
    }
}

impl TryFrom<proto::ProbeAnswer> for ProbeAnswer {
    type Error = InvalidDocument;

    fn try_from(message: proto::ProbeAnswer) -> Result<Self, InvalidDocument> {
        let proto::ProbeAnswer {
            manager_id,
            version,
            protocol,
            sandbox_connected,
            callback,
            callback_detail,
        } = message;
        let detail = field::text("callback_detail", callback_detail)?;
        let callback = match proto::CallbackOutcome::try_from(callback) {
            Ok(proto::CallbackOutcome::NotAsked) if detail.is_empty() => None,
            Ok(proto::CallbackOutcome::Delivered) if detail.is_empty() => Some(Ok(())),
            Ok(proto::CallbackOutcome::Failed) => Some(Err(detail)),
            Ok(_) | Err(_) => return Err(invalid("callback", "is not one we know")),
        };
        Ok(Self {
            manager: field::manager("manager_id", &manager_id)?,
            version: version.parse().map_err(|error: String| invalid("version", error))?,
            protocol,
            sandbox_connected,
            callback,
        })
    }
}

impl From<&ProbeAnswer> for proto::ProbeAnswer {
    fn from(answer: &ProbeAnswer) -> Self {
        let ProbeAnswer { manager, version, protocol, sandbox_connected, callback } = answer;
        let (outcome, detail) = match callback {
            None => (proto::CallbackOutcome::NotAsked, String::new()),
            Some(Ok(())) => (proto::CallbackOutcome::Delivered, String::new()),
            Some(Err(detail)) => (proto::CallbackOutcome::Failed, detail.clone()),
        };
        Self {
            manager_id: manager.as_bytes().to_vec().into(),
            version: version.to_string(),
            protocol: *protocol,
            sandbox_connected: *sandbox_connected,
            callback: outcome.into(),
            callback_detail: detail,
        }
    }
}

impl TryFrom<proto::Standing> for Standing {
    type Error = InvalidDocument;

    fn try_from(message: proto::Standing) -> Result<Self, InvalidDocument> {
        let proto::Standing { entity_id, epoch, approved, manager_id, version, sandbox_connected } = message;
        Ok(Self {
            entity: field::entity("entity_id", &entity_id)?,
            epoch,
            is_approved: approved,
            manager: field::manager("manager_id", &manager_id)?,
            version: version.parse().map_err(|error: String| invalid("version", error))?,
            sandbox_connected,
        })
    }
}

impl From<&Standing> for proto::Standing {
    fn from(standing: &Standing) -> Self {
        let Standing { entity, epoch, is_approved, manager, version, sandbox_connected } = standing;
        Self {
            entity_id: entity.as_bytes().to_vec().into(),
            epoch: *epoch,
            approved: *is_approved,
            manager_id: manager.as_bytes().to_vec().into(),
            version: version.to_string(),
            sandbox_connected: *sandbox_connected,
        }
    }
}

impl TryFrom<proto::Work> for Work {
    type Error = InvalidDocument;

    fn try_from(message: proto::Work) -> Result<Self, InvalidDocument> {
        let proto::Work { instructions, more, sandbox_connected } = message;
        if instructions.len() > MAX_INSTRUCTIONS {
            return Err(invalid("instructions", "must be at most 16"));
        }
        Ok(Self { instructions, has_more: more, sandbox_connected })
    }
}

impl From<&Work> for proto::Work {
    fn from(work: &Work) -> Self {
        let Work { instructions, has_more, sandbox_connected } = work;
        Self { instructions: instructions.clone(), more: *has_more, sandbox_connected: *sandbox_connected }
    }
}

const CODES: [(RejectionCode, proto::RejectionCode); 7] = [
    (RejectionCode::UnknownEntity, proto::RejectionCode::UnknownEntity),
    (RejectionCode::RejectedEntity, proto::RejectionCode::RejectedEntity),
    (RejectionCode::NotApproved, proto::RejectionCode::NotApproved),
    (RejectionCode::Replayed, proto::RejectionCode::Replayed),
    (RejectionCode::ClockSkew, proto::RejectionCode::ClockSkew),
    (RejectionCode::TokenRefused, proto::RejectionCode::TokenRefused),
    (RejectionCode::InvalidRegistration, proto::RejectionCode::InvalidRegistration),
];

impl TryFrom<proto::Rejection> for Rejection {
    type Error = InvalidDocument;

    fn try_from(message: proto::Rejection) -> Result<Self, InvalidDocument> {
        let proto::Rejection { code, detail } = message;
        let known = CODES.into_iter().find(|(_, known)| i32::from(*known) == code);
        let (code, _) = known.ok_or_else(|| invalid("code", "is not one we know"))?;
        Ok(Self { code, detail: field::text("detail", detail)? })
    }
}

impl From<&Rejection> for proto::Rejection {
    fn from(rejection: &Rejection) -> Self {
        let Rejection { code, detail } = rejection;
        let known = CODES.into_iter().find(|(ours, _)| ours == code);
        let (_, code) = known.expect("CODES names every code");
        Self { code: code.into(), detail: detail.clone() }
    }
}

impl TryFrom<proto::Instruction> for Instruction {
    type Error = InvalidDocument;

    fn try_from(message: proto::Instruction) -> Result<Self, InvalidDocument> {
        let proto::Instruction {
            manager_id,
            entity_id,
            epoch,
            sequence,
            issued_at_ms,
            expires_at_ms,
            requested_by,
            task,
        } = message;
        let issued_at = field::time("issued_at_ms", issued_at_ms)?;
        let expires_at = field::time("expires_at_ms", expires_at_ms)?;
        if expires_at <= issued_at || sequence == 0 || epoch == 0 {
            return Err(invalid(
                "expires_at_ms",
                "must be later than issued_at_ms, sequence and epoch from 1",
            ));
        }
        Ok(Self {
            manager: field::manager("manager_id", &manager_id)?,
            entity: field::entity("entity_id", &entity_id)?,
            epoch,
            sequence,
            issued_at,
            expires_at,
            requested_by: field::name("requested_by", requested_by)?,
            task: match task.ok_or_else(|| missing("task"))? {
                ProtoTask::Dispatch(dispatch) => dispatch.try_into()?,
                ProtoTask::AskStatus(proto::AskStatus {}) => Task::AskStatus,
                ProtoTask::ChangeCommunication(change) => {
                    let proto::ChangeCommunication { heartbeat_ms, abnormal_after_ms } = change;
                    Task::ChangeCommunication {
                        heartbeat: Duration::from_millis(heartbeat_ms),
                        abnormal_after: Duration::from_millis(abnormal_after_ms),
                    }
                }
            },
        })
    }
}

impl From<&Instruction> for proto::Instruction {
    fn from(instruction: &Instruction) -> Self {
        let Instruction { manager, entity, epoch, sequence, issued_at, expires_at, requested_by, task } =
            instruction;
        Self {
            manager_id: manager.as_bytes().to_vec().into(),
            entity_id: entity.as_bytes().to_vec().into(),
            epoch: *epoch,
            sequence: *sequence,
            issued_at_ms: issued_at.as_millis(),
            expires_at_ms: expires_at.as_millis(),
            requested_by: requested_by.clone(),
            task: Some(match task {
                Task::Dispatch { selector, order, lifetime } => ProtoTask::Dispatch(proto::Dispatch {
                    selector: selector.clone(),
                    action: Some(order.into()),
                    lifetime_ms: millis(*lifetime),
                }),
                Task::AskStatus => ProtoTask::AskStatus(proto::AskStatus {}),
                Task::ChangeCommunication { heartbeat, abnormal_after } => {
                    ProtoTask::ChangeCommunication(proto::ChangeCommunication {
                        heartbeat_ms: millis(*heartbeat),
                        abnormal_after_ms: millis(*abnormal_after),
                    })
                }
            }),
        }
    }
}

impl TryFrom<proto::Dispatch> for Task {
    type Error = InvalidDocument;

    fn try_from(message: proto::Dispatch) -> Result<Self, InvalidDocument> {
        use proto::dispatch::Action;
        let proto::Dispatch { selector, action, lifetime_ms } = message;
        let order = match action.ok_or_else(|| missing("action"))? {
            Action::Ping(proto::PingTask {}) => Order::Ping,
            Action::Run(proto::ActionTask { name, arguments }) => {
                if arguments.len() > MAX_PARAMETERS {
                    return Err(invalid("arguments", "must be at most 64"));
                }
                let argument = |proto::Argument { name, value }| {
                    if value.len() > MAX_PARAMETER_BYTES {
                        return Err(invalid("arguments", "must have values of at most 4096 bytes"));
                    }
                    Ok((field::name("arguments", name)?, value))
                };
                Order::Run {
                    name: field::name("name", name)?,
                    parameters: arguments.into_iter().map(argument).collect::<Result<_, _>>()?,
                }
            }
        };
        let lifetime = Duration::from_millis(lifetime_ms);
        Ok(Self::Dispatch { selector: field::text("selector", selector)?, order, lifetime })
    }
}

impl From<&Order> for proto::dispatch::Action {
    fn from(order: &Order) -> Self {
        match order {
            Order::Ping => Self::Ping(proto::PingTask {}),
            Order::Run { name, parameters } => {
                let argument = |(name, value): &(String, String)| proto::Argument {
                    name: name.clone(),
                    value: value.clone(),
                };
                let arguments = parameters.iter().map(argument).collect();
                Self::Run(proto::ActionTask { name: name.clone(), arguments })
            }
        }
    }
}
