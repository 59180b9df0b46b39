//! Each refusal of a command, end to end: a villain in the middle, a thief of the signing key, an operator's
//! mistake.

use std::time::Duration;

use integration_tests::fleet::{Build, Daemon, Fleet, lines};
use integration_tests::forge::{Forger, envelope, payload_type, sealed};
use integration_tests::intruder::{Intruder, altered, forged};
use integration_tests::stolen::{Stolen, delivery, now};
use prost::Message as _;
use writ_proto::v1::{self as proto, command::Action, server_frame::Frame};
use writ_protocol::audience::AudienceTree;
use writ_protocol::id::AgentId;

const HOUR: Duration = Duration::from_secs(3600);

/// A fleet of one agent with a villain in the middle who has all of the server's keys.
struct Scene {
    fleet: Fleet,
    agent: Daemon,
    rome: AgentId,
    villain: Intruder,
    stolen: Stolen,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(prepare: impl FnOnce(&mut Fleet)) -> Self {
        let mut fleet = Fleet::new(Build::Testing);
        prepare(&mut fleet);
        let agent = fleet.agent("rome");
        let rome = fleet.agent_id("rome").parse().unwrap();
        let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
        villain.wait_for_session(rome);
        let stolen = Stolen::from(&fleet, "rome");
        Self { fleet, agent, rome, villain, stolen }
    }

    /// The agent stays silent, and the operator hears of it.
    fn is_silent(&self, delivery: proto::Delivery, code: &str) {
        let answers = self.agent.count("command refused") + self.agent.count("command admitted");
        self.villain.deliver(self.rome, delivery);
        self.agent.wait_for("refused in silence", |said| said["code"] == code);
        self.fleet.server().wait_for("agent refused", |said| said["code"] == code);
        assert_eq!(self.agent.count("command refused") + self.agent.count("command admitted"), answers);
        let alerts = self.fleet.alerts("refused", code);
        assert_eq!(alerts.len(), 1);
        assert_eq!(alerts[0]["agent_name"], "rome");
    }

    /// The same without a look at alerts, which count and do not grow.
    fn is_silent_again(&self, delivery: proto::Delivery, code: &str) {
        let before = self.agent.count("refused in silence");
        self.villain.deliver(self.rome, delivery);
        self.agent.wait_for_count("refused in silence", before + 1);
        let last = self.agent.lines("refused in silence").pop().unwrap();
        assert_eq!(last["code"], code);
    }

    /// The agent starts nothing and says so in a receipt; the server never sent such a command.
    fn is_answered(&self, delivery: proto::Delivery, code: &str) {
        self.villain.deliver(self.rome, delivery);
        self.agent.wait_for("command refused", |said| said["code"] == code);
        self.fleet.server().wait_for("receipt kept as evidence", |said| said["fate"] == "Unsolicited");
    }

    fn bundle(&self, bundle: bytes::Bytes) {
        self.villain.inject(self.rome, Frame::Bundles(proto::Bundles { bundles: vec![bundle] }));
    }
}

