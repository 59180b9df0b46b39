//! A server from its backup: all of it, or nothing.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use tracing::warn;
use writ_common::admin::new_token;
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::shutdown::Shutdown;
use writ_common::tls::{IssueError, TlsAuthority};
use writ_database::file as database_file;
use writ_protocol::id::{Digest, FleetId, KeyId};
use writ_protocol::refusal::Refusal;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use super::backup::{Archive, ArchiveError};
use super::certificates;
use super::channel::{endpoint_names, leaf_names};
use super::presence::{self, Presence, PresenceError};
use super::publisher::{PublishError, TrustPublisher};
use super::{Files, KeyFileError, read_signing_keys, read_tls_leaf, write_tls_leaf};
use crate::store::rules::restore::{Addition, compare};
use crate::store::{BackupRow, Store, StoreError};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The backup cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Another fleet lives here.
    #[error("{}: fleet `{name}` ({fleet}) lives here, and the backup is of another one; nothing was changed", folder.display())]
    AnotherFleet {
        /// Where.
        folder: PathBuf,
        /// Its name.
        name: String,
        /// Its id.
        fleet: FleetId,
    },
    /// The chain here and the backup's are forks.
    #[error(
        "the backup ends at bundle {0}, which the chain here does not have: they are forks of one another; nothing was changed"
    )]
    Fork(Digest),
    /// The file of a further server.
    #[error(
        "the backup is of a further server, which commands {theirs}; this one commands {ours}. Restore it in a folder of its own; nothing was changed"
    )]
    OtherRealms {
        /// Whose it is.
        theirs: String,
        /// What this server commands.
        ours: String,
    },
    /// A file of something else is here.
    #[error("{}: it is here already, and another one than in the backup; take another --data-dir, or move what is here away. Nothing was changed", .0.display())]
    Differs(PathBuf),
    /// A fleet is here already.
    #[error("{}: a fleet lives here, with its database; take another --data-dir", .0.display())]
    NotEmpty(PathBuf),
    /// A key that is here belongs to none of the chain's bundles.
    #[error("{}: key {key} lies here, and no bundle of this chain lists it: it is of another fleet; take another --data-dir, or move it away. Nothing was changed", folder.display())]
    Stranger {
        /// Where.
        folder: PathBuf,
        /// Which.
        key: KeyId,
    },
    /// A key that is here cannot be used.
    #[error("{_0}; nothing was changed. Next: {cure}", cure = _0.cure())]
    Damaged(KeyFileError),
    /// A bundle of the backup does not follow.
    #[error("a bundle of the backup does not follow the chain here: {0}; nothing was changed")]
    Chain(Refusal),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The channel's authority is not in the backup, or not PEM.
    #[error("the backup holds no key of the channel's authority; make a new one: {0}")]
    NoChannel(String),
    /// A leaf cannot be made.
    #[error(transparent)]
    Tls(#[from] IssueError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is there cannot be told.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// The keys that are here cannot be used.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// What was restored.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    /// The fleet.
    pub fleet_id: String,
    /// Its name.
    pub fleet_name: String,
    /// The newest bundle of the backup.
    pub bundle_version: u64,
    /// Its digest.
    pub bundle_digest: String,
    /// Files that were written.
    pub files: Vec<String>,
    /// The new administrator's token; empty when the fleet was here already.
    pub admin_token_file: PathBuf,
}

/// Puts everything a backup holds back into a data directory. Once or twice is the same.
///
/// # Errors
/// When anything cannot be used or written; then no fleet is here that was not.
pub(crate) async fn restore(
    files: &Files,
    archive: &Archive,
    stay_here: bool,
    now: Timestamp,
    shutdown: &Shutdown,
) -> Result<Restored, RestoreError> {
    files::private_folder(files.folder())?;
    if !holds(files, archive).await? {
        let lock = files.lock()?;
        // Another restore may have ended before the folder was ours.
        if !holds(files, archive).await? {
            set_unfinished_aside(files, now)?;
            return rebuild(files, archive, stay_here, now, shutdown).await;
        }
        drop(lock);
    }
    fill_up(files, archive, stay_here, now, shutdown).await
}

