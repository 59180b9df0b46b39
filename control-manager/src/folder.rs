//! What lies in a manager's folder: a manager, nothing, or its keys without their database.

use std::path::PathBuf;

use writ_common::files;
use writ_database::file::Found;
use writ_protocol::id::ManagerId;

use crate::authority::Files;
use crate::store::{Store, StoreError};

/// What lies there.
#[derive(Debug)]
pub(crate) enum Presence {
    /// No keys, no manager.
    Nothing,
    /// Keys that `init` made and nobody has heard of: it was interrupted.
    Unfinished,
    /// Keys of a manager without their database.
    Lost(Lost),
    /// A manager.
    Manager {
        /// Which.
        id: ManagerId,
        /// Its name.
        name: String,
    },
}

/// The keys of a manager are here, and its database is gone, empty or damaged.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}: keys of a manager lie here, but its database control-manager.db {what}. Nothing was changed. Put the database back, or go on with these keys and a new database: writ-control-manager init --keep-keys --name NAME --data-dir {0}. Servers then keep trusting it, and each is registered again: writ manager re-register",
    folder.display()
)]
pub(crate) struct Lost {
    folder: PathBuf,
    what: String,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PresenceError {
    /// The database failed in a way that says nothing of what is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks, and changes nothing.
///
/// # Errors
/// When a file cannot be read.
pub(crate) async fn find(files: &Files) -> Result<Presence, PresenceError> {
    let (what, is_damaged) = match Store::find_manager(&files.database()).await? {
        Found::Present((id, name)) => return Ok(Presence::Manager { id, name }),
        Found::Missing(what) => (what, false),
        Found::Damaged(what) => (what, true),
    };
    let keys = [files.ca_key(), files.signing_key(), files.tls_key()];
    if !keys.iter().any(|path| path.exists()) && !is_damaged {
        return Ok(Presence::Nothing);
    }
    if files::is_unfinished(files.folder()) {
        return Ok(Presence::Unfinished);
    }
    Ok(Presence::Lost(Lost { folder: files.folder().to_owned(), what }))
}
