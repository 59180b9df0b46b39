//! Who may come in as an agent.

use bytes::Bytes;
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::keys::PublicKey;
use writ_protocol::time::Timestamp;

/// A new agent, ready to be recorded.
#[derive(Debug)]
pub(crate) struct AgentAdmission {
    /// Its id.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// The signed identity record.
    pub identity_record: Bytes,
    /// The token.
    pub token: Digest,
    /// The agent's version.
    pub agent_version: String,
    /// When.
    pub now: Timestamp,
}

/// A new enrolment token; the secret itself is never stored.
#[derive(Debug)]
pub(crate) struct NewToken {
    /// SHA-256 of its secret.
    pub token: Digest,
    /// The realm of its agents.
    pub realm: String,
    /// How many it lets in.
    pub uses: u32,
    /// Until when.
    pub expires_at: Timestamp,
    /// The operator.
    pub created_by: String,
}

/// An enrolment token as stored.
#[derive(Debug)]
pub(crate) struct EnrolmentTokenRow {
    /// Its place in the order of creation.
    pub sequence: u64,
    /// SHA-256 of its secret.
    pub token: Digest,
    /// The realm of its agents.
    pub realm: String,
    /// How many it lets in.
    pub max_uses: u32,
    /// How many came.
    pub uses: u32,
    /// Until when.
    pub expires_at: Timestamp,
    /// The operator.
    pub created_by: String,
    /// When it was revoked; zero: it was not.
    pub revoked_at: Timestamp,
}

/// What spending a token came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenUse {
    /// The agent's identity record: the new one, or the one the same key got before.
    Admitted(Bytes),
    /// All its uses are spent, or it does not exist, or it ended. Strangers are not told which.
    Refused,
}
