//! `writ alerts`.

use std::collections::BTreeMap;

use serde::Serialize;
use writ_proto::admin::v1::{Alert, ListAlertsRequest};

use super::PAGE;
use crate::args::Format;
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
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["LAST", "WHAT", "AGENT", "COUNT", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        let agent = match (self.agent_name.as_str(), self.agent_id.as_str()) {
            ("", "") => "the server",
            ("", id) => id,
            (name, _) => name,
        };
        vec![self.last_at.clone(), self.what(), agent.to_owned(), self.count.to_string(), self.detail.clone()]
    }
}

impl Row {
    fn what(&self) -> String {
        format!("{} {}", self.kind, self.code).trim_end().to_owned()
    }
}

pub(super) async fn run(format: Format, client: &Client) -> Result<(), Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let page =
            client.alerts().list(ListAlertsRequest { page_size: PAGE, page_token }).await?.into_inner();
        rows.extend(page.alerts.into_iter().map(|alert| {
            let Alert {
                alert_id,
                kind,
                code,
                agent_id,
                agent_name,
                count,
                first_at_ms,
                last_at_ms,
                detail,
                next,
            } = alert;
            Row {
                alert_id,
                kind,
                code,
                agent_id,
                agent_name: output::plain(&agent_name),
                count,
                first_at: output::time(first_at_ms),
                last_at: output::time(last_at_ms),
                detail: output::plain(&detail),
                next: output::plain(&next),
            }
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output::list(format, &rows, "No alerts.")?;
    if format == Format::Table {
        // Below the table: once for all agents, and lines that wrap.
        let cures: BTreeMap<_, _> = rows.iter().map(|row| (row.what(), &row.next)).collect();
        for (what, next) in cures {
            output::text(&format!("\n{what}: {next}"))?;
        }
    }
    Ok(())
}
