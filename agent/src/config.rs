//! `agent.toml`: an invalid [`Config`] cannot exist.

use std::path::{Path, PathBuf};
use std::time::Duration;

use writ_common::config::{Problems, Reader};
use writ_common::files::secret_line;
use writ_common::net::{Login, Protocol, Proxy};
use writ_common::telemetry::{self, LogFormat};
use writ_protocol::command::{OWN_ACTIONS, is_deniable};
use writ_protocol::place::Place;

/// What is read unless told otherwise.
const USUAL_FILE: &str = "/etc/writ/agent.toml";
/// Where the agent keeps its state unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/writ/agent";
/// Where actions are allowed unless told otherwise.
pub(crate) const DEFAULT_ACTIONS_DIR: &str = "/etc/writ/actions.d";

/// Everything that can be set.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// State and keys.
    pub data_dir: PathBuf,
    /// The allow-list.
    pub actions_dir: PathBuf,
    /// The agent's own actions that this host refuses all the same.
    pub denied_actions: Vec<String>,
    /// Actions that run at the same time; more wait.
    pub max_running: usize,
    /// Commands remembered at the same time; more are refused.
    pub max_entries: u64,
    /// The proxy on the way to every server.
    pub proxy: Option<Proxy>,
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

/// The rule for `actions.deny`.
fn deniable() -> String {
    let names = OWN_ACTIONS.iter().filter(|(name, _)| is_deniable(name));
    names.map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

impl Config {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// All mistakes at once.
    pub(crate) fn load(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, Problems> {
        let mut reader = Reader::load(file, USUAL_FILE)?;
        reader.override_path("data_dir", data_dir);
        let second = Duration::from_secs(1);
        let config = Self {
            data_dir: reader.path("data_dir", Path::new(DEFAULT_DATA_DIR)),
            actions_dir: reader.path("actions.dir", Path::new(DEFAULT_ACTIONS_DIR)),
            denied_actions: reader.strings("actions.deny", &deniable(), is_deniable),
            max_running: usize::try_from(reader.number("actions.max_running", 8, 1..=256)).unwrap_or(8),
            max_entries: reader.number("journal.max_entries", 100_000, 16..=10_000_000),
            proxy: proxy(&mut reader),
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
                "levels, such as `info,writ_agent=debug`",
                telemetry::is_filter,
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

/// `http://HOST:PORT` or `socks5://HOST:PORT`. Variables such as `HTTPS_PROXY` and `NO_PROXY` are not looked
/// at: which way an agent goes is decided by one file.
fn proxy(reader: &mut Reader) -> Option<Proxy> {
    let read = |url: &str| {
        let (scheme, place) = url.strip_suffix('/').unwrap_or(url).split_once("://")?;
        let protocol = match scheme {
            "http" => Protocol::HttpConnect,
            "socks5" => Protocol::Socks5,
            _ => return None,
        };
        Some((protocol, Place::to_call(place).ok()?))
    };
    let rule = "`http://HOST:PORT`, for HTTP CONNECT, or `socks5://HOST:PORT`; user and password are keys of their own";
    let url = reader.string("proxy.url", "", rule, |url| url.is_empty() || read(url).is_some());
    let user = reader.string("proxy.user", "", "1 to 255 characters", |user| user.len() <= 255);
    let file = reader.string("proxy.password_file", "", "an absolute path", |_| true);
    let Some((protocol, place)) = read(&url) else {
        if url.is_empty() && !(user.is_empty() && file.is_empty()) {
            reader.problem("proxy.url", "is missing; without it there is no proxy to log in to".to_owned());
        }
        return None;
    };
    if user.is_empty() != file.is_empty() {
        reader.problem("proxy", "has one of `user` and `password_file`; set both, or none".to_owned());
        return None;
    }
    let login = if user.is_empty() {
        None
    } else if !Path::new(&file).is_absolute() {
        reader.problem("proxy.password_file", format!("is `{file}`; it must be an absolute path"));
        return None;
    } else {
        match secret_line(Path::new(&file)) {
            Ok(password) => Some(Login { user, password }),
            Err(error) => {
                reader.problem("proxy.password_file", format!("cannot be used: {error}"));
                return None;
            }
        }
    };
    Some(Proxy { protocol, place, login })
}
