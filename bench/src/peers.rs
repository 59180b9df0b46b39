//! The same questions to others, on the same machine and in the same run. `make bench-peers` installs them;
//! RESULTS.md says what came out, and what cannot be compared.

mod brokers;
mod salt;

use std::path::Path;

use serde::Serialize;

use crate::admin::Admin;
use crate::figures::{count, float, median, now, percentile, progress};
use crate::measure::{distinct_commands, fleet};
use crate::others::{MOST, Others};
use crate::process::{Swarm, cpu, rss_kb};

pub(crate) use brokers::{Broker, clients};

/// Agents, minions or clients of the two fan-outs.
const FEW: usize = 100;
const MANY: usize = 1000;
/// Fan-outs of which the median is told.
const FAN_OUTS: usize = 5;
/// Commands to one target, one after the other.
const ONE_AFTER_THE_OTHER: usize = 1000;

/// What one of them takes.
#[derive(Debug, Default, Serialize)]
struct Peer {
    name: &'static str,
    one_p50_ms: f64,
    one_p99_ms: f64,
    fanout_100_ms: f64,
    fanout_1000_ms: f64,
    commands_per_s: f64,
    /// CPU of the server's processes for one reply of a fan-out.
    server_us_per_reply: f64,
    /// Growth of the server's memory with each connection; `None` where it is not one process.
    kb_per_connection: Option<f64>,
    /// What else is to be known.
    notes: String,
}

/// Measures all of them, prints a table, and writes the figures to a file. Whether the machine was ours.
pub(crate) async fn run(results: &Path) -> bool {
    let others = Others::watch();
    let peers = [
        writ().await,
        brokers::measure(Broker::Nats).await,
        brokers::measure(Broker::Mosquitto).await,
        salt::measure(),
    ];
    let share = others.share();
    print(&peers, share);
    std::fs::create_dir_all(results.parent().unwrap()).unwrap();
    let whole = serde_json::json!({ "peers": peers, "others": share });
    std::fs::write(results, serde_json::to_string_pretty(&whole).unwrap()).unwrap();
    share <= MOST
}

/// The median and the 99th of a hundred, in milliseconds.
fn one_after_the_other(mut seconds: Vec<f64>) -> (f64, f64) {
    seconds.sort_by(f64::total_cmp);
    (percentile(&seconds, 50) * 1e3, percentile(&seconds, 99) * 1e3)
}

async fn writ() -> Peer {
    let mut peer = Peer { name: "Writ", ..Peer::default() };
    peer.fanout_100_ms = answered(FEW, &mut peer).await;
    peer.fanout_1000_ms = answered(MANY, &mut peer).await;
    "TLS; signed, verified, journalled, receipt signed, verified and committed".clone_into(&mut peer.notes);
    peer
}

/// One command to so many simulated agents, and what else is asked of them; the last call counts.
async fn answered(agents: usize, peer: &mut Peer) -> f64 {
    progress(&format!("Writ, {agents} agents"));
    let fleet = fleet();
    let server = fleet.server().pid();
    let before = rss_kb(server);
    let mut swarm = Swarm::start(agents, &fleet.token(u32::try_from(agents).unwrap()));
    swarm.connected(agents).await;
    peer.kb_per_connection = Some((float(rss_kb(server)) - float(before)) / count(agents));
    let admin = Admin::connect(&fleet).await;
    let timed = async |targets: Vec<String>, expected: usize| {
        let start = now();
        let command = admin.ping(targets).await;
        assert_eq!(admin.finish(&command).await, u64::try_from(expected).unwrap());
        start.elapsed().as_secs_f64()
    };
    let _warm = timed(Vec::new(), agents).await;
    let spent = cpu(server);
    let mut all = Vec::new();
    for _ in 0..FAN_OUTS {
        all.push(timed(Vec::new(), agents).await);
    }
    peer.server_us_per_reply = (cpu(server) - spent).as_secs_f64() * 1e6 / count(FAN_OUTS * agents);
    let listed = fleet.json(&["agents", "list"]);
    let one = listed[0]["agent_id"].as_str().unwrap().to_owned();
    let mut ones = Vec::new();
    for _ in 0..ONE_AFTER_THE_OTHER {
        ones.push(timed(vec![one.clone()], 1).await);
    }
    (peer.one_p50_ms, peer.one_p99_ms) = one_after_the_other(ones);
    peer.commands_per_s = distinct_commands(&admin, &[one]).await;
    median(all) * 1e3
}

#[expect(clippy::print_stdout, reason = "the table is what the benchmark is run for")]
fn print(peers: &[Peer], others: f64) {
    println!(
        "{:10} {:>10} {:>10} {:>12} {:>13} {:>12} {:>15} {:>14}  notes",
        "", "p50 ms", "p99 ms", "100 in ms", "1,000 in ms", "commands/s", "µs CPU a reply", "KB connection"
    );
    for peer in peers {
        let memory = peer.kb_per_connection.map_or_else(String::new, |kilobytes| format!("{kilobytes:.1}"));
        println!(
            "{:10} {:>10.2} {:>10.2} {:>12.1} {:>13.1} {:>12.0} {:>15.1} {:>14}  {}",
            peer.name,
            peer.one_p50_ms,
            peer.one_p99_ms,
            peer.fanout_100_ms,
            peer.fanout_1000_ms,
            peer.commands_per_s,
            peer.server_us_per_reply,
            memory,
            peer.notes
        );
    }
    println!("Other processes took {:.1} % of the cores.", others * 100.0);
}
