//! What agents say of themselves, for people and selectors.

use crate::command::ActionClass;
use crate::hello::Nonce;
use crate::id::{AgentId, Digest, FleetId};

/// A class as an agent says it, perhaps one of a newer protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedClass(i32);

impl ReportedClass {
    /// As it came.
    #[must_use]
    pub const fn from_wire(class: i32) -> Self {
        Self(class)
    }

    /// As it goes.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        self.0
    }

    /// What it means here: one nobody knows is destructive.
    #[must_use]
    pub fn class(self) -> ActionClass {
        ActionClass::from_proto(self.0).unwrap_or(ActionClass::Destructive)
    }
}

impl From<ActionClass> for ReportedClass {
    fn from(class: ActionClass) -> Self {
        Self(class.to_proto().into())
    }
}

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
    /// Its allow-list, as it says: one row that is wrong must not cost the others.
    pub actions: Vec<(String, ReportedClass)>,
    /// Version and digest of the bundle it holds.
    pub bundle: (u64, Digest),
    /// The settings it keeps.
    pub settings_revision: u64,
    /// Rises with every report of a session.
    pub number: u64,
}
