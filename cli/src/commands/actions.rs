//! `writ actions`.

use std::time::Duration;

use serde::Serialize;
use writ_proto::admin::v1::{
    ActionSummary, ActionVersion, GetActionRequest, ListActionsRequest, ParameterDescription,
};

use writ_protocol::command::is_own_action;

use super::PAGE;
use crate::args::{Actions, Format};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Row {
    name: String,
    class: String,
    agents: u32,
    versions: u32,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["ACTION", "CLASS", "AGENTS", "VERSIONS"];

    fn cells(&self) -> Vec<String> {
        let Self { name, class, agents, versions } = self;
        vec![name.clone(), class.clone(), agents.to_string(), versions.to_string()]
    }
}

#[derive(Serialize)]
struct Shown {
    name: String,
    versions: Vec<Version>,
    more_versions: u32,
}

#[derive(Serialize)]
struct Version {
    class: String,
    described: bool,
    timeout: String,
    idempotent: bool,
    parameters: Vec<Parameter>,
    definition_digest: String,
    agents: u32,
    agent_names: Vec<String>,
}

#[derive(Serialize)]
struct Parameter {
    name: String,
    takes: String,
    default: Option<String>,
    secret: bool,
}

pub(super) async fn run(format: Format, client: &Client, verb: Actions) -> Result<(), Failure> {
    match verb {
        Actions::List { selector } => list(format, client, selector).await,
        Actions::Show { name, selector } => show(format, client, name, selector).await,
    }
}

async fn list(format: Format, client: &Client, selector: String) -> Result<(), Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let asked = ListActionsRequest { selector: selector.clone(), page_size: PAGE, page_token };
        let page = client.actions().list(asked).await?.into_inner();
        rows.extend(page.actions.into_iter().map(|action| {
            let ActionSummary { name, class, agents, versions } = action;
            Row { name, class, agents, versions }
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output::list(format, &rows, "No agent has said yet what it can do.")
}

async fn show(format: Format, client: &Client, name: String, selector: String) -> Result<(), Failure> {
    let found = client.actions().get(GetActionRequest { name, selector }).await?.into_inner();
    let versions = found.versions.into_iter().map(Version::new).collect();
    let shown = Shown { name: found.name, versions, more_versions: found.more_versions };
    if !format.is_for_people() {
        return output::one(format, &shown, &[]);
    }
    let count = shown.versions.len();
    for (number, version) in shown.versions.iter().enumerate() {
        if number > 0 {
            output::text("")?;
        }
        let mut fields = vec![("action", shown.name.clone())];
        if count > 1 {
            fields.push(("version", format!("{} of {count}", number + 1)));
        }
        fields.extend(version.fields(&shown.name));
        let needed = version.parameters.iter().filter(|one| one.default.is_none());
        let typed: Vec<_> = needed
            .map(|one| {
                if one.secret { format!(" --secret {}=FILE", one.name) } else { format!(" {}=…", one.name) }
            })
            .collect();
        if number + 1 == count {
            let send = match is_own_action(&shown.name) {
                true => "writ send --help".to_owned(),
                false => format!("writ send action {}{} --dry-run …", shown.name, typed.concat()),
            };
            fields.push(("next", client.typed(&send)));
        }
        output::one(format, version, &fields)?;
    }
    match shown.more_versions {
        0 => Ok(()),
        more => output::text(&format!(
            "\nThere are {more} further versions, of fewer agents; choose some: --selector"
        )),
    }
}

impl Version {
    fn new(version: ActionVersion) -> Self {
        let ActionVersion {
            class,
            described,
            timeout_ms,
            idempotent,
            parameters,
            definition_digest,
            agents,
            agent_names,
        } = version;
        Self {
            class,
            described,
            timeout: humantime::format_duration(Duration::from_millis(timeout_ms)).to_string(),
            idempotent,
            parameters: parameters.into_iter().map(Parameter::new).collect(),
            definition_digest,
            agents,
            agent_names: agent_names.iter().map(|name| output::plain(name)).collect(),
        }
    }

    fn fields(&self, name: &str) -> Vec<(&'static str, String)> {
        let more = usize::try_from(self.agents).unwrap_or(usize::MAX).saturating_sub(self.agent_names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let mut fields = vec![
            ("class", self.class.clone()),
            ("agents", format!("{}: {}{more}", self.agents, self.agent_names.join(", "))),
        ];
        if !self.described {
            fields.push((
                "takes",
                match is_own_action(name) {
                    true => "what `writ send` gives it: every agent has it".to_owned(),
                    false => "these agents are older, and do not say".to_owned(),
                },
            ));
            return fields;
        }
        let again =
            if self.idempotent { "yes" } else { "no; an interrupted run is reported and not repeated" };
        fields.push(("time-out", self.timeout.clone()));
        fields.push(("starts again", again.to_owned()));
        fields.push(("file", format!("SHA-256 {}", self.definition_digest)));
        for Parameter { name, takes, default, secret } in &self.parameters {
            let secret = if *secret { "; secret: give it by --secret KEY=FILE" } else { "" };
            let default =
                default.as_ref().map_or_else(String::new, |value| format!("; {value} unless given"));
            fields.push(("takes", format!("{name}: {takes}{default}{secret}")));
        }
        if self.parameters.is_empty() {
            fields.push(("takes", "nothing".to_owned()));
        }
        fields
    }
}

impl Parameter {
    fn new(parameter: ParameterDescription) -> Self {
        let ParameterDescription { name, r#type, pattern, least, most, choices, default_value, secret } =
            parameter;
        let takes = match r#type.as_str() {
            "text" => format!("text that matches {pattern}"),
            "integer" => format!("a whole number, {least} to {most}"),
            "choice" => format!("one of {}", choices.join(", ")),
            other => format!("a value of type {other}, which this program does not know"),
        };
        let default = Some(default_value).filter(|value| !value.is_empty());
        Self { name: output::plain(&name), takes: output::plain(&takes), default, secret }
    }
}
