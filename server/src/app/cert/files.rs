//! `cert backup|restore|prove-backup|import|export`: keys that come and go in files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::keys::transfer::{self, Pair};
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::keys::SigningCertificate;
use zeroize::Zeroizing;

use super::super::local::{Place, Unlock, is_free, unchanged};
use super::super::passphrase;
use crate::authority::backup::Archive;
use crate::authority::certificates;
use crate::authority::publisher::TrustPublisher;
use crate::authority::read_signing_keys;
use crate::authority::restore::restore;
use crate::store::BackupRow;

/// Seals every key and the chain of trust bundles into one file.
pub(super) async fn back_up(unlock: &Unlock, file: PathBuf, shutdown: &Shutdown) -> Result<(), Fatal> {
    let publisher = unlock.publisher(shutdown).await?;
    is_free(&file)?;
    let secret = passphrase::ask(
        unlock.passphrase_files.first().map(PathBuf::as_path),
        "the backup (the authority's key in it keeps its own)",
        true,
    )?;
    if publisher.is_dry_run {
        return unlock.place.say(&file, "The backup could be made; nothing was written.");
    }
    let made = publisher.back_up(&publisher.chain, &secret, &[], Some(file)).await;
    let path = made.map_err(|error| Fatal::caused("no backup was made", &error))?;
    publisher.record("writ-server cert backup").await.map_err(|error| unchanged(&error))?;
    let text = format!(
        "Sealed into {}.\nNext: store it elsewhere, then from there: writ-server cert prove-backup FILE",
        path.display()
    );
    unlock.place.say(&path, &text)
}

/// Where a server comes from.
#[derive(Debug)]
pub(super) struct From {
    /// The sealed file.
    pub(super) file: PathBuf,
    /// Its passphrase.
    pub(super) passphrase_file: Option<PathBuf>,
    /// The chain of an agent that is ahead of it.
    pub(super) chain: Option<PathBuf>,
    /// Keep the keys from being exported or backed up again here.
    pub(super) non_exportable: bool,
    /// Look only.
    pub(super) dry_run: bool,
}

/// Puts everything a backup holds back.
pub(super) async fn restore_backup(place: &Place, from: From, shutdown: &Shutdown) -> Result<(), Fatal> {
    let From { file, passphrase_file, chain, non_exportable, dry_run } = from;
    let mut archive = open_archive(&file, passphrase_file.as_deref())?;
    if let Some(chain) = chain {
        let bundles = super::super::authority::read_chain(&chain)?;
        archive.extend(bundles).map_err(|refusal| {
            Fatal::usage(format!("{}: it does not follow the backup: {refusal}", chain.display()))
        })?;
    }
    if dry_run {
        let held: Vec<_> = archive.files().map(|(name, _)| name).collect();
        let text = format!(
            "{}: whole; it holds {} and the chain up to bundle {}. Nothing was written.",
            file.display(),
            held.join(", "),
            archive.chain.head().bundle.version
        );
        return place.say(&held, &text);
    }
    let files = place.folder.files()?;
    let now = SystemClock::new().wall();
    let restored =
        restore(&files, &archive, non_exportable, now, shutdown).await.map_err(|error| unchanged(&error))?;
    // A server that runs on the folder follows it by itself, and a second one would be refused.
    let start = match files.lock() {
        Err(FileError::InUse { .. }) => "Nothing: the server that runs here goes on with it.".to_owned(),
        _ => place.folder.start().how(),
    };
    // A token is made only where there was no fleet.
    let lost = match restored.admin_token_file.as_os_str().is_empty() {
        true => String::new(),
        false => {
            let token = restored.admin_token_file.display();
            format!(
                "\nThe backup holds keys and trust bundles. Gone with the database: commands and receipts, alerts, the audit log, operators and their tokens, enrolment tokens, labels of agents, the line to a Control Manager. Agents that come back are known by their identity records; label them again.\nThe administrator's token is new, and contexts that hold a copy of the old one need it: {token}"
            )
        }
    };
    let text = format!(
        "Restored fleet {} ({}), trust bundle {} ({}).{}\nNext:\n  1. {}\n  2. Agents come back by themselves; those that hold newer bundles hand them back.\n  3. When {} is the newest there is: writ-server authority confirm {}",
        restored.fleet_name,
        restored.fleet_id,
        restored.bundle_version,
        restored.bundle_digest,
        lost,
        start,
        restored.bundle_version,
        restored.bundle_digest
    );
    place.say(&restored, &text)
}

