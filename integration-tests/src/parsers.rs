//! Every parser of a stranger's bytes, as a function that must never panic. `fuzz/` runs them under
//! libFuzzer; a test replays their corpora on stable.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message as _;
use tempfile::TempDir;
use writ_common::keys::pem;
use writ_common::keys::vouched::PinnedAuthority;
use writ_common::tls::{LeafFacts, spki_digest};
use writ_lists::delta::apply;
use writ_lists::source::{self, Layout};
use writ_lists::{Builder, Filter, Key, Kind};
use writ_objects::stix::{self, Wanted};
use writ_objects::{List, ObjectsChange};
use writ_proto::v1 as proto;
use writ_protocol::audience::{Audience, AudienceProof};
use writ_protocol::command::{Delivery, Remedy};
use writ_protocol::envelope::{
    AgentProofPurpose, AgentReportPurpose, ApprovalPurpose, BundlePurpose, Candidate, CommandPurpose,
    EnrolmentPurpose, EntityCallPurpose, HelloPurpose, IdentityRecordPurpose, InstructionPurpose,
    ManagerReplyPurpose, Purpose, ReceiptPurpose, RefusalsAckPurpose, RefusalsPurpose, ReleasePurpose,
    ReputationPurpose, WelcomePurpose, claimed_keyid, verify,
};
use writ_protocol::evidence::Evidence;
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::identity::EnrolmentToken;
use writ_protocol::keys::{Agent, PrivateKey, PublicKey, SigningCertificate};
use writ_protocol::place::server_name;
use writ_protocol::report::ReportedSchema;
use writ_protocol::reputation::Question;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use crate::forge::Forger;

