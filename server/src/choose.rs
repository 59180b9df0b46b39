//! Whom a selector chooses now. What operators and agents say of themselves the database decides; who is
//! connected only this process knows.

use writ_common::status::Failure;
use writ_protocol::id::AgentId;
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use crate::context::Server;
use crate::selector::{Selector, Standing};
use crate::store::unavailable;
use crate::submit::{self, Selection};

/// Reads a selector, with what was saved in the place of names.
///
/// # Errors
/// What is wrong with it.
pub(crate) async fn read(server: &Server, text: &str) -> Result<Selector, Failure> {
    expand(server, submit::selector(text)?).await
}

/// A selector in which no name of a saved one is left.
///
/// # Errors
/// When a saved one is not there, or cannot stand in it.
pub(crate) async fn expand(server: &Server, mut selector: Selector) -> Result<Selector, Failure> {
    for name in selector.take_saved() {
        let saved = server.store.saved_selector(&name).await.map_err(unavailable)?;
        let saved = saved.ok_or_else(|| not_saved(&name))?;
        let other = submit::selector(&saved.selector)?;
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

/// So many of these agents, by the order that a seed gives them.
pub(crate) fn some(mut agents: Vec<AgentId>, count: u32, seed: Seed) -> Vec<AgentId> {
    // A rank costs a hash; each is made once.
    agents.sort_by_cached_key(|agent| *seed.rank(*agent).as_bytes());
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
