//! What goes wrong with a database.

use writ_common::files::FileError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database's word.
    #[error("the database failed: {why}")]
    Failed {
        /// In its words.
        why: String,
        /// It says nothing of what was to be written, and everything of where: no other write would fare
        /// better.
        is_of_the_disk: bool,
    },
    /// The file cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// A migration's word.
    #[error("the database could not be brought up to date: {0}")]
    Migration(String),
    /// A later build wrote it.
    #[error(
        "the database is of a later version of this program (schema {found}, this one knows {known}): install that version again"
    )]
    Newer {
        /// The schema of the file.
        found: u32,
        /// The last one this program knows.
        known: u32,
    },
    /// The file is not a whole database any more.
    #[error("the database is damaged ({why}): {cure}")]
    DamagedFile {
        /// In the database's words.
        why: String,
        /// What to do, as the program says it.
        cure: &'static str,
    },
    /// A column that cannot be read back.
    #[error("the database holds a damaged `{0}`")]
    Damaged(&'static str),
    /// The batch this write was part of could not be committed; nothing of it is stored.
    #[error("the write was not committed: {0}")]
    NotCommitted(String),
    /// Nothing writes or reads any more.
    #[error("the program is shutting down")]
    Closed,
}
