//! DSSE v1 envelopes (protocol.md §2): the only code that signs, and the only code that verifies.
//!
//! The signed thing is always the bytes as received. Nothing of a payload is parsed before a signature
//! over it was found good.

#![warn(clippy::wildcard_enum_match_arm, clippy::arithmetic_side_effects)]

mod encode;
mod purpose;
mod sign;
mod verify;

pub use encode::digest;
pub use purpose::{
    AgentProofPurpose, AgentReportPurpose, AlertPurpose, ApprovalPurpose, BundlePurpose, CommandPurpose,
    EnrolmentPurpose, EntityCallPurpose, HelloPurpose, IdentityRecordPurpose, InstructionPurpose,
    InvalidDocument, ManagerReplyPurpose, Notice, Purpose, ReceiptPurpose, RefusalsAckPurpose,
    RefusalsPurpose, ReleasePurpose, ReputationPurpose, Tag, WelcomePurpose,
};
pub use sign::{Sealed, add_signature, sign, sign_notice};
pub use verify::{Candidate, Verified, claimed_keyid, verify};

#[cfg(test)]
mod tests;
