//! A command is a thing one can return to: watched, found again, ended.

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet, lines};
use rustix::process::{Pid, test_kill_process_group};
use serde_json::Value;

fn target(fleet: &Fleet, id: &str) -> Value {
    fleet.json(&["commands", "show", id])["targets"][0].clone()
}

fn until_ended(fleet: &Fleet, id: &str) -> Value {
    until("the command never ended", || target(fleet, id)["answered_at"] != "never");
    target(fleet, id)
}

#[test]
fn a_stopped_command_ends_with_its_processes_and_the_agent_says_so_under_its_seal() {
    let mut fleet = Fleet::new(Build::Testing);
    fleet.allow("hang", "exec sleep 600", "");
    let agent = fleet.agent("rome");
    let sent = fleet.json(&["send", "action", "hang", "word=long", "--all"]);
    let id = sent["command_id"].as_str().unwrap();
    let group = agent.wait_for("action started", |_| true)["process.group"].as_u64().unwrap();
    until("it is not said to run", || target(&fleet, id)["state"] == "running");
    let counts = fleet.json(&["commands", "show", id]);
    assert_eq!(
        (&counts["running"], &counts["delivered"], &counts["waiting"]),
        (&1.into(), &0.into(), &0.into())
    );
    let watch = fleet.spawn_writ(&["commands", "watch", id]);
    // By the end of its id, as it stands in tables.
    let stopped = fleet.json(&["commands", "stop", &id[28..]]);
    assert_eq!(stopped["stop"]["target_count"], 1, "{stopped}");
    let ended = until_ended(&fleet, id);
    assert_eq!((&ended["state"], &ended["ending"]), (&"failed".into(), &"stopped".into()), "{ended}");
    let leader = i32::try_from(group).ok().and_then(Pid::from_raw).unwrap();
    assert!(test_kill_process_group(leader).is_err(), "nothing of it is left");
    let (status, _) = watch.wait();
    assert_eq!(status.code(), Some(1), "who watches is told that it failed");
    let stop = until_ended(&fleet, stopped["stop"]["command_id"].as_str().unwrap());
    assert_eq!(stop["detail"], "told to end; its own receipt says how it ended");
    let again = fleet.json(&["commands", "stop", id]);
    assert_eq!(again["stop"], Value::Null, "nobody has it any more who has not answered");
}

#[test]
fn a_command_that_waits_for_a_place_is_stopped_before_it_starts_and_stops_wait_for_nobody() {
    let mut fleet = Fleet::new(Build::Testing);
    fleet.actions_config = "max_running = 1\n".to_owned();
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    fleet.allow("hang", "exec sleep 600", "");
    let agent = fleet.agent("rome");
    let _runs = fleet.json(&["send", "action", "hang", "word=long", "--all"]);
    agent.wait_for("action started", |_| true);
    let waits = fleet.json(&["send", "action", "note", "word=never", "--all"]);
    let id = waits["command_id"].as_str().unwrap();
    agent.wait_for("command admitted", |said| said["command.id"] == id);
    until("the server never noted that it was sent", || {
        fleet.json(&["commands", "stop", id])["stop"] != Value::Null
            || target(&fleet, id)["state"] == "failed"
    });
    let ended = until_ended(&fleet, id);
    assert_eq!(
        (&ended["ending"], &ended["detail"]),
        (&"stopped".into(), &"it had not started".into()),
        "{ended}"
    );
    assert!(lines(&notes).is_empty());
}

