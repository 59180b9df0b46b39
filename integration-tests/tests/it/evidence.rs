//! Proof for people who trust no server of ours.

use integration_tests::fleet::{Build, Fleet};
use integration_tests::python;

#[test]
fn evidence_holds_offline_here_and_in_python_and_nothing_altered_does() {
    let fleet = Fleet::unmade(Build::Shipped);
    let made = fleet.init().ok().json();
    let pin = made["bundle_digest"].as_str().unwrap();
    let mut fleet = fleet;
    fleet.start_server(None);
    fleet.add_context();
    let token = fleet.token(3);
    let _p256 = fleet.enroll_with("rome", &token, &["--key-algorithm", "ecdsa-p256"]).ok();
    let (_paris, _oslo) = (fleet.enroll("paris", &token).ok(), fleet.enroll("oslo", &token).ok());
    let _agents = (fleet.start_agent("rome", None), fleet.start_agent("paris", None));
    let sent = fleet.json(&["send", "action", "reboot", "--all", "--unchecked"]);
    fleet.server().wait_for_count("receipt stored", 2);
    let file = fleet.path("evidence.json");
    let file = file.to_str().unwrap();
    let exported = fleet.json(&["evidence", "export", sent["command_id"].as_str().unwrap(), "--file", file]);
    assert_eq!((&exported["targets"], &exported["receipts"]), (&3.into(), &2.into()));
    let twice = fleet.writ(&["evidence", "export", sent["command_id"].as_str().unwrap(), "--file", file]);
    assert_eq!(twice.code, 8, "an existing file is not overwritten: {twice:?}");

    // Verifying needs no server and no context.
    fleet.kill_server();
    let holds = fleet.json(&["evidence", "verify", file, "--pin", pin]);
    assert_eq!((&holds["holds"], &holds["digest"]), (&true.into(), &sent["digest"]));
    let answers: Vec<_> = holds["targets"].as_array().unwrap().iter().map(|t| &t["answer"]).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == "refused: action_not_allowed").count(), 2);
    let python = python::run("proto/vectors/evidence.py", &[file, pin]);
    let said =
        String::from_utf8_lossy(&python.stdout).into_owned() + &String::from_utf8_lossy(&python.stderr);
    assert!(said.contains("holds: 3 targets, 2 receipts"), "{said}");

    let other = fleet.writ(&["evidence", "verify", file, "--pin", &"0".repeat(64)]);
    assert!(other.code == 1 && other.stderr.contains("not from the file"), "{other:?}");
    let text = std::fs::read_to_string(file).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let receipts = |value: &serde_json::Value| -> Vec<usize> {
        (0..3).filter(|at| !value["targets"][*at]["receipt"].is_null()).collect()
    };
    let [one, two] = receipts(&parsed)[..] else { panic!("two answered") };
    let spoil = |what: &dyn Fn(&mut serde_json::Value)| {
        let mut spoilt = parsed.clone();
        what(&mut spoilt);
        let path = fleet.path("spoilt.json");
        std::fs::write(&path, spoilt.to_string()).unwrap();
        let said = fleet.writ(&["evidence", "verify", path.to_str().unwrap(), "--pin", pin]);
        assert_eq!(said.code, 1, "{said:?}");
        let python = python::run("proto/vectors/evidence.py", &[path.to_str().unwrap(), pin]);
        assert!(!python.status.success());
    };
    spoil(&|file| file["targets"][one]["receipt"] = file["targets"][two]["receipt"].clone());
    spoil(&|file| file["targets"][one]["identity_record"] = file["targets"][two]["identity_record"].clone());
    spoil(&|file| file["targets"][one]["proof"] = file["targets"][two]["proof"].clone());
    // One agent that answered counts once.
    spoil(&|file| {
        let again = file["targets"][one].clone();
        file["targets"].as_array_mut().unwrap().push(again);
    });
    spoil(&|file| file["targets"][0] = file["targets"][1].clone());
    spoil(&|file| file["command"]["payload"] = file["bundles"][0]["payload"].clone());
    spoil(&|file| file["command"] = file["targets"][one]["receipt"].clone());
    spoil(&|file| {
        file["bundles"][0]["signatures"][0]["sig"] = file["command"]["signatures"][0]["sig"].clone()
    });
}

#[test]
fn an_agent_explains_which_check_of_a_command_fails_and_what_to_do() {
    let mut fleet = Fleet::new(Build::Shipped);
    let _notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    assert!(fleet.agent("rome").stop().success());
    let _paris = fleet.enroll("paris", &fleet.token(1)).ok();
    let explain = |agent: &str, sent: &serde_json::Value, more: &[&str]| {
        let id = sent["command_id"].as_str().unwrap();
        let file = fleet.path(&format!("{id}.json"));
        let _exported = fleet.writ(&["evidence", "export", id, "--file", file.to_str().unwrap()]);
        let config = fleet.path(&format!("{agent}.toml"));
        let place = ["explain", "--config", config.to_str().unwrap(), "--output", "json"];
        fleet.run("writ-agent", &[place.as_slice(), more, &[file.to_str().unwrap()]].concat())
    };
    let good = fleet.json(&["send", "action", "note", "word=one", "--agent", "rome"]);
    let said = explain("rome", &good, &[]).ok().json();
    assert!(said["verdict"].as_str().unwrap().starts_with("obeyed"), "{said}");
    assert!(said["checks"].as_array().unwrap().iter().all(|check| check["result"] == "passed"));
    assert_eq!((&said["action"], &said["digest"]), (&"note word=one".into(), &good["digest"]));

    let late = explain("rome", &good, &["--at", "2036-01-01T00:00:00Z"]).failed(1).json();
    assert_eq!(
        (&late["code"], &late["checks"][2]["result"]),
        (&"certificate_expired".into(), &"failed".into())
    );
    let tomorrow = (writ_common::time::Clock::wall(&writ_common::time::SystemClock::new())
        + std::time::Duration::from_secs(86_400))
    .to_string();
    let expired = explain("rome", &good, &["--at", &tomorrow]).failed(1).json();
    assert_eq!(
        (&expired["code"], &expired["checks"][9]["result"]),
        (&"expired".into(), &"not reached".into())
    );
    let others = explain("paris", &good, &[]);
    assert!(others.code == 64 && others.stderr.contains("was not for this agent"), "{others:?}");

    let unlisted = fleet.json(&["send", "action", "reboot", "--agent", "rome", "--unchecked"]);
    let said = explain("rome", &unlisted, &[]).failed(1).json();
    assert_eq!(said["checks"][10]["result"], "failed");
    assert!(said["cure"].as_str().unwrap().contains("actions.d"), "{said}");
    // What it said is what happens.
    let agent = fleet.start_agent("rome", None);
    agent.wait_for("command refused", |said| said["code"] == "action_not_allowed");
    agent.wait_for("command ended", |said| said["ending"] == "exited");
    fleet.server().wait_for_count("receipt stored", 2);
    let known = explain("rome", &good, &[]).ok().json();
    assert!(known["verdict"].as_str().unwrap().starts_with("known"), "{known}");
}
