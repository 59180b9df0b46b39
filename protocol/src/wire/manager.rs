//! `writ.manager.v1`: the line between a server and its Control Manager. Here what a server asks.

mod instruction;
mod reply;

use std::time::Duration;

use bytes::Bytes;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_call::Body as Call;

use super::field::{self, invalid, missing};
use crate::envelope::InvalidDocument;
use crate::limits::{MAX_ADDRESSES, MAX_OUTCOMES};
use crate::manager::{
    CallBody, EntityCall, Mode, ObjectsCall, Outcome, Poll, Registration, TaskState, TokenProof,
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
        let proto::EntityCall { entity_key, epoch, counter, sent_at_ms, manager_id, body } = message;
        Ok(Self {
            key: field::public_key("entity_key", &entity_key)?,
            epoch,
            counter,
            sent_at: field::time("sent_at_ms", sent_at_ms)?,
            manager: field::manager("manager_id", &manager_id)?,
            body: match body.ok_or_else(|| missing("body"))? {
                Call::Register(registration) => CallBody::Register(registration.try_into()?),
                Call::Update(registration) => CallBody::Update(registration.try_into()?),
                Call::Unregister(proto::Departure {}) => CallBody::Unregister,
                Call::Poll(poll) => CallBody::Poll(poll.try_into()?),
                Call::Subscribe(proto::Subscription { key }) => {
                    CallBody::Objects(ObjectsCall::Subscribe(field::public_key("key", &key)?))
                }
                Call::Unsubscribe(proto::Unsubscription {}) => CallBody::Objects(ObjectsCall::Unsubscribe),
                Call::Objects(proto::ObjectsWanted { held }) => CallBody::Objects(ObjectsCall::Fetch(held)),
            },
        })
    }
}

