//! The bytes of components, for agents that were told to hold them.
//!
//! An agent asks for one piece after the other, so that a slow one takes its own time and nobody else's. So
//! many fetch at a time; the others are told to ask again, and each yields after a while.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use writ_common::backoff::jitter;
use writ_proto::v1::Piece;
use writ_protocol::component::fact_of;
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_updates::{Folder, UpdateError};

/// Agents that fetch at a time. Twice the bytes of a piece may wait for each that does not read.
const FETCHING: usize = 256;
/// How long one of them may fetch before it yields to others.
const TURN: Duration = Duration::from_secs(30);
/// How long the others wait before they ask again: half of it to all of it.
const AGAIN: Duration = Duration::from_secs(2);
/// Files kept open: a component of each kind, and those of before.
const OPEN: usize = 4;

/// What agents can fetch.
#[derive(Debug)]
pub(crate) struct Pieces {
    turns: Arc<Semaphore>,
    /// The last ones that were asked for.
    open: Mutex<VecDeque<(Digest, Arc<File>)>>,
}

/// That an agent may fetch for a while.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    until: Instant,
}

impl Turn {
    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.until <= Instant::now()
    }
}

impl Pieces {
    pub(crate) fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(FETCHING)), open: Mutex::default() }
    }

    /// A turn, if one is free.
    pub(crate) fn turn(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        Some(Turn { _permit: permit, until: Instant::now() + TURN })
    }

    /// The bytes of a component from a place on; an answer without bytes says that there are none.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn read(
        &self,
        folder: &Folder,
        sha256: Digest,
        offset: u64,
    ) -> Result<Piece, UpdateError> {
        let Some(file) = self.file(folder, sha256)? else { return Ok(gone(sha256, offset)) };
        // Large files are not in the page cache as a rule, and a session must not wait for a disk.
        let read = tokio::task::spawn_blocking(move || {
            let mut data = vec![0; MAX_PIECE_BYTES];
            let read = file.read_at(&mut data, offset)?;
            data.truncate(read);
            Ok(data)
        });
        let failed = |error: std::io::Error| UpdateError::new(writ_updates::Reason::Disk, error.to_string());
        let data = read.await.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)?;
        if data.is_empty() {
            return Ok(gone(sha256, offset));
        }
        let sha256 = Bytes::copy_from_slice(sha256.as_bytes());
        Ok(Piece { sha256, offset, data: data.into(), gone: false, again_after_ms: 0 })
    }

    /// The open file of a component that agents have a use for, in force here or the one before it.
    fn file(&self, folder: &Folder, sha256: Digest) -> Result<Option<Arc<File>>, UpdateError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(digest, _)| *digest == sha256) {
            return Ok(Some(Arc::clone(file)));
        }
        let Some(file) = folder.open(sha256, |name| fact_of(name.as_ref()).is_some())? else {
            return Ok(None);
        };
        let file = Arc::new(file);
        if open.len() >= OPEN {
            open.pop_front();
        }
        open.push_back((sha256, Arc::clone(&file)));
        Ok(Some(file))
    }
}

fn gone(sha256: Digest, offset: u64) -> Piece {
    let sha256 = Bytes::copy_from_slice(sha256.as_bytes());
    Piece { sha256, offset, data: Bytes::new(), gone: true, again_after_ms: 0 }
}

/// What an agent hears for whom there is no turn.
pub(crate) fn again(sha256: Bytes, offset: u64) -> Piece {
    let wait = AGAIN - jitter(AGAIN / 2);
    let again_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    Piece { sha256, offset, data: Bytes::new(), gone: false, again_after_ms }
}
