//! `writ agents`, `writ actions` and `writ selectors`: who there is, and what they can do.

use std::path::PathBuf;

use clap::{ArgGroup, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::not_empty;
use crate::complete;

/// What a list of agents is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// By id, which is the order in which they were enrolled.
    Id,
    /// By name.
    Name,
    /// Who was not heard for the longest time first.
    Contact,
    /// By the agent's version.
    Version,
    /// Most waiting commands first.
    Waiting,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Selectors {
    /// Save one, in the place of another of its name.
    Save {
        /// Its name: letters, digits, `-`, `_`, `.` and `/`.
        name: String,
        /// The selector, such as `os=linux,site in (paris,rome)`.
        #[arg(value_parser = not_empty)]
        selector: String,
    },
    /// All of them, and how many agents each chooses now.
    List,
    /// Forget one. Commands that were sent by it are not touched.
    Delete {
        /// Its name.
        #[arg(add = ArgValueCompleter::new(complete::selectors))]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agents {
    /// All of them, or those a selector chooses.
    List {
        /// Over labels and facts, such as `os=linux,site in (paris,rome),!legacy`, `name=web*`, `away > 1d`,
        /// `held`, or a saved one, `@web`.
        #[arg(long, value_name = "SELECTOR", default_value = "")]
        #[arg(add = ArgValueCompleter::new(complete::selectors))]
        selector: String,
        /// Those that were removed, instead.
        #[arg(long)]
        removed: bool,
        /// By what they are sorted.
        #[arg(long, value_enum, default_value_t = Sort::Id)]
        sort: Sort,
        /// The other way round.
        #[arg(long)]
        reverse: bool,
    },
    /// One of them, with labels and facts.
    Show {
        /// Its id or unique name.
        #[arg(add = ArgValueCompleter::new(complete::agents))]
        agent: String,
    },
    /// Set labels with NAME=VALUE, remove them with NAME-: of one agent, of all that a selector chooses, or
    /// as a file says.
    ///
    /// The file's first line has the column `agent`, with ids or unique names, and a column for each label.
    /// An empty cell leaves a label as it is; `-` removes it.
    #[command(group(ArgGroup::new("whose").required(true).multiple(true).args(["what", "selector", "csv"])))]
    Label {
        /// The agent, by id or unique name, unless there is a selector; then what to set and to remove.
        #[arg(value_name = "AGENT|NAME=VALUE|NAME-", conflicts_with = "csv")]
        #[arg(add = ArgValueCompleter::new(complete::agents))]
        what: Vec<String>,
        /// The agents of which this holds now.
        #[arg(long, value_name = "SELECTOR", value_parser = not_empty)]
        selector: Option<String>,
        /// A file with a line for each agent, all of them or none.
        #[arg(long, value_name = "FILE", conflicts_with = "selector")]
        csv: Option<PathBuf>,
        /// Do not ask. On a terminal, a selector is asked for: by typing how many agents it chooses.
        #[arg(long)]
        yes: bool,
    },
    /// Send it nothing any more, whether it comes back or not. This does not uninstall it. On a terminal it
    /// asks for the agent's name before.
    Remove {
        /// Its id or unique name.
        #[arg(add = ArgValueCompleter::new(complete::agents))]
        agent: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Send it commands again after its journal went back, or let it take over another agent, which is
    /// removed.
    ///
    /// What was issued before its journal went back it refuses: it may have obeyed and forgotten it.
    Approve {
        /// Its id or unique name.
        #[arg(add = ArgValueCompleter::new(complete::agents))]
        agent: String,
        /// The agent whose name and labels it takes over instead of its own; that one is removed, connected
        /// or not.
        #[arg(long, value_name = "AGENT", default_value = "")]
        replaces: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Actions {
    /// All of them, with how many agents have each.
    List {
        /// Of the agents of which this holds.
        #[arg(long, value_name = "SELECTOR", default_value = "")]
        #[arg(add = ArgValueCompleter::new(complete::selectors))]
        selector: String,
    },
    /// One: what it takes, and which agents have which version of it.
    Show {
        /// Its name.
        #[arg(add = ArgValueCompleter::new(complete::actions))]
        name: String,
        /// Of the agents of which this holds.
        #[arg(long, value_name = "SELECTOR", default_value = "")]
        #[arg(add = ArgValueCompleter::new(complete::selectors))]
        selector: String,
    },
}
