//! The server's signing keys: everything it says to agents goes through here, once. Which key signs follows
//! from the trust bundle alone: of those held, the one that counts now and began last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use writ_common::status::Failure;
use writ_common::time::SharedClock;
use writ_protocol::audience::AudienceTree;
use writ_protocol::command::{Action, Command, Window};
use writ_protocol::envelope::{
    AlertPurpose, CommandPurpose, HelloPurpose, IdentityRecordPurpose, InvalidDocument, Purpose,
    RefusalsAckPurpose, ReleasePurpose, ReputationPurpose, Sealed, Tag, WelcomePurpose, sign, sign_notice,
};
use writ_protocol::hello::{ServerHello, Welcome};
use writ_protocol::id::{AgentId, CommandId, Digest, FleetId, KeyId};
use writ_protocol::identity::IdentityRecord;
use writ_protocol::keys::{PrivateKey, Server, SigningKey};
use writ_protocol::limits::MAX_COMMAND_BYTES;
use writ_protocol::notice::AlertNotice;
use writ_protocol::receipt::RefusalAcknowledgement;
use writ_protocol::reputation::Reputation;
use writ_protocol::rollout::{Release, Seed};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{SigningEntry, TrustBundle};

/// The wall clock may drift from the monotonic one by this much while the server runs; past it nothing is
/// signed, for a wrong time under a good signature moves every agent's floor.
const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(3600);

/// How far the clock may go back, as time servers make it do. Below the skew that agents allow for their
/// floor.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// A well-formed request, not yet signed. Made by [`crate::submit`].
#[derive(Debug)]
pub(crate) struct CommandDraft {
    /// Its id.
    pub id: CommandId,
    /// The frozen audience, never empty: strictly ascending, or in the order of its rollout.
    pub targets: Vec<AgentId>,
    /// How long it may wait.
    pub lifetime: Duration,
    /// The operator.
    pub requested_by: String,
    /// The seed of its rollout.
    pub rollout: Option<Seed>,
    /// What to do.
    pub action: Action,
}

/// A command under the server's signature. Made only by [`Signer::command`].
#[derive(Debug)]
#[must_use]
pub(crate) struct SignedCommand {
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
    /// No key is held that counts now.
    #[error(
        "this server holds no signing key that agents obey by trust bundle {bundle} at {now}; mend it with the authority: writ-server cert create, or restore the right backup"
    )]
    NoKey {
        /// The version of the newest bundle.
        bundle: u64,
        /// When.
        now: Timestamp,
    },
    /// The audience cannot be built.
    #[error(transparent)]
    Audience(#[from] writ_protocol::audience::InvalidAudience),
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
            SignError::NoKey { .. } => Self::precondition("signing_certificate", message),
            SignError::Audience(_) => Self::invalid("agents", message),
            SignError::Command(_) | SignError::TooLarge(_) => Self::invalid("action", message),
        }
    }
}

/// A key with the dates the newest bundle gives it.
#[derive(Debug, Clone)]
struct HeldKey {
    key: PrivateKey<Server>,
    entry: SigningEntry,
}

/// The keys of this server that the newest bundle lists.
#[derive(Debug, Default)]
struct SigningKeys {
    held: Vec<HeldKey>,
    bundle: u64,
}

impl SigningKeys {
    fn of(keys: Vec<PrivateKey<Server>>, bundle: &TrustBundle) -> Self {
        let listed = |key: PrivateKey<Server>| {
            let mut entries = bundle.signing.iter();
            let entry = entries.find(|entry| entry.certificate.key() == key.public() && !entry.revoked)?;
            Some(HeldKey { entry: entry.clone(), key })
        };
        Self { held: keys.into_iter().filter_map(listed).collect(), bundle: bundle.version }
    }

    fn at(&self, now: Timestamp) -> Option<&HeldKey> {
        let entry = signs_at(self.held.iter().map(|held| &held.entry), now)?;
        self.held.iter().find(|held| held.entry.certificate.key() == entry.certificate.key())
    }
}

