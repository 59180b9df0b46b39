//! Whom a command is for: one hash over a frozen set of agents, and a proof for each (protocol.md §3).
//!
//! The tree is that of RFC 9162 §2.1, with leaves that name the agent. Proofs are checked exactly as
//! §2.1.3.2 says.

use ring::digest::{Context, SHA256};

use crate::id::{AgentId, Digest};
use crate::limits::{MAX_AUDIENCE, MAX_PROOF_PATH};
use crate::refusal::{Refusal, RefusalCode};
use crate::rollout::Seed;

const LEAF_LABEL: &[u8] = b"writ/audience/v1";

/// What stands in the signed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience {
    /// The tree's root.
    pub root: Digest,
    /// How many agents, 1 … 2^20.
    pub count: u32,
}

/// What one agent gets beside the envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudienceProof {
    /// The agent's place in the audience.
    pub index: u32,
    /// Hashes from the leaf's sibling upwards.
    pub path: Vec<Digest>,
}

/// An id list no audience can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAudience {
    /// Nobody was chosen.
    #[error("no agent was chosen")]
    Empty,
    /// More than 2^20.
    #[error("{0} agents were chosen; one command reaches at most {MAX_AUDIENCE}")]
    TooMany(usize),
    /// Not strictly ascending, or not in the order of the rollout.
    #[error("agent ids must be strictly ascending, or in the order of the rollout")]
    NotAscending,
}

/// The whole tree, so that proofs are cheap.
#[derive(Debug)]
pub struct AudienceTree {
    /// Leaves first, root last. An odd node at the end of a level moves up unchanged, which is the shape
    /// RFC 9162's recursive definition gives.
    levels: Vec<Vec<Digest>>,
    count: u32,
}

impl AudienceTree {
    /// Builds the tree over strictly ascending ids.
    ///
    /// # Errors
    /// When there are none, too many, or they are not strictly ascending.
    pub fn build(ids: &[AgentId]) -> Result<Self, InvalidAudience> {
        Self::over(ids, ids.windows(2).all(|pair| pair[0] < pair[1]))
    }

    /// Builds the tree over ids in the order of a rollout (protocol.md §3.6), or strictly ascending without
    /// one.
    ///
    /// # Errors
    /// When there are none, too many, or they are not in that order.
    pub fn of(rollout: Option<Seed>, ids: &[AgentId]) -> Result<Self, InvalidAudience> {
        let Some(seed) = rollout else { return Self::build(ids) };
        let ranks: Vec<_> = ids.iter().map(|id| seed.rank(*id)).collect();
        Self::over(ids, ranks.windows(2).all(|pair| pair[0] < pair[1]))
    }

    fn over(ids: &[AgentId], is_ascending: bool) -> Result<Self, InvalidAudience> {
        if ids.is_empty() {
            return Err(InvalidAudience::Empty);
        }
        let count = u32::try_from(ids.len())
            .ok()
            .filter(|count| *count <= MAX_AUDIENCE)
            .ok_or(InvalidAudience::TooMany(ids.len()))?;
        if !is_ascending {
            return Err(InvalidAudience::NotAscending);
        }
        let mut levels = vec![ids.iter().map(leaf).collect::<Vec<_>>()];
        while let Some(below) = levels.last()
            && below.len() > 1
        {
            let above = below
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node(left, right),
                    odd => odd[0],
                })
                .collect();
            levels.push(above);
        }
        Ok(Self { levels, count })
    }

    /// What is signed.
    #[must_use]
    pub fn audience(&self) -> Audience {
        let root = self.levels.last().and_then(|top| top.first()).expect("built from at least one id");
        Audience { root: *root, count: self.count }
    }

    /// The proof of the agent at this place; `None` past the end.
    #[must_use]
    pub fn proof(&self, index: u32) -> Option<AudienceProof> {
        if index >= self.count {
            return None;
        }
        let mut place = usize::try_from(index).ok()?;
        let mut path = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            if let Some(sibling) = level.get(place ^ 1) {
                path.push(*sibling);
            }
            place >>= 1;
        }
        Some(AudienceProof { index, path })
    }
}

