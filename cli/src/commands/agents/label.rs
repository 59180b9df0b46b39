//! `writ agents label`.

use std::path::Path;

use serde::Serialize;
use writ_common::files;
use writ_proto::admin::v1::{Attribute, LabelAgentRequest, LabelManyRequest, ListAgentsRequest};

use super::show;
use crate::args::Format;
use crate::client::Client;
use crate::commands::PAGE;
use crate::confirm;
use crate::failure::Failure;
use crate::output;

/// The cell that removes a label.
const REMOVES: &str = "-";

#[derive(Serialize)]
struct Labelled {
    chosen: u32,
    changed: u32,
}

/// Of one agent: its name and what changes.
pub(super) async fn one(format: Format, client: &Client, what: &[String]) -> Result<(), Failure> {
    let Some((agent, changes)) = what.split_first() else {
        return Err(Failure::usage("name an agent, or give --selector or --csv"));
    };
    if agent.contains('=') || changes.is_empty() {
        return Err(Failure::usage(format!(
            "`{}` names no agent and a change; write: writ agents label AGENT NAME=VALUE",
            what.join(" ")
        )));
    }
    let (set, remove) = read(changes)?;
    let request = LabelAgentRequest { agent: agent.clone(), set, remove };
    show(format, client, client.agents().label(request).await?.into_inner())
}

/// Of all that a selector chooses.
pub(super) async fn chosen(
    format: Format,
    client: &Client,
    (selector, is_sure): (String, bool),
    changes: &[String],
) -> Result<(), Failure> {
    let (set, remove) = read(changes)?;
    let mut expected = 0;
    if !is_sure && confirm::can_ask() {
        let count = count(client, &selector).await?;
        if count == 0 {
            return Err(Failure::missing(format!("no agent matches `{selector}`; nobody was labelled")));
        }
        expected = u32::try_from(count).unwrap_or(u32::MAX);
        let what = format!("Labels of {count} agents change: {}.", changes.join(" "));
        confirm::by_typing(&what, &count.to_string())?;
    }
    many(format, client, LabelManyRequest { selector, set, remove, expected, each: Vec::new() }).await
}

/// As a file says.
pub(super) async fn listed(format: Format, client: &Client, file: &Path) -> Result<(), Failure> {
    let bytes = files::read(file).map_err(|error| Failure::local(error.to_string()))?;
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| Failure::usage(format!("{}: it is not UTF-8 text", file.display())))?;
    if text.lines().next().is_some_and(|head| head.contains(';') && !head.contains(',')) {
        let why = "its columns are separated by `;`, and must be by `,`";
        return Err(Failure::usage(format!("{}: {why}", file.display())));
    }
    let each = table(&text).map_err(|error| error.about(&file.display().to_string()))?;
    many(format, client, LabelManyRequest { each, ..LabelManyRequest::default() }).await
}

async fn many(format: Format, client: &Client, request: LabelManyRequest) -> Result<(), Failure> {
    let done = client.agents().label_many(request).await?.into_inner();
    let labelled = Labelled { chosen: done.chosen, changed: done.changed };
    let fields = [("agents", labelled.chosen.to_string()), ("changed", labelled.changed.to_string())];
    output::one(format, &labelled, &fields)
}

async fn count(client: &Client, selector: &str) -> Result<usize, Failure> {
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let selector = selector.to_owned();
        let request = ListAgentsRequest { page_size: PAGE, page_token, selector, removed: false };
        let page = client.agents().list(request).await?.into_inner();
        count += page.agents.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(count);
        }
    }
}

fn read(changes: &[String]) -> Result<(Vec<Attribute>, Vec<String>), Failure> {
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for change in changes {
        match (change.split_once('='), change.strip_suffix('-')) {
            (Some((name, value)), _) => {
                set.push(Attribute { name: name.to_owned(), value: value.to_owned() })
            }
            (None, Some(name)) => remove.push(name.to_owned()),
            (None, None) => {
                let text = format!("`{change}`: write NAME=VALUE to set a label, NAME- to remove one");
                return Err(Failure::usage(text));
            }
        }
    }
    Ok((set, remove))
}

/// The lines of a table that change something.
fn table(text: &str) -> Result<Vec<LabelAgentRequest>, Failure> {
    let unreadable = |error: csv::Error| Failure::usage(format!("{error}; nobody was labelled"));
    // Spreadsheets write a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let head = reader.headers().map_err(unreadable)?.clone();
    let place = head.iter().position(|name| name == "agent");
    let place = place.ok_or_else(|| Failure::usage("its first line has no column `agent`"))?;
    let mut each = Vec::new();
    for line in reader.records() {
        let line = line.map_err(unreadable)?;
        let agent = line.get(place).unwrap_or_default().to_owned();
        let (mut set, mut remove) = (Vec::new(), Vec::new());
        for (name, value) in
            head.iter().zip(&line).filter(|(name, value)| *name != "agent" && !value.is_empty())
        {
            match value {
                REMOVES => remove.push(name.to_owned()),
                value => set.push(Attribute { name: name.to_owned(), value: value.to_owned() }),
            }
        }
        if !set.is_empty() || !remove.is_empty() {
            each.push(LabelAgentRequest { agent, set, remove });
        }
    }
    if each.is_empty() {
        return Err(Failure::usage("it changes nothing"));
    }
    Ok(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_sets_removes_and_leaves_labels() {
        let each =
            table("\u{feff}site,agent,tier\r\nrome,web1,-\r\n,web2,\r\n\"oslo\", web3 ,gold\r\n").unwrap();
        let shown: Vec<_> = each
            .iter()
            .map(|one| {
                (one.agent.as_str(), one.set.iter().map(|set| set.value.as_str()).collect(), one.remove.len())
            })
            .collect::<Vec<(_, Vec<_>, _)>>();
        assert_eq!(shown, [("web1", vec!["rome"], 1), ("web3", vec!["oslo", "gold"], 0)]);
        for (text, says) in [
            ("name,site\nweb1,rome\n", "no column `agent`"),
            ("agent,site\nweb1,rome,more\n", "record 1"),
            ("agent,site\nweb1,\n", "it changes nothing"),
        ] {
            assert!(table(text).unwrap_err().text().contains(says), "{text}");
        }
    }
}
