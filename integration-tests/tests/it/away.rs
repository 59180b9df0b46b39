//! Agents that are away, slow, or come back late.

use integration_tests::fleet::{Build, Fleet, lines};

#[test]
fn an_agent_that_was_away_obeys_in_order_when_it_comes_back() {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let agent = fleet.agent("rome");
    agent.kill();
    let mut ids = Vec::new();
    for word in ["one", "two", "three"] {
        let sent = fleet.json(&["send", "action", "note", &format!("word={word}"), "--all"]);
        assert_eq!(sent["waiting"], 1);
        ids.push(sent["command_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(fleet.json(&["agents", "show", "rome"])["waiting"], 3);
    let agent = fleet.start_agent("rome", None);
    agent.wait_for_count("command ended", 3);
    let admitted: Vec<_> =
        agent.lines("command admitted").iter().map(|said| said["command.id"].clone()).collect();
    assert_eq!(admitted, ids);
    for id in &ids {
        fleet.server().wait_for("receipt stored", |said| said["command.id"] == id.as_str());
        assert_eq!(fleet.json(&["commands", "show", id])["done"], 1);
    }
    let mut noted = lines(&notes);
    noted.sort();
    assert_eq!(noted, ["one", "three", "two"]);
}

#[test]
fn a_command_sent_before_an_enrolled_agents_first_session_is_obeyed() {
    let fleet = Fleet::new(Build::Testing);
    let _enrolled = fleet.enroll("rome", &fleet.token(1)).ok();
    let sent = fleet.json(&["send", "ping", "--all"]);
    let _agent = fleet.start_agent("rome", None);
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id && said["state"] == "Done");
}

#[test]
fn an_agent_that_lost_its_journal_refuses_what_was_sent_before() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let sent = fleet.json(&["send", "ping", "--all"]);
    std::fs::remove_file(fleet.path("rome/journal.redb")).unwrap();
    let agent = fleet.start_agent("rome", None);
    agent.wait_for("command refused", |said| said["code"] == "too_old");
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id && said["state"] == "Refused");
}

#[test]
fn a_command_that_expired_while_the_agent_was_away_is_not_even_sent() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    agent.kill();
    let sent = fleet.writ(&["--output", "json", "send", "ping", "--all", "--expires", "1s", "--wait"]);
    assert_eq!((sent.code, sent.json()["expired"].as_u64()), (6, Some(1)), "{sent:?}");
    let agent = fleet.start_agent("rome", None);
    let _later = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    assert_eq!(agent.count("command admitted"), 1, "only the later one");
    assert_eq!(agent.count("command refused"), 0, "the expired one was not sent");
}

#[test]
fn more_commands_than_the_outbox_holds_all_arrive() {
    let mut fleet = Fleet::unmade(Build::Testing);
    fleet.server_config = "[session]\noutbox = 1\nheartbeat = \"1h\"\n".to_owned();
    let _made = fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    let agent = fleet.agent("rome");
    let count = 40;
    for _ in 0..count {
        let _sent = fleet.writ(&["send", "ping", "--all"]).ok();
    }
    agent.wait_for_count("command ended", count);
    fleet.server().wait_for_count("receipt stored", count);
    assert_eq!(fleet.json(&["agents", "show", "rome"])["waiting"], 0);
}

#[test]
fn a_cut_road_heals_by_itself() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let server = fleet.road.destination();
    fleet.road.cut();
    agent.wait_for("no session", |_| true);
    fleet.road.lead_to(server);
    agent.wait_for_count("session began", 2);
    let _obeys = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

#[test]
fn waiting_no_longer_than_one_wants_leaves_the_command_alone() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let sent = fleet.writ(&["--output", "json", "send", "ping", "--all", "--wait", "--timeout", "100ms"]);
    assert_eq!(sent.code, 6, "{sent:?}");
    assert!(sent.stderr.contains("the command goes on"), "{sent:?}");
    let id = sent.json()["command_id"].as_str().unwrap().to_owned();
    let agent = fleet.start_agent("rome", None);
    agent.wait_for("command ended", |said| said["command.id"] == id.as_str());
}

#[test]
fn a_silent_agent_turns_offline_within_the_deadline_and_a_killed_one_at_once() {
    let mut fleet = Fleet::unmade(Build::Testing);
    fleet.server_config = "[session]\nheartbeat = \"1s\"\ndeadline = \"2s\"\n".to_owned();
    fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    let (rome, oslo) = (fleet.agent("rome"), fleet.agent("oslo"));
    let is_connected = |name: &str| fleet.json(&["agents", "show", name])["connected"] == true;
    assert!(is_connected("rome") && is_connected("oslo"));
    let (silent, killed) = (fleet.agent_id("rome"), fleet.agent_id("oslo"));
    // A stopped process holds its connection open and says nothing.
    rome.signal("-STOP");
    oslo.kill();
    fleet.server().wait_for("session ended", |said| said["agent.id"] == killed.as_str());
    fleet.server().wait_for("session ended", |said| said["agent.id"] == silent.as_str());
    assert!(!is_connected("rome") && !is_connected("oslo"));
    let why = fleet.writ(&["why", "rome"]);
    assert!(why.code == 1 && why.stdout.contains("not connected, last heard"), "{why:?}");
    // Any authenticated contact counts as life.
    rome.signal("-CONT");
    rome.wait_for_count("session began", 2);
    assert!(is_connected("rome"));
}

#[test]
fn a_server_that_is_told_to_stop_sends_its_agents_away_in_good_order_and_they_come_back() {
    let mut fleet = Fleet::new(Build::Shipped);
    let rome = fleet.agent("rome");
    let sent = fleet.json(&["send", "ping", "--all", "--wait"]);
    assert!(fleet.server.take().unwrap().stop().success());
    rome.wait_for("the server asks to come back", |said| said["reason"] == "the server is shutting down");
    fleet.start_server(None);
    fleet.add_context();
    rome.wait_for_count("session began", 2);
    assert_eq!(fleet.json(&["commands", "show", sent["command_id"].as_str().unwrap()])["done"], 1);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}
