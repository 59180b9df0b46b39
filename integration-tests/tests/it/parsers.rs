//! Every parser of a stranger's bytes survives its corpus, every vector, and what becomes of them when bytes
//! are lost, added and changed. `fuzz/` goes on from here with libFuzzer.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use integration_tests::parsers::PARSERS;
use integration_tests::python;
use proptest::prelude::*;
use writ_protocol::audience::AudienceTree;
use writ_protocol::envelope::{ApprovalPurpose, Candidate, sign, verify};
use writ_protocol::id::{AgentId, Digest, FleetId};
use writ_protocol::keys::{Algorithm, Operator, PrivateKey};
use writ_protocol::time::Timestamp;

fn corpus(target: &str) -> PathBuf {
    python::root().join("fuzz/corpus").join(target)
}

/// Every base64 text of every vector, decoded: envelopes, bundles, hellos, deliveries.
fn vectors() -> Vec<Vec<u8>> {
    fn walk(value: &serde_json::Value, found: &mut Vec<Vec<u8>>) {
        match value {
            serde_json::Value::String(text) if text.len() > 64 => found.extend(STANDARD.decode(text)),
            serde_json::Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            serde_json::Value::Object(values) => values.values().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let mut folders = vec![python::root().join("proto/vectors")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                walk(&serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(), &mut found);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The bytes as they are, cut short, longer, and with a byte changed here and there.
fn mangled(seed: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![seed.to_vec(), [seed, b"\0"].concat(), [seed, seed].concat()];
    let step = (seed.len() / 24).max(1);
    for place in (0..seed.len()).step_by(step) {
        all.push(seed[..place].to_vec());
        for change in [0x01, 0x80, 0xff] {
            let mut changed = seed.to_vec();
            changed[place] ^= change;
            all.push(changed);
        }
    }
    all
}

#[test]
fn no_parser_panics_over_its_corpus_the_vectors_and_what_becomes_of_them() {
    let vectors = vectors();
    assert!(vectors.len() > 100);
    for (name, parse) in PARSERS {
        let mut seeds: Vec<_> = std::fs::read_dir(corpus(name))
            .unwrap_or_else(|error| panic!("{}: {error}", corpus(name).display()))
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert!(!seeds.is_empty(), "{name} has no corpus");
        for seed in &seeds {
            mangled(seed).iter().for_each(|bytes| parse(bytes));
        }
        seeds.clear();
        vectors.iter().for_each(|bytes| parse(bytes));
    }
}

#[test]
fn every_parser_has_a_fuzz_target() {
    let manifest = std::fs::read_to_string(python::root().join("fuzz/Cargo.toml")).unwrap();
    for (name, _) in PARSERS {
        let target = python::root().join(format!("fuzz/fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(&target).unwrap();
        assert!(text.contains(&format!("integration_tests::parsers::{name}(data)")), "{}", target.display());
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
    }
}

fn approval(text: String, at: u64) -> writ_protocol::command::Approval {
    writ_protocol::command::Approval {
        fleet: FleetId::from_bytes([1; 16]),
        command_digest: Digest::from_bytes([2; 32]),
        approved_by: text,
        approved_at: Timestamp::from_millis(at),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_signed_is_what_is_verified_under_either_algorithm(
        by in "[^\\p{Cc}]{1,32}",
        at in 1..u64::MAX,
        is_p256: bool,
    ) {
        let algorithm = if is_p256 { Algorithm::P256 } else { Algorithm::Ed25519 };
        let key = PrivateKey::<Operator>::generate(algorithm);
        let document = approval(by, at);
        let sealed = sign::<ApprovalPurpose>(&[&key.for_purpose()], &document);
        let verified = verify::<ApprovalPurpose>(sealed.bytes(), &[Candidate::accepted(key.public())], 1);
        prop_assert_eq!(verified.unwrap().into_document(), document);
    }

    #[test]
    fn no_bytes_at_all_are_an_envelope_by_somebody_who_did_not_sign(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let key = PrivateKey::<Operator>::generate(Algorithm::Ed25519);
        let judged = verify::<ApprovalPurpose>(&bytes, &[Candidate::accepted(key.public())], 1);
        prop_assert!(judged.is_err());
    }

    #[test]
    fn each_member_of_an_audience_is_proven_and_nobody_else_by_any_of_its_proofs(
        members in prop::collection::btree_set(any::<[u8; 16]>(), 1..40),
        stranger: [u8; 16],
        wrong in any::<prop::sample::Index>(),
    ) {
        let ids: Vec<_> = members.iter().map(|id| AgentId::from_bytes(*id)).collect();
        let tree = AudienceTree::build(&ids).unwrap();
        for (place, id) in (0_u32..).zip(&ids) {
            let proof = tree.proof(place).unwrap();
            prop_assert!(tree.audience().check(*id, &proof).is_ok());
            let other = ids[wrong.index(ids.len())];
            prop_assert!(other == *id || tree.audience().check(other, &proof).is_err());
            if !members.contains(&stranger) {
                prop_assert!(tree.audience().check(AgentId::from_bytes(stranger), &proof).is_err());
            }
        }
    }
}
