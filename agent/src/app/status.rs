//! `writ-agent status`, and the small file a running agent leaves for it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::say;
use writ_common::service;
use writ_common::text::plain;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::users;
use writ_protocol::time::Timestamp;

use super::{Output, StatusOptions};
use crate::VERSION;
use crate::config::Config;
use crate::execute::ActionTable;
use crate::identity::{Files, Identity};
use crate::replay::{Journal, JournalError};
use crate::trust::Trust;

/// How the link stands, as the running agent last wrote it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LinkState {
    pid: u32,
    pub(crate) connected: bool,
    pub(crate) endpoint: String,
    pub(crate) reason: String,
    /// How a server turned this agent away since the last session; empty if none did.
    #[serde(default)]
    pub(crate) refused: String,
    /// When that was, Unix milliseconds.
    #[serde(default)]
    since_ms: u64,
    actions: Vec<String>,
    /// What the files of the actions held.
    #[serde(default)]
    actions_digest: String,
}

impl LinkState {
    /// As the running agent wrote it last; nothing if there is none.
    pub(crate) fn read(files: &Files) -> Self {
        let stored = files::read(&files.status()).ok();
        let read: Self = stored.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        // The agent's user wrote it, root may read it.
        let actions = read.actions.iter().map(|row| plain(row)).collect();
        Self {
            endpoint: plain(&read.endpoint),
            reason: plain(&read.reason),
            refused: plain(&read.refused),
            actions,
            ..read
        }
    }

    /// The reason, and how long ago that was: it tries again by itself, and what is written here is only the
    /// last attempt.
    pub(crate) fn told(&self, now: Timestamp) -> String {
        let ago = Duration::from_secs(now.since(Timestamp::from_millis(self.since_ms)).as_secs());
        format!("{} ({} ago; it tries again by itself)", self.reason, humantime::format_duration(ago))
    }

    /// Whether the running agent has these actions.
    pub(crate) fn has_read(&self, table: &ActionTable) -> bool {
        self.actions_digest == table.digest()
    }

    /// Whether a process of that number is an agent.
    pub(crate) fn is_running(&self) -> bool {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        self.pid != 0 && name.starts_with("writ-agent")
    }
}

/// Writes the link's state for `status`.
#[derive(Debug)]
pub(crate) struct Status {
    path: PathBuf,
    written: LinkState,
}

impl Status {
    /// Nothing is connected yet.
    #[must_use]
    pub(crate) fn new(files: &Files, table: &ActionTable) -> Self {
        let (actions, actions_digest) = (action_rows(table), table.digest());
        let written = LinkState { actions, actions_digest, ..LinkState::default() };
        let mut status = Self { path: files.status(), written };
        status.disconnected("no session has begun yet", false);
        status
    }

    /// A session began.
    pub(crate) fn connected(&mut self, endpoint: &str) {
        let endpoint = endpoint.to_owned();
        self.write(
            LinkState { connected: true, refused: String::new(), endpoint, ..self.written.clone() },
            "",
        );
    }

    /// No session, and why. That a server refused is remembered until one takes the agent: others that cannot
    /// be reached say nothing of it.
    pub(crate) fn disconnected(&mut self, reason: &str, refused: bool) {
        let refused = if refused { reason.to_owned() } else { self.written.refused.clone() };
        self.write(LinkState { connected: false, refused, ..self.written.clone() }, reason);
    }

    fn write(&mut self, state: LinkState, reason: &str) {
        let since_ms = SystemClock::new().wall().as_millis();
        let state = LinkState { pid: std::process::id(), reason: reason.to_owned(), since_ms, ..state };
        let is_news = state.connected != self.written.connected
            || state.reason != self.written.reason
            || state.endpoint != self.written.endpoint
            || state.pid != self.written.pid;
        // An attempt that failed like the one before is news to who asks how long ago it was.
        if !is_news && state.connected {
            return;
        }
        service::status(&if state.connected {
            format!("connected to {}", state.endpoint)
        } else {
            format!("not connected: {}", state.reason)
        });
        match serde_json::to_vec(&state) {
            Ok(text) => {
                if let Err(error) = files::write_public(&self.path, &text) {
                    warn!(%error, "the status file could not be written");
                }
            }
            Err(error) => warn!(%error, "the status could not be written down"),
        }
        self.written = state;
    }
}

#[derive(Serialize)]
struct Shown {
    version: &'static str,
    agent_id: String,
    name: String,
    realm: String,
    fleet_id: String,
    fleet_name: String,
    key_id: String,
    bundle_version: u64,
    bundle_digest: String,
    signing: Vec<Signing>,
    running: bool,
    connected: bool,
    endpoint: String,
    reason: String,
    /// Why the next three are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<String>,
    journal_counter: Option<u64>,
    remembered_commands: Option<u64>,
    time_floor: Option<String>,
    actions: Vec<String>,
}

