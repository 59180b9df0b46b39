//! The life of a registration: changed, called, lost, killed, ended.

use std::fs;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use integration_tests::ports::free_port;
use serde_json::Value;

fn entities(fleet: &Fleet) -> Vec<Value> {
    fleet.cm(&["entities", "list"]).as_array().unwrap().clone()
}

fn only(fleet: &Fleet) -> Value {
    let entities = entities(fleet);
    let [only] = entities.as_slice() else { panic!("{entities:#?}") };
    only.clone()
}

/// Ports this process and its descendants listen on.
fn listens_on(pid: u32, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| {
            Some(target.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())
        })
        .collect();
    let tables = ["tcp", "tcp6"]
        .map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines()).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, state, ..] = fields.as_slice() else { return false };
        let is_ours = fields.get(9).is_some_and(|inode| inodes.iter().any(|ours| ours == inode));
        *state == "0A" && local.ends_with(&wanted) && is_ours
    })
}

#[test]
fn one_way_nobody_listens_and_two_way_the_manager_calls_and_the_answer_comes_at_once() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    let here = free_port();
    fleet.notify_port = here;
    let _made = fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    let manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1h", "--abnormal-after", "3h"]).ok();
    let _status = fleet.registered(&manager);
    let pid = fleet.server().pid();
    assert!(!listens_on(pid, here), "one-way opens no listener");

    let _set = fleet.settings(&["--two-way", &format!("localhost:{here}")]).ok();
    assert_eq!(fleet.line()["settings_not_sent"], true);
    assert!(!listens_on(pid, here), "nothing is in force before it is sent");
    let status = fleet.json(&["manager", "update"]);
    assert_eq!(
        (&status["mode"], &status["settings_not_sent"]),
        (&"two-way".into(), &false.into()),
        "{status}"
    );
    fleet.server().wait_for("listening for the Control Manager", |_| true);
    assert!(listens_on(pid, here));
    assert_eq!(only(&fleet)["forwarding_address"], format!("localhost:{here}"));

    // The next poll by itself is an hour away.
    let issued = fleet.cm(&["instruct", "status", "--all"]);
    let id = issued["instruction_id"].as_str().unwrap().to_owned();
    manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == id);
    let shown = fleet.cm(&["instruct", "show", &id]);
    assert_eq!(shown["successful"], 1, "{shown:#}");
    assert!(
        shown["deliveries"][0]["detail"].as_str().unwrap().contains("agents 0 connected of 0"),
        "{shown:#}"
    );

    let _set = fleet.settings(&["--one-way"]).ok();
    let _sent = fleet.json(&["manager", "update"]);
    fleet.server().wait_for("nobody listens for the Control Manager any more", |_| true);
    assert!(!listens_on(pid, here));
}

#[test]
fn a_notification_that_is_lost_costs_time_and_nothing_else() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    // Nobody listens at the forwarding address.
    let nobody = format!("localhost:{}", free_port());
    let often = ["--two-way", &nobody, "--heartbeat", "2s", "--abnormal-after", "6s"];
    let _set = fleet.settings(&often).ok();
    let _status = fleet.registered(&manager);
    let issued = fleet.cm(&["instruct", "status", "--all"]);
    manager.daemon().wait_for("entity could not be called; it polls by itself", |_| true);
    manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == issued["instruction_id"]);
}

#[test]
fn a_change_is_not_sent_until_it_is_and_a_failure_leaves_the_old_settings_in_force() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let _status = fleet.registered(&manager);
    let closed = free_port().to_string();
    let shown = fleet.settings(&["--display-name", "front office", "--port", &closed]).ok().json();
    assert_eq!(shown["not_sent"], true, "{shown}");
    let refused = fleet.writ(&["--output", "json", "manager", "update"]).failed(7);
    assert!(refused.stderr.contains("tcp:"), "{refused:?}");
    assert_ne!(only(&fleet)["display_name"], "front office");
    // The line in force goes on.
    let issued = fleet.cm(&["instruct", "status", "--all"]);
    manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == issued["instruction_id"]);

    let _set = fleet.settings(&["--port", &manager.link_port.to_string()]).ok();
    let status = fleet.json(&["manager", "update"]);
    assert_eq!(status["settings_not_sent"], false, "{status}");
    assert_eq!(only(&fleet)["display_name"], "front office");
    // An empty name is the host's.
    let shown = fleet.settings(&["--display-name", ""]).ok().json();
    assert!(shown["display_name"].as_str().unwrap().ends_with("_WRIT"), "{shown}");
}