/// Whether the archive's fleet is here.
async fn holds(files: &Files, archive: &Archive) -> Result<bool, RestoreError> {
    match presence::find(files).await? {
        Presence::Fleet { fleet, name } if fleet != archive.fleet => {
            Err(RestoreError::AnotherFleet { folder: files.folder().to_owned(), name, fleet })
        }
        Presence::Fleet { .. } => Ok(true),
        Presence::Nothing | Presence::Unfinished | Presence::Lost(_) => Ok(false),
    }
}

/// What an interrupted `init` left is nobody's; what is written from here on is not.
fn set_unfinished_aside(files: &Files, now: Timestamp) -> Result<(), FileError> {
    if files::is_unfinished(files.folder()) {
        files::move_aside(files.folder(), "unfinished", now, str::to_owned)?;
        files::end_making(files.folder())?;
    }
    Ok(())
}

/// The fleet is here: what it lacks of the backup is added, nothing is replaced.
async fn fill_up(
    files: &Files,
    archive: &Archive,
    stay_here: bool,
    now: Timestamp,
    shutdown: &Shutdown,
) -> Result<Restored, RestoreError> {
    // What cannot be read would stay, and hide whose keys are here.
    read_signing_keys(files).map_err(RestoreError::Damaged)?;
    if let Err(error) = read_tls_leaf(files)
        && !error.is_missing()
    {
        return Err(RestoreError::Damaged(error));
    }
    let publisher = TrustPublisher::open(files, now, shutdown).await?;
    let mut chain = publisher.chain.clone();
    let mut newer = Vec::new();
    let digests = |chain: &Chain| chain.links().iter().map(|link| link.digest).collect::<Vec<_>>();
    let added = match compare(&digests(&publisher.chain), &digests(&archive.chain)) {
        Addition::Bundles(places) => places,
        Addition::Nothing => Vec::new(),
        Addition::Fork => return Err(RestoreError::Fork(archive.chain.head().digest)),
    };
    for link in added.into_iter().filter_map(|place| archive.chain.links().get(place)) {
        chain.extend(link.envelope.clone()).map_err(RestoreError::Chain)?;
        newer.push((link.bundle.version, link.digest, link.envelope.clone()));
    }
    // The file of a further server: its keys would have this one sign for realms that are not its own.
    let ours = certificates::realms_here(&publisher);
    for entry in &chain.head().bundle.signing {
        let key = entry.certificate.key().id();
        let is_new = archive.holds(key) && !files.signing_key(key).exists();
        if is_new && !ours.is_empty() && !entry.realms.iter().any(|realm| ours.contains(realm)) {
            return Err(RestoreError::OtherRealms { theirs: entry.realms.join(", "), ours: ours.join(", ") });
        }
    }
    let mut written = write_files(files, archive, stay_here)?;
    if bring_channel_back(files, archive, &chain, now)? {
        written.push("tls.pem".to_owned());
    }
    if !newer.is_empty() || !written.is_empty() {
        publisher.store.record_restore(newer, archive.removed(), now).await?;
        publisher.record("writ-server cert restore").await?;
    }
    Ok(shown(archive, &chain, written, PathBuf::new()))
}

