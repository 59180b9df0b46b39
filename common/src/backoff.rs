//! Full-jitter backoff: a random wait between nothing and a bound that doubles.

use std::time::Duration;

use writ_protocol::id::random_bytes;

/// Waits between attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// The first bound and the greatest.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// How long to wait after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        jitter(bound)
    }

    /// Begins again after a success.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random part of a duration, in milliseconds, uniformly from nothing to all of it.
#[must_use]
pub fn jitter(bound: Duration) -> Duration {
    let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX - 1);
    let random = u64::from_be_bytes(random_bytes());
    // The bias of the remainder is below 2^-30 for any wait under a month.
    Duration::from_millis(random % (millis + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_greatest_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for bound in [100, 200, 400, 800, 1000, 1000] {
            assert!(backoff.after_failure() <= Duration::from_millis(bound));
        }
        backoff.reset();
        assert!(backoff.after_failure() <= Duration::from_millis(100));
    }
}
