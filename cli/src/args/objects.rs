//! `writ objects`.

use std::path::PathBuf;

use clap::Subcommand;
use writ_protocol::time::Timestamp;

use super::Remedy;

#[derive(Debug, Subcommand)]
pub(crate) enum Objects {
    /// All of them, and how each stands.
    List,
    /// Values that are never objects that act.
    Exceptions,
    /// Add objects. Those that are there get this remedy, end and note.
    Add {
        /// What they are: sha256, sha1, domain, url, ip or cidr.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Their values.
        #[arg(required = true, value_name = "VALUE")]
        values: Vec<String>,
        /// What a scan does with them, at most. Only files can be quarantined.
        #[arg(long, value_enum, default_value_t = Remedy::Log)]
        remedy: Remedy,
        /// From when on they do not act any more, such as 2027-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        expires: Option<Timestamp>,
        /// For people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Remove an object of an operator or of a file of STIX. What a Control Manager said is removed there, and
    /// what a sandbox said at the sandbox; both can be excepted.
    Remove {
        /// What it is.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Its value.
        value: String,
    },
    /// Set from when on an object does not act any more.
    Expire {
        /// What it is.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Its value.
        value: String,
        /// When; without it never.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
    },
    /// Say that a value is never an object that acts, whoever says so.
    Except {
        /// What it is.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Its value.
        value: String,
        /// For people.
        #[arg(long, value_name = "TEXT", default_value = "", conflicts_with = "undo")]
        note: String,
        /// Take that back.
        #[arg(long)]
        undo: bool,
    },
    /// Add what a file of STIX 2.1 names, and remove what it revokes. Says of each thing in it what is
    /// taken, and why others are not.
    Import {
        /// The file; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What a scan does with files that it names, at most; other things are blocked at most.
        #[arg(long, value_enum, default_value_t = Remedy::Log)]
        remedy: Remedy,
        /// Take only indicators that are at least so sure, from 0 to 100.
        #[arg(long, default_value_t = 0, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(0..=100))]
        confidence: u8,
        /// Only say what would be taken.
        #[arg(long)]
        dry_run: bool,
    },
    /// This server's subscription to the objects of its Control Manager.
    #[command(subcommand)]
    Subscription(Subscription),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Subscription {
    /// How it stands.
    Show,
    /// Subscribe. Where a sandbox is connected to the manager, that happens by itself.
    Start,
    /// End it until it is started again.
    Stop {
        /// Delete the objects that came from the manager, too; otherwise they stay.
        #[arg(long)]
        delete: bool,
    },
    /// Ask the manager now.
    Sync,
    /// Set how often the manager is asked.
    Interval {
        /// From 1 to 60.
        #[arg(value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=60))]
        minutes: u32,
    },
    /// Have another key fetch the objects; the one before counts no more.
    Rotate,
}
