//! What agents answer.

use bytes::Bytes;

use crate::id::{AgentId, CommandId, Digest, FleetId};
use crate::refusal::RefusalCode;
use crate::time::Timestamp;

/// An agent's terminal answer to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The fleet.
    pub fleet: FleetId,
    /// Who answers.
    pub agent: AgentId,
    /// What is answered.
    pub command: CommandId,
    /// What exactly is answered.
    pub command_digest: Digest,
    /// Obeyed or refused.
    pub decision: Decision,
    /// For people.
    pub detail: String,
    /// Session time.
    pub decided_at: Timestamp,
    /// The agent's version.
    pub agent_version: String,
    /// The journal's counter when the answer was made.
    pub journal_counter: u64,
    /// 1, or more for an idempotent action started again after a crash.
    pub attempt: u32,
}

/// Obeyed or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It was started, and this is how it ended.
    Obeyed(Outcome),
    /// It was not started.
    Refused(RefusalCode),
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How.
    pub ending: Ending,
    /// When it was started, session time.
    pub started_at: Timestamp,
    /// When it ended, session time.
    pub finished_at: Timestamp,
    /// The first bytes it wrote.
    pub output: Bytes,
    /// How many bytes it wrote in all.
    pub output_bytes: u64,
    /// SHA-256 of all of them.
    pub output_digest: Digest,
    /// Listed files that a scan found.
    pub listed: u64,
}

/// How a process or an action of the agent itself ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An action of the agent itself was done.
    Done,
    /// The process ended with this status.
    Exited(i32),
    /// The process was killed by this signal, not by us.
    Killed(u32),
    /// It was killed with its children at the time-out.
    TimedOut,
    /// It could not be spawned.
    NotStarted,
    /// The agent died while it ran; it was not started again.
    Indeterminate,
    /// An action of the agent itself failed and changed nothing.
    Failed,
    /// Another command stopped it: its processes were ended, or it had not started.
    Stopped,
}

impl Ending {
    /// Whether the action did what was asked.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Done | Self::Exited(0))
    }

    /// With its status or signal, for people.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Exited(status) => format!("exited with {status}"),
            Self::Killed(signal) => format!("killed by signal {signal}"),
            other => other.as_str().to_owned(),
        }
    }

    /// Its name in outputs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Exited(_) => "exited",
            Self::Killed(_) => "killed",
            Self::TimedOut => "timed_out",
            Self::NotStarted => "not_started",
            Self::Indeterminate => "indeterminate",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// What an agent refused in silence since the last acknowledged report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalReport {
    /// The fleet.
    pub fleet: FleetId,
    /// Who reports.
    pub agent: AgentId,
    /// Rises by one with every new report of a journal.
    pub sequence: u64,
    /// One record a code.
    pub records: Vec<RefusalRecord>,
    /// Session time.
    pub reported_at: Timestamp,
}

/// Refusals of one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRecord {
    /// The code.
    pub code: RefusalCode,
    /// How many.
    pub count: u64,
    /// The first.
    pub first_at: Timestamp,
    /// The last.
    pub last_at: Timestamp,
    /// SHA-256 of the first refused frame.
    pub sample_digest: Digest,
    /// What its envelope claimed.
    pub sample_keyid: String,
}

/// That a report is safely stored, so that the agent may forget it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalAcknowledgement {
    /// The fleet.
    pub fleet: FleetId,
    /// Whose report.
    pub agent: AgentId,
    /// Which report.
    pub sequence: u64,
    /// Exactly which report.
    pub report_digest: Digest,
}
