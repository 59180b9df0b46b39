//! `main` of the server.

mod authority;
mod cert;
mod doctor;
mod gateway;
mod init;
mod local;
mod run;
mod sample;
mod updates;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use writ_common::daemon::{self, Fatal, Threads};
use writ_common::health;
use writ_common::passphrase;

use crate::config::Config;

/// Signs commands and pushes them to agents that obey only what carries its seal.
///
/// Exit codes: 0 ended in good order; 1 it failed, or its result cannot be written; 2 a flag is wrong;
/// 64 a value or the configuration is wrong. A reader that goes away early changes no exit code.
#[derive(Debug, Parser)]
#[command(name = "writ-server", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new fleet: keys, first trust bundle, TLS, first administrator, sealed backup.
    Init(Init),
    /// Serve agents and operators until SIGTERM.
    Run(Run),
    /// Ask the server that runs on this host whether it works; for containers and load balancers. Exit code 1
    /// when it does not.
    Health(Health),
    /// The certificates that sign commands, and backups. Works on the local files, with the server running or
    /// stopped.
    #[command(subcommand)]
    Cert(cert::Cert),
    /// What is wrong with this server's keys, clock, channel and backups, and what to do. Exit code 1 when
    /// something is.
    Doctor(Doctor),
    /// The keys that sign trust bundles. Works on the local files, with the server running or stopped.
    #[command(subcommand)]
    Authority(authority::Authority),
    /// Lists and other components that this server fetches: from where, how often, which versions. Works on
    /// the local files, with the server running or stopped.
    #[command(subcommand)]
    Updates(updates::Update),
}

#[derive(Debug, Args)]
struct Doctor {
    #[command(flatten)]
    place: local::Place,
}

#[derive(Debug, Args)]
struct Health {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask whether it does what it is for, not only whether it works: for readiness, not for restarts.
    #[arg(long)]
    ready: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    place: local::Place,
    /// The fleet's name.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Where agents find this server; repeat for several.
    #[arg(long = "endpoint", value_name = "HOST:PORT", required = true)]
    endpoints: Vec<String>,
    /// A further host name or address of the TLS certificate, for example of the admin port.
    #[arg(long = "tls-name", value_name = "NAME")]
    tls_names: Vec<String>,
    #[command(flatten)]
    kind: local::LocalCommand,
    /// File with the passphrase that seals the authority key and the backup. Without it the systemd
    /// credential `writ-passphrase` is used, or you are asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Give up the fleet that lives here: its state is moved aside, and none of its agents will obey the new
    /// one. Its name, so that you give up the one you mean.
    #[arg(long, value_name = "NAME")]
    replace_fleet: Option<String>,
    /// Do nothing, and succeed, when the fleet of this name is here already.
    #[arg(long, conflicts_with = "replace_fleet")]
    if_new: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    folder: local::Folder,
    /// Sign although the clock stands before a time this server signed with earlier. Agents that heard the
    /// later time refuse until it comes, or until a trust bundle resets their floor.
    #[arg(long)]
    accept_clock: bool,
    /// Wait so long for `init` to make the fleet, for containers that start beside it.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    patience: Option<Duration>,
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
    daemon::run("writ-server", Threads::PerCore, |shutdown| async move {
        match arguments.command {
            Command::Init(options) => init::init(options, shutdown).await,
            Command::Run(options) => run::run(options, shutdown).await,
            Command::Health(options) => health(options).await,
            Command::Cert(verb) => cert::run(verb, shutdown).await,
            Command::Doctor(options) => doctor::run(options, shutdown).await,
            Command::Authority(verb) => authority::run(verb, shutdown).await,
            Command::Updates(verb) => updates::run(verb, shutdown).await,
        }
    })
}

async fn health(options: Health) -> Result<(), Fatal> {
    let config = Config::load(options.config.as_deref(), None).map_err(Fatal::usage)?;
    let asked = health::ask(config.listen_admin, if options.ready { health::READY } else { "" }).await;
    match options.output {
        Output::Text => asked,
        Output::Json => health::say(asked),
    }
}
