//! `conformance`: judges an agent or a server of somebody else, clause by clause of docs/protocol.md. See
//! docs/conformance.md.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its result is what it prints")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use integration_tests::conformance::{Report, of_agent, of_server};

/// Judges an implementation of the protocol. Exit codes: 0 all holds, 1 something does not, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "conformance")]
struct Arguments {
    /// How to print the result. Progress is on standard error.
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Play the server's part, and a villain's on the road, against an agent. Needs `make build`.
    Agent {
        /// Starts the agent, in an empty folder, with the path of its token's file in WRIT_TOKEN_FILE. It
        /// enrols and obeys until it is killed.
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Play the agent's part, honest and hostile, against a server.
    Server {
        /// A token of that server, good for one agent at least.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
}

fn main() -> ExitCode {
    let Arguments { output, part } = Arguments::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut report = Report::loud();
    match part {
        Part::Agent { command } => of_agent::judge(&command, &mut report),
        Part::Server { token_file } => match std::fs::read_to_string(&token_file) {
            Ok(token) => of_server::judge(&token, &mut report),
            Err(error) => {
                eprintln!("conformance: --token-file: {}: {error}", token_file.display());
                return ExitCode::from(2);
            }
        },
    }
    let failed = report.cases().iter().filter(|case| !case.holds).count();
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default()),
        Output::Text => println!("{} cases, {failed} do not hold", report.cases().len()),
    }
    if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
