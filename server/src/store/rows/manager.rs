//! What the connection to the Control Manager must not forget.

use bytes::Bytes;
use writ_protocol::id::CommandId;
use writ_protocol::manager::TaskState;

/// What the number of a task's state is in the database.
pub(in crate::store) const fn stored(state: TaskState) -> i64 {
    match state {
        TaskState::InProgress => 1,
        TaskState::Successful => 2,
        TaskState::Unsuccessful => 3,
    }
}

/// The state of a number.
pub(in crate::store) fn state_of(stored: i64) -> Option<TaskState> {
    let states = [TaskState::InProgress, TaskState::Successful, TaskState::Unsuccessful];
    states.into_iter().find(|state| self::stored(*state) == stored)
}

/// An instruction this server took.
#[derive(Debug, Clone)]
pub(crate) struct TakenRow {
    /// The registration it belongs to.
    pub epoch: u64,
    /// Its number there.
    pub sequence: u64,
    /// The payload that was verified: `writ.manager.v1.Instruction`.
    pub instruction: Bytes,
    /// The command it becomes, if it becomes one.
    pub command: CommandId,
    /// How it stands.
    pub state: TaskState,
    /// For people.
    pub detail: String,
}
