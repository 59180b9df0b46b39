//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people.
    Table,
    /// JSON for programs.
    Json,
}

/// Command a fleet of agents that obey only what carries the server's seal.
///
/// Exit codes: 0 done; 1 an agent refused or failed; 2 wrong usage; 3 the server cannot be reached; 4 not allowed;
/// 5 not found; 6 not all agents answered in time; 7 the request was refused; 8 something on this machine.
#[derive(Debug, Parser)]
#[command(name = "writ", version)]
pub(crate) struct Arguments {
    /// How to print results.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Which server to speak to; the current context unless given.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Servers this machine knows.
    #[command(subcommand)]
    Context(Context),
    /// Tokens that let new agents in.
    #[command(subcommand)]
    Enroll(Enroll),
    /// The agents of the fleet.
    #[command(subcommand)]
    Agents(Agents),
    /// Send a command.
    #[command(subcommand)]
    Send(Send),
    /// Commands and what became of them.
    #[command(subcommand)]
    Commands(Commands),
    /// What somebody should look at.
    Alerts,
    /// The server about itself.
    Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Remember a server and use it from now on.
    Add {
        /// What to call it.
        name: String,
        /// Its admin port.
        #[arg(long, value_name = "HOST:PORT")]
        server: String,
        /// The certificate authority `init` wrote: admin-ca.pem.
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
        /// File with your bearer token; it stays where it is and is read at every call.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
    /// Use another one from now on.
    Use {
        /// Its name.
        name: String,
    },
    /// Show what is known.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Enroll {
    /// Tokens.
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token. It is shown once: on standard output, or in a file only you can read.
    Create {
        /// How many agents it lets in.
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        uses: u32,
        /// How long it can be used.
        #[arg(long, default_value = "1d", value_parser = duration, value_name = "TIME")]
        expires: Duration,
        /// The realm its agents belong to.
        #[arg(long, default_value = "default", value_name = "NAME")]
        realm: String,
        /// Write the token to this new file (mode 600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agents {
    /// All of them.
    List,
    /// One of them.
    Show {
        /// Its id or unique name.
        agent: String,
    },
}

/// For whom, how long, and whether to wait.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("targets").required(true).args(["agents", "all"])))]
pub(crate) struct Delivery {
    /// An agent, by id or unique name; repeat for several.
    #[arg(long = "agent", value_name = "AGENT")]
    pub(crate) agents: Vec<String>,
    /// Every agent enrolled now.
    #[arg(long)]
    pub(crate) all: bool,
    /// How long agents that are away may come back and still obey.
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub(crate) expires: Duration,
    /// Wait for the answers, with live progress.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait at most; the command itself goes on.
    #[arg(long, requires = "wait", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// Your own id (a UUID): sending it twice is sending it once.
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Send {
    /// Ask for an answer, nothing more.
    Ping {
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Run an entry of the agents' own allow-lists.
    Action {
        /// Its name.
        name: String,
        /// Its parameters.
        #[arg(value_name = "KEY=VALUE", value_parser = parameter)]
        parameters: Vec<(String, String)>,
        #[command(flatten)]
        delivery: Delivery,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Commands {
    /// The latest, newest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// One, with each agent's answer.
    Show {
        /// Its id.
        id: String,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 90s, 15m or 2h"))?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
