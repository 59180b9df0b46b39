//! Minting: the only way a fleet's trust changes. New keys on disk, then a backup that holds them, then the
//! bundle: a crash anywhere leaves the trust as it was, or as it was meant.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tracing::warn;
use writ_common::admin::AuditLog;
use writ_common::admin::audit::{AuditStore as _, NewAudit};
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::keys::sealed::{Passphrase, SealError, open};
use writ_common::shutdown::Shutdown;
use writ_protocol::envelope::{BundlePurpose, InvalidDocument, sign};
use writ_protocol::id::{AgentId, Digest, FleetId};
use writ_protocol::keys::{Authority, PrivateKey, Server, SigningCertificate};
use writ_protocol::limits::MAX_KEYS;
use writ_protocol::refusal::Refusal;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, Link, TrustBundle};
use zeroize::Zeroizing;

use super::backup::{ArchivedFile, BackupError, REMOVED, contents, write_backup};
use super::presence::{self, Lost, Presence, PresenceError};
use super::{Files, KeyFileError, head_marker};
use crate::sign::CLOCK_TOLERANCE;
use crate::store::{BackupRow, Fork, Store, StoreError};

/// Why no bundle was minted. Nothing is in force that was not before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// There is no fleet here.
    #[error("{}: there is no fleet here; name another folder with --data-dir, make a fleet (writ-server init), or restore one (writ-server cert restore FILE)", .0.display())]
    NoFleet(PathBuf),
    /// The keys of a fleet are there, its database is not.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// What is there cannot be told.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// Another bundle was published meanwhile.
    #[error("another trust bundle was published at the same moment; try again")]
    HeadMoved,
    /// Another command changes keys at this moment.
    #[error("another command changes the keys of this fleet at the moment; wait until it has ended")]
    Busy,
    /// Agents follow another chain of this fleet.
    #[error(
        "agents handed over trust bundles of another chain of this fleet: {}. Two servers minted at the same time. Join the chains: writ-server authority repair. Or leave the agents of the other behind: {}",
        list(.0), despite(.0)
    )]
    Forked(Vec<Fork>),
    /// The chain came from a backup or an earlier database.
    #[error(
        "this chain was put back from a backup or an earlier database, and ends at bundle {version} ({digest}). Agents that hold newer ones hand them back when they connect; when that is the newest there is: writ-server authority confirm {digest}"
    )]
    Unconfirmed {
        /// The head's version.
        version: u64,
        /// Its digest.
        digest: Digest,
    },
    /// The clock stands before a time this server signed with.
    #[error("the clock says {now}, but this server signed at {signed}; set the clock right")]
    Clock {
        /// What the clock says.
        now: Timestamp,
        /// What it said before.
        signed: Timestamp,
    },
    /// A bundle has room for 16 signing certificates.
    #[error("the trust bundle lists {MAX_KEYS} certificates that still count; let one expire first")]
    TooManyKeys,
    /// What was asked for breaks a rule of bundles.
    #[error(transparent)]
    Rule(#[from] InvalidDocument),
    /// The keys given do not reach a threshold.
    #[error(
        "the bundle is not signed by enough authorities: {0}. Name the sealed key of each with --authority FILE"
    )]
    Threshold(Refusal),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// An authority's key does not open.
    #[error("{}: {source}", path.display())]
    Sealed {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// A sealed file holds no authority's key.
    #[error("{}: it holds no authority key", .0.display())]
    NotAnAuthority(PathBuf),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored chain does not hold.
    #[error("the stored chain does not hold: {0}")]
    Chain(Refusal),
    /// What was given is no fork of this chain.
    #[error("the bundles given share none with this chain: they are of another fleet")]
    NoFork,
    /// The bundle is out, and something that belongs to it is not in place.
    #[error(
        "trust bundle {version} is in force, but a file that belongs to it could not be written ({source}); mend that, and run the command again"
    )]
    InForce {
        /// The bundle.
        version: u64,
        /// Why.
        source: FileError,
    },
    /// One chain goes on from the other.
    #[error(
        "the chain given is no fork: one of the two goes on from the other. Let an agent that is ahead connect, which hands its bundles back"
    )]
    NotForked,
    /// No other chain is known.
    #[error("no agent handed over another chain; name the file of one that follows it: --fork trust.chain")]
    NothingToJoin,
    /// The backup failed; nothing was published.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

