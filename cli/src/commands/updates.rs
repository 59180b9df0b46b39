//! `writ updates`.

use serde::Serialize;
use writ_proto::admin::v1::{ComponentCoverage, GetCoverageRequest};

use crate::args::{Format, Updates};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Covered {
    component: String,
    version: String,
    sha256: String,
    agents: u64,
    holding: u64,
    behind_selector: String,
}

impl Rows for Covered {
    const HEAD: &'static [&'static str] = &["COMPONENT", "VERSION", "HOLD IT", "AGENTS", "THE OTHERS"];

    fn cells(&self) -> Vec<String> {
        let Self { component, version, agents, holding, behind_selector, .. } = self;
        let others = if holding == agents { String::new() } else { behind_selector.clone() };
        vec![component.clone(), version.clone(), holding.to_string(), agents.to_string(), others]
    }
}

pub(super) async fn run(format: Format, client: &Client, verb: &Updates) -> Result<(), Failure> {
    match verb {
        Updates::Coverage => coverage(format, client).await,
    }
}

async fn coverage(format: Format, client: &Client) -> Result<(), Failure> {
    let covered = client.updates().get_coverage(GetCoverageRequest {}).await?.into_inner();
    let rows: Vec<_> = covered.components.into_iter().map(row).collect();
    output::list(
        format,
        &rows,
        "The server has no component for agents; see there: writ-server updates status",
    )
}

fn row(covered: ComponentCoverage) -> Covered {
    let ComponentCoverage { component, version, sha256, agents, holding, behind_selector } = covered;
    Covered { component, version, sha256, agents, holding, behind_selector }
}