#[derive(Serialize)]
struct Proven {
    bundle_version: u64,
    newest_bundle_version: u64,
    files: usize,
    holds_authority: bool,
}

/// Reads a backup back, and notes that it was, if this server could be made anew from it.
pub(super) async fn prove(
    place: &Place,
    file: &Path,
    passphrase_file: Option<&Path>,
    shutdown: &Shutdown,
) -> Result<(), Fatal> {
    let publisher = place.publisher(shutdown).await?;
    let secret = passphrase::ask(passphrase_file, &file.display().to_string(), false)?;
    let archive = Archive::open(file, &secret).map_err(Fatal::usage)?;
    let not_proven = |why: String| Fatal::failure(format!("{}: {why}; nothing was noted", file.display()));
    if archive.fleet != publisher.fleet {
        return Err(not_proven(format!("it is of another fleet, {}", archive.fleet_name)));
    }
    let (head, bundle) = (archive.chain.head(), &publisher.chain.head().bundle);
    if !publisher.chain.contains(head.digest) {
        return Err(not_proven(format!(
            "it ends at bundle {} ({}), which the chain here does not have",
            head.bundle.version, head.digest
        )));
    }
    if let Some(signing) = certificates::signing_here(&publisher)
        && !archive.holds(signing.certificate.key().id())
        && !publisher.files.stays_here(signing.certificate.key().id())
    {
        return Err(not_proven(format!(
            "it does not hold key {}, by which this server signs; make a new one: writ-server cert backup",
            signing.certificate.key().id()
        )));
    }
    let proven = Proven {
        bundle_version: head.bundle.version,
        newest_bundle_version: bundle.version,
        files: archive.files().count(),
        holds_authority: archive.authorities(&secret).iter().any(|key| bundle.authority.keys.contains(key)),
    };
    let row = BackupRow {
        digest: archive.digest,
        path: archive.path.display().to_string(),
        bundle_version: proven.bundle_version,
        made_at: publisher.now,
        proven_at: publisher.now,
    };
    publisher.store.note_backup(row).await.map_err(|error| unchanged(&error))?;
    publisher.record("writ-server cert prove-backup").await.map_err(|error| unchanged(&error))?;
    let without = match proven.holds_authority {
        true => "",
        false => {
            "\nThe authority's key is not proven: none in it opens with this passphrase. If the one in it has a passphrase of its own, keep both; if it lies elsewhere, prove it there. Without it nothing can be rotated after a restore."
        }
    };
    let text = format!(
        "{}: whole; it holds {} files and the chain up to bundle {} of {}.{without}",
        file.display(),
        proven.files,
        proven.bundle_version,
        proven.newest_bundle_version,
    );
    place.say(&proven, &text)
}

/// Where a certificate comes from.
#[derive(Debug)]
pub(super) struct Import {
    /// The file.
    pub(super) file: PathBuf,
    /// Its passphrase.
    pub(super) passphrase_file: Option<PathBuf>,
    /// How long the one before is still accepted.
    pub(super) overlap: Duration,
    /// Keep the key from being exported or backed up again here.
    pub(super) non_exportable: bool,
}

/// Takes a certificate with its key.
pub(super) async fn import(unlock: &Unlock, from: Import, shutdown: &Shutdown) -> Result<(), Fatal> {
    let Import { file, passphrase_file, overlap, non_exportable } = from;
    let publisher = unlock.publisher(shutdown).await?;
    let pair = read_pair(&file, passphrase_file.as_deref())?;
    let id = pair.key.public().id();
    let is_held = certificates::held(&publisher).map_err(|error| unchanged(&error))?.contains(&id);
    // Before the key: one that must not leave is never here, nor in a backup, without its mark.
    if non_exportable && !is_held && !publisher.is_dry_run {
        publisher.files.keep_here(id).map_err(|error| unchanged(&error))?;
    }
    if !is_held && certificates::share(&publisher, &pair).await.map_err(|error| unchanged(&error))? {
        let text = match publisher.is_dry_run {
            true => format!("Certificate {id} is in the newest trust bundle; its key would be put here."),
            false => format!(
                "Certificate {id} is in the newest trust bundle; its key is here now.\nNext: restart the server, or sign the next trust bundle"
            ),
        };
        return unlock.place.say(&id.to_string(), &text);
    }
    let unlocked = unlock.open(&publisher.files)?;
    let made = certificates::import(&publisher, &unlocked, pair, overlap)
        .await
        .map_err(|error| unchanged(&error))?;
    unlock.place.changed(&publisher, &made)
}

