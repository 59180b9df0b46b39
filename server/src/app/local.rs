//! What the commands that work on the local files share: which fleet, who signs, how to print.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use writ_common::config::not_text;
use writ_common::daemon::Fatal;
use writ_common::say;
use writ_common::shutdown::Shutdown;
use writ_common::systemd::Start;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::id::Digest;
use writ_protocol::keys::Algorithm;

use super::{Output, passphrase};
use crate::authority::Files;
use crate::authority::certificates::{self, CertificateError};
use crate::authority::channel::ChannelError;
use crate::authority::publisher::{PublishError, Published, TrustPublisher, Unlocked};
use crate::config::Config;
use crate::sign::signs_at;

/// Which fleet.
#[derive(Debug, Args)]
pub(super) struct Folder {
    /// Configuration file. Without it /etc/writ/server.toml is read if it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state and keys live: overrides `data_dir` of the configuration.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

impl Folder {
    /// What is configured.
    pub(super) fn config(&self) -> Result<Config, Fatal> {
        Config::load(self.config.as_deref(), self.data_dir.as_deref()).map_err(Fatal::usage)
    }

    /// Where everything is. A folder that is named needs no configuration, which may be what is broken.
    pub(super) fn files(&self) -> Result<Files, Fatal> {
        match &self.data_dir {
            Some(folder) if folder.to_str().is_none() => {
                Err(Fatal::usage(format!("--data-dir {}", not_text(folder))))
            }
            Some(folder) => Ok(Files::new(folder)),
            None => Ok(Files::new(&self.config()?.data_dir)),
        }
    }

    /// How the server is started on it.
    pub(super) fn start(&self) -> Start<'_> {
        let Self { config, data_dir } = self;
        Start { program: "writ-server", config: config.as_deref(), data_dir: data_dir.as_deref() }
    }
}

/// Which fleet, and how to print.
#[derive(Debug, Args)]
pub(super) struct Place {
    #[command(flatten)]
    pub(super) folder: Folder,
    #[command(flatten)]
    print: Print,
}

/// How to print.
#[derive(Debug, Args)]
pub(super) struct Print {
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a key that is made signs.
#[derive(Debug, Args)]
pub(super) struct LocalCommand {
    /// How it signs: ed25519 or ecdsa-p256.
    #[arg(long, value_name = "ALGORITHM", default_value = Algorithm::default().as_str())]
    pub(super) key_algorithm: Algorithm,
}

/// Which fleet, and who signs.
#[derive(Debug, Args)]
pub(super) struct Unlock {
    #[command(flatten)]
    pub(super) place: Place,
    /// A sealed authority key; repeat until the threshold is reached. The one in the data directory unless
    /// given.
    #[arg(long = "authority", value_name = "FILE")]
    pub(super) authorities: Vec<PathBuf>,
    /// File with its passphrase; repeat in the order of the keys, or once for all. The first seals the
    /// backup. Without it the systemd credential `writ-passphrase` is used, or you are asked.
    #[arg(long = "passphrase-file", value_name = "FILE")]
    pub(super) passphrase_files: Vec<PathBuf>,
    /// Mint although agents follow another chain of this fleet, whose newest trust bundle this is: they are
    /// left behind. Repeat for several.
    #[arg(long, value_name = "DIGEST")]
    despite: Vec<Digest>,
    /// Open the keys and check everything; write and publish nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Unlock {
    /// Opens the fleet, to change its keys.
    pub(super) async fn publisher(&self, shutdown: &Shutdown) -> Result<TrustPublisher, Fatal> {
        let mut publisher = self.place.publisher(shutdown).await?;
        publisher.despite.clone_from(&self.despite);
        publisher.is_dry_run = self.dry_run;
        Ok(publisher)
    }

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
        let authorities = TrustPublisher::unlock(&sealed).map_err(|error| match error {
            PublishError::Sealed { .. } | PublishError::File(_) | PublishError::NotAnAuthority(_) => {
                Fatal::usage(error)
            }
            other => unchanged(&other),
        })?;
        let (_, passphrase) = sealed.remove(0);
        Ok(Unlocked { authorities, passphrase })
    }
}