/// No fleet is here, and the folder is locked: its row in the database is written last.
async fn rebuild(
    files: &Files,
    archive: &Archive,
    stay_here: bool,
    now: Timestamp,
    shutdown: &Shutdown,
) -> Result<Restored, RestoreError> {
    files::private_folder(&files.signing())?;
    files::private_folder(&files.backups())?;
    // Keys of one fleet under the chain of another would be the worst of all states.
    for (name, content) in archive.files() {
        let path = files.folder().join(name);
        if files::read(&path).is_ok_and(|present| present != content) {
            return Err(RestoreError::Differs(path));
        }
    }
    let mut written = write_files(files, archive, stay_here)?;
    writ_common::checkpoint!("files_restored");
    // An operator who keeps the channel's authority elsewhere puts a leaf in place; `writ-server doctor` says
    // so.
    match write_leaf(files, &archive.chain, now) {
        Ok(()) => written.push("tls.pem".to_owned()),
        Err(RestoreError::NoChannel(why)) => warn!(
            why,
            "no TLS leaf: put tls.pem and tls.key in place, or make a new authority: writ-server authority channel"
        ),
        Err(error) => return Err(error),
    }
    let secret = new_token();
    // The old database, if it is put back, needs the old token.
    database_file::move_aside(&files.admin_token(), now)?;
    files::write_secret(&files.admin_token(), secret.as_bytes())?;
    let bundles = rows(&archive.chain);
    database_file::move_aside(&files.database(), now)?;
    let store = Store::make(&files.database(), shutdown).await?;
    let name = archive.fleet_name.clone();
    let token = Digest::of(secret.as_bytes());
    store.restore_fleet((archive.fleet, name), bundles, archive.removed(), token, now).await?;
    let head = archive.chain.head().bundle.version;
    let proven = BackupRow {
        digest: archive.digest,
        path: archive.path.display().to_string(),
        bundle_version: head,
        made_at: now,
        proven_at: now,
    };
    store.note_backup(proven).await?;
    Ok(shown(archive, &archive.chain, written, files.admin_token()))
}

/// A server from the chain of an agent, when there is no backup: it listens, hands nothing on but bundles,
/// and signs nothing until the authority minted new keys for it, unless keys of the fleet are left. Where the
/// channel's authority is gone too it gets one that no bundle lists yet; agents come by what is theirs alone.
///
/// # Errors
/// When a fleet or keys of another one are here, or the bundles make no chain.
pub(crate) async fn rebuild_from_chain(
    files: &Files,
    bundles: Vec<Bytes>,
    now: Timestamp,
    shutdown: &Shutdown,
) -> Result<Restored, RestoreError> {
    let chain = Chain::stored(bundles).map_err(RestoreError::Chain)?;
    files::private_folder(files.folder())?;
    let _lock = files.lock()?;
    if let Presence::Fleet { .. } = presence::find(files).await? {
        return Err(RestoreError::NotEmpty(files.folder().to_owned()));
    }
    set_unfinished_aside(files, now)?;
    // Keys that are left count, if they are of this fleet.
    let keys = read_signing_keys(files).map_err(RestoreError::Damaged)?;
    let ids: Vec<_> = keys.iter().map(|key| key.public().id()).collect();
    let listed = |key: &KeyId| {
        let mut entries = chain.links().iter().flat_map(|link| &link.bundle.signing);
        entries.any(|entry| entry.certificate.key().id() == *key)
    };
    if let Some(key) = ids.iter().copied().find(|key| !listed(key)) {
        return Err(RestoreError::Stranger { folder: files.folder().to_owned(), key });
    }
    files::private_folder(&files.signing())?;
    files::private_folder(&files.backups())?;
    let bundle = chain.head().bundle.clone();
    let mut written = Vec::new();
    if !files.tls_ca_key().exists() && !files.tls_ca().exists() {
        let authority = TlsAuthority::create(&format!("{} channel", bundle.fleet_name), now)?;
        files::write_secret(&files.tls_ca_key(), pem::encode("PRIVATE KEY", &authority.key).as_bytes())?;
        files::write_public(&files.tls_ca(), pem::encode("CERTIFICATE", &authority.certificate).as_bytes())?;
        issue_leaf(files, &authority, &endpoint_names(&bundle.endpoints), now)?;
        written.extend(["tls-ca.key", "admin-ca.pem", "tls.key", "tls.pem"].map(str::to_owned));
    } else if read_tls_leaf(files).is_err() {
        write_leaf(files, &chain, now)?;
        written.extend(["tls.key", "tls.pem"].map(str::to_owned));
    }
    let secret = new_token();
    // The old database, if it is put back, needs the old token.
    database_file::move_aside(&files.admin_token(), now)?;
    files::write_secret(&files.admin_token(), secret.as_bytes())?;
    writ_common::checkpoint!("chain_rebuilt");
    let rows = rows(&chain);
    database_file::move_aside(&files.database(), now)?;
    let store = Store::make(&files.database(), shutdown).await?;
    let token = Digest::of(secret.as_bytes());
    store.restore_fleet((bundle.fleet, bundle.fleet_name.clone()), rows, Vec::new(), token, now).await?;
    Ok(Restored {
        fleet_id: bundle.fleet.to_string(),
        fleet_name: bundle.fleet_name,
        bundle_version: bundle.version,
        bundle_digest: chain.head().digest.to_string(),
        files: written,
        admin_token_file: files.admin_token(),
    })
}