/// Of the entries whose keys are held, the one that signs: it counts, and began last.
pub(crate) fn signs_at<'a>(
    held: impl IntoIterator<Item = &'a SigningEntry>,
    now: Timestamp,
) -> Option<&'a SigningEntry> {
    let counts = |entry: &&SigningEntry| !entry.revoked && entry.sign_from <= now && now < entry.accept_until;
    held.into_iter().filter(counts).max_by_key(|entry| entry.sign_from)
}

/// Until when the keys held follow one another without a gap, for all realms of the one that signs now;
/// `None` when none does.
pub(crate) fn signs_until<'a>(
    held: impl IntoIterator<Item = &'a SigningEntry>,
    now: Timestamp,
) -> Option<Timestamp> {
    let held: Vec<_> = held.into_iter().filter(|entry| !entry.revoked).collect();
    let signing = signs_at(held.iter().copied(), now)?;
    let mut until = signing.accept_until;
    let follows = |entry: &SigningEntry, until| {
        let has_realms = signing.realms.iter().all(|realm| entry.realms.contains(realm));
        has_realms && entry.sign_from <= until && until < entry.accept_until
    };
    while let Some(next) = held.iter().find(|entry| follows(entry, until)) {
        until = next.accept_until;
    }
    Some(until)
}

/// What signs, and when it may.
#[derive(Debug)]
pub(crate) struct Signer {
    ring: RwLock<Arc<SigningKeys>>,
    fleet: FleetId,
    clock: SharedClock,
    started: (Timestamp, Duration),
    /// The latest time signed with, ever, in milliseconds.
    latest: AtomicU64,
}

impl Signer {
    /// A signer with those of these keys that the bundle lists and does not revoke.
    ///
    /// Nothing is signed while the clock stands well before `latest`, the latest time that was signed with
    /// earlier.
    #[must_use]
    pub(crate) fn new(
        keys: Vec<PrivateKey<Server>>,
        bundle: &TrustBundle,
        clock: SharedClock,
        latest: Timestamp,
    ) -> Self {
        let started = (clock.wall(), clock.monotonic());
        Self {
            ring: RwLock::new(Arc::new(SigningKeys::of(keys, bundle))),
            fleet: bundle.fleet,
            clock,
            started,
            latest: AtomicU64::new(latest.as_millis()),
        }
    }

