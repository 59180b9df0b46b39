//! Vectors about lists: components, scans, and what a list says about values.

use integration_tests::forge::{Forger, envelope, payload_type, sealed};
use prost::Message as _;
use writ_proto::v1::{self as proto, command::Action};
use writ_protocol::id::Digest;

use super::draft::*;
use super::{Case, ReputationCase, agent};

/// Each bound of a component that an agent is told to hold, and one past it.
pub(super) fn components(made: &mut Made) {
    let of = |component: &str, version: &str, size_bytes: u64| {
        let sha256 = Digest::of(b"a filter").as_bytes().to_vec().into();
        let (component, version) = (component.to_owned(), version.to_owned());
        Action::UpdateComponent(proto::UpdateComponent { component, version, sha256, size_bytes })
    };
    let (filter, most) = ("file-reputation-filter", 256 << 20);
    let long = "9".repeat(64);
    for (name, what, action) in [
        ("component", "a component that agents have a use for", of(filter, "2026-11-29", 1)),
        ("component-of-objects", "the suspicious objects that act", of("suspicious-objects", "7", 1)),
        ("component-at-its-bounds", "the longest version, the most bytes", of(filter, &long, most)),
    ] {
        made.delivery("accept", name, "4.11", what, |draft| draft.command.action = Some(action));
    }
    for (name, what, action) in [
        ("component-empty", "a component of no bytes", of(filter, "1", 0)),
        ("component-too-long", "one byte more than agents take", of(filter, "1", most + 1)),
        ("component-path", "a name that leads elsewhere", of("../filter", "1", 1)),
        ("component-long-version", "a version of 65 characters", of(filter, &format!("{long}9"), 1)),
        ("component-version-path", "a version that leads elsewhere", of(filter, "../1", 1)),
    ] {
        made.delivery("malformed_payload", name, "4.5", what, |draft| draft.command.action = Some(action));
    }
    let unknown = of("tool", "1", 1);
    let what = "a component that agents have no use for";
    made.delivery("action_not_allowed", "component-without-use", "4.11", what, |draft| {
        draft.command.action = Some(unknown);
    });
}

/// Each bound of an upgrade, and one past it. No host of the vectors allows one.
pub(super) fn upgrades(made: &mut Made) {
    let package = |kind: &str, version: &str| proto::UpdateComponent {
        component: format!("agent-{kind}"),
        version: version.to_owned(),
        sha256: Digest::of(b"a package").as_bytes().to_vec().into(),
        size_bytes: 1,
    };
    let of = |packages: Vec<proto::UpdateComponent>| proto::Upgrade {
        packages,
        greet_within_seconds: 300,
        allow_older: false,
    };
    let numbered = |count: u32| (0..count).map(|n| package(&format!("k{n:02}"), "0.2.0")).collect();
    let one = || of(vec![package("deb-amd64", "0.2.0")]);
    let at_most = proto::Upgrade { greet_within_seconds: 1800, allow_older: true, ..of(numbered(16)) };
    for (name, what, upgrade) in [
        ("upgrade", "an upgrade, which the host does not allow", one()),
        ("upgrade-at-its-bounds", "16 packages, half an hour", at_most),
    ] {
        let action = Action::Upgrade(upgrade);
        made.delivery("action_not_allowed", name, "4.11", what, |draft| draft.command.action = Some(action));
    }
    let two =
        |one: (&str, &str), other: (&str, &str)| of(vec![package(one.0, one.1), package(other.0, other.1)]);
    let greet = |greet_within_seconds| proto::Upgrade { greet_within_seconds, ..one() };
    let tool = proto::UpdateComponent { component: "tool".to_owned(), ..package("", "1") };
    for (name, what, upgrade) in [
        ("upgrade-of-nothing", "no package", of(Vec::new())),
        ("upgrade-of-17", "17 packages", of(numbered(17))),
        ("upgrade-twice", "two packages of one kind", two(("deb-amd64", "1"), ("deb-amd64", "1"))),
        ("upgrade-unsorted", "packages out of order", two(("program-amd64", "1"), ("deb-amd64", "1"))),
        ("upgrade-of-two-versions", "packages of two versions", two(("deb-amd64", "1"), ("deb-arm64", "2"))),
        ("upgrade-of-a-tool", "a component that is no package of the agent", of(vec![tool])),
        ("upgrade-no-kind", "a package of no kind", of(vec![package("", "1")])),
        ("upgrade-hasty", "nine seconds to greet", greet(9)),
        ("upgrade-patient", "a second more than half an hour", greet(1801)),
    ] {
        let action = Action::Upgrade(upgrade);
        made.delivery("malformed_payload", name, "4.5", what, |draft| draft.command.action = Some(action));
    }
}

