//! The one thread that writes. It takes as many jobs as wait, puts them into one transaction, and answers all
//! of them after the one commit: a thousand receipts cost one sync of the disk, and nobody is told "stored"
//! before it is.
//!
//! Jobs that come in thousands have a lane: all of a batch are written together. When that fails, each is
//! written by itself, so that one that is at fault takes no other with it. Other jobs are each a part of the
//! transaction that can be undone alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::error;
use writ_common::admin::audit::NewAudit;

use crate::audit;
use crate::{Connection, DatabaseError};

/// Writes that may wait. Past it, callers wait their turn: the disk sets the pace, memory stays bounded.
pub(crate) const MAX_WAITING_WRITES: usize = 4096;
/// Writes in one commit. Enough to make the sync of the disk cheap, few enough to keep latency in
/// milliseconds.
const MAX_BATCH: usize = 512;
/// How often a batch that grows lets other threads run before it begins. Past it, it begins as it is: where
/// many threads want to run, each turn may take milliseconds.
const MAX_TURNS: usize = 4;
/// A batch that takes longer than this stands before a disk that hangs.
const LONGEST_BATCH: Duration = Duration::from_secs(10);

/// Whether the disk takes what is written.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Writing>);

#[derive(Debug, Default)]
struct Writing {
    /// Since when a batch is being written.
    since: Option<Instant>,
    /// The latest batch was not stored, and nothing that surely wrote was since.
    has_failed: bool,
}

impl Health {
    fn begin(&self) {
        self.lock().since = Some(Instant::now());
    }

    fn end(&self, is_stored: bool) {
        let mut writing = self.lock();
        writing.since = None;
        writing.has_failed |= !is_stored;
    }

    /// Something was stored that cannot have been stored already.
    pub(crate) fn wrote(&self) {
        self.lock().has_failed = false;
    }

