//! Checks 8 to 10 of an agent (protocol.md §4): is it new, is it time, did enough operators approve?
//!
//! A failure here is answered at once by a signed receipt. Check 11, the allow-list, and check 12, the
//! journal write, are the agent's own.

use std::collections::BTreeSet;

use crate::command::ActionClass;
use crate::envelope::{ApprovalPurpose, Candidate, verify};
use crate::id::{Digest, KeyId};
use crate::limits::{MAX_APPROVALS, SKEW};
use crate::refusal::{Refusal, RefusalCode};
use crate::time::Timestamp;
use crate::trust::TrustBundle;
use crate::verify::VerifiedCommand;

/// What a journal knows that bears on a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalView {
    /// The digest the command's id is known with, if it is.
    pub known: Option<Digest>,
    /// Session time at the journal's birth: what was issued before may have been obeyed by a lost journal.
    pub birth: Timestamp,
    /// The greatest expiry the journal has pruned: what expires by then may have been obeyed and forgotten.
    pub forgotten_until: Timestamp,
}

/// What check 8 found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// Never seen.
    New,
    /// The same command again: answer as before, start nothing.
    Redelivery,
}

impl JournalView {
    /// Check 8.
    ///
    /// # Errors
    /// `id_reused`.
    pub fn novelty(&self, command: &VerifiedCommand) -> Result<Novelty, Refusal> {
        match self.known {
            None => Ok(Novelty::New),
            Some(known) if known == command.digest() => Ok(Novelty::Redelivery),
            Some(known) => {
                let detail = format!("the id is known with digest {known}");
                Err(Refusal::new(RefusalCode::IdReused, detail))
            }
        }
    }

    /// Check 9.
    ///
    /// # Errors
    /// `not_yet_valid`, `expired` or `too_old`.
    pub fn check_window(&self, command: &VerifiedCommand, now: Timestamp) -> Result<(), Refusal> {
        let window = command.command().window;
        if now < window.not_before - SKEW {
            let detail = format!("it may start {:?} from now", window.not_before.since(now));
            return Err(Refusal::new(RefusalCode::NotYetValid, detail));
        }
        if now >= window.expires_at {
            let detail = format!("it expired {:?} ago", now.since(window.expires_at));
            return Err(Refusal::new(RefusalCode::Expired, detail));
        }
        if window.expires_at <= self.forgotten_until {
            let detail = format!(
                "it expires at {}, the journal is pruned up to {}",
                window.expires_at, self.forgotten_until
            );
            return Err(Refusal::new(RefusalCode::TooOld, detail));
        }
        if window.issued_at < self.birth {
            let detail =
                format!("it was issued at {}, the journal begins at {}", window.issued_at, self.birth);
            return Err(Refusal::new(RefusalCode::TooOld, detail));
        }
        Ok(())
    }
}

/// Check 10. The class comes from the agent's own table, never from the payload.
///
/// # Errors
/// `threshold_not_met`.
pub fn check_approvals(
    bundle: &TrustBundle,
    class: ActionClass,
    command: &VerifiedCommand,
) -> Result<(), Refusal> {
    let Some(operators) = bundle.rule(class) else {
        return Ok(());
    };
    let candidates: Vec<_> = operators.keys.iter().map(Candidate::accepted).collect();
    let mut approvers: BTreeSet<KeyId> = BTreeSet::new();
    for envelope in command.approvals().iter().take(MAX_APPROVALS) {
        let Ok(approval) = verify::<ApprovalPurpose>(envelope, &candidates, 1) else {
            continue;
        };
        let is_for_this = approval.document().command_digest == command.digest()
            && approval.document().fleet == command.command().fleet;
        if is_for_this {
            approvers.extend(approval.signers());
        }
    }
    if approvers.len() < operators.threshold {
        let detail = format!(
            "{} of {} operators approved this {} action",
            approvers.len(),
            operators.threshold,
            class.as_str()
        );
        return Err(Refusal::new(RefusalCode::ThresholdNotMet, detail));
    }
    Ok(())
}