/// One parser: its name in `fuzz/fuzz_targets` and `fuzz/corpus`, and what it does with some bytes.
pub type Parser = (&'static str, fn(&[u8]));

/// All of them.
pub const PARSERS: &[Parser] = &[
    ("envelope", envelope),
    ("delivery", delivery),
    ("bundle", bundle),
    ("frame", frame),
    ("audience", audience),
    ("token", token),
    ("certificate", certificate),
    ("key", key),
    ("evidence", evidence),
    ("schema", schema),
    ("selector", selector),
    ("endpoint", endpoint),
    ("list_source", list_source),
    ("list_filter", list_filter),
    ("list_delta", list_delta),
    ("stix", stix),
    ("objects", objects),
];

/// The keys of the published vectors, so that mutations of vectors get past the signature now and then.
fn listed() -> [PublicKey; 3] {
    [1, 2, 0x11].map(|seed| Forger::new([seed; 32]).public())
}

/// A signed document of any purpose.
pub fn envelope(data: &[u8]) {
    fn read<P: Purpose>(data: &[u8], candidates: &[Candidate<'_>]) {
        if let Ok(verified) = verify::<P>(data, candidates, 1) {
            // What was accepted is encoded again to what was signed.
            let again = P::Proto::from(verified.document()).encode_to_vec();
            let signed = proto::Envelope::decode(data).unwrap().payload;
            assert_eq!(signed, again);
        }
    }
    let keys = listed();
    let candidates: Vec<_> = keys.iter().map(Candidate::accepted).collect();
    read::<CommandPurpose>(data, &candidates);
    read::<ReceiptPurpose>(data, &candidates);
    read::<EntityCallPurpose>(data, &candidates);
    read::<ManagerReplyPurpose>(data, &candidates);
    read::<InstructionPurpose>(data, &candidates);
    read::<RefusalsPurpose>(data, &candidates);
    read::<RefusalsAckPurpose>(data, &candidates);
    read::<BundlePurpose>(data, &candidates);
    read::<HelloPurpose>(data, &candidates);
    read::<AgentProofPurpose>(data, &candidates);
    read::<AgentReportPurpose>(data, &candidates);
    read::<WelcomePurpose>(data, &candidates);
    read::<EnrolmentPurpose>(data, &candidates);
    read::<IdentityRecordPurpose>(data, &candidates);
    read::<ApprovalPurpose>(data, &candidates);
    read::<ReputationPurpose>(data, &candidates);
    read::<ReleasePurpose>(data, &candidates);
    let _ = claimed_keyid(data);
}

/// What reaches an agent.
pub fn delivery(data: &[u8]) {
    let Ok(message) = proto::Delivery::decode(data) else { return };
    if let Ok(delivery) = Delivery::try_from(message) {
        envelope(&delivery.envelope);
        delivery.approvals.iter().chain([&delivery.release]).for_each(|signed| envelope(signed));
    }
}

/// A trust bundle, first of a chain and successor of itself.
pub fn bundle(data: &[u8]) {
    let Some(digest) = Chain::digest_of(data) else { return };
    if let Ok(mut chain) = Chain::pinned(Bytes::copy_from_slice(data), digest) {
        chain.extend(Bytes::copy_from_slice(data)).unwrap_err();
    }
}

/// A frame in either direction, and a question that one may hold.
pub fn frame(data: &[u8]) {
    let _ = proto::AgentFrame::decode(data);
    let _ = proto::ServerFrame::decode(data);
    if let Ok(question) = Question::decode(data) {
        assert_eq!(Question::decode(&question.encode()).unwrap(), question);
    }
}

/// An audience and a proof, in a form of their own: id, root, count, index, hashes.
pub fn audience(data: &[u8]) {
    let Some((id, rest)) = data.split_first_chunk::<16>() else { return };
    let Some((root, rest)) = rest.split_first_chunk::<32>() else { return };
    let Some((count, rest)) = rest.split_first_chunk::<4>() else { return };
    let Some((index, rest)) = rest.split_first_chunk::<4>() else { return };
    let path = rest.chunks_exact(32).map(|hash| Digest::try_from(hash).unwrap()).collect();
    let proof = AudienceProof { index: u32::from_be_bytes(*index), path };
    let audience = Audience { root: Digest::from_bytes(*root), count: u32::from_be_bytes(*count) };
    let _ = audience.check(AgentId::from_bytes(*id), &proof);
}

/// An enrolment token: its text, and what is behind the checksum that no mutation gets past.
pub fn token(data: &[u8]) {
    let _ = EnrolmentToken::from_text(&String::from_utf8_lossy(data));
    if let Ok(token) = EnrolmentToken::from_bytes(data) {
        assert_eq!(EnrolmentToken::from_text(&token.to_text()).unwrap().digest(), token.digest());
    }
}

/// X.509, and PEM of it.
pub fn certificate(data: &[u8]) {
    let _ = SigningCertificate::from_der(data);
    if let Ok(pinned) = PinnedAuthority::at_any_date(data) {
        let now = pinned.not_before;
        let _ = pinned.vouches_for(data, &[data.to_vec()], now);
    }
    let _ = (LeafFacts::read(data), spki_digest(data));
    let _ = pem::certificates(data);
}

/// Public and private keys, and PEM of them.
pub fn key(data: &[u8]) {
    if let Ok(public) = PublicKey::from_spki(data) {
        assert_eq!(public.spki(), data);
    }
    let _ = PrivateKey::<Agent>::from_pkcs8(data);
    let _ = pem::private_key(data);
}

/// An evidence file.
pub fn evidence(data: &[u8]) {
    let Ok(evidence) = Evidence::from_json(data) else { return };
    let again = Evidence::from_json(evidence.to_json().as_bytes()).unwrap();
    assert_eq!(again.to_json(), evidence.to_json());
    let pin = evidence.bundles.first().and_then(|bundle| Chain::digest_of(bundle));
    let _ = evidence.verify(pin.unwrap_or(Digest::from_bytes([0; 32])));
}

/// What an agent says that an action takes, and the check of some values by it.
pub fn schema(data: &[u8]) {
    let Some(read) = ReportedSchema::from_wire(Bytes::copy_from_slice(data)).read() else { return };
    let again = ReportedSchema::from(&read);
    assert_eq!(ReportedSchema::from(&again.read().unwrap()), again);
    let given: Vec<_> = read.parameters.iter().map(|(name, _)| (name.to_owned(), "7".to_owned())).collect();
    if let Ok(values) = read.parameters.fill("any", &given) {
        assert_eq!(values.len(), given.len());
    }
}

/// A selector.
pub fn selector(data: &[u8]) {
    if let Ok(selector) = String::from_utf8_lossy(data).parse::<writ_server::Selector>() {
        assert_eq!(selector.to_string().parse::<writ_server::Selector>().unwrap(), selector);
    }
}

/// host:port.
pub fn endpoint(data: &[u8]) {
    let _ = server_name(&String::from_utf8_lossy(data));
}

/// A list as somebody publishes it. What is read does not depend on where a part of the file ends.
pub fn list_source(data: &[u8]) {
    let read = |data: &[u8], at_once, layout: &Layout, kind| {
        let mut keys: Vec<Key> = Vec::new();
        let take = |key| {
            keys.push(key);
            Ok(())
        };
        let from = std::io::BufReader::with_capacity(at_once, data);
        let read = source::read(from, layout, kind, take).map_err(|error| error.to_string());
        (read, keys)
    };
    for layout in [Layout::Lines, Layout::Column("a".to_owned())] {
        for kind in Kind::ALL {
            assert_eq!(read(data, 1, &layout, kind), read(data, data.len().max(1), &layout, kind));
        }
    }
}

/// A filter from a server.
pub fn list_filter(data: &[u8]) {
    if let Ok(filter) = Filter::from_bytes(data.to_vec()) {
        for first in 0..=255 {
            let _ = filter.may_contain(&[first; 32]);
        }
        assert_eq!(filter.as_bytes(), data);
    }
}

/// A list of these entries, as a file.
fn list_of(numbers: impl Iterator<Item = u8>) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("list");
    let mut builder = Builder::new(Kind::Sha256);
    numbers.for_each(|number| builder.add([number; 32]).unwrap());
    let _ = builder.sort().unwrap().write(&path).unwrap();
    std::fs::read(path).unwrap()
}

static BASE: LazyLock<Vec<u8>> = LazyLock::new(|| list_of(0..10));
static NEW: LazyLock<Vec<u8>> = LazyLock::new(|| list_of((2..10).chain(20..22)));

/// What makes one list the other: that list comes of it, or none.
pub fn list_delta(data: &[u8]) {
    let folder = TempDir::new().unwrap();
    let [base, delta, made] = ["base", "delta", "made"].map(|name| folder.path().join(name));
    std::fs::write(&base, &*BASE).unwrap();
    std::fs::write(&delta, data).unwrap();
    let bytes = u64::try_from(NEW.len()).unwrap();
    match apply(&base, &delta, &made, bytes) {
        Ok(()) => assert_eq!(std::fs::read(&made).unwrap().len(), NEW.len()),
        Err(_) => assert!(!made.exists()),
    }
}

/// A bundle of STIX, and each pattern in it. What is taken is written in one way only.
pub fn stix(data: &[u8]) {
    let now = Timestamp::from_millis(1_790_000_000_000);
    let remedy = Remedy::Quarantine;
    let wanted = Wanted { of_files: remedy, of_others: remedy, confidence: 50, now };
    let pattern = serde_json::json!({"objects": [{
        "type": "indicator", "id": "indicator--1", "pattern": String::from_utf8_lossy(data)
    }]});
    for text in [data, pattern.to_string().as_bytes()] {
        for read in stix::read(text, wanted).into_iter().flatten() {
            for object in &read.objects {
                assert_eq!(object.kind().canonical(object.value()).as_deref(), Ok(object.value()));
            }
        }
    }
}

/// The objects that act, from a server or from a manager.
pub fn objects(data: &[u8]) {
    if let Ok(change) = ObjectsChange::decode(data) {
        let again = ObjectsChange::decode(&change.encode()).unwrap();
        assert_eq!(again.digest(), change.digest());
        let list = change.after(Vec::new());
        assert_eq!(list.after(Vec::new()).digest(), list.digest());
    }

    if let Ok(list) = List::decode(data) {
        assert_eq!(List::decode(&list.encode()).unwrap(), list);
    }
}
