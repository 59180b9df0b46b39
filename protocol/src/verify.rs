//! Checks 1 to 7 of an agent (protocol.md §4): is this a command of my fleet, for me, by a key I obey?
//!
//! A failure here is silent on the wire.

use bytes::Bytes;

use crate::command::{Command, Delivery};
use crate::envelope::{CommandPurpose, verify};
use crate::id::{AgentId, Digest, KeyId};
use crate::refusal::{Refusal, RefusalCode};
use crate::rollout::Expected;
use crate::time::Timestamp;
use crate::trust::{Keyring, TrustBundle};

/// Who an agent is and whom it obeys, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Verifier<'a> {
    /// The newest bundle the agent holds.
    pub bundle: &'a TrustBundle,
    /// The agent's id.
    pub agent: AgentId,
    /// The agent's realm.
    pub realm: &'a str,
    /// Session time.
    pub now: Timestamp,
}

/// A command that passed checks 1 to 7. Made only by [`Verifier::verify`]; holding one is the evidence.
#[derive(Debug)]
#[must_use]
pub struct VerifiedCommand {
    command: Command,
    digest: Digest,
    key: KeyId,
    approvals: Vec<Bytes>,
}

impl Verifier<'_> {
    /// Checks 1 to 7, in order.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, delivery: &Delivery) -> Result<VerifiedCommand, Refusal> {
        // §4.1 to §4.5
        let candidates = Keyring::new(self.bundle, self.realm).candidates(self.now);
        let verified = verify::<CommandPurpose>(&delivery.envelope, &candidates, 1)?;
        // §4.6
        let command = verified.document();
        if command.fleet != self.bundle.fleet {
            let detail =
                format!("command of fleet {}, this agent is of {}", command.fleet, self.bundle.fleet);
            return Err(Refusal::new(RefusalCode::WrongFleet, detail));
        }
        // §4.7
        command.audience.check(self.agent, &delivery.proof)?;
        let digest = verified.digest();
        if verified.document().rollout.is_some() {
            let release = Expected { fleet: self.bundle.fleet, command: digest, index: delivery.proof.index };
            release.check(&delivery.release, &candidates)?;
        }
        let key = *verified.signers().first().expect("verify returns at least one signer");
        Ok(VerifiedCommand {
            command: verified.into_document(),
            digest,
            key,
            approvals: delivery.approvals.clone(),
        })
    }
}

impl VerifiedCommand {
    /// The command.
    #[must_use]
    pub const fn command(&self) -> &Command {
        &self.command
    }

    /// What receipts and the journal refer to.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The key that signed it.
    #[must_use]
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// Approvals that came beside it, not yet verified.
    #[must_use]
    pub fn approvals(&self) -> &[Bytes] {
        &self.approvals
    }
}
