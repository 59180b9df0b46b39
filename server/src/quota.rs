//! How many commands that have not expired somebody with a scope may have sent (`limits.scoped_commands`).
//!
//! Each takes a place in its agents' journals until it expires, whatever became of it. Without this, who may
//! do no more than ping could have agents refuse everybody: `journal_full`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, PoisonError};

use writ_common::admin::Actor;
use writ_common::status::Failure;
use writ_protocol::time::Timestamp;

/// What each has taken since this server started.
#[derive(Debug)]
pub(crate) struct Quotas {
    most: usize,
    /// When the commands of each expire, by the operator's name.
    taken: Mutex<HashMap<String, BinaryHeap<Reverse<Timestamp>>>>,
}

impl Quotas {
    /// None has sent any.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// One more command, which expires then.
    ///
    /// # Errors
    /// When as many of theirs as may be have not expired.
    pub(crate) fn take(&self, actor: &Actor, now: Timestamp, expires_at: Timestamp) -> Result<(), Failure> {
        if actor.scope.is_everything() {
            return Ok(());
        }
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(actor.name.clone()).or_default();
        while taken.peek().is_some_and(|Reverse(end)| *end <= now) {
            taken.pop();
        }
        if taken.len() < self.most {
            taken.push(Reverse(expires_at));
            return Ok(());
        }
        let (name, most) = (&actor.name, self.most);
        Err(Failure::exhausted(format!(
            "{most} commands of `{name}` have not expired, which is as many as a token with a scope may have (limits.scoped_commands); wait, and let the next ones expire sooner: --expires"
        )))
    }
}

#[cfg(test)]
mod tests {
    use writ_common::admin::Role;
    use writ_common::admin::operators::Scope;

    use super::*;

    fn operator(name: &str, actions: &str) -> Actor {
        let scope = Scope { selector: String::new(), actions: actions.to_owned() };
        Actor { name: name.to_owned(), role: Role::Operator, method: "", request: None, scope }
    }

    #[test]
    fn whoever_has_a_scope_has_so_many_at_a_time_and_each_that_expires_makes_room_for_one() {
        let quotas = Quotas::new(2);
        let at = Timestamp::from_millis;
        let (vera, eva, anna) = (operator("vera", "ping"), operator("eva", "ping"), operator("anna", ""));
        for end in [30, 20] {
            quotas.take(&vera, at(10), at(end)).unwrap();
        }
        assert!(quotas.take(&vera, at(19), at(40)).unwrap_err().message().contains("2 commands of `vera`"));
        quotas.take(&eva, at(19), at(40)).unwrap();
        quotas.take(&vera, at(20), at(50)).unwrap();
        assert!(quotas.take(&vera, at(29), at(50)).is_err());
        quotas.take(&vera, at(30), at(50)).unwrap();
        for _ in 0..9 {
            quotas.take(&anna, at(10), at(50)).unwrap();
        }
    }
}