#[test]
fn unregistering_ends_it_here_at_once_and_there_when_the_manager_can_be_reached() {
    let fleet = Fleet::new(Build::Shipped);
    let mut manager = Manager::new(&fleet);
    let first = fleet.registered(&manager);
    let status = fleet.json(&["manager", "unregister"]);
    assert_eq!(
        (&status["state"], &status["departure_pending"]),
        (&"unregistered".into(), &false.into()),
        "{status}"
    );
    assert!(entities(&fleet).is_empty());
    assert_eq!(fleet.json(&["manager", "settings", "show"])["port"], manager.link_port, "the settings stay");
    let refused = fleet.writ(&["--output", "json", "manager", "unregister"]).failed(7);
    assert!(refused.stderr.contains("manager_not_registered"), "{refused:?}");

    // Again: the same entity, by the same key.
    let again = fleet.registered(&manager);
    assert_eq!(again["entity_id"], first["entity_id"]);
    manager.kill();
    let status = fleet.json(&["manager", "unregister"]);
    assert_eq!(
        (&status["state"], &status["departure_pending"]),
        (&"unregistered".into(), &true.into()),
        "{status}"
    );
    manager.start(None);
    fleet.server().wait_for_count("the Control Manager was told that the registration ended", 2);
    assert!(entities(&fleet).is_empty());
    assert_eq!(fleet.line()["departure_pending"], false);
}

#[test]
fn a_manager_that_lost_its_database_is_noticed_and_the_entity_keeps_its_id() {
    let fleet = Fleet::new(Build::Shipped);
    let mut manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let first = fleet.registered(&manager);
    manager.kill();
    // A new database beside the old keys: what is left of a manager whose disk was restored.
    for file in ["control-manager.db", "control-manager.db-wal", "control-manager.db-shm"] {
        let _ = fs::remove_file(manager.path(file));
    }
    let _kept = manager.init(&fleet, &["--keep-keys"]).ok();
    manager.start(None);
    manager.add_context(&fleet);
    fleet.server().wait_for("the Control Manager says no", |said| said["code"] == "unknown_entity");
    let status = fleet.line();
    assert_eq!(
        (&status["state"], &status["next"]),
        (&"unknown".into(), &"writ manager re-register".into()),
        "{status}"
    );
    assert_eq!(fleet.alerts("manager_rejects", "unknown_entity").len(), 1);

    let token = manager.token(&fleet);
    let _set = fleet.settings(&["--registration-token-file", &token]).ok();
    let status = fleet.json(&["manager", "re-register"]);
    assert_eq!(
        (&status["state"], &status["entity_id"]),
        (&"registered".into(), &first["entity_id"]),
        "{status}"
    );
    assert_eq!(only(&fleet)["entity_id"], first["entity_id"]);
    assert!(status["epoch"].as_u64() > first["epoch"].as_u64(), "{status}");
}

#[test]
fn killed_at_any_step_of_a_registration_there_is_one_entity_or_none() {
    // The server, before and after it asked; the manager, before and after it wrote.
    for name in ["entity_registering", "entity_answered"] {
        let mut fleet = Fleet::new(Build::Testing);
        let manager = Manager::new(&fleet);
        fleet.kill_server();
        let checkpoint = fleet.checkpoint(name);
        fleet.start_server(Some(&checkpoint));
        fleet.add_context();
        manager.introduce(&fleet);
        let token = manager.token(&fleet);
        let _set = fleet.settings(&["--registration-token-file", &token]).ok();
        let asking = fleet.spawn_writ(&["manager", "register", "--update-source", "default"]);
        let _held = checkpoint.reached();
        fleet.kill_server();
        assert!(!asking.wait().0.success());
        assert_eq!(entities(&fleet).len(), usize::from(name == "entity_answered"));
        fleet.start_server(None);
        fleet.add_context();
        fleet.server().wait_for("a registration that was begun is finished", |_| true);
        assert_eq!(fleet.line()["state"], "registered");
        assert_eq!(only(&fleet)["state"], "active");
    }
    for name in ["entity_call_decided", "entity_call_stored"] {
        let fleet = Fleet::new(Build::Testing);
        let mut manager = Manager::new(&fleet);
        manager.introduce(&fleet);
        let token = manager.token(&fleet);
        let _set = fleet.settings(&["--registration-token-file", &token]).ok();
        manager.kill();
        let checkpoint = fleet.checkpoint(name);
        manager.start(Some(&checkpoint));
        let asking = fleet.spawn_writ(&["manager", "register", "--update-source", "default"]);
        let _held = checkpoint.reached();
        manager.kill();
        let (status, said) = asking.wait();
        assert!(!status.success() && said.contains("asked again until it answers"), "{said}");
        assert_eq!(fleet.line()["state"], "registering");
        manager.start(None);
        fleet.server().wait_for("a registration that was begun is finished", |_| true);
        assert_eq!(fleet.line()["state"], "registered");
        assert_eq!(only(&fleet)["state"], "active");
    }
}

