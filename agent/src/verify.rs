//! From a frame to a [`VerifiedCommand`], or silence and a refusal record.
//!
//! The checks are those of `writ_protocol::verify`; here they meet the agent's own identity, trust and time.

use bytes::Bytes;
use prost::Message as _;
use writ_proto::v1 as proto;
use writ_protocol::command::Delivery;
use writ_protocol::id::AgentId;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;
use writ_protocol::verify::{VerifiedCommand, Verifier};

/// Decodes what is beside the envelope and runs checks 1 to 7.
///
/// # Errors
/// The first check that failed.
pub(crate) fn verify(
    message: proto::Delivery,
    chain: &Chain,
    (agent, realm): (AgentId, &str),
    now: Timestamp,
) -> Result<(VerifiedCommand, Delivery), Refusal> {
    // The proof stands outside the signature, so its own shape is judged as part of the frame's.
    let delivery = Delivery::try_from(message)
        .map_err(|error| Refusal::new(RefusalCode::BrokenProof, error.to_string()))?;
    let verifier = Verifier { bundle: &chain.head().bundle, agent, realm, now };
    let verified = verifier.verify(&delivery)?;
    Ok((verified, delivery))
}

/// A delivery kept in the journal, as it came.
#[must_use]
pub(crate) fn decode(stored: &[u8]) -> Option<proto::Delivery> {
    proto::Delivery::decode(Bytes::copy_from_slice(stored)).ok()
}
