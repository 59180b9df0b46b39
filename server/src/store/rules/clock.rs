//! What only goes forward.

use writ_protocol::time::Timestamp;

/// The time that counts as the latest one this server signed with: an earlier one only if an operator accepts
/// it.
pub(in crate::store) fn latest_time(known: Timestamp, now: Timestamp, is_accepted: bool) -> Timestamp {
    if is_accepted { now } else { known.max(now) }
}

/// The number of the next call to the Control Manager: one more than the last, so that a copy of this
/// database is found out. A registration goes beyond whatever was said before, also when this database is an
/// old one.
pub(in crate::store) fn next_counter(last: Option<u64>, is_registration: bool, now: Timestamp) -> u64 {
    match last {
        None => now.as_millis(),
        Some(last) if is_registration => now.as_millis().max(last + 1),
        Some(last) => last + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_back_only_when_an_operator_accepts_it() {
        let at = Timestamp::from_millis;
        assert_eq!(latest_time(at(5), at(9), false), at(9));
        assert_eq!(latest_time(at(9), at(5), false), at(9));
        assert_eq!(latest_time(at(9), at(5), true), at(5));
    }

    #[test]
    fn calls_are_counted_one_by_one_and_a_registration_goes_beyond_all() {
        let now = Timestamp::from_millis(1000);
        for (last, is_registration, next) in [
            (None, false, 1000),
            (None, true, 1000),
            (Some(7), false, 8),
            (Some(7), true, 1000),
            (Some(5000), true, 5001),
            (Some(5000), false, 5001),
        ] {
            assert_eq!(next_counter(last, is_registration, now), next, "{last:?} {is_registration}");
        }
    }
}