impl Audience {
    /// Checks that `agent` is a leaf of this audience.
    ///
    /// # Errors
    /// `broken_proof` when the proof cannot be one of any agent of this audience, `wrong_agent` when it is
    /// not one of this agent.
    pub fn check(&self, agent: AgentId, proof: &AudienceProof) -> Result<(), Refusal> {
        let broken = |detail: &'static str| Err(Refusal::new(RefusalCode::BrokenProof, detail));
        // protocol.md §3.4: a count outside 1 … 2^20 is refused by signer and verifier.
        if self.count == 0 || self.count > MAX_AUDIENCE {
            return broken("the audience's count is outside 1 to 2^20");
        }
        // RFC 9162 §2.1.3.2 step 1
        if proof.index >= self.count {
            return broken("the index is not below the count");
        }
        if proof.path.len() > MAX_PROOF_PATH {
            return broken("the path is longer than any audience needs");
        }
        // step 2, 3
        let (mut fn_, mut sn) = (proof.index, self.count - 1);
        let mut hash = leaf(&agent);
        // step 4
        for sibling in &proof.path {
            if sn == 0 {
                return broken("the path is too long");
            }
            if fn_ & 1 == 1 || fn_ == sn {
                hash = node(sibling, &hash);
                while fn_ & 1 == 0 && fn_ != 0 {
                    fn_ >>= 1;
                    sn >>= 1;
                }
            } else {
                hash = node(&hash, sibling);
            }
            fn_ >>= 1;
            sn >>= 1;
        }
        // step 5
        if sn != 0 {
            return broken("the path is too short");
        }
        if hash != self.root {
            return Err(Refusal::new(
                RefusalCode::WrongAgent,
                "the proof does not lead from this agent to the audience",
            ));
        }
        Ok(())
    }
}

fn leaf(id: &AgentId) -> Digest {
    hash(&[&[0], LEAF_LABEL, id.as_bytes()])
}

fn node(left: &Digest, right: &Digest) -> Digest {
    hash(&[&[1], left.as_bytes(), right.as_bytes()])
}

pub(crate) fn hash(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Digest::from_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u32) -> Vec<AgentId> {
        (0..count)
            .map(|n| {
                let mut bytes = [7; 16];
                bytes[..4].copy_from_slice(&n.to_be_bytes());
                AgentId::from_bytes(bytes)
            })
            .collect()
    }

    /// RFC 9162 §2.1.1, word for word: the largest power of two smaller than n splits the list.
    fn root_by_definition(ids: &[AgentId]) -> Digest {
        match ids {
            [one] => leaf(one),
            many => {
                let split = many.len().next_power_of_two() / 2;
                node(&root_by_definition(&many[..split]), &root_by_definition(&many[split..]))
            }
        }
    }

    #[test]
    fn tree_has_the_shape_of_the_recursive_definition() {
        for count in 1..70 {
            let ids = ids(count);
            assert_eq!(
                AudienceTree::build(&ids).unwrap().audience().root,
                root_by_definition(&ids),
                "count {count}"
            );
        }
    }

    #[test]
    fn every_agent_proves_its_own_place_and_no_other() {
        for count in 1..40 {
            let ids = ids(count);
            let tree = AudienceTree::build(&ids).unwrap();
            for (place, id) in (0..count).zip(&ids) {
                let proof = tree.proof(place).unwrap();
                tree.audience().check(*id, &proof).unwrap();
                for other in ids.iter().filter(|other| *other != id) {
                    assert_eq!(
                        tree.audience().check(*other, &proof).unwrap_err().code,
                        RefusalCode::WrongAgent
                    );
                }
            }
            assert_eq!(tree.proof(count), None);
        }
    }

    #[test]
    fn unsorted_duplicate_and_empty_lists_make_no_audience() {
        let mut two = ids(2);
        two.reverse();
        assert_eq!(AudienceTree::build(&two).unwrap_err(), InvalidAudience::NotAscending);
        assert_eq!(AudienceTree::build(&[two[0], two[0]]).unwrap_err(), InvalidAudience::NotAscending);
        assert_eq!(AudienceTree::build(&[]).unwrap_err(), InvalidAudience::Empty);
    }
}