/// Writes a certificate to a file, or with its key.
pub(super) async fn export(
    place: &Place,
    key: Option<&str>,
    with_key: Option<&Path>,
    file: &Path,
    shutdown: &Shutdown,
) -> Result<(), Fatal> {
    let publisher = place.publisher(shutdown).await?;
    let bundle = &publisher.chain.head().bundle;
    let wanted = key.map(|key| certificates::find(&publisher, key)).transpose().map_err(Fatal::usage)?;
    let entry = match wanted {
        Some(key) => bundle.signing.iter().find(|entry| entry.certificate.key().id() == key),
        None => certificates::signing_here(&publisher),
    };
    let entry = entry
        .ok_or_else(|| Fatal::failure("no certificate of this server signs now; name one with --key"))?;
    is_free(file)?;
    match with_key {
        Some(secret) => {
            export_pair(&publisher, &entry.certificate, secret, file)?;
            publisher
                .record("writ-server cert export --with-key")
                .await
                .map_err(|error| unchanged(&error))?;
        }
        None => {
            let text = pem::encode("CERTIFICATE", entry.certificate.der());
            files::write_public(file, text.as_bytes()).map_err(Fatal::failure)?;
        }
    }
    let id = entry.certificate.key().id().to_string();
    place.say(&id, &format!("Certificate {id} written to {}.", file.display()))
}

fn export_pair(
    publisher: &TrustPublisher,
    certificate: &SigningCertificate,
    secret: &Path,
    file: &Path,
) -> Result<(), Fatal> {
    let id = certificate.key().id();
    if publisher.files.stays_here(id) {
        return Err(Fatal::failure(format!(
            "key {id} was put here as not exportable; export it where it came from, or let this server have one of its own: writ-server cert create"
        )));
    }
    let keys = read_signing_keys(&publisher.files).map_err(Fatal::failure)?;
    let key = keys.into_iter().find(|key| key.public() == certificate.key());
    let key = key.ok_or_else(|| Fatal::failure("its key is not here; export it where it is"))?;
    let passphrase = passphrase::ask(Some(secret), "the exported key", true)?;
    let pair = Pair { key, certificate: certificate.clone() };
    let content = transfer::write_pkcs12(&pair, &publisher.name, &passphrase).map_err(Fatal::failure)?;
    files::write_secret(file, &content).map_err(Fatal::failure)
}

/// A certificate with its key from a file of another program. PKCS#12 protects itself; PEM is protected by
/// its mode alone.
fn read_pair(file: &Path, passphrase_file: Option<&Path>) -> Result<Pair, Fatal> {
    let mut content = Zeroizing::new(files::read(file).map_err(Fatal::usage)?);
    // PKCS#12 protects itself.
    if content.windows(11).any(|part| part == b"PRIVATE KEY") || pem::private_key(&content).is_ok() {
        content = files::read_secret(file).map_err(Fatal::usage)?;
    }
    let secret = passphrase_file.map(files::secret_line).transpose().map_err(Fatal::usage)?;
    let pair = transfer::read(&content, secret.as_deref().map(String::as_str));
    pair.map_err(|error| Fatal::usage(format!("{}: {error}; nothing was imported", file.display())))
}

fn open_archive(file: &Path, passphrase_file: Option<&Path>) -> Result<Archive, Fatal> {
    let passphrase = passphrase::ask(passphrase_file, &file.display().to_string(), false)?;
    Archive::open(file, &passphrase).map_err(Fatal::usage)
}
