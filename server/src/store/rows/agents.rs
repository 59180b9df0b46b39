//! Agents, and what is known of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use writ_database::{FromValue, ToValue, Value};
use writ_protocol::command::ActionClass;
use writ_protocol::id::AgentId;
use writ_protocol::keys::PublicKey;
use writ_protocol::report::ReportedSchema;
use writ_protocol::time::Timestamp;

/// What a session needs to know of an agent.
#[derive(Debug, Clone)]
pub(crate) struct KnownAgent {
    /// Its id.
    pub id: AgentId,
    /// Its identity key.
    pub public_key: PublicKey,
    /// Why nothing is sent to it; `None` when nothing is held.
    pub held: Option<String>,
    /// Whether it was removed.
    pub is_removed: bool,
}

/// An agent as stored, with all that is known of it.
#[derive(Debug, Clone)]
pub(crate) struct AgentRow {
    /// Its id.
    pub id: AgentId,
    /// Its name; not unique.
    pub name: String,
    /// Its realm.
    pub realm: String,
    /// Its identity key.
    pub public_key: PublicKey,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last heard; zero: never.
    pub last_contact: Timestamp,
    /// When it last reported on itself; zero: never.
    pub reported_at: Timestamp,
    /// Its version.
    pub agent_version: String,
    /// The bundle it last said it holds.
    pub bundle_version: u64,
    /// The settings it last said it keeps.
    pub settings_revision: u64,
    /// The counter of its journal.
    pub journal_counter: u64,
    /// Its allow-list.
    pub actions: Vec<ListedAction>,
    /// Commands that wait to be sent to it.
    pub waiting: u64,
    /// Commands that it was sent and has not answered.
    pub unanswered: u64,
    /// Why nothing is sent to it; empty when nothing is held.
    pub held: String,
    /// When it was removed; zero: it was not.
    pub removed_at: Timestamp,
    /// What selectors look at.
    pub attributes: Vec<Attribute>,
}

/// What an agent last said it can do.
#[derive(Debug)]
pub(crate) struct AllowList {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Each action, or the one that was asked for.
    pub actions: Vec<ListedAction>,
    /// Whether it has said what it can do.
    pub has_reported: bool,
    /// When it said anything last, as far as that is stored.
    pub last_contact: Timestamp,
}

/// An entry of an agent's allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedAction {
    /// Its name.
    pub name: String,
    /// How harmful it is.
    pub class: ActionClass,
    /// What it takes, as the agent says.
    pub schema: ReportedSchema,
}

impl ListedAction {
    /// As it is stored: a line of name, class and, in base64, what it takes.
    pub(in crate::store) fn to_line(&self) -> String {
        let Self { name, class, schema } = self;
        format!("{name}\t{}\t{}", class.as_str(), BASE64.encode(schema.to_wire()))
    }

    /// What was stored, perhaps by a build that knew no third part.
    pub(in crate::store) fn from_line(line: &str) -> Self {
        let mut parts = line.split('\t');
        let mut next = || parts.next().unwrap_or_default();
        let (name, class, schema) = (next().to_owned(), next(), next());
        Self {
            name,
            class: ActionClass::from_name(class).unwrap_or(ActionClass::Destructive),
            schema: ReportedSchema::from_wire(BASE64.decode(schema).unwrap_or_default().into()),
        }
    }
}

/// One thing selectors can look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Who says so.
    pub source: AttributeSource,
}

/// Who says something of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttributeSource {
    /// Its signed identity record.
    Record,
    /// An operator.
    Label,
    /// The agent itself.
    Fact,
}

impl AttributeSource {
    pub(in crate::store) const fn stored(self) -> i64 {
        match self {
            Self::Record => 0,
            Self::Label => 1,
            Self::Fact => 2,
        }
    }
}

impl ToValue for AttributeSource {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(self.stored())
    }
}

impl FromValue for AttributeSource {
    fn from_value(value: Value<'_>) -> Option<Self> {
        let stored = i64::from_value(value)?;
        [Self::Record, Self::Label, Self::Fact].into_iter().find(|source| source.stored() == stored)
    }
}

/// What becomes of the labels of some agents.
#[derive(Debug, Clone)]
pub(crate) struct LabelChange {
    /// Whose.
    pub agents: Vec<AgentId>,
    /// Name and value of those that it has from now on.
    pub set: Vec<(String, String)>,
    /// Names of those that it loses.
    pub remove: Vec<String>,
}

/// A selector that an operator saved.
#[derive(Debug, Clone)]
pub(crate) struct SavedSelector {
    /// Its name, without the `@`.
    pub name: String,
    /// The selector.
    pub selector: String,
    /// Who saved it.
    pub saved_by: String,
    /// When.
    pub saved_at: Timestamp,
}

/// Which agents are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    /// Those that may be sent commands, held ones included.
    Present,
    /// Those that were removed.
    Removed,
}
