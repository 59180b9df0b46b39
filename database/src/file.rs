//! What an SQLite file is, before SQLite opens it: that would take one of no bytes for a new database, and
//! remove the log beside it (sqlite.org/fileformat2.html, section 1.3).

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use writ_common::files::{self, FileError};
use writ_protocol::time::Timestamp;

use crate::sqlite::Access;
use crate::{Connection, DatabaseError};

/// What SQLite keeps beside a database.
const BESIDE: [&str; 2] = ["-wal", "-shm"];
const HEADER_BYTES: usize = 100;

/// What lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DatabaseFile {
    /// Nothing.
    Missing,
    /// A file of no bytes.
    Empty,
    /// A file that cannot be a whole database, and why.
    Damaged(&'static str),
    /// Something SQLite may open.
    Present,
}

/// Makes a file, if it is not there, for a database to be opened.
///
/// # Errors
/// When it cannot be made.
pub fn make(path: &Path) -> Result<(), FileError> {
    // SQLite gives its own files the mode of this one; receipts hold what actions printed.
    files::touch_private(path)
}

/// What a program finds in a database file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// What it looked for.
    Present(T),
    /// A database in which it is not, or none; in words that go on a sentence about the file.
    Missing(String),
    /// A file that is not a whole database, in the same way.
    Damaged(String),
}

/// Looks for the one row that says whose database a file is, and changes nothing. The table need not be
/// there: `init` may have been interrupted before it made it.
///
/// # Errors
/// When the file cannot be read, or the database fails in a way that says nothing of what is in it.
pub async fn find<T: Send + 'static>(
    path: &Path,
    (table, noun): (&'static str, &'static str),
    read: fn(&mut Connection) -> Result<Option<T>, DatabaseError>,
) -> Result<Found<T>, DatabaseError> {
    match inspect(path)? {
        DatabaseFile::Missing => return Ok(Found::Missing("is gone".to_owned())),
        DatabaseFile::Empty => return Ok(Found::Missing("is empty".to_owned())),
        DatabaseFile::Damaged(why) => return Ok(Found::Damaged(format!("is damaged ({why})"))),
        DatabaseFile::Present => {}
    }
    let file = path.to_owned();
    let look = move || {
        let mut connection = Connection::open(&file, Access::Inspect, "")?;
        let found = match connection.has_table(table) {
            Ok(true) => read(&mut connection),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        // SQLite removes files of its own when the last connection closes, and they must not go while they
        // are moved.
        connection.close()?;
        found
    };
    let looked = tokio::task::spawn_blocking(look).await.map_err(|_| DatabaseError::Closed)?;
    match looked {
        Ok(Some(found)) => Ok(Found::Present(found)),
        Ok(None) => Ok(Found::Missing(format!("holds no {noun}"))),
        Err(DatabaseError::DamagedFile { why, .. }) => Ok(Found::Damaged(format!("is damaged ({why})"))),
        Err(other) => Err(other),
    }
}

/// Looks at a file.
fn inspect(path: &Path) -> Result<DatabaseFile, FileError> {
    let failed = |source| FileError::Io { path: path.to_owned(), source };
    let mut file = match fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(DatabaseFile::Missing),
        opened => opened.map_err(failed)?,
    };
    let length = file.metadata().map_err(failed)?.len();
    if length == 0 {
        return Ok(DatabaseFile::Empty);
    }
    let mut header = [0; HEADER_BYTES];
    if let Err(error) = file.read_exact(&mut header) {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Ok(DatabaseFile::Damaged("it ends within its header")),
            _ => Err(failed(error)),
        };
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return Ok(DatabaseFile::Damaged("it does not begin as a database does"));
    }
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes),
    };
    let pages = u64::from(u32::from_be_bytes([header[28], header[29], header[30], header[31]]));
    // While the log beside it holds anything, the file may still be behind what its header says.
    let log = fs::metadata(beside(path, BESIDE[0])).map_or(0, |log| log.len());
    if log == 0 && length < pages * page_bytes {
        return Ok(DatabaseFile::Damaged("it is shorter than its header says"));
    }
    Ok(DatabaseFile::Present)
}

/// Moves a database that is lost away, with what SQLite keeps beside it; returns its new name. Nothing is
/// deleted.
///
/// # Errors
/// When it cannot be renamed.
pub fn move_aside(path: &Path, now: Timestamp) -> Result<Option<PathBuf>, FileError> {
    let aside = beside(path, &format!(".lost-{}", now.to_string().replace(':', "")));
    // The log first: alone it would be taken for that of the database which comes in this one's place.
    for ending in BESIDE.into_iter().chain([""]) {
        let (from, to) = (beside(path, ending), beside(&aside, ending));
        if from.exists() {
            files::rename(&from, &to)?;
        }
    }
    Ok(aside.exists().then_some(aside))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(pages: u32) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[16..18].copy_from_slice(&4096_u16.to_be_bytes());
        bytes[28..32].copy_from_slice(&pages.to_be_bytes());
        bytes
    }

    #[test]
    fn what_is_missing_empty_cut_or_no_database_is_told_apart_without_opening_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("writ.db");
        assert_eq!(inspect(&path).unwrap(), DatabaseFile::Missing);
        let is = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            inspect(&path).unwrap()
        };
        assert_eq!(is(b""), DatabaseFile::Empty);
        assert_eq!(is(b"SQLite"), DatabaseFile::Damaged("it ends within its header"));
        assert_eq!(is(&[7; 4096]), DatabaseFile::Damaged("it does not begin as a database does"));
        assert_eq!(is(&header(2)), DatabaseFile::Damaged("it is shorter than its header says"));
        assert_eq!(is(&header(1)), DatabaseFile::Present);
        // With a log beside it that is not taken over yet, nobody can say.
        fs::write(folder.path().join("writ.db-wal"), "frames").unwrap();
        assert_eq!(is(&header(2)), DatabaseFile::Present);
    }

    #[test]
    fn a_lost_database_is_moved_away_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("writ.db");
        let now = Timestamp::from_millis(0);
        assert_eq!(move_aside(&path, now).unwrap(), None);
        fs::write(&path, "database").unwrap();
        fs::write(folder.path().join("writ.db-wal"), "log").unwrap();
        let aside = move_aside(&path, now).unwrap().unwrap();
        assert_eq!(fs::read(&aside).unwrap(), b"database");
        assert_eq!(fs::read(beside(&aside, "-wal")).unwrap(), b"log");
        assert!(!path.exists());
    }
}
