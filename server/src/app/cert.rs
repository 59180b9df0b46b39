//! `writ-server cert …`.

mod files;
mod list;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use writ_common::daemon::Fatal;
use writ_common::shutdown::Shutdown;

use super::local::{LocalCommand, Place, Unlock, is_free, unchanged};
use crate::authority::certificates::{self, CertificatePlan};

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Make a certificate that signs from now on; those before it are accepted for an overlap.
    Create {
        #[command(flatten)]
        unlock: Unlock,
        #[command(flatten)]
        kind: LocalCommand,
        /// How long the one before is still accepted.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        overlap: Duration,
        /// Let it stand by: agents know it, and it signs when `cert rotate` says so or the present one ends.
        #[arg(long, conflicts_with = "overlap")]
        standby: bool,
        /// A realm it commands, which is a named part of the fleet; repeat for several. Those of the present
        /// one unless given.
        #[arg(long = "realm", value_name = "NAME")]
        realms: Vec<String>,
        /// For a further server, which commands realms of its own: seal its key, the chain and the channel's
        /// authority into this file, from which `cert restore` makes that server. The key is not
        /// kept here.
        #[arg(long = "for", value_name = "FILE", requires = "realms", conflicts_with = "standby")]
        elsewhere: Option<PathBuf>,
    },
    /// Every certificate of the newest trust bundle, and how it stands; or the agents that do not hold that
    /// bundle.
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
    /// A key leaked: agents refuse it from their next contact on. What waits under it is cancelled. Also for
    /// a key that is retired: what it vouched for counts no more.
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
        /// Go on from the backup along this chain: `trust.chain` from the data directory of an agent that is
        /// ahead of it.
        #[arg(long, value_name = "FILE")]
        chain: Option<PathBuf>,
        /// Neither export the keys from this server nor put them into its backups: the file they come from
        /// is theirs.
        #[arg(long)]
        non_exportable: bool,
        /// Say what it holds; write nothing.
        #[arg(long)]
        dry_run: bool,
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
    /// Take a certificate with its key from a PEM or PKCS#12 file: it signs from now on. If the newest bundle
    /// lists it already (servers that share one), its key is put in place and nothing else changes.
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
        /// Neither export the key from this server nor put it into later backups: the file it comes from is
        /// its own.
        #[arg(long)]
        non_exportable: bool,
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

pub(super) async fn run(verb: Cert, shutdown: Shutdown) -> Result<(), Fatal> {
    match verb {
        Cert::Create { unlock, kind, overlap, standby, realms, elsewhere } => {
            let publisher = unlock.publisher(&shutdown).await?;
            if let Some(file) = &elsewhere {
                is_free(file)?;
            }
            publisher.check().await.map_err(|error| unchanged(&error))?;
            let unlocked = unlock.open(&publisher.files)?;
            let realms = Some(realms).filter(|realms| !realms.is_empty());
            let plan = CertificatePlan {
                algorithm: kind.key_algorithm,
                overlap,
                is_standby: standby,
                realms,
                elsewhere,
            };
            let made =
                certificates::create(&publisher, &unlocked, plan).await.map_err(|error| unchanged(&error))?;
            unlock.place.changed(&publisher, &made)
        }
        Cert::Rotate { unlock, overlap } => {
            let publisher = unlock.publisher(&shutdown).await?;
            let unlocked = unlock.open(&publisher.files)?;
            let made = certificates::rotate(&publisher, &unlocked, overlap)
                .await
                .map_err(|error| unchanged(&error))?;
            unlock.place.changed(&publisher, &made)
        }
        Cert::Revoke { unlock, key } => {
            let publisher = unlock.publisher(&shutdown).await?;
            let unlocked = unlock.open(&publisher.files)?;
            let made =
                certificates::revoke(&publisher, &unlocked, &key).await.map_err(|error| unchanged(&error))?;
            unlock.place.changed(&publisher, &made)
        }
        Cert::List { place, mismatched: false, .. } => {
            list::list(&place, &place.publisher(&shutdown).await?, None)
        }
        Cert::List { place, csv, .. } => {
            list::mismatched(&place, &place.publisher(&shutdown).await?, csv.as_deref()).await
        }
        Cert::Show { place, key } => {
            let publisher = place.publisher(&shutdown).await?;
            let key = certificates::find(&publisher, &key).map_err(Fatal::usage)?;
            list::list(&place, &publisher, Some(key))
        }
        Cert::Backup { unlock, file } => files::back_up(&unlock, file, &shutdown).await,
        Cert::Restore { place, file, passphrase_file, chain, non_exportable, dry_run } => {
            let from = files::From { file, passphrase_file, chain, non_exportable, dry_run };
            files::restore_backup(&place, from, &shutdown).await
        }
        Cert::ProveBackup { place, file, passphrase_file } => {
            files::prove(&place, &file, passphrase_file.as_deref(), &shutdown).await
        }
        Cert::Import { unlock, file, file_passphrase_file, overlap, non_exportable } => {
            let from = files::Import { file, passphrase_file: file_passphrase_file, overlap, non_exportable };
            files::import(&unlock, from, &shutdown).await
        }
        Cert::Export { place, key, with_key, file } => {
            files::export(&place, key.as_deref(), with_key.as_deref(), &file, &shutdown).await
        }
    }
}
