//! The command line.

pub(crate) mod manager;
pub(crate) mod objects;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::time::Timestamp;

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
/// Exit codes: 0 done; 1 an agent refused or failed; 2 wrong usage; 3 the server cannot be reached; 4 not
/// allowed; 5 not found; 6 not all agents answered in time; 7 the request was refused; 8 something on this
/// machine, such as a result that cannot be written. A reader that goes away early changes no exit code.
#[derive(Debug, Parser)]
#[command(name = "writ", version)]
pub(crate) struct Arguments {
    /// How to print results.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// Which server to speak to; the current context unless given.
    #[arg(long, global = true, value_name = "NAME")]
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
pub(crate) enum Agents {
    /// All of them, or those a selector chooses.
    List {
        /// Over labels and facts, such as `os=linux,site in (paris,rome),!legacy`.
        #[arg(long, value_name = "SELECTOR", default_value = "")]
        selector: String,
        /// Those that were removed, instead.
        #[arg(long)]
        removed: bool,
    },
    /// One of them, with labels and facts.
    Show {
        /// Its id or unique name.
        agent: String,
    },
    /// Set labels with NAME=VALUE, remove them with NAME-.
    Label {
        /// Its id or unique name.
        agent: String,
        /// What to set and to remove.
        #[arg(required = true, value_name = "NAME=VALUE|NAME-")]
        changes: Vec<String>,
    },
    /// Send it nothing any more, whether it comes back or not. This does not uninstall it.
    Remove {
        /// Its id or unique name.
        agent: String,
    },
    /// Send it commands again after its journal went back, or let it take over another agent, which is
    /// removed.
    ///
    /// What was issued before its journal went back it refuses: it may have obeyed and forgotten it.
    Approve {
        /// Its id or unique name.
        agent: String,
        /// The agent whose name and labels it takes over instead of its own; that one is removed, connected
        /// or not.
        #[arg(long, value_name = "AGENT", default_value = "")]
        replaces: String,
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
pub(crate) enum Audit {
    /// The latest calls that changed something, newest first.
    List {
        /// Calls that only read, and calls that were denied, instead.
        #[arg(long)]
        looks: bool,
        /// Requests for changes as they came in (`asked`), and how those ended that changed nothing, instead.
        #[arg(long, conflicts_with = "looks")]
        tries: bool,
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Read the whole log of changes and check that each entry hangs on the one before.
    Verify {
        /// The log of calls that looked or were denied instead.
        #[arg(long)]
        looks: bool,
        /// The log of requests for a change instead.
        #[arg(long, conflicts_with = "looks")]
        tries: bool,
        /// A head this command printed earlier: the log must still contain it.
        #[arg(long, value_name = "SEQUENCE:HASH", value_parser = known_head)]
        known: Option<(u64, Digest)>,
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

/// For whom, how long, and whether to wait.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("targets").required(true).args(["agents", "all", "selector"])))]
pub(crate) struct Delivery {
    /// An agent, by id or unique name; repeat for several.
    #[arg(long = "agent", value_name = "AGENT")]
    pub(crate) agents: Vec<String>,
    /// Every agent enrolled now.
    #[arg(long)]
    pub(crate) all: bool,
    /// The agents of which this holds now, such as `os=linux,site in (paris,rome),!legacy`.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
    /// Show the frozen targets; sign and send nothing.
    #[arg(long, conflicts_with_all = ["wait", "id"])]
    pub(crate) dry_run: bool,
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
#[derive(Debug, Clone, Args)]
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
    /// An agent that is connected and does not answer for so long has failed; 10m unless given.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) answer_within: Option<Duration>,
    /// The number that gives the order of the agents, to have the order of an earlier rollout again.
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
        name: String,
        /// Its parameters.
        #[arg(value_name = "KEY=VALUE", value_parser = parameter)]
        parameters: Vec<(String, String)>,
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
        /// Ask name servers for the domains that are suspicious objects, to know who talks to their addresses.
        /// Whoever watches name servers sees agents ask for them.
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

/// Which answers are shown, and how.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct View {
    /// Only agents that failed, refused or did not answer in time.
    #[arg(long)]
    pub(crate) failed: bool,
    /// The names of all agents of an answer, not only of the first.
    #[arg(long)]
    pub(crate) names: bool,
    /// A row for each agent.
    #[arg(long, conflicts_with = "names")]
    pub(crate) each: bool,
}

/// How a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CommandState {
    /// An answer is awaited.
    Open,
    /// All obeyed and ended well.
    Done,
    /// One of them failed or refused.
    Failed,
    /// It expired before all had answered.
    Expired,
    /// It was cancelled.
    Cancelled,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Commands {
    /// The latest, newest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Sent by this operator.
        #[arg(long, value_name = "NAME", default_value = "")]
        by: String,
        /// With this action, such as `ping` or one of the agents' own.
        #[arg(long, value_name = "NAME", default_value = "")]
        action: String,
        /// In this state.
        #[arg(long, value_enum)]
        state: Option<CommandState>,
        /// Sent no longer ago than this.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        since: Option<Duration>,
        /// To this agent, by id or unique name.
        #[arg(long, value_name = "AGENT", default_value = "")]
        agent: String,
    },
    /// Follow one until all have answered. Ctrl-C ends the watching, not the command. Exit codes as of
    /// `send --wait`.
    Watch {
        /// Its id, or the last 8 or more digits of it.
        id: String,
    },
    /// Send nothing of it any more, and have agents end it that have it: what runs is told to end and killed
    /// 5 seconds later, what waits does not start.
    Stop {
        /// Its id, or the last 8 or more digits of it.
        id: String,
    },
    /// One, with what agents answered: the same answers together, failures first.
    Show {
        /// Its id, or the last 8 or more digits of it.
        id: String,
        #[command(flatten)]
        view: View,
    },
    /// What one agent's action printed, as much as the agent kept of it.
    Output {
        /// The command's id, or the last 8 or more digits of it.
        id: String,
        /// The agent, by id or name.
        agent: String,
    },
    /// Send nothing of it any more. Agents that have it already may carry it out.
    Cancel {
        /// Its id, or the last 8 or more digits of it.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollouts {
    /// The latest, newest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// One: how far it is, and what it waits for.
    Show {
        /// The id of its command, or the last 8 or more digits of it.
        id: String,
    },
    /// Follow one until it is over or stops. Exit code 1 when it stopped or agents failed; 6 when not all
    /// have answered.
    Watch {
        /// The id of its command, or the last 8 or more digits of it.
        id: String,
    },
    /// Let no further agent obey for now. Those that may obey already go on.
    Pause {
        /// The id of its command, or the last 8 or more digits of it.
        id: String,
    },
    /// Go on: after a pause, or after it stopped, bearing the failures there are.
    Resume {
        /// The id of its command, or the last 8 or more digits of it.
        id: String,
        /// Go on without the agents that are away and that it waits for.
        #[arg(long)]
        without_away: bool,
    },
    /// Let no further agent ever obey, and send nothing of the command any more. Agents that have it already
    /// may carry it out.
    Abort {
        /// The id of its command, or the last 8 or more digits of it.
        id: String,
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

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 90s, 15m or 2h"))?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}

/// A variable of a script that is not set must not be no limit at all.
fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("is empty, which would limit nothing") } else { Ok(text.to_owned()) }
}

fn rate(text: &str) -> Result<u32, &'static str> {
    let number = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    number.filter(|number| *number > 0).ok_or("write it as 50/s")
}

fn known_head(text: &str) -> Result<(u64, Digest), String> {
    let wrong = || "not SEQUENCE:HASH as `writ audit verify` prints it".to_owned();
    let (sequence, hash) = text.split_once(':').ok_or_else(wrong)?;
    Ok((sequence.parse().map_err(|_| wrong())?, hash.parse().map_err(|_| wrong())?))
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
