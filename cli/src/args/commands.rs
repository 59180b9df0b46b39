//! `writ commands` and `writ rollouts`: what became of what was sent.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::duration;
use crate::complete;

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
        #[arg(long, value_name = "NAME", default_value = "", add = ArgValueCompleter::new(complete::actions))]
        action: String,
        /// In this state; `open`: an answer is awaited, of agents where it is waiting, delivered or running.
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
        #[arg(add = ArgValueCompleter::new(complete::commands))]
        id: String,
    },
    /// Send nothing of it any more, and have agents end it that have it: what runs is told to end and killed
    /// 5 seconds later, what waits does not start.
    Stop {
        /// Its id, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::commands))]
        id: String,
    },
    /// One, with what agents answered: the same answers together, failures first.
    Show {
        /// Its id, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::commands))]
        id: String,
        #[command(flatten)]
        view: View,
    },
    /// What one agent's action printed, as much as the agent kept of it.
    Output {
        /// The command's id, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::commands))]
        id: String,
        /// The agent, by id or name.
        #[arg(add = ArgValueCompleter::new(complete::agents))]
        agent: String,
    },
    /// Send nothing of it any more. Agents that have it already may carry it out.
    Cancel {
        /// Its id, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::commands))]
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
        #[arg(add = ArgValueCompleter::new(complete::rollouts))]
        id: String,
    },
    /// Follow one until it is over or stops. Exit code 1 when it stopped or agents failed; 6 when not all
    /// have answered.
    Watch {
        /// The id of its command, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::rollouts))]
        id: String,
    },
    /// Let no further agent obey for now. Those that may obey already go on.
    Pause {
        /// The id of its command, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::rollouts))]
        id: String,
    },
    /// Go on: after a pause, or after it stopped, bearing the failures there are.
    Resume {
        /// The id of its command, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::rollouts))]
        id: String,
        /// Go on without the agents that are away and that it waits for.
        #[arg(long)]
        without_away: bool,
    },
    /// Let no further agent ever obey, and send nothing of the command any more. Agents that have it already
    /// may carry it out.
    Abort {
        /// The id of its command, or the last 8 or more digits of it.
        #[arg(add = ArgValueCompleter::new(complete::rollouts))]
        id: String,
    },
}
