//! Replacing the agent's own program by a signed command (protocol.md §7.7), on hosts where root allowed it.
//!
//! Two sides that share a folder which only root can write, [`FOLDER`]: the agent fetches the package and
//! hands it over ([`asked`]); root's side believes nothing but the fleet's seal, installs the package, waits
//! for the new program to greet its server, and takes it back otherwise ([`apply`], on a [`host`]). The agent
//! never has root's rights, and an agent that was broken into gains none.

pub(crate) mod allow;
pub(crate) mod apply;
pub(crate) mod asked;
pub(crate) mod host;
mod package;
mod request;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use writ_common::files::{self, FileError};
use writ_protocol::id::Digest;

use crate::identity::Files;

/// What root keeps: what is allowed, how the last upgrade stands, and the program that makes upgrades.
pub(crate) const FOLDER: &str = "/var/lib/writ-upgrade";

/// What root of a host allows: which agent may be replaced, and who may say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allowed {
    /// The agent's state.
    pub data_dir: PathBuf,
    /// Its id.
    pub agent_id: String,
    /// Its realm.
    pub realm: String,
    /// The newest trust bundle that root saw, in hexadecimal digits of its digest. Whom the agent obeys later
    /// must follow from it.
    pub bundle_digest: String,
    /// When root allowed it, in milliseconds since 1970: no command that was issued before counts.
    pub since_ms: u64,
    /// The component that holds packages of this host's kind.
    pub component: String,
    /// The agent's program.
    pub program: PathBuf,
    /// The unit that runs it.
    pub unit: String,
}

/// How an upgrade stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// The package is looked at, and what is installed is copied.
    Preparing,
    /// The agent is stopped, and its state is copied.
    Copying,
    /// The package is being installed.
    Installing,
    /// The new program is to greet its server.
    Waiting,
    /// It has not, and program and state of before are being put back.
    TakingBack,
    /// They are back, and the agent is being started.
    Returning,
    /// The new program has greeted.
    Done,
    /// The program of before is installed.
    TakenBack,
    /// Nothing was changed.
    Refused,
}

impl Phase {
    /// For people.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing | Self::Copying => "being prepared",
            Self::Installing => "being installed",
            Self::Waiting => "installed, and to greet its server",
            Self::TakingBack | Self::Returning => "being taken back",
            Self::Done => "done",
            Self::TakenBack => "taken back",
            Self::Refused => "refused",
        }
    }

    /// Whether nothing is left to do.
    pub(crate) const fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::TakenBack | Self::Refused)
    }
}

/// The last upgrade, as root's side notes it before each step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The command's id.
    pub command_id: String,
    /// The version that was installed; empty until that was looked at.
    pub from: String,
    /// The version that comes.
    pub to: String,
    /// What is being done.
    pub phase: Phase,
    /// Why it was taken back or refused; empty otherwise.
    pub why: String,
    /// How long the new program has to greet, in seconds.
    pub greet_within_seconds: u64,
    /// Whether it may be older than what is installed.
    pub allow_older: bool,
    /// When the newest command was issued that was believed here, in milliseconds since 1970: none of before
    /// counts.
    pub issued_at_ms: u64,
}

impl Standing {
    /// Whether a program may hold a session now. What another one obeyed would be forgotten when the state is
    /// put back.
    pub(crate) fn lets_run(&self, version: &str) -> bool {
        match self.phase {
            // Whatever is started then, its state is being copied, or may still be put back.
            Phase::Copying | Phase::Installing | Phase::TakingBack => false,
            Phase::Waiting => version == self.to,
            Phase::Returning => version == self.from,
            Phase::Preparing | Phase::Done | Phase::TakenBack | Phase::Refused => true,
        }
    }
}

/// That a program has greeted its server, as the agent notes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The upgrade under way.
    pub command_id: String,
    /// The program's own version.
    pub version: String,
}

/// What root keeps, by file.
#[derive(Debug, Clone)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// A folder of root's.
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    fn allowed_file(&self) -> PathBuf {
        self.0.join("allowed.json")
    }

    fn standing_file(&self) -> PathBuf {
        self.0.join("standing.json")
    }

    /// The program that makes upgrades: the last one that is known to be good.
    pub(crate) fn program(&self) -> PathBuf {
        self.0.join("writ-agent")
    }

    /// What an upgrade under way needs: its presence has systemd go on with it.
    pub(crate) fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The package, as it was verified.
    pub(crate) fn package(&self) -> PathBuf {
        self.work().join("package")
    }

    /// What was installed.
    pub(crate) fn previous(&self) -> PathBuf {
        self.work().join("previous")
    }

    /// Removes what an upgrade needs no more that is refused before anything is installed: on a full disk
    /// there must be room to note that, or no version runs. The folder itself stays, so that this goes on.
    fn make_room(&self) {
        for path in files::list(&self.work()).unwrap_or_default() {
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed {
                warn!(%error, path = %path.display(), "not removed");
            }
        }
    }

    /// What root allows; `None`: nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn allowed(&self) -> Result<Option<Allowed>, FileError> {
        read(&self.allowed_file())
    }

    /// How the last upgrade stands; `None`: there was none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn standing(&self) -> Result<Option<Standing>, FileError> {
        read(&self.standing_file())
    }

    fn allow(&self, allowed: &Allowed) -> Result<(), FileError> {
        write(&self.allowed_file(), allowed)
    }

    fn note(&self, standing: &Standing) -> Result<(), FileError> {
        write(&self.standing_file(), standing)
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    match files::read(path) {
        Err(error) if error.is_missing() => Ok(None),
        text => serde_json::from_slice(&text?)
            .map(Some)
            .map_err(|error| FileError::io(path)(std::io::Error::other(error))),
    }
}

fn write<T: Serialize>(path: &Path, content: &T) -> Result<(), FileError> {
    files::write_public(path, &serde_json::to_vec_pretty(content).unwrap_or_default())
}

/// What the agent hands over, in the folder of its own state. Nothing else in it is looked at: the way there
/// is root's alone, and these are no links.
#[derive(Debug)]
pub(crate) struct HandOver {
    /// The command, as it was delivered.
    pub request: PathBuf,
    /// The bytes of the package.
    pub package: PathBuf,
    /// That the agent has greeted.
    pub greeting: PathBuf,
}

impl HandOver {
    pub(crate) fn of(files: &Files) -> Self {
        let at = |name: &str| files.folder().join(name);
        Self {
            request: at("upgrade-request"),
            package: at("upgrade-package"),
            greeting: at("upgrade-greeting"),
        }
    }
}

impl Allowed {
    fn pin(&self) -> Result<Digest, String> {
        self.bundle_digest.parse().map_err(|_| "the pinned bundle's digest is none".to_owned())
    }
}
