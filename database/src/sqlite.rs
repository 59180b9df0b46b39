//! What only SQLite knows: how a file is opened, and which of its errors are whose.

use std::path::Path;
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use crate::{Connection, DatabaseError, Value};

/// How long a statement waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Statements that stay prepared: more than a program has.
const PREPARED: usize = 256;

/// Longer statements have as many parameters as a question has names. Each such number is a statement of its
/// own, so they are prepared for once.
pub(crate) const LONGEST_KEPT: usize = 4096;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Writing. Makes the log beside the file.
    Write,
    /// Reading while somebody writes.
    Read,
    /// Asking what a file is, without bringing it up to date.
    Inspect,
}

impl Connection {
    /// Opens a file that is there.
    pub(crate) fn open(path: &Path, access: Access, cure: &'static str) -> Result<Self, DatabaseError> {
        let mode = match access {
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Access::Write | Access::Inspect => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        // One thread at a time has a connection, which Rust sees to.
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = rusqlite::Connection::open_with_flags(path, flags);
        let connection = Self { inner: opened.map_err(|error| failure(&error, cure))?, cure };
        let set = || {
            connection.inner.busy_timeout(BUSY_TIMEOUT)?;
            connection.inner.set_prepared_statement_cache_capacity(PREPARED);
            // The plan does not depend on the values. Else a statement that could use an index of some rows
            // only is prepared anew with each of them: a quarter of the writer's time was that.
            connection.inner.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
            if access == Access::Write {
                // The log makes readers and the writer independent; a commit is on disk when it returns.
                connection.inner.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
                connection.inner.pragma_update(None, "synchronous", "full")?;
                connection.inner.pragma_update(None, "foreign_keys", true)?;
            }
            Ok(())
        };
        set().map_err(|error| failure(&error, cure))?;
        Ok(connection)
    }

    /// From now on, what a part of a transaction may have to undo stays in memory: a batch bounds it. Not
    /// while the file is brought up to date, because an index of many rows is sorted in such files.
    pub(crate) fn undo_in_memory(&mut self) -> Result<(), DatabaseError> {
        let set = self.inner.pragma_update(None, "temp_store", "memory");
        set.map_err(|error| self.failure(&error))
    }

    /// Whether there is a table of a name.
    pub(crate) fn has_table(&mut self, name: &str) -> Result<bool, DatabaseError> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        Ok(self.first(sql, &[Value::Text(name)], |_| Ok(()))?.is_some())
    }

    /// Begins a transaction that is going to write.
    pub(crate) fn begin(&mut self) -> Result<(), DatabaseError> {
        self.execute("BEGIN IMMEDIATE", &[]).map(drop)
    }

    /// Makes a transaction durable.
    pub(crate) fn commit(&mut self) -> Result<(), DatabaseError> {
        self.execute("COMMIT", &[]).map(drop)
    }

    /// Undoes a transaction.
    pub(crate) fn roll_back(&mut self) -> Result<(), DatabaseError> {
        self.execute("ROLLBACK", &[]).map(drop)
    }

    /// Begins a part that can be undone alone.
    pub(crate) fn begin_part(&mut self) -> Result<(), DatabaseError> {
        self.execute("SAVEPOINT part", &[]).map(drop)
    }

    /// Ends it: what it wrote is of the transaction, or undone.
    pub(crate) fn end_part(&mut self, is_kept: bool) -> Result<(), DatabaseError> {
        if !is_kept {
            self.execute("ROLLBACK TO part", &[])?;
        }
        self.execute("RELEASE part", &[]).map(drop)
    }

    /// Closes it. SQLite removes its own files with the last connection.
    pub(crate) fn close(self) -> Result<(), DatabaseError> {
        self.inner.close().map_err(|(_, error)| failure(&error, self.cure))
    }

    pub(crate) fn failure(&self, error: &rusqlite::Error) -> DatabaseError {
        failure(error, self.cure)
    }
}

/// Result codes: sqlite.org/rescode.html.
fn failure(error: &rusqlite::Error, cure: &'static str) -> DatabaseError {
    use rusqlite::ErrorCode::{
        DatabaseBusy, DatabaseCorrupt, DiskFull, NotADatabase, OutOfMemory, ReadOnly, SystemIoFailure,
    };
    let why = error.to_string();
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => DatabaseError::DamagedFile { why, cure },
        // After these SQLite asks for the whole transaction to be rolled back
        // (sqlite.org/lang_transaction.html); and where nothing may be written, nothing else may.
        Some(DatabaseBusy | DiskFull | OutOfMemory | ReadOnly | SystemIoFailure) => {
            DatabaseError::Failed { why, is_of_the_disk: true }
        }
        _ => DatabaseError::Failed { why, is_of_the_disk: false },
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_statement_is_prepared_once_whatever_its_values_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        drop(rusqlite::Connection::open(&path).unwrap());
        let mut connection = Connection::open(&path, Access::Write, "").unwrap();
        connection.run("CREATE TABLE targets (agent INTEGER, state INTEGER)").unwrap();
        connection.run("CREATE INDEX waiting ON targets (agent) WHERE state < 2").unwrap();
        // Whether the index serves depends on the second value.
        let sql = "SELECT 1 FROM targets WHERE agent = ?1 AND state < ?2";
        let mut statement = connection.inner.prepare(sql).unwrap();
        for state in 1..4 {
            assert!(!statement.exists((1, state)).unwrap());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
