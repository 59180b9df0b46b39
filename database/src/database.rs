//! The handle both stores stand on.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use writ_common::admin::audit::NewAudit;
use writ_common::shutdown::Shutdown;

use crate::migrate::{Migration, migrate};
use crate::operators::Known;
use crate::readers::Readers;
use crate::sqlite::Access;
use crate::writer::{self, Batch, Health, Job, KeepOrUndo, MAX_WAITING_WRITES, Waiter};
use crate::{Connection, DatabaseError};

/// What a program's database is.
#[derive(Debug)]
pub struct Schema {
    /// The steps that bring a file up to date.
    pub migrations: &'static [Migration],
    /// What to do about a damaged file.
    pub cure: &'static str,
}

/// A write that waits for its commit.
#[derive(Debug)]
#[must_use]
pub struct Pending<T>(oneshot::Receiver<Result<T, DatabaseError>>);

impl<T> Pending<T> {
    /// Returns after it is committed.
    ///
    /// # Errors
    /// When it is not.
    pub async fn committed(self) -> Result<T, DatabaseError> {
        self.0.await.map_err(|_| DatabaseError::Closed)?
    }

    /// What came of it; itself if that is not decided yet.
    ///
    /// # Errors
    /// The inner one: when it is not committed.
    pub fn decided(mut self) -> Result<Result<T, DatabaseError>, Self> {
        match self.0.try_recv() {
            Ok(outcome) => Ok(outcome),
            Err(TryRecvError::Empty) => Err(self),
            Err(TryRecvError::Closed) => Ok(Err(DatabaseError::Closed)),
        }
    }
}

/// A handle; clones share the file. Every method that returns a [`DatabaseError`] fails when the database
/// does; what else it fails for, it says.
#[derive(Debug)]
pub struct Database<J> {
    // Before the writer: its connection is the last to close, so that SQLite takes its log over into the
    // file.
    readers: Arc<Readers>,
    writer: mpsc::Sender<Job<J>>,
    health: Arc<Health>,
    pub(crate) operators: Arc<Mutex<Known>>,
}

impl<J> Clone for Database<J> {
    fn clone(&self) -> Self {
        Self {
            readers: Arc::clone(&self.readers),
            writer: self.writer.clone(),
            health: Arc::clone(&self.health),
            operators: Arc::clone(&self.operators),
        }
    }
}

impl<J: Send + 'static> Database<J> {
    /// Opens a file that is there, and brings it up to date. What it is, is asked of [`crate::file`] first.
    /// `write_items` writes the jobs that only this program knows. `shutdown` waits until the file is closed,
    /// which is when every handle is gone.
    ///
    /// # Errors
    /// When the disk or the file is not usable.
    pub async fn open(
        path: &Path,
        schema: &Schema,
        write_items: impl FnMut(&mut Batch<'_>, Vec<J>) + Send + 'static,
        shutdown: &Shutdown,
    ) -> Result<Self, DatabaseError> {
        let &Schema { migrations, cure } = schema;
        let (writer, jobs) = mpsc::channel(MAX_WAITING_WRITES);
        let health = Arc::<Health>::default();
        let (opened, is_open) = oneshot::channel();
        let (closed, is_closed) = oneshot::channel::<()>();
        let (file, noted) = (path.to_owned(), Arc::clone(&health));
        let thread = std::thread::Builder::new().name("database".to_owned());
        let started = thread.spawn(move || {
            let connection = Connection::open(&file, Access::Write, cure).and_then(|mut connection| {
                migrate(&mut connection, migrations)?;
                connection.undo_in_memory()?;
                Ok(connection)
            });
            match connection {
                Ok(connection) => {
                    // Nobody waits any more: the channel of jobs is closed, too.
                    let _ = opened.send(Ok(()));
                    writer::write_batches(connection, jobs, &noted, write_items);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
            drop(closed);
        });
        started.map_err(|error| DatabaseError::Failed { why: error.to_string(), is_of_the_disk: false })?;
        // The file and what SQLite keeps beside it are as they stay when this has ended.
        shutdown.spawn(async move {
            let _ = is_closed.await;
        });
        is_open.await.map_err(|_| DatabaseError::Closed)??;
        let readers = Arc::new(Readers::new(path.to_owned(), cure));
        Ok(Self { readers, writer, health, operators: Arc::default() })
    }

    /// Runs a read.
    pub async fn read<T, F>(&self, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, DatabaseError> + Send + 'static,
    {
        self.readers.read(work).await
    }

    /// Runs a read that takes a moment, such as that of one row by its key, after those that were asked for
    /// before.
    pub async fn read_moment<T, F>(&self, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, DatabaseError> + Send + 'static,
    {
        self.readers.read_moment(work).await
    }

    /// Runs a write; returns after it is committed.
    pub async fn write<T, F>(&self, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, DatabaseError> + Send + 'static,
    {
        self.decide(move |connection| work(connection).map(KeepOrUndo::Keep)).await
    }

    /// Runs a write that may undo itself; returns after what it kept is committed.
    pub async fn decide<T, F>(&self, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<KeepOrUndo<T>, DatabaseError> + Send + 'static,
    {
        self.send(|answer| writer::other(work, answer)).await?.committed().await
    }

    /// Queues a job of the program.
    ///
    /// # Errors
    /// When the writer has ended.
    pub async fn queue<T>(&self, job: impl FnOnce(Waiter<T>) -> J) -> Result<Pending<T>, DatabaseError> {
        self.send(|answer| Job::Item(job(answer))).await
    }

    /// Queues a job from within `gate`, which may leave it be. Jobs are written in the order of their gates.
    ///
    /// # Errors
    /// When the writer has ended.
    pub async fn queue_through<T>(
        &self,
        gate: impl FnOnce(Box<dyn FnOnce() + Send + '_>) -> bool,
        job: impl FnOnce(Waiter<T>) -> J,
    ) -> Result<Option<Pending<T>>, DatabaseError> {
        let (answer, result) = oneshot::channel();
        let place = self.writer.reserve().await.map_err(|_| DatabaseError::Closed)?;
        let job = Job::Item(job(answer));
        Ok(gate(Box::new(move || place.send(job))).then_some(Pending(result)))
    }

    /// Queues a call for the audit log, in the order of the calls.
    ///
    /// # Errors
    /// When the writer has ended.
    pub async fn queue_audit(&self, call: NewAudit) -> Result<Pending<()>, DatabaseError> {
        self.send(|answer| Job::Audit(call, answer)).await
    }

    async fn send<T>(&self, job: impl FnOnce(Waiter<T>) -> Job<J>) -> Result<Pending<T>, DatabaseError> {
        let (answer, result) = oneshot::channel();
        self.writer.send(job(answer)).await.map_err(|_| DatabaseError::Closed)?;
        Ok(Pending(result))
    }

    /// Returns after everything queued so far is committed.
    pub async fn settle(&self) -> Result<(), DatabaseError> {
        self.write(|_| Ok(())).await
    }

    /// Whether the disk takes what is written: after a batch that was not stored, only once [`Self::wrote`]
    /// says so.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.health.is_good()
    }

    /// Something was stored that cannot have been stored already: the disk takes what is written.
    pub fn wrote(&self) {
        self.health.wrote();
    }

    /// Closes what reads, for all clones; what writes ends when the last handle is gone.
    pub async fn close(self) {
        self.readers.close().await;
    }
}