fn rows(chain: &Chain) -> Vec<(u64, Digest, Bytes)> {
    chain.links().iter().map(|link| (link.bundle.version, link.digest, link.envelope.clone())).collect()
}

fn shown(archive: &Archive, chain: &Chain, files: Vec<String>, admin_token_file: PathBuf) -> Restored {
    Restored {
        fleet_id: archive.fleet.to_string(),
        fleet_name: archive.fleet_name.clone(),
        bundle_version: chain.head().bundle.version,
        bundle_digest: chain.head().digest.to_string(),
        files,
        admin_token_file,
    }
}

/// Writes what is missing; what is here stays.
fn write_files(files: &Files, archive: &Archive, stay_here: bool) -> Result<Vec<String>, RestoreError> {
    let mut written = Vec::new();
    for (name, content) in archive.files() {
        let path = files.folder().join(name);
        if path.exists() {
            continue;
        }
        // Before the key: one that must not leave is never here without its mark.
        let key = name.strip_prefix("signing/").and_then(|name| name.strip_suffix(".key")?.parse().ok());
        if let Some(key) = key.filter(|_| stay_here) {
            files.keep_here(key)?;
        }
        if Path::new(name).extension().is_some_and(|extension| extension == "pem") {
            files::write_public(&path, content)?;
        } else {
            files::write_secret(&path, content)?;
        }
        written.push(name.to_owned());
    }
    Ok(written)
}

/// A host that was put back to an earlier state shows an authority that the chain, which goes on further,
/// lists no more.
fn bring_channel_back(
    files: &Files,
    archive: &Archive,
    chain: &Chain,
    now: Timestamp,
) -> Result<bool, RestoreError> {
    let listed = |text: &[u8]| {
        let certificates = pem::certificates(text).unwrap_or_default();
        certificates.iter().any(|certificate| chain.head().bundle.tls_cas.contains(certificate))
    };
    let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let held = |wanted: String| archive.files().find(|(name, _)| *name == wanted).map(|(_, content)| content);
    let parts = (held(name(files.tls_ca())), held(name(files.tls_ca_key())));
    let (Some(certificate), Some(key)) = parts else { return Ok(false) };
    let is_here = files.tls_certificate().exists() && files.tls_key().exists();
    if (is_here && files::read(&files.tls_ca()).is_ok_and(|present| listed(&present))) || !listed(certificate)
    {
        return Ok(false);
    }
    files::write_secret(&files.tls_ca_key(), key)?;
    files::write_public(&files.tls_ca(), certificate)?;
    write_leaf(files, chain, now)?;
    Ok(true)
}

/// A leaf for the endpoints the fleet knows, by the channel's authority of the backup.
fn write_leaf(files: &Files, chain: &Chain, now: Timestamp) -> Result<(), RestoreError> {
    let none = |error: &dyn std::fmt::Display| RestoreError::NoChannel(error.to_string());
    let key = files::read_secret(&files.tls_ca_key()).map_err(|error| none(&error))?;
    let key = pem::private_key(&key).map_err(|error| none(&error))?;
    let certificate = files::read(&files.tls_ca()).map_err(|error| none(&error))?;
    let certificate = pem::certificates(&certificate).map_err(|error| none(&error))?.remove(0);
    let names = leaf_names(files, &chain.head().bundle.endpoints);
    issue_leaf(files, &TlsAuthority { certificate, key }, &names, now)
}

fn issue_leaf(
    files: &Files,
    authority: &TlsAuthority,
    names: &[String],
    now: Timestamp,
) -> Result<(), RestoreError> {
    let leaf = authority.issue(names, now)?;
    write_tls_leaf(files, &leaf)?;
    Ok(())
}