#[derive(Serialize)]
struct Signing {
    key_id: String,
    sign_from: String,
    accept_until: String,
    revoked: bool,
    realms: Vec<String>,
}

pub(super) fn status(options: StatusOptions) -> Result<(), Fatal> {
    let StatusOptions { place, output } = options;
    let config = Config::load(place.config.as_deref(), place.data_dir.as_deref()).map_err(Fatal::usage)?;
    let files = Files::new(&config.data_dir);
    let identity = Identity::load(&files).map_err(Fatal::failure)?;
    let chain = Trust::load(&files).map_err(Fatal::failure)?.chain();
    let head = chain.head();
    let link = LinkState::read(&files);
    let peeked = Journal::peek(&files.journal());
    let journal = peeked.as_ref().err().map(|error| match error {
        JournalError::Redb(redb::Error::RepairAborted) => {
            "not closed in good order; the agent mends it when it starts".to_owned()
        }
        error => error.to_string(),
    });
    let facts = peeked.ok();
    let running = link.is_running();
    let reason = match (running, link.connected) {
        (false, _) => {
            format!("the agent is not running; start it: {}", place.start().how())
        }
        (true, false) => link.told(SystemClock::new().wall()),
        (true, true) => String::new(),
    };
    // What the running agent has loaded, not what somebody has written since.
    let actions = if running {
        link.actions
    } else {
        ActionTable::load(
            &config.actions_dir,
            &config.denied_actions,
            users::owner_of(files.folder()).unwrap_or_else(users::own_uid),
        )
        .map_or_else(
            |problems| problems.iter().map(|problem| format!("cannot be loaded: {problem}")).collect(),
            |table| action_rows(&table),
        )
    };
    let shown = Shown {
        version: VERSION,
        agent_id: identity.record.agent.to_string(),
        name: identity.record.name,
        realm: identity.record.realm,
        fleet_id: identity.record.fleet.to_string(),
        fleet_name: head.bundle.fleet_name.clone(),
        key_id: identity.record.public_key.id().to_string(),
        bundle_version: head.bundle.version,
        bundle_digest: head.digest.to_string(),
        signing: head
            .bundle
            .signing
            .iter()
            .map(|entry| Signing {
                key_id: entry.certificate.key().id().to_string(),
                sign_from: entry.sign_from.to_string(),
                accept_until: entry.accept_until.to_string(),
                revoked: entry.revoked,
                realms: entry.realms.clone(),
            })
            .collect(),
        running,
        connected: running && link.connected,
        endpoint: link.endpoint,
        reason,
        journal,
        journal_counter: facts.map(|facts| facts.counter),
        remembered_commands: facts.map(|facts| facts.entries),
        time_floor: facts.map(|facts| facts.floor.to_string()),
        actions,
    };
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&shown).map_err(Fatal::failure)?,
        Output::Text => describe(&shown),
    };
    say::result(text.trim_end()).map_err(Fatal::failure)
}

fn action_rows(table: &ActionTable) -> Vec<String> {
    table.rows().map(|(name, class)| format!("{name} ({})", class.as_str())).collect()
}

fn describe(shown: &Shown) -> String {
    let link = match (shown.connected, shown.reason.as_str()) {
        (true, _) => format!("connected to {}", shown.endpoint),
        (false, "") => "not connected".to_owned(),
        (false, reason) => format!("not connected: {reason}"),
    };
    let mut text = format!(
        "{} ({})\n  fleet      {} ({})\n  realm      {}\n  key        {}\n  link       {link}\n  bundle     {} ({})\n",
        shown.name,
        shown.agent_id,
        shown.fleet_name,
        shown.fleet_id,
        shown.realm,
        shown.key_id,
        shown.bundle_version,
        shown.bundle_digest
    );
    for signing in &shown.signing {
        let state = if signing.revoked { "revoked" } else { "until" };
        let realms = signing.realms.join(", ");
        let _ =
            writeln!(text, "  obeys      {} {state} {} for {realms}", signing.key_id, signing.accept_until);
    }
    let journal = shown.journal.clone().unwrap_or_else(|| {
        format!(
            "counter {}, {} commands remembered, time floor {}",
            shown.journal_counter.unwrap_or_default(),
            shown.remembered_commands.unwrap_or_default(),
            shown.time_floor.as_deref().unwrap_or("none")
        )
    });
    let _ = writeln!(text, "  journal    {journal}\n  actions    {}", shown.actions.join(", "));
    text
}
