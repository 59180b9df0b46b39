//! The one task that writes. It takes as many jobs as wait, puts them into one transaction, and answers all
//! of them after the one commit: a thousand receipts cost one sync of the disk, and nobody is told "stored"
//! before it is.
//!
//! Jobs that come in thousands have a lane: all of a batch are written by a few statements. When that fails,
//! each is written by itself, so that one that is at fault takes no other with it. Other jobs have a
//! savepoint each.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tracing::error;
use writ_common::admin::audit::NewAudit;
use writ_common::id::CommandId;

use super::StoreError;
use super::audit;
use super::commands::{self, NewCommand, RecordedCommand};
use super::contacts::{self, Contact, Heard, Noted};
use super::receipts::{self, NewReceipt, ReceiptFate};

/// A batch that takes longer than this stands before a disk that hangs.
const LONGEST_BATCH: Duration = Duration::from_secs(10);

/// Whether the disk takes what is written.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Writing>);

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
    pub(super) fn wrote(&self) {
        self.lock().has_failed = false;
    }

    pub(super) fn is_good(&self) -> bool {
        let writing = self.lock();
        !writing.has_failed && writing.since.is_none_or(|since| since.elapsed() < LONGEST_BATCH)
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes that may wait. Past it, callers wait their turn: the disk sets the pace, memory stays bounded.
pub(super) const MAX_WAITING_WRITES: usize = 4096;
/// Writes in one commit. Enough to make the sync of the disk cheap, few enough to keep latency in
/// milliseconds.
const MAX_BATCH: usize = 512;

/// Who waits for a write.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// Called after the commit, with the reason if there was none.
type Finish = Box<dyn FnOnce(Option<&str>) + Send>;

/// What there is to write.
pub(super) enum Job {
    Command(NewCommand, Answer<Option<RecordedCommand>>),
    Receipt(NewReceipt, Answer<ReceiptFate>),
    Audit(NewAudit, Answer<()>),
    Contact(Contact, Answer<Noted>),
    Heard(Heard, Answer<()>),
    Other(Other),
}

/// Gets the connection inside a transaction, or the reason why there is none.
pub(super) type Other =
    Box<dyn for<'c> FnOnce(Result<&'c mut SqliteConnection, String>) -> BoxFuture<'c, Finished> + Send>;

/// A job that ran, or could not.
pub(super) struct Finished {
    finish: Finish,
    /// Set when the transaction itself is in doubt, so that nothing of the batch may count.
    broken: Option<String>,
}

/// Writes several of a kind by a few statements; the answers are in the order of the items.
type Bulk<T, A> =
    for<'c> fn(&'c mut SqliteConnection, Arc<Vec<T>>) -> BoxFuture<'c, Result<Vec<A>, StoreError>>;

/// Wraps any write into a job.
pub(super) fn other<T, F>(work: F, answer: Answer<T>) -> Job
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
{
    Job::Other(Box::new(move |connection| {
        Box::pin(async move {
            let (done, broken) = match connection {
                Ok(connection) => in_savepoint(connection, work).await,
                Err(why) => (Err(StoreError::NotCommitted(why)), None),
            };
            Finished { finish: finish(answer, done), broken }
        })
    }))
}

fn finish<T: Send + 'static>(answer: Answer<T>, done: Result<T, StoreError>) -> Finish {
    Box::new(move |not_committed| {
        let not_committed = not_committed.map(|why| Err(StoreError::NotCommitted(why.to_owned())));
        // Whoever asked may have gone meanwhile.
        let _ = answer.send(not_committed.unwrap_or(done));
    })
}

/// Runs a write so that its failure undoes it alone. The second value is set when even that failed: SQLite
/// rolls a whole transaction back by itself when the disk is full, and what ran after it would stand outside
/// of any.
async fn in_savepoint<T, F>(
    connection: &mut SqliteConnection,
    work: F,
) -> (Result<T, StoreError>, Option<String>)
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>,
{
    if let Err(error) = connection.execute("SAVEPOINT one").await {
        let broken = error.to_string();
        return (Err(error.into()), Some(broken));
    }
    let done = work(connection).await;
    if let Err(error) = &done
        && is_of_the_disk(error)
    {
        let broken = error.to_string();
        return (done, Some(broken));
    }
    let end = if done.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
    let broken = connection.execute(end).await.err().map(|error| error.to_string());
    (done, broken)
}

