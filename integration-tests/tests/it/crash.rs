//! kill -9 in every state of a command: nothing is lost, nothing is started twice.

use integration_tests::fleet::{Build, Fleet, lines};
use redb::{Database, TableDefinition};
use serde_json::Value;
use writ_protocol::id::CommandId;

/// A fleet whose only agent is killed at a checkpoint while it carries a note out, and started again.
fn agent_killed_at(checkpoint: &str, more: &str) -> (Fleet, Value, Vec<String>) {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", more);
    let _enrolled = fleet.enroll("rome", &fleet.token(1)).ok();
    let stop = fleet.checkpoint(checkpoint);
    let agent = fleet.start_agent("rome", Some(&stop));
    let sent = fleet.json(&["send", "action", "note", "word=once", "--all"]);
    let held = stop.reached();
    agent.kill();
    drop(held);
    let _agent = fleet.start_agent("rome", None);
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    let shown = fleet.json(&["commands", "show", id]);
    let noted = lines(&notes);
    // A later answer on the same stream: whatever the server thought of the earlier ones is stored by now.
    let _later = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    (fleet, shown["targets"][0].clone(), noted)
}

#[test]
fn an_agent_killed_after_it_accepted_starts_the_command_once() {
    let mut fleet = Fleet::new(Build::Testing);
    // Only a command that waits for another to end is accepted and not started.
    fleet.actions_config = "max_running = 1\n".to_owned();
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    fleet.allow("wait", "exec sleep 600", "");
    let agent = fleet.agent("rome");
    let _waits = fleet.json(&["send", "action", "wait", "word=long", "--all"]);
    let group = agent.wait_for("action started", |_| true)["process.group"].as_u64().unwrap();
    let sent = fleet.json(&["send", "action", "note", "word=once", "--all"]);
    let id = sent["command_id"].as_str().unwrap();
    agent.wait_for("command admitted", |said| said["command.id"] == id);
    agent.kill();
    fleet.kill_group(group);
    assert!(lines(&notes).is_empty());
    let _agent = fleet.start_agent("rome", None);
    fleet.server().wait_for_count("receipt stored", 2);
    assert_eq!(fleet.json(&["commands", "show", id])["done"], 1);
    assert_eq!(lines(&notes), ["once"]);
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty(), "an honest crash is no alarm");
}

#[test]
fn an_agent_killed_after_it_noted_the_start_never_starts_it_again() {
    let (fleet, target, noted) = agent_killed_at("started", "");
    assert_eq!(
        (&target["state"], &target["ending"]),
        (&Value::from("failed"), &Value::from("indeterminate"))
    );
    assert!(noted.is_empty());
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty(), "an honest crash is no alarm");
}

#[test]
fn an_idempotent_action_is_indeterminate_while_its_process_is_not_proven_gone() {
    // Killed before the process group was known: nothing can be proven.
    let (_fleet, target, noted) = agent_killed_at("started", "idempotent = true");
    assert_eq!((&target["ending"], noted.len()), (&Value::from("indeterminate"), 0));
}

#[test]
fn an_agent_killed_before_it_sent_the_receipt_sends_that_very_receipt() {
    let (fleet, target, noted) = agent_killed_at("finished", "");
    assert_eq!((&target["state"], noted.len()), (&Value::from("done"), 1));
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty(), "an honest crash is no alarm");
}

#[test]
fn an_idempotent_action_whose_process_is_gone_is_started_once_more() {
    let mut fleet = Fleet::new(Build::Testing);
    // The first run waits to be killed with its group; the second is let go.
    let notes = fleet.allow(
        "note",
        "[ -e \"$NOTES.go\" ] || exec sleep 600; echo \"$1\" >> \"$NOTES\"",
        "idempotent = true",
    );
    let _enrolled = fleet.enroll("rome", &fleet.token(1)).ok();
    let stop = fleet.checkpoint("group_noted");
    let agent = fleet.start_agent("rome", Some(&stop));
    let sent = fleet.json(&["send", "action", "note", "word=again", "--all"]);
    let held = stop.reached();
    let group = agent.wait_for("action started", |_| true)["process.group"].as_u64().unwrap();
    agent.kill();
    drop(held);
    fleet.kill_group(group);
    std::fs::write(notes.with_extension("notes.go"), "").unwrap();
    let agent = fleet.start_agent("rome", None);
    agent.wait_for("idempotent command is started once more", |said| said["attempt"] == 1);
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    assert_eq!(fleet.json(&["commands", "show", id])["done"], 1);
    assert_eq!(lines(&notes), ["again"]);
}

#[test]
fn a_server_killed_between_store_and_send_sends_after_its_restart() {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let agent = fleet.agent("rome");
    let stop = fleet.checkpoint("command_stored");
    fleet.server.take().unwrap().kill();
    fleet.start_server(Some(&stop));
    agent.wait_for_count("session began", 2);
    fleet.add_context();

    let id = "0192f1c0-0000-7000-8000-000000000002";
    std::thread::scope(|scope| {
        let fleet = &fleet;
        let sending =
            scope.spawn(|| fleet.writ(&["send", "action", "note", "word=once", "--all", "--id", id]));
        let held = stop.reached();
        fleet.server().kill_in_place();
        drop(held);
        assert_ne!(sending.join().unwrap().code, 0, "the operator was not told it went well");
    });
    fleet.server = None;
    fleet.start_server(None);
    agent.wait_for("command ended", |said| said["command.id"] == id);
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    // The operator, who heard nothing, sends it again under the same id: one command, one start.
    let again = fleet.json(&["send", "action", "note", "word=once", "--all", "--id", id, "--wait"]);
    assert_eq!(again["done"], 1);
    assert_eq!(lines(&notes), ["once"]);
}

