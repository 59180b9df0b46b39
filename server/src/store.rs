//! What must outlive the server: one SQLite file, written by one task (`store/writer.rs`).

mod agents;
mod alerts;
mod audit;
mod bundles;
mod commands;
mod contacts;
mod manager;
mod queue;
mod receipts;
mod tokens;
mod writer;

pub use agents::{AgentRow, AllowList, Attribute, KnownAgent, Source, Standing};
pub use alerts::{Alarm, AlertKind, AlertRow, SERVER};
pub use bundles::{BackupRow, Behind, Fork, Holders, MAX_FORKS};
pub use commands::{CommandRow, EvidenceRow, NewCommand, Progress, RecordedCommand, TargetRow, TargetState};
pub use contacts::{Contact, Heard, Noted, Report};
pub use manager::TakenRow;
pub use queue::{QueuedCommand, StoredEnvelope, WaitingCommand};
pub use receipts::{NewReceipt, ReceiptFate};
pub use tokens::{AdminRow, Admission, EnrolmentTokenRow, NewToken, Revoked, TokenUse};

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Row as _, SqlSafeStr as _, SqliteConnection, SqlitePool};
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::error;
use writ_common::files::{self, FileError};
use writ_common::id::{AgentId, CommandId, Digest, FleetId};
use writ_common::shutdown::Shutdown;
use writ_common::time::Timestamp;
use writ_common::wire::status::Failure;
use writer::{Answer, Health, Job, MAX_WAITING_WRITES, other, write_batches};

/// Changes a watcher may fall behind by before it has to look at everything again.
const MAX_WAITING_CHANGES: usize = 1024;

/// How long a command waits for another's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("store/0001_initial.sql")),
    (2, "operations", include_str!("store/0002_operations.sql")),
    (3, "keys", include_str!("store/0003_keys.sql")),
    (4, "manager", include_str!("store/0004_manager.sql")),
    (5, "admissions", include_str!("store/0005_admissions.sql")),
    (6, "forks", include_str!("store/0006_forks.sql")),
];

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's word.
    #[error("the database failed: {0}")]
    Database(sqlx::Error),
    /// The file cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// A migration's word.
    #[error("the database could not be brought up to date: {0}")]
    Migration(sqlx::migrate::MigrateError),
    /// The file is not a whole database any more.
    #[error(
        "the database is damaged ({0}): stop the server, move writ.db and writ.db-wal away, and put a copy back or restore a backup: writ-server cert restore FILE"
    )]
    DamagedFile(String),
    /// A stored value that cannot be read back.
    #[error("the database holds a damaged {0}")]
    Damaged(&'static str),
    /// The batch this write was part of could not be committed; nothing of it is stored.
    #[error("the write was not committed: {0}")]
    NotCommitted(String),
    /// Another bundle was published meanwhile.
    #[error("another trust bundle was published at the same moment; try again")]
    HeadMoved,
    /// The writer has ended.
    #[error("the server is shutting down")]
    Closed,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_damage(&error) { Self::DamagedFile(error.to_string()) } else { Self::Database(error) }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            other => Self::Migration(other),
        }
    }
}

/// SQLITE_CORRUPT and SQLITE_NOTADB (sqlite.org/rescode.html).
fn is_damage(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
}

/// The caller hears that it is not their fault; the log hears why.
pub(crate) fn unavailable(error: StoreError) -> Failure {
    error!(%error, "the store failed");
    Failure::unavailable("the server cannot reach its store at the moment; try again, and see its log")
}

/// A write that waits for its commit.
#[derive(Debug)]
#[must_use]
pub struct Pending<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Pending<T> {
    /// Returns after it is committed.
    ///
    /// # Errors
    /// When it is not.
    pub async fn committed(self) -> Result<T, StoreError> {
        self.0.await.map_err(|_| StoreError::Closed)?
    }
}

/// A handle; clones share the file. Every method that returns a [`StoreError`] fails when the database does; what
/// else it fails for, it says.
#[derive(Debug, Clone)]
pub struct Store {
    reader: SqlitePool,
    writer: mpsc::Sender<Job>,
    admins: Arc<Mutex<tokens::Admins>>,
    changes: broadcast::Sender<CommandId>,
    health: Arc<Health>,
}

