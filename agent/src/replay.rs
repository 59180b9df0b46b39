//! At most one start, ever: the journal says what is known, and knows of a command before it is started.

mod journal;
pub(crate) mod look;

pub use journal::Journal;
pub(crate) use journal::{Admission, Durable, Entry, Facts, JournalError, Known, State};

use writ_protocol::admission::{JournalView, Novelty};
use writ_protocol::refusal::Refusal;
use writ_protocol::time::Timestamp;
use writ_protocol::verify::VerifiedCommand;

/// What the journal says of a verified command.
#[derive(Debug)]
pub(crate) enum ReplayCheck {
    /// New and in time: it may be admitted.
    Fresh(Box<FreshCommand>),
    /// Known: answer as before, start nothing.
    Redelivery(Known),
    /// Refused; answered at once.
    Refused(Refusal),
}

/// A command that passed checks 8 and 9. Made only by [`evaluate`].
#[derive(Debug)]
#[must_use]
pub(crate) struct FreshCommand(VerifiedCommand);

impl FreshCommand {
    /// The command.
    pub(crate) const fn verified(&self) -> &VerifiedCommand {
        &self.0
    }
}

/// Checks 8 and 9 (protocol.md §4).
///
/// # Errors
/// When the journal cannot be read.
pub(crate) fn evaluate(
    journal: &Journal,
    command: VerifiedCommand,
    now: Timestamp,
) -> Result<ReplayCheck, JournalError> {
    let known = journal.find(command.command().id)?;
    let Facts { birth, forgotten_until, .. } = journal.facts()?;
    let view = JournalView { known: known.as_ref().map(|known| known.digest), birth, forgotten_until };
    Ok(match (view.novelty(&command), known) {
        (Err(refusal), _) => ReplayCheck::Refused(refusal),
        (Ok(Novelty::Redelivery), Some(known)) => ReplayCheck::Redelivery(known),
        (Ok(_), _) => match view.check_window(&command, now) {
            Ok(()) => ReplayCheck::Fresh(Box::new(FreshCommand(command))),
            Err(refusal) => ReplayCheck::Refused(refusal),
        },
    })
}

/// Check 9 alone, for a command that was accepted before a crash (protocol.md §4.13).
///
/// # Errors
/// The outer error is the journal's; the inner one says why it may not be started any more.
pub(crate) fn judge_again(
    journal: &Journal,
    command: VerifiedCommand,
    now: Timestamp,
) -> Result<Result<FreshCommand, (VerifiedCommand, Refusal)>, JournalError> {
    let Facts { birth, .. } = journal.facts()?;
    // What the journal itself accepted is not too old for it, whatever it pruned since.
    let view = JournalView { known: None, birth, forgotten_until: Timestamp::ZERO };
    Ok(match view.check_window(&command, now) {
        Ok(()) => Ok(FreshCommand(command)),
        Err(refusal) => Err((command, refusal)),
    })
}
