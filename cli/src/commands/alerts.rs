//! `writ alerts`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use writ_common::time::{Clock as _, SystemClock};
use writ_proto::admin::v1::{AcknowledgeAlertRequest, Alert, ListAlertsRequest};

use super::PAGE;
use crate::args::{Alerts, Format};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Row {
    alert_id: u64,
    kind: String,
    code: String,
    agent_id: String,
    agent_name: String,
    count: u64,
    first_at: String,
    last_at: String,
    detail: String,
    next: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledged_at: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    acknowledged_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["ALERT", "LAST", "STATE", "WHAT", "AGENT", "COUNT", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        let agent = match (self.agent_name.as_str(), self.agent_id.as_str()) {
            ("", "") => "the server",
            ("", id) => id,
            (name, _) => name,
        };
        vec![
            self.alert_id.to_string(),
            self.last_at.clone(),
            self.state(),
            self.what(),
            agent.to_owned(),
            self.count.to_string(),
            self.detail.clone(),
        ]
    }
}

impl Row {
    fn state(&self) -> String {
        match (&self.ended_at, &self.acknowledged_at) {
            (Some(at), _) => format!("ended {at}"),
            (None, Some(_)) if self.note.is_empty() => format!("seen by {}", self.acknowledged_by),
            (None, Some(_)) => format!("seen by {}: {}", self.acknowledged_by, self.note),
            (None, None) => "open".to_owned(),
        }
    }

    fn what(&self) -> String {
        format!("{} {}", self.kind, self.code).trim_end().to_owned()
    }
}

fn show(alert: Alert) -> Row {
    let at = |millis: u64| (millis > 0).then(|| output::time(millis));
    let (ended_at, acknowledged_at) = (at(alert.ended_at_ms), at(alert.acknowledged_at_ms));
    let state = match (&ended_at, &acknowledged_at) {
        (Some(_), _) => "ended",
        (None, Some(_)) => "acknowledged",
        (None, None) => "open",
    };
    Row {
        alert_id: alert.alert_id,
        kind: alert.kind,
        code: alert.code,
        agent_id: alert.agent_id,
        agent_name: output::plain(&alert.agent_name),
        count: alert.count,
        first_at: output::time(alert.first_at_ms),
        last_at: output::time(alert.last_at_ms),
        detail: output::plain(&alert.detail),
        next: output::plain(&alert.next),
        state,
        ended_at,
        acknowledged_at,
        acknowledged_by: output::plain(&alert.acknowledged_by),
        note: output::plain(&alert.note),
    }
}

pub(super) async fn run(
    format: Format,
    client: &Client,
    (all, since): (bool, Option<Duration>),
    verb: Option<Alerts>,
) -> Result<(), Failure> {
    if let Some(Alerts::Acknowledge { alert, note }) = verb {
        let request = AcknowledgeAlertRequest { alert_id: alert.to_string(), note };
        let row = show(client.alerts().acknowledge(request).await?.into_inner());
        let fields = [("alert", alert.to_string()), ("what", row.what()), ("state", row.state())];
        return output::one(format, &row, &fields);
    }
    let now = SystemClock::new().wall();
    let since_ms = since.map_or(0, |since| (now - since).as_millis());
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAlertsRequest { page_size: PAGE, page_token, all, since_ms };
        let page = client.alerts().list(request).await?.into_inner();
        rows.extend(page.alerts.into_iter().map(show));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output::list(format, &rows, if all { "No alerts." } else { "No alert is open." })?;
    if format.is_for_people() {
        // Below the table: once for all agents, and lines that wrap.
        let cures: BTreeMap<_, _> = rows.iter().map(|row| (row.what(), &row.next)).collect();
        for (what, next) in cures {
            output::text(&format!("\n{what}: {next}"))?;
        }
    }
    Ok(())
}
