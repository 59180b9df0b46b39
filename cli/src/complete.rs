//! What a shell offers when somebody presses the tab key: names that only the server knows.
//!
//! A shell asks at every key, and a person waits: whatever cannot be known in a second is not offered, and
//! nothing is said about why.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use writ_proto::admin::v1::{
    GetActionRequest, ListActionsRequest, ListAgentsRequest, ListCommandsRequest, ListRolloutsRequest,
    ListSelectorsRequest,
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

/// The parameters of the action that was typed before, as far as their values.
pub(crate) fn parameters(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy().into_owned();
    let Some(name) = typed_after("action") else { return Vec::new() };
    ask(async |client| {
        let request = GetActionRequest { name, selector: String::new() };
        let versions = client.actions().get(request).await.ok()?.into_inner().versions;
        let parameters = versions.into_iter().flat_map(|version| version.parameters);
        let named: BTreeSet<_> =
            parameters.map(|one| one.name).filter(|name| name.starts_with(&begin)).collect();
        Some(named.into_iter().map(|name| (format!("{name}="), String::new())).collect())
    })
}

/// The latest rollouts, by the ends of their commands' ids.
pub(crate) fn rollouts(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy().into_owned();
    ask(async |client| {
        let request = ListRolloutsRequest { page_size: MOST, page_token: String::new() };
        let listed = client.rollouts().list(request).await.ok()?.into_inner().rollouts;
        let named = listed.into_iter().map(|rollout| (output::short(&rollout.command_id), rollout.action));
        Some(named.filter(|(id, _)| id.starts_with(&begin)).collect())
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
        let listed = client
            .selectors()
            .list(ListSelectorsRequest { without_counts: true })
            .await
            .ok()?
            .into_inner()
            .selectors;
        let named = listed.into_iter().map(|saved| (format!("@{}", saved.name), saved.selector));
        Some(named.filter(|(name, _)| name.starts_with(&begin)).collect())
    })
}

/// Servers this machine knows.
pub(crate) fn contexts(begin: &OsStr) -> Vec<CompletionCandidate> {
    let begin = begin.to_string_lossy();
    let known = Contexts::load().map(|contexts| contexts.contexts).unwrap_or_default();
    let fitting = known.into_iter().filter(|(name, _)| name.starts_with(&*begin));
    fitting.filter_map(|(name, context)| candidate(name, &context.server)).collect()
}

/// `None` for what a shell could take for more than a word: whoever enrols a host gives it its name.
fn candidate(value: String, help: &str) -> Option<CompletionCandidate> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@' | '=');
    if !value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '@') || !value.chars().all(is_plain) {
        return None;
    }
    let candidate = CompletionCandidate::new(value);
    Some(if help.is_empty() { candidate } else { candidate.help(Some(output::plain(help).into())) })
}

/// The word that was typed after another one.
fn typed_after(word: &str) -> Option<String> {
    std::env::args().skip_while(|typed| typed != word).nth(1)
}

fn ask(question: impl AsyncFnOnce(Client) -> Option<Vec<(String, String)>>) -> Vec<CompletionCandidate> {
    let asked = async {
        let named = typed_after("--context");
        let context = match Context::of_environment().ok()? {
            Some(context) if named.is_none() => context,
            _ => Contexts::load().ok()?.choose(named.as_deref()).ok()?.1.clone(),
        };
        question(Client::connect(&context).await.ok()?).await
    };
    crate::use_ring();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let answered = runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await });
    let named = answered.ok().flatten().unwrap_or_default();
    named.into_iter().filter_map(|(value, help)| candidate(value, &help)).collect()
}
