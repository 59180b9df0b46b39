//! Suspicious objects of the Control Manager: from its sandbox and its operators to the agents of its servers.

use std::fs;

use integration_tests::daemon::{Daemon, until};
use integration_tests::fleet::{Build, Fleet};
use integration_tests::forged_manager::ForgedManager;
use integration_tests::manager::Manager;
use integration_tests::ports::free_port;
use integration_tests::sandbox::{Sandbox, indicator};
use serde_json::{Value, json};
use writ_objects::{Object, ObjectType, ObjectsChange, Source};
use writ_protocol::command::Remedy;
use writ_protocol::id::Digest;
use writ_protocol::manager::{ObjectsOffer, OfferedChange};

const EVIL: &str = "what an analysis found bad\n";

fn fleet() -> Fleet {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    fs::create_dir(fleet.path("files")).unwrap();
    fleet
}

fn sha256(content: &str) -> String {
    Digest::of(content.as_bytes()).to_string()
}

/// A manager that reads a sandbox.
fn manager_of(fleet: &Fleet, sandbox: &Sandbox, more: &str) -> Manager {
    let manager = Manager::with(fleet, "manager", &sandbox.config(more));
    manager.daemon().wait_for("other suspicious objects act", |_| true);
    manager
}

/// Registers with short heartbeats.
fn register(fleet: &Fleet, manager: &Manager) {
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let _registered = fleet.registered(manager);
}

fn subscription(fleet: &Fleet) -> Value {
    fleet.json(&["objects", "subscription", "show"])
}

fn subscribed(fleet: &Fleet) {
    until("the server did not subscribe", || {
        let shown = subscription(fleet);
        shown["state"] == "active" && shown["version"] != 0
    });
}

/// Has what is at the sandbox come to the server, until so many objects are there; the last answer.
fn bring(fleet: &Fleet, objects: u64) -> Value {
    let read = fleet.cm(&["entities", "sandbox", "--sync"]);
    assert_eq!(read["error"], "", "{read}");
    let mut synced = Value::Null;
    until(&format!("the server never held {objects} objects of its manager"), || {
        synced = fleet.json(&["objects", "subscription", "sync"]);
        synced["objects"] == objects
    });
    synced
}

/// Objects by value, as they stand at the server or at the manager.
fn standing(fleet: &Fleet, at: &[&str], value: &str) -> Value {
    let listed = fleet.json(&[at, &["objects", "list"]].concat());
    let found = listed.as_array().unwrap().iter().filter(|row| row["value"] == value);
    found.map(|row| json!([row["source"], row["standing"], row["remedy"]])).collect()
}

fn scan(fleet: &Fleet) -> Value {
    let files = fleet.path("files").display().to_string();
    let scan = ["--output", "json", "send", "scan", &files, "--remedy", "quarantine", "--all", "--wait"];
    fleet.writ(&scan).json()["targets"][0].clone()
}

fn in_force(agent: &Daemon, times: usize) {
    agent.wait_for_count("component in force", times);
}

