//! What this server fetches: lists and other components, from the source that was chosen.
//!
//! [`settings`] is what an operator chose, [`source`] where that leads at a moment, [`by_manager`] the way by the
//! Control Manager, [`schedule`] when it happens by itself. The run is [`writ_updates::update`].

mod by_manager;
pub(crate) mod distribute;
pub(crate) mod pieces;
pub(crate) mod schedule;
pub(crate) mod settings;
pub(crate) mod source;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};
use tracing::{info, warn};
use writ_common::files;
use writ_common::keys::pem;
use writ_common::keys::vault::Vault;
use writ_common::shutdown::Shutdown;
use writ_common::time::SharedClock;
use writ_updates::{Folder, LastRun, Outcome, Pace, Progress, Reason, Report, UpdateError};

use crate::authority::Files;
use crate::cm_bridge::{ManagerRecord, Uplink};
use crate::config::Config;
use crate::store::{Alarm, AlertKind, SERVER};
use pieces::Pieces;

/// The update server of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configured {
    /// The folder with `metadata` and `targets` in it.
    pub url: String,
    /// The file of the root that is pinned.
    pub root: PathBuf,
    /// Who vouches for the web server, PEM; `None`: whom this host trusts.
    pub ca: Option<PathBuf>,
}

/// What a server keeps of its updates while it runs.
#[derive(Debug)]
pub(crate) struct Updates {
    /// What is on disk.
    pub folder: Folder,
    /// The update server of the configuration.
    pub configured: Option<Configured>,
    /// How fast things must come.
    pub pace: Pace,
    /// Look whether a run is due: something was changed.
    pub poke: Notify,
    /// Look whether agents lack something.
    pub new: Notify,
    /// What agents can fetch.
    pub pieces: Pieces,
    /// What agents are told to hold.
    pub for_agents: Vec<&'static str>,
    /// Runs of this process that are under way; all but one only find that it is.
    running: AtomicUsize,
    /// Runs of this process take place one after the other.
    turn: Mutex<()>,
}

impl Updates {
    /// As it is configured.
    #[must_use]
    pub(crate) fn of(config: &Config, files: &Files) -> Self {
        let folder = Folder::new(&files.folder().join("updates"));
        let pace = Pace { window: config.update_patience, ..Pace::default() };
        Self {
            folder,
            configured: config.updates.clone(),
            pace,
            poke: Notify::new(),
            new: Notify::new(),
            pieces: Pieces::new(),
            for_agents: config.for_agents.clone(),
            running: AtomicUsize::new(0),
            turn: Mutex::default(),
        }
    }

    /// Whether a run of this process is under way.
    #[must_use]
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }
}

/// What a run needs, in a server that runs and in a command that works on its files.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// The updates.
    pub updates: &'a Updates,
    /// The line to the manager.
    pub line: ManagerRecord,
    /// What seals its secrets.
    pub vault: &'a Vault,
    /// Time.
    pub clock: SharedClock,
    /// The end.
    pub shutdown: Shutdown,
}

impl<'a> Surroundings<'a> {
    /// Those of a running server.
    pub(crate) fn of(uplink: &'a Uplink) -> Self {
        let Uplink { server, bridge } = uplink;
        Self {
            updates: &server.updates,
            line: bridge.held(),
            vault: bridge.vault(),
            clock: server.clock.clone(),
            shutdown: server.shutdown.clone(),
        }
    }

    /// One run, which is noted whatever comes of it.
    pub(crate) async fn sync(
        &self,
        told: &mut (dyn FnMut(Progress) + Send),
    ) -> (LastRun, Result<Report, UpdateError>) {
        let _turn = self.updates.turn.lock().await;
        let began = self.clock.wall();
        let resolved = source::resolve(self);
        let name = resolved.as_ref().map_or_else(|_| String::new(), |resolved| resolved.name.clone());
        let run = async { Box::pin(source::fetch(self, resolved?, told)).await };
        let stopped =
            || Err(UpdateError::new(Reason::Stopped, "the server is shutting down; what was in force stays"));
        self.updates.running.fetch_add(1, Ordering::Relaxed);
        let ended = self.shutdown.unless_requested(run).await.unwrap_or_else(stopped);
        self.updates.running.fetch_sub(1, Ordering::Relaxed);
        let outcome = match &ended {
            Ok(report) if report.activated.is_empty() => Outcome::Current,
            Ok(report) => Outcome::Updated(report.activated.iter().map(|(name, _)| name.clone()).collect()),
            Err(error) => {
                Outcome::Failed { code: error.reason.as_str().to_owned(), reason: error.to_string() }
            }
        };
        let run = LastRun {
            began_ms: began.as_millis(),
            ended_ms: self.clock.wall().as_millis(),
            source: name,
            outcome,
        };
        // A run that did not begin, since another has the folder, is none.
        if !matches!(&ended, Err(error) if error.reason == Reason::Busy)
            && let Err(error) = self.updates.folder.note_run(&run)
        {
            warn!(%error, "how the update ended could not be noted");
        }
        (run, ended)
    }
}

/// One run of a running server: logged, and an alert when it fails.
pub(crate) async fn sync(
    uplink: &Uplink,
    told: &mut (dyn FnMut(Progress) + Send),
) -> (LastRun, Result<Report, UpdateError>) {
    let (run, ended) = Surroundings::of(uplink).sync(told).await;
    match &ended {
        Ok(report) => {
            for (name, release) in &report.activated {
                let (version, source) = (&release.version, &run.source);
                info!(component = %name, %version, source, "an update is in force");
            }
            uplink.server.updates.new.notify_one();
        }
        Err(error) if matches!(error.reason, Reason::Busy | Reason::Stopped | Reason::NoSource) => {}
        Err(error) => {
            warn!(source = run.source, code = error.reason.as_str(), %error, "an update failed");
            let alarm = Alarm {
                kind: AlertKind::UpdateFailed,
                code: error.reason.as_str(),
                agent: SERVER,
                count: 1,
                detail: error.to_string(),
            };
            if let Err(error) = uplink.server.store.raise(alarm, None, uplink.server.clock.wall()).await {
                warn!(%error, "the alert could not be raised");
            }
        }
    }
    (run, ended)
}

/// A PEM file of authorities, DER.
fn authorities(content: &[u8]) -> Result<Vec<Vec<u8>>, UpdateError> {
    let bad = |why: String| {
        UpdateError::new(Reason::NoSource, format!("the authority of the web server cannot be used: {why}"))
    };
    let read = pem::certificates(content).map_err(|error| bad(error.to_string()))?;
    writ_common::tls::check_authorities(&read).map_err(bad)?;
    Ok(read)
}

fn read(path: &Path) -> Result<Vec<u8>, UpdateError> {
    files::read(path).map_err(|error| UpdateError::new(Reason::NoSource, error.to_string()))
}
