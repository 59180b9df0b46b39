//! How often a session may do what costs the server a write, or what no honest agent does.

use std::time::Duration;

/// So many at once, and one more every so often.
#[derive(Debug)]
pub(super) struct Budget {
    most: u32,
    every: Duration,
    left: u32,
    since: Duration,
}

impl Budget {
    /// A whole one. Times are those of a monotonic clock.
    pub(super) const fn new(most: u32, every: Duration, now: Duration) -> Self {
        Self { most, every, left: most, since: now }
    }

    /// Whether there was one left.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let back = now.saturating_sub(self.since).as_nanos().checked_div(self.every.as_nanos()).unwrap_or(0);
        if back > 0 {
            self.left = self.left.saturating_add(u32::try_from(back).unwrap_or(u32::MAX)).min(self.most);
            self.since = now;
        }
        let has_one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_are_at_once_and_then_one_each_time() {
        let second = Duration::from_secs(1);
        let mut budget = Budget::new(3, second * 30, second);
        assert!((0..3).all(|_| budget.take(second * 2)) && !budget.take(second * 30));
        assert!(budget.take(second * 31) && !budget.take(second * 32));
        // Never more than at first, however long nothing came.
        assert!((0..3).all(|_| budget.take(second * 9000)) && !budget.take(second * 9000));
    }
}
