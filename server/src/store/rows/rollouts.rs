//! Commands that reach their agents in waves.

use std::time::Duration;

use bytes::Bytes;
use writ_database::{FromValue, ToValue, Value};
use writ_protocol::id::{AgentId, CommandId, Digest};
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use super::super::rules::rollout::{Plan, Standing};
use super::CommandRow;

/// What an operator has to know of a rollout before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RolloutState {
    /// Waves follow one another.
    Running,
    /// An operator holds it.
    Paused,
    /// It holds itself: too many agents failed.
    Stopped,
    /// It was cancelled. What was not released never is.
    Aborted,
    /// All waves are out, and those who were there have answered.
    Finished,
    /// The command expired before all waves were out.
    Expired,
}

impl RolloutState {
    const ALL: [Self; 6] =
        [Self::Running, Self::Paused, Self::Stopped, Self::Aborted, Self::Finished, Self::Expired];

    const fn stored(self) -> i64 {
        match self {
            Self::Running => 0,
            Self::Paused => 1,
            Self::Stopped => 2,
            Self::Aborted => 3,
            Self::Finished => 4,
            Self::Expired => 5,
        }
    }

    /// Its name in outputs.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Aborted => "aborted",
            Self::Finished => "finished",
            Self::Expired => "expired",
        }
    }

    /// Whether nothing more becomes of it.
    #[must_use]
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::Aborted | Self::Finished | Self::Expired)
    }
}

/// States below this one are not over.
pub(in crate::store) const FIRST_OVER: i64 = RolloutState::Aborted.stored();

impl ToValue for RolloutState {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(self.stored())
    }
}

impl FromValue for RolloutState {
    fn from_value(value: Value<'_>) -> Option<Self> {
        let stored = i64::from_value(value)?;
        Self::ALL.into_iter().find(|state| state.stored() == stored)
    }
}

/// A rollout, with what is needed of its command.
#[derive(Debug, Clone)]
pub(crate) struct RolloutRow {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// The command.
    pub command: CommandId,
    /// The command's digest, which releases name.
    pub digest: Digest,
    /// When the command ends.
    pub expires_at: Timestamp,
    /// When the command was cancelled; zero: it was not.
    pub cancelled_at: Timestamp,
    /// What gives the order.
    pub seed: Seed,
    /// How many agents it is for.
    pub targets: u32,
    /// What was asked for.
    pub plan: Plan,
    /// How far it is.
    pub standing: Standing,
    /// Why it is as it is, for people; empty while it goes on.
    pub reason: String,
    /// When the wave before the present one had ended.
    pub wave_ended_at: Timestamp,
    /// The latest release; empty before the first.
    pub release: Bytes,
}

impl RolloutRow {
    /// That of a command that was just recorded.
    #[must_use]
    pub(crate) fn new(command: &CommandRow, seed: Seed, plan: Plan, targets: usize) -> Self {
        Self {
            sequence: command.sequence,
            command: command.id,
            digest: command.digest,
            expires_at: command.expires_at,
            cancelled_at: Timestamp::ZERO,
            seed,
            targets: u32::try_from(targets).unwrap_or(u32::MAX),
            plan,
            standing: Standing { state: RolloutState::Running, wave: 0, released: 0, forgiven: 0 },
            reason: String::new(),
            wave_ended_at: Timestamp::ZERO,
            release: Bytes::new(),
        }
    }
}

/// What is open of the agents that were let obey, and what ended badly.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// Obeyed and ended well.
    pub done: u32,
    /// Obeyed and ended badly, or refused.
    pub failed: u32,
    /// Of these, in the present wave.
    pub tried: u32,
    /// Those that have not answered.
    pub open: Vec<OpenTarget>,
}

/// An agent that may obey and has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenTarget {
    /// Its place in the audience.
    pub place: u32,
    /// Which.
    pub agent: AgentId,
    /// Whether it was sent the command.
    pub is_sent: bool,
    /// When it was heard last, as far as the store knows.
    pub last_contact: Timestamp,
}

/// How long each wait of a plan is stored.
pub(in crate::store) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
