//! What a manager answers.

use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::reply::Body as Answer;

use super::super::field::{self, invalid, missing};
use crate::envelope::InvalidDocument;
use crate::limits::{MAX_INSTRUCTIONS, MAX_OBJECTS_CHANGE_BYTES};
use crate::manager::{
    Listing, ObjectsOffer, OfferedChange, ProbeAnswer, Rejection, RejectionCode, Reply, ReplyBody, Work,
};

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
                Answer::Subscribed(proto::Subscribed {}) => ReplyBody::Subscribed,
                Answer::Unsubscribed(proto::Unsubscribed {}) => ReplyBody::Unsubscribed,
                Answer::Objects(offer) => ReplyBody::Objects(offer.try_into()?),
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
                ReplyBody::Subscribed => Answer::Subscribed(proto::Subscribed {}),
                ReplyBody::Unsubscribed => Answer::Unsubscribed(proto::Unsubscribed {}),
                ReplyBody::Objects(offer) => Answer::Objects(offer.into()),
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

impl TryFrom<proto::Standing> for Listing {
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

impl From<&Listing> for proto::Standing {
    fn from(standing: &Listing) -> Self {
        let Listing { entity, epoch, is_approved, manager, version, sandbox_connected } = standing;
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

impl TryFrom<proto::ObjectsOffer> for ObjectsOffer {
    type Error = InvalidDocument;

    fn try_from(message: proto::ObjectsOffer) -> Result<Self, InvalidDocument> {
        let proto::ObjectsOffer { version, base, bytes, sha256, list_sha256 } = message;
        if version == 0 || base >= version {
            return Err(invalid("version", "must be from 1, and later than its base"));
        }
        let change = match bytes {
            0 if base == 0 && sha256.is_empty() => None,
            0 => return Err(invalid("bytes", "must be given beside base and sha256")),
            1..=MAX_OBJECTS_CHANGE_BYTES => {
                Some(OfferedChange { base, bytes, digest: field::digest("sha256", &sha256)? })
            }
            _ => return Err(invalid("bytes", "must be at most 134217728")),
        };
        Ok(Self { version, list: field::digest("list_sha256", &list_sha256)?, change })
    }
}

impl From<&ObjectsOffer> for proto::ObjectsOffer {
    fn from(offer: &ObjectsOffer) -> Self {
        let ObjectsOffer { version, list, change } = offer;
        Self {
            version: *version,
            base: change.map_or(0, |change| change.base),
            bytes: change.map_or(0, |change| change.bytes),
            sha256: change.map_or_else(Default::default, |change| change.digest.as_bytes().to_vec().into()),
            list_sha256: list.as_bytes().to_vec().into(),
        }
    }
}

const CODES: [(RejectionCode, proto::RejectionCode); 10] = [
    (RejectionCode::UnknownEntity, proto::RejectionCode::UnknownEntity),
    (RejectionCode::RejectedEntity, proto::RejectionCode::RejectedEntity),
    (RejectionCode::NotApproved, proto::RejectionCode::NotApproved),
    (RejectionCode::Replayed, proto::RejectionCode::Replayed),
    (RejectionCode::ClockSkew, proto::RejectionCode::ClockSkew),
    (RejectionCode::TokenRefused, proto::RejectionCode::TokenRefused),
    (RejectionCode::InvalidRegistration, proto::RejectionCode::InvalidRegistration),
    (RejectionCode::ManagerFull, proto::RejectionCode::ManagerFull),
    (RejectionCode::NotSubscribed, proto::RejectionCode::NotSubscribed),
    (RejectionCode::SubscriptionRevoked, proto::RejectionCode::SubscriptionRevoked),
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
