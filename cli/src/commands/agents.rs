//! `writ agents`.

use serde::Serialize;
use writ_proto::admin::v1::{Agent, GetAgentRequest, ListAgentsRequest};

use super::PAGE;
use crate::args::{Agents, Format};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Row {
    agent_id: String,
    name: String,
    realm: String,
    connected: bool,
    last_contact: String,
    bundle_version: u64,
    chain_version: u64,
    queued: u64,
    agent_version: String,
    key_id: String,
    enrolled_at: String,
    journal_counter: u64,
    actions: Vec<String>,
}

impl Row {
    fn new(agent: Agent) -> Self {
        Self {
            agent_id: agent.agent_id,
            name: output::plain(&agent.name),
            realm: output::plain(&agent.realm),
            connected: agent.connected,
            last_contact: output::time(agent.last_contact_ms),
            bundle_version: agent.bundle_version,
            chain_version: agent.chain_version,
            queued: agent.queued,
            agent_version: output::plain(&agent.agent_version),
            key_id: agent.key_id,
            enrolled_at: output::time(agent.enrolled_at_ms),
            journal_counter: agent.journal_counter,
            actions: agent.actions,
        }
    }

    fn link(&self) -> &'static str {
        if self.connected { "connected" } else { "away" }
    }

    fn trust(&self) -> String {
        let (held, newest) = (self.bundle_version, self.chain_version);
        match held {
            0 => "not seen yet".to_owned(),
            held if held == newest => format!("bundle {held}"),
            held => format!("bundle {held} of {newest}"),
        }
    }
}

impl Rows for Row {
    const HEAD: &'static [&'static str] =
        &["AGENT", "NAME", "REALM", "LINK", "LAST CONTACT", "TRUST", "QUEUED", "VERSION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.agent_id.clone(),
            self.name.clone(),
            self.realm.clone(),
            self.link().to_owned(),
            self.last_contact.clone(),
            self.trust(),
            self.queued.to_string(),
            self.agent_version.clone(),
        ]
    }
}

pub(super) async fn run(format: Format, client: &Client, verb: Agents) -> Result<(), Failure> {
    match verb {
        Agents::List => {
            let (mut rows, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = ListAgentsRequest { page_size: PAGE, page_token };
                let page = client.agents().list(request).await?.into_inner();
                rows.extend(page.agents.into_iter().map(Row::new));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            output::list(
                format,
                &rows,
                "No agent is enrolled. Next: writ enroll token create --token-file FILE",
            )
        }
        Agents::Show { agent } => {
            let row = Row::new(client.agents().get(GetAgentRequest { agent }).await?.into_inner());
            let fields = [
                ("agent", row.agent_id.clone()),
                ("name", row.name.clone()),
                ("realm", row.realm.clone()),
                ("link", row.link().to_owned()),
                ("last contact", row.last_contact.clone()),
                ("trust", row.trust()),
                ("queued", row.queued.to_string()),
                ("actions", row.actions.join(", ")),
                ("key", row.key_id.clone()),
                ("journal", row.journal_counter.to_string()),
                ("version", row.agent_version.clone()),
                ("enrolled", row.enrolled_at.clone()),
            ];
            output::one(format, &row, &fields)
        }
    }
}
