//! How often one source may fail before its guesses are not looked at for a while.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use writ_common::net::source;
use writ_common::time::SharedClock;

/// Failures a source has at once. An operator who mistypes, or a script that starts ten hosts with an old
/// token, stays below.
const BURST: u32 = 20;
/// One more every so often.
const REFILL: Duration = Duration::from_secs(1);
/// Sources remembered; past it all further ones share one.
const MAX_SOURCES: usize = 4096;

/// Failures by source address.
#[derive(Debug)]
pub(crate) struct Throttle {
    clock: SharedClock,
    sources: Mutex<HashMap<IpAddr, FailingSource>>,
}

#[derive(Debug, Clone, Copy)]
struct FailingSource {
    left: u32,
    since: Duration,
}

impl FailingSource {
    /// With what came back since it was last looked at.
    fn refilled(self, now: Duration) -> Self {
        let back = now.saturating_sub(self.since).as_secs() / REFILL.as_secs();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        if back == 0 {
            return self;
        }
        Self { left: self.left.saturating_add(back).min(BURST), since: now }
    }
}

impl Throttle {
    /// Nobody has failed yet.
    #[must_use]
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self { clock, sources: Mutex::default() }
    }

    /// Whether a source may try.
    ///
    /// # Errors
    /// How long it should wait.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        let now = self.clock.monotonic();
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sources.get(&source(address)).or_else(|| {
            // A stranger among too many strangers.
            if sources.len() >= MAX_SOURCES { sources.get(&SHARED) } else { None }
        });
        if known.is_none_or(|known| known.refilled(now).left > 0) { Ok(()) } else { Err(REFILL) }
    }

    /// A source failed.
    pub(crate) fn failed(&self, address: IpAddr) {
        let now = self.clock.monotonic();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SOURCES {
            sources.retain(|_, known| known.refilled(now).left < BURST);
        }
        let is_known = sources.contains_key(&source(address));
        let key = if is_known || sources.len() < MAX_SOURCES { source(address) } else { SHARED };
        let known = sources.entry(key).or_insert(FailingSource { left: BURST, since: now });
        *known = known.refilled(now);
        known.left = known.left.saturating_sub(1);
    }
}

/// Whom strangers beyond the bound share.
const SHARED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use writ_common::time::Clock;
    use writ_protocol::time::Timestamp;

    use super::*;

    #[derive(Debug, Default)]
    struct FakeClock(Mutex<Duration>);

    impl Clock for FakeClock {
        fn wall(&self) -> Timestamp {
            Timestamp::ZERO
        }
        fn monotonic(&self) -> Duration {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn a_source_that_fails_too_often_waits_and_others_do_not() {
        let clock = Arc::new(FakeClock::default());
        let throttle = Throttle::new(Arc::<FakeClock>::clone(&clock));
        let (thief, honest): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for _ in 0..BURST {
            throttle.check(thief).unwrap();
            throttle.failed(thief);
        }
        assert_eq!(throttle.check(thief), Err(REFILL));
        throttle.check(honest).unwrap();
        *clock.0.lock().unwrap() = REFILL;
        throttle.check(thief).unwrap();
    }

    #[test]
    fn sources_are_bounded_and_those_beyond_share_one_allowance() {
        let throttle = Throttle::new(Arc::new(FakeClock::default()));
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n));
        let most = u32::try_from(MAX_SOURCES).unwrap();
        for n in 0..most + BURST + 1 {
            throttle.failed(address(n));
        }
        assert!(throttle.sources.lock().unwrap().len() <= MAX_SOURCES + 1);
        assert_eq!(throttle.check(address(most * 2)), Err(REFILL), "a stranger among too many");
        throttle.check(address(0)).unwrap();
    }
}
