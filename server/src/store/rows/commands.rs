//! Commands and their targets.

use bytes::Bytes;
use writ_common::admin::audit::NewAudit;
use writ_database::{FromValue, ToValue, Value};
use writ_proto::admin::v1::CommandState;
use writ_protocol::id::{AgentId, CommandId, Digest};
use writ_protocol::receipt::Decision;
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use super::super::rules::rollout::Plan;

/// A signed command, ready to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct NewCommand {
    /// Its id.
    pub id: CommandId,
    /// Its digest.
    pub digest: Digest,
    /// What was asked for, so that the same request with the same id is one command.
    pub request_digest: Digest,
    /// The envelope.
    pub envelope: Bytes,
    /// For people.
    pub action: String,
    /// For people.
    pub requested_by: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// For whom, in the order of the audience.
    pub targets: Vec<AgentId>,
    /// How it reaches them, if not all at once.
    pub rollout: Option<Box<(Seed, Plan)>>,
    /// Who asked for it: recorded with it, by one commit.
    pub call: NewAudit,
}

/// A command that is on disk. Made only by [`super::super::Store::record_command`]; only such a one is
/// dispatched.
#[derive(Debug)]
#[must_use]
pub(crate) struct RecordedCommand {
    id: CommandId,
    is_new: bool,
}

impl RecordedCommand {
    pub(in crate::store) const fn new(id: CommandId, is_new: bool) -> Self {
        Self { id, is_new }
    }

    /// Its id.
    #[must_use]
    pub(crate) const fn id(&self) -> CommandId {
        self.id
    }

    /// Whether this call recorded it, or an earlier one with the same id and request.
    #[must_use]
    pub(crate) const fn is_new(&self) -> bool {
        self.is_new
    }
}

/// A command as stored, without its targets.
#[derive(Debug, Clone)]
pub(crate) struct CommandRow {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// Its id.
    pub id: CommandId,
    /// Its digest.
    pub digest: Digest,
    /// For people.
    pub action: String,
    /// For people.
    pub requested_by: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was cancelled; zero: it was not.
    pub cancelled_at: Timestamp,
}

/// Which commands are listed; what is empty is not asked.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// By this operator.
    pub requested_by: String,
    /// With an action of this name.
    pub action: String,
    /// In this state.
    pub state: Option<WantedState>,
    /// Issued then or later.
    pub since: Timestamp,
    /// For this agent.
    pub agent: Option<AgentId>,
    /// What time it is.
    pub now: Timestamp,
}

/// A state that commands are listed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WantedState {
    /// An answer is awaited.
    Open,
    /// All obeyed and ended well.
    Done,
    /// One failed or refused.
    Failed,
    /// It expired before all had answered.
    Expired,
    /// It was cancelled.
    Cancelled,
}

impl WantedState {
    /// As the statement names it.
    pub(in crate::store) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// From a request; none: all of them.
    #[must_use]
    pub(crate) const fn read(state: CommandState) -> Option<Self> {
        match state {
            CommandState::Unspecified => None,
            CommandState::Open => Some(Self::Open),
            CommandState::Done => Some(Self::Done),
            CommandState::Failed => Some(Self::Failed),
            CommandState::Expired => Some(Self::Expired),
            CommandState::Cancelled => Some(Self::Cancelled),
        }
    }
}

/// Where a command stands with one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetState {
    /// Not sent.
    Waiting,
    /// Sent, not answered.
    Delivered,
    /// Obeyed, ended well.
    Done,
    /// Obeyed, ended badly.
    Failed,
    /// Refused by a signed receipt.
    Refused,
    /// Cancelled before it was sent.
    Cancelled,
}

impl TargetState {
    const ALL: [Self; 6] =
        [Self::Waiting, Self::Delivered, Self::Done, Self::Failed, Self::Refused, Self::Cancelled];

    /// What a receipt's decision comes to.
    #[must_use]
    pub(crate) const fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Obeyed(outcome) if outcome.ending.is_success() => Self::Done,
            Decision::Obeyed(_) => Self::Failed,
            Decision::Refused(_) => Self::Refused,
        }
    }

    /// As stored; statements name these.
    pub(in crate::store) const fn stored(self) -> i64 {
        match self {
            Self::Waiting => 0,
            Self::Delivered => 1,
            Self::Done => 2,
            Self::Failed => 3,
            Self::Refused => 4,
            Self::Cancelled => 5,
        }
    }
}

/// States below this one are open: what waits for an agent is asked by it, and an index has only these.
pub(in crate::store) const FIRST_ENDED: i64 = TargetState::Done.stored();

impl ToValue for TargetState {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(self.stored())
    }
}

impl FromValue for TargetState {
    fn from_value(value: Value<'_>) -> Option<Self> {
        let stored = i64::from_value(value)?;
        Self::ALL.into_iter().find(|state| state.stored() == stored)
    }
}

/// Targets by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// All of them.
    pub targets: u64,
    /// Not sent.
    pub waiting: u64,
    /// Sent, not answered.
    pub delivered: u64,
    /// Obeyed, ended well.
    pub done: u64,
    /// Obeyed, ended badly.
    pub failed: u64,
    /// Refused.
    pub refused: u64,
    /// Cancelled before they were sent.
    pub cancelled: u64,
}

/// One target with its receipt, if there is one.
#[derive(Debug)]
pub(crate) struct TargetRow {
    /// Its place in the audience.
    pub place: u32,
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub agent_name: String,
    /// Its key, to read the receipt with.
    pub public_key: Vec<u8>,
    /// Where the command stands.
    pub state: TargetState,
    /// The receipt's envelope.
    pub receipt: Option<Bytes>,
    /// When it came.
    pub received_at: Timestamp,
}

/// One target as evidence.
#[derive(Debug)]
pub(crate) struct EvidenceRow {
    /// Its place in the audience.
    pub place: u32,
    /// The agent.
    pub agent: AgentId,
    /// The server's signed word about its key.
    pub identity_record: Bytes,
    /// The receipt's envelope.
    pub receipt: Option<Bytes>,
}

/// A command that waits for one agent.
#[derive(Debug, Clone)]
pub(crate) struct WaitingCommand {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// Its id.
    pub id: CommandId,
    /// The agent's place in the audience.
    pub place: u32,
    /// Whether it counts for `limits.running`.
    pub needs_turn: bool,
}

/// A command some agent still waits for.
#[derive(Debug)]
pub(crate) struct QueuedCommand {
    /// Its place in the log.
    pub sequence: u64,
    /// Its id.
    pub id: CommandId,
    /// Its digest.
    pub digest: Digest,
    /// As signed.
    pub envelope: Bytes,
    /// When it may not be obeyed any more.
    pub expires_at: Timestamp,
}

/// A command as signed.
#[derive(Debug)]
pub(crate) struct StoredEnvelope {
    /// The envelope.
    pub envelope: Bytes,
    /// The frozen audience.
    pub targets: Vec<AgentId>,
    /// The seed of its rollout and the latest release, which is empty before the first.
    pub rollout: Option<(Seed, Bytes)>,
    /// Whether it was cancelled.
    pub is_cancelled: bool,
    /// The action, as it is described.
    pub action: String,
    /// When it expires.
    pub expires_at: Timestamp,
}