#[test]
fn what_is_forged_altered_or_misdirected_gets_silence_and_an_alert() {
    let scene = Scene::new();
    let _sent = scene.fleet.json(&["send", "ping", "--all", "--wait"]);
    let genuine = scene.villain.wait_for_deliveries(scene.rome, 1).remove(0);
    let before = scene.agent.count("command admitted");

    scene.is_silent(forged(&genuine), "unknown_key");
    scene.is_silent(altered(&genuine), "bad_signature");
    scene.is_silent(proto::Delivery { envelope: vec![0; 65_537].into(), ..genuine.clone() }, "oversized");
    let trailing = [genuine.envelope.as_ref(), &[0x7a, 0x00]].concat();
    scene.is_silent(proto::Delivery { envelope: trailing.into(), ..genuine.clone() }, "malformed_envelope");
    scene.is_silent(proto::Delivery { proof: None, ..genuine }, "broken_proof");

    let signing = &scene.stolen.signing;
    let another = AgentId::from_bytes([9; 16]);
    let (command, _) = scene.stolen.order(&[another], Action::Ping(proto::Ping {}));
    let tree = AudienceTree::build(&[another]).unwrap();
    scene.is_silent(delivery(sealed("command", &command, signing), &tree, 0), "wrong_agent");

    let ping = |change: fn(&mut proto::Command)| scene.stolen.ping(scene.rome, signing, change);
    scene.is_silent(ping(|command| command.fleet_id = vec![9; 16].into()), "wrong_fleet");
    scene.is_silent(ping(|command| command.action = None), "malformed_payload");

    let (command, tree) = scene.stolen.order(&[scene.rome], Action::Ping(proto::Ping {}));
    let unknown_field = [command.encode_to_vec().as_slice(), &[0xc2, 0x3e, 0x01, 0x00]].concat();
    let signed = envelope(&payload_type("command"), &unknown_field, &[signing]).encode_to_vec();
    scene.is_silent(delivery(signed.into(), &tree, 0), "non_canonical");
    scene.is_silent(delivery(sealed("refusals-ack", &command, signing), &tree, 0), "wrong_purpose");

    assert_eq!(scene.agent.count("command admitted"), before, "nothing was admitted");
    let _obeys = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

#[test]
fn certificates_that_do_not_count_are_refused_by_name() {
    let scene = Scene::new();
    let keys: Vec<Forger> = (1..=4).map(|seed| Forger::new([seed; 32])).collect();
    let hour = HOUR.as_secs() * 1000;
    scene.bundle(scene.stolen.successor(|bundle| {
        let mut entries: Vec<_> = keys.iter().map(|key| scene.stolen.entry(key)).collect();
        entries[0].revoked = true;
        entries[1].accept_until_ms = now().as_millis() - 1000;
        entries[2].sign_from_ms = now().as_millis() + hour;
        entries[3].realms = vec!["plant-2".to_owned()];
        bundle.signing.extend(entries);
    }));
    scene.agent.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    let codes = ["certificate_revoked", "certificate_expired", "certificate_not_yet_valid", "wrong_realm"];
    for (key, code) in keys.iter().zip(codes) {
        scene.is_silent(scene.stolen.ping(scene.rome, key, |_| {}), code);
    }
    let _obeys = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

#[test]
fn an_agent_whose_bundle_lists_nobody_obeys_nobody() {
    let scene = Scene::new();
    scene.bundle(scene.stolen.successor(|bundle| bundle.signing.clear()));
    scene.agent.wait_for("trust bundle accepted", |_| true);
    scene.villain.deliver(scene.rome, scene.stolen.ping(scene.rome, &scene.stolen.signing, |_| {}));
    scene.agent.wait_for("refused in silence", |said| said["code"] == "no_trust");
    assert_eq!(scene.agent.count("command admitted"), 0);
}

#[test]
fn bundles_that_do_not_follow_change_nothing() {
    let scene = Scene::new();
    let refused = |bundle: bytes::Bytes, code: &str| {
        scene.bundle(bundle);
        scene.agent.wait_for("refused in silence", |said| said["code"] == code);
        scene.fleet.server().wait_for("agent refused", |said| said["code"] == code);
    };
    refused(scene.stolen.successor(|bundle| bundle.prev = vec![vec![7; 32].into()]), "bundle_wrong_prev");
    let same = proto::TrustBundle { issued_at_ms: now().as_millis(), ..scene.stolen.bundle.clone() };
    refused(sealed("trust-bundle", &same, &scene.stolen.authority), "bundle_not_newer");
    refused(scene.stolen.successor(|bundle| bundle.endpoints.clear()), "bundle_invalid");
    let by_signing_key = proto::TrustBundle { version: 2, ..scene.stolen.bundle.clone() };
    refused(sealed("trust-bundle", &by_signing_key, &scene.stolen.signing), "unknown_key");
    refused(
        scene.stolen.successor(|bundle| {
            let authority = bundle.authority.as_mut().unwrap();
            authority.keys.push(Forger::new([5; 32]).public().spki().into());
            authority.threshold = 2;
        }),
        "threshold_not_met",
    );
    assert_eq!(scene.agent.count("trust bundle accepted"), 0);
    let _obeys = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

#[test]
fn what_a_thief_of_the_signing_key_sends_outside_the_rules_is_answered_with_its_code() {
    let scene = Scene::new();
    let signing = &scene.stolen.signing;
    let sent = scene.fleet.json(&["send", "ping", "--all", "--wait"]);
    let id: writ_protocol::id::CommandId = sent["command_id"].as_str().unwrap().parse().unwrap();

    scene.is_answered(
        scene.stolen.ping(scene.rome, signing, |c| c.command_id = id.as_bytes().to_vec().into()),
        "id_reused",
    );
    let ping = |change: fn(&mut proto::Command)| scene.stolen.ping(scene.rome, signing, change);
    scene.is_answered(ping(|command| command.not_before_ms += 300_000), "not_yet_valid");
    scene.is_answered(
        ping(|command| {
            command.issued_at_ms -= 7_200_000;
            command.not_before_ms -= 7_200_000;
            command.expires_at_ms = command.not_before_ms + 1000;
        }),
        "expired",
    );
    scene.is_answered(ping(|command| command.issued_at_ms -= 7_200_000), "too_old");
    let newer = ping(|command| command.action = Some(Action::RotateIdentity(proto::RotateIdentity {})));
    scene.is_answered(newer, "action_not_allowed");
    assert_eq!(scene.agent.count("command admitted"), 1, "only the honest one");
    assert_eq!(scene.fleet.alerts("unsolicited", "").len(), 1);
}

#[test]
fn an_action_whose_class_needs_approval_is_refused_without() {
    let scene = Scene::with(|fleet| {
        fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    });
    scene.bundle(scene.stolen.successor(|bundle| {
        let operator = Forger::new([8; 32]).public().spki().into();
        bundle.class_rules = vec![proto::ClassRule {
            class: proto::ActionClass::Change.into(),
            operators: Some(proto::Role { keys: vec![operator], threshold: 1 }),
        }];
    }));
    scene.agent.wait_for("trust bundle accepted", |_| true);
    let said = scene.fleet.writ(&["--output", "json", "send", "action", "note", "word=x", "--all", "--wait"]);
    assert_eq!(said.json()["targets"][0]["refusal_code"], "threshold_not_met");
    assert!(lines(&scene.fleet.path("note.notes")).is_empty());
    let _reads_need_none = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

#[test]
fn a_full_journal_refuses_and_says_so() {
    let scene = Scene::with(|fleet| fleet.agent_config = "[journal]\nmax_entries = 16\n".to_owned());
    for _ in 0..16 {
        let _sent = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    }
    let said = scene.fleet.writ(&["--output", "json", "send", "ping", "--all", "--wait"]);
    assert_eq!(said.json()["targets"][0]["refusal_code"], "journal_full");
}

#[test]
fn a_replay_is_not_started_again_before_or_after_a_restart_and_the_operator_hears_of_it() {
    let scene = Scene::with(|fleet| {
        fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    });
    let notes = scene.fleet.path("note.notes");
    let _sent = scene.fleet.json(&["send", "action", "note", "word=once", "--all", "--wait"]);
    let genuine = scene.villain.wait_for_deliveries(scene.rome, 1).remove(0);
    scene.villain.deliver(scene.rome, genuine.clone());
    scene.fleet.server().wait_for("command replayed by somebody", |said| said["deliveries"] == 2);

    let Scene { fleet, agent, rome, villain, stolen: _ } = scene;
    // Acknowledgements come with the next delivery, and are written down at the latest when the agent ends.
    let _next = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    assert!(agent.stop().success());
    let agent = fleet.start_agent("rome", None);
    villain.deliver(rome, genuine);
    agent.wait_for("command delivered again", |said| said["state"] == "Acknowledged");
    fleet.server().wait_for("command replayed by somebody", |said| said["made"] == 0);
    assert_eq!(lines(&notes), ["once"]);
    assert_eq!(fleet.alerts("replayed", "")[0]["count"], 2);
}

#[test]
fn a_flood_of_one_kind_is_one_report_and_one_alert() {
    let scene = Scene::new();
    for _ in 0..500 {
        let forged = scene.stolen.ping(scene.rome, &Forger::new([7; 32]), |_| {});
        scene.villain.deliver(scene.rome, forged);
    }
    scene.agent.wait_for_count("refused in silence", 500);
    scene.fleet.server().wait_for("agent refused", |said| said["code"] == "unknown_key");
    let _obeys = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    assert_eq!(scene.fleet.server().count("agent refused"), 1);
    assert_eq!(scene.fleet.alerts("refused", "unknown_key").len(), 1);
}

#[test]
fn a_command_by_an_unknown_key_makes_the_agent_ask_for_the_chain_once_and_then_decide() {
    let scene = Scene::new();
    let (listed, stranger) = (Forger::new([41; 32]), Forger::new([42; 32]));
    let entry = scene.stolen.entry(&listed);
    scene.villain.offer_chain(vec![scene.stolen.successor(|bundle| bundle.signing.push(entry))]);
    scene.villain.deliver(scene.rome, scene.stolen.ping(scene.rome, &listed, |_| {}));
    scene.agent.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    scene.agent.wait_for("command admitted", |_| true);
    for _ in 0..3 {
        scene.is_silent_again(scene.stolen.ping(scene.rome, &stranger, |_| {}), "unknown_key");
    }
    assert_eq!(scene.agent.count("a command by an unknown key: asking for newer trust bundles"), 1);
}

#[test]
fn what_was_refused_is_not_obeyed_when_it_comes_again_after_its_cause_is_mended() {
    let mut fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let rome = fleet.agent_id("rome").parse().unwrap();
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    villain.wait_for_session(rome);
    let sent = fleet.json(&["send", "action", "later", "word=late", "--agent", "rome", "--unchecked"]);
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == sent["command_id"]);
    let genuine = villain.wait_for_deliveries(rome, 1).remove(0);
    assert!(agent.stop().success());
    let notes = fleet.allow("later", "echo \"$1\" >> \"$NOTES\"", "");
    let agent = fleet.start_agent("rome", None);
    agent.wait_for("session began", |_| true);
    villain.deliver(rome, genuine);
    agent.wait_for("command delivered again", |said| said["command.id"] == sent["command_id"]);
    let _obeys = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    assert!(lines(&notes).is_empty(), "it was obeyed after all");
    let alerts = fleet.json(&["alerts"]).to_string();
    assert!(!alerts.contains("contradicted"), "{alerts}");
}

#[test]
fn an_agent_in_a_flood_says_that_it_lives() {
    let scene = Scene::new();
    let _set = scene.fleet.writ(&["send", "settings", "--all", "--heartbeat", "1s", "--wait"]).ok();
    let genuine = scene.villain.wait_for_deliveries(scene.rome, 1).remove(0);
    let before = scene.agent.count("no session");
    scene.villain.flood_until_heartbeats(scene.rome, &Frame::Delivery(forged(&genuine)), 3);
    assert_eq!(scene.agent.count("no session"), before, "it lost its session");
}