    /// Signs from now on with those of these keys that another bundle lists.
    pub(crate) fn hold(&self, keys: Vec<PrivateKey<Server>>, bundle: &TrustBundle) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(SigningKeys::of(keys, bundle));
    }

    /// What agents accept the key by that signs now, if there is one.
    #[must_use]
    pub(crate) fn entry(&self) -> Option<SigningEntry> {
        self.ring().at(self.clock.wall()).map(|held| held.entry.clone())
    }

    /// What signed last, when nothing signs now because it ended.
    #[must_use]
    pub(crate) fn ended(&self) -> Option<SigningEntry> {
        let (ring, now) = (self.ring(), self.clock.wall());
        if ring.at(now).is_some() {
            return None;
        }
        let held = ring.held.iter().map(|held| &held.entry);
        held.filter(|entry| !entry.revoked && entry.accept_until <= now)
            .max_by_key(|entry| entry.accept_until)
            .cloned()
    }

    /// Until when something can be signed with what is held, standby certificates included.
    #[must_use]
    pub(crate) fn until(&self) -> Option<Timestamp> {
        signs_until(self.ring().held.iter().map(|held| &held.entry), self.clock.wall())
    }

    fn ring(&self) -> Arc<SigningKeys> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The time to sign with.
    ///
    /// # Errors
    /// When the clock jumped or went back.
    pub(crate) fn now(&self) -> Result<Timestamp, SignError> {
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
        self.latest.fetch_max(wall.as_millis(), Ordering::Relaxed);
        Ok(wall)
    }

    /// The time to sign with and the key that counts then.
    fn key(&self) -> Result<(Timestamp, PrivateKey<Server>), SignError> {
        let (now, ring) = (self.now()?, self.ring());
        let held = ring.at(now).ok_or(SignError::NoKey { bundle: ring.bundle, now })?;
        Ok((now, held.key.clone()))
    }

    /// Whether and with what something could be signed now.
    ///
    /// # Errors
    /// When nothing can.
    pub(crate) fn check(&self) -> Result<KeyId, SignError> {
        Ok(self.key()?.1.public().id())
    }

    /// The key that signs commands now, for those that wait under an older one.
    ///
    /// # Errors
    /// When nothing can be signed.
    pub(crate) fn command_key(&self) -> Result<SigningKey<CommandPurpose>, SignError> {
        Ok(self.key()?.1.for_purpose())
    }

    /// Signs a command, once for all its targets.
    ///
    /// # Errors
    /// When the draft or the moment does not allow it.
    pub(crate) fn command(&self, draft: CommandDraft) -> Result<SignedCommand, SignError> {
        let (now, key) = self.key()?;
        let CommandDraft { id, targets, lifetime, requested_by, rollout, mut action } = draft;
        if let Action::ApplySettings(settings) = &mut action {
            // Rises with time, also when a database was put back to an earlier state.
            settings.revision = now.as_millis();
        }
        let tree = AudienceTree::of(rollout, &targets)?;
        let command = Command {
            id,
            fleet: self.fleet,
            audience: tree.audience(),
            window: Window::new(now, now, now + lifetime)?,
            requested_by,
            rollout,
            action,
        };
        let envelope = seal(&key, &command);
        let bytes = envelope.bytes().len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(SignError::TooLarge(bytes));
        }
        Ok(SignedCommand { command, envelope, targets, tree })
    }

    /// Signs a greeting; says with which key.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub(crate) fn hello(
        &self,
        hello: impl FnOnce(Timestamp) -> ServerHello,
    ) -> Result<(Sealed<HelloPurpose>, KeyId), SignError> {
        let (now, key) = self.key()?;
        Ok((seal(&key, &hello(now)), key.public().id()))
    }

    /// Signs that a session begins, with the key of its hello.
    ///
    /// # Errors
    /// When that key signs no more.
    pub(crate) fn welcome(&self, welcome: &Welcome, by: KeyId) -> Result<Sealed<WelcomePurpose>, SignError> {
        let (now, ring) = (self.now()?, self.ring());
        let held = ring.held.iter().find(|held| held.key.public().id() == by);
        let held = held.ok_or(SignError::NoKey { bundle: ring.bundle, now })?;
        Ok(seal(&held.key, welcome))
    }

    /// Signs that a refusal report is stored.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub(crate) fn refusals_ack(
        &self,
        ack: &RefusalAcknowledgement,
    ) -> Result<Sealed<RefusalsAckPurpose>, SignError> {
        Ok(seal(&self.key()?.1, ack))
    }

    /// Signs that so many agents of a command's audience may obey it.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub(crate) fn release(
        &self,
        command_digest: Digest,
        released: u32,
    ) -> Result<Sealed<ReleasePurpose>, SignError> {
        let (released_at, key) = self.key()?;
        Ok(seal(&key, &Release { fleet: self.fleet, command_digest, released, released_at }))
    }

    /// Signs what a list says.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub(crate) fn reputation(
        &self,
        said: impl FnOnce(Timestamp) -> Reputation,
    ) -> Result<Sealed<ReputationPurpose>, SignError> {
        let (now, key) = self.key()?;
        Ok(seal(&key, &said(now)))
    }

    /// Signs word of an alert.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub(crate) fn alert(&self, said: impl FnOnce(Timestamp) -> AlertNotice) -> Result<String, SignError> {
        let (now, key) = self.key()?;
        let signed = sign_notice::<AlertPurpose>(&key.for_purpose(), &said(now));
        Ok(signed.expect("texts and numbers are JSON"))
    }

    /// Signs that a key is an agent's.
    ///
    /// # Errors
    /// When the moment does not allow it.
    pub(crate) fn identity_record(
        &self,
        record: impl FnOnce(Timestamp) -> IdentityRecord,
    ) -> Result<(IdentityRecord, Sealed<IdentityRecordPurpose>), SignError> {
        let (now, key) = self.key()?;
        let record = record(now);
        let sealed = seal(&key, &record);
        Ok((record, sealed))
    }
}

fn seal<P: Purpose + Tag<Signer = Server>>(key: &PrivateKey<Server>, document: &P::Document) -> Sealed<P> {
    sign(&[&key.for_purpose::<P>()], document)
}

#[cfg(test)]
mod tests;
