//! `make demo`: the main job and its four villains, on real processes, in a temporary folder.
#![allow(clippy::print_stdout, reason = "talking is what a demonstration does")]
#![allow(clippy::unwrap_used, reason = "in a demonstration a panic is the failed step")]

use std::path::Path;

use integration_tests::fleet::{Build, Daemon, Fleet, lines};
use integration_tests::intruder::{Intruder, altered, forged};
use writ_protocol::id::AgentId;

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn proved(text: &str) {
    println!("   => {text}");
}

fn main() {
    println!(
        "Writ: a server, three agents, four villains and an impostor. Everything runs in one temporary folder."
    );

    step(1, "Make a fleet: keys, trust bundle 1, TLS, a sealed backup (the passphrase hash takes a second)");
    let mut fleet = Fleet::new(Build::Shipped);
    let server = fleet.json(&["server"]);
    println!("   fleet {} signs with key {}", server["fleet_id"], server["signing_key_id"]);
    proved("the server runs and an operator is known to it by a token");

    step(2, "Enrol three agents with single-use tokens");
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"; echo \"noted $1\"", "");
    let agents: Vec<(Daemon, AgentId)> = ["rome", "paris", "oslo"]
        .into_iter()
        .map(|name| {
            let agent = fleet.agent(name);
            (agent, fleet.agent_id(name).parse().unwrap())
        })
        .collect();
    assert_eq!(fleet.show(&["agents", "list"]), 0);
    proved("each agent made its own key, walked the trust chain from the token, and has a proven session");

    step(3, "A signed ping to all");
    assert_eq!(fleet.show(&["send", "ping", "--all", "--wait"]), 0);
    proved("one signature, three agents, three countersigned and durable receipts");

    step(4, "An action of the agents' own allow-list to all");
    assert_eq!(fleet.show(&["send", "action", "note", "word=hello", "--all", "--wait"]), 0);
    assert_eq!(lines(&notes).len(), 3, "each agent ran it once");
    proved("each agent checked name and parameters against its own list, ran it once, and signed its output");

    step(5, "A man in the middle holds the stolen TLS key and passes the real greeting through");
    let villain = villains(&fleet, &notes, &agents);

    step(6, "What the operator sees");
    what_the_operator_sees(&fleet);

    step(7, "An impostor with the TLS key but without the signing key");
    fleet.road.cut();
    drop(villain);
    let impostor = Intruder::impostor(&fleet.road, &fleet.path("server"));
    let said = impostor.wait_for_hellos(agents[0].1, 2);
    assert!(said.is_empty(), "the agent told an impostor {said:?}");
    proved(
        "no agent begins a session with him: no proof, no answer, nothing but a greeting with a random nonce",
    );

    step(8, "The agents go back to the real server and obey it");
    drop(impostor);
    let sessions: Vec<_> = agents.iter().map(|(agent, _)| agent.count("session began")).collect();
    fleet.kill_server();
    fleet.start_server(None);
    fleet.add_context();
    for ((agent, _), before) in agents.iter().zip(sessions) {
        agent.wait_for_count("session began", before + 1);
    }
    assert_eq!(fleet.show(&["send", "ping", "--all", "--wait"]), 0);
    proved("a server killed with -9 lost nothing; its agents came back by themselves");

    step(9, "Clean up");
    for (agent, _) in agents {
        assert!(agent.stop().success());
    }
    assert!(fleet.server.take().unwrap().stop().success());
    proved("every process ended in good order; the folder is gone");
    println!("\nEvery step came out as it should.");
}

/// Everything a man in the middle tries; none of it starts anything.
fn villains(fleet: &Fleet, notes: &Path, agents: &[(Daemon, AgentId)]) -> Intruder {
    let (agent, rome) = &agents[0];
    let (_, paris) = &agents[1];
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    villain.wait_for_session(*rome);
    villain.wait_for_session(*paris);
    assert_eq!(fleet.show(&["send", "action", "note", "word=genuine", "--agent", "rome", "--wait"]), 0);
    let genuine = villain.wait_for_deliveries(*rome, 1).remove(0);
    assert_eq!(fleet.show(&["send", "action", "note", "word=elsewhere", "--agent", "paris", "--wait"]), 0);
    let elsewhere = villain.wait_for_deliveries(*paris, 1).remove(0);
    let before = lines(notes).len();
    proved("he sees every command pass, and can say to an agent whatever he likes");

    for (title, delivery, code) in [
        ("forged: the order signed with his own key", forged(&genuine), "unknown_key"),
        ("altered: one bit of the signed order flipped", altered(&genuine), "bad_signature"),
        ("wrongly addressed: the genuine order for paris, passed on to rome", elsewhere, "wrong_agent"),
    ] {
        println!("   villain: {title}");
        villain.deliver(*rome, delivery);
        agent.wait_for("refused in silence", |said| said["code"] == code);
        fleet.server().wait_for("agent refused", |said| said["code"] == code);
        proved(&format!("refused in silence as {code}; the operator knows"));
    }
    println!("   villain: replayed: the genuine order for rome, once more");
    villain.deliver(*rome, genuine);
    agent.wait_for("command delivered again", |_| true);
    fleet.server().wait_for("command replayed by somebody", |_| true);
    assert_eq!(lines(notes).len(), before, "nothing was started by any villain");
    proved("known by its id and digest: not started again, and the server was told that somebody replays");

    villain
}

/// Each villain is in the alerts.
fn what_the_operator_sees(fleet: &Fleet) {
    assert_eq!(fleet.show(&["alerts"]), 0);
    for (kind, code) in [
        ("refused", "unknown_key"),
        ("refused", "bad_signature"),
        ("refused", "wrong_agent"),
        ("replayed", ""),
    ] {
        assert_eq!(fleet.alerts(kind, code).len(), 1, "{kind} {code}");
    }
    proved("all four villains are in the alerts, by agent");
}
