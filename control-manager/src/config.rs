//! `control-manager.toml`: an invalid [`Config`] cannot exist.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use writ_common::admin::audit::AuditSettings;
use writ_common::config::{Problems, Reader};
use writ_common::telemetry::{self, LogFormat};
use writ_protocol::command::Remedy;
use writ_protocol::manager::ManagerVersion;
use writ_updates::Pace;

use crate::mirror::Upstream;
use crate::sandbox::SandboxSettings;

/// What is read unless told otherwise.
const USUAL_FILE: &str = "/etc/writ/control-manager.toml";
/// Where the manager keeps its state unless told otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/writ/control-manager";
/// What is announced unless told otherwise.
const ANNOUNCED: &str = "7.0";

/// Everything that can be set.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// State, keys and the database.
    pub data_dir: PathBuf,
    /// Where entities come in.
    pub listen_link: SocketAddr,
    /// The same without TLS, for a web server on the same host; `None`: not at all.
    pub listen_link_in_clear: Option<SocketAddr>,
    /// Where operators come in.
    pub listen_admin: SocketAddr,
    /// Where metrics are read; no secret is among them, but they are nobody else's business.
    pub listen_metrics: SocketAddr,
    /// The version entities hear of.
    pub version: ManagerVersion,
    /// Whether a sandbox feeds this manager threats.
    pub is_sandbox_connected: bool,
    /// The sandbox that is asked, if one is.
    pub sandbox: Option<SandboxSettings>,
    /// The repository that is mirrored, if one is.
    pub upstream: Option<Upstream>,
    /// How much the audit logs keep.
    pub audit: AuditSettings,
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
    pub(crate) fn load(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Self, Problems> {
        let mut reader = Reader::load(file, USUAL_FILE)?;
        reader.override_path("data_dir", data_dir);
        let version = |text: &str| text.parse::<ManagerVersion>();
        let announced =
            reader.string("announce.version", ANNOUNCED, "a version such as `7.0` or `6.0 SP1`", |text| {
                version(text).is_ok()
            });
        let in_clear = reader.string(
            "listen.link_in_clear",
            "",
            "an address and a port, such as `127.0.0.1:7546`, or nothing",
            |text| text.is_empty() || text.parse::<SocketAddr>().is_ok(),
        );
        let is_announced =
            reader.choice("announce.sandbox_connected", false, &[("true", true), ("false", false)]);
        let sandbox = sandbox(&mut reader);
        let config = Self {
            data_dir: reader.path("data_dir", Path::new(DEFAULT_DATA_DIR)),
            listen_link: reader.socket("listen.link", SocketAddr::from(([0; 16], 7543))),
            listen_link_in_clear: in_clear.parse().ok(),
            listen_admin: reader.socket("listen.admin", SocketAddr::from(([0; 16], 7544))),
            listen_metrics: reader.socket("listen.metrics", SocketAddr::from(([127, 0, 0, 1], 9465))),
            version: version(&announced).unwrap_or(ManagerVersion { major: 7, minor: 0, service_pack: 0 }),
            is_sandbox_connected: is_announced || sandbox.is_some(),
            sandbox,
            upstream: upstream(&mut reader),
            audit: AuditSettings::read(&mut reader),
            log_filter: reader.string(
                "log.filter",
                "info",
                "levels, such as `info,writ_control_manager=debug`",
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

fn sandbox(reader: &mut Reader) -> Option<SandboxSettings> {
    let rule = "the address of a TAXII 2.1 collection: `https://HOST/API-ROOT/collections/ID/`";
    // Nothing of it is signed: whoever is on the way could name what the fleet blocks.
    let collection =
        reader.string("sandbox.collection", "", rule, |text| text.is_empty() || text.starts_with("https://"));
    let user = reader.string("sandbox.user", "", "a name without a colon", |text| !text.contains(':'));
    let password = reader.string("sandbox.password_file", "", "the path of a file", |_| true);
    let ca = reader.string("sandbox.ca", "", "the path of a certificate (PEM)", |_| true);
    let second = Duration::from_secs(1);
    let every = reader.duration("sandbox.every", second * 300, second * 10..=second * 86_400);
    let remedies = [("log", Remedy::Log), ("block", Remedy::Block), ("quarantine", Remedy::Quarantine)];
    let files = reader.choice("sandbox.files", Remedy::Log, &remedies);
    let others = reader.choice("sandbox.others", Remedy::Log, &remedies[..2]);
    let confidence = reader.integer("sandbox.confidence", 0, 0..=100);
    if user.is_empty() != password.is_empty() {
        let text = "must be given beside sandbox.password_file, or neither of them".to_owned();
        reader.problem("sandbox.user", text);
    }
    if collection.is_empty() {
        if !(user.is_empty() && ca.is_empty()) {
            let text = format!("is missing beside sandbox.user or sandbox.ca; it must be {rule}");
            reader.problem("sandbox.collection", text);
        }
        return None;
    }
    let ca = (!ca.is_empty()).then(|| PathBuf::from(ca));
    let (password, confidence) = (PathBuf::from(password), u8::try_from(confidence).unwrap_or(100));
    Some(SandboxSettings { collection, user, password, ca, every, files, others, confidence })
}

fn upstream(reader: &mut Reader) -> Option<Upstream> {
    let rule = "the address of a repository: `https://HOST/PATH/`, `http://HOST/PATH/` or `file:///FOLDER/`";
    let schemes = ["https://", "http://", "file:///"];
    let is_address = |text: &str| schemes.iter().any(|scheme| text.starts_with(scheme));
    let url = reader.string("updates.upstream", "", rule, |text| text.is_empty() || is_address(text));
    let root = reader.string("updates.root", "", "the path of the repository's root, JSON", |_| true);
    let ca = reader.string("updates.ca", "", "the path of a certificate (PEM)", |_| true);
    let second = Duration::from_secs(1);
    let every = reader.duration("updates.every", second * 3600, second * 10..=second * 86_400 * 30);
    let window = reader.duration("updates.patience", second * 30, second..=second * 600);
    if url.is_empty() {
        if !(root.is_empty() && ca.is_empty()) {
            let text = format!("is missing beside updates.root or updates.ca; it must be {rule}");
            reader.problem("updates.upstream", text);
        }
        return None;
    }
    if root.is_empty() {
        let text = "is missing; it must be the path of the repository's root (JSON): without one nothing can be trusted";
        reader.problem("updates.root", text.to_owned());
    }
    let ca = (!ca.is_empty()).then(|| PathBuf::from(ca));
    let pace = Pace { window, ..Pace::default() };
    Some(Upstream { url, root: PathBuf::from(root), ca, every, pace })
}