#[test]
fn an_entity_that_was_rejected_is_out_at_its_next_call_and_cannot_wash_itself_clean() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let status = fleet.registered(&manager);
    let id = status["entity_id"].as_str().unwrap();
    let _out = fleet.cm(&["entities", "reject", id]);
    fleet.server().wait_for("the Control Manager says no", |said| said["code"] == "rejected_entity");
    assert_eq!(fleet.line()["state"], "rejected");
    let refused =
        fleet.writ(&["--output", "json", "--context", "cm", "instruct", "status", "--entity", id]).failed(7);
    assert!(refused.stderr.contains("entity_not_approved"), "{refused:?}");
    // Neither by leaving and coming back, nor with a good token.
    let _left = fleet.json(&["manager", "unregister"]);
    let token = manager.token(&fleet);
    let _set = fleet.settings(&["--registration-token-file", &token]).ok();
    let refused =
        fleet.writ(&["--output", "json", "manager", "register", "--update-source", "default"]).failed(7);
    assert!(refused.stderr.contains("rejected_entity"), "{refused:?}");
    assert_eq!(only(&fleet)["state"], "rejected");
    let _in = fleet.cm(&["entities", "approve", id]);
    let status = fleet.json(&["manager", "register", "--update-source", "default"]);
    assert_eq!((&status["state"], &status["entity_id"]), (&"registered".into(), &id.into()), "{status}");
}

#[test]
fn a_token_lets_in_as_many_as_it_says_and_a_renamed_server_is_the_same_entity() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let first = fleet.registered(&manager);
    assert_eq!(fleet.json(&["manager", "settings", "show"])["registration_token_set"], false, "it is spent");
    let _set = fleet.settings(&["--display-name", "moved", "--address", "127.0.0.1"]).ok();
    let again = fleet.json(&["manager", "register", "--update-source", "default"]);
    assert_eq!((&again["entity_id"], &again["epoch"]), (&first["entity_id"], &first["epoch"]));
    assert_eq!(only(&fleet)["display_name"], "moved");

    // The token let one key in; a second one is refused by its name.
    let token = fleet.path("registration-token");
    let other = Fleet::new(Build::Shipped);
    let port = manager.link_port.to_string();
    let to = [
        "--address",
        "localhost",
        "--port",
        &port,
        "--ca",
        &manager.ca(),
        "--registration-token-file",
        token.to_str().unwrap(),
    ];
    let _set = other.settings(&to).ok();
    let refused =
        other.writ(&["--output", "json", "manager", "register", "--update-source", "default"]).failed(7);
    assert!(refused.stderr.contains("token_refused") && refused.stderr.contains("spent"), "{refused:?}");
    assert_eq!(other.line()["state"], "unregistered");
    let mistaken = other.write_secret("mistaken", "writ-manager1.abc");
    let refused = other.settings(&["--registration-token-file", mistaken.to_str().unwrap()]).failed(7);
    assert!(refused.stderr.contains("copy it again, whole"), "{refused:?}");
    // Without one it waits, as a second entity.
    let _set = other.settings(&["--registration-token-file", "none"]).ok();
    let waiting = other.json(&["manager", "register", "--update-source", "default"]);
    assert_eq!(waiting["state"], "waiting", "{waiting}");
    assert_eq!(entities(&fleet).len(), 2);
}