fn list(forks: &[Fork]) -> String {
    let one = |fork: &Fork| format!("{} ({}), held by {} agents", fork.version, fork.digest, fork.agents);
    forks.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn despite(forks: &[Fork]) -> String {
    forks.iter().map(|fork| format!("--despite {}", fork.digest)).collect::<Vec<_>>().join(" ")
}

/// A fleet's keys and chain, held by one command at a time.
#[derive(Debug)]
pub(crate) struct TrustPublisher {
    /// Where everything lies.
    pub files: Files,
    /// The database, a running server's too.
    pub store: Store,
    /// The fleet.
    pub fleet: FleetId,
    /// Its name.
    pub name: String,
    /// The chain as stored.
    pub chain: Chain,
    /// When this began.
    pub now: Timestamp,
    /// Heads an operator says are nobody's, or about to be repaired.
    pub despite: Vec<Digest>,
    /// Whether to write and publish nothing.
    pub is_dry_run: bool,
    _alone: File,
}

/// Who signs a bundle, and what seals its backup.
#[derive(Debug)]
pub(crate) struct Unlocked {
    /// The authorities' keys.
    pub authorities: Vec<PrivateKey<Authority>>,
    /// Seals the backup.
    pub passphrase: Passphrase,
}

/// A signing key that is not in force yet.
#[derive(Debug)]
pub(crate) struct NewKey {
    /// The key.
    pub key: PrivateKey<Server>,
    /// Its certificate.
    pub certificate: SigningCertificate,
}

/// What is new beside a bundle: in its backup before it is published.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// Signing keys; written before it is published, for no bundle lists them until then.
    pub keys: Vec<NewKey>,
    /// Files below the data directory that take the place of others once it is published.
    pub files: Vec<ArchivedFile>,
    /// Sealed files that are only kept in the backup: authorities that live elsewhere.
    pub kept: Vec<ArchivedFile>,
    /// A key that goes to a further server, in a file from which that server is made.
    pub elsewhere: Option<(NewKey, PathBuf)>,
}

/// A bundle in force.
#[derive(Debug)]
pub(crate) struct Published {
    /// The bundle.
    pub link: Link,
    /// The file that holds its keys, a backup or that of a further server; `None`: nothing was published.
    pub backup: Option<PathBuf>,
}

/// Until its bundle is in force, the file of a further server has another name: it would make a fork.
fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".unfinished");
    PathBuf::from(name)
}

impl TrustPublisher {
    /// Takes the keys of a data directory for this command.
    ///
    /// # Errors
    /// When there is no fleet, another command has them, or the stored chain does not hold.
    pub(crate) async fn open(
        files: &Files,
        now: Timestamp,
        shutdown: &Shutdown,
    ) -> Result<Self, PublishError> {
        let nobody = || PublishError::NoFleet(files.folder().to_owned());
        match presence::find(files).await? {
            Presence::Nothing | Presence::Unfinished => return Err(nobody()),
            Presence::Lost(lost) => return Err(lost.into()),
            Presence::Fleet { .. } => {}
        }
        files::private_folder(&files.signing())?;
        let alone = files::lock_folder(&files.signing()).map_err(|error| match error {
            FileError::InUse { .. } => PublishError::Busy,
            other => other.into(),
        })?;
        let store = Store::open(&files.database(), shutdown).await?;
        let noted = head_marker::read(files)?;
        let (fleet, name) = store.fleet().await?.ok_or_else(nobody)?;
        let bundles = store.bundles().await?.into_iter().map(|(_, envelope)| envelope);
        let chain = Chain::stored(bundles).map_err(PublishError::Chain)?;
        head_marker::check(noted, &chain, &store, now).await?;
        let (files, despite) = (files.clone(), Vec::new());
        Ok(Self { files, store, fleet, name, chain, now, despite, is_dry_run: false, _alone: alone })
    }

    /// Opens sealed authority keys.
    ///
    /// # Errors
    /// When a file is missing, damaged, or its passphrase is another one.
    pub(crate) fn unlock(
        sealed: &[(PathBuf, Passphrase)],
    ) -> Result<Vec<PrivateKey<Authority>>, PublishError> {
        let mut authorities = Vec::new();
        for (path, passphrase) in sealed {
            let text = open(&files::read_secret(path)?, passphrase)
                .map_err(|source| PublishError::Sealed { path: path.clone(), source })?;
            let key = pem::private_key(&text).ok().and_then(|der| PrivateKey::from_pkcs8(&der).ok());
            authorities.push(key.ok_or_else(|| PublishError::NotAnAuthority(path.clone()))?);
        }
        Ok(authorities)
    }

    /// The head of another chain of this fleet that forked from this one: two servers minted at the same
    /// time.
    ///
    /// # Errors
    /// When the bundles do not follow any of this chain.
    pub(crate) fn fork(&self, bundles: Vec<Bytes>) -> Result<Link, PublishError> {
        let is_known =
            |envelope: &Bytes| Chain::digest_of(envelope).is_some_and(|digest| self.chain.contains(digest));
        if !bundles.iter().any(is_known) {
            return Err(PublishError::NoFork);
        }
        let other: Vec<_> = bundles.into_iter().filter(|envelope| !is_known(envelope)).collect();
        if other.is_empty() {
            return Err(PublishError::NotForked);
        }
        let other = self.chain.fork(other).map_err(PublishError::Chain)?;
        if other.contains(self.chain.head().digest) {
            return Err(PublishError::NotForked);
        }
        Ok(other.head().clone())
    }

