//! `writ send … --dry-run`.

use serde::Serialize;
use writ_proto::admin::v1::{PreviewRequest, PreviewResponse, PreviewTarget, SubmitRequest};

use super::PAGE;
use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Shown {
    target_count: u32,
    audience_root: String,
    action_class: String,
    not_allowing: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waves: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    first_wave: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    obstacle: String,
    targets: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    agent_id: String,
    agent_name: String,
    connected: bool,
    allows: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    refusal: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["NAME", "LINK", "BY ITS LAST REPORT"];
    const WIDE: &'static [&'static str] = &["NAME", "LINK", "BY ITS LAST REPORT", "AGENT"];

    fn cells(&self) -> Vec<String> {
        let link = if self.connected { "connected" } else { "away" };
        let outlook = if self.refusal.is_empty() { "would obey" } else { "would refuse" };
        let outlook = format!("{outlook}{}{}", if self.allows { "" } else { ": " }, self.refusal);
        vec![self.agent_name.clone(), link.to_owned(), outlook]
    }

    fn wide(&self) -> Vec<String> {
        self.cells().into_iter().chain([self.agent_id.clone()]).collect()
    }
}

pub(super) async fn run(format: Format, client: &Client, request: SubmitRequest) -> Result<(), Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    let last = loop {
        let asked = PreviewRequest { request: Some(request.clone()), page_size: PAGE, page_token };
        let mut page = client.commands().preview(asked).await?.into_inner();
        rows.extend(std::mem::take(&mut page.targets).into_iter().map(row));
        page_token = page.next_page_token.clone();
        if page_token.is_empty() {
            break page;
        }
    };
    let PreviewResponse { target_count, audience_root, action_class, not_allowing, .. } = last;
    let PreviewResponse { waves, seed, first_wave, obstacle, .. } = last;
    let seed = (seed > 0).then_some(seed);
    let first_wave = first_wave.iter().map(|name| output::plain(name)).collect();
    let shown = Shown {
        target_count,
        audience_root,
        action_class,
        not_allowing,
        waves,
        seed,
        first_wave,
        obstacle,
        targets: rows,
    };
    if format.is_rows() {
        return output::list(format, &shown.targets, "");
    }
    if !format.is_for_people() {
        return output::one(format, &shown, &[]);
    }
    output::list(format, &shown.targets, "No targets.")?;
    if let Some(seed) = shown.seed {
        let waves: Vec<_> = shown.waves.iter().map(u32::to_string).collect();
        output::text(&format!(
            "\nWaves of {} agents. The first: {}. The same order again: --seed {seed}",
            waves.join(", "),
            shown.first_wave.join(", ")
        ))?;
    }
    let note = match shown.not_allowing {
        0 => String::new(),
        some => format!("; {some} would refuse it"),
    };
    output::text(&format!(
        "\n{} targets, class {}{note}, by what they last reported. Nothing was signed or sent.",
        shown.target_count, shown.action_class
    ))?;
    match shown.obstacle.as_str() {
        "" => Ok(()),
        why => output::text(&format!("\nWithout --unchecked it would be refused: {}", output::plain(why))),
    }
}

fn row(target: PreviewTarget) -> Row {
    let PreviewTarget { agent_id, agent_name, connected, allows, refusal } = target;
    Row { agent_id, agent_name: output::plain(&agent_name), connected, allows, refusal }
}
