//! What is stored, as types.

use bytes::Bytes;
use writ_database::{FromValue, ToValue, Value};
use writ_protocol::id::{CommandId, Digest, EntityId, InstructionId};
use writ_protocol::keys::PublicKey;
use writ_protocol::manager::{Registration, TaskState};
use writ_protocol::time::Timestamp;

/// Whether an entity's calls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntityAdmission {
    /// It registered without a token.
    Waiting,
    /// It was let in.
    Approved,
    /// An operator said no.
    Rejected,
    /// It unregistered; kept for a while, so that its old calls cannot be said again.
    Left,
}

impl EntityAdmission {
    /// As stored; statements name these.
    pub(super) const fn stored(self) -> i64 {
        match self {
            Self::Waiting => 1,
            Self::Approved => 2,
            Self::Rejected => 3,
            Self::Left => 4,
        }
    }
}

impl ToValue for EntityAdmission {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(self.stored())
    }
}

impl FromValue for EntityAdmission {
    fn from_value(value: Value<'_>) -> Option<Self> {
        let stored = i64::from_value(value)?;
        let all = [Self::Waiting, Self::Approved, Self::Rejected, Self::Left];
        all.into_iter().find(|admission| admission.stored() == stored)
    }
}

/// An entity as stored.
#[derive(Debug, Clone)]
pub(crate) struct EntityRow {
    /// Its id.
    pub id: EntityId,
    /// Who it is.
    pub key: PublicKey,
    /// What it said of itself, without its token.
    pub registration: Registration,
    /// Whether its calls count.
    pub admission: EntityAdmission,
    /// The number of its registration.
    pub epoch: u64,
    /// Of its last call.
    pub counter: u64,
    /// Of the last instruction for it in this epoch.
    pub sequence: u64,
    /// The token it came in with.
    pub token: Option<Digest>,
    /// The first time.
    pub registered_at: Timestamp,
    /// Its last call that counted.
    pub last_contact: Timestamp,
    /// Instructions it has not ended.
    pub open: u64,
    /// Its subscription to suspicious objects, if it has one.
    pub subscription: Option<SubscriptionRow>,
    /// It is given none.
    pub is_subscription_revoked: bool,
}

/// Who fetches suspicious objects for an entity.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionRow {
    /// Whose calls count.
    pub key: PublicKey,
    /// Of its last call.
    pub counter: u64,
    /// Since when.
    pub issued_at: Timestamp,
    /// The version that the entity said it holds.
    pub held: u64,
    /// The last time it asked; zero: never.
    pub fetched_at: Timestamp,
}

/// What entities fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FeedState {
    /// The version. A later one is greater.
    pub version: u64,
    /// The oldest version of which it is known what has changed since.
    pub since: u64,
    /// What the whole list is known by.
    pub list: Digest,
}

/// What is known of the sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct SandboxState {
    /// The collection that was read.
    pub collection: String,
    /// Until when what was added there was read, in its own words.
    pub added_after: String,
    /// The last time it was asked; zero: never.
    pub asked_at: Timestamp,
    /// The last time all of it was read; zero: never.
    pub read_at: Timestamp,
    /// The last time it was read from its beginning; zero: never.
    pub whole_at: Timestamp,
    /// The number of the last reading.
    pub reading: u64,
    /// Of the last time; empty: none.
    pub error: String,
}

/// What was not taken of something that the sandbox said.
#[derive(Debug, Clone)]
pub(crate) struct SandboxNoteRow {
    /// Of what.
    pub id: String,
    /// How it is called.
    pub name: String,
    /// Why.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

/// How many entities there are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Listed.
    pub all: u64,
    /// Waiting to be let in.
    pub waiting: u64,
    /// That left a moment ago.
    pub gone: u64,
}

/// An instruction to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct NewInstruction {
    /// Its id.
    pub id: InstructionId,
    /// What makes two requests the same.
    pub request: Digest,
    /// For people.
    pub kind: String,
    /// `writ.manager.v1.Instruction` without what differs from entity to entity.
    pub task: Vec<u8>,
    /// By whom.
    pub issued_by: String,
    /// When.
    pub issued_at: Timestamp,
    /// Entities that did not take it by then never will.
    pub expires_at: Timestamp,
    /// What is not reported by then timed out.
    pub ends_at: Timestamp,
}

/// What came of recording one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Issued {
    /// It waits for its entities.
    New,
    /// The same request was recorded under this id before.
    Known,
    /// Another request was.
    Taken,
}

