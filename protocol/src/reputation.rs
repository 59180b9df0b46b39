//! What a list of the server says about values, under its seal (protocol.md §6.18).
//!
//! An agent holds a filter of a list, which takes some values for listed that are not. About these it asks a
//! [`Question`]. The [`Reputation`] names the question by its digest, and a question is never repeated: so
//! nobody who only has the channel's key can call a listed file good.

use std::time::Duration;

use bytes::Bytes;

use crate::envelope::{ReputationPurpose, verify};
use crate::hello::Nonce;
use crate::id::{AgentId, Digest, FleetId};
use crate::refusal::{Refusal, RefusalCode};
use crate::time::Timestamp;
use crate::trust::Keyring;

/// Which of some values are on a list?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Makes it another one than all before.
    pub nonce: Nonce,
    /// Which list, by the name of its component.
    pub component: String,
    /// As a list holds them: digests of 32, 20 or 16 bytes, all of one length, strictly ascending.
    pub values: Vec<Bytes>,
}

/// What a list says about the values of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reputation {
    /// The fleet.
    pub fleet: FleetId,
    /// Who asked.
    pub agent: AgentId,
    /// SHA-256 of the question as it was sent.
    pub question: Digest,
    /// Which version of the list, for people.
    pub version: String,
    /// SHA-256 of the list's values.
    pub list: Digest,
    /// Those of the question's values that are on the list, strictly ascending. The others are not.
    pub listed: Vec<Bytes>,
    /// How long the agent may go by this.
    pub counts_for: Duration,
    /// When.
    pub answered_at: Timestamp,
}

/// What an agent expects of an answer.
#[derive(Debug)]
pub struct Expected<'a> {
    /// Whom it obeys.
    pub keyring: Keyring<'a>,
    /// Its fleet.
    pub fleet: FleetId,
    /// Itself.
    pub agent: AgentId,
    /// SHA-256 of the question that it sent.
    pub question: Digest,
    /// Session time.
    pub now: Timestamp,
}

impl Expected<'_> {
    /// Believes an answer, or says why not.
    ///
    /// # Errors
    /// As an envelope is refused; `wrong_fleet`, `wrong_agent`, `wrong_question`.
    pub fn judge(&self, envelope: &[u8]) -> Result<Reputation, Refusal> {
        let said = verify::<ReputationPurpose>(envelope, &self.keyring.candidates(self.now), 1)?;
        let said = said.into_document();
        let refuse = |code, detail| Err(Refusal::new(code, detail));
        if said.fleet != self.fleet {
            return refuse(RefusalCode::WrongFleet, "what a list says was told to another fleet");
        }
        if said.agent != self.agent {
            return refuse(RefusalCode::WrongAgent, "what a list says was told to another agent");
        }
        if said.question != self.question {
            return refuse(RefusalCode::WrongQuestion, "what a list says answers another question");
        }
        Ok(said)
    }
}
