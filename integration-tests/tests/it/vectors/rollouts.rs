//! Commands that reach their agents in waves, and the releases beside them.

use writ_proto::v1 as proto;
use writ_protocol::audience::AudienceTree;
use writ_protocol::rollout::Seed;

use super::agent;
use super::draft::*;

const SEED: u64 = 4711;

/// The audience of a rollout for agents 1 to 3, and the place of agent 1 in it.
fn staged() -> (proto::Audience, proto::AudienceProof) {
    let seed = Seed::new(SEED).unwrap();
    let mut ordered = ids(3);
    ordered.sort_by_key(|agent| *seed.rank(*agent).as_bytes());
    let place = ordered.iter().position(|id| *id == agent(1)).unwrap();
    let tree = AudienceTree::of(Some(seed), &ordered).unwrap();
    let signed = tree.audience();
    let audience = proto::Audience { root: signed.root.as_bytes().to_vec().into(), count: signed.count };
    (audience, (&tree.proof(u32::try_from(place).unwrap()).unwrap()).into())
}

/// A ping with a rollout whose release reaches agent 1 and no further.
fn released(draft: &mut Draft) {
    let (audience, proof) = staged();
    let released = proof.index + 1;
    draft.command.rollout = Some(proto::Rollout { seed: SEED });
    draft.command.audience = Some(audience);
    draft.proof = Some(proof);
    draft.release = Some(ReleaseDraft { released, ..ReleaseDraft::default() });
}

fn release(draft: &mut Draft) -> &mut ReleaseDraft {
    released(draft);
    draft.release.as_mut().unwrap()
}

/// Who may obey a command with a rollout, and when.
pub(super) fn rollouts(made: &mut Made) {
    made.delivery("accept", "rollout", "3.6", "a release that reaches the agent and no further", released);
    made.delivery("accept", "rollout-whole", "3.6", "a release of the most agents there can be", |draft| {
        release(draft).released = 1 << 20;
    });
    let says = "what comes beside a command without a rollout is not looked at";
    made.delivery("accept", "release-beside-no-rollout", "4.7", says, |draft| {
        draft.release = Some(ReleaseDraft { signer: stranger(), ..ReleaseDraft::default() });
    });
    let not_released = "not_released";
    let says = "a command whose wave has not come, without a release";
    made.delivery(not_released, "none", "4.7", says, |draft| {
        released(draft);
        draft.release = None;
    });
    made.delivery(not_released, "short", "4.7", "a release that ends one place before the agent", |draft| {
        let release = release(draft);
        assert!(release.released > 1, "agent 1 must not be the first of this order");
        release.released -= 1;
    });
    made.delivery(
        not_released,
        "another-command",
        "4.7",
        "the release of another command, repeated",
        |draft| {
            release(draft).change = |release| release.command_digest = vec![7; 32].into();
        },
    );
    made.delivery("unknown_key", "release", "4.7", "a release by a stranger", |draft| {
        release(draft).signer = stranger();
    });
    made.delivery("bad_signature", "release", "4.7", "a release that somebody widened", |draft| {
        release(draft).spoil = |envelope| {
            let last = envelope.payload.len() - 1;
            let mut payload = envelope.payload.to_vec();
            payload[last] ^= 1;
            envelope.payload = payload.into();
        };
    });
    made.delivery("wrong_purpose", "release", "4.7", "an approval passed off as a release", |draft| {
        release(draft).purpose = "approval";
    });
    made.delivery("wrong_fleet", "release", "4.7", "another fleet's release", |draft| {
        release(draft).change = |release| release.fleet_id = vec![0xf2; 16].into();
    });
    let malformed = "malformed_payload";
    made.delivery(malformed, "release-of-nobody", "10.2", "a release of no agents", |draft| {
        release(draft).released = 0;
    });
    made.delivery(malformed, "release-of-too-many", "10.2", "one agent more than an audience has", |draft| {
        release(draft).released = (1 << 20) + 1;
    });
    made.delivery(malformed, "release-without-time", "10.2", "a release that was never made", |draft| {
        release(draft).change = |release| release.released_at_ms = 0;
    });
    made.delivery(malformed, "rollout-without-seed", "10.2", "a rollout without a seed", |draft| {
        released(draft);
        draft.command.rollout = Some(proto::Rollout { seed: 0 });
    });
}
