//! `writ audit`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use writ_protocol::id::Digest;

use super::duration;

/// Which of the three logs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Log {
    /// The log of calls that only read, and of calls that were denied, instead.
    #[arg(long)]
    pub(crate) looks: bool,
    /// The log of requests for changes as they came in (`asked`), and of how those ended that changed
    /// nothing, instead.
    #[arg(long, conflicts_with = "looks")]
    pub(crate) tries: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// The latest calls that changed something, newest first.
    List {
        #[command(flatten)]
        log: Log,
        /// By this operator.
        #[arg(long, value_name = "NAME", default_value = "")]
        by: String,
        /// Of this method, such as `Submit` or `AgentService/Label`.
        #[arg(long, value_name = "METHOD", default_value = "")]
        method: String,
        /// About this: a part of an agent's name, a command's id, or how agents were chosen.
        #[arg(long, value_name = "TEXT", default_value = "")]
        subject: String,
        /// Commands with this action.
        #[arg(long, value_name = "NAME", default_value = "")]
        action: String,
        /// No longer ago than this.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        since: Option<Duration>,
        /// Before this, such as `1d` ago.
        #[arg(long, value_parser = duration, value_name = "TIME")]
        until: Option<Duration>,
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Write a whole log to a new file, to keep it, and check it meanwhile as `verify` does.
    ///
    /// A line of the file is the JSON of an entry, with what was hashed and the hash: as in the files that
    /// the server moves old changes to.
    Export {
        /// The file; one that is there is not overwritten.
        file: PathBuf,
        #[command(flatten)]
        log: Log,
        /// Only what comes after a head that was printed earlier; the log must still contain it.
        #[arg(long, value_name = "SEQUENCE:HASH", value_parser = known_head)]
        known: Option<(u64, Digest)>,
    },
    /// Check a file of `export`, or one that the server moved old changes to, without a server.
    Check {
        /// The file.
        file: PathBuf,
        /// A head that was printed earlier: the file must contain it as it was.
        #[arg(long, value_name = "SEQUENCE:HASH", value_parser = known_head)]
        known: Option<(u64, Digest)>,
    },
    /// Read the whole log of changes and check that each entry hangs on the one before.
    Verify {
        #[command(flatten)]
        log: Log,
        /// A head this command printed earlier: the log must still contain it.
        #[arg(long, value_name = "SEQUENCE:HASH", value_parser = known_head)]
        known: Option<(u64, Digest)>,
    },
}

fn known_head(text: &str) -> Result<(u64, Digest), String> {
    let wrong = || "not SEQUENCE:HASH as `writ audit verify` prints it".to_owned();
    let (sequence, hash) = text.split_once(':').ok_or_else(wrong)?;
    Ok((sequence.parse().map_err(|_| wrong())?, hash.parse().map_err(|_| wrong())?))
}
