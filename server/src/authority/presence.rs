//! What lies in a data directory: a fleet, nothing, or the keys of a fleet whose database is lost. The one
//! home of that question: nothing is made over keys because a database is not what it was.

use std::path::PathBuf;

use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_database::file::Found;
use writ_protocol::id::FleetId;
use writ_protocol::keys::SigningCertificate;

use super::Files;
use crate::store::{Store, StoreError};

/// What lies there.
#[derive(Debug)]
pub(crate) enum Presence {
    /// No keys, no fleet.
    Nothing,
    /// Keys that `init` made and nobody has heard of: it was interrupted.
    Unfinished,
    /// Keys of a fleet without their database.
    Lost(Lost),
    /// A fleet.
    Fleet {
        /// Which.
        fleet: FleetId,
        /// Its name.
        name: String,
    },
}

/// The keys of a fleet are here, and its database is gone, empty or damaged.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: keys of a fleet lie here (`{name}`), but its database writ.db {what}. Nothing was changed. Put the database back, or restore a backup beside the keys: writ-server cert restore FILE. Without a backup, with the file trust.chain of an agent: writ-server authority rebuild FILE. To give that fleet up, so that none of its agents obeys this server any more: writ-server init --replace-fleet {name}",
    folder.display()
)]
pub(crate) struct Lost {
    folder: PathBuf,
    /// The fleet's name, as its certificate says.
    pub name: String,
    what: String,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PresenceError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database failed in a way that says nothing of what is in it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks, and changes nothing. The caller holds the folder, or only asks.
///
/// # Errors
/// When a file cannot be read.
pub(crate) async fn find(files: &Files) -> Result<Presence, PresenceError> {
    let (what, is_damaged) = match Store::find_fleet(&files.database()).await? {
        Found::Present((fleet, name)) => return Ok(Presence::Fleet { fleet, name }),
        Found::Missing(what) => (what, false),
        Found::Damaged(what) => (what, true),
    };
    let keys = files::list(&files.signing())?;
    let others = [files.authority(), files.tls_ca_key(), files.head_marker()];
    if keys.is_empty() && !others.iter().any(|path| path.exists()) && !is_damaged {
        return Ok(Presence::Nothing);
    }
    if files::is_unfinished(files.folder()) {
        return Ok(Presence::Unfinished);
    }
    let certificates = keys.iter().filter_map(|path| pem::certificates(&files::read(path).ok()?).ok());
    let name = certificates.flatten().find_map(|der| SigningCertificate::from_der(&der).ok()?.name());
    let name = name.unwrap_or_else(|| "unknown".to_owned());
    Ok(Presence::Lost(Lost { folder: files.folder().to_owned(), name, what }))
}
