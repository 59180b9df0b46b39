//! The newest bundle that was ever in force here, in a file beside the database: a database that was put back
//! to an earlier state alone is noticed before anything is minted over what agents hold.

use tracing::error;
use writ_common::files::{self, FileError};
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, Link};

use super::Files;
use crate::store::{Store, StoreError};

/// Notes the newest bundle.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(files: &Files, head: &Link) -> Result<(), FileError> {
    let text = format!("{}\n", head.digest);
    let path = files.head_marker();
    let is_noted = files::read(&path).is_ok_and(|noted| noted == text.as_bytes());
    if is_noted { Ok(()) } else { files::write_public(&path, text.as_bytes()) }
}

/// What was noted. To be read before the chain: whatever is noted is in the database already.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(files: &Files) -> Result<Option<Digest>, FileError> {
    match files::read(&files.head_marker()) {
        Err(error) if error.is_missing() => Ok(None),
        read => Ok(String::from_utf8_lossy(&read?).trim().parse().ok()),
    }
}

/// Compares the chain of the database with what was noted before it was read. If it lacks that bundle, its
/// head is to be confirmed, and agents that it does not know may show their records, as after a restore.
///
/// # Errors
/// When the store fails.
pub(crate) async fn check(
    noted: Option<Digest>,
    chain: &Chain,
    store: &Store,
    now: Timestamp,
) -> Result<(), StoreError> {
    if let Some(noted) = noted.filter(|noted| !chain.contains(*noted)) {
        error!(
            bundle.digest = %noted,
            head = %chain.head().digest,
            "the database stands at an earlier state: it lacks a trust bundle that was in force here"
        );
        store.record_restore(Vec::new(), Vec::new(), now).await?;
    }
    Ok(())
}
