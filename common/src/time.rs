//! Time, injected. The only file that reads the machine's clocks.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use writ_protocol::time::Timestamp;

/// Where time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock. An agent decides nothing by it.
    fn wall(&self) -> Timestamp;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// A clock shared by the parts of a daemon.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clocks. The monotonic one counts time asleep too (`CLOCK_BOOTTIME`): what expired while
/// a laptop was shut has expired.
#[derive(Debug, Default)]
pub struct SystemClock(());

impl SystemClock {
    /// The clocks of this machine.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the home of the wall clock")]
    fn wall(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp::ZERO + since_epoch;
        #[cfg(feature = "testing")]
        let wall = crate::testing::shifted(wall);
        wall
    }

    fn monotonic(&self) -> Duration {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
        let monotonic = Duration::new(seconds, u32::try_from(since_boot.tv_nsec).unwrap_or(0));
        #[cfg(feature = "testing")]
        let monotonic = crate::testing::advanced(monotonic);
        monotonic
    }
}