/// Whether it says nothing of what was to be written, and everything of where: BUSY, NOMEM, IOERR and FULL,
/// after which SQLite asks for the whole transaction to be rolled back (sqlite.org/lang_transaction.html),
/// and READONLY, which no other write would survive either.
fn is_of_the_disk(error: &StoreError) -> bool {
    let StoreError::Database(error) = error else { return false };
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 7 | 8 | 10 | 13))
}

/// One transaction and what is to be said after it.
struct Batch<'c> {
    connection: &'c mut SqliteConnection,
    failed: Option<String>,
    finishes: Vec<Finish>,
}

impl Batch<'_> {
    async fn run(&mut self, other: Other) {
        let inside = match &self.failed {
            None => Ok(&mut *self.connection),
            Some(why) => Err(why.clone()),
        };
        let Finished { finish, broken } = other(inside).await;
        self.failed = self.failed.take().or(broken);
        self.finishes.push(finish);
    }

    async fn run_lane<T, A>(&mut self, jobs: Vec<(T, Answer<A>)>, bulk: Bulk<T, A>)
    where
        T: Clone + Send + Sync + 'static,
        A: Send + 'static,
    {
        if jobs.is_empty() {
            return;
        }
        let (items, answers): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        let items = Arc::new(items);
        let all = Arc::clone(&items);
        if let Ok(done) = self.attempt(move |connection| bulk(connection, all)).await {
            self.finishes
                .extend(done.into_iter().zip(answers).map(|(done, answer)| finish(answer, Ok(done))));
            return;
        }
        for (item, answer) in items.iter().zip(answers) {
            let only = Arc::new(vec![item.clone()]);
            let done = self.attempt(move |connection| bulk(connection, only)).await;
            let done = done.and_then(|mut done| done.pop().ok_or(StoreError::Closed));
            self.finishes.push(finish(answer, done));
        }
    }

    async fn attempt<T, F>(&mut self, work: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    {
        if let Some(why) = &self.failed {
            return Err(StoreError::NotCommitted(why.clone()));
        }
        let (done, broken) = in_savepoint(self.connection, work).await;
        self.failed = broken;
        done
    }
}

/// Jobs of one batch, by lane.
#[derive(Default)]
struct Lanes {
    audits: Lane<NewAudit, ()>,
    commands: Lane<NewCommand, Option<RecordedCommand>>,
    receipts: Lane<NewReceipt, ReceiptFate>,
    /// Before the contacts: what an older session heard is known when a newer one is judged.
    heard: Lane<Heard, ()>,
    contacts: Lane<Contact, Noted>,
}

type Lane<T, A> = Vec<(T, Answer<A>)>;

impl Lanes {
    /// The jobs that have a lane, and the others.
    fn sort(jobs: impl Iterator<Item = Job>) -> (Self, Vec<Other>) {
        let (mut lanes, mut others) = (Self::default(), Vec::new());
        for job in jobs {
            match job {
                Job::Command(command, answer) => lanes.commands.push((command, answer)),
                Job::Receipt(receipt, answer) => lanes.receipts.push((receipt, answer)),
                Job::Audit(entry, answer) => lanes.audits.push((entry, answer)),
                Job::Contact(contact, answer) => lanes.contacts.push((contact, answer)),
                Job::Heard(heard, answer) => lanes.heard.push((heard, answer)),
                Job::Other(other) => others.push(other),
            }
        }
        (lanes, others)
    }