/// An instruction and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct InstructionRow {
    /// The order of issue.
    pub sequence: u64,
    /// Its id.
    pub id: InstructionId,
    /// For people.
    pub kind: String,
    /// By whom.
    pub issued_by: String,
    /// When.
    pub issued_at: Timestamp,
    /// The end of waiting.
    pub expires_at: Timestamp,
    /// The end of all.
    pub ends_at: Timestamp,
    /// Entities it is for.
    pub total: u64,
    /// That have done it.
    pub successful: u64,
    /// That have not and will not, by their own word.
    pub unsuccessful: u64,
}

/// What became of an instruction at one entity.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRow {
    /// At which.
    pub entity: EntityId,
    /// What it was called then.
    pub display_name: String,
    /// `None`: it waits, or timed out.
    pub state: Option<TaskState>,
    /// Nobody took it, or said what became of it, in time.
    pub is_timed_out: bool,
    /// For people.
    pub detail: String,
    /// The command it became.
    pub command: Option<CommandId>,
    /// Agents it was for.
    pub agents: u64,
    /// That have done it.
    pub agents_done: u64,
    /// That failed or refused.
    pub agents_failed: u64,
    /// The last change.
    pub updated_at: Timestamp,
}

/// What waits for an entity.
#[derive(Debug, Clone)]
pub(crate) struct WaitingInstruction {
    /// Its number in the epoch.
    pub sequence: u64,
    /// As recorded.
    pub task: Bytes,
}

/// Where an instruction stands at an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryState {
    /// The entity has not taken it.
    Waiting,
    /// It has.
    Taken,
    /// It did what it was told.
    Successful,
    /// It did not and will not, by its own word.
    Unsuccessful,
    /// Nobody took it, or said what became of it, in time. A late word still changes that.
    TimedOut,
}

impl DeliveryState {
    /// As stored; statements name these.
    pub(super) const fn stored(self) -> i64 {
        match self {
            Self::Waiting => 1,
            Self::Taken => 2,
            Self::Successful => 3,
            Self::Unsuccessful => 4,
            Self::TimedOut => 5,
        }
    }

    /// What an entity's word comes to.
    pub(super) const fn of(state: TaskState) -> Self {
        match state {
            TaskState::InProgress => Self::Taken,
            TaskState::Successful => Self::Successful,
            TaskState::Unsuccessful => Self::Unsuccessful,
        }
    }

    /// What is known of the task; `None`: it waits, or timed out.
    pub(super) const fn task(self) -> Option<TaskState> {
        match self {
            Self::Waiting | Self::TimedOut => None,
            Self::Taken => Some(TaskState::InProgress),
            Self::Successful => Some(TaskState::Successful),
            Self::Unsuccessful => Some(TaskState::Unsuccessful),
        }
    }
}

impl ToValue for DeliveryState {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(self.stored())
    }
}

impl FromValue for DeliveryState {
    fn from_value(value: Value<'_>) -> Option<Self> {
        let stored = i64::from_value(value)?;
        let all = [Self::Waiting, Self::Taken, Self::Successful, Self::Unsuccessful, Self::TimedOut];
        all.into_iter().find(|state| state.stored() == stored)
    }
}

/// States below this one are open; an index has only these.
pub(super) const FIRST_ENDED: i64 = DeliveryState::Successful.stored();

/// A token as stored: never its secret.
#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    /// The order of creation.
    pub sequence: u64,
    /// What it is known by.
    pub digest: Digest,
    /// How often it counts.
    pub max_uses: u32,
    /// How often it did.
    pub uses: u32,
    /// The first moment it does not count any more.
    pub expires_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Zero: not.
    pub revoked_at: Timestamp,
}

impl TokenRow {
    /// Whether it lets one more entity in.
    pub(super) fn is_usable(&self, now: Timestamp) -> bool {
        self.uses < self.max_uses && self.expires_at > now && self.revoked_at == Timestamp::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lets_in_as_often_as_it_says_until_it_ends() {
        let at = Timestamp::from_millis;
        for (what, uses, expires_at, revoked_at, is_usable) in [
            ("fresh", 0, 51, 0, true),
            ("spent", 2, 51, 0, false),
            ("expired this moment", 0, 50, 0, false),
            ("revoked", 0, 51, 3, false),
        ] {
            let token = TokenRow {
                sequence: 1,
                digest: Digest::from_bytes([1; 32]),
                max_uses: 2,
                uses,
                expires_at: at(expires_at),
                created_by: "anna".to_owned(),
                revoked_at: at(revoked_at),
            };
            assert_eq!(token.is_usable(at(50)), is_usable, "{what}");
        }
    }
}
