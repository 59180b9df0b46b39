//! The newest bundle that was ever in force here, in a file beside the database: a database that was put back to an earlier
//! state alone is noticed before anything is minted over what agents hold.

use tracing::error;
use writ_common::files::{self, FileError};
use writ_common::id::Digest;
use writ_common::time::Timestamp;
use writ_common::trust::{Chain, Link};

use super::Files;
use crate::store::{Store, StoreError};

/// Why it cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum LastHeadError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Notes the newest bundle.
///
/// # Errors
/// When it cannot be written.
pub fn note(files: &Files, head: &Link) -> Result<(), FileError> {
    let text = format!("{}\n", head.digest);
    let path = files.last_head();
    let is_noted = files::read(&path).is_ok_and(|noted| noted == text.as_bytes());
    if is_noted { Ok(()) } else { files::write_public(&path, text.as_bytes()) }
}

/// Compares the chain of the database with what was noted. If it lacks that bundle, its head is to be confirmed, and agents that
/// it does not know may show their records, as after a restore.
///
/// # Errors
/// When either cannot be read or written.
pub async fn check(files: &Files, chain: &Chain, store: &Store, now: Timestamp) -> Result<(), LastHeadError> {
    let noted = match files::read(&files.last_head()) {
        Err(error) if error.is_missing() => None,
        read => String::from_utf8_lossy(&read?).trim().parse::<Digest>().ok(),
    };
    if let Some(noted) = noted.filter(|noted| !chain.contains(*noted)) {
        error!(
            bundle.digest = %noted,
            head = %chain.head().digest,
            "the database stands at an earlier state: it lacks a trust bundle that was in force here"
        );
        store.put_back(Vec::new(), Vec::new(), now).await?;
    }
    Ok(note(files, chain.head())?)
}
