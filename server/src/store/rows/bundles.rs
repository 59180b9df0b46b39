//! The chain of trust bundles, and the backups that hold it.

use std::path::Path;

use bytes::Bytes;
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::time::Timestamp;

/// A verified trust bundle that agents hold and that is not of this server's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fork {
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: Digest,
    /// As it travels.
    pub envelope: Bytes,
    /// How many agents say they hold it.
    pub agents: u64,
}

/// Agents of one realm that said they hold one bundle.
#[derive(Debug, Clone)]
pub(crate) struct Holders {
    /// Its version; 0: they have not said.
    pub version: u64,
    /// Its digest.
    pub digest: Option<Digest>,
    /// The realm.
    pub realm: String,
    /// How many they are.
    pub agents: u64,
}

/// An agent that does not hold the newest bundle.
#[derive(Debug, Clone)]
pub(crate) struct Behind {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Its realm.
    pub realm: String,
    /// The host's own name for itself.
    pub host_name: String,
    /// Where its last session came from.
    pub address: String,
    /// The bundle it said it holds; 0: it has not said.
    pub version: u64,
    /// That bundle's digest.
    pub digest: Option<Digest>,
    /// When it was last heard.
    pub last_contact: Timestamp,
}

/// A backup that was made or proven.
#[derive(Debug, Clone)]
pub(crate) struct BackupRow {
    /// SHA-256 of the sealed file.
    pub digest: Digest,
    /// Where it was written.
    pub path: String,
    /// The newest bundle in it.
    pub bundle_version: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it was read back and found whole; zero: never.
    pub proven_at: Timestamp,
}

impl BackupRow {
    /// A backup whose sealed bytes were just written and read back.
    #[must_use]
    pub(crate) fn made(path: &Path, sealed: &[u8], bundle_version: u64, now: Timestamp) -> Self {
        Self {
            digest: Digest::of(sealed),
            path: path.display().to_string(),
            bundle_version,
            made_at: now,
            proven_at: Timestamp::ZERO,
        }
    }
}
