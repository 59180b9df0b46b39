//! What a submission would come to, without signing or storing anything.

use std::sync::Arc;

use writ_common::status::Failure;
use writ_proto::admin::v1::{PreviewResponse, PreviewTarget};
use writ_protocol::audience::AudienceTree;
use writ_protocol::command::{Action, ActionClass};
use writ_protocol::id::AgentId;

use crate::context::Server;
use crate::store::{AllowList, unavailable};
use crate::submit::{self, Request};
use writ_common::admin::page;

/// The frozen targets, a page of them after an agent, and what the agents say of the action.
pub(super) async fn preview(
    server: &Arc<Server>,
    request: Request,
    after: Option<AgentId>,
    size: u32,
) -> Result<PreviewResponse, Failure> {
    let Request { selection, action, .. } = request;
    let targets = submit::resolve(server, selection).await?;
    let tree =
        AudienceTree::build(&targets).map_err(|error| Failure::invalid("agents", error.to_string()))?;
    let (mut strictest, mut not_allowing, mut shown) = (ActionClass::Read, 0, Vec::new());
    for agent in server.store.action_tables(&targets).await.map_err(unavailable)? {
        let class = class_at(&agent, &action);
        strictest = strictest.max(class.unwrap_or(ActionClass::Destructive));
        not_allowing += u32::from(class.is_none());
        let is_on_page = after.is_none_or(|after| agent.id > after);
        if is_on_page && u32::try_from(shown.len()).is_ok_and(|shown| shown < size) {
            shown.push(PreviewTarget {
                agent_id: agent.id.to_string(),
                agent_name: agent.name,
                connected: server.dispatcher.registry().is_connected(agent.id),
                allows: class.is_some(),
            });
        }
    }
    let next_page_token = page::next(&shown, size, |target| target.agent_id.clone());
    Ok(PreviewResponse {
        target_count: tree.audience().count,
        audience_root: tree.audience().root.to_string(),
        action_class: strictest.as_str().to_owned(),
        not_allowing,
        targets: shown,
        next_page_token,
    })
}

/// The class an agent gives an action by its last report; `None` when it would refuse it.
fn class_at(agent: &AllowList, action: &Action) -> Option<ActionClass> {
    let listed = agent.actions.iter().find(|(name, _)| name == action.name());
    match action.own_class() {
        // One that has reported nothing yet can do what every agent can; its host may deny that later.
        Some(class) if listed.is_some() || agent.actions.is_empty() => Some(class),
        Some(_) => None,
        None => ActionClass::from_name(&listed?.1),
    }
}