#[test]
fn an_agent_whose_journal_may_not_grow_refuses_lives_and_settles_everything_once_when_it_may() {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    fleet.agent("rome").kill();
    let bytes = std::fs::metadata(fleet.path("rome/journal.redb")).unwrap().len();
    std::fs::remove_file(fleet.path("rome/journal.reserve")).unwrap();
    let agent = fleet.cramped_agent("rome", u32::try_from(bytes / 512).unwrap());
    agent.wait_for("session began", |_| true);
    let mut ids = Vec::new();
    while agent.count("command refused") == 0 {
        let sent = fleet.json(&["send", "action", "note", &format!("word=note{}", ids.len()), "--all"]);
        ids.push(sent["command_id"].as_str().unwrap().to_owned());
        assert!(ids.len() < 2000, "the journal may grow");
    }
    assert_eq!(agent.lines("command refused")[0]["code"], "journal_failed");
    assert_eq!(agent.count("session began"), 1, "the agent lives, and so does its session");
    agent.kill();
    // With room again: each was started once at most, whatever the journal could say of it when it had none.
    let _agent = fleet.start_agent("rome", None);
    for id in &ids {
        fleet.server().wait_for("receipt stored", |said| said["command.id"] == id.as_str());
    }
    let mut noted = lines(&notes);
    let all = noted.len();
    noted.sort();
    noted.dedup();
    assert_eq!(noted.len(), all, "nothing was started twice");
    let _obeys = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

#[test]
fn a_command_whose_journal_entry_is_damaged_is_refused_and_the_next_one_obeyed() {
    let fleet = Fleet::new(Build::Shipped);
    fleet.agent("rome").kill();
    let id = "0192f1c0-0000-7000-8000-000000000003";
    damage_entry(&fleet, id.parse().unwrap());
    let agent = fleet.start_agent("rome", None);
    let sent = fleet.writ(&["send", "ping", "--all", "--wait", "--id", id, "--output", "json"]);
    assert_eq!((sent.code, &sent.json()["targets"][0]["refusal_code"]), (1, &"journal_failed".into()));
    assert_eq!(agent.count("command admitted"), 0);
    let _obeys = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

/// What a failing disk does: the entry is there and cannot be read back.
fn damage_entry(fleet: &Fleet, command: CommandId) {
    const COMMANDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("commands");
    const OPEN: TableDefinition<'_, [u8; 16], ()> = TableDefinition::new("open");
    let journal = Database::open(fleet.path("rome/journal.redb")).unwrap();
    let write = journal.begin_write().unwrap();
    write.open_table(COMMANDS).unwrap().insert(command.as_bytes(), b"\xff".as_slice()).unwrap();
    write.open_table(OPEN).unwrap().insert(command.as_bytes(), ()).unwrap();
    write.commit().unwrap();
}

#[test]
fn a_command_whose_sender_is_killed_while_it_is_stored_is_sent_all_the_same() {
    let mut fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let stop = fleet.checkpoint("command_stored");
    fleet.kill_server();
    fleet.start_server(Some(&stop));
    agent.wait_for_count("session began", 2);
    fleet.add_context();
    let sending = fleet.spawn("writ", &["send", "ping", "--all"], &stop);
    let held = stop.reached();
    sending.kill();
    drop(held);
    agent.wait_for("command ended", |_| true);
    fleet.server().wait_for("receipt stored", |_| true);
}

#[test]
fn a_server_killed_between_receipt_and_acknowledgement_keeps_one_receipt() {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let agent = fleet.agent("rome");
    let stop = fleet.checkpoint("receipt_stored");
    fleet.server.take().unwrap().kill();
    fleet.start_server(Some(&stop));
    agent.wait_for_count("session began", 2);
    fleet.add_context();
    let sent = fleet.json(&["send", "action", "note", "word=once", "--all"]);
    let held = stop.reached();
    fleet.kill_server();
    drop(held);
    fleet.start_server(None);
    agent.wait_for_count("session began", 3);
    let shown = fleet.json(&["commands", "show", sent["command_id"].as_str().unwrap()]);
    assert_eq!(shown["done"], 1);
    // The next command shows that the stream is in order and the old receipt was taken as known.
    let _next = fleet.writ(&["send", "action", "note", "word=twice", "--all", "--wait"]).ok();
    assert_eq!(lines(&notes), ["once", "twice"]);
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty(), "an honest crash is no alarm");
}

#[test]
fn an_init_killed_before_its_last_step_can_be_run_again() {
    let fleet = Fleet::unmade(Build::Testing);
    let stop = fleet.checkpoint("fleet_made");
    let (passphrase, folder) = (fleet.path("passphrase"), fleet.path("server"));
    let init = fleet.spawn(
        "writ-server-testing",
        &[
            "init",
            "--name",
            "acme",
            "--endpoint",
            "localhost:1",
            "--data-dir",
            folder.to_str().unwrap(),
            "--passphrase-file",
            passphrase.to_str().unwrap(),
        ],
        &stop,
    );
    let held = stop.reached();
    init.kill();
    drop(held);
    let said = fleet.try_server().wait().1;
    assert!(said.contains("init did not finish here; run it again"), "{said}");
    let _made = fleet.init().ok();
    let again = fleet.init();
    assert!(again.code == 1 && again.stderr.contains("lives here already"), "{again:?}");
}
