//! The bytes of components, for agents that were told to hold them.
//!
//! An agent asks for one piece after the other, so that a slow one takes its own time and nobody else's. So
//! many fetch at a time; the others are told to ask again, and each yields after a while when others wait.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::warn;
use writ_common::backoff::jitter;
use writ_common::status::Failure;
use writ_proto::v1::Piece;
use writ_protocol::component::fact_of;
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_updates::{Folder, ShelfState};

/// Agents that fetch at a time.
const FETCHING: usize = 256;
/// How long one of them may fetch before it yields to others.
const TURN: Duration = Duration::from_secs(30);
/// How long the others wait before they ask again: half of it to all of it.
const AGAIN: Duration = Duration::from_secs(2);
/// How long an agent yields: whoever waits has asked again by then.
const YIELDS: Duration = Duration::from_secs(4);
/// How long after its turn an agent may leave unread what it asked for: until then it takes the turn of others.
const UNREAD: Duration = Duration::from_secs(300);
/// How long agents wait when the disk fails: half of it to all of it.
const AFTER_FAULT: Duration = Duration::from_secs(30);
/// Faults of the disk are logged once in so much time, however many agents ask.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Files kept open: a component of each kind, and those of before.
const OPEN: usize = 4;

/// What agents can fetch.
#[derive(Debug)]
pub(crate) struct Pieces {
    turns: Arc<Semaphore>,
    open: Mutex<Open>,
    warned: Mutex<Option<Instant>>,
}

/// Files that were asked for, the latest first. They are forgotten when something else comes into force:
/// what somebody went back from is sent to nobody any more.
#[derive(Debug, Default)]
struct Open {
    state: Option<ShelfState>,
    files: VecDeque<(Digest, Arc<File>)>,
}

/// That an agent may fetch for a while.
#[derive(Debug)]
struct Turn {
    _permit: OwnedSemaphorePermit,
    until: Instant,
}

/// What one session has of all that can be fetched.
#[derive(Debug, Default)]
pub(crate) struct Share {
    turn: Option<Turn>,
    yields_until: Option<Instant>,
}

impl Share {
    /// Ends a turn that is over: one that stopped asking keeps nobody else from it.
    ///
    /// # Errors
    /// When the agent does not read what it asked for.
    pub(crate) fn look(&mut self, pieces: &Pieces, is_idle: bool) -> Result<(), Failure> {
        let Some(Turn { until, .. }) = self.turn else { return Ok(()) };
        let now = Instant::now();
        if now < until {
            return Ok(());
        }
        // What waits to be read takes room here, so that the turn lasts until then.
        if !is_idle {
            let text = "the agent does not read the component that it asked for";
            return if now < until + UNREAD { Ok(()) } else { Err(Failure::exhausted(text)) };
        }
        if pieces.turns.available_permits() == 0 {
            self.yields_until = Some(now + YIELDS);
        }
        self.turn = None;
        Ok(())
    }

    /// Whether it may have a piece now.
    pub(crate) fn may_fetch(&mut self, pieces: &Pieces, is_idle: bool) -> bool {
        let yields = self.yields_until.is_some_and(|until| Instant::now() < until);
        if self.turn.is_none() && !yields {
            self.turn = pieces.turn();
        }
        self.turn.is_some() && is_idle
    }

    /// It has all that it asked for: the turn is over when it has read it.
    pub(crate) fn ends(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.until = Instant::now();
        }
    }
}

impl Pieces {
    pub(crate) fn new() -> Self {
        Self::with(FETCHING)
    }

    fn with(turns: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(turns)), open: Mutex::default(), warned: Mutex::default() }
    }

    fn turn(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        Some(Turn { _permit: permit, until: Instant::now() + TURN })
    }

    /// The bytes of a component from a place on; an answer without bytes says that there are none, or, when the
    /// disk fails, to ask later.
    pub(crate) async fn read(self: &Arc<Self>, folder: &Folder, sha256: Digest, offset: u64) -> Piece {
        let (pieces, folder) = (Arc::clone(self), folder.clone());
        // Large files are not in the page cache as a rule, and a session must not wait for a disk.
        let read = tokio::task::spawn_blocking(move || pieces.read_now(&folder, sha256, offset)).await;
        let data = read.map_err(io::Error::other).flatten();
        let sha256 = Bytes::copy_from_slice(sha256.as_bytes());
        match data {
            Ok(data) => Piece { sha256, offset, gone: data.is_empty(), data: data.into(), again_after_ms: 0 },
            Err(error) => {
                self.warn(&error);
                again(sha256, offset, AFTER_FAULT)
            }
        }
    }

    fn read_now(&self, folder: &Folder, sha256: Digest, offset: u64) -> io::Result<Vec<u8>> {
        let Some(file) = self.file(folder, sha256)? else { return Ok(Vec::new()) };
        let mut data = vec![0; MAX_PIECE_BYTES];
        let read = file.read_at(&mut data, offset)?;
        data.truncate(read);
        Ok(data)
    }

    /// The open file of a component that agents have a use for, in force here or the one before it.
    fn file(&self, folder: &Folder, sha256: Digest) -> io::Result<Option<Arc<File>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let state = folder.shelf_state();
        if open.state != state {
            *open = Open { state, ..Open::default() };
        }
        let file = match open.files.iter().position(|(digest, _)| *digest == sha256) {
            Some(place) => open.files.remove(place).map(|(_, file)| file),
            None => folder
                .open(sha256, |name| fact_of(name.as_ref()).is_some())
                .map_err(|error| io::Error::other(error.to_string()))?
                .map(Arc::new),
        };
        let Some(file) = file else { return Ok(None) };
        open.files.push_front((sha256, Arc::clone(&file)));
        open.files.truncate(OPEN);
        Ok(Some(file))
    }

    fn warn(&self, error: &io::Error) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            warn!(%error, "a component that agents ask for cannot be read; they are told to ask again");
        }
    }
}

/// What an agent hears for whom there is no turn.
pub(crate) fn not_now(sha256: Bytes, offset: u64) -> Piece {
    again(sha256, offset, AGAIN)
}

fn again(sha256: Bytes, offset: u64, after: Duration) -> Piece {
    let wait = after - jitter(after / 2);
    let again_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    Piece { sha256, offset, data: Bytes::new(), gone: false, again_after_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_passes_on_only_when_others_wait_and_lasts_until_all_is_read() {
        let (pieces, mut one, mut other) = (Pieces::with(1), Share::default(), Share::default());
        assert!(one.may_fetch(&pieces, true));
        assert!(!one.may_fetch(&pieces, false));
        assert!(!other.may_fetch(&pieces, true));
        tokio::time::advance(TURN).await;
        // It has not read everything: nobody else begins.
        one.look(&pieces, false).unwrap();
        assert!(!other.may_fetch(&pieces, true));
        one.look(&pieces, true).unwrap();
        assert!(!one.may_fetch(&pieces, true));
        assert!(other.may_fetch(&pieces, true));
        other.ends();
        other.look(&pieces, true).unwrap();
        tokio::time::advance(YIELDS).await;
        assert!(one.may_fetch(&pieces, true));
        one.ends();
        tokio::time::advance(UNREAD).await;
        one.look(&pieces, false).unwrap_err();
    }
}
