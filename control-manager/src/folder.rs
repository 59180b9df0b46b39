//! What lies in a manager's folder: a manager, nothing, or its keys without their database.

use std::path::PathBuf;

use writ_common::database_file::{self, DatabaseFile};
use writ_common::files::{self, FileError};
use writ_common::id::ManagerId;

use crate::authority::Files;
use crate::store::{Store, StoreError};

/// What lies there.
#[derive(Debug)]
pub enum Presence {
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
pub struct Lost {
    folder: PathBuf,
    what: String,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database failed in a way that says nothing of what is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks, and changes nothing.
///
/// # Errors
/// When a file cannot be read.
pub async fn find(files: &Files) -> Result<Presence, PresenceError> {
    let what = match database_file::inspect(&files.database())? {
        DatabaseFile::Missing => "is gone".to_owned(),
        DatabaseFile::Empty => "is empty".to_owned(),
        DatabaseFile::Damaged(why) => format!("is damaged ({why})"),
        DatabaseFile::Present => match Store::look_for_manager(&files.database()).await {
            Ok(Some((id, name))) => return Ok(Presence::Manager { id, name }),
            Ok(None) => "holds no manager".to_owned(),
            Err(StoreError::DamagedFile(why)) => format!("is damaged ({why})"),
            Err(other) => return Err(other.into()),
        },
    };
    let keys = [files.ca_key(), files.signing_key(), files.tls_key()];
    if !keys.iter().any(|path| path.exists()) && !what.starts_with("is damaged") {
        return Ok(Presence::Nothing);
    }
    if files::is_unfinished(files.folder()) {
        return Ok(Presence::Unfinished);
    }
    Ok(Presence::Lost(Lost { folder: files.folder().to_owned(), what }))
}