fn scan() -> proto::Scan {
    proto::Scan {
        roots: vec!["/".to_owned()],
        remedy: proto::Remedy::Log.into(),
        max_file_bytes: 1,
        max_seconds: 1,
        ..proto::Scan::default()
    }
}

/// What may be scanned, and each way in which a scan is none.
pub(super) fn scans(made: &mut Made) {
    let quarantine = proto::Scan {
        roots: (0..64).map(|number| format!("/{number}")).collect(),
        exclude: vec![format!("/{}", "a".repeat(4095))],
        remedy: proto::Remedy::Quarantine.into(),
        strict: true,
        packaged: true,
        max_remedied: 10_000,
        max_file_bytes: u64::MAX,
        max_seconds: 86_400,
        bytes_per_second: u64::MAX,
        resolve: true,
    };
    for (name, what, action) in [
        ("scan", "a scan that only reports", Action::Scan(scan())),
        ("scan-at-its-bounds", "the most a scan may be", Action::Scan(quarantine)),
        ("stop-scan", "the end of scans", Action::StopScan(proto::StopScan {})),
        (
            "stop-command",
            "the end of another command, which the agent does not know",
            Action::StopCommand(proto::StopCommand { command_id: vec![9; 16].into() }),
        ),
        (
            "restore-quarantined",
            "files put back",
            Action::RestoreQuarantined(proto::RestoreQuarantined { sha256: vec![1; 32].into() }),
        ),
        (
            "delete-quarantined",
            "files removed for ever",
            Action::DeleteQuarantined(proto::DeleteQuarantined { sha256: vec![1; 32].into() }),
        ),
    ] {
        made.delivery("accept", name, "4.11", what, |draft| draft.command.action = Some(action));
    }
    let nobody = Action::StopCommand(proto::StopCommand { command_id: vec![9; 15].into() });
    made.delivery("malformed_payload", "stop-command-id", "10.2", "an id of 15 bytes", |draft| {
        draft.command.action = Some(nobody);
    });
    let block = || proto::Scan { remedy: proto::Remedy::Block.into(), ..scan() };
    let root = |path: &str| proto::Scan { roots: vec![path.to_owned()], ..scan() };
    for (name, what, scan) in [
        ("scan-nowhere", "no path to look at", proto::Scan { roots: Vec::new(), ..scan() }),
        ("scan-of-65", "65 paths", proto::Scan { roots: vec!["/a".to_owned(); 65], ..scan() }),
        ("scan-relative", "a path that is not absolute", root("srv")),
        ("scan-up", "a path that leads up", root("/srv/../etc")),
        ("scan-slashes", "a path with an empty part", root("/srv//a")),
        ("scan-ends-in-slash", "a path that ends in a slash", root("/srv/")),
        ("scan-control", "a path with a line break", root("/srv/\n")),
        ("scan-no-remedy", "no remedy", proto::Scan { remedy: 0, ..scan() }),
        ("scan-log-strict", "a report that is strict", proto::Scan { strict: true, ..scan() }),
        ("scan-log-packaged", "a report of what packages hold", proto::Scan { packaged: true, ..scan() }),
        ("scan-log-some", "a report of so many", proto::Scan { max_remedied: 1, ..scan() }),
        ("scan-block-none", "block none", block()),
        ("scan-block-many", "block 10 001", proto::Scan { max_remedied: 10_001, ..block() }),
        ("scan-no-bytes", "files of no bytes", proto::Scan { max_file_bytes: 0, ..scan() }),
        ("scan-no-time", "no time", proto::Scan { max_seconds: 0, ..scan() }),
        ("scan-too-long", "a second more than a day", proto::Scan { max_seconds: 86_401, ..scan() }),
    ] {
        let action = Action::Scan(scan);
        made.delivery("malformed_payload", name, "4.5", what, |draft| draft.command.action = Some(action));
    }
}

/// A question about three values.
fn question() -> proto::ReputationQuestion {
    proto::ReputationQuestion {
        nonce: vec![7; 32].into(),
        component: "file-reputation".to_owned(),
        values: (1..=3).map(|byte| vec![byte; 32].into()).collect(),
    }
}

