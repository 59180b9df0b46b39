//! The first command, with the binaries users get.
//!
//! * an operator pings and runs an action, waits, and reads the answers
//! * the answers are the agents' own signed words

use integration_tests::fleet::{Build, Fleet, lines};
use serde_json::Value;

#[test]
fn an_operator_commands_two_agents_and_reads_their_answers() {
    let mut fleet = Fleet::new(Build::Shipped);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"; echo \"noted $1\"", "");
    let _agents = [fleet.agent("rome"), fleet.agent("paris")];

    let agents = fleet.json(&["agents", "list"]);
    assert_eq!(agents.as_array().unwrap().len(), 2);
    assert!(
        agents
            .as_array()
            .unwrap()
            .iter()
            .all(|agent| agent["connected"] == true && agent["bundle_version"] == 1)
    );

    let pinged = fleet.json(&["send", "ping", "--all", "--wait"]);
    assert_eq!((pinged["target_count"].as_u64(), pinged["done"].as_u64()), (Some(2), Some(2)));

    let noted = fleet.json(&["send", "action", "note", "word=hello", "--agent", "rome", "--wait"]);
    let target = &noted["targets"][0];
    assert_eq!((&target["state"], &target["output"]), (&Value::from("done"), &Value::from("noted hello\n")));
    assert_eq!(lines(&notes), ["hello"]);

    let shown = fleet.json(&["commands", "show", noted["command_id"].as_str().unwrap()]);
    assert_eq!(shown["targets"], noted["targets"]);
    let all = fleet.json(&["commands", "list"]);
    assert_eq!(all.as_array().unwrap().len(), 2);
    let actions = &fleet.json(&["agents", "show", "rome"])["actions"];
    let names: Vec<_> = actions.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "ping",
            "inventory",
            "settings",
            "update-component",
            "scan",
            "stop-scan",
            "stop-command",
            "restore-quarantined",
            "delete-quarantined",
            "note",
        ]
    );
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty());
}

#[test]
fn a_failing_action_and_a_wrong_parameter_are_told_apart_by_exit_code_and_answer() {
    let mut fleet = Fleet::new(Build::Shipped);
    fleet.allow("fail", "echo \"no $1\" >&2; exit 3", "");
    let _agent = fleet.agent("rome");

    let failed = fleet.writ(&["--output", "json", "send", "action", "fail", "word=luck", "--all", "--wait"]);
    let target = &failed.json()["targets"][0];
    assert_eq!(failed.code, 1);
    assert_eq!((target["exit_status"].as_i64(), target["output"].as_str()), (Some(3), Some("no luck\n")));

    // The server would find both, unless it is told to leave that to the agents.
    let send = |action: &[&str]| {
        let send = [&["--output", "json", "send", "action"], action, &["--all", "--wait", "--unchecked"]];
        fleet.writ(&send.concat())
    };
    let refused = send(&["fail", "word=NO"]);
    assert_eq!(refused.code, 1);
    assert_eq!(refused.json()["targets"][0]["refusal_code"], "invalid_parameters");

    let unlisted = send(&["reboot"]);
    assert_eq!(unlisted.json()["targets"][0]["refusal_code"], "action_not_allowed");
}

#[test]
fn the_same_id_twice_is_one_command_and_another_request_under_it_is_refused() {
    let fleet = Fleet::new(Build::Shipped);
    let _agent = fleet.agent("rome");
    let id = "0192f1c0-0000-7000-8000-000000000001";
    let first = fleet.json(&["send", "ping", "--all", "--wait", "--id", id]);
    let second = fleet.json(&["send", "ping", "--all", "--wait", "--id", id]);
    assert_eq!(first["digest"], second["digest"]);
    assert_eq!(fleet.json(&["commands", "list"]).as_array().unwrap().len(), 1);
    let other = fleet.writ(&["send", "ping", "--agent", "rome", "--id", id]);
    assert_eq!(other.code, 7, "{other:?}");
    assert!(other.stderr.contains("is a different one"), "{other:?}");
}

#[test]
fn a_fleet_on_p256_keys_obeys_and_answers_like_any_other_and_mixes_with_ed25519() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    fleet.init_with(&["--key-algorithm", "ecdsa-p256"]).ok();
    fleet.start_server(None);
    fleet.add_context();
    let token = fleet.token(2);
    let p256 = fleet.enroll_with("rome", &token, &["--key-algorithm", "ecdsa-p256"]).ok();
    let ed25519 = fleet.enroll("oslo", &token).ok();
    assert_ne!(p256.json()["key_id"], ed25519.json()["key_id"]);
    let (_rome, _oslo) = (fleet.start_agent("rome", None), fleet.start_agent("oslo", None));
    let answered = fleet.json(&["send", "ping", "--all", "--wait"]);
    assert_eq!(answered["done"], 2);
    let wrong = fleet.enroll_with("lima", &fleet.token(1), &["--key-algorithm", "rsa"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("ed25519 or ecdsa-p256"), "{}", wrong.stderr);
}
