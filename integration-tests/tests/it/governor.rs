//! So many commands run at a time in the whole fleet, whoever sent them.

use integration_tests::fleet::{Build, Daemon, Fleet, lines};
use serde_json::Value;

/// One turn for three agents; `hang` ends when it is told to.
fn scene() -> (Fleet, Vec<Daemon>) {
    let mut fleet = Fleet::unmade(Build::Testing);
    fleet.server_config = "[limits]\nrunning = 1\n[session]\nheartbeat = \"1s\"\n".to_owned();
    fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    fleet.allow("hang", "echo \"$1\" >> \"$NOTES\"; sleep 1000", "timeout = \"1h\"");
    fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let agents = ["rome", "paris", "oslo"].map(|name| fleet.agent(name));
    (fleet, agents.into())
}

fn hang(fleet: &Fleet, agents: &[Daemon]) -> String {
    let sent = fleet.json(&["send", "action", "hang", "word=long", "--agent", "rome"]);
    agents[0].wait_for("action started", |said| said["command.id"] == sent["command_id"]);
    sent["command_id"].as_str().unwrap().to_owned()
}

fn note(fleet: &Fleet, agent: &str, word: &str) -> String {
    let word = format!("word={word}");
    let sent = fleet.json(&["send", "action", "note", &word, "--agent", agent]);
    sent["command_id"].as_str().unwrap().to_owned()
}

fn standing(fleet: &Fleet) -> Value {
    fleet.json(&["server"])["turns"].clone()
}

#[test]
fn commands_wait_their_turn_in_order_and_what_ends_one_does_not_wait() {
    let (fleet, agents) = scene();
    let running = hang(&fleet, &agents);
    let (first, second) = (note(&fleet, "paris", "first"), note(&fleet, "oslo", "second"));
    integration_tests::daemon::until("two agents wait", || {
        standing(&fleet) == serde_json::json!({"limit": 1, "running": 1, "waiting": 2})
    });
    assert!(lines(&fleet.path("note.notes")).is_empty());
    let why = fleet.writ(&["why", "paris"]);
    assert!(
        why.stdout.contains(
            "1 commands wait for it; in the whole fleet 1 commands run at a time, and 1 of one agent"
        ),
        "{why:?}"
    );
    let _stopped = fleet.writ(&["commands", "stop", &running]).ok();
    for id in [&first, &second] {
        let done = fleet.writ(&["commands", "watch", id]).ok();
        assert!(done.stdout.contains("1 done"), "{done:?}");
    }
    assert_eq!(lines(&fleet.path("note.notes")), ["first", "second"]);
    integration_tests::daemon::until("nothing runs", || standing(&fleet)["running"] == 0);
}

#[test]
fn an_agent_that_waits_for_its_turn_is_not_passed_over_by_its_wave() {
    let (fleet, mut agents) = scene();
    let running = hang(&fleet, &agents);
    assert!(agents.pop().unwrap().stop().success());
    let staged = |agent: &str| {
        let send = [
            "send",
            "action",
            "note",
            "word=wave",
            "--agent",
            agent,
            "--batch",
            "1",
            "--answer-within",
            "1s",
        ];
        fleet.json(&send)["command_id"].as_str().unwrap().to_owned()
    };
    let (waits, away) = (staged("paris"), staged("oslo"));
    // When the wave of the other has given up its agent, which is away, as much time has passed for this one.
    let _over = fleet.writ(&["rollouts", "watch", &away]);
    let shown = fleet.json(&["rollouts", "show", &waits]);
    assert_eq!((&shown["away"], &shown["unanswered"]), (&0.into(), &1.into()), "{shown}");
    let _stopped = fleet.writ(&["commands", "stop", &running]).ok();
    let done = fleet.writ(&["rollouts", "watch", &waits]).ok();
    assert!(done.stdout.contains("1 done"), "{done:?}");
}

#[test]
fn one_agent_has_no_more_than_its_share() {
    let mut fleet = Fleet::unmade(Build::Testing);
    fleet.server_config = "[limits]\nrunning = 4\n".to_owned();
    fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    fleet.allow("hang", "echo \"$1\" >> \"$NOTES\"; sleep 1000", "timeout = \"1h\"");
    let rome = fleet.agent("rome");
    let first = hang(&fleet, std::slice::from_ref(&rome));
    let second = fleet.json(&["send", "action", "hang", "word=second", "--agent", "rome"]);
    let ping = fleet.json(&["send", "ping", "--agent", "rome"]);
    let stands = serde_json::json!({"limit": 4, "running": 1, "waiting": 1});
    assert_eq!(standing(&fleet), stands, "a quarter of four");
    let _stopped = fleet.writ(&["commands", "stop", &first]).ok();
    rome.wait_for("action started", |said| said["command.id"] == second["command_id"]);
    let _stopped = fleet.writ(&["commands", "stop", second["command_id"].as_str().unwrap()]).ok();
    let _answered = fleet.writ(&["commands", "watch", ping["command_id"].as_str().unwrap()]).ok();
}

#[test]
fn an_agent_that_goes_away_gives_its_turn_back() {
    let (fleet, mut agents) = scene();
    let running = hang(&fleet, &agents);
    let first = note(&fleet, "paris", "first");
    // Its agent is killed: nobody knows what runs there, and the others go on.
    agents.remove(0).kill();
    let done = fleet.writ(&["commands", "watch", &first]).ok();
    assert!(done.stdout.contains("1 done"), "{done:?}");
    // It comes back, and says what became of its command.
    agents.insert(0, fleet.start_agent("rome", None));
    let said = fleet.writ(&["commands", "watch", &running]).failed(1);
    assert!(said.stdout.contains("1 failed"), "{said:?}");
}

#[test]
fn a_command_that_is_never_answered_keeps_its_turn_no_longer_than_an_action_can_take() {
    let (fleet, agents) = scene();
    let _running = hang(&fleet, &agents);
    let sent = fleet.json(&["send", "action", "note", "word=late", "--agent", "paris", "--expires", "30d"]);
    integration_tests::daemon::until("one agent waits", || standing(&fleet)["waiting"] == 1);
    // An hour in which it may be started, and a day in which it may run.
    std::fs::write(fleet.path("server-clock"), (26 * 3600).to_string()).unwrap();
    let done = fleet.writ(&["commands", "watch", sent["command_id"].as_str().unwrap()]).ok();
    assert!(done.stdout.contains("1 done"), "{done:?}");
}

#[test]
fn a_limit_does_not_lose_or_repeat_anything_in_a_crowd() {
    let (fleet, _agents) = scene();
    let ids: Vec<_> = (0..20)
        .flat_map(|number| {
            ["rome", "paris", "oslo"].map(|agent| note(&fleet, agent, &format!("{agent}{number}")))
        })
        .collect();
    for id in &ids {
        let done = fleet.writ(&["commands", "watch", id]).ok();
        assert!(done.stdout.contains("1 done"), "{done:?}");
    }
    let mut words = lines(&fleet.path("note.notes"));
    assert_eq!(words.len(), 60);
    words.sort();
    words.dedup();
    assert_eq!(words.len(), 60);
    integration_tests::daemon::until("nothing runs", || {
        standing(&fleet) == serde_json::json!({"limit": 1, "running": 0, "waiting": 0})
    });
}