impl Place {
    /// Opens the keys of a data directory.
    pub(super) async fn publisher(&self, shutdown: &Shutdown) -> Result<TrustPublisher, Fatal> {
        self.open(shutdown).await?.map_err(|error| unchanged(&error))
    }

    /// The same for a command that only reads.
    pub(super) async fn reader(&self, shutdown: &Shutdown) -> Result<TrustPublisher, Fatal> {
        self.open(shutdown).await?.map_err(|error| Fatal::caused("cannot look", &error))
    }

    async fn open(&self, shutdown: &Shutdown) -> Result<Result<TrustPublisher, PublishError>, Fatal> {
        Ok(TrustPublisher::open(&self.folder.files()?, SystemClock::new().wall(), shutdown).await)
    }

    /// Prints a result.
    pub(super) fn say(&self, value: &impl Serialize, text: &str) -> Result<(), Fatal> {
        self.print.say(value, text)
    }

    /// Says what a new bundle is, or would be.
    pub(super) fn changed(&self, publisher: &TrustPublisher, made: &Published) -> Result<(), Fatal> {
        let bundle = &made.link.bundle;
        let held = certificates::held(publisher).map_err(Fatal::failure)?;
        let ours = bundle.signing.iter().filter(|entry| held.contains(&entry.certificate.key().id()));
        let signing = signs_at(ours, publisher.now);
        let signing =
            signing.map_or_else(|| "none".to_owned(), |entry| entry.certificate.key().id().to_string());
        let text = match &made.backup {
            Some(backup) => format!(
                "Trust bundle {} is in force ({}); key {signing} signs here. Connected agents have it within a second, others when they connect.\nIts keys are in {}.\nNext: store that backup elsewhere, and see who follows: writ trust converge --watch",
                bundle.version,
                made.link.digest,
                backup.display()
            ),
            None => format!(
                "Trust bundle {} could be published, signed by enough authorities; nothing was written.",
                bundle.version
            ),
        };
        let change = Change {
            bundle_version: bundle.version,
            bundle_digest: made.link.digest.to_string(),
            signing_key_id: signing,
            published: made.backup.is_some(),
            backup: made.backup.clone(),
        };
        self.say(&change, &text)
    }
}

impl Print {
    /// Prints a result.
    pub(super) fn say(&self, value: &impl Serialize, text: &str) -> Result<(), Fatal> {
        let text = match self.output {
            Output::Json => serde_json::to_string_pretty(value).map_err(Fatal::failure)?,
            Output::Text => text.to_owned(),
        };
        say::result(text).map_err(Fatal::failure)
    }
}

#[derive(Serialize)]
struct Change {
    bundle_version: u64,
    bundle_digest: String,
    signing_key_id: String,
    published: bool,
    backup: Option<PathBuf>,
}

/// A change that failed: before anything was in force, unless the error says otherwise.
pub(super) fn unchanged(error: &(dyn std::error::Error + 'static)) -> Fatal {
    let publisher = error.downcast_ref::<PublishError>().or_else(|| match error.downcast_ref() {
        Some(CertificateError::Publish(error)) => Some(error),
        _ => None,
    });
    let publisher = publisher.or_else(|| match error.downcast_ref() {
        Some(ChannelError::Publish(error)) => Some(error),
        _ => None,
    });
    match publisher {
        Some(error @ PublishError::InForce { .. }) => Fatal::failure(error),
        _ => Fatal::caused("nothing was changed", error),
    }
}

/// A file that is to be made must not be there.
pub(super) fn is_free(file: &std::path::Path) -> Result<(), Fatal> {
    if file.exists() {
        return Err(Fatal::usage(format!("{}: exists already; name another file", file.display())));
    }
    Ok(())
}
