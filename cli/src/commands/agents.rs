//! `writ agents`.

mod label;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use writ_proto::admin::v1::{Agent, ApproveAgentRequest, Attribute, GetAgentRequest, ListAgentsRequest};

use super::PAGE;
use crate::args::{Agents, Format, Sort};
use crate::client::Client;
use crate::confirm;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Row {
    agent_id: String,
    name: String,
    realm: String,
    connected: bool,
    last_contact: String,
    #[serde(skip)]
    last_contact_ms: u64,
    /// Whether no other that is listed has its name.
    #[serde(skip)]
    is_unique: bool,
    bundle_version: u64,
    chain_version: u64,
    waiting: u64,
    unanswered: u64,
    agent_version: String,
    key_id: String,
    enrolled_at: String,
    journal_counter: u64,
    actions: Vec<Action>,
    labels: BTreeMap<String, String>,
    facts: BTreeMap<String, String>,
    settings_revision: u64,
    reported_at: String,
    held: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_at: Option<String>,
}

#[derive(Serialize)]
struct Action {
    name: String,
    class: String,
}

impl Row {
    fn new(agent: Agent) -> Self {
        Self {
            agent_id: agent.agent_id,
            name: output::plain(&agent.name),
            realm: output::plain(&agent.realm),
            connected: agent.connected,
            last_contact: output::time(agent.last_contact_ms),
            last_contact_ms: agent.last_contact_ms,
            is_unique: true,
            bundle_version: agent.bundle_version,
            chain_version: agent.chain_version,
            waiting: agent.waiting,
            unanswered: agent.unanswered,
            agent_version: output::plain(&agent.agent_version),
            key_id: agent.key_id,
            enrolled_at: output::time(agent.enrolled_at_ms),
            journal_counter: agent.journal_counter,
            actions: agent
                .actions
                .into_iter()
                .map(|row| Action { name: row.name, class: row.class })
                .collect(),
            labels: attributes(agent.labels),
            facts: attributes(agent.facts),
            settings_revision: agent.settings_revision,
            reported_at: output::time(agent.reported_at_ms),
            held: output::plain(&agent.held),
            removed_at: Some(output::time(agent.removed_at_ms)).filter(|_| agent.removed_at_ms > 0),
        }
    }

    fn link(&self) -> &'static str {
        match (self.removed_at.is_some(), self.held.is_empty(), self.connected) {
            (true, ..) => "removed",
            (_, false, _) => "held",
            (_, _, true) => "connected",
            (_, _, false) => "away",
        }
    }

    fn settings(&self) -> String {
        match self.settings_revision {
            0 => "as installed".to_owned(),
            revision => format!("of {}", output::time(revision)),
        }
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

fn attributes(said: Vec<Attribute>) -> BTreeMap<String, String> {
    said.into_iter().map(|said| (said.name, output::plain(&said.value))).collect()
}

fn joined(attributes: &BTreeMap<String, String>) -> String {
    attributes.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["NAME", "LINK", "LAST CONTACT", "TRUST", "WAITING", "LABELS"];
    const WIDE: &'static [&'static str] = &[
        "NAME",
        "LINK",
        "LAST CONTACT",
        "TRUST",
        "WAITING",
        "LABELS",
        "REALM",
        "SETTINGS",
        "VERSION",
        "AGENT",
    ];

    fn cells(&self) -> Vec<String> {
        let name =
            if self.is_unique { self.name.clone() } else { format!("{} ({})", self.name, self.agent_id) };
        vec![
            name,
            self.link().to_owned(),
            self.last_contact.clone(),
            self.trust(),
            self.waiting.to_string(),
            joined(&self.labels),
        ]
    }

    fn wide(&self) -> Vec<String> {
        let more = [self.realm.clone(), self.settings(), self.agent_version.clone(), self.agent_id.clone()];
        self.cells().into_iter().chain(more).collect()
    }
}

