//! The vectors of `proto/vectors`: made by `make`, judged by the agent's own code and by Python that shares
//! none of it.
//!
//! `UPDATE=1` writes them anew; otherwise they must be what stands in the tree.

mod draft;
mod lists;
mod make;
mod rollouts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use integration_tests::python;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use writ_agent::{
    ActionTable, AgentCore, ComponentStore, Deliveries, Files, Identity, Journal, Reaction, SessionTime,
    SettingsStore, Surroundings, Trust,
};
use writ_common::shutdown::Shutdown;
use writ_common::time::SystemClock;
use writ_proto::v1 as proto;
use writ_protocol::hello::Expected;
use writ_protocol::id::{AgentId, CommandId, Digest};
use writ_protocol::identity::IdentityRecord;
use writ_protocol::keys::{Algorithm, PrivateKey};
use writ_protocol::refusal::{Audible, RefusalCode};
use writ_protocol::reputation::{self, Question};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, Keyring};

/// One vector, as it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vector {
    /// What it shows.
    says: String,
    /// Where the protocol says so.
    clause: String,
    /// `accept`, `redelivery`, or the code of the refusal.
    expect: String,
    /// What is judged.
    #[serde(flatten)]
    case: Case,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// A command reaches an agent.
    Delivery(Box<DeliveryCase>),
    /// A trust bundle is offered to the holder of another.
    Chain(ChainCase),
    /// A server greets an agent.
    Hello(HelloCase),
    /// A server says what a list says about values that an agent asked about.
    Reputation(ReputationCase),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeliveryCase {
    agent_id: String,
    realm: String,
    now_ms: u64,
    /// Base64 of the envelope of the trust bundle the agent holds.
    bundle: String,
    journal: JournalCase,
    /// File name to TOML, as in actions.d.
    actions: BTreeMap<String, String>,
    /// Base64 of the encoded `Delivery`.
    delivery: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalCase {
    birth_ms: u64,
    /// A command that expired then was pruned.
    forgotten_until_ms: u64,
    max_entries: u64,
    /// Id (hex) and digest (hex) of commands it knows.
    known: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainCase {
    held: String,
    offered: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HelloCase {
    bundle: String,
    realm: String,
    nonce: String,
    tls_leaf_spki_digest: String,
    floor_ms: u64,
    round_trip_ms: u64,
    hello: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReputationCase {
    agent_id: String,
    realm: String,
    now_ms: u64,
    bundle: String,
    /// Base64 of the question as it was sent.
    question: String,
    reputation: String,
}

fn folder() -> PathBuf {
    python::root().join("proto/vectors")
}

fn unbase64(text: &str) -> Bytes {
    STANDARD.decode(text).unwrap().into()
}

/// Every vector of the tree, by its path below `proto/vectors`.
fn stored() -> BTreeMap<String, Vector> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<String, Vector>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                let text = std::fs::read_to_string(&path).unwrap();
                let vector = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                found.insert(name, vector);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&folder(), &folder(), &mut found);
    found
}

#[test]
fn vectors_in_the_tree_are_the_ones_made() {
    let made = make::all();
    if std::env::var_os("UPDATE").is_some() {
        for (name, vector) in &made {
            let path = folder().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{}\n", serde_json::to_string_pretty(vector).unwrap())).unwrap();
        }
    }
    let stored = stored();
    for (name, vector) in &made {
        assert_eq!(stored.get(name), Some(vector), "{name} is not what is made; run: make update");
    }
    // Those under python/ are made by code that is not ours, and only checked here.
    let foreign = |name: &&String| !made.contains_key(*name) && !name.starts_with("python/");
    let stray: Vec<_> = stored.keys().filter(foreign).collect();
    assert!(stray.is_empty(), "nobody makes {stray:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_judges_every_vector_as_it_says() {
    let stored = stored();
    assert!(stored.len() > 60, "{} vectors are too few", stored.len());
    for (name, vector) in stored {
        let judged = match &vector.case {
            Case::Delivery(case) => judge_delivery(case).await,
            Case::Chain(case) => judge_chain(case),
            Case::Hello(case) => judge_hello(case),
            Case::Reputation(case) => judge_reputation(case),
        };
        assert_eq!(judged, vector.expect, "{name}");
    }
}

#[test]
fn every_refusal_has_a_vector_but_the_one_that_needs_a_broken_disk() {
    let expected: Vec<_> = stored().into_values().map(|vector| vector.expect).collect();
    for code in RefusalCode::ALL.iter().filter(|code| **code != RefusalCode::JournalFailed) {
        assert!(expected.iter().any(|expect| expect == code.as_str()), "{code} has no vector");
    }
}

#[test]
fn python_judges_every_vector_as_it_says() {
    let output = python::run("proto/vectors/check.py", &[]);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("{} vectors", stored().len())), "{said}");
}

#[test]
fn a_verifier_of_somebody_else_is_run_over_the_vectors_without_being_told_what_to_say() {
    let run = |arguments: &[&str]| {
        let output = python::run("proto/vectors/run.py", &[&["--output", "json"], arguments].concat());
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), said)
    };
    let check = python::root().join("proto/vectors/check.py");
    for folder in ["accept", "refuse/wrong_agent", "python"] {
        let (code, said) = run(&["--under", folder, "python3", check.to_str().unwrap(), "-"]);
        assert_eq!((code, &said["wrong"]), (Some(0), &serde_json::json!([])), "{said}");
    }
    let (code, said) = run(&["echo", "accept"]);
    let refused = stored().iter().filter(|(_, vector)| vector.expect != "accept").count();
    assert_eq!((code, said["wrong"].as_array().unwrap().len()), (Some(1), refused));
    assert_eq!(said["vectors"], stored().len());
}

