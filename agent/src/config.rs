//! `agent.toml`: an invalid [`Config`] cannot exist.

use std::path::{Path, PathBuf};
use std::time::Duration;

use writ_common::config::{Problems, Reader};
use writ_common::telemetry::LogFormat;

/// What is read unless told otherwise.
const USUAL_FILE: &str = "/etc/writ/agent.toml";
/// Where the agent keeps its state unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/writ/agent";
/// Where actions are allowed unless told otherwise.
pub const DEFAULT_ACTIONS_DIR: &str = "/etc/writ/actions.d";

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// State and keys.
    pub data_dir: PathBuf,
    /// The allow-list.
    pub actions_dir: PathBuf,
    /// Actions that run at the same time; more wait.
    pub max_running: usize,
    /// Commands remembered at the same time; more are refused.
    pub max_entries: u64,
    /// The longest wait between two attempts to connect.
    pub max_backoff: Duration,
    /// How often the trust bundle's own endpoints are asked for a successor, whatever settings say.
    pub rendezvous_every: Duration,
    /// The least time between two reports of refusals of one code.
    pub refusals_interval: Duration,
    /// What is logged.
    pub log_filter: String,
    /// How.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, Problems> {
        let mut reader = Reader::load(file, USUAL_FILE)?;
        reader.override_path("data_dir", data_dir);
        let second = Duration::from_secs(1);
        let config = Self {
            data_dir: reader.path("data_dir", Path::new(DEFAULT_DATA_DIR)),
            actions_dir: reader.path("actions.dir", Path::new(DEFAULT_ACTIONS_DIR)),
            max_running: usize::try_from(reader.number("actions.max_running", 8, 1..=256)).unwrap_or(8),
            max_entries: reader.number("journal.max_entries", 100_000, 16..=10_000_000),
            max_backoff: reader.duration("link.max_backoff", second * 300, second / 10..=second * 3600),
            rendezvous_every: reader.duration(
                "link.rendezvous_every",
                second * 86_400,
                second..=second * 86_400,
            ),
            refusals_interval: reader.duration("refusals.interval", second * 3600, second..=second * 86_400),
            log_filter: reader.string(
                "log.filter",
                "info",
                "a tracing filter such as `info,writ_agent=debug`",
                |_| true,
            ),
            log_format: reader.choice(
                "log.format",
                LogFormat::Text,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
        };
        reader.finish(config)
    }
}
