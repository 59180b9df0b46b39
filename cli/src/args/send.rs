//! `writ send`: what is asked, of whom, and how it reaches them.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::time::Timestamp;

use super::duration;
use crate::complete;

/// For whom, how long, and whether to wait.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("targets").required(true).args(["agents", "all", "selector"])))]
pub(crate) struct Delivery {
    /// An agent, by id or unique name; repeat for several.
    #[arg(long = "agent", value_name = "AGENT", add = ArgValueCompleter::new(complete::agents))]
    pub(crate) agents: Vec<String>,
    /// Every agent enrolled now.
    #[arg(long)]
    pub(crate) all: bool,
    /// The agents of which this holds now, such as `os=linux,site in (paris,rome),!legacy`, `name=web*`,
    /// `away > 1d`, or a saved one, `@web`.
    #[arg(long, value_name = "SELECTOR", add = ArgValueCompleter::new(complete::selectors))]
    pub(crate) selector: Option<String>,
    /// Only so many of them, picked at random; `--seed` picks the same another time.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Show the frozen targets; sign and send nothing.
    #[arg(long, conflicts_with_all = ["wait", "id"])]
    pub(crate) dry_run: bool,
    /// Send it also when agents would refuse it by what they last said of their actions.
    #[arg(long)]
    pub(crate) unchecked: bool,
    /// Do not ask. On a terminal, `--all` and what changes hosts is asked for: by typing how many agents it
    /// is for.
    #[arg(long)]
    pub(crate) yes: bool,
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
    pub(crate) id: Option<CommandId>,
    #[command(flatten)]
    pub(crate) waves: Waves,
}

/// A rollout: with any of these the command reaches its agents in waves, and stops by itself when too many
/// fail.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "Waves")]
pub(crate) struct Waves {
    /// Begin with so many agents, `5` or `10%`. Each of them must answer before the next wave.
    #[arg(long, value_name = "NUMBER|PERCENT")]
    pub(crate) canary: Option<String>,
    /// So many agents in each further wave, `25` or `10%`; all that are left unless given.
    #[arg(long, value_name = "NUMBER|PERCENT")]
    pub(crate) batch: Option<String>,
    /// Wait so long between waves.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) pause: Option<Duration>,
    /// Bear so many failures, `3` or `2%`; one more stops the rollout. None are borne unless given.
    #[arg(long, value_name = "NUMBER|PERCENT")]
    pub(crate) max_failures: Option<String>,
    /// Let so many agents obey in a second at most, such as `50/s`.
    #[arg(long, value_parser = rate, value_name = "NUMBER/s")]
    pub(crate) rate: Option<u32>,
    /// Let agents obey only in this part of the day, in UTC, such as `22:00-04:00`.
    #[arg(long, value_name = "HH:MM-HH:MM")]
    pub(crate) window: Option<String>,
    /// Let nobody obey before this, such as `2026-12-24T22:00:00Z`.
    #[arg(long, value_name = "TIME")]
    pub(crate) start_at: Option<Timestamp>,
    /// An agent that was sent the command and does not answer for so long has failed; 10m unless given.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) answer_within: Option<Duration>,
    /// The number that gives the order of the agents, to have the order of an earlier rollout again, or to
    /// pick the same with `--limit`.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..1 << 53))]
    pub(crate) seed: Option<u64>,
}

/// What is done with a listed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Remedy {
    /// It is reported.
    Log,
    /// And cannot be executed, and where the file system can, not changed.
    Block,
    /// And is moved away, sealed; it can be restored.
    Quarantine,
}

