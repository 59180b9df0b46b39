//! What a backup adds to a server, and whom a restored server knows again (docs/adr/0010).

use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

/// What a backup's chain adds to the one that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addition {
    /// Nothing: it ends where this one passed.
    Nothing,
    /// Its bundles at these places.
    Bundles(Vec<usize>),
    /// They are forks of one another: neither has the other's head.
    Fork,
}

/// Compares two chains, each oldest first.
pub(crate) fn compare(ours: &[Digest], theirs: &[Digest]) -> Addition {
    match (ours.last(), theirs.last()) {
        (Some(head), _) if theirs.contains(head) => {
            let new = theirs.iter().enumerate().filter(|(_, digest)| !ours.contains(digest));
            let places: Vec<_> = new.map(|(place, _)| place).collect();
            if places.is_empty() { Addition::Nothing } else { Addition::Bundles(places) }
        }
        (_, Some(head)) if ours.contains(head) => Addition::Nothing,
        _ => Addition::Fork,
    }
}

/// What the store knows of an agent that it does not have, and which shows the record an earlier server gave
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Return {
    /// When this fleet was made from a backup; zero: it was not.
    pub restored_at: Timestamp,
    /// Whether the agent was removed before that backup was made.
    pub was_removed: bool,
}

/// Whether such an agent is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readmission {
    /// It may show its record.
    Possible,
    /// An operator removed it; a new server must not forget that.
    Removed,
    /// This server was not restored: it knows every agent it enrolled.
    NotRestored,
}

impl Return {
    pub(crate) fn decide(self) -> Readmission {
        match self {
            Self { restored_at: Timestamp::ZERO, .. } => Readmission::NotRestored,
            Self { was_removed: true, .. } => Readmission::Removed,
            Self { .. } => Readmission::Possible,
        }
    }

    /// Whether a record is of before the restore: later ones this server would know.
    pub(crate) fn covers(self, recorded_at: Timestamp) -> bool {
        recorded_at <= self.restored_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_adds_what_follows_the_head_that_is_here_and_nothing_else() {
        let chain =
            |bytes: &[u8]| bytes.iter().map(|byte| Digest::from_bytes([*byte; 32])).collect::<Vec<_>>();
        for (ours, theirs, addition) in [
            (&[1, 2][..], &[1, 2, 3, 4][..], Addition::Bundles(vec![2, 3])),
            (&[1, 2], &[1, 2], Addition::Nothing),
            (&[1, 2, 3], &[1, 2], Addition::Nothing),
            (&[1, 2, 3], &[1, 2, 9], Addition::Fork),
            (&[1], &[9], Addition::Fork),
            // A repair joins two chains: the joined one has bundles of both.
            (&[1, 2], &[1, 8, 2, 9], Addition::Bundles(vec![1, 3])),
        ] {
            assert_eq!(compare(&chain(ours), &chain(theirs)), addition, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn only_a_restored_server_knows_agents_again_and_none_that_was_removed() {
        let after = |restored_at, was_removed| Return {
            restored_at: Timestamp::from_millis(restored_at),
            was_removed,
        };
        assert_eq!(after(0, false).decide(), Readmission::NotRestored);
        assert_eq!(after(0, true).decide(), Readmission::NotRestored);
        assert_eq!(after(5, true).decide(), Readmission::Removed);
        assert_eq!(after(5, false).decide(), Readmission::Possible);
        assert!(after(5, false).covers(Timestamp::from_millis(5)));
        assert!(!after(5, false).covers(Timestamp::from_millis(6)));
    }
}
