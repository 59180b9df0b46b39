//! A web server of the organisation's is told of alerts, can check who says so, and misses none.

use std::fs;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet, lines};
use integration_tests::python;
use integration_tests::webhook::{Receiver, TOKEN};

fn scene() -> (Fleet, Receiver) {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    let receiver = Receiver::start(&fleet);
    fleet.server_config = receiver.config(&fleet);
    fleet.start_server(None);
    fleet.add_context();
    (fleet, receiver)
}

#[test]
fn an_alert_is_told_when_it_opens_is_seen_to_and_ends_under_the_servers_seal() {
    let (fleet, receiver) = scene();
    fleet.install_anew("rome");
    let told = receiver.wait_for("same_name", "open").remove(0);
    let alert = &fleet.json(&["alerts"])[0];
    assert_eq!((&told["alert_id"], &told["agent_name"]), (&alert["alert_id"], &"rome".into()));
    assert_eq!((&told["fleet"], &told["count"]), (&"acme".into(), &1.into()));
    assert!(told["next"].as_str().unwrap().contains("writ agents approve NEW --replaces OLD"), "{told}");
    let number = alert["alert_id"].to_string();
    let _seen = fleet.json(&["alerts", "ack", &number, "--note", "it is Anna's"]);
    let _told = receiver.wait_for("same_name", "acknowledged");
    let older = fleet.json(&["agents", "list"])[0]["agent_id"].as_str().unwrap().to_owned();
    let _removed = fleet.json(&["agents", "remove", &older]);
    let told = receiver.wait_for("same_name", "ended");
    assert_eq!(told.len(), 3, "{told:#?}");

    // Everybody can check it who has the public keys: by another library, and by the program of the page.
    let keys = fleet.path("keys.json");
    fs::write(&keys, fleet.writ(&["--output", "json", "trust", "certificates"]).ok().stdout).unwrap();
    let (keys, file) = (keys.display().to_string(), receiver.file().display().to_string());
    let checked = python::run("integration-tests/webhook.py", &["verify", &keys, &file]);
    assert!(checked.status.success(), "{checked:?}");
    let page = fs::read_to_string(python::root().join("docs/webhook.md")).unwrap();
    let program = page.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    fs::write(fleet.path("check.py"), program).unwrap();
    let check = |word: &str| {
        fs::write(fleet.path("word"), word).unwrap();
        let [program, word] = ["check.py", "word"].map(|name| fleet.path(name).display().to_string());
        fleet.run_python_tool("sh", &["-c", &format!("python3 {program} {keys} < {word}")])
    };
    let word = lines(&receiver.file()).remove(0);
    let said = check(&word).ok();
    assert!(said.stdout.contains("\"kind\":\"same_name\""), "{said:?}");
    let altered = word.replace("\"payload\":\"ey", "\"payload\":\"eY");
    assert_ne!(altered, word);
    assert_ne!(check(&altered).code, 0);
}

#[test]
fn what_a_web_server_does_not_take_is_told_later_and_is_an_alert_meanwhile() {
    let (mut fleet, receiver) = scene();
    receiver.answer(Some(503));
    fleet.install_anew("rome");
    fleet.server().wait_for("the webhook does not take alerts; it is tried again", |said| {
        said["why"].as_str().unwrap().contains("503")
    });
    let is_alert = |fleet: &Fleet| {
        let alerts = fleet.json(&["alerts"]);
        alerts.as_array().unwrap().iter().any(|alert| alert["kind"] == "not_told")
    };
    until("there is an alert", || is_alert(&fleet));
    // Also after this server was killed in the middle of it.
    fleet.kill_server();
    receiver.answer(None);
    fleet.start_server(None);
    fleet.add_context();
    let told = receiver.wait_for("not_told", "ended");
    let kinds: Vec<_> = told.iter().map(|told| told["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds[0], "same_name", "in the order in which they were raised");
    assert_eq!(kinds.iter().filter(|kind| **kind == "same_name").count(), 1, "{kinds:?}");
    assert!(!is_alert(&fleet));
    // The token is in no log.
    assert!(!fleet.server().said().contains(TOKEN));
}

#[test]
fn settings_that_would_tell_nobody_or_everybody_are_refused_when_the_server_starts() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    let _made = fleet.init().ok();
    for (config, says) in [
        ("url = \"http://ops.example/\"", "alerts.webhook.url"),
        ("url = \"https://anna:secret@ops.example/\"", "alerts.webhook.url"),
        ("ca = \"/nowhere\"", "`alerts.webhook.url` is missing"),
        ("url = \"https://ops.example/\"\nca = \"/nowhere/at/all\"", "/nowhere/at/all"),
        ("url = \"https://ops.example/\"\ntoken_file = \"/nowhere/at/all\"", "/nowhere/at/all"),
    ] {
        fleet.server_config = format!("[alerts.webhook]\n{config}\n");
        let (status, said) = fleet.try_server().wait();
        assert!(status.code() == Some(64) && said.contains(says), "{config}: {said}");
    }
}
