//! The server's one signing key: everything it says to agents goes through here, once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use writ_common::audience::AudienceTree;
use writ_common::command::{Action, Command, Window};
use writ_common::envelope::{
    CommandPurpose, HelloPurpose, IdentityRecordPurpose, InvalidDocument, Purpose, RefusalsAckPurpose,
    Sealed, sign,
};
use writ_common::hello::ServerHello;
use writ_common::id::{AgentId, CommandId, FleetId};
use writ_common::identity::IdentityRecord;
use writ_common::keys::{PrivateKey, Server};
use writ_common::limits::MAX_COMMAND_BYTES;
use writ_common::receipt::RefusalAcknowledgement;
use writ_common::time::{SharedClock, Timestamp};
use writ_common::trust::{SigningEntry, TrustBundle};
use writ_common::wire::status::Failure;

/// The wall clock may drift from the monotonic one by this much while the server runs; past it nothing is signed,
/// for a wrong time under a good signature moves every agent's floor.
const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(3600);

/// How far the clock may go back, as time servers make it do. Below the skew that agents allow for their floor.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// A well-formed request, not yet signed. Made by [`crate::admin::submit`].
#[derive(Debug)]
pub struct CommandDraft {
    /// Its id.
    pub id: CommandId,
    /// The frozen audience, strictly ascending, never empty.
    pub targets: Vec<AgentId>,
    /// How long it may wait.
    pub lifetime: Duration,
    /// The operator.
    pub requested_by: String,
    /// What to do.
    pub action: Action,
}

/// A command under the server's signature. Made only by [`Signer::command`].
#[derive(Debug)]
#[must_use]
pub struct SignedCommand {
    /// The command.
    pub command: Command,
    /// The envelope.
    pub envelope: Sealed<CommandPurpose>,
    /// The frozen audience.
    pub targets: Vec<AgentId>,
    /// Its tree, for proofs.
    pub tree: AudienceTree,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The clock jumped.
    #[error(
        "the wall clock moved by {0:?} against the monotonic clock; nothing is signed until it is set right and the server restarted"
    )]
    ClockJumped(Duration),
    /// The clock went back while the server was off.
    #[error(
        "the clock says {now}, but this server signed at {signed}; set the clock right, or start with --accept-clock if that earlier time was wrong"
    )]
    ClockBehind {
        /// What the clock says.
        now: Timestamp,
        /// What it said before.
        signed: Timestamp,
    },
    /// The certificate ended or has not begun.
    #[error("the signing certificate is valid from {from} to {until}; no agent would obey it now: rotate it")]
    Certificate {
        /// The first moment.
        from: Timestamp,
        /// The first moment past it.
        until: Timestamp,
    },
    /// The audience cannot be built.
    #[error(transparent)]
    Audience(#[from] writ_common::audience::InvalidAudience),
    /// No agent would look at it.
    #[error(
        "the command has {0} bytes; agents look at no more than {MAX_COMMAND_BYTES}. Use fewer or shorter parameters"
    )]
    TooLarge(usize),
    /// The command breaks a rule of the protocol.
    #[error(transparent)]
    Command(#[from] InvalidDocument),
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        let message = error.to_string();
        match error {
            SignError::ClockJumped(_) | SignError::ClockBehind { .. } => {
                Self::precondition("clock_jumped", message)
            }
            SignError::Certificate { .. } => Self::precondition("signing_certificate", message),
            SignError::Audience(_) => Self::invalid("agents", message),
            SignError::Command(_) | SignError::TooLarge(_) => Self::invalid("action", message),
        }
    }
}

/// The signing key with the dates its bundle gives it.
#[derive(Debug)]
pub struct Signer {
    key: PrivateKey<Server>,
    entry: SigningEntry,
    fleet: FleetId,
    clock: SharedClock,
    started: (Timestamp, Duration),
    /// The latest time signed with, ever, in milliseconds.
    latest: AtomicU64,
}

