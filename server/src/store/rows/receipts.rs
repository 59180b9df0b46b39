//! The receipts that answer commands.

use bytes::Bytes;
use writ_protocol::id::{AgentId, CommandId, Digest, SessionMark};
use writ_protocol::refusal::RefusalCode;
use writ_protocol::time::Timestamp;

use super::TargetState;

/// What became of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiptFate {
    /// It is the one that counts.
    Stored,
    /// It was stored before.
    Known,
    /// Another one was stored before; this one is evidence.
    Contradicts,
    /// The agent was never sent such a command; this one is evidence.
    Unsolicited,
}

/// A verified receipt, ready to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct NewReceipt {
    /// The command's id.
    pub command: CommandId,
    /// The command's digest.
    pub command_digest: Digest,
    /// The agent.
    pub agent: AgentId,
    /// The mark of the session it came in, and the journal's counter it shows.
    pub counter: (SessionMark, u64),
    /// The receipt's own digest.
    pub digest: Digest,
    /// The receipt's envelope.
    pub envelope: Bytes,
    /// What it says.
    pub state: TargetState,
    /// Why it was refused, if it was.
    pub refused: Option<RefusalCode>,
    /// What a scan found, if it found listed files.
    pub listed: Option<String>,
    /// Whether it answers a delivery this server did not make.
    pub is_replay: bool,
    /// When it came.
    pub now: Timestamp,
    /// Hears what became of it, after the commit.
    pub tell: fn(&Self, ReceiptFate),
}
