//! `AlertService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use writ_common::status::Failure;
use writ_proto::admin::v1::alert_service_server::AlertService;
use writ_proto::admin::v1::{AcknowledgeAlertRequest, Alert, ListAlertsRequest, ListAlertsResponse};
use writ_protocol::time::Timestamp;

use crate::context::Server;
use crate::store::{AlertKind, AlertRow, SERVER, WantedAlerts, unavailable};
use writ_common::admin::page;

/// Of what somebody says of an alert.
const MAX_NOTE_BYTES: usize = 1024;

#[derive(Debug)]
pub(super) struct Alerts(pub(super) Arc<Server>);

#[tonic::async_trait]
impl AlertService for Alerts {
    async fn list(
        &self,
        request: Request<ListAlertsRequest>,
    ) -> Result<Response<ListAlertsResponse>, Status> {
        let ListAlertsRequest { page_size, page_token, all, since_ms } = request.into_inner();
        let size = page::size(page_size, 100, page::MAX_PAGE)?;
        let offset = page::token::<u64>(&page_token)?.unwrap_or(0);
        let wanted = WantedAlerts { all, since: Timestamp::from_millis(since_ms) };
        let rows = self.0.store.alerts(offset, size, wanted).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |_| (offset + u64::from(size)).to_string());
        Ok(Response::new(ListAlertsResponse {
            alerts: rows.into_iter().map(show).collect(),
            next_page_token,
        }))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeAlertRequest>,
    ) -> Result<Response<Alert>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let AcknowledgeAlertRequest { alert_id, note } = request.into_inner();
        let number = alert_id.parse::<u64>();
        let number =
            number.map_err(|_| Failure::invalid("alert_id", format!("`{alert_id}` is no alert's number")))?;
        if note.len() > MAX_NOTE_BYTES || note.chars().any(char::is_control) {
            let text = format!("must have at most {MAX_NOTE_BYTES} bytes and no control characters");
            return Err(Failure::invalid("note", text).into());
        }
        let now = self.0.clock.wall();
        let acknowledged = self.0.store.acknowledge_alert(number, actor.name, note, now).await;
        let row = acknowledged.map_err(unavailable)?;
        let unknown = || Failure::not_found(format!("there is no alert {number}; see: writ alerts --all"));
        Ok(Response::new(show(row.ok_or_else(unknown)?)))
    }
}

fn show(row: AlertRow) -> Alert {
    let AlertRow { id, kind, code, agent, agent_name, count, first_at, last_at, detail, .. } = row;
    let AlertRow { ended_at, acknowledged_at, acknowledged_by, note, .. } = row;
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
        ended_at_ms: ended_at.as_millis(),
        acknowledged_at_ms: acknowledged_at.as_millis(),
        acknowledged_by,
        note,
    }
}
