//! `writ why`.

use std::process::ExitCode;

use serde::Serialize;
use writ_proto::admin::v1::{Finding, FindingLevel, GetAgentRequest, WhyResponse};

use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Shown {
    verdict: String,
    obeys: bool,
    findings: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    check: String,
    level: &'static str,
    detail: String,
    next: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["", "CHECK", "WHAT", "NEXT"];

    fn cells(&self) -> Vec<String> {
        vec![self.level.to_owned(), self.check.clone(), output::plain(&self.detail), self.next.clone()]
    }
}

/// Exit code 1 when the agent does not obey, as when it refuses.
pub(super) async fn run(format: Format, client: &Client, agent: String) -> Result<ExitCode, Failure> {
    let WhyResponse { verdict, findings } =
        client.agents().why(GetAgentRequest { agent }).await?.into_inner();
    let obeys = findings.iter().all(|finding| finding.level() != FindingLevel::Bad);
    let shown = Shown { verdict, obeys, findings: findings.into_iter().map(row).collect() };
    if format == Format::Json {
        output::one(format, &shown, &[])?;
    } else {
        output::text(&output::plain(&shown.verdict))?;
        output::text("")?;
        output::list(format, &shown.findings, "")?;
    }
    Ok(if obeys { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn row(finding: Finding) -> Row {
    let level = match finding.level() {
        FindingLevel::Good => "good",
        FindingLevel::Unspecified | FindingLevel::Notice => "notice",
        FindingLevel::Bad => "bad",
    };
    Row { check: finding.check, level, detail: finding.detail, next: finding.next }
}
