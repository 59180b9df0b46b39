//! Connections that read while somebody writes. Each is opened when it is first needed, and stays.
//!
//! Reads that take a moment, such as one row by its key, come in thousands when a fleet comes back. They have
//! a thread of their own, which makes one after the other: handing each to a thread that sleeps would cost
//! more than the read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::sqlite::Access;
use crate::{Connection, DatabaseError};

/// Reads at a time; others wait their turn. The file's pages are shared, so more would not be faster on the
/// few cores of a server.
const READERS: u32 = 4;

/// Moments that wait their turn; past it, callers wait.
const MAX_WAITING: usize = 4096;

type Moment = Box<dyn FnOnce(Result<&mut Connection, DatabaseError>) + Send>;

/// The thread of the reads that take a moment.
#[derive(Debug)]
struct Moments {
    waiting: mpsc::Sender<Moment>,
    thread: JoinHandle<()>,
}

impl Moments {
    /// Returns when what waits is read and the connection is closed.
    fn end(self) {
        drop(self.waiting);
        // A read that panics does not end it.
        let _ = self.thread.join();
    }
}

impl Drop for Readers {
    /// Nobody waits any more: the thread only closes its connection.
    fn drop(&mut self) {
        if let Some(moments) = self.moments.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            moments.end();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    cure: &'static str,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
    /// `None` before the first one, and after the end.
    moments: Mutex<Option<Moments>>,
}

impl Readers {
    pub(crate) fn new(path: PathBuf, cure: &'static str) -> Self {
        let turns = usize::try_from(READERS).unwrap_or(1);
        let turns = Arc::new(Semaphore::new(turns));
        Self { path, cure, idle: Mutex::default(), turns, moments: Mutex::default() }
    }

    /// Runs a read where it may block.
    pub(crate) async fn read<T, F>(self: &Arc<Self>, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, DatabaseError> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| DatabaseError::Closed)?;
        let readers = Arc::clone(self);
        // It goes on when its caller hangs up, and keeps its turn as long.
        let running = tokio::task::spawn_blocking(move || {
            let mut connection = readers.take()?;
            let done = work(&mut connection);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(turn);
            done
        });
        running.await.map_err(|_| DatabaseError::Closed)?
    }

    /// Runs a read that takes a moment, after those that were asked for before.
    pub(crate) async fn read_moment<T, F>(self: &Arc<Self>, work: F) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, DatabaseError> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let moment: Moment = Box::new(move |connection| {
            // The caller may have gone meanwhile.
            let _ = answer.send(connection.and_then(work));
        });
        let waiting = self.moments()?;
        waiting.send(moment).await.map_err(|_| DatabaseError::Closed)?;
        result.await.map_err(|_| DatabaseError::Closed)?
    }

    fn moments(self: &Arc<Self>) -> Result<mpsc::Sender<Moment>, DatabaseError> {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Moments { waiting, .. }) = &*moments {
            return Ok(waiting.clone());
        }
        if self.turns.is_closed() {
            return Err(DatabaseError::Closed);
        }
        let (waiting, taken) = mpsc::channel(MAX_WAITING);
        let (path, cure) = (self.path.clone(), self.cure);
        let thread = std::thread::Builder::new().name("look-ups".to_owned());
        let started =
            thread.spawn(move || read_moments(taken, || Connection::open(&path, Access::Read, cure)));
        let thread = started
            .map_err(|error| DatabaseError::Failed { why: error.to_string(), is_of_the_disk: false })?;
        *moments = Some(Moments { waiting: waiting.clone(), thread });
        Ok(waiting)
    }

    fn take(&self) -> Result<Connection, DatabaseError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| Connection::open(&self.path, Access::Read, self.cure), Ok)
    }

    /// Waits for those that read, and closes all: nothing reads afterwards.
    pub(crate) async fn close(&self) {
        let all = self.turns.acquire_many(READERS).await;
        self.turns.close();
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(moments) = moments {
            let _ = tokio::task::spawn_blocking(|| moments.end()).await;
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(all);
    }
}

/// Ends when every sender is gone.
fn read_moments(mut waiting: mpsc::Receiver<Moment>, open: impl Fn() -> Result<Connection, DatabaseError>) {
    let mut kept = None;
    while let Some(moment) = waiting.blocking_recv() {
        let mut connection = match kept.take().map_or_else(&open, Ok) {
            Ok(connection) => connection,
            Err(error) => {
                moment(Err(error));
                continue;
            }
        };
        // A read that panics takes its connection with it, and its caller hears that it is closed.
        if catch_unwind(AssertUnwindSafe(|| moment(Ok(&mut connection)))).is_ok() {
            kept = Some(connection);
        }
    }
}
