//! Commands that reach their agents in waves: what stops them, what they survive, and who cannot widen them.

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Daemon, Fleet, lines};
use integration_tests::forge::{Forger, sealed};
use integration_tests::intruder::Intruder;
use prost::Message as _;
use serde_json::Value;
use writ_proto::v1 as proto;
use writ_protocol::audience::AudienceTree;
use writ_protocol::id::AgentId;
use writ_protocol::rollout::Seed;

const SEED: &str = "4711";

/// Three agents, and an action that writes a line, and fails while a file `note.notes.bad` is there.
struct Scene {
    fleet: Fleet,
    agents: Vec<Daemon>,
    /// Their names, in the order of the rollout.
    order: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let mut fleet = Fleet::new(Build::Testing);
        fleet.allow("note", "echo \"$1\" >> \"$NOTES\"; test ! -e \"$NOTES.bad\"", "");
        fleet.allow("hang", "exec sleep 600", "");
        let agents = ["rome", "paris", "oslo"].iter().map(|name| fleet.agent(name)).collect();
        let dry = ["send", "ping", "--all", "--batch", "3", "--seed", SEED, "--dry-run"];
        let order = fleet.json(&dry)["first_wave"].as_array().unwrap().clone();
        let order: Vec<_> = order.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        assert_eq!(order.len(), 3);
        Self { fleet, agents, order }
    }

    fn send(&self, action: &str, waves: &[&str]) -> String {
        let send = ["send", "action", action, "word=once", "--all", "--seed", SEED];
        self.fleet.json(&[&send, waves].concat())["command_id"].as_str().unwrap().to_owned()
    }

    fn show(&self, id: &str) -> Value {
        self.fleet.json(&["rollouts", "show", id])
    }

    fn until(&self, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut shown = Value::Null;
        until(&format!("the rollout never came to this: {shown}"), || {
            shown = self.show(id);
            is_so(&shown)
        });
        shown
    }

    fn notes(&self) -> Vec<String> {
        lines(&self.fleet.path("note.notes"))
    }

    fn bad(&self) -> std::path::PathBuf {
        self.fleet.path("note.notes.bad")
    }

    /// The state of each target, in the order of the rollout.
    fn states(&self, id: &str) -> Vec<String> {
        let shown = self.fleet.json(&["commands", "show", id]);
        let targets = shown["targets"].as_array().unwrap();
        let names: Vec<_> = targets.iter().map(|target| target["agent_name"].as_str().unwrap()).collect();
        assert_eq!(names, self.order, "targets stand in the order of the rollout");
        targets.iter().map(|target| target["state"].as_str().unwrap().to_owned()).collect()
    }

    /// Stops the agent at a place of the order.
    fn stop(&mut self, place: usize) -> String {
        let name = self.order[place].clone();
        let at = ["rome", "paris", "oslo"].iter().position(|known| *known == name).unwrap();
        let agent = std::mem::replace(&mut self.agents[at], self.fleet.spawn_tool("true", &[]));
        assert!(agent.stop().success());
        until("its session never ended", || {
            let listed = self.fleet.json(&["agents", "list"]);
            listed
                .as_array()
                .unwrap()
                .iter()
                .any(|agent| agent["name"] == name && agent["connected"] == false)
        });
        name
    }
}

