//! `AgentService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::status::Failure;
use writ_proto::admin::v1::agent_service_server::AgentService;
use writ_proto::admin::v1::{
    ActionRow, Agent, ApproveAgentRequest, Attribute as Shown, GetAgentRequest, LabelAgentRequest,
    LabelManyRequest, LabelManyResponse, ListAgentsRequest, ListAgentsResponse, WhyResponse,
};
use writ_protocol::facts::{FACTS, RECORD};
use writ_protocol::id::AgentId;
use writ_protocol::time::Timestamp;

use super::why;
use crate::choose;
use crate::choose::find_agent;
use crate::context::Server;
use crate::selector::{STANDING_WORDS, is_name, is_value};
use crate::store::{
    AgentRow, Attribute, AttributeSource, LabelChange, ListedAction, MAX_LABELS, Membership, StoreError,
    unavailable,
};
use writ_common::admin::{Effect, page};

/// Agents of one request whose labels are named one by one: what its greatest size has room for.
const MAX_LABELLED: usize = 2000;
/// Labels set and removed by one request, of all its agents: the writer does nothing else meanwhile.
const MAX_LABEL_CHANGES: usize = 100_000;

#[derive(Debug)]
pub(super) struct Agents(pub(super) Arc<Server>);

#[tonic::async_trait]
impl AgentService for Agents {
    async fn list(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let ListAgentsRequest { page_size, page_token, selector, removed } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let selector = if selector.is_empty() { None } else { Some(choose::read(&self.0, &selector).await?) };
        let now = self.0.clock.wall();
        let after = page::token(&page_token)?;
        let rows = match &selector {
            Some(selector) if removed && !selector.standings().is_empty() => {
                let text = "removed agents do not stand: leave `connected`, `held` and `away` out";
                return Err(Failure::invalid("selector", text).into());
            }
            Some(selector) if !selector.standings().is_empty() => {
                let mut ids = choose::agents(&self.0, selector).await?;
                ids.retain(|id| after.is_none_or(|after| *id > after));
                ids.truncate(usize::try_from(size).unwrap_or(usize::MAX));
                self.0.store.agents_of(&ids, now).await
            }
            selector => {
                let members = if removed { Membership::Removed } else { Membership::Present };
                self.0.store.agents((members, selector.as_ref()), after, size, now).await
            }
        };
        let rows = rows.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.id.to_string());
        let agents = rows.into_iter().map(|row| show(&self.0, row)).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn get(&self, request: Request<GetAgentRequest>) -> Result<Response<Agent>, Status> {
        let row = find_agent(&self.0, &request.into_inner().agent).await?;
        Ok(Response::new(show(&self.0, row)))
    }

    async fn why(&self, request: Request<GetAgentRequest>) -> Result<Response<WhyResponse>, Status> {
        let row = find_agent(&self.0, &request.into_inner().agent).await?;
        Ok(Response::new(why::why(&self.0, &row).await.map_err(unavailable)?))
    }