    pub(crate) fn is_good(&self) -> bool {
        let writing = self.lock();
        !writing.has_failed && writing.since.is_none_or(|since| since.elapsed() < LONGEST_BATCH)
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the outcome of a write is awaited.
pub type Waiter<T> = oneshot::Sender<Result<T, DatabaseError>>;

/// What a write decided about itself.
#[derive(Debug)]
pub enum KeepOrUndo<T> {
    /// What it wrote counts.
    Keep(T),
    /// What it wrote is undone.
    Undo(T),
}

/// Called after the commit, with the reason if there was none.
type Finish = Box<dyn FnOnce(Option<&str>) + Send>;

/// A write of its own, and what is to be said after the commit.
pub(crate) type Other = Box<dyn FnOnce(&mut Batch<'_>) + Send>;

/// What there is to write: `J` are the jobs that only one program knows.
pub(crate) enum Job<J> {
    Other(Other),
    Audit(NewAudit, Waiter<()>),
    Item(J),
}

/// Wraps a write into a job.
pub(crate) fn other<J, T, F>(work: F, answer: Waiter<T>) -> Job<J>
where
    T: Send + 'static,
    F: FnOnce(&mut Connection) -> Result<KeepOrUndo<T>, DatabaseError> + Send + 'static,
{
    Job::Other(Box::new(move |batch| {
        let done = batch.attempt(work);
        batch.answer(answer, done);
    }))
}

/// One transaction under way.
pub struct Batch<'c> {
    connection: &'c mut Connection,
    /// Set when the transaction itself is in doubt, so that nothing of the batch may count.
    failed: Option<String>,
    finishes: Vec<Finish>,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Batch<'_> {
    /// Writes jobs of one kind together; the outcomes that `write` returns are in the order of its items.
    /// When that fails, each is written by itself.
    pub fn lane<T: Send + 'static, A: Send + 'static>(
        &mut self,
        jobs: Vec<(T, Waiter<A>)>,
        write: fn(&mut Connection, &[T]) -> Result<Vec<A>, DatabaseError>,
    ) {
        let (items, answers): (Vec<_>, _) = jobs.into_iter().unzip();
        let outcomes = self.write_lane(&items, write);
        self.finishes.push(Box::new(move |not_committed| {
            answer_all(answers, outcomes, not_committed);
        }));
    }

    /// The same; when everybody has their answer, `tell` hears of each item that was committed, and of its
    /// outcome.
    pub fn lane_and_tell<T: Send + 'static, A: Copy + Send + 'static>(
        &mut self,
        jobs: Vec<(T, Waiter<A>)>,
        write: fn(&mut Connection, &[T]) -> Result<Vec<A>, DatabaseError>,
        tell: fn(&T, A),
    ) {
        let (items, answers): (Vec<_>, _) = jobs.into_iter().unzip();
        let outcomes = self.write_lane(&items, write);
        self.finishes.push(Box::new(move |not_committed| {
            let told: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().ok().copied()).collect();
            answer_all(answers, outcomes, not_committed);
            for (item, outcome) in items.iter().zip(told).filter(|_| not_committed.is_none()) {
                if let Some(outcome) = outcome {
                    tell(item, outcome);
                }
            }
        }));
    }

    fn write_lane<T, A>(
        &mut self,
        items: &[T],
        write: fn(&mut Connection, &[T]) -> Result<Vec<A>, DatabaseError>,
    ) -> Vec<Result<A, DatabaseError>> {
        if items.is_empty() {
            return Vec::new();
        }
        match self.attempt(|connection| write(connection, items).map(KeepOrUndo::Keep)) {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(_) => items.iter().map(|item| self.alone(item, write)).collect(),
        }
    }

    fn alone<T, A>(
        &mut self,
        item: &T,
        write: fn(&mut Connection, &[T]) -> Result<Vec<A>, DatabaseError>,
    ) -> Result<A, DatabaseError> {
        self.attempt(|connection| {
            let mut outcomes = write(connection, std::slice::from_ref(item))?;
            outcomes.pop().map(KeepOrUndo::Keep).ok_or(DatabaseError::Closed)
        })
    }

    /// Calls something after the commit, or after there was none.
    pub fn afterwards(&mut self, call: impl FnOnce() + Send + 'static) {
        self.finishes.push(Box::new(|_| call()));
    }

    /// Runs a write so that its failure, or its panic, undoes it alone. SQLite rolls a whole transaction back
    /// by itself when the disk is full, and what ran after that would stand outside of any: then the batch
    /// has failed.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> Result<KeepOrUndo<T>, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        if let Some(why) = &self.failed {
            return Err(DatabaseError::NotCommitted(why.clone()));
        }
        // A connection is whole after a panic: its statements were reset, and the part is undone.
        let run = |connection: &mut Connection| {
            let ended = catch_unwind(AssertUnwindSafe(|| work(connection)));
            ended.unwrap_or_else(|_| {
                let why = "a write panicked; the log says where".to_owned();
                Err(DatabaseError::Failed { why, is_of_the_disk: false })
            })
        };
        let done = self.connection.begin_part().and_then(|()| run(self.connection));
        if let Err(DatabaseError::Failed { why, is_of_the_disk: true }) = &done {
            self.failed = Some(why.clone());
        } else {
            let ended = self.connection.end_part(matches!(done, Ok(KeepOrUndo::Keep(_))));
            self.failed = ended.err().map(|error| error.to_string());
        }
        done.map(|decision| match decision {
            KeepOrUndo::Keep(outcome) | KeepOrUndo::Undo(outcome) => outcome,
        })
    }

    fn answer<T: Send + 'static>(&mut self, answer: Waiter<T>, outcome: Result<T, DatabaseError>) {
        self.finishes.push(Box::new(move |not_committed| {
            // The caller may have gone meanwhile.
            let _ = answer.send(committed(outcome, not_committed));
        }));
    }

    /// Ends the transaction and tells everybody. What the disk did is noted first: a caller who hears of a
    /// failure and asks how the disk is, hears the same.
    fn end(self, health: &Health) {
        let Batch { connection, mut failed, finishes } = self;
        if failed.is_none() {
            failed = connection.commit().err().map(|error| error.to_string());
        }
        if let Some(error) = &failed {
            error!(%error, "nothing of this batch is stored");
            // There may be no transaction left to roll back; either way none is open afterwards.
            let _ = connection.roll_back();
        }
        health.end(failed.is_none());
        for finish in finishes {
            finish(failed.as_deref());
        }
    }
}

/// Tells everybody of a lane what came of it.
fn answer_all<A>(
    answers: Vec<Waiter<A>>,
    outcomes: Vec<Result<A, DatabaseError>>,
    not_committed: Option<&str>,
) {
    for (answer, outcome) in answers.into_iter().zip(outcomes) {
        // The caller may have gone meanwhile.
        let _ = answer.send(committed(outcome, not_committed));
    }
}

/// What came of a write whose batch was not committed, if there is a reason why.
fn committed<T>(outcome: Result<T, DatabaseError>, not_committed: Option<&str>) -> Result<T, DatabaseError> {
    match not_committed {
        None => outcome,
        Some(why) => Err(DatabaseError::NotCommitted(why.to_owned())),
    }
}

