//! Whom an operator means: by name, by a selector, all, or some of these. What operators and agents say of
//! themselves the database decides; who is connected only this process knows.

use std::sync::Arc;

use writ_common::status::Failure;
use writ_protocol::id::AgentId;
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use crate::context::Server;
use crate::selector::{InvalidSelector, Selector, Standing};
use crate::store::{AgentRow, unavailable};

/// Whom a request is for.
#[derive(Debug, Clone)]
pub(crate) enum Selection {
    /// Every agent enrolled now.
    All,
    /// These, by id or unique name.
    Named(Vec<String>),
    /// Those of which this holds now.
    Matching(Selector),
    /// These, which the server itself chose.
    Ids(Vec<AgentId>),
    /// So many of another selection, picked by a seed.
    Some(Box<Selection>, u32, Seed),
}

impl Selection {
    /// In words, for the record.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Named(names) => names.join(", "),
            Self::Matching(selector) => selector.to_string(),
            Self::Ids(_) => "(by the server)".to_owned(),
            Self::Some(of, count, seed) => format!("{count} of {} by seed {}", of.describe(), seed.get()),
        }
    }

    /// Its kind and what it names, which are what a request is known again by.
    pub(crate) fn parts(&self) -> (&'static str, Vec<String>) {
        match self {
            Self::All => ("all", Vec::new()),
            Self::Named(names) => ("agents", names.clone()),
            Self::Matching(selector) => ("selector", vec![selector.to_string()]),
            Self::Ids(ids) => ("ids", ids.iter().map(AgentId::to_string).collect()),
            Self::Some(of, count, seed) => {
                let (kind, names) = of.parts();
                let before = [count.to_string(), seed.get().to_string(), kind.to_owned()];
                ("some", before.into_iter().chain(names).collect())
            }
        }
    }
}

/// Reads a selector, with what was saved in the place of names.
///
/// # Errors
/// What is wrong with it.
pub(crate) async fn read(server: &Server, text: &str) -> Result<Selector, Failure> {
    expand(server, parse(text)?).await
}

/// A selector in which no name of a saved one is left.
///
/// # Errors
/// When a saved one is not there, or cannot stand in it.
pub(crate) async fn expand(server: &Server, mut selector: Selector) -> Result<Selector, Failure> {
    for name in selector.take_saved() {
        let saved = server.store.saved_selector(&name).await.map_err(unavailable)?;
        let saved = saved.ok_or_else(|| not_saved(&name))?;
        let other = parse(&saved.selector)?;
        let expanded = selector.with_saved(other);
        selector = expanded.map_err(|why| Failure::invalid("selector", format!("`@{name}`: {why}")))?;
    }
    Ok(selector)
}

/// A selection in whose selectors no name of a saved one is left.
///
/// # Errors
/// As [`expand`].
pub(crate) async fn expand_all(server: &Server, selection: Selection) -> Result<Selection, Failure> {
    Ok(match selection {
        Selection::Matching(selector) => Selection::Matching(expand(server, selector).await?),
        Selection::Some(of, count, seed) => {
            Selection::Some(Box::new(Box::pin(expand_all(server, *of)).await?), count, seed)
        }
        selection @ (Selection::All | Selection::Named(_) | Selection::Ids(_)) => selection,
    })
}

/// No selector has this name.
pub(crate) fn not_saved(name: &str) -> Failure {
    Failure::not_found(format!("no selector was saved as `@{name}`; see: writ selectors list"))
}

/// The ids of the present agents a selector chooses, ascending. It has no name of a saved one.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn agents(server: &Server, selector: &Selector) -> Result<Vec<AgentId>, Failure> {
    if selector.standings().is_empty() {
        return server.store.agent_ids(Some(selector)).await.map_err(unavailable);
    }
    let (now, mut chosen) = (server.clock.wall(), Vec::new());
    for (agent, last_contact) in server.store.last_contacts(selector).await.map_err(unavailable)? {
        if selector.standings().iter().all(|standing| stands(server, (agent, last_contact), now, *standing)) {
            chosen.push(agent);
        }
    }
    Ok(chosen)
}

fn stands(
    server: &Server,
    (agent, last_contact): (AgentId, Timestamp),
    now: Timestamp,
    so: Standing,
) -> bool {
    let is_connected = server.dispatcher.registry().is_connected(agent);
    match so {
        Standing::Connected(wanted) => is_connected == wanted,
        Standing::AwayFor(time) => !is_connected && now.since(last_contact) > time,
        // The database has decided that.
        Standing::Held(_) => true,
    }
}