/// A good answer: the second is listed.
fn said() -> proto::Reputation {
    let question = Digest::of(&question().encode_to_vec());
    proto::Reputation {
        fleet_id: FLEET.to_vec().into(),
        agent_id: agent(1).as_bytes().to_vec().into(),
        question: question.as_bytes().to_vec().into(),
        version: "2026-11-29".to_owned(),
        list: vec![9; 32].into(),
        listed: vec![vec![2; 32].into()],
        counts_for_s: 3600,
        answered_at_ms: NOW.as_millis(),
    }
}

fn answer(said: &proto::Reputation, signer: &Forger) -> ReputationCase {
    ReputationCase {
        agent_id: agent(1).to_string(),
        realm: "default".to_owned(),
        now_ms: NOW.as_millis(),
        bundle: base64(&sealed("trust-bundle", &bundle(), &authority())),
        question: base64(&question().encode_to_vec()),
        reputation: base64(&sealed("reputation", said, signer)),
    }
}

/// What a list says: to whom, about which question, by whom.
pub(super) fn reputations(made: &mut Made) {
    let good = || answer(&said(), &signing());
    made.add("accept", "reputation", "6.18", "one of three values is listed", Case::Reputation(good()));
    let nothing = proto::Reputation { listed: Vec::new(), counts_for_s: 86_400, ..said() };
    let nothing = Case::Reputation(answer(&nothing, &signing()));
    made.add("accept", "reputation-nothing-listed", "6.18", "none is, for a day", nothing);
    let other = question_digest(&proto::ReputationQuestion { nonce: vec![8; 32].into(), ..question() });
    for (expect, name, what, said) in [
        (
            "wrong_question",
            "repeated",
            "the answer to the same question of before",
            proto::Reputation { question: other, ..said() },
        ),
        (
            "wrong_agent",
            "reputation",
            "the answer to another agent",
            proto::Reputation { agent_id: agent(2).as_bytes().to_vec().into(), ..said() },
        ),
        (
            "wrong_fleet",
            "reputation",
            "another fleet's list",
            proto::Reputation { fleet_id: vec![0xf2; 16].into(), ..said() },
        ),
        (
            "malformed_payload",
            "reputation-for-ever",
            "an answer that counts for more than a day",
            proto::Reputation { counts_for_s: 86_401, ..said() },
        ),
        (
            "malformed_payload",
            "reputation-for-no-time",
            "an answer that does not count",
            proto::Reputation { counts_for_s: 0, ..said() },
        ),
        (
            "malformed_payload",
            "reputation-unsorted",
            "values out of order",
            proto::Reputation { listed: vec![vec![2; 32].into(), vec![1; 32].into()], ..said() },
        ),
        (
            "malformed_payload",
            "reputation-width",
            "a value of 31 bytes",
            proto::Reputation { listed: vec![vec![2; 31].into()], ..said() },
        ),
        (
            "malformed_payload",
            "reputation-version",
            "a version that leads elsewhere",
            proto::Reputation { version: "../1".to_owned(), ..said() },
        ),
    ] {
        made.add(expect, name, "6.18", what, Case::Reputation(answer(&said, &signing())));
    }
    let forged = Case::Reputation(answer(&said(), &stranger()));
    made.add("unknown_key", "reputation", "6.18", "a list's word by a stranger", forged);
    let altered = |envelope: &mut proto::Envelope| {
        envelope.payload = proto::Reputation { listed: Vec::new(), ..said() }.encode_to_vec().into();
    };
    let mut unlisted = envelope(&payload_type("reputation"), &said().encode_to_vec(), &[&signing()]);
    altered(&mut unlisted);
    let unlisted = ReputationCase { reputation: base64(&unlisted.encode_to_vec()), ..good() };
    let says = "somebody on the way takes a value off the list";
    made.add("bad_signature", "reputation", "6.18", says, Case::Reputation(unlisted));
    let passed_off = ReputationCase { reputation: base64(&sealed("welcome", &said(), &signing())), ..good() };
    let says = "another document by the same key";
    made.add("wrong_purpose", "reputation", "6.18", says, Case::Reputation(passed_off));
}

fn question_digest(question: &proto::ReputationQuestion) -> bytes::Bytes {
    Digest::of(&question.encode_to_vec()).as_bytes().to_vec().into()
}
