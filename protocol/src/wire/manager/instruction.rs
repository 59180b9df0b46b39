//! What a manager tells a server to do.

use std::time::Duration;

use prost::Message as _;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::instruction::Task as ProtoTask;

use super::super::field::{self, invalid, missing};
use super::millis;
use crate::envelope::InvalidDocument;
use crate::limits::{MAX_PARAMETER_BYTES, MAX_PARAMETERS};
use crate::manager::{Instruction, Order, Task};

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

impl Instruction {
    /// Its bytes: what is signed, and what a program stores.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::Instruction::from(self).encode_to_vec()
    }

    /// An instruction from such bytes; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        proto::Instruction::decode(bytes).ok()?.try_into().ok()
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
