//! Benchmarks: a real server under a swarm of agents, on one machine. `make bench` runs it; RESULTS.md says
//! what came out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a benchmark that cannot go on has nothing to say but why"
)]

mod admin;
mod distribution;
mod figures;
mod floor;
mod lists;
mod manager;
mod measure;
mod others;
mod peers;
mod process;
mod reconnect;
mod scan;
mod swarm;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure everything, print one table, write the figures to a file.
    Run {
        /// Agents of the greatest fan-out.
        #[arg(long, default_value_t = 10_000)]
        agents: usize,
        /// Agents that come back after a kill -9.
        #[arg(long, default_value_t = 15_000)]
        reconnecting: usize,
        /// How often everything is measured: medians and spreads are told.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Only measurements whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/results.json")]
        results: PathBuf,
    },
    /// Ask the same of Salt, NATS and mosquitto. `make bench-peers` installs them.
    Peers {
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/peers.json")]
        results: PathBuf,
    },
    /// Be so many clients of a message broker. Started by `peers`.
    Clients {
        /// Which.
        broker: peers::Broker,
        /// Where it listens on this machine.
        port: u16,
        /// How many.
        clients: usize,
    },
    /// Be so many agents. Started by `run`.
    Swarm {
        /// How many.
        #[arg(long)]
        agents: usize,
        /// File with an enrolment token for all of them.
        #[arg(long)]
        token_file: PathBuf,
    },
}

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match Arguments::parse().command {
        Command::Run { agents, reconnecting, rounds, only, results } => {
            let mut measured = Vec::new();
            for round in 1..=rounds {
                figures::progress(&format!("round {round} of {rounds}"));
                measured.push(runtime.block_on(measure::round(agents, reconnecting, &only)));
            }
            let rows = table::rows(measured);
            table::print(&rows);
            table::write(&rows, &results);
            if !rows.iter().all(table::Row::is_judged) {
                return ExitCode::FAILURE;
            }
        }
        Command::Peers { results } => {
            if !runtime.block_on(peers::run(&results)) {
                return ExitCode::FAILURE;
            }
        }
        Command::Clients { broker, port, clients } => runtime.block_on(peers::clients(broker, port, clients)),
        Command::Swarm { agents, token_file } => runtime.block_on(swarm::run(agents, &token_file)),
    }
    ExitCode::SUCCESS
}
