//! What somebody should look at.

use writ_protocol::id::AgentId;
use writ_protocol::time::Timestamp;

use super::AlertKind;

/// In an alert's place for an agent: the server itself.
pub(crate) const SERVER: AgentId = AgentId::from_bytes([0; 16]);

/// A new occurrence.
#[derive(Debug, Clone)]
pub(crate) struct Alarm {
    /// What.
    pub kind: AlertKind,
    /// The refusal's code; empty otherwise.
    pub code: &'static str,
    /// About whom.
    pub agent: AgentId,
    /// How often.
    pub count: u64,
    /// For people; the latest is kept.
    pub detail: String,
}

/// An alert as stored.
#[derive(Debug, Clone)]
pub(crate) struct AlertRow {
    /// Its number.
    pub id: u64,
    /// What.
    pub kind: String,
    /// The refusal's code.
    pub code: String,
    /// About whom.
    pub agent: AgentId,
    /// Its name, if it is still known.
    pub agent_name: String,
    /// How often.
    pub count: u64,
    /// The first.
    pub first_at: Timestamp,
    /// The last.
    pub last_at: Timestamp,
    /// For people.
    pub detail: String,
    /// When its cause was gone; zero: it is not, or nobody knows.
    pub ended_at: Timestamp,
    /// When somebody had seen to it; zero: nobody has.
    pub acknowledged_at: Timestamp,
    /// Who.
    pub acknowledged_by: String,
    /// What they said.
    pub note: String,
}

/// Which alerts are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WantedAlerts {
    /// Also those that have ended or were acknowledged.
    pub all: bool,
    /// Raised then or later.
    pub since: Timestamp,
}