impl From<&EntityCall> for proto::EntityCall {
    fn from(call: &EntityCall) -> Self {
        let EntityCall { key, epoch, counter, sent_at, manager, body } = call;
        Self {
            entity_key: key.spki().to_vec().into(),
            epoch: *epoch,
            counter: *counter,
            sent_at_ms: sent_at.as_millis(),
            manager_id: manager.as_bytes().to_vec().into(),
            body: Some(match body {
                CallBody::Register(registration) => Call::Register(registration.into()),
                CallBody::Update(registration) => Call::Update(registration.into()),
                CallBody::Unregister => Call::Unregister(proto::Departure {}),
                CallBody::Poll(poll) => Call::Poll(poll.into()),
                CallBody::Objects(ObjectsCall::Subscribe(key)) => {
                    Call::Subscribe(proto::Subscription { key: key.spki().to_vec().into() })
                }
                CallBody::Objects(ObjectsCall::Unsubscribe) => Call::Unsubscribe(proto::Unsubscription {}),
                CallBody::Objects(ObjectsCall::Fetch(held)) => {
                    Call::Objects(proto::ObjectsWanted { held: *held })
                }
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
            token_id,
            token_proof,
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
                forwarding: field::endpoint("forwarding_address", forwarding_address)?,
                leaf_spki_digest: field::digest("notify_leaf_spki_digest", &notify_leaf_spki_digest)?,
            },
            Ok(proto::Mode::Unspecified) | Err(_) => return Err(invalid("mode", "is not one we know")),
        };
        let token = match optional(&token_id, |bytes| field::digest("token_id", bytes))? {
            Some(id) => Some(TokenProof { id, proof: field::nonce("token_proof", &token_proof)? }),
            None if token_proof.is_empty() => None,
            None => return Err(invalid("token_proof", "must be empty without a token_id")),
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
            token,
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
            token_id: token.map_or_else(Bytes::new, |token| token.id.as_bytes().to_vec().into()),
            token_proof: token.map_or_else(Bytes::new, |token| token.proof.to_vec().into()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{
        Candidate, EntityCallPurpose, InstructionPurpose, ManagerReplyPurpose, Purpose, sign, verify,
    };
    use crate::id::{CommandId, Digest, EntityId, ManagerId};
    use crate::keys::{Algorithm, PrivateKey};
    use crate::manager::{
        Instruction, Listing, ObjectsOffer, OfferedChange, Order, ProbeAnswer, Rejection, RejectionCode,
        Reply, ReplyBody, Task, Work,
    };
    use crate::time::Timestamp;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000)
    }

    /// Signed, verified and compared byte for byte on the way.
    fn survives<P: Purpose>(document: &P::Document)
    where
        P::Document: PartialEq,
    {
        let key = PrivateKey::<P::Signer>::generate(Algorithm::Ed25519);
        let sealed = sign::<P>(&[&key.for_purpose()], document);
        let verified = verify::<P>(sealed.bytes(), &[Candidate::accepted(key.public())], 1).unwrap();
        assert_eq!(verified.document(), document);
    }

    fn registration(mode: Mode) -> Registration {
        Registration {
            display_name: "rome_WRIT".to_owned(),
            host_name: "rome".to_owned(),
            product: "writ-server".to_owned(),
            version: "0.1.0".to_owned(),
            addresses: vec!["192.0.2.1".to_owned()],
            mode,
            entity: Some(EntityId::from_bytes([1; 16])),
            token: Some(TokenProof { id: Digest::from_bytes([8; 32]), proof: [9; 32] }),
            heartbeat: HOUR,
            abnormal_after: HOUR * 3,
        }
    }

    #[test]
    fn what_an_entity_asks_survives_the_wire() {
        let two_way = Mode::TwoWay {
            forwarding: "[2001:db8::1]:7445".to_owned(),
            leaf_spki_digest: Digest::from_bytes([2; 32]),
        };
        let outcome = Outcome {
            sequence: 7,
            state: TaskState::Unsuccessful,
            detail: String::new(),
            command: Some(CommandId::from_bytes([3; 16])),
            total: 3,
            done: 1,
            failed: 2,
        };
        for body in [
            CallBody::Register(registration(Mode::OneWay)),
            CallBody::Update(registration(two_way)),
            CallBody::Unregister,
            CallBody::Poll(Poll { after: 6, outcomes: vec![outcome] }),
            CallBody::Objects(ObjectsCall::Subscribe(
                PrivateKey::<crate::keys::Entity>::generate(Algorithm::P256).public().clone(),
            )),
            CallBody::Objects(ObjectsCall::Unsubscribe),
            CallBody::Objects(ObjectsCall::Fetch(7)),
        ] {
            let key = PrivateKey::<crate::keys::Entity>::generate(Algorithm::Ed25519).public().clone();
            let manager = ManagerId::from_bytes([4; 16]);
            survives::<EntityCallPurpose>(&EntityCall {
                key,
                epoch: 1,
                counter: 2,
                sent_at: now(),
                manager,
                body,
            });
        }
    }

    #[test]
    fn what_a_manager_answers_and_orders_survives_the_wire() {
        let (manager, entity) = (ManagerId::from_bytes([4; 16]), EntityId::from_bytes([5; 16]));
        let version = "6.0 SP1".parse().unwrap();
        let probe = |callback| {
            ReplyBody::Probe(ProbeAnswer { manager, version, protocol: 1, sandbox_connected: true, callback })
        };
        let standing =
            Listing { entity, epoch: 1, is_approved: false, manager, version, sandbox_connected: false };
        let work = Work { instructions: vec![vec![1].into()], has_more: true, sandbox_connected: false };
        let list = Digest::from_bytes([8; 32]);
        let offer = |change| ReplyBody::Objects(ObjectsOffer { version: 9, list, change });
        let mut bodies = vec![
            probe(None),
            probe(Some(Ok(()))),
            probe(Some(Err("refused".to_owned()))),
            ReplyBody::Registered(standing),
            ReplyBody::Left,
            ReplyBody::Work(work),
            ReplyBody::Subscribed,
            ReplyBody::Unsubscribed,
            offer(None),
            offer(Some(OfferedChange { base: 0, bytes: 1, digest: Digest::from_bytes([7; 32]) })),
            offer(Some(OfferedChange { base: 8, bytes: 128 << 20, digest: Digest::from_bytes([7; 32]) })),
        ];
        let rejected = |code| ReplyBody::Rejected(Rejection { code, detail: "no".to_owned() });
        bodies.extend(RejectionCode::ALL.map(rejected));
        for body in bodies {
            let request = Digest::from_bytes([6; 32]);
            survives::<ManagerReplyPurpose>(&Reply { request, time: now(), body });
        }
        let run = Order::Run {
            name: "restart".to_owned(),
            parameters: vec![("unit".to_owned(), "nginx".to_owned())],
        };
        for task in [
            Task::Dispatch { selector: String::new(), order: Order::Ping, lifetime: HOUR },
            Task::Dispatch { selector: "os=linux".to_owned(), order: run, lifetime: HOUR },
            Task::AskStatus,
            Task::ChangeCommunication { heartbeat: HOUR, abnormal_after: HOUR * 3 },
        ] {
            survives::<InstructionPurpose>(&Instruction {
                manager,
                entity,
                epoch: 1,
                sequence: 1,
                issued_at: now(),
                expires_at: now() + HOUR,
                requested_by: "vera".to_owned(),
                task,
            });
        }
    }

    #[test]
    fn an_offer_that_cannot_be_names_its_field() {
        let refused = |change: fn(&mut proto::ObjectsOffer)| {
            let digest = Digest::from_bytes([7; 32]);
            let change_of = Some(OfferedChange { base: 8, bytes: 1, digest });
            let offer = ObjectsOffer { version: 9, list: digest, change: change_of };
            let mut message = proto::ObjectsOffer::from(&offer);
            change(&mut message);
            ObjectsOffer::try_from(message).unwrap_err().field
        };
        assert_eq!(refused(|it| it.version = 0), "version");
        assert_eq!(refused(|it| it.base = 9), "version");
        assert_eq!(refused(|it| it.bytes = 0), "bytes");
        assert_eq!(refused(|it| (it.bytes, it.base) = (0, 0)), "bytes");
        assert_eq!(refused(|it| it.bytes = (128 << 20) + 1), "bytes");
        assert_eq!(refused(|it| it.sha256.clear()), "sha256");
        assert_eq!(refused(|it| it.list_sha256.clear()), "list_sha256");
    }

    #[test]
    fn a_registration_that_breaks_a_rule_names_its_field() {
        let refused = |change: fn(&mut proto::Registration)| {
            let mut message = proto::Registration::from(&registration(Mode::OneWay));
            change(&mut message);
            Registration::try_from(message).unwrap_err().field
        };
        assert_eq!(refused(|it| it.display_name.clear()), "display_name");
        assert_eq!(refused(|it| it.mode = 0), "mode");
        assert_eq!(refused(|it| it.forwarding_address = "rome:7445".to_owned()), "forwarding_address");
        assert_eq!(refused(|it| it.abnormal_after_ms = it.heartbeat_ms * 2), "abnormal_after_ms");
        assert_eq!(refused(|it| it.heartbeat_ms = 0), "abnormal_after_ms");
        assert_eq!(refused(|it| it.token_id = vec![1; 31].into()), "token_id");
        assert_eq!(refused(|it| it.token_id.clear()), "token_proof");
        assert_eq!(refused(|it| it.token_proof = vec![1; 31].into()), "token_proof");
        assert_eq!(refused(|it| it.addresses = vec!["a".to_owned(); 17]), "addresses");
    }
}
