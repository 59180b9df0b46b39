//! What this server fetches: lists and other components, from the source that was chosen.
//!
//! [`settings`] is what an operator chose, [`source`] where that leads at a moment, [`by_manager`] the way
//! by the Control Manager, [`schedule`] when it happens by itself. The run is [`writ_updates::update`].

mod by_manager;
pub(crate) mod distribute;
pub(crate) mod pieces;
pub(crate) mod schedule;
pub(crate) mod settings;
pub(crate) mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, Semaphore};
use tracing::{info, warn};
use writ_common::files;
use writ_common::keys::pem;
use writ_common::shutdown::Shutdown;
use writ_common::time::SharedClock;
use writ_updates::{Folder, LastRun, Outcome, Pace, Progress, Reason, Report, UpdateError};

use crate::authority::Files;
use crate::cm_bridge::{Bridge, Uplink};
use crate::config::Config;
use crate::reputation::Lists;
use crate::store::{Alarm, AlertKind, SERVER};
use pieces::Pieces;

/// How often a run looks whether its source is still the one that is chosen.
const LOOK_AT_SOURCE: Duration = Duration::from_secs(2);
/// How often in a row it cannot be known before the run ends.
const MOST_FAULTS: u32 = 5;

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
    /// Look which suspicious objects act.
    pub objects: Notify,
    /// What agents can fetch.
    pub pieces: Arc<Pieces>,
    /// What agents can ask about.
    pub lists: Arc<Lists>,
    /// What agents are told to hold.
    pub for_agents: Vec<&'static str>,
    /// Runs of this process that are under way; all but one only find that it is.
    running: AtomicUsize,
    /// Calls for a run: one that runs, and one that waits.
    pub asked: Arc<Semaphore>,
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
            objects: Notify::new(),
            pieces: Arc::new(Pieces::new(config.piece_pace)),
            lists: Arc::new(Lists::new(config.reputation_counts_for)),
            for_agents: config.for_agents.clone(),
            running: AtomicUsize::new(0),
            asked: Arc::new(Semaphore::new(2)),
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
    pub bridge: &'a Bridge,
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
            bridge,
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
        let began_ms = self.clock.wall().as_millis();
        // Before anything is noted: another program may be at it.
        let alone = match self.updates.folder.lock() {
            Ok(alone) => alone,
            Err(error) => {
                let (source, source_digest) = Default::default();
                let ended_ms = self.clock.wall().as_millis();
                let outcome = failed(&error);
                return (LastRun { began_ms, ended_ms, source, source_digest, outcome }, Err(error));
            }
        };
        let resolved = source::resolve(self);
        let (source, source_digest) = match &resolved {
            Ok(resolved) => (resolved.name.clone(), resolved.digest()),
            Err(_) => Default::default(),
        };
        let outcome = Outcome::UnderWay;
        let mut run = LastRun { began_ms, ended_ms: 0, source, source_digest, outcome };
        // Before it begins: one that takes the program with it must not begin again at once.
        if resolved.is_ok() {
            self.note(&run);
        }
        let changed = self.source_changes(run.source_digest.clone());
        let work = async { Box::pin(source::fetch(self, &alone, resolved?, told)).await };
        let work = async {
            tokio::select! {
                ended = work => ended,
                () = changed => Err(stopped("the source was changed meanwhile; what was in force stays")),
            }
        };
        self.updates.running.fetch_add(1, Ordering::Relaxed);
        let ended = self.shutdown.unless_requested(work).await;
        self.updates.running.fetch_sub(1, Ordering::Relaxed);
        let ended =
            ended.unwrap_or_else(|| Err(stopped("the program was asked to end; what was in force stays")));
        run.ended_ms = self.clock.wall().as_millis();
        run.outcome = match &ended {
            Ok(report) if report.activated.is_empty() => Outcome::Current,
            Ok(report) => Outcome::Updated(report.activated.iter().map(|(name, _)| name.clone()).collect()),
            Err(error) if error.reason == Reason::Stopped => {
                self.updates.folder.forget_incoming(&alone);
                Outcome::Stopped
            }
            Err(error) => failed(error),
        };
        self.note(&run);
        (run, ended)
    }

    fn note(&self, run: &LastRun) {
        if let Err(error) = self.updates.folder.note_run(run) {
            warn!(%error, "how the update stands could not be noted");
        }
    }

    /// Returns when another source than this was chosen: by a call, by a command on this host, or because the
    /// registration with the manager ended.
    async fn source_changes(&self, digest: String) {
        let mut faults = 0;
        while faults < MOST_FAULTS {
            tokio::time::sleep(LOOK_AT_SOURCE).await;
            match source::resolve(self) {
                Ok(resolved) if resolved.digest() == digest => faults = 0,
                Ok(_) => return,
                // Perhaps a file is being replaced.
                Err(_) => faults += 1,
            }
        }
    }

    /// Notes that a run was killed, if the last one was: nobody is at it, and it did not end.
    pub(crate) fn note_killed(&self) -> Option<UpdateError> {
        let _alone = self.updates.folder.lock().ok()?;
        let run = self.updates.folder.last_run().ok().flatten()?;
        if run.outcome != Outcome::UnderWay {
            return None;
        }
        let error = UpdateError::new(Reason::Killed, "the program ended while an update was under way");
        self.note(&LastRun { ended_ms: self.clock.wall().as_millis(), outcome: failed(&error), ..run });
        Some(error)
    }
}

fn failed(error: &UpdateError) -> Outcome {
    Outcome::Failed { code: error.reason.as_str().to_owned(), reason: error.to_string() }
}

fn stopped(text: &str) -> UpdateError {
    UpdateError::new(Reason::Stopped, text)
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
                let (version, source, sha256) = (&release.version, &run.source, release.sha256);
                info!(target: "audit", { component = %name, %version, %sha256, source }, "an update is in force");
            }
            uplink.server.updates.new.notify_one();
            let now = uplink.server.clock.wall();
            if let Err(error) = uplink.server.store.end_alert(AlertKind::UpdateFailed, SERVER, now).await {
                warn!(%error, "that updates succeed again could not be noted");
            }
        }
        Err(error) if matches!(error.reason, Reason::Busy | Reason::Stopped) => {}
        Err(error) => has_failed(uplink, &run.source, error).await,
    }
    (run, ended)
}

async fn has_failed(uplink: &Uplink, source: &str, error: &UpdateError) {
    let alarm = Alarm {
        kind: AlertKind::UpdateFailed,
        code: error.reason.as_str(),
        agent: SERVER,
        count: 1,
        detail: error.to_string(),
    };
    // First the alert: who reads the log finds it.
    if let Err(error) = uplink.server.store.raise(alarm, None, uplink.server.clock.wall()).await {
        warn!(%error, "the alert could not be raised");
    }
    warn!(source, code = error.reason.as_str(), %error, "an update failed");
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