#[test]
fn what_a_sandbox_finds_is_on_agents_without_another_click_and_is_taken_back() {
    let fleet = fleet();
    let rome = fleet.agent("rome");
    let sandbox = Sandbox::start(&fleet);
    let manager = manager_of(&fleet, &sandbox, "files = \"quarantine\"\nothers = \"block\"\nconfidence = 50");
    let evil = fleet.path("files/evil");
    fs::write(&evil, EVIL).unwrap();
    // Nobody asks for a subscription: registering is enough.
    assert_eq!(subscription(&fleet)["state"], "none");
    register(&fleet, &manager);
    subscribed(&fleet);
    assert_eq!(fleet.cm(&["entities", "list"])[0]["subscription"], "active");

    let digest = sha256(EVIL);
    let file = format!("[file:hashes.'SHA-256' = '{digest}']");
    sandbox.add(&[
        indicator(1, 0, &file, &json!({"confidence": 90})),
        indicator(2, 0, "[domain-name:value = 'evil.example' OR url:value = 'http://evil.example/a']", &json!({})),
        indicator(3, 0, "[ipv4-addr:value = '192.0.2.1'] AND [ipv4-addr:value = '192.0.2.2']", &json!({})),
        indicator(4, 0, "[ipv4-addr:value = '192.0.2.4']", &json!({"confidence": 10})),
        indicator(5, 0, "[ipv4-addr:value = '192.0.2.5'", &json!({})),
        json!({"type": "malware", "spec_version": "2.1", "id": "malware--00000000-0000-4000-8000-000000000001",
               "created": "2026-01-01T00:00:00.000Z", "modified": "2026-01-01T00:00:00.000Z",
               "name": "x", "is_family": false}),
        indicator(6, 0, "[ipv4-addr:value = '192.0.2.6']", &json!({"x_unknown": {"a": [1]}})),
        indicator(7, 0, "[domain-name:value = 'evil.example']", &json!({"valid_until": "2036-01-01T00:00:00Z"})),
    ]);
    let synced = bring(&fleet, 4);
    assert!(synced["changed"].as_u64().unwrap() > 0, "{synced}");
    assert_eq!(standing(&fleet, &[], &digest), json!([["manager", "acts", "quarantine"]]));
    assert_eq!(standing(&fleet, &["--context", "cm"], &digest), json!([["sandbox", "acts", "quarantine"]]));
    assert_eq!(standing(&fleet, &[], "evil.example"), json!([["manager", "acts", "block"]]));
    // What is not taken, and why.
    let read = fleet.cm(&["entities", "sandbox"]);
    let why = |number: u8| {
        let id = format!("indicator--00000000-0000-4000-8000-0000000000{number:02x}");
        let notes = read["notes"].as_array().unwrap();
        notes
            .iter()
            .find(|note| note["id"] == id.as_str())
            .map(|note| note["why"].as_str().unwrap().to_owned())
    };
    assert!(why(3).unwrap().contains("bad only together"), "{read}");
    assert!(why(4).unwrap().contains("its confidence is 10, and 50 is wanted"), "{read}");
    assert!(why(5).unwrap().contains("its pattern cannot be read"), "{read}");
    assert_eq!((why(1), why(6), &read["indicators"]), (None, None, &json!(4)));
    assert!(read["added_after"].as_str().unwrap().starts_with("20"), "{read}");
    // On the agent, in minutes: here at once.
    in_force(&rome, 1);
    let answer = scan(&fleet);
    assert!(answer["detail"].as_str().unwrap().contains("1 quarantined"), "{answer}");
    assert!(!evil.exists());
    let _restored = fleet.writ(&["send", "restore-quarantined", &digest, "--all", "--wait"]).ok();

    // A later version names something else, and another indicator is revoked.
    sandbox.add(&[
        indicator(1, 1, "[ipv4-addr:value = '192.0.2.9']", &json!({"confidence": 90})),
        indicator(2, 1, "[domain-name:value = 'evil.example']", &json!({"revoked": true})),
    ]);
    let synced = bring(&fleet, 3);
    assert_eq!(standing(&fleet, &[], &digest), json!([]), "{synced}");
    assert_eq!(standing(&fleet, &[], "http://evil.example/a"), json!([]));
    // What a second indicator names stays.
    assert_eq!(standing(&fleet, &[], "evil.example"), json!([["manager", "acts", "block"]]));
    assert_eq!(standing(&fleet, &[], "192.0.2.9"), json!([["manager", "acts", "block"]]));
    in_force(&rome, 2);
    let answer = scan(&fleet);
    assert!(!answer["detail"].as_str().unwrap().contains("1 quarantined"), "{answer}");
    assert!(evil.exists());
    // The password is in no log and no answer.
    let said = format!("{}{}{read}", sandbox.said(), manager.daemon().said());
    assert!(!said.contains(integration_tests::proxies::PASSWORD));
}