#[test]
fn commands_are_found_by_who_what_how_and_the_end_of_their_ids() {
    let fleet = Fleet::new(Build::Testing);
    let _agent = fleet.agent("rome");
    let ping = fleet.json(&["send", "ping", "--all", "--wait"]);
    let id = ping["command_id"].as_str().unwrap();
    let refused = fleet
        .writ(&["--output", "json", "send", "action", "nothing", "--all", "--wait", "--unchecked"])
        .failed(1);
    let other = refused.json()["command_id"].as_str().unwrap().to_owned();
    let found = |filter: &[&str]| {
        let listed = fleet.json(&[&["commands", "list"], filter].concat());
        listed
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["command_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&[]), [other.as_str(), id]);
    assert_eq!(found(&["--action", "ping"]), [id]);
    assert_eq!(found(&["--state", "done"]), [id]);
    assert_eq!(found(&["--state", "failed", "--agent", "rome", "--by", "admin"]), [other.as_str()]);
    assert!(found(&["--state", "open"]).is_empty());
    assert!(found(&["--by", "nobody"]).is_empty());
    assert_eq!(found(&["--since", "1h"]).len(), 2);
    assert_eq!(fleet.json(&["commands", "show", &id[28..]])["command_id"], id);
    let said = fleet.writ(&["commands", "show", "00000000"]).failed(5);
    assert!(said.stderr.contains("no command's id ends in `00000000`"), "{said:?}");
}

#[test]
fn the_same_answers_stand_together_and_failures_come_first() {
    let mut fleet = Fleet::new(Build::Testing);
    fleet.allow("say", "echo \"$1\"; head -c 40000 /dev/zero | tr '\\0' x", "max_output = 65536");
    let _agents = [fleet.agent("rome"), fleet.agent("paris"), fleet.agent("oslo")];
    let sent = fleet.json(&["send", "action", "say", "word=hello", "--all", "--wait"]);
    let id = sent["command_id"].as_str().unwrap();
    let shown = fleet.writ(&["commands", "show", id]).ok();
    assert!(shown.stdout.contains("3 done"), "{shown:?}");
    let rows: Vec<_> = shown.stdout.lines().filter(|line| line.contains("exit 0: hello")).collect();
    assert_eq!(rows.len(), 1, "{shown:?}");
    let each = fleet.writ(&["commands", "show", id, "--each"]).ok();
    assert_eq!(each.stdout.lines().filter(|line| line.contains("exit 0: hello")).count(), 3, "{each:?}");
    let failed = fleet.writ(&["commands", "show", id, "--failed"]).ok();
    assert!(failed.stdout.contains("No agent failed."), "{failed:?}");
    let output = fleet.writ(&["commands", "output", id, "rome"]).ok();
    assert!(
        output.stdout.starts_with("hello\n") && output.stdout.trim_end().len() == 40_006,
        "{}",
        output.stdout.len()
    );
    let said = fleet.writ(&["commands", "output", id, "lima"]).failed(5);
    assert!(said.stderr.contains("was not for an agent `lima`"), "{said:?}");
}

#[test]
fn an_alert_is_open_until_its_cause_is_gone_or_somebody_has_seen_to_it() {
    let mut fleet = Fleet::new(Build::Testing);
    fleet.allow("fail", "exit 1", "");
    let _agents = [fleet.agent("rome"), fleet.agent("paris")];
    let again = || {
        let sent = fleet.json(&["send", "action", "fail", "word=x", "--all", "--canary", "1"]);
        let id = sent["command_id"].as_str().unwrap().to_owned();
        until("the rollout never stopped", || fleet.json(&["rollouts", "show", &id])["state"] == "stopped");
        id
    };
    let all = |more: &[&str]| fleet.json(&[&["alerts", "--all"], more].concat()).as_array().unwrap().clone();
    let open = || fleet.json(&["alerts"]).as_array().unwrap().len();
    let first = again();
    assert_eq!((open(), &all(&[])[0]["state"]), (1, &"open".into()));
    let _aborted = fleet.writ(&["rollouts", "abort", &first]).ok();
    assert_eq!((open(), &all(&[])[0]["state"]), (0, &"ended".into()));
    let _second = again();
    assert_eq!((open(), all(&[]).len()), (1, 1), "raised again, it is open again");
    let number = all(&[])[0]["alert_id"].to_string();
    let seen = fleet.json(&["alerts", "ack", &number, "--note", "a test of ours"]);
    assert_eq!((&seen["acknowledged_by"], &seen["note"]), (&"admin".into(), &"a test of ours".into()));
    assert_eq!((open(), &all(&["--since", "1h"])[0]["state"]), (0, &"acknowledged".into()));
    let said = fleet.writ(&["alerts", "ack", "99"]).failed(5);
    assert!(said.stderr.contains("there is no alert 99"), "{said:?}");
}