    async fn label(&self, request: Request<LabelAgentRequest>) -> Result<Response<Agent>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let LabelAgentRequest { agent, set, remove } = request.into_inner();
        check_labels(&set, &remove)?;
        let row = find_agent(&self.0, &agent).await?;
        if row.removed_at != Timestamp::ZERO {
            let text = format!("`{agent}` was removed at {}; nothing is sent to it any more", row.removed_at);
            return Err(Failure::precondition("agent_removed", text).into());
        }
        info!(target: "audit", actor = actor.name, agent.id = %row.id, set = set.len(), removed = remove.len(), "agent labelled");
        let change = label_change(vec![row.id], set, remove);
        let changed = self.label_all(vec![change]).await?;
        Ok(Effect::unless(changed > 0, show(&self.0, self.row(row.id).await?)))
    }

    async fn label_many(
        &self,
        request: Request<LabelManyRequest>,
    ) -> Result<Response<LabelManyResponse>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let LabelManyRequest { selector, set, remove, each, expected } = request.into_inner();
        let changes = if each.is_empty() {
            check_labels(&set, &remove)?;
            let selector = choose::read(&self.0, &selector).await?;
            let chosen = choose::agents(&self.0, &selector).await?;
            if expected > 0 && u32::try_from(chosen.len()) != Ok(expected) {
                let text = format!(
                    "the selector chooses {} agents now, and not {expected}; look again. Nobody was labelled",
                    chosen.len()
                );
                return Err(Failure::precondition("targets_changed", text).into());
            }
            if chosen.len().saturating_mul(set.len() + remove.len()) > MAX_LABEL_CHANGES {
                let text = format!(
                    "{} agents with so many labels are too many at a time: label them in parts",
                    chosen.len()
                );
                return Err(Failure::invalid("set", text).into());
            }
            vec![label_change(chosen, set, remove)]
        } else if selector.is_empty() && set.is_empty() && remove.is_empty() && each.len() <= MAX_LABELLED {
            let mut changes = Vec::with_capacity(each.len());
            for LabelAgentRequest { agent, set, remove } in each {
                check_labels(&set, &remove).map_err(|failure| failure.about(&agent))?;
                let (id, is_removed) = choose::find_target(&self.0, &agent).await?;
                if is_removed {
                    let text = format!("`{agent}` was removed; nobody was labelled");
                    return Err(Failure::precondition("agent_removed", text).into());
                }
                changes.push(label_change(vec![id], set, remove));
            }
            changes
        } else {
            let text = format!(
                "give either a selector with labels, or at most {MAX_LABELLED} changes of single agents"
            );
            return Err(Failure::invalid("each", text).into());
        };
        let chosen = changes.iter().map(|change| change.agents.len()).sum::<usize>();
        let chosen = u32::try_from(chosen).unwrap_or(u32::MAX);
        let changed = self.label_all(changes).await?;
        info!(target: "audit", actor = actor.name, selector, chosen, changed, "agents labelled");
        Ok(Effect::unless(changed > 0, LabelManyResponse { chosen, changed }))
    }

    async fn remove(&self, request: Request<GetAgentRequest>) -> Result<Response<Agent>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let row = find_agent(&self.0, &request.into_inner().agent).await?;
        let (server, id, now) = (Arc::clone(&self.0), row.id, self.0.clock.wall());
        let change = async move {
            server.store.remove_agent(id, now).await?;
            server.dispatcher.registry().decided(id);
            Ok::<_, StoreError>(())
        };
        self.0.to_the_end(change).await?.map_err(unavailable)?;
        info!(target: "audit", actor = actor.name, agent.id = %row.id, "agent removed");
        let after = self.row(row.id).await?;
        Ok(Effect::unless(after.removed_at != row.removed_at, show(&self.0, after)))
    }

    async fn approve(&self, request: Request<ApproveAgentRequest>) -> Result<Response<Agent>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let ApproveAgentRequest { agent, replaces } = request.into_inner();
        let row = find_agent(&self.0, &agent).await?;
        if row.removed_at.as_millis() > 0 {
            let text = "it was removed, and its id is never used again; enrol the host anew";
            return Err(Failure::precondition("agent_removed", text).into());
        }
        let older = if replaces.is_empty() { None } else { Some(find_agent(&self.0, &replaces).await?) };
        match &older {
            Some(older) if older.id == row.id => {
                return Err(Failure::invalid("replaces", "names the agent itself").into());
            }
            None if row.held.is_empty() => {
                let text = "nothing is held of this agent; to let it take over another's name and labels, name that one: --replaces AGENT";
                return Err(Failure::precondition("nothing_to_approve", text).into());
            }
            _ => {}
        }
        let replaced = older.map(|older| older.id);
        let (server, id, now) = (Arc::clone(&self.0), row.id, self.0.clock.wall());
        let change = async move {
            server.store.approve_agent(id, replaced, now).await?;
            [Some(id), replaced]
                .into_iter()
                .flatten()
                .for_each(|id| server.dispatcher.registry().decided(id));
            Ok::<_, StoreError>(())
        };
        self.0.to_the_end(change).await?.map_err(unavailable)?;
        info!(target: "audit", actor = actor.name, agent.id = %row.id, ?replaced, "agent approved");
        Ok(Response::new(show(&self.0, self.row(row.id).await?)))
    }
}

