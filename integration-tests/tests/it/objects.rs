//! Suspicious objects: from operators and from STIX, on agents, and in scans.

use std::fs;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::listed::Listed;
use serde_json::{Value, json};
use writ_protocol::id::Digest;

const EVIL: &str = "what nobody wants on a host\n";

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

/// What stands where, by value.
fn standing(fleet: &Fleet, value: &str) -> Value {
    let listed = fleet.json(&["objects", "list"]);
    let found = listed.as_array().unwrap().iter().filter(|row| row["value"] == value);
    found.map(|row| json!([row["source"], row["standing"], row["remedy"]])).collect()
}

fn scan(fleet: &Fleet, more: &[&str]) -> Value {
    let files = fleet.path("files").display().to_string();
    let scan = [&["--output", "json", "send", "scan", files.as_str()], more, &["--all", "--wait"]].concat();
    fleet.writ(&scan).json()["targets"][0].clone()
}

fn detail(answer: &Value) -> &str {
    answer["detail"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

/// Waits until an agent holds what acts on the server.
fn hold(fleet: &Fleet) {
    until("not all agents hold the objects", || {
        let covered = fleet.json(&["updates", "coverage"]);
        covered[0]["component"] == "suspicious-objects" && covered[0]["holding"] == covered[0]["agents"]
    });
}

#[test]
fn an_object_reaches_agents_acts_as_it_says_and_ends() {
    let fleet = fleet();
    let rome = fleet.agent("rome");
    let evil = fleet.path("files/evil");
    fs::write(&evil, EVIL).unwrap();
    let (digest, remedy) = (sha256(EVIL), ["--remedy", "quarantine"]);
    // Before there is anything to look for.
    let answer = scan(&fleet, &[]);
    assert!(detail(&answer).contains("there is nothing to look for"), "{answer}");

    let added = fleet.json(&["objects", "add", "sha256", &digest.to_uppercase(), "--remedy", "block"]);
    assert_eq!(added["changed"], 1);
    assert_eq!(fleet.json(&["objects", "add", "sha256", &digest, "--remedy", "block"])["changed"], 0);
    rome.wait_for("component in force", |said| said["component"] == "suspicious-objects");
    // It blocks, although the scan may do more; and no more than the scan may.
    let answer = scan(&fleet, &[]);
    assert!(detail(&answer).contains("1 listed, 0 blocked"), "{answer}");
    let answer = scan(&fleet, &remedy);
    assert!(detail(&answer).contains("1 listed, 1 blocked, 0 quarantined"), "{answer}");
    assert!(answer["output"].as_str().unwrap().contains("a suspicious object"), "{answer}");
    let file = fs::File::open(&evil).unwrap();
    if let Ok(flags) = rustix::fs::ioctl_getflags(&file) {
        let _ = rustix::fs::ioctl_setflags(&file, flags.difference(rustix::fs::IFlags::IMMUTABLE));
    }
    // A stronger remedy takes its place, and an exception ends it.
    let _changed = fleet.json(&["objects", "add", "sha256", &digest, "--remedy", "quarantine"]);
    rome.wait_for_count("component in force", 2);
    let answer = scan(&fleet, &remedy);
    assert!(detail(&answer).contains("1 quarantined"), "{answer}");
    assert!(!evil.exists());
    let _restored = fleet.writ(&["send", "restore-quarantined", &digest, "--all", "--wait"]).ok();
    let _excepted = fleet.json(&["objects", "except", "sha256", &digest, "--note", "a test"]);
    rome.wait_for_count("component in force", 3);
    assert_eq!(standing(&fleet, &digest), json!([["operator", "excepted", "quarantine"]]));
    let answer = scan(&fleet, &remedy);
    assert!(detail(&answer).contains("there is nothing to look for"), "{answer}");
    assert!(evil.exists());
    assert_eq!(fleet.json(&["objects", "except", "sha256", &digest, "--undo"])["changed"], 1);
    rome.wait_for_count("component in force", 4);
    // What has ended does not act, and stays in the list.
    let ended = fleet.json(&["objects", "expire", "sha256", &digest, "--at", "2001-01-01T00:00:00Z"]);
    assert_eq!(ended["changed"], 1);
    rome.wait_for_count("component in force", 5);
    assert_eq!(standing(&fleet, &digest), json!([["operator", "expired", "quarantine"]]));
    let answer = scan(&fleet, &remedy);
    assert!(detail(&answer).contains("there is nothing to look for"), "{answer}");
    assert_eq!(fleet.json(&["objects", "remove", "sha256", &digest])["changed"], 1);
    assert_eq!(fleet.json(&["objects", "list"]), json!([]));
}

#[test]
fn what_is_no_object_is_refused_with_the_reason_and_nothing_of_it_is_kept() {
    let fleet = fleet();
    for (arguments, why) in [
        (&["objects", "add", "md5", "aa"][..], "is no type of object"),
        (
            &["objects", "add", "ip", "192.0.2.1", "192.0.2.256"],
            "number 2: the ip is `192.0.2.256`, which is no IP address",
        ),
        (&["objects", "add", "ip", "192.0.2.1", "--remedy", "quarantine"], "only files can be quarantined"),
        (&["objects", "add", "cidr", "0.0.0.0/0"], "is shorter than /8"),
        (&["objects", "add", "domain", "com"], "one word without a dot"),
        (&["objects", "except", "url", "evil.example"], "is no URL"),
        (&["objects", "import", "/nowhere/at/all"], "No such file"),
    ] {
        let said = fleet.writ(arguments);
        assert!(said.code != 0 && said.stderr.contains(why), "{arguments:?}: {said:?}");
    }
    assert_eq!(fleet.json(&["objects", "list"]), json!([]));
    // What is no bundle is no empty one.
    fs::write(fleet.path("thing.json"), "{\"a\": 7}").unwrap();
    let said = fleet.writ(&["objects", "import", &fleet.path("thing.json").display().to_string()]);
    assert!(said.code != 0 && said.stderr.contains("it is no STIX: neither a bundle"), "{said:?}");
}

#[test]
fn of_stix_is_taken_what_is_bad_by_itself_and_an_operator_overrules_it() {
    let fleet = fleet();
    let rome = fleet.agent("rome");
    let file = sha256(EVIL);
    let indicator = |id: &str, pattern: &str, more: Value| {
        let mut indicator = json!({
            "type": "indicator", "spec_version": "2.1", "id": format!("indicator--{id}"), "name": id,
            "created": "2026-01-01T00:00:00Z", "modified": "2026-01-01T00:00:00Z",
            "pattern": pattern, "pattern_type": "stix", "valid_from": "2026-01-01T00:00:00Z"
        });
        indicator.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        indicator
    };
    let bundle =
        |objects: Value| json!({"type": "bundle", "id": "bundle--1", "objects": objects}).to_string();
    let import = fleet.path("indicators.json");
    fs::write(
        &import,
        bundle(json!([
            indicator("files", &format!("[file:hashes.MD5 = 'aa' AND file:hashes.'SHA-256' = '{file}']"), json!({})),
            indicator("either", "[domain-name:value = 'a.example' OR ipv4-addr:value = '192.0.2.7']", json!({})),
            indicator("both", "[domain-name:value = 'b.example'] AND [url:value = 'http://b.example/']", json!({})),
            indicator("unsure", "[domain-name:value = 'c.example']", json!({"confidence": 10})),
            {"type": "malware", "id": "malware--1", "name": "x", "is_family": true},
        ])),
    )
    .unwrap();
    let path = import.display().to_string();
    let taken = ["objects", "import", path.as_str(), "--remedy", "quarantine", "--confidence", "50"];
    let dry = fleet.json(&[&taken[..], &["--dry-run"]].concat());
    assert_eq!((&dry["objects"], &dry["left"], &dry["changed"]), (&3.into(), &3.into(), &0.into()), "{dry}");
    assert_eq!(fleet.json(&["objects", "list"]), json!([]));
    let imported = fleet.json(&taken);
    assert_eq!(imported["changed"], 3, "{imported}");
    let left: Vec<_> =
        imported["things"].as_array().unwrap().iter().map(|thing| thing["left"].to_string()).collect();
    for why in ["AND of observations", "its confidence is 10", "`malware`, and no indicator"] {
        assert!(left.iter().any(|left| left.contains(why)), "{why}: {left:?}");
    }
    hold(&fleet);
    rome.wait_for("component in force", |_| true);
    assert_eq!(standing(&fleet, "a.example"), json!([["analysed", "acts", "block"]]));
    assert_eq!(standing(&fleet, &file), json!([["analysed", "acts", "quarantine"]]));

    // The operator's word counts, and what is revoked goes.
    let _added = fleet.json(&["objects", "add", "domain", "A.example", "--remedy", "log"]);
    let both = json!([["analysed", "overruled", "block"], ["operator", "acts", "log"]]);
    assert_eq!(standing(&fleet, "a.example"), both);
    let _ours = fleet.json(&["objects", "add", "ip", "192.0.2.7"]);
    let revoked = indicator("either", "[ipv4-addr:value = '192.0.2.7']", json!({"revoked": true}));
    fs::write(&import, bundle(json!([revoked]))).unwrap();
    let imported = fleet.json(&taken);
    assert_eq!((&imported["revoked"], &imported["changed"]), (&1.into(), &1.into()), "{imported}");
    assert_eq!(
        standing(&fleet, "192.0.2.7"),
        json!([["operator", "acts", "log"]]),
        "the operator's own stays"
    );
    // It is there after a restart.
    let mut fleet = fleet;
    fleet.kill_server();
    fleet.start_server(None);
    assert_eq!(standing(&fleet, "a.example"), both);
    hold(&fleet);
}

#[test]
fn an_object_that_only_reports_takes_nothing_from_what_the_list_says() {
    let mut listed = Listed::over(Fleet::unmade(Build::Testing));
    let digest = sha256(EVIL);
    listed.publish_text("7", &format!("{digest}\n"));
    listed.start();
    let fleet = &listed.fleet;
    let rome = fleet.agent("rome");
    rome.wait_for("component in force", |said| said["component"] == "file-reputation-filter");
    let _added = fleet.json(&["objects", "add", "sha256", &digest]);
    rome.wait_for("component in force", |said| said["component"] == "suspicious-objects");
    fs::create_dir(fleet.path("files")).unwrap();
    fs::write(fleet.path("files/evil"), EVIL).unwrap();
    let answer = scan(fleet, &["--remedy", "quarantine"]);
    assert!(detail(&answer).contains("1 listed, 0 blocked, 1 quarantined"), "{answer}");
    assert!(answer["output"].as_str().unwrap().contains("listed in file-reputation 7"), "{answer}");

    // When the server does not say, it is an object still, and undecided beyond that.
    let mut fleet = listed.fleet;
    fs::write(fleet.path("files/evil"), EVIL).unwrap();
    fleet.kill_server();
    fs::remove_dir_all(fleet.path("server/updates/components/file-reputation")).unwrap();
    fleet.start_server(None);
    rome.wait_for_count("session began", 2);
    // What was said before the restart of the agent is forgotten with it.
    rome.kill();
    let _rome = fleet.start_agent("rome", None);
    let answer = scan(&fleet, &["--remedy", "quarantine"]);
    assert!(detail(&answer).contains("1 listed, 0 blocked, 0 quarantined, 1 undecided"), "{answer}");
    assert!(answer["output"].as_str().unwrap().contains("a suspicious object"), "{answer}");
}
