//! What must outlive the manager: one SQLite file. Writes take turns; each is one transaction.

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

const MIGRATIONS: &[(i64, &str, &str)] = &[(1, "initial", include_str!("store/0001_initial.sql"))];

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's word.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
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

/// The caller hears that it is not their fault; the log hears why.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn unavailable(error: StoreError) -> Failure {
    error!(%error, "the store failed");
    Failure::unavailable("the manager cannot reach its store at the moment; try again, and see its log")
}

/// A handle; clones share the file.
#[derive(Debug, Clone)]
pub struct Store {
    reader: SqlitePool,
    writer: Arc<Mutex<SqliteConnection>>,
}

impl Store {
    /// Opens or makes the file and brings it up to date.
    ///
    /// # Errors
    /// When the disk or the file is not usable.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite gives its own files the mode of this one.
        files::touch_private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
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
    ///
    /// # Errors
    /// When the database fails.
    pub async fn manager(&self) -> Result<Option<(ManagerId, String)>, StoreError> {
        let row = sqlx::query("SELECT manager_id, name FROM manager").fetch_optional(&self.reader).await?;
        row.map(|row| Ok((id(&row, "manager_id", "manager id")?, row.try_get("name")?))).transpose()
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
