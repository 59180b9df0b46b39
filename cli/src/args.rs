//! The command line.

mod agents;
mod audit;
mod commands;
pub(crate) mod manager;
pub(crate) mod objects;
mod send;

pub(crate) use agents::{Actions, Agents, Selectors, Sort};
pub(crate) use audit::{Audit, Log};
pub(crate) use commands::{CommandState, Commands, Rollouts, View};
use send::parameter;
pub(crate) use send::{Delivery, Remedy, Send, Waves};

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use writ_protocol::id::Digest;

use crate::complete;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables for people: what one looks for first, in 80 columns where it fits; times as ages.
    Table,
    /// Tables with every column, and times as they are.
    Wide,
    /// JSON for programs.
    Json,
    /// JSON of each row on a line of its own.
    Jsonl,
    /// The wide table for spreadsheets.
    Csv,
}

impl Format {
    /// Whether somebody reads it.
    pub(crate) const fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// Whether it is a list of rows, also where there is more to say.
    pub(crate) const fn is_rows(self) -> bool {
        matches!(self, Self::Jsonl | Self::Csv)
    }
}

/// Command a fleet of agents that obey only what carries the server's seal.
///
/// Exit codes: 0 done; 1 an agent refused or failed; 2 wrong usage; 3 the server cannot be reached; 4 not
/// allowed; 5 not found; 6 not all agents answered in time; 7 the request was refused; 8 something on this
/// machine, such as a result that cannot be written. A reader that goes away early changes no exit code.
#[derive(Debug, Parser)]
#[command(name = "writ", version)]
pub(crate) struct Arguments {
    /// How to print results.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Which server to speak to; the current context unless given.
    #[arg(long, global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    pub(crate) context: Option<String>,
    /// Keep trying so long to reach the server, for jobs that start beside it; the files that say how may
    /// come late, too.
    #[arg(long, global = true, value_parser = duration, value_name = "TIME")]
    pub(crate) patience: Option<Duration>,
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
    /// Selectors that were saved under a name: `@web` stands for what was saved as `web`.
    #[command(subcommand)]
    Selectors(Selectors),
    /// What agents can do: the entries of their own allow-lists.
    #[command(subcommand)]
    Actions(Actions),
    /// Send a command.
    #[command(subcommand)]
    Send(Box<Send>),
    /// Commands and what became of them.
    #[command(subcommand)]
    Commands(Commands),
    /// Commands that reach their agents in waves: `writ send … --canary`.
    #[command(subcommand)]
    Rollouts(Rollouts),
    /// Why an agent obeys or does not, and what to do.
    Why {
        /// Its id or unique name.
        #[arg(add = ArgValueCompleter::new(complete::agents))]
        agent: String,
    },
    /// What somebody needs to check a command without the server.
    #[command(subcommand)]
    Evidence(Evidence),
    /// Who asked the server for what.
    #[command(subcommand)]
    Audit(Audit),
    /// Who may call the server.
    #[command(subcommand)]
    Operator(Operator),
    /// Whom the fleet obeys, and how far agents follow.
    #[command(subcommand)]
    Trust(Trust),
    /// The line from this server up to its Control Manager.
    #[command(subcommand)]
    Manager(manager::Manager),
    /// The entities of a Control Manager: the servers that registered with it. Use the context of a manager.
    #[command(subcommand)]
    Entities(manager::Entities),
    /// Tell servers under a Control Manager what to do; use the context of a manager.
    #[command(subcommand)]
    Instruct(manager::Instruct),
    /// What keeps you from speaking to a server, by cause, and what to do. Exit code 1 when something is
    /// wrong.
    Doctor,
    /// Lists and other components on agents.
    #[command(subcommand)]
    Updates(Updates),
    /// Suspicious objects: files, addresses, networks, domains and URLs that agents look for.
    #[command(subcommand)]
    Objects(objects::Objects),
    /// What somebody should look at: what is open, unless --all.
    Alerts {
        /// Also alerts that ended or were acknowledged.
        #[arg(long)]
        all: bool,
        /// Raised no longer ago than this.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        since: Option<Duration>,
        #[command(subcommand)]
        verb: Option<Alerts>,
    },
    /// The server about itself.
    Server,
    /// What a shell reads to offer commands, flags, and the names that your server knows:
    /// `source <(writ completion bash)`.
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// Its name.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// Say that somebody has seen to it. It is open again when it is raised again.
    #[command(name = "ack")]
    Acknowledge {
        /// Its number.
        alert: u64,
        /// What was found or done.
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Updates {
    /// How many agents hold what is in force on the server, and a selector for the others.
    Coverage,
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
        /// Do not call it now; otherwise it is only remembered if it answers.
        #[arg(long)]
        untried: bool,
    },
    /// Use another one from now on.
    Use {
        /// Its name.
        #[arg(add = ArgValueCompleter::new(complete::contexts))]
        name: String,
    },
    /// Forget one. Its token's file stays where it is.
    Remove {
        /// Its name.
        #[arg(add = ArgValueCompleter::new(complete::contexts))]
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
        /// The realm its agents belong to: a named part of the fleet, which some servers command and others
        /// do not.
        #[arg(long, default_value = "default", value_name = "NAME")]
        realm: String,
        /// Write the token to this new file (mode 600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Do nothing, and succeed, when that file is there already.
        #[arg(long, requires = "token_file")]
        if_new: bool,
    },
    /// Tokens and how often they were used, latest first; never the secrets.
    List,
    /// Let nobody in with a token any more. Agents that came with it stay.
    Revoke {
        /// Its id, or the first 8 or more digits of it.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Evidence {
    /// Write a command, its answers and the chain of trust bundles to a file.
    Export {
        /// The command's id, or the last 8 or more digits of it.
        command: String,
        /// Where to; an existing file is not overwritten.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Check such a file, offline.
    Verify {
        /// The file.
        file: PathBuf,
        /// Digest of a trust bundle you know from elsewhere: `writ-server init` printed that of the first.
        #[arg(long, value_name = "DIGEST")]
        pin: Digest,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Trust {
    /// Who holds which trust bundle, and who would not obey the key that signs now. Exit code 6 while some
    /// are behind.
    ///
    /// A trust bundle is the signed list of keys and servers that agents go by.
    Converge {
        /// Wait until every agent holds the newest one, with live progress.
        #[arg(long)]
        watch: bool,
        /// How long to wait at most.
        #[arg(long, requires = "watch", value_parser = duration, value_name = "TIME")]
        timeout: Option<Duration>,
        /// Write those that are behind to this file too.
        #[arg(long, value_name = "FILE")]
        csv: Option<PathBuf>,
    },
    /// The certificates of the newest bundle, and how they stand.
    Certificates,
    /// The chain of trust bundles, newest first.
    Bundles {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operator {
    /// Let somebody call the server. The token is shown once: on standard output, or in a file only you can
    /// read.
    Create {
        /// Their name, which is never given twice.
        name: String,
        /// What they may do; each role may do all that those before it may.
        #[arg(long, value_enum)]
        role: Role,
        /// The token ends after so long; never unless given.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        expires: Option<Duration>,
        /// For the role operator: command only agents of which this holds, and change nothing else.
        #[arg(long, value_name = "SELECTOR", value_parser = not_empty)]
        selector: Option<String>,
        /// For the role operator: send only these actions, such as `restart,ping`, and change nothing else.
        #[arg(long, value_delimiter = ',', value_name = "NAME,…", value_parser = not_empty)]
        actions: Vec<String>,
        /// Write the token to this new file (mode 600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Everybody who may or might.
    List,
    /// Their token counts no more.
    Revoke {
        /// Their name.
        name: String,
    },
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Look.
    Viewer,
    /// Command agents.
    Operator,
    /// Change keys.
    KeyAdmin,
    /// Everything.
    Admin,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 90s, 15m or 2h"))?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}

/// A variable of a script that is not set must not be no limit at all.
fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("is empty, which would limit nothing") } else { Ok(text.to_owned()) }
}
