//! Settings that came by a signed command: tried before they are kept, and never older than those held.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::watch;
use tracing::warn;
use writ_common::files::{self, FileError};
use writ_common::telemetry;
use writ_proto::v1 as proto;
use writ_protocol::command::Settings;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds no settings.
    #[error("{}: damaged; remove it, and the agent runs as installed until settings are sent again", .0.display())]
    Damaged(PathBuf),
}

/// The settings held. Nothing held is revision 0: everything as installed.
#[derive(Debug)]
pub struct SettingsStore {
    path: PathBuf,
    configured_filter: String,
    held: watch::Sender<Option<Settings>>,
    /// Silence after which the present server ends a session.
    deadline: Mutex<Duration>,
    /// One at a time is tried: an older revision must not be kept after a newer one.
    trying: tokio::sync::Mutex<()>,
}

impl SettingsStore {
    /// Everything as installed, whatever was kept.
    #[must_use]
    pub fn nothing(path: &Path, configured_filter: &str) -> Self {
        Self {
            path: path.to_owned(),
            configured_filter: configured_filter.to_owned(),
            held: watch::Sender::new(None),
            deadline: Mutex::new(Duration::MAX),
            trying: tokio::sync::Mutex::default(),
        }
    }

    /// Reads what was kept, and lets it act on the log.
    ///
    /// # Errors
    /// When there is something that cannot be read.
    pub fn load(path: &Path, configured_filter: &str) -> Result<Self, SettingsError> {
        let store = Self::nothing(path, configured_filter);
        store.held.send_replace(read(path)?);
        let filter = store.held.borrow().as_ref().and_then(|settings| settings.log_filter.clone());
        if let Some(filter) = filter
            && let Err(error) = telemetry::set_filter(&filter)
        {
            warn!(%error, "the log filter of the settings is not one");
        }
        Ok(store)
    }

    /// The revision held; 0 for none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.held.borrow().as_ref().map_or(0, |settings| settings.revision)
    }

    /// How often to say something, if the settings say so; never so seldom that the server would end the
    /// session.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        self.held.borrow().as_ref()?.heartbeat.map(|every| every.min(deadline / 2))
    }

    /// Endpoints to try, those of the settings first; the trust bundle's are always among them.
    #[must_use]
    pub fn endpoints(&self, bundle: &[String]) -> Vec<String> {
        endpoints(self.held.borrow().as_ref(), bundle)
    }

    /// Hears of changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Settings>> {
        self.held.subscribe()
    }

    /// A session began with a server that ends it after so much silence.
    pub fn session_began(&self, deadline: Duration) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    /// Whether settings may be applied at all: check 11 for them.
    ///
    /// # Errors
    /// As [`check`].
    pub fn check(&self, settings: &Settings, issued_at: Timestamp) -> Result<(), Refusal> {
        check(self.held.borrow().as_ref(), settings, issued_at)
    }

    fn keep(&self, settings: Settings) -> Result<(), FileError> {
        files::write_public(&self.path, &proto::ApplySettings::from(&settings).encode_to_vec())?;
        self.held.send_replace(Some(settings));
        Ok(())
    }
}

/// Endpoints to try, those of the settings first; the trust bundle's are always among them.
#[must_use]
pub(crate) fn endpoints(held: Option<&Settings>, bundle: &[String]) -> Vec<String> {
    let mut endpoints = held.map_or_else(Vec::new, |settings| settings.endpoints.clone());
    for endpoint in bundle {
        if !endpoints.contains(endpoint) {
            endpoints.push(endpoint.clone());
        }
    }
    endpoints
}

/// What a file of settings holds; `None` when there is none.
///
/// # Errors
/// When there is something that cannot be read.
pub(crate) fn read(path: &Path) -> Result<Option<Settings>, SettingsError> {
    let text = match files::read(path) {
        Err(error) if error.is_missing() => return Ok(None),
        read => read?,
    };
    let message = proto::ApplySettings::decode(text.as_slice()).ok();
    let settings = message.and_then(|message| Settings::try_from(message).ok());
    settings.map(Some).ok_or_else(|| SettingsError::Damaged(path.to_owned()))
}

/// Whether settings of a command may follow those held. A revision from the future would outlive the key that
/// signed it: nothing sent later would be newer.
///
/// # Errors
/// `invalid_parameters` for a revision that is not newer, or later than its command; the very same settings
/// once more are not refused.
pub(crate) fn check(
    held: Option<&Settings>,
    settings: &Settings,
    issued_at: Timestamp,
) -> Result<(), Refusal> {
    if settings.revision > issued_at.as_millis() {
        let detail =
            format!("settings revision {} is later than its command, {issued_at}", settings.revision);
        return Err(Refusal::new(RefusalCode::InvalidParameters, detail));
    }
    follows(held, settings)
}

fn follows(held: Option<&Settings>, settings: &Settings) -> Result<(), Refusal> {
    match held {
        Some(held) if held.revision >= settings.revision && held != settings => {
            let detail =
                format!("settings revision {} is not newer than {}", settings.revision, held.revision);
            Err(Refusal::new(RefusalCode::InvalidParameters, detail))
        }
        _ => Ok(()),
    }
}

/// Settings that may follow those held, while they are tried. One at a time: an older revision must not be
/// kept after a newer one.
#[derive(Debug)]
pub(crate) struct Trial<'s> {
    store: &'s SettingsStore,
    settings: &'s Settings,
    _alone: tokio::sync::MutexGuard<'s, ()>,
}

impl SettingsStore {
    /// Begins to try settings; the caller tries their endpoints.
    ///
    /// # Errors
    /// Why they cannot be kept.
    pub(crate) async fn begin<'s>(&'s self, settings: &'s Settings) -> Result<Trial<'s>, String> {
        let alone = self.trying.lock().await;
        follows(self.held.borrow().as_ref(), settings).map_err(|refusal| refusal.detail.to_string())?;
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(every) = settings.heartbeat.filter(|every| *every > deadline / 2) {
            return Err(format!(
                "a heartbeat every {every:?} is too seldom: the server ends sessions after {deadline:?} of silence"
            ));
        }
        Ok(Trial { store: self, settings, _alone: alone })
    }
}

impl Trial<'_> {
    /// Keeps them: they are in force.
    ///
    /// # Errors
    /// Why those of before still are.
    pub(crate) fn keep(self) -> Result<(), String> {
        let Trial { store, settings, .. } = self;
        let filter = settings.log_filter.as_ref().unwrap_or(&store.configured_filter);
        telemetry::set_filter(filter).map_err(|error| format!("`{filter}` is not a log filter: {error}"))?;
        if let Err(error) = store.keep(settings.clone()) {
            let held = store.held.borrow().as_ref().and_then(|settings| settings.log_filter.clone());
            let _ = telemetry::set_filter(held.as_ref().unwrap_or(&store.configured_filter));
            return Err(error.to_string());
        }
        Ok(())
    }
}