    /// The heads of other chains of this fleet that agents handed over and that this chain does not follow
    /// yet.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn open_forks(&self) -> Result<Vec<Fork>, PublishError> {
        let forks = self.store.forks().await?;
        let prev =
            |fork: &Fork| Chain::stored([fork.envelope.clone()]).map(|one| one.head().bundle.prev.clone());
        let mut followed: BTreeSet<Digest> = self.chain.links().iter().map(|link| link.digest).collect();
        followed.extend(self.chain.links().iter().flat_map(|link| link.bundle.prev.iter().copied()));
        let mut open = Vec::new();
        // Newest first: a chain that follows a bundle follows what came before it, too.
        for fork in forks {
            let before = prev(&fork).map_err(PublishError::Chain)?;
            if !followed.contains(&fork.digest) {
                open.push(fork);
            }
            followed.extend(before);
        }
        Ok(open)
    }

    /// The same, as a repair joins them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn handed_over(&self) -> Result<Vec<Link>, PublishError> {
        let mut heads = Vec::new();
        for fork in self.open_forks().await? {
            heads.push(Chain::stored([fork.envelope]).map_err(PublishError::Chain)?.head().clone());
        }
        Ok(heads)
    }

    /// Whether a bundle may be minted now.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn check(&self) -> Result<(), PublishError> {
        let signed = self.store.latest_time().await?;
        if self.now + CLOCK_TOLERANCE < signed {
            return Err(PublishError::Clock { now: self.now, signed });
        }
        let head = self.chain.head();
        if self.store.is_head_unconfirmed().await? {
            return Err(PublishError::Unconfirmed { version: head.bundle.version, digest: head.digest });
        }
        let mut open = self.open_forks().await?;
        open.retain(|fork| !self.despite.contains(&fork.digest));
        if open.is_empty() { Ok(()) } else { Err(PublishError::Forked(open)) }
    }

    /// Mints the next bundle: the present one after a change. In force when this returns.
    ///
    /// # Errors
    /// When it may not be minted, is not signed by enough, or cannot be written; then nothing changed but
    /// files no bundle lists.
    pub(crate) async fn publish(
        &self,
        command: &'static str,
        fresh: &Fresh,
        unlocked: &Unlocked,
        change: impl FnOnce(&mut TrustBundle),
    ) -> Result<Published, PublishError> {
        self.check().await?;
        let head = self.chain.head();
        let mut next = TrustBundle {
            version: head.bundle.version + 1,
            prev: vec![head.digest],
            floor_reset: None,
            issued_at: self.now,
            ..head.bundle.clone()
        };
        change(&mut next);
        self.make_room(&mut next)?;
        next.check()?;
        let listed = |key: &&PrivateKey<Authority>| {
            head.bundle.authority.keys.contains(key.public()) || next.authority.keys.contains(key.public())
        };
        let keys: Vec<_> = unlocked.authorities.iter().filter(listed).map(PrivateKey::for_purpose).collect();
        let sealed = sign::<BundlePurpose>(&keys.iter().collect::<Vec<_>>(), &next);
        let mut chain = self.chain.clone();
        let link = chain.extend(sealed.bytes().clone()).map_err(PublishError::Threshold)?.clone();
        if self.is_dry_run {
            return Ok(Published { link, backup: None });
        }
        if let Some((new, file)) = &fresh.elsewhere {
            self.seal_for_a_further_server(&chain, new, &unfinished(file), &unlocked.passphrase).await?;
        }
        for NewKey { key, certificate } in &fresh.keys {
            let id = key.public().id();
            let text = pem::encode("CERTIFICATE", certificate.der());
            files::write_public(&self.files.signing_certificate(id), text.as_bytes())?;
            let text = pem::encode("PRIVATE KEY", &key.to_pkcs8());
            files::write_secret(&self.files.signing_key(id), text.as_bytes())?;
        }
        writ_common::checkpoint!("keys_written");
        let instead = [fresh.files.as_slice(), &fresh.kept].concat();
        let backup = self.back_up(&chain, &unlocked.passphrase, &instead, None).await?;
        writ_common::checkpoint!("backup_written");
        // Once more: sealing took a second or two, in which agents may have said something.
        self.check().await?;
        let version = link.bundle.version;
        let bundle = (version, link.digest, link.envelope.clone());
        let call = self.call(command, format!("bundle {version}"));
        if !self.store.publish(vec![bundle], head.digest, Some(call)).await? {
            return Err(PublishError::HeadMoved);
        }
        writ_common::checkpoint!("bundle_published");
        // Killed before this ends: run it again. Its new keys take the place of these.
        self.put_in_place(fresh).map_err(|source| PublishError::InForce { version, source })?;
        if let Err(error) = head_marker::write(&self.files, &link) {
            warn!(%error, "the newest bundle could not be noted");
        }
        let elsewhere = fresh.elsewhere.as_ref().map(|(_, file)| file.clone());
        Ok(Published { link, backup: Some(elsewhere.unwrap_or(backup)) })
    }

    /// Seals everything into one file, `to` or a new one in the folder of backups, and notes it.
    ///
    /// # Errors
    /// When it cannot be written, or what is read back is something else.
    pub(crate) async fn back_up(
        &self,
        chain: &Chain,
        passphrase: &Passphrase,
        instead: &[ArchivedFile],
        to: Option<PathBuf>,
    ) -> Result<PathBuf, PublishError> {
        let version = chain.head().bundle.version;
        files::private_folder(&self.files.backups())?;
        let made = self.now.to_string().replace(':', "");
        let path =
            to.unwrap_or_else(|| self.files.backups().join(format!("writ-{made}-bundle-{version}.age")));
        let mut held = contents(&self.files, chain)?;
        held.retain(|(name, _)| instead.iter().all(|(other, _)| other != name));
        held.extend(instead.iter().cloned());
        held.push(self.removed().await?);
        let sealed = write_backup(&path, (self.fleet, &self.name), &held, passphrase, self.now)?;
        self.store.note_backup(BackupRow::made(&path, &sealed, version, self.now)).await?;
        Ok(path)
    }

    /// A removed agent must not come back by its record when a server is made anew.
    async fn removed(&self) -> Result<ArchivedFile, StoreError> {
        let removed: Vec<_> = self.store.removed_agents().await?.iter().map(AgentId::to_string).collect();
        Ok((REMOVED.to_owned(), Zeroizing::new(removed.join("\n").into_bytes())))
    }

    /// Files that only count once their bundle is in force.
    fn put_in_place(&self, fresh: &Fresh) -> Result<(), FileError> {
        for (name, content) in &fresh.files {
            let path = self.files.folder().join(name);
            match path.extension() {
                Some(extension) if extension == "pem" => files::write_public(&path, content)?,
                _ => files::write_secret(&path, content)?,
            }
        }
        match &fresh.elsewhere {
            Some((_, file)) => files::rename(&unfinished(file), file),
            None => Ok(()),
        }
    }

    /// What a further server needs: its key, the chain, the channel's authority; nothing of this server's.
    async fn seal_for_a_further_server(
        &self,
        chain: &Chain,
        new: &NewKey,
        file: &Path,
        passphrase: &Passphrase,
    ) -> Result<(), PublishError> {
        let mut held = contents(&self.files, chain)?;
        let is_shared = |name: &str| !name.starts_with("signing/") && !name.starts_with("authority");
        held.retain(|(name, _)| is_shared(name));
        let id = new.key.public().id();
        let parts = [
            ("key", "PRIVATE KEY", new.key.to_pkcs8()),
            ("pem", "CERTIFICATE", new.certificate.der().to_vec().into()),
        ];
        for (extension, label, der) in parts {
            let text = Zeroizing::new(pem::encode(label, &der).as_bytes().to_vec());
            held.push((format!("signing/{id}.{extension}"), text));
        }
        held.push(self.removed().await?);
        let _sealed = write_backup(file, (self.fleet, &self.name), &held, passphrase, self.now)?;
        Ok(())
    }

    /// Notes a local change that publishes no bundle.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn record(&self, command: &'static str) -> Result<(), StoreError> {
        self.record_about(command, String::new()).await
    }

    /// The same, and what it is about.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn record_about(
        &self,
        command: &'static str,
        subject: String,
    ) -> Result<(), StoreError> {
        self.store.database().append(self.call(command, subject)).await
    }

    /// Entries that ended go when a bundle has no room; revoked keys stay listed as long as possible.
    fn make_room(&self, next: &mut TrustBundle) -> Result<(), PublishError> {
        while next.signing.len() > MAX_KEYS {
            let ended = next.signing.iter().enumerate().filter(|(_, entry)| entry.accept_until <= self.now);
            let oldest = ended.min_by_key(|(_, entry)| (entry.revoked, entry.accept_until));
            let (place, _) = oldest.ok_or(PublishError::TooManyKeys)?;
            next.signing.remove(place);
        }
        Ok(())
    }

    fn call(&self, command: &'static str, subject: String) -> NewAudit {
        NewAudit {
            log: AuditLog::Changes,
            at: self.now,
            // Who may read the keys is the service user or root; who of them, the host's own log knows.
            actor: "local".to_owned(),
            role: "owner of the keys",
            method: command,
            request: None,
            subject,
            sent: None,
            outcome: "ok",
            max_entries: u64::MAX,
        }
    }
}
