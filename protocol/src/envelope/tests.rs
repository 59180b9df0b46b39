use prost::Message as _;
use writ_proto::v1 as proto;

use super::*;
use crate::command::Approval;
use crate::id::{Digest, FleetId};
use crate::keys::{Algorithm, Operator, PrivateKey};
use crate::refusal::RefusalCode;
use crate::time::Timestamp;

fn approval() -> Approval {
    Approval {
        fleet: FleetId::from_bytes([1; 16]),
        command_digest: Digest::of(b"a command"),
        approved_by: "ann".to_owned(),
        approved_at: Timestamp::from_millis(5),
    }
}

fn sealed(key: &PrivateKey<Operator>) -> Sealed<ApprovalPurpose> {
    sign(&[&key.for_purpose()], &approval())
}

fn refused(envelope: &[u8], candidates: &[Candidate<'_>], threshold: usize) -> RefusalCode {
    verify::<ApprovalPurpose>(envelope, candidates, threshold).unwrap_err().code
}

#[test]
fn pae_is_that_of_the_dsse_specification() {
    // The example of secure-systems-lab/dsse, protocol.md.
    let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
    assert_eq!(encode::pae("http://example.com/HelloWorld", b"hello world"), expected);
}

#[test]
fn every_altered_byte_is_refused() {
    for algorithm in Algorithm::ALL {
        let key = PrivateKey::generate(algorithm);
        let sealed = sealed(&key);
        let candidates = [Candidate::accepted(key.public())];
        let verified = verify::<ApprovalPurpose>(sealed.bytes(), &candidates, 1).unwrap();
        assert_eq!(verified.document(), &approval());
        for place in 0..sealed.bytes().len() {
            let mut altered = sealed.bytes().to_vec();
            altered[place] ^= 1;
            // A wrong or missing hint makes the signature useless; nothing altered is ever accepted with
            // another meaning.
            if let Ok(verified) = verify::<ApprovalPurpose>(&altered, &candidates, 1) {
                panic!("byte {place} was altered and {verified:?} accepted");
            }
        }
    }
}

#[test]
fn one_key_signing_twice_counts_once() {
    let one = PrivateKey::<Operator>::generate(Algorithm::Ed25519);
    let two = PrivateKey::<Operator>::generate(Algorithm::P256);
    let candidates = [Candidate::accepted(one.public()), Candidate::accepted(two.public())];
    let key = one.for_purpose::<ApprovalPurpose>();
    let twice = sign(&[&key, &key], &approval());
    assert_eq!(refused(twice.bytes(), &candidates, 2), RefusalCode::ThresholdNotMet);

    // Also when the second hides behind an empty hint.
    let mut envelope = proto::Envelope::decode(twice.bytes().clone()).unwrap();
    envelope.signatures[1].keyid.clear();
    assert_eq!(refused(&envelope.encode_to_vec(), &candidates, 2), RefusalCode::ThresholdNotMet);

    let both = sign::<ApprovalPurpose>(&[&one.for_purpose(), &two.for_purpose()], &approval());
    assert_eq!(verify::<ApprovalPurpose>(both.bytes(), &candidates, 2).unwrap().signers().len(), 2);
}

#[test]
fn zero_keys_and_zero_thresholds_accept_nothing() {
    let key = PrivateKey::generate(Algorithm::Ed25519);
    let sealed = sealed(&key);
    assert_eq!(refused(sealed.bytes(), &[], 0), RefusalCode::NoTrust);
    let other = PrivateKey::<Operator>::generate(Algorithm::Ed25519);
    assert_eq!(refused(sealed.bytes(), &[Candidate::accepted(other.public())], 0), RefusalCode::UnknownKey);
}

#[test]
fn a_known_key_without_standing_says_why() {
    let key = PrivateKey::generate(Algorithm::Ed25519);
    let sealed = sealed(&key);
    let revoked = [Candidate { key: key.public(), standing: Err(RefusalCode::CertificateRevoked) }];
    assert_eq!(refused(sealed.bytes(), &revoked, 1), RefusalCode::CertificateRevoked);
}

#[test]
fn a_signature_for_another_purpose_is_refused_after_it_was_found_good() {
    let key = PrivateKey::generate(Algorithm::Ed25519);
    let sealed = sealed(&key);
    let refusal =
        verify::<CommandPurpose>(sealed.bytes(), &[Candidate::accepted(key.public())], 1).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::WrongPurpose);
}

#[test]
fn size_and_shape_come_before_everything() {
    let key = PrivateKey::generate(Algorithm::Ed25519);
    let candidates = [Candidate::accepted(key.public())];
    assert_eq!(refused(&vec![0; ApprovalPurpose::MAX_BYTES + 1], &candidates, 1), RefusalCode::Oversized);
    assert_eq!(refused(b"\xff\xff", &candidates, 1), RefusalCode::MalformedEnvelope);
    assert_eq!(refused(b"", &candidates, 1), RefusalCode::MalformedEnvelope);
    let trailing = [sealed(&key).bytes().as_ref(), &[0x7a, 0x00]].concat();
    assert_eq!(refused(&trailing, &candidates, 1), RefusalCode::MalformedEnvelope);
}