#[test]
fn a_rollout_goes_wave_by_wave_and_each_agent_obeys_once() {
    let scene = Scene::new();
    let said = scene.fleet.writ(&[
        "--output",
        "json",
        "send",
        "action",
        "note",
        "word=once",
        "--all",
        "--seed",
        SEED,
        "--canary",
        "1",
        "--batch",
        "50%",
        "--wait",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    let shown = said.json();
    assert_eq!(
        (&shown["state"], &shown["wave"], &shown["waves"]),
        (&"finished".into(), &2.into(), &2.into())
    );
    assert_eq!((&shown["done"], &shown["released"], &shown["seed"]), (&3.into(), &3.into(), &4711.into()));
    assert_eq!(scene.notes().len(), 3);
    let released: Vec<_> =
        scene.fleet.server().lines("agents may obey").iter().map(|said| said["released"].clone()).collect();
    assert_eq!(released, [1, 3]);
    let id = shown["command_id"].as_str().unwrap();
    assert_eq!(scene.states(id), ["done", "done", "done"]);
    let listed = scene.fleet.json(&["rollouts", "list"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["command_id"]), (1, &id.into()));
    // Over, so nothing changes it any more.
    for verb in ["pause", "resume"] {
        let said = scene.fleet.writ(&["rollouts", verb, id]).failed(7);
        assert!(said.stderr.contains("this rollout is finished"), "{said:?}");
    }
    let other = scene.fleet.json(&["send", "ping", "--all", "--wait"]);
    let said = scene.fleet.writ(&["rollouts", "show", other["command_id"].as_str().unwrap()]).failed(5);
    assert!(said.stderr.contains("has no rollout"), "{said:?}");
}

#[test]
fn a_rollout_is_evidence_with_the_release_that_let_each_agent_obey() {
    let scene = Scene::new();
    let id = scene.send("note", &["--canary", "1"]);
    scene.until(&id, |shown| shown["state"] == "finished");
    let file = scene.fleet.path("evidence.json");
    let export = |file: &std::path::Path| {
        scene.fleet.writ(&["evidence", "export", &id, "--file", file.to_str().unwrap()])
    };
    let _exported = export(&file).ok();
    let bundles = scene.fleet.json(&["trust", "bundles"]);
    let pin = bundles.as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned();
    let verify = |file: &std::path::Path| {
        scene.fleet.writ(&["evidence", "verify", file.to_str().unwrap(), "--pin", &pin])
    };
    let _holds = verify(&file).ok();
    let text = std::fs::read_to_string(&file).unwrap();
    let python = |text: &str| {
        let copy = scene.fleet.path("judged.json");
        std::fs::write(&copy, text).unwrap();
        integration_tests::python::run("proto/vectors/evidence.py", &[copy.to_str().unwrap(), &pin])
    };
    assert!(python(&text).status.success());
    let mut evidence: Value = serde_json::from_str(&text).unwrap();
    assert!(evidence.as_object_mut().unwrap().remove("release").is_some());
    let without = scene.fleet.path("without.json");
    std::fs::write(&without, evidence.to_string()).unwrap();
    let said = verify(&without).failed(1);
    assert!(said.stdout.contains("not_released"), "{said:?}");
    assert!(!python(&evidence.to_string()).status.success());
}

#[test]
fn failures_at_the_limit_are_borne_and_one_more_stops_the_rollout_by_itself() {
    let scene = Scene::new();
    std::fs::write(scene.bad(), "").unwrap();
    let id = scene.send("note", &["--canary", "1", "--batch", "1", "--max-failures", "1"]);
    let watched = scene.fleet.writ(&["rollouts", "watch", &id]).failed(1);
    assert!(
        watched.stdout.contains("2 failed or refused, 0 without an answer; the plan bears 1"),
        "{watched:?}"
    );
    assert_eq!(scene.states(&id), ["failed", "failed", "waiting"]);
    let alerts = scene.fleet.alerts("rollout_stopped", "");
    assert!(alerts[0]["detail"].as_str().unwrap().contains(&id), "{alerts:?}");
    std::fs::remove_file(scene.bad()).unwrap();
    let resumed = scene.fleet.json(&["rollouts", "resume", &id]);
    assert_eq!(resumed["forgiven"], 2);
    scene.until(&id, |shown| shown["state"] == "finished");
    assert_eq!(scene.states(&id), ["failed", "failed", "done"]);
    assert_eq!(scene.notes().len(), 3);
}

#[test]
fn an_agent_that_does_not_answer_in_time_has_failed() {
    let scene = Scene::new();
    let id = scene.send("hang", &["--canary", "1", "--answer-within", "1s"]);
    let stopped = scene.until(&id, |shown| shown["state"] == "stopped");
    assert_eq!((&stopped["silent"], &stopped["released"]), (&1.into(), &1.into()), "{stopped}");
    assert!(stopped["reason"].as_str().unwrap().contains("1 without an answer"), "{stopped}");
}

#[test]
fn a_server_killed_between_release_and_send_goes_on_where_it_was() {
    let mut scene = Scene::new();
    let stop = scene.fleet.checkpoint("wave_released");
    scene.fleet.kill_server();
    scene.fleet.start_server(Some(&stop));
    scene.fleet.add_context();
    let id = scene.send("note", &["--canary", "1", "--batch", "1"]);
    let held = stop.reached();
    scene.fleet.kill_server();
    drop(held);
    assert!(scene.notes().is_empty(), "nobody is sent what is not on disk");
    scene.fleet.start_server(None);
    scene.fleet.add_context();
    scene.until(&id, |shown| shown["state"] == "finished");
    assert_eq!(scene.notes().len(), 3);
    assert_eq!(scene.states(&id), ["done", "done", "done"]);
}

#[test]
fn a_paused_rollout_stays_paused_over_a_restart_and_goes_on_when_told() {
    let mut scene = Scene::new();
    let id = scene.send("note", &["--canary", "1", "--pause", "1s"]);
    let _paused = scene.fleet.writ(&["rollouts", "pause", &id]).ok();
    let paused = scene.fleet.json(&["rollouts", "pause", &id]);
    assert_eq!(paused["state"], "paused", "twice is once");
    scene.fleet.kill_server();
    scene.fleet.start_server(None);
    scene.fleet.add_context();
    let shown = scene.show(&id);
    assert!(shown["waits_for"].as_str().unwrap().contains("writ rollouts resume"), "{shown}");
    assert!(shown["released"].as_u64().unwrap() <= 1, "{shown}");
    let _resumed = scene.fleet.writ(&["rollouts", "resume", &id]).ok();
    scene.until(&id, |shown| shown["state"] == "finished");
    assert_eq!(scene.notes().len(), 3);
}

#[test]
fn agents_that_are_away_when_their_wave_comes_obey_when_they_are_back() {
    let mut scene = Scene::new();
    let name = scene.stop(2);
    let id = scene.send("note", &["--canary", "1", "--batch", "2", "--answer-within", "5s"]);
    let shown = scene.until(&id, |shown| shown["state"] == "finished");
    assert_eq!((&shown["done"], &shown["away"]), (&2.into(), &1.into()), "{shown}");
    assert!(shown["reason"].as_str().unwrap().starts_with("1 agent away"), "{shown}");
    let back = scene.fleet.start_agent(&name, None);
    scene.until(&id, |shown| shown["done"] == 3);
    assert_eq!(scene.notes().len(), 3);
    // Or never: an operator aborts what is left.
    assert!(back.stop().success());
    let again = scene.send("note", &["--canary", "1", "--batch", "2", "--answer-within", "5s"]);
    scene.until(&again, |shown| shown["state"] == "finished");
    let aborted = scene.fleet.json(&["rollouts", "abort", &again[28..]]);
    assert_eq!(aborted["state"], "aborted");
    assert_eq!(scene.states(&again), ["done", "done", "cancelled"]);
}

#[test]
fn a_canary_that_is_away_is_waited_for_until_an_operator_says_otherwise() {
    let mut scene = Scene::new();
    let name = scene.stop(0);
    let id = scene.send("note", &["--canary", "1", "--answer-within", "5s"]);
    let waits = |shown: &Value| shown["waits_for"].as_str().unwrap().contains("to come back, of a wave");
    scene.until(&id, waits);
    assert!(scene.notes().is_empty());
    let resumed = scene.fleet.json(&["rollouts", "resume", &id]);
    assert!(waits(&resumed), "to resume what runs is no word about who is away: {resumed}");
    let _resumed = scene.fleet.writ(&["rollouts", "resume", &id, "--without-away"]).ok();
    scene.until(&id, |shown| shown["state"] == "finished");
    assert_eq!(scene.states(&id)[1..], ["done", "done"]);
    let _back = scene.fleet.start_agent(&name, None);
    scene.until(&id, |shown| shown["done"] == 3);
}

#[test]
fn a_server_that_starts_in_a_wave_takes_nobody_for_away_who_had_no_time_to_come_back() {
    let mut scene = Scene::new();
    let id = scene.send("hang", &["--batch", "1"]);
    let first = ["rome", "paris", "oslo"].iter().position(|name| *name == scene.order[0]).unwrap();
    scene.agents[first].wait_for("action started", |_| true);
    for sessions in 2..=3 {
        scene.fleet.kill_server();
        scene.fleet.start_server(None);
        scene.fleet.add_context();
        let shown = scene.until(&id, |shown| shown["unanswered"] == 1 || shown["awaited"] == 1);
        assert_eq!(shown["released"], 1, "{shown}");
        scene.agents[first].wait_for_count("session began", sessions);
    }
    let shown = scene.show(&id);
    assert_eq!((&shown["released"], &shown["state"]), (&1.into(), &"running".into()), "{shown}");
}

#[test]
fn a_release_that_was_written_into_the_store_lets_nobody_obey() {
    let mut scene = Scene::new();
    let id = scene.send("note", &["--canary", "1", "--pause", "1h", "--expires", "12h"]);
    scene.until(&id, |shown| shown["done"] == 1);
    scene.fleet.kill_server();
    let database = rusqlite::Connection::open(scene.fleet.path("server/writ.db")).unwrap();
    database.execute("UPDATE rollouts SET released = 3", []).unwrap();
    drop(database);
    scene.fleet.start_server(None);
    scene.fleet.add_context();
    scene
        .fleet
        .server()
        .wait_for("the store says more of a rollout than was signed", |said| said["signed"] == 1);
    let shown = scene.until(&id, |shown| shown["away"] == 0);
    assert_eq!(shown["released"], 1, "{shown}");
    let _answers = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    assert_eq!(scene.notes().len(), 1);
}

#[test]
fn failures_of_a_pause_stop_a_rollout_when_it_is_resumed() {
    let scene = Scene::new();
    let id = scene.send("hang", &["--canary", "1", "--answer-within", "1s"]);
    scene.until(&id, |shown| shown["released"] == 1);
    let paused = scene.fleet.json(&["rollouts", "pause", &id]);
    assert_eq!(paused["state"], "paused");
    scene.until(&id, |shown| shown["silent"] == 1);
    let _resumed = scene.fleet.writ(&["rollouts", "resume", &id]).ok();
    let stopped = scene.until(&id, |shown| shown["state"] == "stopped");
    assert_eq!((&stopped["forgiven"], &stopped["released"]), (&0.into(), &1.into()), "{stopped}");
}

#[test]
fn an_abort_while_a_wave_is_out_sends_nothing_more() {
    let scene = Scene::new();
    let id = scene.send("hang", &["--canary", "1"]);
    let first = ["rome", "paris", "oslo"].iter().position(|name| *name == scene.order[0]).unwrap();
    scene.agents[first].wait_for("action started", |_| true);
    let shown = scene.fleet.json(&["rollouts", "abort", &id]);
    assert_eq!(shown["state"], "aborted");
    let again = scene.fleet.json(&["rollouts", "abort", &id]);
    assert_eq!(again["state"], "aborted", "twice is once");
    assert_eq!(scene.states(&id)[1..], ["cancelled", "cancelled"]);
    let by_command = scene.send("hang", &["--canary", "1"]);
    let _cancelled = scene.fleet.writ(&["commands", "cancel", &by_command]).ok();
    scene.until(&by_command, |shown| shown["state"] == "aborted");
}

#[test]
fn a_clock_that_jumps_lets_nobody_obey_early() {
    let scene = Scene::new();
    let id = scene.send("note", &["--canary", "1", "--pause", "30m", "--expires", "12h"]);
    let waits = |shown: &Value| shown["waits_for"].as_str().unwrap().contains("the end of the pause");
    scene.until(&id, waits);
    std::fs::write(scene.fleet.path("server-clock"), (45 * 60).to_string()).unwrap();
    // Two looks of the server later it still waits.
    for _ in 0..2 {
        let watch = scene.fleet.spawn_writ(&["rollouts", "watch", &id]);
        watch.kill();
    }
    let shown = scene.show(&id);
    assert!(waits(&shown) && shown["released"] == 1, "{shown}");
}

#[test]
fn two_rollouts_go_on_beside_one_another() {
    let scene = Scene::new();
    let ids = [1, 2].map(|batch| scene.send("note", &["--canary", "1", "--batch", &batch.to_string()]));
    for id in &ids {
        scene.until(id, |shown| shown["state"] == "finished");
    }
    assert_eq!(scene.notes().len(), 6);
}

#[test]
fn what_cannot_be_a_rollout_is_refused_before_anything_is_signed() {
    let fleet = Fleet::new(Build::Testing);
    let _agent = fleet.agent("rome");
    for (waves, code, says) in [
        (["--max-failures", "2"], 7, "--canary: say --canary or --batch, too"),
        (["--pause", "2m"], 7, "--canary: say --canary or --batch, too"),
        (["--canary", "0"], 7, "--canary: `0`: must be at least 1"),
        (
            ["--batch", "101%"],
            7,
            "--batch: `101%`: write a number of agents, as 5, or a part of them, as 10%",
        ),
        (["--window", "22-04"], 7, "--window: `22-04`: write it as 22:00-04:00, in UTC"),
        (["--rate", "50"], 2, "write it as 50/s"),
        (["--start-at", "tomorrow"], 2, "write it as 2026-11-22T03:00:00Z"),
        (["--start-at", "2100-01-01T00:00:00Z"], 7, "--expires: the rollout takes"),
        (["--pause", "25h"], 7, "--pause: must be at most 24h"),
    ] {
        let said = fleet.writ(&[["send", "ping", "--all"].as_slice(), &waves].concat()).failed(code);
        assert!(said.stderr.contains(says), "{waves:?}: {said:?}");
    }
    assert!(fleet.json(&["commands", "list"]).as_array().unwrap().is_empty());
}

/// Agents, their order, and a villain between them and the server who has the key of its channel.
struct Road {
    scene: Scene,
    villain: Intruder,
    ids: Vec<AgentId>,
}

impl Road {
    fn new() -> Self {
        let scene = Scene::new();
        let villain = Intruder::in_the_middle(&scene.fleet.road, &scene.fleet.path("server"));
        let ids: Vec<AgentId> =
            scene.order.iter().map(|name| scene.fleet.agent_id(name).parse().unwrap()).collect();
        ids.iter().for_each(|id| villain.wait_for_session(*id));
        Self { scene, villain, ids }
    }

    fn agent(&self, place: usize) -> &Daemon {
        let name = &self.scene.order[place];
        let at = ["rome", "paris", "oslo"].iter().position(|known| known == name).unwrap();
        &self.scene.agents[at]
    }
}

#[test]
fn neither_a_replayed_nor_a_forged_release_widens_a_rollout() {
    let road = Road::new();
    let id = road.scene.send("note", &["--canary", "1", "--pause", "1h", "--expires", "12h"]);
    let sent = road.villain.wait_for_deliveries(road.ids[0], 1).remove(0);
    road.scene.until(&id, |shown| shown["done"] == 1);
    // Whoever sees the command knows its order, and makes the proof of the next agent.
    let signed = proto::Envelope::decode(sent.envelope.clone()).unwrap();
    let seed = proto::Command::decode(signed.payload).unwrap().rollout.unwrap().seed;
    let tree = AudienceTree::of(Seed::new(seed), &road.ids).unwrap();
    let ahead = |release: bytes::Bytes| proto::Delivery {
        envelope: sent.envelope.clone(),
        proof: tree.proof(1).map(|proof| (&proof).into()),
        approvals: Vec::new(),
        release,
    };
    let mut envelope = proto::Envelope::decode(sent.release.clone()).unwrap();
    let mut release = proto::Release::decode(envelope.payload.clone()).unwrap();
    assert_eq!(release.released, 1);
    release.released = 3;
    envelope.payload = release.encode_to_vec().into();
    let victim = road.agent(1);
    for (count, (release, code)) in (1..).zip([
        (sent.release.clone(), "not_released"),
        (bytes::Bytes::new(), "not_released"),
        (envelope.encode_to_vec().into(), "bad_signature"),
        (sealed("release", &release, &Forger::new([0x66; 32])), "unknown_key"),
    ]) {
        road.villain.deliver(road.ids[1], ahead(release));
        victim.wait_for_count("refused in silence", count);
        assert_eq!(victim.lines("refused in silence").pop().unwrap()["code"], code);
    }
    road.scene.fleet.server().wait_for("agent refused", |said| said["code"] == "not_released");
    let alerts = road.scene.fleet.alerts("refused", "not_released");
    assert_eq!(alerts[0]["agent_name"], road.scene.order[1].as_str());
    assert_eq!(road.scene.notes().len(), 1, "only the canary obeyed");
}
