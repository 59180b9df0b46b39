//! `make demo-rollout`: twelve agents, a canary of two, a wave that fails and stops the rollout by itself,
//! resumed after a fix, a command stopped in flight, and releases that nobody believes. On real processes, in
//! a temporary folder.
#![allow(clippy::print_stdout, reason = "talking is what a demonstration does")]
#![allow(clippy::unwrap_used, reason = "in a demonstration a panic is the failed step")]

use std::fs;

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

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn proved(text: &str) {
    println!("   => {text}");
}

/// What an operator types, for somebody to watch; its exit code.
fn types(fleet: &Fleet, arguments: &[&str]) -> i32 {
    println!("   $ writ {}", arguments.join(" "));
    fleet.show(arguments)
}

fn show(fleet: &Fleet, id: &str) -> Value {
    fleet.json(&["rollouts", "show", id])
}

/// The latest rollout.
fn latest(fleet: &Fleet) -> String {
    fleet.json(&["rollouts", "list"])[0]["command_id"].as_str().unwrap().to_owned()
}

/// Twelve agents and somebody between them and the server.
struct Stage {
    fleet: Fleet,
    names: Vec<String>,
    agents: Vec<Daemon>,
    villain: Intruder,
    /// Their names and ids, in the order of the rollout.
    order: Vec<String>,
    ids: Vec<AgentId>,
}

/// How every rollout here goes.
const PLAN: [&str; 8] = ["--canary", "2", "--batch", "4", "--max-failures", "1", "--seed", SEED];

impl Stage {
    /// Versions that were installed, one line each.
    fn installed(&self) -> usize {
        lines(&self.fleet.path("install.notes")).len()
    }
}