impl Store {
    /// Makes the file, if it is not there, and opens it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn make(path: &Path, shutdown: &Shutdown) -> Result<Self, StoreError> {
        // SQLite gives its own files the mode of this one; receipts hold what actions printed.
        files::touch_private(path)?;
        Self::open(path, shutdown).await
    }

    /// Opens the file and brings it up to date. Whether it is one is asked of [`crate::authority::presence`]
    /// first.
    ///
    /// # Errors
    /// When the disk or the file is not usable.
    pub async fn open(path: &Path, shutdown: &Shutdown) -> Result<Self, StoreError> {
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
        let (writer, jobs) = mpsc::channel(MAX_WAITING_WRITES);
        let (changes, _) = broadcast::channel(MAX_WAITING_CHANGES);
        let health = Arc::<Health>::default();
        shutdown.spawn(write_batches(connection, jobs, changes.clone(), Arc::clone(&health)));
        Ok(Self { reader, writer, admins: Arc::default(), changes, health })
    }

    /// The fleet whose database this is, without bringing it up to date; `None` if it is nobody's yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look_for_fleet(path: &Path) -> Result<Option<(FleetId, String)>, StoreError> {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let work = async {
            let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'fleet'";
            match sqlx::query(sql).fetch_optional(&mut connection).await? {
                Some(_) => read_fleet(sqlx::query(FLEET).fetch_optional(&mut connection).await?),
                None => Ok(None),
            }
        };
        let found = work.await;
        // SQLite removes files of its own when the last connection closes, and they must not go while they
        // are moved.
        connection.close().await?;
        found
    }

    /// Whether the disk takes what is written: after a batch that was not stored, only once
    /// [`Self::note_time`] wrote.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.health.is_good()
    }

    /// Closes what reads, for all clones; what writes ends with the shutdown it was opened under.
    pub async fn close(self) {
        self.reader.close().await;
    }

    /// Hears of every command whose progress changed, once for each commit.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<CommandId> {
        self.changes.subscribe()
    }

    /// Runs a write; returns after it is committed.
    async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        self.queue(work).await?.committed().await
    }

    /// Queues a write.
    async fn queue<T, F>(&self, work: F) -> Result<Pending<T>, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        self.send(|answer| other(work, answer)).await
    }

    async fn send<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<Pending<T>, StoreError> {
        let (answer, result) = oneshot::channel();
        self.writer.send(job(answer)).await.map_err(|_| StoreError::Closed)?;
        Ok(Pending(result))
    }

    /// Queues a job from within `gate`, which may leave it be.
    async fn send_through<T>(
        &self,
        gate: impl FnOnce(Box<dyn FnOnce() + Send + '_>) -> bool,
        job: impl FnOnce(Answer<T>) -> Job,
    ) -> Result<Option<Pending<T>>, StoreError> {
        let (answer, result) = oneshot::channel();
        let place = self.writer.reserve().await.map_err(|_| StoreError::Closed)?;
        let job = job(answer);
        Ok(gate(Box::new(move || place.send(job))).then_some(Pending(result)))
    }

    /// Returns after everything queued so far is committed.
    pub async fn settle(&self) -> Result<(), StoreError> {
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    /// The fleet this store belongs to; `None` before `init` has finished.
    pub async fn fleet(&self) -> Result<Option<(FleetId, String)>, StoreError> {
        read_fleet(sqlx::query(FLEET).fetch_optional(&self.reader).await?)
    }

    /// Records the fleet, its first bundle and its first administrator: the last step of `init`.
    ///
    /// # Errors
    /// When the database fails; then nothing is recorded.
    pub async fn create_fleet(
        &self,
        fleet: FleetId,
        name: String,
        bundles: Vec<(u64, Digest, Bytes)>,
        admin_token: Digest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move { insert_fleet(connection, (fleet, name), bundles, admin_token, now).await })
        })
        .await
    }

    /// Makes a fleet from a backup: as [`Self::create_fleet`], but its head is not confirmed, and agents it
    /// enrolled earlier may show their identity records.
    ///
    /// # Errors
    /// When the database fails; then nothing is recorded.
    pub async fn restore_fleet(
        &self,
        fleet: (FleetId, String),
        bundles: Vec<(u64, Digest, Bytes)>,
        removed: Vec<AgentId>,
        admin_token: Digest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                insert_fleet(connection, fleet, bundles, admin_token, now).await?;
                bundles::mark_restored(connection, removed, now).await
            })
        })
        .await
    }

    /// The latest time noted by [`Self::note_time`]; zero if none was.
    pub async fn latest_time(&self) -> Result<Timestamp, StoreError> {
        let row = sqlx::query("SELECT signed_at FROM clock").fetch_optional(&self.reader).await?;
        row.map_or(Ok(Timestamp::ZERO), |row| time(&row, "signed_at"))
    }

    /// Notes a time that is signed with; an earlier one only if it is `accepted` by an operator.
    pub async fn note_time(&self, now: Timestamp, accepted: bool) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "INSERT INTO clock VALUES (1, $1) ON CONFLICT DO UPDATE
                     SET signed_at = CASE WHEN $2 THEN excluded.signed_at ELSE max(signed_at, excluded.signed_at) END";
                sqlx::query(sql)
                    .bind(integer(now.as_millis()))
                    .bind(accepted)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await?;
        self.health.wrote();
        Ok(())
    }
}

const FLEET: &str = "SELECT fleet_id, name FROM fleet";

fn read_fleet(row: Option<sqlx::sqlite::SqliteRow>) -> Result<Option<(FleetId, String)>, StoreError> {
    row.map(|row| Ok((id(&row, "fleet_id", "fleet id")?, row.try_get("name")?))).transpose()
}

async fn insert_fleet(
    connection: &mut SqliteConnection,
    (fleet, name): (FleetId, String),
    bundles: Vec<(u64, Digest, Bytes)>,
    admin_token: Digest,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO fleet (only_row, fleet_id, name) VALUES (1, $1, $2)")
        .bind(fleet.as_bytes().as_slice())
        .bind(name)
        .execute(&mut *connection)
        .await?;
    bundles::insert(connection, bundles).await?;
    tokens::insert_admin(connection, admin_token, "admin", 4, now).await
}

/// SQLite's integers are signed; ours never come near 2^63.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default())
}

fn time(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<Timestamp, StoreError> {
    unsigned(row, column).map(Timestamp::from_millis)
}

fn bytes(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<Bytes, StoreError> {
    Ok(row.try_get::<Vec<u8>, _>(column)?.into())
}

fn id<T>(row: &sqlx::sqlite::SqliteRow, column: &str, what: &'static str) -> Result<T, StoreError>
where
    T: for<'a> TryFrom<&'a [u8]>,
{
    let stored: &[u8] = row.try_get(column)?;
    T::try_from(stored).map_err(|_| StoreError::Damaged(what))
}
