//! A server is killed, and all its agents come back.

use std::time::Duration;

use crate::admin::Admin;
use crate::figures::{count, now, percentile, progress};
use crate::measure::fleet;
use crate::process::{Swarm, whole_cpu};
use crate::table::{Figure, Goal};

/// Commands to one real agent while nothing else happens.
const QUIET: usize = 300;
/// From one such command to the next while all come back.
const PACE: Duration = Duration::from_millis(50);

pub(crate) async fn measure(figures: &mut Vec<Figure>, agents: usize) {
    progress(&format!("{agents} agents enrol and connect"));
    let mut fleet = fleet();
    let token = fleet.token(u32::try_from(agents).unwrap());
    let mut swarm = Swarm::start(agents, &token);
    swarm.connected(agents).await;
    let agent = fleet.agent("rome");
    let rome = fleet.agent_id("rome");
    let admin = Admin::connect(&fleet).await;
    let ping = async |admin: &Admin| {
        let start = now();
        let command = admin.ping(vec![rome.clone()]).await;
        assert_eq!(admin.finish(&command).await, 1);
        start.elapsed().as_secs_f64() * 1e3
    };
    let mut quiet = Vec::with_capacity(QUIET);
    for _ in 0..QUIET {
        quiet.push(ping(&admin).await);
    }
    progress("kill -9 of the server, and a new one");
    let sent = admin.ping(Vec::new()).await;
    let failures = |swarm: &mut Swarm| swarm.ask()["failed"].as_u64().unwrap();
    let before = failures(&mut swarm);
    fleet.kill_server();
    let start = now();
    fleet.start_server(None);
    let server = fleet.server().pid();
    fleet.add_context();
    let admin = Admin::connect(&fleet).await;
    // The honest one's commands, from when it is back itself until everybody is; so few that they cost
    // nothing.
    let mut crowded = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    while swarm.ask()["connected"] != agents {
        // From when it was due: one that hangs makes those behind it late.
        let due = pace.tick().await;
        let _ = ping(&admin).await;
        crowded.push(due.elapsed().as_secs_f64() * 1e3);
    }
    let seconds = start.elapsed().as_secs_f64();
    // Each lost its session, which is no attempt.
    let failed = (failures(&mut swarm) - before).saturating_sub(u64::try_from(agents).unwrap());
    let micros = whole_cpu(server).as_secs_f64() * 1e6 / count(agents);
    let done = admin.finish(&sent).await;
    let settled = start.elapsed().as_secs_f64();
    let said = swarm.ask();
    // The real agent is one more.
    assert_eq!(done, u64::try_from(agents).unwrap() + 1, "nothing was lost");
    assert_eq!((&said["started"], &said["started_twice"]), (&agents.into(), &0.into()), "nothing ran twice");
    drop(agent);
    quiet.sort_by(f64::total_cmp);
    // The first command waits until the agent is back, which is not what is asked here.
    let mut after = crowded.split_off(1.min(crowded.len()));
    after.sort_by(f64::total_cmp);
    let (calm, crowd) = (percentile(&quiet, 99), percentile(&after, 99));
    figures.push(Figure {
        name: "reconnect_15000_s",
        value: seconds,
        unit: "s",
        goal: Some(Goal::AtMost(12.0)),
        how: format!(
            "{agents} agents; from the kill, the server's start included; {failed} attempts failed; a command sent just before was answered by all, once, {settled:.1} s after the kill"
        ),
    });
    figures.push(Figure {
        name: "server_cpu_us_per_return",
        value: micros,
        unit: "µs",
        goal: Some(Goal::AtMost(600.0)),
        how:
            "CPU of the server's process until all were back, by agent; its start and that command are in it"
                .to_owned(),
    });
    figures.push(Figure {
        name: "reconnect_p99_ratio",
        value: crowd / calm,
        unit: "x",
        goal: Some(Goal::AtMost(5.0)),
        how: format!(
            "p99 of {} commands to one real agent meanwhile, from when it is back itself ({crowd:.1} ms), by the same before ({calm:.1} ms)",
            after.len()
        ),
    });
}