impl Remedy {
    /// As requests have it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Block => "block",
            Self::Quarantine => "quarantine",
        }
    }
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
        #[arg(add = ArgValueCompleter::new(complete::actions))]
        name: String,
        /// Its parameters.
        #[arg(value_name = "KEY=VALUE", value_parser = parameter)]
        #[arg(add = ArgValueCompleter::new(complete::parameters))]
        parameters: Vec<(String, String)>,
        /// A parameter whose value is the only line of a file, so that no list of processes shows it; repeat
        /// for several.
        #[arg(long = "secret", value_name = "KEY=FILE", value_parser = key_file)]
        #[arg(add = ArgValueCompleter::new(complete::parameters))]
        secrets: Vec<(String, String)>,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Ask what the host is made of: system, hardware, addresses, packages, listening ports.
    Inventory {
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Have agents fetch a component from the server: the version that is in force there. Servers do so by
    /// themselves when they have a new one.
    Component {
        /// Which: file-reputation-filter or web-reputation-filter.
        component: String,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Have hosts replace their agent by another version, whose packages are in force on the server. A host
    /// takes the version of before back when the new one does not greet the server in time. Hosts whose root
    /// does not allow it refuse.
    Upgrade {
        /// Which version, such as 0.2.0.
        #[arg(long = "version", value_name = "VERSION")]
        wanted: String,
        /// How long the new program has to greet the server, from 10s to 30m.
        #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
        greet_within: Duration,
        /// Also in the place of a later version, or of the same.
        #[arg(long)]
        allow_older: bool,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Have agents look for files that their list names, and for suspicious objects. Files are only reported,
    /// unless --remedy says more; who talks to suspicious addresses always is.
    Scan {
        /// Files, or folders with all that is below; absolute.
        #[arg(required = true, value_name = "PATH", value_parser = place)]
        roots: Vec<String>,
        /// Do not look at this, nor at what is below it; repeat for several.
        #[arg(long = "exclude", value_name = "PATH", value_parser = place)]
        exclude: Vec<String>,
        /// What to do with a listed file, at most.
        #[arg(long, value_enum, default_value_t = Remedy::Log)]
        remedy: Remedy,
        /// Block also files that may be listed, and of which the server does not say. About one file in 256
        /// may be.
        #[arg(long, requires = "remedy")]
        strict: bool,
        /// Also files that the host's package manager vouches for; they are only reported otherwise.
        #[arg(long, requires = "remedy")]
        packaged: bool,
        /// After so many blocked and quarantined files on a host, only report; 16 unless given.
        #[arg(long, value_name = "NUMBER", requires = "remedy")]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        max_remedied: Option<u32>,
        /// Do not read longer files; 1 GiB unless given.
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
        max_file_bytes: Option<u64>,
        /// End after so long, whatever is left.
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        max_time: Duration,
        /// Read so much in a second at most.
        #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
        bytes_per_second: Option<u64>,
        /// Ask name servers for the domains that are suspicious objects, to know who talks to their
        /// addresses. Whoever watches name servers sees agents ask for them.
        #[arg(long)]
        resolve: bool,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// End the scans that were sent before.
    StopScan {
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Put files back from quarantine, to where they were.
    RestoreQuarantined {
        /// The SHA-256 of their content.
        sha256: Digest,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Remove files from quarantine, for ever.
    DeleteQuarantined {
        /// The SHA-256 of their content.
        sha256: Digest,
        #[command(flatten)]
        delivery: Delivery,
    },
    /// Replace an agent's settings; it tries them, and keeps them only if they work. What is left out is as
    /// installed.
    Settings {
        /// How often it says something, from 1s to 1h.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        heartbeat: Option<Duration>,
        /// Where to look for the server before the endpoints that the signed trust bundle names; repeat for
        /// several.
        #[arg(long = "endpoint", value_name = "HOST:PORT")]
        endpoints: Vec<String>,
        /// What it logs, such as `info,writ_agent=debug`.
        #[arg(long, value_name = "FILTER", default_value = "")]
        log_filter: String,
        /// Nothing but what was installed.
        #[arg(long, conflicts_with_all = ["heartbeat", "endpoints", "log_filter"])]
        as_installed: bool,
        #[command(flatten)]
        delivery: Delivery,
    },
}

/// A path on agents. Shells end folders with a slash, and agents do not.
fn place(text: &str) -> Result<String, &'static str> {
    match text.trim_end_matches('/') {
        "" if text.starts_with('/') => Ok("/".to_owned()),
        path if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err("it is not absolute"),
    }
}

fn rate(text: &str) -> Result<u32, &'static str> {
    let number = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    number.filter(|number| *number > 0).ok_or("write it as 50/s")
}

fn key_file(text: &str) -> Result<(String, String), String> {
    let (name, file) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=FILE"))?;
    Ok((name.to_owned(), file.to_owned()))
}

pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