impl Agents {
    async fn label_all(&self, changes: Vec<LabelChange>) -> Result<u32, Failure> {
        self.0.store.label(changes).await.map_err(unavailable)?.map_err(|agent| {
            let text = format!("agent {agent} would have more than {MAX_LABELS} labels; nobody was labelled");
            Failure::invalid("set", text)
        })
    }

    async fn row(&self, agent: AgentId) -> Result<AgentRow, Failure> {
        let row = self.0.store.agent(agent, self.0.clock.wall()).await.map_err(unavailable)?;
        row.ok_or_else(|| Failure::not_found("the agent is gone"))
    }
}

fn label_change(agents: Vec<AgentId>, set: Vec<Shown>, remove: Vec<String>) -> LabelChange {
    let set = set.into_iter().map(|Shown { name, value }| (name, value)).collect();
    LabelChange { agents, set, remove }
}

fn check_labels(set: &[Shown], remove: &[String]) -> Result<(), Failure> {
    if set.len() > MAX_LABELS || remove.len() > MAX_LABELS {
        return Err(Failure::invalid("set", format!("names more than {MAX_LABELS} labels")));
    }
    for name in set.iter().map(|label| &label.name).chain(remove) {
        check_label_name(name)?;
    }
    if let Some(Shown { name, .. }) = set.iter().find(|label| !is_value(&label.value)) {
        let text = format!(
            "`{name}` has a value of more than 128 bytes, or with spaces or one of , ( ) = ! * \" ' \\ in it"
        );
        return Err(Failure::invalid("set", text));
    }
    if set.is_empty() && remove.is_empty() {
        return Err(Failure::invalid("set", "name labels to set or to remove"));
    }
    Ok(())
}

fn check_label_name(name: &str) -> Result<(), Failure> {
    if !is_name(name) {
        let text = format!(
            "`{name}` cannot be a label; begin with a letter or digit, then also `-`, `_`, `.` and `/`, 128 in all"
        );
        return Err(Failure::invalid("set", text));
    }
    if STANDING_WORDS.contains(&name) {
        let text = format!("`{name}` asks in a selector how an agent stands; choose another name");
        return Err(Failure::invalid("set", text));
    }
    if FACTS.contains(&name) || RECORD.contains(&name) {
        let text = format!("`{name}` is what the agent or its identity record says; choose another name");
        return Err(Failure::invalid("set", text));
    }
    Ok(())
}

fn show(server: &Server, row: AgentRow) -> Agent {
    let of = |source| {
        let said = row.attributes.iter().filter(move |attribute| attribute.source == source);
        said.map(|Attribute { name, value, .. }| Shown { name: name.clone(), value: value.clone() }).collect()
    };
    let last_contact_ms = server.last_contact(row.id, row.last_contact).as_millis();
    Agent {
        labels: of(AttributeSource::Label),
        facts: of(AttributeSource::Fact),
        agent_id: row.id.to_string(),
        name: row.name,
        realm: row.realm,
        key_id: row.public_key.id().to_string(),
        connected: server.dispatcher.registry().is_connected(row.id),
        last_contact_ms,
        bundle_version: row.bundle_version,
        chain_version: server.chain().head().bundle.version,
        enrolled_at_ms: row.enrolled_at.as_millis(),
        agent_version: row.agent_version,
        journal_counter: row.journal_counter,
        actions: row
            .actions
            .into_iter()
            .map(|ListedAction { name, class, .. }| ActionRow { name, class: class.as_str().to_owned() })
            .collect(),
        waiting: row.waiting,
        unanswered: row.unanswered,
        settings_revision: row.settings_revision,
        held: row.held,
        removed_at_ms: row.removed_at.as_millis(),
        reported_at_ms: row.reported_at.as_millis(),
    }
}
