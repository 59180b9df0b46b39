//! `writ selectors`.

use serde::Serialize;
use writ_proto::admin::v1::{
    DeleteSelectorRequest, ListSelectorsRequest, SaveSelectorRequest, SavedSelector as Known,
};

use crate::args::{Format, Selectors};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Row {
    name: String,
    selector: String,
    agents: u32,
    saved_by: String,
    saved_at: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    replaced: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["NAME", "AGENTS", "SELECTOR", "BY", "SAVED"];

    fn cells(&self) -> Vec<String> {
        let Self { name, selector, agents, saved_by, saved_at, .. } = self;
        vec![format!("@{name}"), agents.to_string(), selector.clone(), saved_by.clone(), saved_at.clone()]
    }
}

fn row(known: Known) -> Row {
    let Known { name, selector, saved_by, saved_at_ms, agents, replaced } = known;
    let [name, selector, saved_by, replaced] =
        [name, selector, saved_by, replaced].map(|text| output::plain(&text));
    Row { name, selector, agents, saved_by, saved_at: output::time(saved_at_ms), replaced }
}

pub(super) async fn run(format: Format, client: &Client, verb: Selectors) -> Result<(), Failure> {
    match verb {
        Selectors::Save { name, selector } => {
            let request = SaveSelectorRequest { name, selector };
            let row = row(client.selectors().save(request).await?.into_inner());
            let next = client.typed(&format!("writ agents list --selector @{}", row.name));
            let mut fields = vec![
                ("name", format!("@{}", row.name)),
                ("selector", row.selector.clone()),
                ("agents", row.agents.to_string()),
            ];
            if !row.replaced.is_empty() {
                fields.push(("before", row.replaced.clone()));
            }
            fields.push(("next", next));
            output::one(format, &row, &fields)
        }
        Selectors::List => {
            let listed =
                client.selectors().list(ListSelectorsRequest { without_counts: false }).await?.into_inner();
            let rows: Vec<_> = listed.selectors.into_iter().map(row).collect();
            let next = client.typed("writ selectors save NAME 'site=rome'");
            output::list(format, &rows, &format!("No selector was saved. Next: {next}"))
        }
        Selectors::Delete { name } => {
            #[derive(Serialize)]
            struct Deleted {
                deleted: String,
            }
            let _deleted = client.selectors().delete(DeleteSelectorRequest { name: name.clone() }).await?;
            let deleted = Deleted { deleted: name.trim_start_matches('@').to_owned() };
            let fields = [("deleted", format!("@{}", deleted.deleted))];
            output::one(format, &deleted, &fields)
        }
    }
}
