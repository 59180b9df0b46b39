//! `server.toml`: an invalid [`Config`] cannot exist.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use lettre::Address;
use url::{Host, Url};
use writ_common::admin::audit::AuditSettings;
use writ_common::config::{Problems, Reader};
use writ_common::telemetry::{self, LogFormat};
use writ_protocol::component::OF_AGENTS;
use writ_protocol::id::Digest;
use writ_protocol::limits::{MAX_PIECE_BYTES, MAX_REPUTATION_LIFETIME};
use writ_protocol::place::Place;

use crate::notices::{MailSettings, WebhookSettings};
use crate::updates::Configured;
use crate::updates::settings::check_url;

/// What is read unless told otherwise.
const USUAL_FILE: &str = "/etc/writ/server.toml";
/// Where the server keeps its state unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/writ/server";

/// A hello names at most 16 leaves: these, ours, and three we showed before.
const MAX_PROXY_LEAVES: usize = 12;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub(crate) struct Config {
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
    /// Where alerts are told.
    pub webhook: Option<WebhookSettings>,
    /// By which mail server people are told of alerts, if by any.
    pub mail: Option<MailSettings>,
    /// How many commands run at a time in the whole fleet; `None`: as many as there are.
    pub running: Option<usize>,
    /// Commands that have not expired, of one token with a scope.
    pub scoped_commands: usize,
    /// SHA-256 of the SubjectPublicKeyInfo of the leaves of TLS-terminating proxies in front of the server.
    pub proxy_leaves: Vec<Digest>,
    /// How much the audit logs keep.
    pub audit: AuditSettings,
    /// Where traces go, if anywhere.
    pub traces: Option<TraceSettings>,
    /// The update server, if there is one.
    pub updates: Option<Configured>,
    /// Components that agents are told to hold, by themselves.
    pub for_agents: Vec<&'static str>,
    /// From one piece of a component to the next, of whichever agents.
    pub piece_pace: Duration,
    /// How long agents go by what a list said about a value.
    pub reputation_counts_for: Duration,
    /// In so much time at least 16 KiB of an update must come.
    pub update_patience: Duration,
    /// What is logged.
    pub log_filter: String,
    /// How.
    pub log_format: LogFormat,
}

/// A collector of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceSettings {
    /// `http://` on this machine, or `https://`.
    pub endpoint: String,
    /// Who vouches for it, PEM; there with `https://`.
    pub ca: Option<PathBuf>,
    /// One command in so many is traced.
    pub one_in: u64,
}

