//! `main` of the agent.

mod doctor;
mod enroll;
mod explain;
mod run;
pub(crate) mod status;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use writ_common::daemon::{self, Threads};
use writ_common::systemd::Start;
use writ_protocol::id::Digest;
use writ_protocol::keys::Algorithm;
use writ_protocol::time::Timestamp;

use crate::upgrade::state::StateStep;

/// Obeys what carries the server's seal, once, and answers under its own.
///
/// Exit codes: 0 ended in good order; 1 it failed, or its result cannot be written; 2 a flag is wrong;
/// 64 a value or the configuration is wrong. A reader that goes away early changes no exit code.
#[derive(Debug, Parser)]
#[command(name = "writ-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this host an agent of a fleet.
    Enroll(Enroll),
    /// Obey until SIGTERM.
    Run(Run),
    /// Say what this agent would do with a command, check by check; nothing is started.
    Explain(Explain),
    /// Show who this agent is, whom it obeys and how it stands.
    Status(StatusOptions),
    /// What keeps this agent from obeying, by cause, and what to do. Looks at its files and asks the servers
    /// it knows. Exit code 1 when something is wrong.
    Doctor(StatusOptions),
    /// Let this agent be replaced by commands of its fleet, on hosts with systemd.
    #[command(subcommand)]
    Upgrade(Upgrade),
}

#[derive(Debug, Subcommand)]
enum Upgrade {
    /// As root: allow it. Which fleet may do so is pinned now. The package that comes is installed by this
    /// host's package manager, or takes the program's place, and is taken back when it does not greet its
    /// server.
    Allow(UpgradeAllow),
    /// As root: allow it no more.
    Forbid {
        /// How to print the result.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Carry out what the agent handed over, or go on with it; systemd runs this.
    #[command(hide = true)]
    Apply,
    /// Keep the agent's state, as the agent's user.
    #[command(hide = true)]
    State {
        /// What to do with it.
        #[arg(value_enum)]
        step: StateStep,
        /// The agent's state.
        #[arg(long, value_name = "FOLDER")]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct UpgradeAllow {
    #[command(flatten)]
    place: Where,
    /// The unit that runs this agent.
    #[arg(long, value_name = "NAME", default_value = "writ-agent.service")]
    unit: String,
    /// The trust bundle that whom the agent obeys must follow from: the first digest of `writ trust bundles`.
    /// Without it, what the agent holds is pinned at the first time.
    #[arg(long, value_name = "DIGEST")]
    bundle: Option<Digest>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Where configuration and state are.
#[derive(Debug, Clone, Args)]
struct Where {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides `data_dir`.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

impl Where {
    /// How the agent is started there.
    fn start(&self) -> Start<'_> {
        let Self { config, data_dir } = self;
        Start { program: "writ-agent", config: config.as_deref(), data_dir: data_dir.as_deref() }
    }
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    place: Where,
    /// Enrol first, with the token in this file and under this host's name, if this host is not enrolled
    /// yet: for containers and images, where nobody can. Once it is, the file is not read.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The name operators will see, when it enrols; this host's unless given.
    #[arg(long, value_name = "NAME", requires = "token_file")]
    name: Option<String>,
    /// Wait so long for that file, for containers that start beside who makes it.
    #[arg(long, requires = "token_file", value_parser = humantime::parse_duration, value_name = "TIME")]
    patience: Option<Duration>,
}

#[derive(Debug, Args)]
struct Enroll {
    #[command(flatten)]
    place: Where,
    /// File with the enrolment token; `-` is standard input. A token is a secret, so it is never an
    /// argument.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The name operators will see; the host's name unless given.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How this agent signs its answers: ed25519 or ecdsa-p256.
    #[arg(long, value_name = "ALGORITHM", default_value = Algorithm::default().as_str())]
    key_algorithm: Algorithm,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
struct Explain {
    #[command(flatten)]
    place: Where,
    /// An evidence file (`writ evidence export`), or the bytes of a delivery.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Judge as at this moment (RFC 3339) instead of now.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
struct StatusOptions {
    #[command(flatten)]
    place: Where,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The command line, for manuals and shells.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    daemon::run("writ-agent", Threads::One, |shutdown| async move {
        match arguments.command {
            Command::Enroll(options) => enroll::enroll(options).await,
            Command::Run(options) => run::run(options, shutdown).await,
            Command::Explain(options) => explain::explain(options),
            Command::Status(options) => status::status(options),
            Command::Doctor(options) => doctor::doctor(options).await,
            Command::Upgrade(verb) => upgrade::upgrade(verb, shutdown).await,
        }
    })
}
