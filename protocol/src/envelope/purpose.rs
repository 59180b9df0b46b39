//! What a signature is for. The purpose is a type here and a payload type in the signed bytes, so a
//! signature made for one can be neither made nor taken for another.

use writ_proto::manager::v1 as manager;
use writ_proto::v1 as proto;

use crate::command::{Approval, Command};
use crate::hello::{AgentProof, ServerHello, Welcome};
use crate::identity::{Enrolment, IdentityRecord};
use crate::keys::{Agent, Authority, Entity, Holder, Manager, Operator, Server};
use crate::limits;
use crate::manager::{EntityCall, Instruction, Reply};
use crate::notice::AlertNotice;
use crate::receipt::{Receipt, RefusalAcknowledgement, RefusalReport};
use crate::report::AgentReport;
use crate::reputation::Reputation;
use crate::rollout::Release;
use crate::trust::TrustBundle;

/// A decoded document that breaks a rule of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct InvalidDocument {
    /// The field.
    pub field: &'static str,
    /// What it should be.
    pub rule: String,
}

/// Who signs for a purpose, and how it is called.
pub trait Tag: Send + Sync + 'static {
    /// Who may sign it.
    type Signer: Holder;
    /// Stands in the envelope and under the signature.
    const PAYLOAD_TYPE: &'static str;
}

/// A purpose within the protocol: what it carries.
pub trait Purpose: Tag {
    /// Its payload on the wire.
    type Proto: prost::Message + Default + for<'a> From<&'a Self::Document>;
    /// Its payload as the rest of the code knows it.
    type Document: TryFrom<Self::Proto, Error = InvalidDocument> + std::fmt::Debug;
    /// The largest envelope looked at.
    const MAX_BYTES: usize;
}

macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident($tag:literal) by $signer:ty, $proto:ty => $document:ty, $max:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub enum $name {}
            impl Tag for $name {
                type Signer = $signer;
                const PAYLOAD_TYPE: &'static str = concat!("application/vnd.writ.", $tag, ".v1+protobuf");
            }
            impl Purpose for $name {
                type Proto = $proto;
                type Document = $document;
                const MAX_BYTES: usize = $max;
            }
        )*
    };
}

/// A purpose for programs that are none of ours: JSON in an envelope of JSON. We sign it and never read it.
pub trait Notice: Tag {
    /// What it carries.
    type Document: serde::Serialize;
}

/// Word of an alert, for whoever is told.
#[derive(Debug, Clone, Copy)]
pub enum AlertPurpose {}

impl Tag for AlertPurpose {
    type Signer = Server;
    const PAYLOAD_TYPE: &'static str = "application/vnd.writ.alert.v1+json";
}

impl Notice for AlertPurpose {
    type Document = AlertNotice;
}

purposes! {
    /// A server's order to agents.
    CommandPurpose("command") by Server, proto::Command => Command, limits::MAX_COMMAND_BYTES;
    /// An agent's answer.
    ReceiptPurpose("receipt") by Agent, proto::Receipt => Receipt, limits::MAX_RECEIPT_BYTES;
    /// What an agent refused in silence.
    RefusalsPurpose("refusals") by Agent, proto::RefusalReport => RefusalReport, limits::MAX_SMALL_BYTES;
    /// That a refusal report is safely stored.
    RefusalsAckPurpose("refusals-ack") by Server, proto::RefusalAcknowledgement => RefusalAcknowledgement, limits::MAX_SMALL_BYTES;
    /// Whom a fleet obeys.
    BundlePurpose("trust-bundle") by Authority, proto::TrustBundle => TrustBundle, limits::MAX_BUNDLE_BYTES;
    /// A server's greeting with its time.
    HelloPurpose("server-hello") by Server, proto::ServerHello => ServerHello, limits::MAX_SMALL_BYTES;
    /// An agent's proof of identity for one session.
    AgentProofPurpose("agent-proof") by Agent, proto::AgentProof => AgentProof, limits::MAX_SMALL_BYTES;
    /// That a session begins.
    WelcomePurpose("welcome") by Server, proto::Welcome => Welcome, limits::MAX_SMALL_BYTES;
    /// What an agent says of itself.
    AgentReportPurpose("agent-report") by Agent, proto::AgentReport => AgentReport, limits::MAX_REPORT_BYTES;
    /// A new agent's proof of possession.
    EnrolmentPurpose("enrolment") by Agent, proto::Enrolment => Enrolment, limits::MAX_SMALL_BYTES;
    /// The server's word that a key is an agent's.
    IdentityRecordPurpose("identity-record") by Server, proto::IdentityRecord => IdentityRecord, limits::MAX_SMALL_BYTES;
    /// What a list says about the values of a question.
    ReputationPurpose("reputation") by Server, proto::Reputation => Reputation, limits::MAX_SMALL_BYTES;
    /// That the next agents of a rollout may obey.
    ReleasePurpose("release") by Server, proto::Release => Release, limits::MAX_SMALL_BYTES;
    /// An operator's consent to one command.
    ApprovalPurpose("approval") by Operator, proto::Approval => Approval, limits::MAX_SMALL_BYTES;
    /// What a server asks of its Control Manager.
    EntityCallPurpose("entity-call") by Entity, manager::EntityCall => EntityCall, limits::MAX_ENTITY_CALL_BYTES;
    /// What the manager answers.
    ManagerReplyPurpose("manager-reply") by Manager, manager::Reply => Reply, limits::MAX_FRAME_BYTES;
    /// What the manager tells a server to do.
    InstructionPurpose("manager-instruction") by Manager, manager::Instruction => Instruction, limits::MAX_SMALL_BYTES;
}
