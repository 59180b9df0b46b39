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

/// How an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AlertState {
    /// Its cause is there, and nobody has seen to it.
    Open,
    /// Its cause is gone.
    Ended,
    /// Somebody has seen to it.
    Acknowledged,
}

/// A way to tell people elsewhere; each has columns of its own for what was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Teller {
    /// A web server of the organisation's.
    Webhook,
    /// A mail server.
    Mail,
}

impl Teller {
    /// The alert that the way itself fails is not mailed: one mail that got through would make another.
    pub(in crate::store) const fn untold_by_itself(self) -> &'static str {
        match self {
            Self::Webhook => "",
            Self::Mail => AlertKind::NotMailed.as_str(),
        }
    }

    /// The columns for the state that was told last, and when the alert had been raised last then.
    pub(in crate::store) const fn columns(self) -> (&'static str, &'static str) {
        match self {
            Self::Webhook => ("told", "told_of"),
            Self::Mail => ("mailed", "mailed_of"),
        }
    }
}

impl AlertState {
    /// As the column `told` has it.
    pub(in crate::store) const fn stored(self) -> i64 {
        match self {
            Self::Open => 1,
            Self::Ended => 2,
            Self::Acknowledged => 3,
        }
    }

    /// Its name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Ended => "ended",
            Self::Acknowledged => "acknowledged",
        }
    }
}

impl AlertRow {
    /// How it stands.
    pub(crate) fn state(&self) -> AlertState {
        match (self.ended_at, self.acknowledged_at) {
            (Timestamp::ZERO, Timestamp::ZERO) => AlertState::Open,
            (Timestamp::ZERO, _) => AlertState::Acknowledged,
            (_, _) => AlertState::Ended,
        }
    }
}

/// Which alerts are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WantedAlerts {
    /// Also those that have ended or were acknowledged.
    pub all: bool,
    /// Raised then or later.
    pub since: Timestamp,
}
