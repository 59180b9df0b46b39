//! `writ-server cert …`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use writ_common::csv;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::id::{Digest, KeyId};
use writ_common::keys::transfer::{self, Pair};
use writ_common::keys::{Algorithm, SigningCertificate, pem};
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use zeroize::Zeroizing;

use super::{Output, passphrase};
use crate::authority::backup::Archive;
use crate::authority::certificates::{self, Plan, Standing};
use crate::authority::mint::{Mint, MintError, Published, Unlocked};
use crate::authority::mismatch::Mismatch;
use crate::authority::restore::restore;
use crate::authority::{Files, read_signing_keys};
use crate::store::BackupRow;

/// Agents read at a time.
const PAGE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Make a certificate that signs from now on; those before it are accepted for an overlap.
    Create {
        #[command(flatten)]
        unlock: Unlock,
        /// How it signs: ed25519 or ecdsa-p256.
        #[arg(long, value_name = "ALGORITHM", default_value = Algorithm::default().as_str())]
        key_algorithm: Algorithm,
        /// How long the one before is still accepted.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        overlap: Duration,
        /// Let it stand by: agents know it, and it signs when `cert rotate` says so or the present one ends.
        #[arg(long)]
        standby: bool,
        /// A realm it commands; repeat for several. Those of the present one unless given.
        #[arg(long = "realm", value_name = "NAME")]
        realms: Vec<String>,
        /// Check everything, publish nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Every certificate of the newest trust bundle, and how it stands; or the agents that do not hold that bundle.
    List {
        #[command(flatten)]
        place: Place,
        /// The agents whose trust is another one, instead.
        #[arg(long)]
        mismatched: bool,
        /// Write them to this file.
        #[arg(long, requires = "mismatched", value_name = "FILE")]
        csv: Option<PathBuf>,
    },
    /// One certificate.
    Show {
        #[command(flatten)]
        place: Place,
        /// The first digits of its key id.
        key: String,
    },
    /// Let the standby certificate sign from now on.
    Rotate {
        #[command(flatten)]
        unlock: Unlock,
        /// How long the one before is still accepted.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        overlap: Duration,
    },
    /// A key leaked: agents refuse it from their next contact on. What waits under it is cancelled.
    Revoke {
        #[command(flatten)]
        unlock: Unlock,
        /// The first digits of its key id.
        key: String,
    },
    /// Seal every key and the chain of trust bundles into one file.
    Backup {
        #[command(flatten)]
        unlock: Unlock,
        /// Where to; an existing file is not overwritten.
        file: PathBuf,
    },
    /// Put everything a backup holds back: all of it, or nothing.
    Restore {
        #[command(flatten)]
        place: Place,
        /// The sealed file.
        file: PathBuf,
        /// File with its passphrase.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Read a backup back, check every part of it, and note that it was proven.
    ProveBackup {
        #[command(flatten)]
        place: Place,
        /// The sealed file, best from where it is stored.
        file: PathBuf,
        /// File with its passphrase.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Take a certificate with its key from a PEM or PKCS#12 file: it signs from now on. If the newest bundle lists it already
    /// (servers that share one), its key is put in place and nothing else changes.
    Import {
        #[command(flatten)]
        unlock: Unlock,
        /// The file; `-----BEGIN` certificates and key, or PKCS#12.
        file: PathBuf,
        /// File with the passphrase of a PKCS#12 file.
        #[arg(long, value_name = "FILE")]
        file_passphrase_file: Option<PathBuf>,
        /// How long the one before is still accepted.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        overlap: Duration,
    },
    /// Write a certificate, the public part, to a file; or with its key, as PKCS#12.
    Export {
        #[command(flatten)]
        place: Place,
        /// The first digits of its key id; the active one unless given.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// Write its key too, as PKCS#12 under this file's passphrase, for a server that shares it.
        #[arg(long, value_name = "PASSPHRASE_FILE")]
        with_key: Option<PathBuf>,
        /// Where to; an existing file is not overwritten.
        file: PathBuf,
    },
}

/// Which fleet, and how to print.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Where state and keys live.
    #[arg(long, value_name = "FOLDER", default_value = crate::config::DEFAULT_DATA_DIR)]
    pub(super) data_dir: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// Which fleet, and who signs.
#[derive(Debug, Args)]
pub(super) struct Unlock {
    #[command(flatten)]
    pub(super) place: Place,
    /// A sealed authority key; repeat until the threshold is reached. The one in the data directory unless given.
    #[arg(long = "authority", value_name = "FILE")]
    pub(super) authorities: Vec<PathBuf>,
    /// File with its passphrase; repeat in the order of the keys, or once for all. The first seals the backup. Without it
    /// the systemd credential `writ-passphrase` is used, or you are asked.
    #[arg(long = "passphrase-file", value_name = "FILE")]
    pub(super) passphrase_files: Vec<PathBuf>,
    /// Mint although agents say they hold this bundle, which the server does not have: they are not to be believed.
    #[arg(long, value_name = "DIGEST")]
    pub(super) despite: Vec<Digest>,
}

impl Unlock {
    /// Opens the keys it names.
    pub(super) fn open(&self, files: &Files) -> Result<Unlocked, Fatal> {
        let default = [files.authority()];
        let named = if self.authorities.is_empty() { default.as_slice() } else { &self.authorities };
        let mut sealed = Vec::new();
        for (place, path) in named.iter().enumerate() {
            let file = self.passphrase_files.get(place).or_else(|| self.passphrase_files.last());
            let what = path.display().to_string();
            sealed.push((path.clone(), passphrase::ask(file.map(PathBuf::as_path), &what, false)?));
        }
        let authorities = Mint::unlock(&sealed).map_err(|error| match error {
            MintError::Sealed { .. } | MintError::File(_) | MintError::NotAnAuthority(_) => {
                Fatal::usage(error)
            }
            other => Fatal::caused("nothing was changed", &other),
        })?;
        let (_, passphrase) = sealed.remove(0);
        Ok(Unlocked { authorities, passphrase })
    }
}

/// Opens the keys of a data directory, to change them.
pub(super) async fn mint_with(unlock: &Unlock, shutdown: &Shutdown) -> Result<Mint, Fatal> {
    let mut mint = mint(&unlock.place, shutdown).await?;
    mint.despite.clone_from(&unlock.despite);
    Ok(mint)
}

/// Opens the keys of a data directory.
pub(super) async fn mint(place: &Place, shutdown: &Shutdown) -> Result<Mint, Fatal> {
    let opened = Mint::open(&Files::new(&place.data_dir), SystemClock::new().wall(), shutdown).await;
    opened.map_err(|error| Fatal::caused("nothing was changed", &error))
}

#[derive(Serialize)]
struct Row {
    key_id: String,
    standing: &'static str,
    algorithm: &'static str,
    held_here: bool,
    sign_from: String,
    accept_until: String,
    realms: Vec<String>,
}

#[derive(Serialize)]
struct Change {
    bundle_version: u64,
    bundle_digest: String,
    signing_key_id: String,
    backup: PathBuf,
}

pub(super) async fn run(verb: Cert, shutdown: Shutdown) -> Result<(), Fatal> {
    let unchanged = |error: &dyn std::error::Error| Fatal::caused("nothing was changed", error);
    match verb {
        Cert::Create { unlock, key_algorithm, overlap, standby, realms, dry_run } => {
            let mint = mint_with(&unlock, &shutdown).await?;
            mint.check().await.map_err(|error| unchanged(&error))?;
            let unlocked = unlock.open(&mint.files)?;
            if dry_run {
                return say(
                    &unlock.place,
                    &"checked",
                    "The keys open and a bundle may be minted; nothing was published.",
                );
            }
            let realms = Some(realms).filter(|realms| !realms.is_empty());
            let plan = Plan { algorithm: key_algorithm, overlap, is_standby: standby, realms };
            let made =
                certificates::create(&mint, &unlocked, plan).await.map_err(|error| unchanged(&error))?;
            changed(&unlock.place, &mint, &made)
        }
        Cert::Rotate { unlock, overlap } => {
            let mint = mint_with(&unlock, &shutdown).await?;
            let unlocked = unlock.open(&mint.files)?;
            let made =
                certificates::rotate(&mint, &unlocked, overlap).await.map_err(|error| unchanged(&error))?;
            changed(&unlock.place, &mint, &made)
        }
        Cert::Revoke { unlock, key } => {
            let mint = mint_with(&unlock, &shutdown).await?;
            let unlocked = unlock.open(&mint.files)?;
            let made =
                certificates::revoke(&mint, &unlocked, &key).await.map_err(|error| unchanged(&error))?;
            changed(&unlock.place, &mint, &made)
        }
        Cert::List { place, mismatched: false, .. } => list(&place, &mint(&place, &shutdown).await?, None),
        Cert::List { place, csv, .. } => {
            mismatched(&place, &mint(&place, &shutdown).await?, csv.as_deref()).await
        }
        Cert::Show { place, key } => {
            let mint = mint(&place, &shutdown).await?;
            let key = certificates::find(&mint, &key).map_err(Fatal::usage)?;
            list(&place, &mint, Some(&key.to_string()))
        }
        Cert::Backup { unlock, file } => {
            let mint = mint_with(&unlock, &shutdown).await?;
            if file.exists() {
                return Err(Fatal::usage(format!("{}: exists already; name another file", file.display())));
            }
            let secret =
                passphrase::ask(unlock.passphrase_files.first().map(PathBuf::as_path), "the backup", true)?;
            let made = mint.back_up(&mint.chain, &secret, &[], Some(file)).await;
            let path = made.map_err(|error| Fatal::caused("no backup was made", &error))?;
            let text = format!(
                "Sealed into {}.\nNext: store it elsewhere, then from there: writ-server cert prove-backup FILE",
                path.display()
            );
            say(&unlock.place, &path, &text)
        }
        Cert::Restore { place, file, passphrase_file } => {
            let archive = open_archive(&file, passphrase_file.as_deref())?;
            let files = Files::new(&place.data_dir);
            let now = SystemClock::new().wall();
            let restored =
                restore(&files, &archive, now, &shutdown).await.map_err(|error| unchanged(&error))?;
            let text = format!(
                "Restored fleet {} ({}), trust bundle {} ({}).\nNext:\n  1. writ-server run --data-dir {}\n  2. Agents come back by themselves; those that hold newer bundles hand them back.\n  3. When {} is the newest there is: writ-server authority confirm {}",
                restored.fleet_name,
                restored.fleet_id,
                restored.bundle_version,
                restored.bundle_digest,
                place.data_dir.display(),
                restored.bundle_version,
                restored.bundle_digest
            );
            say(&place, &restored, &text)
        }
        Cert::ProveBackup { place, file, passphrase_file } => {
            let mint = mint(&place, &shutdown).await?;
            let archive = open_archive(&file, passphrase_file.as_deref())?;
            if archive.fleet != mint.fleet {
                let text = format!("{}: it is of another fleet, {}", file.display(), archive.fleet_name);
                return Err(Fatal::failure(text));
            }
            let proven = BackupRow {
                digest: archive.digest,
                path: file.display().to_string(),
                bundle_version: archive.chain.head().bundle.version,
                made_at: mint.now,
                proven_at: mint.now,
            };
            let version = proven.bundle_version;
            mint.store.note_backup(proven).await.map_err(|error| unchanged(&error))?;
            let newest = mint.chain.head().bundle.version;
            let older =
                if version < newest { format!(", but the newest bundle is {newest}") } else { String::new() };
            let text = format!(
                "{}: whole; it holds {} files and the chain up to bundle {version}{older}.",
                file.display(),
                archive.files().count()
            );
            say(&place, &version, &text)
        }
        Cert::Import { unlock, file, file_passphrase_file, overlap } => {
            let mint = mint_with(&unlock, &shutdown).await?;
            let pair = read_pair(&file, file_passphrase_file.as_deref())?;
            let id = pair.key.public().id().to_string();
            if !certificates::held(&mint)
                .map_err(|error| unchanged(&error))?
                .contains(&pair.key.public().id())
                && certificates::share(&mint, &pair).map_err(|error| unchanged(&error))?
            {
                let text = format!(
                    "Certificate {id} is in the newest trust bundle; its key is here now.\nNext: restart the server, or mint a bundle"
                );
                return say(&unlock.place, &id, &text);
            }
            let unlocked = unlock.open(&mint.files)?;
            let made = certificates::import(&mint, &unlocked, pair, overlap)
                .await
                .map_err(|error| unchanged(&error))?;
            changed(&unlock.place, &mint, &made)
        }
        Cert::Export { place, key, with_key, file } => {
            let mint = mint(&place, &shutdown).await?;
            let bundle = &mint.chain.head().bundle;
            let entry = match &key {
                Some(key) => {
                    let id = certificates::find(&mint, key).map_err(Fatal::usage)?;
                    bundle.signing.iter().find(|entry| entry.certificate.key().id() == id)
                }
                None => bundle
                    .signing
                    .iter()
                    .find(|entry| Standing::of(entry, bundle, mint.now) == Standing::Active),
            };
            let entry =
                entry.ok_or_else(|| Fatal::failure("no certificate is active; name one with --key"))?;
            if file.exists() {
                return Err(Fatal::usage(format!("{}: exists already; name another file", file.display())));
            }
            match with_key {
                Some(secret) => export_pair(&mint, &entry.certificate, &secret, &file)?,
                None => {
                    let text = pem::encode("CERTIFICATE", entry.certificate.der());
                    files::write_public(&file, text.as_bytes()).map_err(Fatal::failure)?;
                }
            }
            let id = entry.certificate.key().id().to_string();
            say(&place, &id, &format!("Certificate {id} written to {}.", file.display()))
        }
    }
}

/// A certificate with its key from a file of another program.
fn read_pair(file: &Path, passphrase_file: Option<&Path>) -> Result<Pair, Fatal> {
    let content = files::read(file).map_err(Fatal::usage)?;
    let secret = passphrase_file.map(files::read_secret).transpose().map_err(Fatal::usage)?;
    let secret = secret.as_deref().map(|secret| String::from_utf8_lossy(secret).trim_end().to_owned());
    let pair = transfer::read(&content, secret.map(Zeroizing::new).as_deref().map(String::as_str));
    pair.map_err(|error| Fatal::usage(format!("{}: {error}; nothing was imported", file.display())))
}

fn export_pair(
    mint: &Mint,
    certificate: &SigningCertificate,
    secret: &Path,
    file: &Path,
) -> Result<(), Fatal> {
    let keys = read_signing_keys(&mint.files).map_err(Fatal::failure)?;
    let key = keys.into_iter().find(|key| key.public() == certificate.key());
    let key = key.ok_or_else(|| Fatal::failure("its key is not here; export it where it is"))?;
    let passphrase = passphrase::ask(Some(secret), "the exported key", true)?;
    let pair = Pair { key, certificate: certificate.clone() };
    let content = transfer::write_pkcs12(&pair, &mint.name, &passphrase).map_err(Fatal::failure)?;
    files::write_secret(file, &content).map_err(Fatal::failure)
}

fn open_archive(file: &Path, passphrase_file: Option<&Path>) -> Result<Archive, Fatal> {
    let passphrase = passphrase::ask(passphrase_file, &file.display().to_string(), false)?;
    Archive::open(file, &passphrase).map_err(Fatal::usage)
}

fn list(place: &Place, mint: &Mint, only: Option<&str>) -> Result<(), Fatal> {
    let held = certificates::held(mint).map_err(Fatal::failure)?;
    let bundle = &mint.chain.head().bundle;
    let mut rows: Vec<_> = bundle
        .signing
        .iter()
        .map(|entry| Row {
            key_id: entry.certificate.key().id().to_string(),
            standing: Standing::of(entry, bundle, mint.now).as_str(),
            algorithm: entry.certificate.key().algorithm().as_str(),
            held_here: held.contains(&entry.certificate.key().id()),
            sign_from: entry.sign_from.to_string(),
            accept_until: entry.accept_until.to_string(),
            realms: entry.realms.clone(),
        })
        .collect();
    rows.retain(|row| only.is_none_or(|only| row.key_id == only));
    let line = |row: &Row| {
        let here = if row.held_here { "here" } else { "elsewhere" };
        format!(
            "{:9} {}  {} to {}  {}  key {here}, realms {}",
            row.standing,
            if only.is_some() { &row.key_id } else { row.key_id.get(..16).unwrap_or(&row.key_id) },
            row.sign_from,
            row.accept_until,
            row.algorithm,
            row.realms.join(", ")
        )
    };
    let text: Vec<_> = rows.iter().map(line).collect();
    say(place, &rows, &format!("Trust bundle {}\n{}", bundle.version, text.join("\n")))
}

#[derive(Serialize)]
struct MismatchedRow {
    agent_id: String,
    agent_name: String,
    host_name: String,
    address: String,
    bundle_version: String,
    key_id: String,
    expected_key_id: String,
    reason: String,
    last_contact: String,
}

impl MismatchedRow {
    fn cells(&self) -> Vec<&str> {
        let Self {
            agent_id,
            agent_name,
            host_name,
            address,
            bundle_version,
            key_id,
            expected_key_id,
            reason,
            last_contact,
        } = self;
        let who = [agent_id, agent_name, host_name, address];
        let what = [bundle_version, key_id, expected_key_id, reason, last_contact];
        who.into_iter().chain(what).map(String::as_str).collect()
    }
}

/// The agents that do not hold the newest bundle.
async fn mismatched(place: &Place, mint: &Mint, file: Option<&Path>) -> Result<(), Fatal> {
    let (bundle, head) = (&mint.chain.head().bundle, mint.chain.head().digest);
    let active =
        bundle.signing.iter().find(|entry| Standing::of(entry, bundle, mint.now) == Standing::Active);
    let signing = active.map(|entry| entry.certificate.key().id());
    let key = |key: Option<KeyId>| key.map_or_else(String::new, |key| key.to_string());
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = mint.store.behind(head, after, PAGE).await.map_err(Fatal::failure)?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        rows.extend(page.into_iter().map(|agent| {
            let judged = Mismatch::of(agent, &mint.chain, signing, mint.now);
            let reason = judged.reason();
            let Mismatch { agent, obeys, .. } = judged;
            MismatchedRow {
                agent_id: agent.id.to_string(),
                agent_name: agent.name,
                host_name: agent.host_name,
                address: agent.address,
                bundle_version: agent.version.to_string(),
                key_id: key(obeys),
                expected_key_id: key(signing),
                reason,
                last_contact: agent.last_contact.to_string(),
            }
        }));
    }
    if let Some(file) = file {
        let table = csv::table(&csv::MISMATCHED, rows.iter().map(MismatchedRow::cells));
        files::write_public(file, table.as_bytes()).map_err(Fatal::failure)?;
    }
    let lines: Vec<_> = rows.iter().map(|row| row.cells().join("  ")).collect();
    let text = match lines.len() {
        0 => "Every agent holds the newest trust bundle.".to_owned(),
        some => format!("{some} agents do not hold the newest trust bundle\n{}", lines.join("\n")),
    };
    say(place, &rows, &text)
}

/// Says what a new bundle is.
pub(super) fn changed(place: &Place, mint: &Mint, made: &Published) -> Result<(), Fatal> {
    let bundle = &made.link.bundle;
    let active =
        bundle.signing.iter().find(|entry| Standing::of(entry, bundle, mint.now) == Standing::Active);
    let signing = active.map_or_else(|| "none".to_owned(), |entry| entry.certificate.key().id().to_string());
    let text = format!(
        "Trust bundle {} is in force ({}); key {signing} signs. Connected agents have it within a second, others when they connect.\nIts keys are in {}.\nNext: store that backup elsewhere, and see who follows: writ trust converge --watch",
        bundle.version,
        made.link.digest,
        made.backup.display()
    );
    let change = Change {
        bundle_version: bundle.version,
        bundle_digest: made.link.digest.to_string(),
        signing_key_id: signing,
        backup: made.backup.clone(),
    };
    say(place, &change, &text)
}

/// Prints a result.
pub(super) fn say(place: &Place, value: &impl Serialize, text: &str) -> Result<(), Fatal> {
    let text = match place.output {
        Output::Json => serde_json::to_string_pretty(value).map_err(Fatal::failure)?,
        Output::Text => text.to_owned(),
    };
    writeln!(std::io::stdout(), "{text}").map_err(Fatal::failure)
}
