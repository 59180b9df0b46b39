//! `AgentService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use writ_proto::admin::v1::agent_service_server::AgentService;
use writ_proto::admin::v1::{Agent, GetAgentRequest, ListAgentsRequest, ListAgentsResponse};

use super::{page, submit};
use crate::context::Server;
use crate::store::AgentRow;
use crate::store::unavailable;

#[derive(Debug)]
pub(super) struct Agents(pub(super) Arc<Server>);

#[tonic::async_trait]
impl AgentService for Agents {
    async fn list(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let ListAgentsRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let now = self.0.clock.wall();
        let rows = self.0.store.agents(page::token(&page_token)?, size, now).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.id.to_string());
        let agents = rows.into_iter().map(|row| self.show(row)).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn get(&self, request: Request<GetAgentRequest>) -> Result<Response<Agent>, Status> {
        let row = submit::find_agent(&self.0, &request.into_inner().agent).await?;
        Ok(Response::new(self.show(row)))
    }
}

impl Agents {
    fn show(&self, row: AgentRow) -> Agent {
        Agent {
            agent_id: row.id.to_string(),
            name: row.name,
            realm: row.realm,
            key_id: row.public_key.id().to_string(),
            connected: self.0.dispatcher.registry().is_connected(row.id),
            last_contact_ms: row.last_contact.as_millis(),
            bundle_version: row.bundle_version,
            chain_version: self.0.chain.head().bundle.version,
            enrolled_at_ms: row.enrolled_at.as_millis(),
            agent_version: row.agent_version,
            journal_counter: row.journal_counter,
            actions: row.actions,
            queued: row.waiting,
        }
    }
}
