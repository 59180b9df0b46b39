//! `server.toml`: an invalid [`Config`] cannot exist.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use writ_common::config::{Problems, Reader};
use writ_common::id::Digest;
use writ_common::telemetry::LogFormat;

/// What is read unless told otherwise.
const USUAL_FILE: &str = "/etc/writ/server.toml";
/// Where the server keeps its state unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/writ/server";

/// A hello names at most 16 leaves: these, ours, and three we showed before.
const MAX_PROXY_LEAVES: usize = 12;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// State, keys and the database.
    pub data_dir: PathBuf,
    /// Where agents come in.
    pub listen_agents: SocketAddr,
    /// Where operators come in.
    pub listen_admin: SocketAddr,
    /// Where metrics are read; no secret is among them, but they are nobody else's business.
    pub listen_metrics: SocketAddr,
    /// Where the Control Manager calls in two-way mode; nobody listens there otherwise.
    pub listen_notify: SocketAddr,
    /// Sessions.
    pub session: SessionSettings,
    /// SHA-256 of the SubjectPublicKeyInfo of the leaves of TLS-terminating proxies in front of the server.
    pub proxy_leaves: Vec<Digest>,
    /// Entries the audit log keeps.
    pub audit_max_entries: u64,
    /// What is logged.
    pub log_filter: String,
    /// How.
    pub log_format: LogFormat,
}

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// How often an agent says something.
    pub heartbeat: Duration,
    /// Silence longer than this ends a session.
    pub heartbeat_deadline: Duration,
    /// Commands that wait for one connected agent in memory; more wait in the store.
    pub outbox: usize,
}

impl Config {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, Problems> {
        let mut reader = Reader::load(file, USUAL_FILE)?;
        reader.override_with("data_dir", data_dir.map(Path::display));
        let second = Duration::from_secs(1);
        let heartbeat = reader.duration("session.heartbeat", second * 30, second..=second * 3600);
        let config = Self {
            data_dir: reader.path("data_dir", Path::new(DEFAULT_DATA_DIR)),
            listen_agents: reader.socket("listen.agents", SocketAddr::from(([0; 16], 7443))),
            listen_admin: reader.socket("listen.admin", SocketAddr::from(([0; 16], 7444))),
            listen_metrics: reader.socket("listen.metrics", SocketAddr::from(([127, 0, 0, 1], 9464))),
            listen_notify: reader.socket("listen.notify", SocketAddr::from(([0; 16], 7545))),
            session: SessionSettings {
                heartbeat,
                heartbeat_deadline: reader.duration(
                    "session.deadline",
                    heartbeat * 3,
                    heartbeat * 2..=second * 86_400,
                ),
                outbox: usize::try_from(reader.number("session.outbox", 256, 1..=65_536)).unwrap_or(256),
            },
            proxy_leaves: reader
                .strings("tls.proxy_leaves", "64 hex digits, the SHA-256 of a SubjectPublicKeyInfo", |text| {
                    text.parse::<Digest>().is_ok()
                })
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            audit_max_entries: reader.number("audit.max_entries", 1_000_000, 1000..=1_000_000_000),
            log_filter: reader.string(
                "log.filter",
                "info",
                "a tracing filter such as `info,writ_server=debug`",
                |_| true,
            ),
            log_format: reader.choice(
                "log.format",
                LogFormat::Text,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
        };
        if config.proxy_leaves.len() > MAX_PROXY_LEAVES {
            reader.problem(
                "tls.proxy_leaves",
                format!(
                    "holds more than {MAX_PROXY_LEAVES}; a hello names at most 16 leaves, four of them ours"
                ),
            );
        }
        reader.finish(config)
    }
}