#[test]
fn operators_of_the_manager_win_there_and_those_of_a_server_win_here() {
    let fleet = fleet();
    let sandbox = Sandbox::start(&fleet);
    let manager = manager_of(&fleet, &sandbox, "");
    register(&fleet, &manager);
    subscribed(&fleet);
    sandbox.add(&[indicator(
        1,
        0,
        "[domain-name:value IN ('a.example', 'b.example', 'c.example')]",
        &json!({}),
    )]);
    let _brought = bring(&fleet, 3);
    let cm = ["--context", "cm"];
    let at_manager = |arguments: &[&str]| fleet.json(&[&cm, arguments].concat());
    // The manager's operator blocks one of them, and excepts another, which is not sent then.
    let _blocked =
        at_manager(&["objects", "add", "domain", "a.example", "--remedy", "block", "--note", "we know it"]);
    let _excepted = at_manager(&["objects", "except", "domain", "b.example"]);
    assert_eq!(
        standing(&fleet, &cm, "a.example"),
        json!([["operator", "acts", "block"], ["sandbox", "overruled", "log"]])
    );
    let _brought = bring(&fleet, 2);
    assert_eq!(standing(&fleet, &[], "b.example"), json!([]));
    assert_eq!(standing(&fleet, &[], "a.example"), json!([["manager", "acts", "block"]]));
    assert_eq!(fleet.json(&["objects", "exceptions"]), json!([]));
    let listed = fleet.json(&["objects", "list"]);
    let of_a = listed.as_array().unwrap().iter().find(|row| row["value"] == "a.example").unwrap();
    assert_eq!((&of_a["note"], &of_a["added_by"]), (&json!("we know it"), &json!("control-manager")));

    // The server's own operator wins over the manager, and can except what it says, and not remove it.
    let _ours = fleet.json(&["objects", "add", "domain", "a.example", "--remedy", "log"]);
    assert_eq!(
        standing(&fleet, &[], "a.example"),
        json!([["manager", "overruled", "block"], ["operator", "acts", "log"]])
    );
    assert_eq!(fleet.json(&["objects", "remove", "domain", "a.example"])["changed"], 1);
    assert_eq!(fleet.json(&["objects", "remove", "domain", "a.example"])["changed"], 0);
    assert_eq!(fleet.json(&["objects", "expire", "domain", "a.example"])["changed"], 0);
    assert_eq!(standing(&fleet, &[], "a.example"), json!([["manager", "acts", "block"]]));
    let _excepted = fleet.json(&["objects", "except", "domain", "a.example"]);
    assert_eq!(standing(&fleet, &[], "a.example"), json!([["manager", "excepted", "block"]]));
    let forged = fleet.call(
        "ObjectService/Add",
        r#"{"objects":[{"type":"domain","value":"x.example","source":"manager"}]}"#,
    );
    assert!(forged.code != 0 && forged.stderr.contains("is changed there"), "{forged:?}");

    // At the manager, what an operator took from a file is not the sandbox's to change.
    let bundle = fleet.path("found.json");
    let objects = [indicator(9, 0, "[domain-name:value = 'c.example']", &json!({}))];
    fs::write(&bundle, json!({"type": "bundle", "id": "bundle--1", "objects": objects}).to_string()).unwrap();
    let _imported = at_manager(&["objects", "import", &bundle.display().to_string(), "--remedy", "block"]);
    let both = json!([["analysed", "acts", "block"], ["sandbox", "overruled", "log"]]);
    assert_eq!(standing(&fleet, &cm, "c.example"), both);
    assert_eq!(at_manager(&["objects", "expire", "domain", "c.example"])["changed"], 0);
    sandbox.add(&[indicator(
        1,
        1,
        "[domain-name:value IN ('a.example', 'b.example', 'c.example')]",
        &json!({"revoked": true}),
    )]);
    let _read = fleet.cm(&["entities", "sandbox", "--sync"]);
    assert_eq!(standing(&fleet, &cm, "c.example"), json!([["analysed", "acts", "block"]]));
}

