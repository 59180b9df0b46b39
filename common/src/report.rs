//! What agents say of themselves, for people and selectors.

use crate::command::ActionClass;
use crate::hello::Nonce;
use crate::id::{AgentId, Digest, FleetId};

/// What an agent says of itself in one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentReport {
    /// The fleet.
    pub fleet: FleetId,
    /// Who speaks.
    pub agent: AgentId,
    /// The server's nonce: in which session.
    pub server_nonce: Nonce,
    /// Facts for selectors, never for decisions of trust.
    pub facts: Vec<(String, String)>,
    /// Its allow-list.
    pub actions: Vec<(String, ActionClass)>,
    /// Version and digest of the bundle it holds.
    pub bundle: (u64, Digest),
    /// The settings it keeps.
    pub settings_revision: u64,
    /// Rises with every report of a session.
    pub number: u64,
}
