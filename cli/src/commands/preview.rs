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
    targets: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    agent_id: String,
    agent_name: String,
    connected: bool,
    allows: bool,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["AGENT", "NAME", "LINK", "ACTION"];

    fn cells(&self) -> Vec<String> {
        let link = if self.connected { "connected" } else { "away" };
        let allows = if self.allows { "on its list" } else { "not on its list" };
        vec![self.agent_id.clone(), self.agent_name.clone(), link.to_owned(), allows.to_owned()]
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
    let PreviewResponse { waves, seed, first_wave, .. } = last;
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
        targets: rows,
    };
    if format == Format::Json {
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
        "\n{} targets, class {}{note}, by what they last reported; parameters are checked by the agents. Nothing was signed or sent.",
        shown.target_count, shown.action_class
    ))
}

fn row(target: PreviewTarget) -> Row {
    let PreviewTarget { agent_id, agent_name, connected, allows } = target;
    Row { agent_id, agent_name: output::plain(&agent_name), connected, allows }
}