fn begin() -> Stage {
    step(1, "A server and twelve agents. Their hosts allow one action, which installs a version");
    let mut fleet = Fleet::new(Build::Shipped);
    // A bad version installs itself on whoever gets it, and fails.
    let _notes = fleet.allow("install", "echo \"$1\" >> \"$NOTES\"; test ! -e \"$NOTES.bad-$1\"", "");
    let _slow = fleet.allow("migrate", "exec sleep 600", "");
    let token = fleet.token(12);
    let names: Vec<_> = (1..=12).map(|number| format!("web{number:02}")).collect();
    let mut agents = Vec::new();
    for name in &names {
        let _enrolled = fleet.enroll(name, &token).ok();
        agents.push(fleet.start_agent(name, None));
    }
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    let order = {
        let dry = ["send", "ping", "--all", "--batch", "12", "--seed", SEED, "--dry-run"];
        let shown = fleet.json(&dry);
        let names = shown["first_wave"].as_array().unwrap().clone();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let ids: Vec<AgentId> = order.iter().map(|name| fleet.agent_id(name).parse().unwrap()).collect();
    ids.iter().for_each(|id| villain.wait_for_session(*id));
    proved("twelve agents are connected, through somebody who has the key of the channel");
    Stage { fleet, names, agents, villain, order, ids }
}

fn goes_wrong(stage: &Stage) -> String {
    let fleet = &stage.fleet;
    step(2, "What a rollout would do, before anything is signed");
    let send = ["send", "action", "install", "word=v2", "--all"];
    assert_eq!(types(fleet, &[send.as_slice(), &PLAN, &["--dry-run"]].concat()), 0);
    assert_eq!(stage.installed(), 0);
    proved("a canary of two, then four, four and two; nobody was sent anything");

    step(3, "Version v2 is good on the canary and bad on what comes next");
    // The canary's hosts are well; the wave behind it meets the fault.
    let held = [send.as_slice(), &PLAN, &["--pause", "1s"]].concat();
    assert_eq!(types(fleet, &held), 0);
    let first = latest(fleet);
    until("the canary never answered", || show(fleet, &first)["done"] == 2);
    fs::write(fleet.path("install.notes.bad-v2"), "").unwrap();
    assert_eq!(types(fleet, &["rollouts", "watch", &first]), 1);
    let stopped = show(fleet, &first);
    assert_eq!((&stopped["state"], &stopped["released"]), (&"stopped".into(), &6.into()), "{stopped}");
    assert_eq!(stage.installed(), 6);
    assert_eq!(fleet.alerts("rollout_stopped", "").len(), 1);
    proved(
        "it stopped by itself after its second wave: six agents never heard of v2, and an alert is raised",
    );
    first
}

fn is_widened_by_nobody(stage: &Stage) {
    let Stage { names, agents, villain, order, ids, .. } = stage;
    step(4, "Who stands in the middle passes the command on to an agent whose wave has not come");
    let sent = villain.wait_for_deliveries(ids[0], 1).remove(0);
    let signed = proto::Envelope::decode(sent.envelope.clone()).unwrap();
    let seed = proto::Command::decode(signed.payload).unwrap().rollout.unwrap().seed;
    let tree = AudienceTree::of(Seed::new(seed), ids).unwrap();
    let mut widened =
        proto::Release::decode(proto::Envelope::decode(sent.release.clone()).unwrap().payload).unwrap();
    widened.released = 12;
    let victim = names.iter().position(|name| *name == order[11]).unwrap();
    for (count, (what, release)) in (1..).zip([
        ("the canary's own release, repeated", sent.release.clone()),
        (
            "a release for all twelve, under a key of his",
            sealed("release", &widened, &Forger::new([0x66; 32])),
        ),
    ]) {
        let delivery = proto::Delivery {
            envelope: sent.envelope.clone(),
            proof: tree.proof(11).map(|proof| (&proof).into()),
            approvals: Vec::new(),
            release,
        };
        villain.deliver(ids[11], delivery);
        agents[victim].wait_for_count("refused in silence", count);
        let code = agents[victim].lines("refused in silence").pop().unwrap()["code"].clone();
        println!("     {what}: {}", code.as_str().unwrap());
    }
    assert_eq!(stage.installed(), 6);
    proved("refused in silence and reported; nobody obeyed");
}

fn goes_on(stage: &Stage, first: &str) {
    let fleet = &stage.fleet;
    step(5, "The fault is mended, and the rollout goes on where it was");
    fs::remove_file(fleet.path("install.notes.bad-v2")).unwrap();
    assert_eq!(types(fleet, &["rollouts", "resume", first]), 0);
    // The failures of before stay what they are, and are told once more.
    assert_eq!(types(fleet, &["rollouts", "watch", first]), 1);
    let finished = show(fleet, first);
    assert_eq!((&finished["state"], &finished["released"]), (&"finished".into(), &12.into()), "{finished}");
    assert_eq!(stage.installed(), 12);
    proved("every agent was asked once");
}

fn is_stopped_in_flight(stage: &Stage) {
    let Stage { fleet, order, names, agents, .. } = stage;
    step(6, "Another one is stopped in flight: it hangs on the canary");
    let migrate = ["send", "action", "migrate", "word=now", "--all"];
    assert_eq!(types(fleet, &[migrate.as_slice(), &PLAN].concat()), 0);
    let second = latest(fleet);
    let groups: Vec<_> = order[..2]
        .iter()
        .map(|name| {
            let place = names.iter().position(|known| known == name).unwrap();
            let is_it = |said: &Value| said["command.id"] == second.as_str();
            agents[place].wait_for("action started", is_it)["process.group"].as_u64().unwrap()
        })
        .collect();
    until("the canary never began", || show(fleet, &second)["unanswered"] == 2);
    assert_eq!(types(fleet, &["commands", "stop", &second]), 0);
    until("the rollout was never over", || show(fleet, &second)["state"] == "aborted");
    until("the canary never ended", || fleet.json(&["commands", "show", &second])["failed"] == 2);
    let shown = fleet.json(&["commands", "show", &second]);
    let stopped = shown["targets"].as_array().unwrap().iter().filter(|target| target["ending"] == "stopped");
    assert_eq!((stopped.count(), &shown["cancelled"]), (2, &10.into()), "{shown}");
    for group in groups {
        let is_gone = !std::path::Path::new(&format!("/proc/{group}")).exists();
        assert!(is_gone, "process {group} still runs");
    }
    assert_eq!(types(fleet, &["rollouts", "list"]), 0);
    proved("its processes are gone, two signed receipts say so, and ten agents are never sent it");
}

fn main() {
    println!("A change reaches twelve agents in waves, and stops by itself when it goes wrong.");
    let stage = begin();
    let first = goes_wrong(&stage);
    is_widened_by_nobody(&stage);
    goes_on(&stage, &first);
    is_stopped_in_flight(&stage);
    println!("\nAll of it came out as it should.");
}
