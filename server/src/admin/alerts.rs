//! `AlertService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use writ_proto::admin::v1::alert_service_server::AlertService;
use writ_proto::admin::v1::{Alert, ListAlertsRequest, ListAlertsResponse};

use crate::context::Server;
use crate::store::{AlertKind, AlertRow, SERVER, unavailable};
use writ_common::admin::page;

#[derive(Debug)]
pub(super) struct Alerts(pub(super) Arc<Server>);

#[tonic::async_trait]
impl AlertService for Alerts {
    async fn list(
        &self,
        request: Request<ListAlertsRequest>,
    ) -> Result<Response<ListAlertsResponse>, Status> {
        let ListAlertsRequest { page_size, page_token } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let offset = page::token::<u64>(&page_token)?.unwrap_or(0);
        let rows = self.0.store.alerts(offset, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |_| (offset + u64::from(size)).to_string());
        Ok(Response::new(ListAlertsResponse {
            alerts: rows.into_iter().map(show).collect(),
            next_page_token,
        }))
    }
}

fn show(row: AlertRow) -> Alert {
    let AlertRow { id, kind, code, agent, agent_name, count, first_at, last_at, detail } = row;
    Alert {
        alert_id: id,
        next: AlertKind::stored_cure(&kind, &code).to_owned(),
        kind,
        code,
        // Empty: it is about the server itself.
        agent_id: if agent == SERVER { String::new() } else { agent.to_string() },
        agent_name,
        count,
        first_at_ms: first_at.as_millis(),
        last_at_ms: last_at.as_millis(),
        detail,
    }
}