/// What a session needs to know.
#[derive(Debug, Clone)]
pub(crate) struct SessionSettings {
    /// How often an agent says something.
    pub heartbeat: Duration,
    /// Silence longer than this ends a session.
    pub heartbeat_deadline: Duration,
    /// A session older than this ends, and the agent proves itself anew.
    pub max_age: Duration,
    /// Commands that wait for one connected agent in memory; more wait in the store.
    pub outbox: usize,
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
                max_age: reader.duration("session.max_age", second * 86_400, second..=second * 86_400 * 30),
                outbox: usize::try_from(reader.number("session.outbox", 256, 1..=65_536)).unwrap_or(256),
            },
            webhook: webhook(&mut reader),
            mail: mail(&mut reader),
            running: match reader.number("limits.running", 0, 0..=1_000_000) {
                0 => None,
                most => usize::try_from(most).ok(),
            },
            scoped_commands: usize::try_from(reader.number("limits.scoped_commands", 10_000, 1..=1_000_000))
                .unwrap_or(10_000),
            proxy_leaves: reader
                .strings("tls.proxy_leaves", "64 hex digits, the SHA-256 of a SubjectPublicKeyInfo", |text| {
                    text.parse::<Digest>().is_ok()
                })
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            traces: traces(&mut reader),
            updates: updates(&mut reader),
            for_agents: for_agents(&mut reader),
            piece_pace: piece_pace(&mut reader),
            reputation_counts_for: reader.duration(
                "reputation.counts_for",
                second * 3600,
                second..=MAX_REPUTATION_LIFETIME,
            ),
            update_patience: reader.duration("updates.patience", second * 30, second..=second * 600),
            audit: AuditSettings::read(&mut reader),
            log_filter: reader.string(
                "log.filter",
                "info",
                "levels, such as `info,writ_server=debug`",
                telemetry::is_filter,
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

fn webhook(reader: &mut Reader) -> Option<WebhookSettings> {
    let rule =
        "where alerts are posted: `https://HOST/PATH`, or `http://127.0.0.1:PORT/PATH` on this machine";
    let url = reader.string("alerts.webhook.url", "", rule, |_| true);
    if !url.is_empty() && hook(&url).is_none() {
        reader.problem("alerts.webhook.url", format!("is `{}`; it must be {rule}", without_secret(&url)));
    }
    let mut path = |key: &str, what: &str| {
        let path = reader.string(key, "", what, |_| true);
        (!path.is_empty()).then(|| PathBuf::from(path))
    };
    let ca = path("alerts.webhook.ca", "the path of a certificate (PEM)");
    let token_file = path("alerts.webhook.token_file", "the path of a file with a bearer token");
    if url.is_empty() && (ca.is_some() || token_file.is_some()) {
        reader.problem("alerts.webhook.url", format!("is missing; it must be {rule}"));
    }
    Some(WebhookSettings { url: hook(&url)?, ca, token_file })
}

fn mail(reader: &mut Reader) -> Option<MailSettings> {
    let mut text = |key: &str| {
        let text = reader.string(&format!("alerts.mail.{key}"), "", "text", |_| true);
        Some(text).filter(|text| !text.is_empty())
    };
    let [server, from, ca, user, password] = ["server", "from", "ca", "user", "password_file"].map(&mut text);
    let to = reader.strings("alerts.mail.to", AN_ADDRESS, |text| text.parse::<Address>().is_ok());
    let shortest = Duration::from_secs(1)..=Duration::from_secs(86_400);
    let every = reader.duration("alerts.mail.every", Duration::from_secs(60), shortest);
    if [&server, &from, &ca, &user, &password].into_iter().all(Option::is_none) && to.is_empty() {
        return None;
    }
    let place = |text: &str| text.parse::<Place>().ok().filter(|place| ![25, 587].contains(&place.port()));
    let server = read_or_told(reader, "alerts.mail.server", server, A_MAIL_SERVER, place);
    let from =
        read_or_told(reader, "alerts.mail.from", from, AN_ADDRESS, |text| text.parse::<Address>().ok());
    if to.is_empty() || to.len() > MAX_RECIPIENTS {
        reader.problem("alerts.mail.to", format!("must name 1 to {MAX_RECIPIENTS}, each {AN_ADDRESS}"));
    }
    let user = match (user, password) {
        (None, None) => None,
        (Some(user), Some(file)) => Some((user, PathBuf::from(file))),
        (None, Some(_)) => {
            reader.problem("alerts.mail.user", "is missing beside alerts.mail.password_file".to_owned());
            None
        }
        (Some(_), None) => {
            reader.problem("alerts.mail.password_file", "is missing beside alerts.mail.user".to_owned());
            None
        }
    };
    let to = to.iter().filter_map(|text| text.parse().ok()).collect();
    Some(MailSettings { server: server?, ca: ca.map(PathBuf::from), from: from?, to, user, every })
}

/// What a key must hold that has no default; without it, or with something else, that is told.
fn read_or_told<T>(
    reader: &mut Reader,
    key: &str,
    given: Option<String>,
    rule: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let Some(given) = given else {
        reader.problem(key, format!("is missing; it must be {rule}"));
        return None;
    };
    let found = read(&given);
    if found.is_none() {
        reader.problem(key, format!("is `{given}`; it must be {rule}"));
    }
    found
}

const AN_ADDRESS: &str = "an address such as writ@example.org";
const A_MAIL_SERVER: &str = "`HOST:PORT` of a mail server that speaks TLS from the first byte, 465 as a rule; 25 and 587 begin in clear text (STARTTLS), which is not spoken";
/// Addresses of one mail.
const MAX_RECIPIENTS: usize = 100;

/// An address as it may be shown: what stands before an `@` may be a password.
fn without_secret(url: &str) -> &str {
    url.rsplit('@').next().unwrap_or_default()
}

/// Where alerts are posted. In clear text to an address of this machine alone, and to no name: who is in
/// trouble is nobody's business on the network.
fn hook(text: &str) -> Option<Url> {
    let url = text.parse::<Url>().ok()?;
    let is_here = match url.host()? {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(_) => false,
    };
    let is_allowed = url.scheme() == "https" || (url.scheme() == "http" && is_here);
    let has_secret = !url.username().is_empty() || url.password().is_some();
    (is_allowed && !has_secret && url.fragment().is_none()).then_some(url)
}

fn updates(reader: &mut Reader) -> Option<Configured> {
    let rule = "the address of a repository: `https://HOST/PATH/`, `http://HOST/PATH/` or `file:///FOLDER/`";
    let url = reader.string("updates.url", "", rule, |text| text.is_empty() || check_url(text).is_ok());
    let root = reader.string("updates.root", "", "the path of the repository's root, JSON", |_| true);
    let ca = reader.string("updates.ca", "", "the path of a certificate (PEM)", |_| true);
    match (url.is_empty(), root.is_empty()) {
        (true, true) => {
            if !ca.is_empty() {
                reader.problem("updates.url", format!("is missing beside updates.ca; it must be {rule}"));
            }
            return None;
        }
        (false, true) => {
            let text = "is missing; it must be the path of the repository's root (JSON): without one nothing can be trusted";
            reader.problem("updates.root", text.to_owned());
        }
        (true, false) => {
            reader.problem("updates.url", format!("is missing beside updates.root; it must be {rule}"))
        }
        (false, false) => {}
    }
    let ca = (!ca.is_empty()).then(|| PathBuf::from(ca));
    Some(Configured { url, root: PathBuf::from(root), ca })
}

/// All that agents have a use for, unless told otherwise.
fn piece_pace(reader: &mut Reader) -> Duration {
    let mebibytes = reader.number("updates.agents_mib_per_second", 100, 1..=10_000);
    let pieces = (1 << 20) / u64::try_from(MAX_PIECE_BYTES).unwrap_or(1 << 20);
    Duration::from_micros(1_000_000 / (pieces * mebibytes))
}

fn for_agents(reader: &mut Reader) -> Vec<&'static str> {
    let all = OF_AGENTS.map(|(name, _)| name);
    let wanted = reader.choice("updates.for_agents", true, &[("true", true), ("false", false)]);
    if wanted { all.to_vec() } else { Vec::new() }
}

