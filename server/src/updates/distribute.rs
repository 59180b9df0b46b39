//! Having agents hold what is in force here: those that do not say they do are sent a command.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use writ_common::admin::operators::Scope;
use writ_common::admin::{Actor, Role};
use writ_common::status::Failure;
use writ_common::text::plain;
use writ_protocol::command::{Action, ComponentUpdate};
use writ_protocol::component::{fact_of, held_as, is_package};
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::limits::MAX_AGENT_COMPONENT_BYTES;
use writ_protocol::time::Timestamp;
use writ_updates::{Name, Release};

use crate::choose::Selection;
use crate::context::Server;
use crate::selector::Selector;
use crate::store::{AllowList, unavailable};
use crate::submit::{self, Expectations, Submitted};

/// How often it is looked who lacks something: agents enrol, and are put back.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// However often there is a reason: each look costs as much as there are agents.
const LOOKS_APART: Duration = Duration::from_secs(2);
/// How long an agent has for it, and how soon the same is sent to it again at the earliest: it may have been
/// stopped, or its disk was full.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Who such a command is by. No operator can have this name, since brackets are in none.
const ACTOR: &str = "(updates)";
/// Agents of one command.
const MOST: usize = 20_000;

/// A component as agents should hold it, and who does.
#[derive(Debug)]
pub(crate) struct Coverage {
    /// Which.
    pub name: Name,
    /// What is in force here.
    pub release: Release,
    /// The fact by which agents say what they hold, and its value for this.
    pub fact: (&'static str, String),
    /// Agents that are enrolled and not removed.
    pub agents: usize,
    /// Those of them that hold it.
    pub holding: HashSet<AgentId>,
}

/// A component that is in force here and that agents have a use for, as they are told to hold it.
///
/// # Errors
/// When there is none, or none that agents take.
pub(crate) fn in_force(server: &Server, component: &str) -> Result<ComponentUpdate, Failure> {
    if fact_of(component).is_none() {
        let text = format!("`{component}` is no component that agents have a use for");
        return Err(Failure::invalid("component", text));
    }
    let name = component.parse::<Name>().map_err(|error| Failure::invalid("component", error.to_string()))?;
    let active = server.updates.folder.active(&name);
    let active = active.map_err(|error| Failure::unavailable(error.to_string()))?;
    let (release, _) = active.ok_or_else(|| {
        let text = format!(
            "no {component} is in force here, so that agents could not fetch it: writ-server updates sync"
        );
        Failure::precondition("no_component", text)
    })?;
    as_told(component, release)
}

/// The packages of a version of the agent that are in force here, by component.
///
/// # Errors
/// When there are none.
pub(crate) fn packages(server: &Server, version: &str) -> Result<Vec<ComponentUpdate>, Failure> {
    let shelf = server.updates.folder.shelf().map_err(|error| Failure::unavailable(error.to_string()))?;
    let packages = shelf.0.into_iter().filter(|(name, _)| is_package(name.as_ref()));
    let (named, others): (Vec<_>, Vec<_>) =
        packages.partition(|(_, held)| held.active.version.as_ref() == version);
    let mut told: Vec<_> = named
        .into_iter()
        .map(|(name, held)| as_told(name.as_ref(), held.active))
        .collect::<Result<_, _>>()?;
    told.sort_by(|one, next| one.component.cmp(&next.component));
    if told.is_empty() {
        let others: Vec<_> =
            others.iter().map(|(name, held)| format!("{name} {}", held.active.version)).collect();
        let there = if others.is_empty() { "none at all".to_owned() } else { others.join(", ") };
        let text = format!(
            "no package of version {} is in force here; there is {there}. Publish it, writ-control-manager repo add and repo publish, and have this server fetch it: writ-server updates sync",
            plain(version)
        );
        return Err(Failure::precondition("no_component", text));
    }
    Ok(told)
}

/// A release as agents are told to hold it.
fn as_told(component: &str, release: Release) -> Result<ComponentUpdate, Failure> {
    let Release { version, sha256, bytes } = release;
    if !(1..=MAX_AGENT_COMPONENT_BYTES).contains(&bytes) {
        let text =
            format!("{component} has {bytes} bytes, and agents take {MAX_AGENT_COMPONENT_BYTES} at most");
        return Err(Failure::precondition("component_too_long", text));
    }
    Ok(ComponentUpdate { component: component.to_owned(), version: version.into(), sha256, bytes })
}

/// Who holds what is in force here.
///
/// # Errors
/// When it cannot be known.
pub(crate) async fn coverage(server: &Server) -> Result<Vec<Coverage>, Failure> {
    let shelf = server.updates.folder.shelf().map_err(|error| Failure::unavailable(error.to_string()))?;
    let agents = server.store.agent_ids(None).await.map_err(unavailable)?.len();
    let mut all = Vec::new();
    for (name, held) in shelf.0 {
        let Some(fact) = fact_of(name.as_ref()) else { continue };
        let value = held_as(held.active.version.as_ref(), held.active.sha256);
        let selector = format!("{fact}={value}").parse::<Selector>();
        let selector = selector.map_err(|error| Failure::unavailable(error.to_string()))?;
        let holding = server.store.agent_ids(Some(&selector)).await.map_err(unavailable)?;
        let holding = holding.into_iter().collect();
        all.push(Coverage { name, release: held.active, fact: (fact, value), agents, holding });
    }
    Ok(all)
}

/// Until the server ends.
pub(crate) async fn run(server: Arc<Server>) {
    let mut asked = HashMap::new();
    loop {
        Box::pin(turn(&server, &mut asked)).await;
        let woken = async {
            tokio::time::sleep(LOOKS_APART).await;
            let _ = tokio::time::timeout(LOOK_EVERY, server.updates.new.notified()).await;
        };
        if server.shutdown.unless_requested(woken).await.is_none() {
            return;
        }
    }
}

/// What each agent was sent last of each component, and when.
type Asked = HashMap<(AgentId, &'static str), (Digest, Timestamp)>;

async fn turn(server: &Arc<Server>, asked: &mut Asked) {
    let now = server.clock.wall();
    // What is in the future was noted before the clock went back.
    asked.retain(|_, (_, at)| *at <= now && *at + LIFETIME > now);
    let covered = match coverage(server).await {
        Ok(covered) => covered,
        Err(failure) => return warn!(error = failure.message(), "it cannot be known what agents lack"),
    };
    for covered in covered {
        let wanted = server.updates.for_agents.iter().find(|wanted| **wanted == covered.name.as_ref());
        let Some(name) = wanted.copied() else { continue };
        // One component that cannot be sent keeps no other from agents.
        if let Err(failure) = send(server, name, covered, (&mut *asked, now)).await {
            warn!(component = name, error = failure.message(), "agents could not be sent what they lack");
        }
    }
}

/// Tells those to hold a component who are in a session, lack it, and can: who cannot would only refuse,
/// and who is not here will say what it holds when it comes.
async fn send(
    server: &Arc<Server>,
    name: &'static str,
    covered: Coverage,
    (asked, now): (&mut Asked, Timestamp),
) -> Result<(), Failure> {
    let Coverage { release, holding, .. } = covered;
    let (version, sha256) = (release.version.clone(), release.sha256);
    let update = as_told(name, release)?;
    let registry = server.dispatcher.registry();
    let is_asked = |agent: &AgentId| asked.get(&(*agent, name)).is_some_and(|(digest, _)| *digest == sha256);
    let mut lacking = server.store.agent_ids(None).await.map_err(unavailable)?;
    lacking.retain(|agent| !holding.contains(agent) && !is_asked(agent) && registry.is_connected(*agent));
    let tables = server.store.action_tables(&lacking, Some("update-component")).await.map_err(unavailable)?;
    let allows = |table: &AllowList| !table.actions.is_empty();
    let mut lacking: Vec<_> = tables.into_iter().filter(allows).map(|table| table.id).collect();
    lacking.truncate(MOST);
    if lacking.is_empty() {
        return Ok(());
    }
    let request = submit::Request {
        id: None,
        selection: Selection::Ids(lacking.clone()),
        lifetime: LIFETIME,
        action: Action::UpdateComponent(update),
        rollout: None,
        parent: None,
        expects: Expectations::default(),
        secrets: BTreeSet::new(),
    };
    let actor = Actor {
        name: ACTOR.to_owned(),
        role: Role::Operator,
        method: "updates",
        request: None,
        scope: Scope::default(),
    };
    if let Submitted::New(row, agents) = submit::submit(server, &actor, request).await? {
        info!(component = name, %version, command.id = %row.id, agents, "agents are told to hold it");
    }
    asked.extend(lacking.into_iter().map(|agent| ((agent, name), (sha256, now))));
    Ok(())
}
