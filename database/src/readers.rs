//! Connections that read while somebody writes. Each is opened when it is first needed, and stays.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::sqlite::Access;
use crate::{Connection, DatabaseError};

/// Reads at a time; others wait their turn. The file's pages are shared, so more would not be faster on the
/// few cores of a server.
const READERS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    cure: &'static str,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn new(path: PathBuf, cure: &'static str) -> Self {
        let turns = usize::try_from(READERS).unwrap_or(1);
        Self { path, cure, idle: Mutex::default(), turns: Arc::new(Semaphore::new(turns)) }
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

    fn take(&self) -> Result<Connection, DatabaseError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| Connection::open(&self.path, Access::Read, self.cure), Ok)
    }

    /// Waits for those that read, and closes all: nothing reads afterwards.
    pub(crate) async fn close(&self) {
        let all = self.turns.acquire_many(READERS).await;
        self.turns.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        drop(all);
    }
}