fn traces(reader: &mut Reader) -> Option<TraceSettings> {
    let rule = "a collector's address: `https://HOST:PORT`, or `http://127.0.0.1:PORT` on this machine";
    let endpoint =
        reader.string("traces.endpoint", "", rule, |text| text.is_empty() || is_tls(text).is_some());
    let ca = reader.string("traces.ca", "", "the path of a certificate (PEM)", |_| true);
    let one_in = reader.number("traces.one_in", 1, 1..=1_000_000);
    if endpoint.is_empty() && !ca.is_empty() {
        reader.problem("traces.endpoint", format!("is missing beside traces.ca; it must be {rule}"));
    }
    let is_tls = is_tls(&endpoint)?;
    if is_tls && ca.is_empty() {
        reader.problem(
            "traces.ca",
            "is missing; it must be who vouches for the collector, a file (PEM)".to_owned(),
        );
    }
    Some(TraceSettings { ca: is_tls.then(|| PathBuf::from(ca)), endpoint, one_in })
}

/// Whether a collector is spoken to over TLS; `None` when it is no address for one. Who does what is nobody's
/// business on the network, so that clear text goes to an address of this machine, and to no name.
fn is_tls(endpoint: &str) -> Option<bool> {
    let uri = endpoint.parse::<http::Uri>().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let is_here = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_address = uri.port().is_some()
        && !endpoint.contains('@')
        && matches!(uri.path_and_query().map(PathAndQuery::as_str), None | Some("/"));
    match uri.scheme_str() {
        Some("https") if is_address => Some(true),
        Some("http") if is_address && is_here => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_travel_in_clear_text_on_this_machine_only() {
        for good in ["https://ops.example/hook?team=a", "http://127.0.0.1:8080/", "http://[::1]:1/x"] {
            assert!(hook(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "http://localhost:1/",
            "http://ops.example/",
            "https://a:b@ops.example/",
            "ftp://ops.example/",
            "https://a/#b",
        ] {
            assert!(hook(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn traces_travel_in_clear_text_on_this_machine_only() {
        for good in ["http://127.0.0.1:4317", "http://[::1]:4317/", "HTTP://127.0.0.2:1"] {
            assert_eq!(is_tls(good), Some(false), "{good}");
        }
        for good in ["https://tempo.example:4317", "HTTPS://tempo.example:4317/", "https://[::1]:4317"] {
            assert_eq!(is_tls(good), Some(true), "{good}");
        }
        for bad in [
            "",
            "http://localhost:4317",
            "http://tempo.example:4317",
            "http://10.0.0.1:4317",
            "http://127.0.0.1",
            "https://tempo.example",
            "https://user:secret@tempo.example:4317",
            "https://a:1/v1/traces",
            "/traces",
            "ftp://127.0.0.1:1",
        ] {
            assert_eq!(is_tls(bad), None, "{bad}");
        }
    }
}
