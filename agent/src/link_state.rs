//! The small file in which a running agent says how its link stands, for `status` and `doctor`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;
use writ_common::files;
use writ_common::systemd;
use writ_common::text::plain;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::time::Timestamp;

use crate::execute::ActionTable;
use crate::identity::Files;

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
    pub(crate) actions: Vec<String>,
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

/// The file, written whenever that changes.
#[derive(Debug)]
pub(crate) struct LinkStateFile {
    path: PathBuf,
    written: LinkState,
}

impl LinkStateFile {
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
        systemd::status(&if state.connected {
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

/// Actions as they are shown.
pub(crate) fn action_rows(table: &ActionTable) -> Vec<String> {
    table.rows().map(|(name, class, _)| format!("{name} ({})", class.as_str())).collect()
}
