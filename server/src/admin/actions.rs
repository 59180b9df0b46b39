//! `ActionService`.

use std::cmp::Reverse;
use std::sync::Arc;

use tonic::{Request, Response, Status};
use writ_common::admin::page;
use writ_common::status::Failure;
use writ_common::text::plain;
use writ_proto::admin::v1::action_service_server::ActionService;
use writ_proto::admin::v1::{
    ActionSummary, ActionVersion, ActionVersions, GetActionRequest, ListActionsRequest, ListActionsResponse,
    ParameterDescription,
};
use writ_protocol::id::AgentId;
use writ_protocol::schema::{Parameter, ParameterRule};

use crate::actions::{ListedBy, MAX_SAID, Version, blocking, listed};
use crate::choose;
use crate::context::Server;
use crate::selector::Selector;

/// Versions of one action that are shown.
const MAX_VERSIONS: usize = 100;

#[derive(Debug)]
pub(super) struct Actions(pub(super) Arc<Server>);

#[tonic::async_trait]
impl ActionService for Actions {
    async fn list(
        &self,
        request: Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        let ListActionsRequest { selector, page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let selector = self.read(&selector).await?;
        let page = listed(&self.0, selector.as_ref(), None).await?.into_iter();
        let page = page.filter(|(name, _)| *name > page_token);
        let actions: Vec<_> = page.take(usize::try_from(size).unwrap_or(usize::MAX)).map(summary).collect();
        let next_page_token = page::next(&actions, size, |action| action.name.clone());
        Ok(Response::new(ListActionsResponse { actions, next_page_token }))
    }

    async fn get(&self, request: Request<GetActionRequest>) -> Result<Response<ActionVersions>, Status> {
        let GetActionRequest { name, selector } = request.into_inner();
        let selector = self.read(&selector).await?;
        let unknown = || {
            Failure::not_found(match name.as_str() {
                "upgrade" => {
                    "no host lets its agent be upgraded by commands; there, as root: writ-agent upgrade allow"
                        .to_owned()
                }
                _ => format!("no agent has an action `{name}`; see: writ actions list"),
            })
        };
        let found =
            listed(&self.0, selector.as_ref(), Some(&name)).await?.remove(&name).ok_or_else(unknown)?;
        let mut versions: Vec<_> = found.versions.into_iter().collect();
        versions.sort_by_key(|(_, agents)| Reverse(agents.len()));
        let more_versions = count(versions.len().saturating_sub(MAX_VERSIONS));
        versions.truncate(MAX_VERSIONS);
        let versions = blocking(move || versions.iter().map(version).collect()).await?;
        Ok(Response::new(ActionVersions { name, versions, more_versions }))
    }
}

impl Actions {
    async fn read(&self, selector: &str) -> Result<Option<Selector>, Failure> {
        if selector.is_empty() { Ok(None) } else { choose::read(&self.0, selector).await.map(Some) }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn summary((name, by): (String, ListedBy)) -> ActionSummary {
    let (agents, versions) = (count(by.agents()), count(by.versions.len()));
    ActionSummary { name, class: by.class.as_str().to_owned(), agents, versions }
}

fn version((version, agents): &(Version, Vec<(AgentId, String)>)) -> ActionVersion {
    let mut shown = ActionVersion {
        class: version.class.as_str().to_owned(),
        agents: count(agents.len()),
        agent_names: agents.iter().take(MAX_SAID).map(|(_, name)| name.clone()).collect(),
        ..ActionVersion::default()
    };
    if let Some(schema) = version.schema() {
        shown.described = true;
        shown.timeout_ms = u64::try_from(schema.timeout.as_millis()).unwrap_or(u64::MAX);
        shown.idempotent = schema.is_idempotent;
        shown.parameters = schema.parameters.iter().map(parameter).collect();
        shown.definition_digest = schema.definition.to_string();
    }
    shown
}

fn parameter((name, Parameter { rule, default, is_secret }): (&str, &Parameter)) -> ParameterDescription {
    let name = plain(name);
    let default_value = default.as_deref().map_or_else(String::new, plain);
    let of = |kind: &str| ParameterDescription {
        name,
        r#type: kind.to_owned(),
        default_value,
        secret: *is_secret,
        ..ParameterDescription::default()
    };
    match rule {
        ParameterRule::Text(pattern) => {
            ParameterDescription { pattern: plain(pattern.as_str()), ..of("text") }
        }
        ParameterRule::Integer(least, most) => {
            ParameterDescription { least: *least, most: *most, ..of("integer") }
        }
        ParameterRule::Choice(choices) => {
            let choices = choices.iter().map(|choice| plain(choice)).collect();
            ParameterDescription { choices, ..of("choice") }
        }
    }
}