#[test]
fn a_manager_that_a_sandbox_is_connected_to_later_starts_the_subscription_then() {
    let fleet = fleet();
    let mut manager = Manager::new(&fleet);
    register(&fleet, &manager);
    let _polled = fleet.json(&["manager", "status"]);
    let shown = subscription(&fleet);
    assert_eq!(shown["state"], "none", "{shown}");
    assert!(shown["next"].as_str().unwrap().contains("no sandbox is connected"), "{shown}");
    let sandbox = Sandbox::start(&fleet);
    manager.stop();
    manager.config = sandbox.config("");
    manager.start(None);
    fleet.server().wait_for("subscribed to suspicious objects of the Control Manager", |_| true);
    subscribed(&fleet);

    // An operator stops it, and what came may stay or go.
    sandbox.add(&[indicator(1, 0, "[domain-name:value = 'a.example']", &json!({}))]);
    let _brought = bring(&fleet, 1);
    let stopped = fleet.json(&["objects", "subscription", "stop"]);
    assert_eq!(
        (&stopped["state"], &stopped["objects"], &stopped["key_id"]),
        (&json!("stopped"), &json!(1), &json!(""))
    );
    until("the manager was not told", || fleet.cm(&["entities", "list"])[0]["subscription"] == "none");
    let refused = fleet.writ(&["objects", "subscription", "sync"]);
    assert!(refused.code != 0 && refused.stderr.contains("objects subscription start"), "{refused:?}");
    let stopped = fleet.json(&["objects", "subscription", "stop", "--delete"]);
    assert_eq!((&stopped["objects"], &stopped["version"]), (&json!(0), &json!(0)));
    // It stays so when both start again, until an operator says otherwise.
    fleet.server().wait_for_count("the Control Manager was told that the subscription ended", 1);
    let started = fleet.json(&["objects", "subscription", "start"]);
    assert_eq!((&started["state"], &started["objects"]), (&json!("active"), &json!(1)), "{started}");

    // Unregistering ends it at the manager, too.
    let entity = fleet.line()["entity_id"].clone();
    let _left = fleet.json(&["manager", "unregister"]);
    let shown = subscription(&fleet);
    assert_eq!((&shown["state"], &shown["objects"]), (&json!("none"), &json!(1)), "{shown}");
    assert!(fleet.cm(&["entities", "list"]).as_array().unwrap().iter().all(|row| row["entity_id"] != entity));
}

#[test]
fn the_key_of_a_subscription_is_rotated_revoked_and_allowed_again() {
    let fleet = fleet();
    let sandbox = Sandbox::start(&fleet);
    let manager = manager_of(&fleet, &sandbox, "");
    register(&fleet, &manager);
    subscribed(&fleet);
    let first = subscription(&fleet)["key_id"].clone();
    let rotated = fleet.json(&["objects", "subscription", "rotate"]);
    assert_ne!(rotated["key_id"], first);
    assert_eq!(fleet.cm(&["entities", "list"])[0]["subscription_key_id"], rotated["key_id"]);

    let name = fleet.cm(&["entities", "list"])[0]["entity_id"].as_str().unwrap().to_owned();
    let _revoked = fleet.cm(&["entities", "revoke-subscription", &name]);
    let refused = fleet.writ(&["objects", "subscription", "sync"]);
    assert!(refused.code != 0 && refused.stderr.contains("allow-subscription"), "{refused:?}");
    let shown = subscription(&fleet);
    assert_eq!((&shown["state"], &shown["key_id"]), (&json!("revoked"), &json!("")), "{shown}");
    assert_eq!(fleet.alerts("manager_rejects", "subscription_revoked").len(), 1);
    let _allowed = fleet.cm(&["entities", "allow-subscription", &name]);
    let synced = fleet.json(&["objects", "subscription", "sync"]);
    assert_eq!(synced["state"], "active", "{synced}");

    // The interval is set while it runs.
    assert_eq!(fleet.json(&["objects", "subscription", "interval", "60"])["interval_minutes"], 60);
    for minutes in ["0", "61"] {
        assert_eq!(fleet.writ(&["objects", "subscription", "interval", minutes]).code, 2);
        let refused = fleet.call("SubscriptionService/SetInterval", &format!("{{\"minutes\":{minutes}}}"));
        assert!(refused.stderr.contains("it must be 1 to 60"), "{refused:?}");
    }
}

fn domain(value: &str) -> Object {
    Object::new(ObjectType::Domain, value, Remedy::Log, Source::Manager).unwrap()
}

/// What is offered, and what follows.
type Offered = (ObjectsOffer, Vec<u8>);

/// What is offered to a server that holds `base`, and its bytes.
fn offer(version: u64, base: u64, change: &ObjectsChange, list: &ObjectsChange) -> Offered {
    let bytes = change.encode();
    let length = u64::try_from(bytes.len()).unwrap();
    let offered = OfferedChange { base, bytes: length, digest: Digest::of(&bytes) };
    (ObjectsOffer { version, list: list.digest(), change: Some(offered) }, bytes)
}

