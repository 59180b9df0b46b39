//! What a shell offers when somebody presses the tab key: names that only the server knows.
//!
//! A shell asks at every key, and a person waits: whatever cannot be known in a second is not offered, and
//! nothing is said about why.

use std::ffi::OsStr;
use std::io::Write as _;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use writ_proto::admin::v1::{
    ListActionsRequest, ListAgentsRequest, ListCommandsRequest, ListSelectorsRequest,
};

use crate::args;
use crate::client::Client;
use crate::context::{Context, Contexts};
use crate::failure::Failure;
use crate::output;

/// How long a person may wait for what is offered.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names offered at a time.
const MOST: u32 = 200;
/// The variable by which a shell asks.
const VARIABLE: &str = "WRIT_COMPLETE";

/// Answers a shell and ends, if a shell asks.
pub(crate) fn answer_shells() {
    CompleteEnv::with_factory(crate::command_line).var(VARIABLE).complete();
}

/// What a shell reads to ask.
///
/// # Errors
/// When it cannot be printed.
pub(crate) fn registration(shell: args::Shell) -> Result<String, Failure> {
    let local = |error: &dyn std::fmt::Display| Failure::local(error.to_string());
    let shells = Shells::builtins();
    let known = shells.completer(shell.word()).ok_or_else(|| Failure::usage("no such shell"))?;
    let mut script = Vec::new();
    known.write_registration(VARIABLE, "writ", "writ", "writ", &mut script).map_err(|error| local(&error))?;
    script.flush().map_err(|error| local(&error))?;
    String::from_utf8(script).map_err(|error| local(&error))
}

/// Agents whose names begin so.
pub(crate) fn agents(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy().into_owned();
    ask(async |client| {
        let selector = if begin.is_empty() { String::new() } else { format!("name={begin}*") };
        let request = ListAgentsRequest { page_size: MOST, selector, ..Default::default() };
        let listed = client.agents().list(request).await.ok()?.into_inner().agents;
        Some(listed.into_iter().map(|agent| (agent.name, String::new())).collect())
    })
}

/// Actions whose names begin so.
pub(crate) fn actions(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy().into_owned();
    ask(async |client| {
        let request = ListActionsRequest { page_size: MOST, ..Default::default() };
        let listed = client.actions().list(request).await.ok()?.into_inner().actions;
        let fitting = listed.into_iter().filter(|action| action.name.starts_with(&begin));
        Some(fitting.map(|action| (action.name, action.class)).collect())
    })
}

/// The latest commands by the ends of their ids.
pub(crate) fn commands(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy().into_owned();
    ask(async |client| {
        let request = ListCommandsRequest { page_size: MOST, ..Default::default() };
        let listed = client.commands().list(request).await.ok()?.into_inner().commands;
        let named = listed.into_iter().map(|command| (output::short(&command.command_id), command.action));
        Some(named.filter(|(id, _)| id.starts_with(&begin)).collect())
    })
}

/// Saved selectors.
pub(crate) fn selectors(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy().into_owned();
    ask(async |client| {
        let listed = client.selectors().list(ListSelectorsRequest {}).await.ok()?.into_inner().selectors;
        let named = listed.into_iter().map(|saved| (format!("@{}", saved.name), saved.selector));
        Some(named.filter(|(name, _)| name.starts_with(&begin)).collect())
    })
}

/// Servers this machine knows.
pub(crate) fn contexts(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy();
    let known = Contexts::load().map(|contexts| contexts.contexts).unwrap_or_default();
    let fitting = known.into_iter().filter(|(name, _)| name.starts_with(&*begin));
    fitting.map(|(name, context)| candidate(name, &context.server)).collect()
}

fn candidate(value: String, help: &str) -> CompletionCandidate {
    let candidate = CompletionCandidate::new(output::plain(&value));
    if help.is_empty() { candidate } else { candidate.help(Some(output::plain(help).into())) }
}

fn ask(question: impl AsyncFnOnce(Client) -> Option<Vec<(String, String)>>) -> Vec<CompletionCandidate> {
    let asked = async {
        let context = match Context::of_environment().ok()? {
            Some(context) => context,
            None => Contexts::load().ok()?.choose(None).ok()?.1.clone(),
        };
        question(Client::connect(&context).await.ok()?).await
    };
    crate::use_ring();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await });
    let named = answered.ok().flatten().unwrap_or_default();
    named.into_iter().map(|(value, help)| candidate(value, &help)).collect()
}
