//! Answers of an agent: each is recorded, then acknowledged, and what no honest agent says is an alert.

use std::collections::VecDeque;

use bytes::Bytes;
use tracing::warn;
use writ_common::status::Failure;
use writ_proto::v1::{self as proto, server_frame::Frame};
use writ_protocol::id::{CommandId, Digest};

use super::{Answered, Live};
use crate::receipts::VerifiedReceipt;
use crate::session::End;
use crate::store::{Alarm, AlertKind, ReceiptFate, unavailable};
use crate::traces::Moment;

/// Receipts of one session that are not acknowledged; with the last of them all are, as soon as they are
/// stored.
const MAX_UNACKNOWLEDGED: usize = 64;

impl Live<'_> {
    pub(super) async fn answer(&mut self, answer: proto::Answer) -> Result<(), End> {
        let proto::Answer { command_id, command_digest, receipt, deliveries } = answer;
        let malformed = |_| Failure::protocol("an answer names no command");
        let command = CommandId::try_from(command_id.as_ref()).map_err(malformed)?;
        let digest = Digest::try_from(command_digest.as_ref()).map_err(malformed)?;
        let now = self.server.clock.wall();
        // protocol.md §7.4: the agent counted more deliveries on this stream than were made. An unsolicited
        // receipt has its own alert.
        let (place, sent) = self.unanswered.remove(&command).unzip();
        if self.turns.remove(&command).is_some() && self.applicant.goes_on() {
            self.slot.mailbox.look_into_store();
        }
        if let Some(place) = place {
            self.server.dispatcher.in_flight().places().remove(command, place);
            self.server.dispatcher.running().remove(command, place);
        }
        let is_tombstone = receipt.is_empty();
        let made = self.deliveries.get(&command).copied().unwrap_or(0);
        let mut is_replay = deliveries > made;
        if !is_tombstone {
            // Not acknowledged, so the agent keeps it; the session goes on, or it would end here at every
            // attempt.
            let verified = match VerifiedReceipt::verify(receipt, &self.agent, self.server.fleet) {
                Ok(verified) => verified,
                Err(refusal) => {
                    warn!(command.id = %command, agent.id = %self.agent.id, %refusal, "receipt not believed");
                    return self.not_believed(format!("a receipt of command {command}"), &refusal).await;
                }
            };
            let said = verified.receipt();
            if said.command != command || said.command_digest != digest {
                return Err(Failure::protocol("an answer and its receipt name different commands").into());
            }
            let told = self.server.traces.about(said);
            let recorded = verified.record(&self.server.store, self.mark, is_replay, now);
            let recorded = recorded.await.map_err(unavailable)?;
            if !is_replay && told.is_none() {
                // Nobody waits for the commit: that would wake this session once more for each receipt.
                self.unacknowledged.push_back(((command, digest), recorded));
                if self.unacknowledged.len() >= MAX_UNACKNOWLEDGED {
                    self.acknowledge_all().await?;
                }
                return Ok(());
            }
            let fate = recorded.committed().await.map_err(unavailable)?;
            if fate == ReceiptFate::Stored
                && let Some(told) = told
            {
                self.server.traces.answered(told, sent.flatten(), Moment::now(&*self.server.clock));
            }
            if !self.bear(fate)? {
                is_replay = false;
            }
        }
        let is_lost = is_tombstone
            && self.server.store.is_unanswered(command, self.agent.id, now).await.map_err(unavailable)?;
        if is_lost || is_replay {
            self.bear_noise()?;
        }
        if is_lost {
            let detail = format!(
                "It says its receipt of command {command} was acknowledged, but this server has none. Either its database was put back to an earlier state, or somebody between the server and the agent forges acknowledgements."
            );
            let alarm = Alarm { kind: AlertKind::Lost, code: "", agent: self.agent.id, count: 1, detail };
            self.server.store.raise(alarm, None, now).await.map_err(unavailable)?;
            warn!(command.id = %command, agent.id = %self.agent.id, "receipt lost");
        }
        if is_replay {
            let detail = format!(
                "Command {command} was delivered {deliveries} times on a stream where this server sent it {made} times. Somebody between the server and the agent replays; nothing was started again."
            );
            let alarm = Alarm { kind: AlertKind::Replayed, code: "", agent: self.agent.id, count: 1, detail };
            self.server.store.raise(alarm, None, now).await.map_err(unavailable)?;
            warn!(command.id = %command, agent.id = %self.agent.id, deliveries, made, "command replayed by somebody");
        }
        self.acknowledge((command, digest)).await
    }

    /// Acknowledges what is stored by now, with the delivery that goes down next (protocol.md §7.2).
    pub(super) async fn acknowledge_stored(&mut self) -> Result<(), End> {
        while let Some((answered, recorded)) = self.unacknowledged.pop_front() {
            match recorded.decided() {
                Ok(fate) => self.bear(fate.map_err(unavailable)?)?,
                Err(undecided) => {
                    self.unacknowledged.push_front((answered, undecided));
                    break;
                }
            };
            self.acknowledge(answered).await?;
        }
        Ok(())
    }

    /// Acknowledges everything, as soon as it is stored.
    pub(super) async fn acknowledge_all(&mut self) -> Result<(), End> {
        while let Some((answered, recorded)) = self.unacknowledged.pop_front() {
            self.bear(recorded.committed().await.map_err(unavailable)?)?;
            self.acknowledge(answered).await?;
        }
        // An idle session keeps no room for what it does not do.
        self.unacknowledged = VecDeque::new();
        Ok(())
    }

    async fn acknowledge(&self, (command, digest): Answered) -> Result<(), End> {
        let [command_id, command_digest] =
            [command.as_bytes().as_slice(), digest.as_bytes()].map(Bytes::copy_from_slice);
        self.say(Frame::AnswerAck(proto::AnswerAcknowledgement { command_id, command_digest })).await
    }

    /// Whether a receipt is one that an honest agent makes.
    fn bear(&mut self, fate: ReceiptFate) -> Result<bool, End> {
        let is_honest = matches!(fate, ReceiptFate::Stored | ReceiptFate::Known);
        if !is_honest {
            self.bear_noise()?;
        }
        Ok(is_honest)
    }
}
