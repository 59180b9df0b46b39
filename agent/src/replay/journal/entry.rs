//! What the journal keeps of a command.

use bytes::Bytes;
use writ_protocol::id::{CommandId, Digest, JournalId};
use writ_protocol::time::Timestamp;

use super::JournalError;

/// How far a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum State {
    /// Admitted, not started.
    Accepted = 0,
    /// Perhaps started.
    Started = 1,
    /// Its receipt is made.
    Finished = 2,
    /// The server says that it has the receipt, which is kept as long as there is room.
    Acknowledged = 3,
}

/// One command in the journal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// How far it is.
    #[prost(enumeration = "State", tag = "1")]
    pub state: i32,
    /// The command's digest.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
    /// Unix milliseconds.
    #[prost(uint64, tag = "3")]
    pub expires_at_ms: u64,
    /// The delivery, until it is finished.
    #[prost(bytes = "bytes", tag = "4")]
    pub delivery: Bytes,
    /// The receipt's envelope; empty before there is one, and after it had to go.
    #[prost(bytes = "bytes", tag = "5")]
    pub receipt: Bytes,
    /// 1 for the first start.
    #[prost(uint32, tag = "6")]
    pub attempt: u32,
    /// Session time of the start.
    #[prost(uint64, tag = "7")]
    pub started_at_ms: u64,
    /// The process group; 0 until it is known.
    #[prost(uint32, tag = "8")]
    pub process_group: u32,
    /// The boot it was started in.
    #[prost(string, tag = "9")]
    pub boot: String,
    /// The place of its receipt among those that are kept though acknowledged; 0: it is not among them.
    #[prost(uint64, tag = "10")]
    pub kept_at: u64,
    /// Whether another command told it to end.
    #[prost(bool, tag = "11")]
    pub is_stopped: bool,
}

impl Entry {
    pub(super) fn start(&mut self, now: Timestamp, boot: &str) {
        self.set_state(State::Started);
        self.attempt += 1;
        self.started_at_ms = now.as_millis();
        self.process_group = 0;
        boot.clone_into(&mut self.boot);
    }
}

/// What the journal knows of one command.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its digest.
    pub digest: Digest,
    /// How far it is.
    pub state: State,
    /// The receipt, if there is one still.
    pub receipt: Option<Bytes>,
}

/// The journal as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its id.
    pub id: JournalId,
    /// Rises with every transaction.
    pub counter: u64,
    /// How many commands it ever admitted.
    pub admissions: u64,
    /// Session time at its birth.
    pub birth: Timestamp,
    /// The greatest expiry it pruned.
    pub forgotten_until: Timestamp,
    /// Session time never falls below this.
    pub floor: Timestamp,
    /// How many commands it remembers.
    pub entries: u64,
}

/// That an admission is on disk. The executor asks for it.
#[derive(Debug)]
#[must_use]
pub struct Durable {
    pub(super) command: CommandId,
}

/// That a command was admitted now, as the journal's how-manieth.
#[derive(Debug)]
#[must_use]
pub struct Admission {
    /// The evidence.
    pub durable: Durable,
    /// How many the journal ever admitted, with this one.
    pub admissions: u64,
}

impl Durable {
    /// Whose.
    #[must_use]
    pub const fn command(&self) -> CommandId {
        self.command
    }
}

/// What an entry says.
///
/// # Errors
/// When it is damaged.
pub(super) fn known(entry: &Entry) -> Result<Known, JournalError> {
    Ok(Known {
        digest: Digest::try_from(entry.digest.as_ref()).map_err(|_| JournalError::Damaged)?,
        state: entry.state(),
        receipt: (!entry.receipt.is_empty()).then(|| entry.receipt.clone()),
    })
}
