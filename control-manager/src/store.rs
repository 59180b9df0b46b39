//! What must outlive the manager: one SQLite file. Writes take turns; each is one transaction.

mod audit;
mod entities;
mod instructions;
mod operators;
mod tokens;

pub use entities::{Change, Counts, EntityRow, Standing};
pub use instructions::{DeliveryRow, InstructionRow, Issued, NewInstruction, Waiting};
pub use operators::{OperatorRow, Revoked};
pub use tokens::TokenRow;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _, SqlSafeStr as _, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;
use tracing::error;
use writ_common::files::{self, FileError};
use writ_common::id::{Digest, ManagerId};
use writ_common::time::Timestamp;
use writ_common::wire::status::Failure;

/// How long a command waits for another's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const MANAGER: &str = "SELECT manager_id, name FROM manager";

fn read_manager(row: Option<SqliteRow>) -> Result<Option<(ManagerId, String)>, StoreError> {
    row.map(|row| Ok((id(&row, "manager_id", "manager id")?, row.try_get("name")?))).transpose()
}

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("store/0001_initial.sql")),
    (2, "audit", include_str!("store/0002_audit.sql")),
];

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's word.
    #[error("the database failed: {0}")]
    Database(sqlx::Error),
    /// The file is not a whole database any more.
    #[error(
        "the database is damaged ({0}): stop the manager and put a copy of control-manager.db back, or move it away and go on with a new one: writ-control-manager init --keep-keys"
    )]
    DamagedFile(String),
    /// The file cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// A migration's word.
    #[error("the database could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A stored value that cannot be read back.
    #[error("the database holds a damaged {0}")]
    Damaged(&'static str),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // SQLITE_CORRUPT and SQLITE_NOTADB (sqlite.org/rescode.html).
        let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
        if code.is_some_and(|code| matches!(code & 0xff, 11 | 26)) {
            return Self::DamagedFile(error.to_string());
        }
        Self::Database(error)
    }
}

/// The caller hears that it is not their fault; the log hears why.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn unavailable(error: StoreError) -> Failure {
    error!(%error, "the store failed");
    Failure::unavailable("the manager cannot reach its store at the moment; try again, and see its log")
}

/// A handle; clones share the file. Every method that returns a [`StoreError`] fails when the database does; what
/// else it fails for, it says.
#[derive(Debug, Clone)]
pub struct Store {
    reader: SqlitePool,
    writer: Arc<Mutex<SqliteConnection>>,
}

impl Store {
    /// Makes the file, if it is not there, and opens it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn make(path: &Path) -> Result<Self, StoreError> {
        // SQLite gives its own files the mode of this one.
        files::touch_private(path)?;
        Self::open(path).await
    }

    /// The manager whose database this is, without bringing it up to date; `None` if it is nobody's yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look_for_manager(path: &Path) -> Result<Option<(ManagerId, String)>, StoreError> {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let work = async {
            let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'manager'";
            match sqlx::query(sql).fetch_optional(&mut connection).await? {
                Some(_) => read_manager(sqlx::query(MANAGER).fetch_optional(&mut connection).await?),
                None => Ok(None),
            }
        };
        let found = work.await;
        connection.close().await?;
        found
    }

    /// Opens the file and brings it up to date. Whether it is one is asked of [`crate::folder`] first.
    ///
    /// # Errors
    /// When the disk or the file is not usable.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let migrations = MIGRATIONS
            .iter()
            .map(|(version, name, sql)| {
                let sql = sql.into_sql_str();
                Migration::new(*version, (*name).into(), MigrationType::Simple, sql, false)
            })
            .collect();
        Migrator::with_migrations(migrations).run_direct(None, &mut connection, false).await?;
        let reader =
            SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Self { reader, writer: Arc::new(Mutex::new(connection)) })
    }

    /// Who this manager is; `None` before `init` has finished.
    pub async fn manager(&self) -> Result<Option<(ManagerId, String)>, StoreError> {
        read_manager(sqlx::query(MANAGER).fetch_optional(&self.reader).await?)
    }

    /// Records the manager and its first administrator: the last step of `init`.
    ///
    /// # Errors
    /// When the database fails; then nothing is recorded.
    pub async fn create(
        &self,
        manager: ManagerId,
        name: &str,
        admin_token: Digest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let mut change = writer.begin().await?;
        sqlx::query("INSERT INTO manager VALUES (1, $1, $2)")
            .bind(manager.as_bytes().as_slice())
            .bind(name)
            .execute(&mut *change)
            .await?;
        operators::insert(&mut change, admin_token, "admin", 4, now).await?;
        Ok(change.commit().await?)
    }

    /// Closes the file.
    pub async fn close(self) {
        self.reader.close().await;
    }
}

/// SQLite's integers are signed; ours never come near 2^63.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default())
}

fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, StoreError> {
    unsigned(row, column).map(Timestamp::from_millis)
}

fn id<T>(row: &SqliteRow, column: &str, what: &'static str) -> Result<T, StoreError>
where
    T: for<'a> TryFrom<&'a [u8]>,
{
    let stored: &[u8] = row.try_get(column)?;
    T::try_from(stored).map_err(|_| StoreError::Damaged(what))
}