/// Waits for a job and takes all that wait; none when every handle is gone. While more come, the threads that
/// are about to send one run first, and their jobs share the commit. A job that comes alone is not held up.
fn take<J>(jobs: &mut mpsc::Receiver<J>, taken: &mut Vec<J>) {
    jobs.blocking_recv_many(taken, MAX_BATCH);
    let mut before = 1;
    for _ in 0..MAX_TURNS {
        if taken.len() <= before || taken.len() >= MAX_BATCH {
            return;
        }
        before = taken.len();
        std::thread::yield_now();
        while taken.len() < MAX_BATCH
            && let Ok(job) = jobs.try_recv()
        {
            taken.push(job);
        }
    }
}

/// The thread's work. Ends when every handle is gone.
pub(crate) fn write_batches<J>(
    mut connection: Connection,
    mut jobs: mpsc::Receiver<Job<J>>,
    health: &Arc<Health>,
    mut write_items: impl FnMut(&mut Batch<'_>, Vec<J>),
) {
    let mut waiting = Vec::new();
    loop {
        take(&mut jobs, &mut waiting);
        if waiting.is_empty() {
            break;
        }
        health.begin();
        let failed = connection.begin().err().map(|error| error.to_string());
        let mut batch = Batch { connection: &mut connection, failed, finishes: Vec::new() };
        let (mut audits, mut items) = (Vec::new(), Vec::new());
        for job in waiting.drain(..) {
            match job {
                Job::Other(other) => other(&mut batch),
                Job::Audit(entry, answer) => audits.push((entry, answer)),
                Job::Item(item) => items.push(item),
            }
        }
        batch.lane(audits, audit::append_all);
        write_items(&mut batch, items);
        batch.end(health);
    }
    if let Err(error) = connection.close() {
        error!(%error, "the database was not closed in good order");
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use writ_common::shutdown::Shutdown;

    use super::*;
    use crate::{Database, Migration, Schema, ToValue as _, file, values};

    const SCHEMA: Schema = Schema {
        migrations: &[Migration {
            version: 1,
            name: "initial",
            sql: "CREATE TABLE words (word TEXT PRIMARY KEY, size BIGINT NOT NULL)",
        }],
        cure: "put a copy back",
    };

    type Word = (String, Waiter<usize>);

    fn write_words(connection: &mut Connection, words: &[String]) -> Result<Vec<usize>, DatabaseError> {
        let rows: Vec<_> = words.iter().map(|word| (word, u64::try_from(word.len()).unwrap())).collect();
        connection.execute_each(
            "INSERT INTO words VALUES (?1, ?2)",
            rows.iter().map(|(word, size)| values![word, size]),
        )?;
        Ok(words.iter().map(String::len).collect())
    }

    async fn database() -> (TempDir, Shutdown, Database<Word>) {
        let (folder, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
        let path = folder.path().join("test.db");
        file::make(&path).unwrap();
        let write = |batch: &mut Batch<'_>, words| batch.lane(words, write_words);
        let database = Database::open(&path, &SCHEMA, write, &shutdown).await.unwrap();
        (folder, shutdown, database)
    }

    async fn words(database: &Database<Word>) -> Vec<String> {
        let sql = "SELECT word FROM words ORDER BY word";
        database
            .read(move |connection| connection.fetch(sql, &[], |record| record.get("word")))
            .await
            .unwrap()
    }

    /// A write that waits until it may go on, so that what is queued meanwhile is one batch.
    async fn hold(
        database: &Database<Word>,
    ) -> (std::sync::mpsc::Sender<()>, impl Future<Output = ()> + use<>) {
        let (go_on, waits) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let held = database.clone();
        let held = async move {
            held.write(move |_| {
                begun.send(()).unwrap();
                waits.recv().unwrap_err();
                Ok(())
            })
            .await
            .unwrap();
        };
        let mut held = Box::pin(held);
        let begins = std::future::poll_fn(|context| {
            let _ = held.as_mut().poll(context);
            std::task::Poll::Ready(())
        });
        begins.await;
        has_begun.await.unwrap();
        (go_on, held)
    }

    #[tokio::test]
    async fn one_write_that_fails_takes_no_other_of_its_batch_with_it() {
        let (_folder, _shutdown, database) = database().await;
        let (go_on, held) = hold(&database).await;
        let mut pending = Vec::new();
        for word in ["one", "two", "one", "three"] {
            pending.push(database.queue(|answer| (word.to_owned(), answer)).await.unwrap());
        }
        drop(go_on);
        held.await;
        let mut outcomes = Vec::new();
        for pending in pending {
            outcomes.push(pending.committed().await.ok());
        }
        assert_eq!(outcomes, [Some(3), Some(3), None, Some(5)]);
        assert_eq!(words(&database).await, ["one", "three", "two"]);
        assert!(database.is_writing(), "the disk is not at fault");
    }

    #[tokio::test]
    async fn a_write_that_undoes_itself_leaves_nothing_and_still_answers() {
        let (_folder, _shutdown, database) = database().await;
        let insert =
            |connection: &mut Connection| connection.execute("INSERT INTO words VALUES ('one', 1)", &[]);
        let undone = database.decide(move |connection| {
            insert(connection)?;
            Ok(KeepOrUndo::Undo("no"))
        });
        assert_eq!(undone.await.unwrap(), "no");
        assert!(words(&database).await.is_empty());
        database.write(move |connection| insert(connection).map(drop)).await.unwrap();
        assert_eq!(words(&database).await, ["one"]);
    }

    #[tokio::test]
    async fn a_write_that_panics_is_undone_alone_and_the_next_is_written() {
        let (_folder, _shutdown, database) = database().await;
        let panics = database.write(|connection| -> Result<(), DatabaseError> {
            let _ = connection.execute("INSERT INTO words VALUES ('half', 4)", &[])?;
            panic!("on purpose");
        });
        let error = panics.await.unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
        let next = database.queue(|answer| ("next".to_owned(), answer)).await.unwrap();
        assert_eq!(next.committed().await.unwrap(), 4);
        assert_eq!(words(&database).await, ["next"]);
    }

    #[tokio::test]
    async fn on_a_full_disk_nothing_of_a_batch_counts_and_nobody_is_told_it_did() {
        let (_folder, _shutdown, database) = database().await;
        database.write(|connection| connection.run("PRAGMA max_page_count = 8")).await.unwrap();
        let (go_on, held) = hold(&database).await;
        let small = database.queue(|answer| ("small".to_owned(), answer)).await.unwrap();
        let large = database.queue(|answer| ("x".repeat(100_000), answer)).await.unwrap();
        drop(go_on);
        held.await;
        for pending in [small, large] {
            let error = pending.committed().await.unwrap_err();
            assert!(error.to_string().contains("full"), "{error}");
        }
        assert!(words(&database).await.is_empty());
        assert!(!database.is_writing());
        // Room again: known by a write that reached the disk.
        database.write(|connection| connection.run("PRAGMA max_page_count = 1000")).await.unwrap();
        assert!(!database.is_writing());
        let small = database.queue(|answer| ("small".to_owned(), answer)).await.unwrap();
        assert_eq!(small.committed().await.unwrap(), 5);
        database.wrote();
        assert!(database.is_writing());
    }

    #[tokio::test]
    async fn the_file_is_closed_when_the_shutdown_has_waited() {
        ends_well(true).await;
        ends_well(false).await;
    }

    async fn ends_well(is_closed: bool) {
        let (folder, shutdown, database) = database().await;
        let small = database.queue(|answer| ("small".to_owned(), answer)).await.unwrap();
        let _ = small.committed().await.unwrap();
        assert_eq!(words(&database).await, ["small"]);
        let sql = "SELECT size FROM words WHERE word = 'small'";
        let read =
            |connection: &mut Connection| connection.only(sql, &[], |record| record.get::<u64>("size"));
        assert_eq!(database.read_moment(read).await.unwrap(), 5);
        assert!(folder.path().join("test.db-wal").exists());
        // With and without a word, as the programs end.
        if is_closed {
            database.close().await;
        } else {
            drop(database);
        }
        assert!(shutdown.drain(Duration::from_secs(60)).await);
        assert!(!folder.path().join("test.db-wal").exists(), "the log is taken over into the file");
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_told_with_its_cure() {
        let (folder, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
        let path = folder.path().join("test.db");
        std::fs::write(&path, [7; 4096]).unwrap();
        let opened = Database::<Word>::open(&path, &SCHEMA, |_, _| {}, &shutdown).await;
        let error = opened.unwrap_err();
        assert!(matches!(&error, DatabaseError::DamagedFile { .. }), "{error}");
        assert!(error.to_string().ends_with("put a copy back"), "{error}");
    }
}
