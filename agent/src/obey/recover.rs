//! What a crash left behind, settled at the next start.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::{error, info, warn};
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::receipt::{Decision, Ending};
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;
use writ_protocol::verify::VerifiedCommand;

use super::{AgentCore, boot_id};
use crate::execute::{AdmittedCommand, Ended, is_group_gone};
use crate::replay::{Durable, Entry, Journal, JournalError, State, judge_again};
use crate::reply::sign_receipt;
use crate::verify::{self, verify};

/// Commands that a crash left behind and that are not settled yet. Looked up once a process: a second time
/// would take running commands for crashed ones.
#[derive(Debug)]
pub struct Unsettled(VecDeque<(CommandId, Entry)>);

impl Unsettled {
    /// Those of a journal that was just opened.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(journal: &Journal) -> Result<Self, JournalError> {
        let mut open = journal.open_commands()?;
        open.retain(|(_, entry)| matches!(entry.state(), State::Accepted | State::Started));
        Ok(Self(open.into()))
    }
}

impl AgentCore {
    /// Settles what a crash left behind (protocol.md §4.13): accepted commands are judged again, started ones
    /// are indeterminate unless they are idempotent and their processes are proven gone.
    ///
    /// # Errors
    /// When the journal fails. Then the rest is still left, for when there is room again.
    pub fn settle(self: &Arc<Self>, left: &mut Unsettled, now: Timestamp) -> Result<(), JournalError> {
        while let Some((id, entry)) = left.0.front() {
            match self.settle_one(*id, entry, now) {
                // One entry costs one command.
                Err(JournalError::Damaged) => {
                    error!(command.id = %id, "the journal's entry of this command is damaged")
                }
                settled => settled?,
            }
            left.0.pop_front();
        }
        Ok(())
    }

    fn settle_one(
        self: &Arc<Self>,
        id: CommandId,
        entry: &Entry,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let digest = Digest::try_from(entry.digest.as_ref()).map_err(|_| JournalError::Damaged)?;
        match entry.state() {
            State::Started if self.upgrades.has_taken(id) => {
                self.await_upgrade(id, digest, entry.clone());
                Ok(())
            }
            // An operator was told that it ends: it is not begun anew.
            State::Accepted | State::Started if entry.is_stopped => {
                self.finish(id, &self.stopped(id, digest, Some(entry)))
            }
            State::Accepted => self.resume(id, digest, entry, now),
            State::Started if self.may_run_again(entry, now) => {
                info!(command.id = %id, attempt = entry.attempt, "idempotent command is started once more");
                let durable = self.journal.accept_again(id)?;
                self.resume_with(id, digest, entry, durable, now)
            }
            State::Started => {
                warn!(command.id = %id, "the agent ended while this command ran; it is not started again");
                self.finish_indeterminate(id, digest, entry, now)
            }
            State::Finished | State::Acknowledged => Ok(()),
        }
    }

    /// Answers for an upgrade that another program of this agent's began, however long that takes and
    /// whatever became of the command's window meanwhile.
    fn await_upgrade(self: &Arc<Self>, id: CommandId, digest: Digest, entry: Entry) {
        let this = Arc::clone(self);
        // Another one must not begin before this one is answered: root's side notes one at a time.
        let place = Arc::clone(&self.upgrading).try_acquire_owned();
        self.shutdown.spawn(async move {
            let _place = place;
            let Some(ended) = this.shutdown.unless_requested(this.upgrades.outcome(id)).await else { return };
            info!(command.id = %id, ending = ended.ending.as_str(), "upgrade ended");
            let now = this.now();
            let about = this.about(id, digest, now, entry.attempt);
            let started_at = Timestamp::from_millis(entry.started_at_ms);
            let decision = Decision::Obeyed(ended.outcome(started_at, now));
            let receipt = sign_receipt(&this.identity, about, decision, &ended.detail);
            if let Err(error) = this.keep(id, &receipt).await {
                error!(command.id = %id, %error, "the receipt of an upgrade could not be kept");
                this.give_up();
            }
        });
    }

    fn resume(
        self: &Arc<Self>,
        id: CommandId,
        digest: Digest,
        entry: &Entry,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let durable = self.journal.accepted_before(id)?;
        self.resume_with(id, digest, entry, durable, now)
    }

    fn resume_with(
        self: &Arc<Self>,
        id: CommandId,
        digest: Digest,
        entry: &Entry,
        durable: Durable,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let planned = match self.verify_stored(entry, now) {
            Ok(command) => match judge_again(&self.journal, command, now)? {
                Ok(fresh) => {
                    let issued_at = fresh.verified().command().window.issued_at;
                    self.plan(fresh.verified()).map(|plan| (plan, issued_at))
                }
                Err((_, refusal)) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        match planned {
            Ok((plan, issued_at)) => {
                let expires_at = Timestamp::from_millis(entry.expires_at_ms);
                self.start(AdmittedCommand { durable, digest, issued_at, expires_at, plan, started: None });
                Ok(())
            }
            // Whatever was started once cannot be called refused any more.
            Err(refusal) if entry.attempt > 0 => {
                warn!(command.id = %id, code = %refusal.code, "command is not started once more");
                self.finish_indeterminate(id, digest, entry, now)
            }
            Err(refusal) => {
                warn!(command.id = %id, code = %refusal.code, "command accepted before a restart is refused now");
                self.finish(id, &self.refuse(id, digest, &refusal, now))
            }
        }
    }

    pub(super) fn finish_indeterminate(
        &self,
        id: CommandId,
        digest: Digest,
        entry: &Entry,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let ended = Ended::quiet(Ending::Indeterminate, "the agent ended while it ran");
        let started_at = Timestamp::from_millis(entry.started_at_ms);
        let about = self.about(id, digest, now, entry.attempt);
        let decision = Decision::Obeyed(ended.outcome(started_at, now));
        self.finish(id, &sign_receipt(&self.identity, about, decision, &ended.detail))
    }

    fn verify_stored(&self, entry: &Entry, now: Timestamp) -> Result<VerifiedCommand, Refusal> {
        let message = verify::decode(&entry.delivery)
            .ok_or_else(|| Refusal::new(RefusalCode::JournalFailed, "the stored delivery is damaged"))?;
        let record = &self.identity.record;
        Ok(verify(message, &self.trust.chain(), (record.agent, &record.realm), now)?.0)
    }

    fn may_run_again(&self, entry: &Entry, now: Timestamp) -> bool {
        let is_gone =
            entry.boot != boot_id() || (entry.process_group != 0 && is_group_gone(entry.process_group));
        let plan = || {
            let command = self.verify_stored(entry, now).ok()?;
            self.table.plan(&command.command().action).ok()
        };
        // What the agent does itself has no process that could outlive it.
        plan().is_some_and(|plan| plan.is_idempotent() && (is_gone || !plan.has_process()))
    }
}