    /// Writes everything in one transaction without savepoints, which is right nearly always: each statement
    /// costs two changes of threads. `None` when something failed: then nothing is written, and all of it
    /// can be tried again.
    async fn write_at_once(&self, connection: &mut SqliteConnection) -> Option<Done> {
        async fn items<T: Clone, A>(
            connection: &mut SqliteConnection,
            lane: &Lane<T, A>,
            bulk: Bulk<T, A>,
        ) -> Option<Vec<A>> {
            if lane.is_empty() {
                return Some(Vec::new());
            }
            let items = Arc::new(lane.iter().map(|(item, _)| item.clone()).collect());
            bulk(connection, items).await.ok()
        }
        let work = async {
            connection.execute("BEGIN IMMEDIATE").await.ok()?;
            let done = Done {
                audits: items(connection, &self.audits, audit::append).await?,
                commands: items(connection, &self.commands, commands::record).await?,
                receipts: items(connection, &self.receipts, receipts::record_receipts).await?,
                heard: items(connection, &self.heard, contacts::note_all_heard).await?,
                contacts: items(connection, &self.contacts, contacts::note_contacts).await?,
            };
            connection.execute("COMMIT").await.ok()?;
            Some(done)
        };
        let done = work.await;
        if done.is_none() {
            // Whether one was begun or not, none is open afterwards.
            let _ = connection.execute("ROLLBACK").await;
        }
        done
    }

    fn answer(self, done: Done) {
        fn each<T, A>(lane: Lane<T, A>, done: Vec<A>) {
            for ((_, answer), done) in lane.into_iter().zip(done) {
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(Ok(done));
            }
        }
        each(self.audits, done.audits);
        each(self.commands, done.commands);
        each(self.receipts, done.receipts);
        each(self.heard, done.heard);
        each(self.contacts, done.contacts);
    }

    /// Writes each job so that its failure undoes it alone; whether there was something to write to.
    async fn write_apart(self, others: Vec<Other>, connection: &mut SqliteConnection) -> bool {
        let failed = connection.execute("BEGIN IMMEDIATE").await.err().map(|error| error.to_string());
        let mut batch = Batch { connection, failed, finishes: Vec::new() };
        for other in others {
            batch.run(other).await;
        }
        batch.run_lane(self.audits, audit::append).await;
        batch.run_lane(self.commands, commands::record).await;
        batch.run_lane(self.receipts, receipts::record_receipts).await;
        batch.run_lane(self.heard, contacts::note_all_heard).await;
        batch.run_lane(self.contacts, contacts::note_contacts).await;
        let Batch { connection, mut failed, finishes } = batch;
        if failed.is_none() {
            failed = connection.execute("COMMIT").await.err().map(|error| error.to_string());
        }
        if let Some(error) = &failed {
            error!(%error, "nothing of this batch is stored");
            // There may be no transaction left to roll back; either way none is open afterwards.
            let _ = connection.execute("ROLLBACK").await;
        }
        for finish in finishes {
            finish(failed.as_deref());
        }
        failed.is_none()
    }
}

/// What a batch came to, in the order of its lanes.
struct Done {
    audits: Vec<()>,
    commands: Vec<Option<RecordedCommand>>,
    receipts: Vec<ReceiptFate>,
    heard: Vec<()>,
    contacts: Vec<Noted>,
}

/// The writer's task. Ends when every handle is gone.
pub(super) async fn write_batches(
    mut connection: SqliteConnection,
    mut jobs: mpsc::Receiver<Job>,
    changes: broadcast::Sender<CommandId>,
    health: Arc<Health>,
) {
    let mut waiting = Vec::new();
    while jobs.recv_many(&mut waiting, MAX_BATCH).await > 0 {
        health.begin();
        let (lanes, others) = Lanes::sort(waiting.drain(..));
        let changed: HashSet<_> = lanes.receipts.iter().map(|(receipt, _)| receipt.command).collect();
        let at_once = match others.is_empty() {
            true => lanes.write_at_once(&mut connection).await,
            false => None,
        };
        let is_stored = match at_once {
            Some(done) => {
                lanes.answer(done);
                true
            }
            None => lanes.write_apart(others, &mut connection).await,
        };
        health.end(is_stored);
        for command in changed {
            // Nobody watching is not an error.
            let _ = changes.send(command);
        }
    }
    // Awaited, so that the file and what SQLite keeps beside it are as they stay when this task has ended.
    if let Err(error) = connection.close().await {
        error!(%error, "the database was not closed in good order");
    }
}
