//! Answers: signed by the identity key, on disk before they are sent, kept until the server has them.

use bytes::Bytes;
use writ_proto::v1 as proto;
use writ_protocol::envelope::{ReceiptPurpose, Sealed, sign};
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::limits::MAX_DETAIL_BYTES;
use writ_protocol::receipt::{Decision, Receipt};
use writ_protocol::time::Timestamp;

use crate::VERSION;
use crate::identity::Identity;

/// An answer under the agent's signature.
#[derive(Debug)]
#[must_use]
pub struct SignedReceipt(Sealed<ReceiptPurpose>);

impl SignedReceipt {
    /// The envelope.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        self.0.bytes()
    }
}

/// What is answered, and when.
#[derive(Debug, Clone, Copy)]
pub struct ReceiptContext {
    /// The command.
    pub command: CommandId,
    /// Exactly which.
    pub digest: Digest,
    /// Session time of the decision.
    pub decided_at: Timestamp,
    /// The journal's counter.
    pub journal_counter: u64,
    /// 1 for a first start and for refusals.
    pub attempt: u32,
}

/// Signs a receipt.
pub fn sign_receipt(
    identity: &Identity,
    about: ReceiptContext,
    decision: Decision,
    detail: &str,
) -> SignedReceipt {
    let mut end = detail.len().min(MAX_DETAIL_BYTES);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    let receipt = Receipt {
        fleet: identity.record.fleet,
        agent: identity.record.agent,
        command: about.command,
        command_digest: about.digest,
        decision,
        detail: detail[..end].to_owned(),
        decided_at: about.decided_at,
        agent_version: VERSION.to_owned(),
        journal_counter: about.journal_counter,
        attempt: about.attempt,
    };
    SignedReceipt(sign(&[&identity.key.for_purpose()], &receipt))
}

/// The frame that says that a command is about to start.
#[must_use]
pub(crate) fn announcement(command: CommandId, journal_admissions: u64) -> proto::AgentFrame {
    let admitted = proto::Admitted { command_id: command.as_bytes().to_vec().into(), journal_admissions };
    proto::AgentFrame { frame: Some(proto::agent_frame::Frame::Admitted(admitted)) }
}

/// The frame that carries an answer; without a receipt it says "already acknowledged".
#[must_use]
pub fn frame(
    command: CommandId,
    digest: Digest,
    receipt: Option<Bytes>,
    deliveries: u32,
) -> proto::AgentFrame {
    let answer = proto::Answer {
        command_id: command.as_bytes().to_vec().into(),
        command_digest: digest.as_bytes().to_vec().into(),
        receipt: receipt.unwrap_or_default(),
        deliveries,
    };
    proto::AgentFrame { frame: Some(proto::agent_frame::Frame::Answer(answer)) }
}
