//! What agents say when they come and while they stay.

use writ_protocol::hello::JournalStanding;
use writ_protocol::id::{AgentId, Digest, SessionMark};
use writ_protocol::time::Timestamp;

use super::ListedAction;

/// What an agent says of itself when a session begins.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    /// Who.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// Where it came from.
    pub address: String,
    /// Its version.
    pub agent_version: String,
    /// The bundle it holds.
    pub bundle: (u64, Digest),
    /// How its journal stands.
    pub journal: JournalStanding,
}

/// What the store knows of an agent whose session begins.
#[derive(Debug, Clone)]
pub(crate) struct Noted {
    /// Why nothing may be sent to it, if its journal went back or forked now or earlier.
    pub held: Option<String>,
    /// It must refuse what was issued earlier; zero: no such rule.
    pub commands_from: Timestamp,
}

/// What a session begins with, all of it as of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    /// What is noted of its agent.
    pub noted: Noted,
    /// Whether the agent was removed.
    pub is_removed: bool,
    /// Whether commands wait for it.
    pub has_waiting: bool,
}

/// That an agent was heard.
#[derive(Debug, Clone)]
pub(crate) struct SignOfLife {
    /// Who.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// The mark of its session, and how many admissions it has announced in it: the greatest number it said.
    pub admissions: (SessionMark, u64),
    /// What it says of itself, if it does.
    pub report: Option<Report>,
}

/// What it says in a report.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The bundle it holds.
    pub bundle: (u64, Digest),
    /// The settings it keeps.
    pub settings_revision: u64,
    /// Its allow-list.
    pub actions: Vec<ListedAction>,
    /// Facts for selectors.
    pub facts: Vec<(String, String)>,
}

impl Report {
    /// As stored.
    pub(in crate::store) fn action_lines(&self) -> String {
        self.actions.iter().map(ListedAction::to_line).collect::<Vec<_>>().join("\n")
    }
}
