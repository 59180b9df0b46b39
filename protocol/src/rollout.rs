//! Commands that reach their agents in waves (protocol.md §3.6).
//!
//! The order is fixed when the command is signed, for the audience's root covers it. A [`Release`] says how far
//! along that order the command may be obeyed; nobody without the signing key can widen that.

use std::num::NonZeroU64;

use crate::audience::hash;
use crate::envelope::{Candidate, ReleasePurpose, verify};
use crate::id::{AgentId, Digest, FleetId};
use crate::refusal::{Refusal, RefusalCode};
use crate::time::Timestamp;

const RANK_LABEL: &[u8] = b"writ/rollout/v1";

/// What the order of a rollout is made from: the same seed gives the same agents the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(NonZeroU64);

impl Seed {
    /// A seed; `None` for 0.
    #[must_use]
    pub const fn new(seed: u64) -> Option<Self> {
        match NonZeroU64::new(seed) {
            Some(seed) => Some(Self(seed)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// Where an agent stands: those of a rollout are ascending by this.
    #[must_use]
    pub fn rank(self, agent: AgentId) -> Digest {
        hash(&[RANK_LABEL, &self.get().to_be_bytes(), agent.as_bytes()])
    }
}

/// That the agents of a command whose index is below a number may obey it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The fleet.
    pub fleet: FleetId,
    /// The command.
    pub command_digest: Digest,
    /// How many agents of the audience, from the first.
    pub released: u32,
    /// When.
    pub released_at: Timestamp,
}

/// What an agent expects of the release of a staged command.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Its fleet.
    pub fleet: FleetId,
    /// The command.
    pub command: Digest,
    /// Its index, which its proof has shown.
    pub index: u32,
}

impl Expected {
    /// Whether the command may be obeyed.
    ///
    /// # Errors
    /// As an envelope is refused; `wrong_fleet`; `not_released` when there is no release, or one of another
    /// command, or one that does not reach this agent.
    pub fn check(&self, release: &[u8], candidates: &[Candidate<'_>]) -> Result<(), Refusal> {
        let not_released = |detail: String| Err(Refusal::new(RefusalCode::NotReleased, detail));
        if release.is_empty() {
            return not_released("the command has a rollout and came without a release".to_owned());
        }
        let verified = verify::<ReleasePurpose>(release, candidates, 1)?;
        let said = verified.document();
        if said.fleet != self.fleet {
            let detail = format!("the release is of fleet {}, this agent is of {}", said.fleet, self.fleet);
            return Err(Refusal::new(RefusalCode::WrongFleet, detail));
        }
        if said.command_digest != self.command {
            return not_released("the release is of another command".to_owned());
        }
        if self.index >= said.released {
            let detail = format!(
                "{} agents are released, and this one is number {}",
                said.released,
                u64::from(self.index) + 1
            );
            return not_released(detail);
        }
        Ok(())
    }
}
