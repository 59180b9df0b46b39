//! What agents say of themselves, for people and selectors.

use bytes::Bytes;
use prost::Message as _;
use writ_proto::v1 as proto;

use crate::command::ActionClass;
use crate::hello::Nonce;
use crate::id::{AgentId, Digest, FleetId};
use crate::schema::ActionSchema;

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

/// What an entry takes as an agent says it, perhaps in words of a newer protocol. It is read when it is asked
/// for: thousands of agents say it when they come back, and to read a pattern takes time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ReportedSchema(Bytes);

impl ReportedSchema {
    /// As it came.
    #[must_use]
    pub const fn from_wire(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// As it goes; empty: nothing is said.
    #[must_use]
    pub const fn to_wire(&self) -> &Bytes {
        &self.0
    }

    /// What it means here; `None`: nothing was said, or what nobody here understands.
    #[must_use]
    pub fn read(&self) -> Option<ActionSchema> {
        let message = proto::ActionSchema::decode(&*self.0).ok()?;
        if self.0.is_empty() { None } else { message.try_into().ok() }
    }
}

impl From<&ActionSchema> for ReportedSchema {
    fn from(schema: &ActionSchema) -> Self {
        Self(proto::ActionSchema::from(schema).encode_to_vec().into())
    }
}

/// An entry of an agent's allow-list, as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedAction {
    /// Its name.
    pub name: String,
    /// How harmful it is.
    pub class: ReportedClass,
    /// What it takes.
    pub schema: ReportedSchema,
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
    pub actions: Vec<ReportedAction>,
    /// Version and digest of the bundle it holds.
    pub bundle: (u64, Digest),
    /// The settings it keeps.
    pub settings_revision: u64,
    /// Rises with every report of a session.
    pub number: u64,
}