impl Signer {
    /// A signer for the entry of this key in the bundle; `None` if the bundle does not list it, or only as revoked.
    ///
    /// Nothing is signed while the clock stands well before `latest`, the latest time that was signed with earlier.
    #[must_use]
    pub fn new(
        key: PrivateKey<Server>,
        bundle: &TrustBundle,
        clock: SharedClock,
        latest: Timestamp,
    ) -> Option<Self> {
        let entry =
            bundle.signing.iter().find(|entry| entry.certificate.key() == key.public() && !entry.revoked)?;
        let started = (clock.wall(), clock.monotonic());
        Some(Self {
            key,
            entry: entry.clone(),
            fleet: bundle.fleet,
            clock,
            started,
            latest: AtomicU64::new(latest.as_millis()),
        })
    }

    /// What agents accept this key by.
    #[must_use]
    pub const fn entry(&self) -> &SigningEntry {
        &self.entry
    }

    /// The time to sign with.
    ///
    /// # Errors
    /// When the clock jumped or the certificate does not count now.
    pub fn now(&self) -> Result<Timestamp, SignError> {
        let wall = self.clock.wall();
        let expected = self.started.0 + self.clock.monotonic().saturating_sub(self.started.1);
        let drift = wall.since(expected).max(expected.since(wall));
        if drift > MAX_CLOCK_DRIFT {
            return Err(SignError::ClockJumped(drift));
        }
        let latest = Timestamp::from_millis(self.latest.load(Ordering::Relaxed));
        if wall + CLOCK_TOLERANCE < latest {
            return Err(SignError::ClockBehind { now: wall, signed: latest });
        }
        if wall < self.entry.sign_from || wall >= self.entry.accept_until {
            return Err(SignError::Certificate {
                from: self.entry.sign_from,
                until: self.entry.accept_until,
            });
        }
        self.latest.fetch_max(wall.as_millis(), Ordering::Relaxed);
        Ok(wall)
    }

    /// Signs a command, once for all its targets.
    ///
    /// # Errors
    /// When the draft or the moment does not allow it.
    pub fn command(&self, draft: CommandDraft) -> Result<SignedCommand, SignError> {
        let now = self.now()?;
        let CommandDraft { id, targets, lifetime, requested_by, mut action } = draft;
        if let Action::ApplySettings(settings) = &mut action {
            // Rises with time, also when a database was put back to an earlier state.
            settings.revision = now.as_millis();
        }
        let tree = AudienceTree::build(&targets)?;
        let command = Command {
            id,
            fleet: self.fleet,
            audience: tree.audience(),
            window: Window::new(now, now, now + lifetime)?,
            requested_by,
            action,
        };
        let envelope = self.seal(&command);
        let bytes = envelope.bytes().len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(SignError::TooLarge(bytes));
        }
        Ok(SignedCommand { command, envelope, targets, tree })
    }

    /// Signs a greeting.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub fn hello(
        &self,
        hello: impl FnOnce(Timestamp) -> ServerHello,
    ) -> Result<Sealed<HelloPurpose>, SignError> {
        Ok(self.seal(&hello(self.now()?)))
    }

    /// Signs that a refusal report is stored.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub fn refusals_ack(
        &self,
        ack: &RefusalAcknowledgement,
    ) -> Result<Sealed<RefusalsAckPurpose>, SignError> {
        self.now()?;
        Ok(self.seal(ack))
    }

    /// Signs that a key is an agent's.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub fn identity_record(
        &self,
        record: impl FnOnce(Timestamp) -> IdentityRecord,
    ) -> Result<(IdentityRecord, Sealed<IdentityRecordPurpose>), SignError> {
        let record = record(self.now()?);
        let sealed = self.seal(&record);
        Ok((record, sealed))
    }

    fn seal<P: Purpose<Signer = Server>>(&self, document: &P::Document) -> Sealed<P> {
        sign(&[&self.key.for_purpose::<P>()], document)
    }
}

#[cfg(test)]
mod tests;