#[test]
fn vectors_made_by_python_are_the_ones_in_the_tree() {
    let scratch = tempfile::tempdir().unwrap();
    let output = python::run("proto/vectors/make.py", &[&scratch.path().to_string_lossy()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut count = 0;
    for entry in std::fs::read_dir(scratch.path()).unwrap() {
        let entry = entry.unwrap();
        let committed = folder().join("python").join(entry.file_name());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(committed.parent().unwrap()).unwrap();
            std::fs::copy(entry.path(), &committed).unwrap();
        }
        let (made, stored) =
            (std::fs::read(entry.path()).unwrap(), std::fs::read(&committed).unwrap_or_default());
        assert_eq!(made, stored, "{} is not what is made; run: make update", committed.display());
        count += 1;
    }
    assert!(count > 0);
}

async fn judge_delivery(case: &DeliveryCase) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let files = Files::new(scratch.path());
    let bundle = unbase64(&case.bundle);
    let digest = Chain::digest_of(&bundle).unwrap();
    let chain = Chain::pinned(bundle, digest).unwrap();
    Trust::keep(&files, &chain).unwrap();
    let fleet = chain.head().bundle.fleet;

    let key = PrivateKey::generate(Algorithm::Ed25519);
    let record = IdentityRecord {
        fleet,
        agent: case.agent_id.parse().unwrap(),
        public_key: key.public().clone(),
        name: "vector".to_owned(),
        realm: case.realm.clone(),
        recorded_at: Timestamp::from_millis(1),
    };
    let actions = scratch.path().join("actions.d");
    std::fs::create_dir(&actions).unwrap();
    for (name, text) in &case.actions {
        std::fs::write(actions.join(name), text).unwrap();
    }
    let now = Timestamp::from_millis(case.now_ms);
    let time = SessionTime::new(Arc::new(SystemClock::new()));
    time.set(now, time.monotonic());
    let shutdown = Shutdown::new();
    let (core, _answers) = AgentCore::new(
        Identity { record, envelope: Bytes::new(), key },
        Trust::load(&files).unwrap(),
        journal(&files, &case.journal, now),
        (
            ActionTable::load(&actions, &[], writ_common::users::own_uid()).unwrap(),
            SettingsStore::load(&files.settings(), "info").unwrap(),
            ComponentStore::load(&files.components()),
        ),
        Surroundings {
            upgrades: files.folder().join("no-upgrades"),
            time,
            max_running: 1,
            proxy: None,
            probe: |_, _| Box::pin(std::future::ready(Err("a vector has no network".to_owned()))),
            own_folders: Vec::new(),
            shutdown: shutdown.clone(),
        },
    );
    let message = proto::Delivery::decode(unbase64(&case.delivery)).unwrap();
    let judged = match core.receive(message, now, &mut Deliveries::default()) {
        Reaction::Silence(refusal) => {
            assert_eq!(refusal.code.audible(), Audible::Silent, "{refusal} must not be silent");
            refusal.code.to_string()
        }
        Reaction::Announce(_, admitted) => {
            core.start(*admitted);
            "accept".to_owned()
        }
        Reaction::Running => "accept".to_owned(),
        Reaction::Answer(frame) => {
            let Some(proto::agent_frame::Frame::Answer(answer)) = frame.frame else {
                panic!("not an answer")
            };
            let code = refusal_in(&answer.receipt).unwrap();
            assert_eq!(code.audible(), Audible::Answered, "{code} must not be answered");
            code.to_string()
        }
        Reaction::AnswerAgain(_) => "redelivery".to_owned(),
        Reaction::TooMany => panic!("one delivery is not too many"),
    };
    assert!(shutdown.drain(Duration::from_secs(30)).await);
    judged
}

