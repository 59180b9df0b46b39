//! Session time: the server's signed time, carried on by the monotonic clock. The wall clock decides nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use writ_common::time::SharedClock;
use writ_protocol::time::Timestamp;

/// What time it is for this agent; `None` until a server said so. Clones share it.
#[derive(Debug, Clone)]
pub struct SessionTime {
    clock: SharedClock,
    said: Arc<Mutex<Option<(Timestamp, Duration)>>>,
}

impl SessionTime {
    /// Nobody has said the time yet.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, said: Arc::default() }
    }

    /// The monotonic clock.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// A verified hello said it is `time`; the answer was awaited since `asked` on the monotonic clock.
    pub fn set(&self, time: Timestamp, asked: Duration) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, asked));
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Option<Timestamp> {
        let (time, asked) = (*self.said.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(time + self.clock.monotonic().saturating_sub(asked))
    }
}