#[test]
fn an_older_manager_offers_nothing_and_a_newer_one_is_a_choice_that_can_be_changed() {
    let fleet = Fleet::new(Build::Shipped);
    let mut manager = Manager::with(&fleet, "manager", "[announce]\nversion = \"6.0\"\n");
    manager.introduce(&fleet);
    let token = manager.token(&fleet);
    let _set = fleet
        .settings(&["--registration-token-file", &token, "--heartbeat", "1s", "--abnormal-after", "3s"])
        .ok();
    let refused =
        fleet.writ(&["--output", "json", "manager", "register", "--update-source", "manager"]).failed(7);
    assert!(refused.stderr.contains("manager_too_old"), "{refused:?}");
    let status = fleet.json(&["manager", "register"]);
    assert_eq!(
        (&status["manager_version"], &status["update_source"], &status["update_source_offered"]),
        (&"6.0".into(), &"default".into(), &false.into()),
        "{status}"
    );
    let refused = fleet.writ(&["--output", "json", "manager", "update-source", "manager"]).failed(7);
    assert!(refused.stderr.contains("manager_too_old"), "{refused:?}");

    manager.kill();
    manager.config = "[announce]\nversion = \"6.0 SP1\"\nsandbox_connected = true\n".to_owned();
    manager.start(None);
    let status = fleet.json(&["manager", "re-register", "--update-source", "manager"]);
    assert_eq!(status["state"], "registered", "an entity that was let in stays so: {status}");
    assert_eq!(
        (&status["manager_version"], &status["update_source"], &status["sandbox_connected"]),
        (&"6.0 SP1".into(), &"manager".into(), &true.into()),
        "{status}"
    );
    let status = fleet.json(&["manager", "update-source", "default"]);
    assert_eq!(
        (&status["update_source"], &status["update_source_offered"]),
        (&"default".into(), &true.into())
    );
    let _chosen = fleet.json(&["manager", "update-source", "manager"]);
    let status = fleet.json(&["manager", "unregister"]);
    assert_eq!(status["update_source"], "default", "it goes back when the registration ends");
    let refused = fleet.writ(&["--output", "json", "manager", "update-source", "manager"]).failed(7);
    assert!(refused.stderr.contains("manager_not_registered"), "{refused:?}");
}

#[test]
fn registering_anew_keeps_what_the_operator_decided_and_leaves_a_manager_for_another_one() {
    let fleet = Fleet::new(Build::Shipped);
    let mut first = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let registered = fleet.registered(&first);
    let again = fleet.json(&["manager", "re-register"]);
    assert_eq!(
        (&again["state"], &again["entity_id"]),
        (&"registered".into(), &registered["entity_id"]),
        "{again}"
    );
    assert!(again["epoch"].as_u64() > registered["epoch"].as_u64(), "{again}");

    let second = Manager::with(&fleet, "second", "");
    second.introduce(&fleet);
    let refused = fleet.writ(&["--output", "json", "manager", "update"]).failed(7);
    assert!(refused.stderr.contains("other_manager"), "{refused:?}");
    // The first one is gone, and keeps nothing from going on.
    first.kill();
    let moved = fleet.json(&["manager", "re-register"]);
    assert_eq!(
        (&moved["state"], &moved["entity_id"]),
        (&"waiting".into(), &registered["entity_id"]),
        "{moved}"
    );
    assert_eq!(only(&fleet)["state"], "waiting", "at the second");
    let _in = fleet.cm(&["entities", "approve", moved["entity_id"].as_str().unwrap()]);
    let issued = fleet.cm(&["instruct", "status", "--all"]);
    second.daemon().wait_for("instruction ended", |said| said["instruction.id"] == issued["instruction_id"]);
    assert_eq!(fleet.line()["departure_pending"], true);
    first.start(None);
    fleet.server().wait_for("the Control Manager was told that the registration ended", |_| true);
    first.add_context(&fleet);
    assert!(entities(&fleet).is_empty(), "at the first");
    assert_eq!(fleet.line()["departure_pending"], false);
}

#[test]
fn an_instruction_its_entity_never_takes_times_out_and_says_so() {
    let mut fleet = Fleet::new(Build::Testing);
    let mut manager = Manager::new(&fleet);
    let _status = fleet.registered(&manager);
    fleet.kill_server();
    let issued = fleet.cm(&["instruct", "ping", "--all", "--expires", "1m"]);
    let id = issued["instruction_id"].as_str().unwrap().to_owned();
    let waiting = fleet.cm(&["instruct", "show", &id]);
    assert_eq!(
        (&waiting["in_progress"], &waiting["deliveries"][0]["state"]),
        (&1.into(), &"waiting".into()),
        "{waiting:#}"
    );
    manager.restart_at(3 * 3600);
    let over = fleet.cm(&["instruct", "show", &id]);
    assert_eq!(
        (&over["unsuccessful"], &over["in_progress"], &over["deliveries"][0]["state"]),
        (&1.into(), &0.into(), &"timed out".into()),
        "{over:#}"
    );
    assert_eq!(only(&fleet)["state"], "abnormal");
    // The same one asked twice is issued once.
    let again = ["instruct", "status", "--all", "--id", "0190aaaa-0000-7000-8000-000000000001"];
    assert_eq!(fleet.cm(&again)["instruction_id"], fleet.cm(&again)["instruction_id"]);
    let taken = [
        "--output",
        "json",
        "--context",
        "cm",
        "instruct",
        "ping",
        "--all",
        "--id",
        "0190aaaa-0000-7000-8000-000000000001",
    ];
    assert!(fleet.writ(&taken).failed(7).stderr.contains("is a different one"));
    assert_eq!(fleet.cm(&["instruct", "list"]).as_array().unwrap().len(), 2);
}