fn refusal_in(receipt: &Bytes) -> Option<RefusalCode> {
    let envelope = proto::Envelope::decode(receipt.clone()).unwrap();
    RefusalCode::from_proto(proto::Receipt::decode(envelope.payload).unwrap().refusal_code)
}

fn journal(files: &Files, case: &JournalCase, now: Timestamp) -> Journal {
    let journal = Journal::open(&files.journal(), case.max_entries).unwrap();
    journal.begin_session(Timestamp::from_millis(case.birth_ms), Timestamp::ZERO).unwrap();
    let remember = |id: CommandId, digest: Digest, expires_at: Timestamp, at: Timestamp| {
        let admitted = journal.accept(id, digest, expires_at, Bytes::new(), at).unwrap().durable;
        assert_eq!(journal.start(&admitted, at, "").unwrap(), 1);
        journal.finish(id, Bytes::new()).unwrap();
        journal.acknowledge(&[(id, digest)]).unwrap();
    };
    if case.forgotten_until_ms > 0 {
        // Forgotten as in life: a command that expired then is pruned when the next one is accepted much
        // later.
        let then = Timestamp::from_millis(case.forgotten_until_ms);
        let forgotten = CommandId::from_bytes([0xf0; 16]);
        remember(forgotten, Digest::of(b"forgotten"), then, then);
        let later = then + Duration::from_secs(30 * 24 * 3600);
        remember(
            CommandId::from_bytes([0xf1; 16]),
            Digest::of(b"pruner"),
            later + Duration::from_secs(3600),
            later,
        );
        assert_eq!(journal.facts().unwrap().forgotten_until, then);
    }
    for (id, digest) in &case.known {
        let id: CommandId = id.parse().unwrap();
        remember(id, digest.parse().unwrap(), now + Duration::from_secs(3600), now);
    }
    journal
}

fn judge_chain(case: &ChainCase) -> String {
    let held = unbase64(&case.held);
    let digest = Chain::digest_of(&held).unwrap();
    let mut chain = Chain::pinned(held, digest).unwrap();
    match chain.extend(unbase64(&case.offered)) {
        Ok(_) => "accept".to_owned(),
        Err(refusal) => refusal.code.to_string(),
    }
}

fn judge_hello(case: &HelloCase) -> String {
    let held = unbase64(&case.bundle);
    let digest = Chain::digest_of(&held).unwrap();
    let chain = Chain::pinned(held, digest).unwrap();
    let expected = Expected {
        bundle: &chain.head().bundle,
        realm: &case.realm,
        nonce: hex::decode(&case.nonce).unwrap().try_into().unwrap(),
        tls_leaf: case.tls_leaf_spki_digest.parse().unwrap(),
        floor: Timestamp::from_millis(case.floor_ms),
        round_trip: Duration::from_millis(case.round_trip_ms),
    };
    match expected.verify(&unbase64(&case.hello)) {
        Ok(_) => "accept".to_owned(),
        Err(refusal) => refusal.code.to_string(),
    }
}

fn judge_reputation(case: &ReputationCase) -> String {
    let held = unbase64(&case.bundle);
    let digest = Chain::digest_of(&held).unwrap();
    let chain = Chain::pinned(held, digest).unwrap();
    let bundle = &chain.head().bundle;
    let question = unbase64(&case.question);
    let _well_formed = Question::decode(&question).unwrap();
    let expected = reputation::Expected {
        keyring: Keyring::new(bundle, &case.realm),
        fleet: bundle.fleet,
        agent: case.agent_id.parse().unwrap(),
        question: Digest::of(&question),
        now: Timestamp::from_millis(case.now_ms),
    };
    match expected.judge(&unbase64(&case.reputation)) {
        Ok(_) => "accept".to_owned(),
        Err(refusal) => refusal.code.to_string(),
    }
}

pub(crate) fn agent(number: u8) -> AgentId {
    AgentId::from_bytes([number; 16])
}
