//! The bytes of components, for agents that were told to hold them.
//!
//! An agent asks for one piece after the other, so that a slow one takes its own time and nobody else's. So
//! many fetch at a time; the others are told to ask again, and each yields after a while when others wait.
//! All together they get pieces at a steady pace, so that commands find the server at leisure.

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
use writ_protocol::component::{fact_of, is_package};
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_updates::{Folder, ShelfState};

/// Agents that fetch at a time.
const FETCHING: usize = 256;
/// How long one of them may fetch before it yields to others.
const TURN: Duration = Duration::from_secs(30);
/// How long the others wait before they ask again: half of it to all of it.
const AGAIN: Duration = Duration::from_secs(2);
/// A piece that is due so soon is sent at once.
const SOON: Duration = Duration::from_millis(5);
/// How long an agent yields: whoever waits has asked again by then.
const YIELDS: Duration = Duration::from_secs(4);
/// How long an agent may leave unread what it asked for, once its turn is over: it takes the turn of others.
const UNREAD: Duration = Duration::from_secs(300);
/// Faults of the disk are logged once in so much time, however many agents ask.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Files kept open: a component of each kind, and those of before.
const OPEN: usize = 4;

/// What agents can fetch.
#[derive(Debug)]
pub(crate) struct Pieces {
    turns: Arc<Semaphore>,
    /// From one piece to the next, of whichever agents.
    pace: Duration,
    /// When the next piece is due that nobody was promised.
    due: Mutex<Option<Instant>>,
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
    /// Since when something has waited to be read, whenever it was looked.
    unread_since: Option<Instant>,
    yields_until: Option<Instant>,
    /// When it was promised its next piece.
    due: Option<Instant>,
}

impl Share {
    /// Ends a turn that is over: one that stopped asking keeps nobody else from it.
    ///
    /// # Errors
    /// When the agent does not read what it asked for.
    pub(crate) fn look(&mut self, pieces: &Pieces, is_idle: bool) -> Result<(), Failure> {
        let Some(Turn { until, .. }) = self.turn else { return Ok(()) };
        let now = Instant::now();
        if is_idle {
            self.unread_since = None;
        }
        // What waits to be read takes room here, so that the turn lasts until then.
        let unread = if is_idle { Duration::ZERO } else { now - *self.unread_since.get_or_insert(now) };
        if now < until || (!is_idle && unread < UNREAD) {
            return Ok(());
        }
        if !is_idle {
            return Err(Failure::exhausted("the agent does not read the component that it asked for"));
        }
        if pieces.turns.available_permits() == 0 {
            self.yields_until = Some(now + YIELDS);
        }
        self.turn = None;
        Ok(())
    }

    /// How long it has to wait for its next piece; `None`: it may have it now.
    pub(crate) fn wait(&mut self, pieces: &Pieces, is_idle: bool) -> Option<Duration> {
        let now = Instant::now();
        let yields = self.yields_until.is_some_and(|until| now < until);
        if self.turn.is_none() && !yields {
            self.turn = pieces.turn();
        }
        // An agent that has not read what it asked for before is not given more of it.
        if self.turn.is_none() || !is_idle {
            return Some(AGAIN - jitter(AGAIN / 2));
        }
        let due = *self.due.get_or_insert_with(|| pieces.promise(now));
        let wait = due.saturating_duration_since(now);
        if wait > SOON {
            return Some(wait);
        }
        self.due = None;
        None
    }

    /// It has all that it asked for: the turn is over when it has read it.
    pub(crate) fn ends(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.until = Instant::now();
        }
    }
}

impl Pieces {
    pub(crate) fn new(pace: Duration) -> Self {
        Self::with(FETCHING, pace)
    }

    fn with(turns: usize, pace: Duration) -> Self {
        let turns = Arc::new(Semaphore::new(turns));
        Self { turns, pace, due: Mutex::default(), open: Mutex::default(), warned: Mutex::default() }
    }

