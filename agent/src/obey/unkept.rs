//! Refusals that the journal could not keep, because its disk took nothing: remembered as long as the agent
//! runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use writ_protocol::id::CommandId;
use writ_protocol::time::Timestamp;

/// Beyond this, a command that cannot be journalled is not answered at all.
const MAX_UNKEPT: usize = 1024;

/// Commands that were refused and are not in the journal, with when they expire.
#[derive(Debug, Default)]
pub(super) struct Unkept(Mutex<BTreeMap<CommandId, Timestamp>>);

impl Unkept {
    pub(super) fn holds(&self, command: CommandId) -> bool {
        self.lock().contains_key(&command)
    }

    /// Whether there was a place for it.
    pub(super) fn remember(&self, command: CommandId, expires_at: Timestamp, now: Timestamp) -> bool {
        let mut held = self.lock();
        if held.len() >= MAX_UNKEPT {
            held.retain(|_, expires_at| *expires_at > now);
        }
        let has_place = held.len() < MAX_UNKEPT || held.contains_key(&command);
        if has_place {
            held.insert(command, expires_at);
        }
        has_place
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<CommandId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_remembered_as_may_be_and_no_longer_than_they_live() {
        let unkept = Unkept::default();
        let id = |number: u128| CommandId::from_bytes(number.to_be_bytes());
        let at = Timestamp::from_millis;
        for number in 0..1024 {
            assert!(unkept.remember(id(number), at(10), at(1)));
        }
        assert!(unkept.holds(id(1023)) && unkept.remember(id(7), at(10), at(1)), "one that is there stays");
        assert!(!unkept.remember(id(1024), at(20), at(9)) && !unkept.holds(id(1024)));
        assert!(unkept.remember(id(1024), at(20), at(10)) && !unkept.holds(id(7)));
    }
}