/// The agents of a selection as it stands now, strictly ascending.
///
/// # Errors
/// When nobody is chosen, or a name is unknown, ambiguous or a removed agent's.
pub(crate) async fn resolve(server: &Arc<Server>, selection: Selection) -> Result<Vec<AgentId>, Failure> {
    let mut ids = match selection {
        Selection::All => server.store.agent_ids(None).await.map_err(unavailable)?,
        Selection::Some(of, count, seed) => some(Box::pin(resolve(server, *of)).await?, count, seed),
        Selection::Matching(selector) => {
            let selector = expand(server, selector).await?;
            let ids = agents(server, &selector).await?;
            if ids.is_empty() {
                let unknown = unknown_name(server, &selector).await?;
                let why = unknown.map_or_else(String::new, |name| {
                    format!(": none has a label or fact `{name}`; what there is: writ agents show AGENT")
                });
                let text = format!(
                    "no agent matches `{selector}`{why}; see: writ agents list --selector '{selector}'"
                );
                return Err(Failure::precondition("no_agents", text));
            }
            // A caller who names a host means one, and any holder of a token may enrol under that name.
            if let Some(name) = server.store.shared_name(&selector).await.map_err(unavailable)? {
                let text = format!(
                    "several agents of `{selector}` are called `{name}`; add a label that only one has, or use ids. {SAME_NAME}"
                );
                return Err(Failure::precondition("ambiguous_name", text));
            }
            ids
        }
        Selection::Ids(ids) => ids,
        Selection::Named(names) => {
            let mut ids = Vec::with_capacity(names.len());
            for name in names {
                let (agent, is_removed) = find_target(server, &name).await?;
                if is_removed {
                    let text = format!("`{name}` was removed; nothing is sent to it any more");
                    return Err(Failure::precondition("agent_removed", text));
                }
                ids.push(agent);
            }
            ids
        }
    };
    if ids.is_empty() {
        return Err(Failure::precondition(
            "no_agents",
            "no agent is enrolled; create a token: writ enroll token create",
        ));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// A label or fact that a selector wants and no agent has: a slip of the pen, most times.
async fn unknown_name(server: &Server, selector: &Selector) -> Result<Option<String>, Failure> {
    for wanted in selector.requirements().iter().filter(|wanted| !wanted.is_negated) {
        if !server.store.is_attribute(&wanted.name).await.map_err(unavailable)? {
            return Ok(Some(wanted.name.clone()));
        }
    }
    Ok(None)
}

/// The same as [`find_agent`] without everything else that is known of it: thousands are named in a second.
pub(crate) async fn find_target(server: &Arc<Server>, text: &str) -> Result<(AgentId, bool), Failure> {
    if let Ok(id) = text.parse::<AgentId>() {
        // Removing an agent ends its session: one that has a session is enrolled. While that begins, it may
        // be removed at this moment; then nothing is delivered.
        if server.dispatcher.registry().is_connected(id) {
            return Ok((id, false));
        }
        if let Some(known) = server.store.known_agent(id).await.map_err(unavailable)? {
            return Ok((id, known.is_removed));
        }
    }
    let found = find_agent(server, text).await?;
    Ok((found.id, found.removed_at != Timestamp::ZERO))
}

/// What to do about two hosts of one name.
const SAME_NAME: &str = "If that host was installed anew: writ agents approve NEW --replaces OLD; if not, somebody enrolled under its name: writ enroll token list";

/// An agent by id or unique name; by name one that was removed only where no other has it.
///
/// # Errors
/// When there is none, or several have that name.
pub(crate) async fn find_agent(server: &Arc<Server>, text: &str) -> Result<AgentRow, Failure> {
    let now = server.clock.wall();
    let unknown =
        || Failure::not_found(format!("no agent has the id or name `{text}`; see: writ agents list"));
    if let Ok(id) = text.parse::<AgentId>() {
        return server.store.agent(id, now).await.map_err(unavailable)?.ok_or_else(unknown);
    }
    let mut named = server.store.agents_named(text, now).await.map_err(unavailable)?;
    match (named.pop(), named.is_empty()) {
        (None, _) => Err(unknown()),
        (Some(only), true) => Ok(only),
        (Some(one), false) => {
            let seen = |agent: &AgentRow| {
                let is_here = server.dispatcher.registry().is_connected(agent.id);
                match agent.removed_at {
                    Timestamp::ZERO if is_here => format!("{} (connected)", agent.id),
                    Timestamp::ZERO => format!("{} (away)", agent.id),
                    at => format!("{} (removed at {at})", agent.id),
                }
            };
            let ids: Vec<_> = named.iter().chain([&one]).map(seen).collect();
            let next = if one.removed_at == Timestamp::ZERO { SAME_NAME } else { "All were removed" };
            let text = format!(
                "several agents are called `{text}`, such as {}; use an id. {next}",
                ids.join(" and ")
            );
            Err(Failure::invalid("agent", text))
        }
    }
}

/// Reads a selector as it is written.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn parse(text: &str) -> Result<Selector, Failure> {
    text.parse().map_err(|error: InvalidSelector| Failure::invalid("selector", error.to_string()))
}

/// Puts agents into the order that a seed gives them.
pub(crate) fn order(agents: &mut [AgentId], seed: Seed) {
    // A rank costs a hash; each is made once.
    agents.sort_by_cached_key(|agent| *seed.rank(*agent).as_bytes());
}

/// So many of these agents, by the order that a seed gives them.
pub(crate) fn some(mut agents: Vec<AgentId>, count: u32, seed: Seed) -> Vec<AgentId> {
    order(&mut agents, seed);
    agents.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    agents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_many_are_the_same_for_the_same_seed_and_grow_by_whom_a_greater_number_adds() {
        let agents: Vec<_> = (0..100).map(|byte| AgentId::from_bytes([byte; 16])).collect();
        let seed = Seed::new(7).unwrap();
        let (three, ten) = (some(agents.clone(), 3, seed), some(agents.clone(), 10, seed));
        assert_eq!(three, ten[..3]);
        assert_ne!(ten, agents[..10]);
        assert_eq!(some(agents, 1000, seed).len(), 100);
    }
}