#[test]
fn objects_that_are_altered_cut_or_older_are_refused_and_what_is_held_stays() {
    let fleet = fleet();
    let forged = ForgedManager::new();
    let ca = fleet.write_secret("forged-ca.pem", &forged.ca).display().to_string();
    let port = forged.port.to_string();
    let _set = fleet.settings(&["--address", "localhost", "--port", &port, "--ca", &ca]).ok();
    let _registered = fleet.json(&["manager", "register", "--update-source", "default"]);
    let whole = ObjectsChange { put: vec![domain("a.example"), domain("b.example")], gone: Vec::new() };
    let (good, bytes) = offer(5, 0, &whole, &whole);
    forged.offer(good.clone(), &bytes);
    let started = fleet.json(&["objects", "subscription", "start"]);
    assert_eq!((&started["version"], &started["objects"]), (&json!(5), &json!(2)), "{started}");

    let more = ObjectsChange {
        put: vec![domain("c.example")],
        gone: vec![(ObjectType::Domain, "a.example".to_owned())],
    };
    let after = more.after(whole.put.clone());
    let (newer, delta) = offer(6, 5, &more, &after);
    let mut altered = delta.clone();
    altered[5] ^= 1;
    let other = |list: &ObjectsChange| ObjectsOffer { list: list.digest(), ..newer.clone() };
    let older = ObjectsOffer { version: 4, ..good };
    let refusals: Vec<(Vec<Offered>, &str)> = vec![
        (vec![(newer.clone(), altered)], "others than the manager signed"),
        (vec![(newer.clone(), delta[..delta.len() - 1].to_vec())], "ended early"),
        (vec![(newer.clone(), [delta.as_slice(), b"x"].concat())], "others than the manager signed"),
        (vec![(older, bytes)], "was put back to an earlier state"),
        // A change that leads elsewhere is asked for as a whole once.
        (
            vec![(other(&whole), delta.clone()), (other(&whole), delta.clone())],
            "not the list that the manager names",
        ),
        (vec![(ObjectsOffer { change: None, ..newer.clone() }, Vec::new()); 2], "not the list"),
    ];
    for (offers, why) in refusals {
        for (offer, content) in offers {
            forged.offer(offer, &content);
        }
        let refused = fleet.writ(&["objects", "subscription", "sync"]);
        assert!(refused.code != 0 && refused.stderr.contains(why), "{why}: {refused:?}");
        let shown = subscription(&fleet);
        assert_eq!((&shown["version"], &shown["objects"]), (&json!(5), &json!(2)), "{why}: {shown}");
        assert!(shown["last_error"].as_str().unwrap().contains(why), "{why}: {shown}");
    }
    assert_eq!(fleet.alerts("manager_rejects", "objects_went_back").len(), 1);
    // Signed by nobody it should be.
    forged.sign_strangely(true);
    forged.offer(newer.clone(), &delta);
    let refused = fleet.writ(&["objects", "subscription", "sync"]);
    assert!(refused.code != 0 && refused.stderr.contains("authorization"), "{refused:?}");
    forged.sign_strangely(false);
    // The good one counts.
    forged.offer(newer, &delta);
    let synced = fleet.json(&["objects", "subscription", "sync"]);
    assert_eq!((&synced["version"], &synced["changed"]), (&json!(6), &json!(2)), "{synced}");
    assert_eq!(standing(&fleet, &[], "a.example"), json!([]));
    assert_eq!(standing(&fleet, &[], "c.example"), json!([["manager", "acts", "log"]]));
}