pub(super) async fn run(format: Format, client: &Client, verb: Agents) -> Result<(), Failure> {
    match verb {
        Agents::List { selector, removed, sort, reverse } => {
            let (mut rows, mut page_token) = (Vec::new(), String::new());
            loop {
                let request =
                    ListAgentsRequest { page_size: PAGE, page_token, selector: selector.clone(), removed };
                let page = client.agents().list(request).await?.into_inner();
                rows.extend(page.agents.into_iter().map(Row::new));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            match sort {
                Sort::Id => {}
                Sort::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
                Sort::Contact => rows.sort_by_key(|row| row.last_contact_ms),
                Sort::Version => rows.sort_by(|a, b| a.agent_version.cmp(&b.agent_version)),
                Sort::Waiting => rows.sort_by_key(|row| Reverse(row.waiting)),
            }
            if reverse {
                rows.reverse();
            }
            let mut of_name = BTreeMap::<String, usize>::new();
            rows.iter().for_each(|row| *of_name.entry(row.name.clone()).or_default() += 1);
            rows.iter_mut().for_each(|row| row.is_unique = of_name.get(&row.name) == Some(&1));
            let (says, next) = match (removed, selector.is_empty()) {
                (true, _) => ("No agent was removed.", None),
                (_, false) => {
                    ("No agent matches. What there is to choose by: ", Some("writ agents show AGENT"))
                }
                (_, true) => {
                    ("No agent is enrolled. Next: ", Some("writ enroll token create --token-file FILE"))
                }
            };
            let next = next.map_or_else(String::new, |next| client.typed(next));
            output::list(format, &rows, &format!("{says}{next}"))
        }
        Agents::Show { agent } => {
            show(format, client, client.agents().get(GetAgentRequest { agent }).await?.into_inner())
        }
        Agents::Label { what, selector: Some(selector), yes, .. } => {
            label::chosen(format, client, (selector, yes), &what).await
        }
        Agents::Label { csv: Some(file), .. } => label::listed(format, client, &file).await,
        Agents::Label { what, .. } => label::one(format, client, &what).await,
        Agents::Remove { agent, yes } => {
            if !yes && confirm::can_ask() {
                let named = client.agents().get(GetAgentRequest { agent: agent.clone() }).await?.into_inner();
                let what = format!(
                    "{} ({}) will be sent nothing any more, and its id is never used again.",
                    named.name, named.agent_id
                );
                confirm::by_typing(&what, &output::plain(&named.name))?;
            }
            show(format, client, client.agents().remove(GetAgentRequest { agent }).await?.into_inner())
        }
        Agents::Approve { agent, replaces } => {
            let request = ApproveAgentRequest { agent, replaces };
            show(format, client, client.agents().approve(request).await?.into_inner())
        }
    }
}

fn show(format: Format, client: &Client, agent: Agent) -> Result<(), Failure> {
    let row = Row::new(agent);
    let actions: Vec<_> = row.actions.iter().map(|row| format!("{} ({})", row.name, row.class)).collect();
    let mut fields = vec![
        ("agent", row.agent_id.clone()),
        ("name", row.name.clone()),
        ("realm", row.realm.clone()),
        ("link", row.link().to_owned()),
        ("last contact", row.last_contact.clone()),
        ("trust", row.trust()),
        ("settings", row.settings()),
        ("waiting", row.waiting.to_string()),
        ("unanswered", row.unanswered.to_string()),
        ("labels", joined(&row.labels)),
        ("facts", joined(&row.facts)),
        ("actions", actions.join(", ")),
        ("key", row.key_id.clone()),
        ("journal", row.journal_counter.to_string()),
        ("reported", row.reported_at.clone()),
        ("enrolled", row.enrolled_at.clone()),
    ];
    if !row.held.is_empty() {
        fields.push(("held", row.held.clone()));
        fields.push(("next", client.typed(&format!("writ why {}", row.agent_id))));
    }
    if let Some(at) = &row.removed_at {
        fields.push(("removed", at.clone()));
    }
    output::one(format, &row, &fields)
}
