//! What is promised is on disk first, which `strace` counts over the programs as they are shipped; and what
//! is acknowledged is acknowledged in time.

use std::fs;
use std::path::PathBuf;

use integration_tests::daemon::Daemon;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::hostile_agent::HostileAgent;
use serde_json::Value;
use writ_proto::v1::server_frame::Frame;
use writ_proto::v1::{self as proto, agent_frame};
use writ_protocol::id::CommandId;

/// Commands, one after the other: far more than the flushes that a program makes by itself meanwhile.
const COMMANDS: usize = 20;

/// What `strace` sees of a program's flushes.
struct Watched {
    strace: Daemon,
    seen: PathBuf,
}

fn watch(fleet: &Fleet, daemon: &Daemon, name: &str) -> Watched {
    let seen = fleet.path(name);
    Watched { strace: daemon.trace("fsync,fdatasync,sync,syncfs,msync", &seen), seen }
}

impl Watched {
    fn flushes(self) -> usize {
        self.strace.signal("-INT");
        let _ended = self.strace.wait();
        let seen = fs::read_to_string(self.seen).unwrap();
        // A call that another thread interrupts has two lines, and one of them a bracket.
        seen.lines().filter(|line| line.contains("sync(")).count()
    }
}

#[test]
fn each_side_flushes_what_it_admits_and_what_it_answers() {
    let fleet = Fleet::new(Build::Shipped);
    let agent = fleet.agent("rome");
    let _warm = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let (of_server, of_agent) =
        (watch(&fleet, fleet.server(), "server-flushes"), watch(&fleet, &agent, "agent-flushes"));
    for _ in 0..COMMANDS {
        let _done = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    }
    let (of_server, of_agent) = (of_server.flushes(), of_agent.flushes());
    // The server: the command with its audit entry, then the receipt. The agent: that it starts, then the
    // receipt.
    let least = 2 * COMMANDS;
    assert!(of_server >= least, "the server flushed {of_server} times for {COMMANDS} commands");
    // And a line of the audit log for each of two looks by `writ`; nothing else.
    let most = 2 * least + COMMANDS;
    assert!(of_server < most, "the server flushed {of_server} times for {COMMANDS} commands");
    assert!(of_agent >= least, "the agent flushed {of_agent} times for {COMMANDS} commands");
    // Acknowledgements are written together, and not one for each command.
    let most = least + COMMANDS / 2;
    assert!(of_agent < most, "the agent flushed {of_agent} times for {COMMANDS} commands");
}

/// What the server says, without what a session begins with.
fn hear(agent: &mut HostileAgent) -> Frame {
    loop {
        match agent.hear().unwrap() {
            Frame::Bundles(_) | Frame::IdentityRecord(_) => {}
            said => return said,
        }
    }
}

#[test]
fn receipts_are_acknowledged_with_what_is_said_next_before_a_heartbeats_answer_and_in_time() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let mut agent = HostileAgent::in_place_of(&fleet, "rome");
    let sends = || {
        let sent = fleet.json(&["send", "ping", "--all"]);
        let id = sent["command_id"].as_str().unwrap().parse::<CommandId>().unwrap();
        (sent, id)
    };
    let acknowledges = |said: Frame, id: CommandId| matches!(said, Frame::AnswerAck(ack) if ack.command_id.as_ref() == id.as_bytes().as_slice());
    let answer = |agent: &HostileAgent, sent: &Value| {
        agent.answer(sent, |_| {});
        fleet.server().wait_for("receipt stored", |said| said["command.id"] == sent["command_id"]);
    };
    let (first, first_id) = sends();
    assert!(matches!(hear(&mut agent), Frame::Delivery(_)));
    answer(&agent, &first);
    let (second, second_id) = sends();
    assert!(acknowledges(hear(&mut agent), first_id), "with the next delivery, before it");
    assert!(matches!(hear(&mut agent), Frame::Delivery(_)));
    answer(&agent, &second);
    agent.say(agent_frame::Frame::Heartbeat(proto::Heartbeat {}));
    assert!(acknowledges(hear(&mut agent), second_id), "before a heartbeat is answered");
    assert!(matches!(hear(&mut agent), Frame::Heartbeat(_)));
    // As many as may be owed: the last of them has all acknowledged, without a word of the agent's.
    (0..64).for_each(|_| agent.answer(&second, |_| {}));
    (0..64).for_each(|_| assert!(acknowledges(hear(&mut agent), second_id)));
}