    /// How long it takes until so many agents have so many bytes.
    pub(crate) fn time_for(&self, bytes: usize, agents: usize) -> Duration {
        let pieces = bytes.div_ceil(MAX_PIECE_BYTES).saturating_mul(agents);
        self.pace.saturating_mul(u32::try_from(pieces).unwrap_or(u32::MAX))
    }

    fn turn(&self) -> Option<Turn> {
        let permit = Arc::clone(&self.turns).try_acquire_owned().ok()?;
        Some(Turn { _permit: permit, until: Instant::now() + TURN })
    }

    /// When somebody who asks now has a piece.
    fn promise(&self, now: Instant) -> Instant {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = due.map_or(now, |due| due.max(now));
        *due = Some(promised + self.pace);
        promised
    }

    /// The bytes of a component from a place on; an answer without bytes says that there are none. So it
    /// does when the disk fails: whoever waited for it would keep an agent from other components.
    pub(crate) async fn read(self: &Arc<Self>, folder: &Folder, sha256: Digest, offset: u64) -> Piece {
        let (pieces, folder) = (Arc::clone(self), folder.clone());
        // Large files are not in the page cache as a rule, and a session must not wait for a disk.
        let read = tokio::task::spawn_blocking(move || pieces.read_now(&folder, sha256, offset)).await;
        let data = read.map_err(io::Error::other).flatten();
        let data = data.inspect_err(|error| self.warn(error)).unwrap_or_default();
        let sha256 = Bytes::copy_from_slice(sha256.as_bytes());
        Piece { sha256, offset, gone: data.is_empty(), data: data.into(), again_after_ms: 0 }
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
                .open(sha256, |name| fact_of(name.as_ref()).is_some() || is_package(name.as_ref()))
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
            warn!(%error, "a component that agents ask for cannot be read; they are told that it is not here");
        }
    }
}

/// What an agent hears that has to wait.
pub(crate) fn not_now(sha256: Bytes, offset: u64, wait: Duration) -> Piece {
    // Not a moment before it is due.
    let again_after_ms = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
    Piece { sha256, offset, data: Bytes::new(), gone: false, again_after_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_micros(625);

    #[tokio::test(start_paused = true)]
    async fn a_turn_passes_on_only_when_others_wait_and_lasts_until_all_is_read() {
        let (pieces, mut one, mut other) = (Pieces::with(1, PACE), Share::default(), Share::default());
        assert!(one.wait(&pieces, true).is_none());
        assert!(one.wait(&pieces, false).is_some());
        assert!(other.wait(&pieces, true).is_some());
        tokio::time::advance(TURN).await;
        // It has not read everything: nobody else begins.
        one.look(&pieces, false).unwrap();
        assert!(other.wait(&pieces, true).is_some());
        one.look(&pieces, true).unwrap();
        assert!(one.wait(&pieces, true).is_some());
        assert!(other.wait(&pieces, true).is_none());
        other.ends();
        other.look(&pieces, true).unwrap();
        tokio::time::advance(YIELDS).await;
        assert!(one.wait(&pieces, true).is_none());
        one.ends();
        one.look(&pieces, false).unwrap();
        tokio::time::advance(UNREAD).await;
        one.look(&pieces, false).unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn all_agents_together_get_pieces_at_a_steady_pace_and_each_what_it_was_promised() {
        let pieces = Pieces::with(100, PACE);
        let mut shares: Vec<_> = (0..100).map(|_| Share::default()).collect();
        let waits: Vec<_> = shares.iter_mut().map(|share| share.wait(&pieces, true)).collect();
        assert_eq!(waits[0], None);
        assert_eq!(waits[99], Some(PACE * 99));
        // Others do not come before it, however often they ask.
        assert!(shares[98].wait(&pieces, true).is_some());
        assert!(shares[0].wait(&pieces, true) >= Some(PACE * 100));
        tokio::time::advance(PACE * 99).await;
        assert_eq!(shares[99].wait(&pieces, true), None);
    }
}