#[test]
fn whoever_is_killed_at_any_step_goes_on_and_nothing_is_missed() {
    let mut fleet = fleet();
    let sandbox = Sandbox::start(&fleet);
    let mut manager = manager_of(&fleet, &sandbox, "");
    let mut all = Vec::new();
    let mut find = |number: u8| {
        let value = format!("d{number}.example");
        sandbox.add(&[indicator(number, 0, &format!("[domain-name:value = '{value}']"), &json!({}))]);
        all.push(value);
    };
    // The server, once the manager knows its key.
    find(1);
    fleet.kill_server();
    let checkpoint = fleet.checkpoint("subscribed_at_manager");
    fleet.start_server(Some(&checkpoint));
    register(&fleet, &manager);
    let held = checkpoint.reached();
    fleet.kill_server();
    drop(held);
    fleet.start_server(None);
    subscribed(&fleet);
    // The manager, in the middle of a reading and of a new version.
    for (number, name) in [(2, "sandbox_page_taken"), (3, "feed_changed")] {
        manager.stop();
        find(number);
        let checkpoint = fleet.checkpoint(name);
        manager.start(Some(&checkpoint));
        let held = checkpoint.reached();
        manager.kill();
        drop(held);
        manager.start(None);
    }
    // The server, with the objects and without a note of it.
    let checkpoint = fleet.checkpoint("objects_taken");
    fleet.kill_server();
    fleet.start_server(Some(&checkpoint));
    std::thread::scope(|story| {
        let asked = story.spawn(|| fleet.writ(&["objects", "subscription", "sync"]));
        let held = checkpoint.reached();
        fleet.server().kill_in_place();
        drop(held);
        assert_ne!(asked.join().unwrap().code, 0);
    });
    fleet.kill_server();
    fleet.start_server(None);
    until("something was missed", || {
        let _read = fleet.cm(&["entities", "sandbox", "--sync"]);
        let _synced = fleet.writ(&["objects", "subscription", "sync"]);
        all.iter().all(|value| standing(&fleet, &[], value) == json!([["manager", "acts", "log"]]))
    });
    assert_eq!(subscription(&fleet)["objects"], 3);
}

#[test]
fn a_sandbox_that_cannot_be_read_says_why_and_what_was_read_stays() {
    let fleet = fleet();
    let sandbox = Sandbox::start(&fleet);
    let mut manager = manager_of(&fleet, &sandbox, "");
    sandbox.add(&[indicator(1, 0, "[domain-name:value = 'a.example']", &json!({}))]);
    let read = fleet.cm(&["entities", "sandbox", "--sync"]);
    assert_eq!((&read["error"], &read["indicators"]), (&json!(""), &json!(1)), "{read}");
    let config = manager.config.clone();
    let wrong = fleet.write_secret("wrong-password", "guessed").display().to_string();
    let password = fleet.path("sandbox/password").display().to_string();
    let [here, away] = [sandbox.port(), free_port()].map(|port| format!("localhost:{port}/"));
    for (from, to, why) in [
        (password.as_str(), wrong.as_str(), "answers 401: correct sandbox.user"),
        ("91a7b528", "00000000", "answers 404: there is no such collection"),
        ("/analyses/", "/nothing/", "answers 404"),
        (here.as_str(), away.as_str(), "cannot"),
    ] {
        manager.stop();
        manager.config = config.replace(from, to);
        manager.start(None);
        let asked = fleet.writ(&["--output", "json", "--context", "cm", "entities", "sandbox", "--sync"]);
        let said = asked.failed(3).stderr.clone();
        assert!(said.contains("the sandbox cannot be read") && said.contains(why), "{why}: {said}");
        let read = fleet.cm(&["entities", "sandbox"]);
        assert!(read["error"].as_str().unwrap().contains(why), "{why}: {read}");
        assert_eq!(read["indicators"], 1, "{read}");
    }
    manager.stop();
    for (from, to, why) in [
        ("https://", "http://", "sandbox.collection"),
        ("user = \"op\"", "", "sandbox.user"),
        ("https://localhost", "ftp://localhost", "sandbox.collection"),
        (password.as_str(), "/nowhere/at/all", "No such file"),
        ("[sandbox]", "[sandbox]\nconfidence = 101", "sandbox.confidence"),
        ("[sandbox]", "[sandbox]\nothers = \"quarantine\"", "sandbox.others"),
    ] {
        manager.config = config.replace(from, to);
        manager.write_config();
        let said = manager.try_run(&fleet);
        assert!(said.code == 64 && said.stderr.contains(why), "{why}: {said:?}");
    }
    // A manager without a sandbox says so, and what it said is forgotten.
    manager.config.clear();
    manager.start(None);
    until("what the sandbox said stays", || {
        fleet.cm(&["entities", "sandbox"])["indicators"] == 0
            && fleet.json(&["--context", "cm", "objects", "list"]) == json!([])
    });
    let refused = fleet.writ(&["--context", "cm", "entities", "sandbox", "--sync"]);
    assert!(refused.code != 0 && refused.stderr.contains("set sandbox.collection"), "{refused:?}");
}
