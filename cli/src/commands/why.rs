//! `writ why`: what keeps an agent from obeying, told as a doctor tells it.

use std::process::ExitCode;

use serde::Serialize;
use writ_common::doctor::{Finding, Level, Report};
use writ_proto::admin::v1::{self, FindingLevel, GetAgentRequest, WhyResponse};

use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    report: Report,
    obeys: bool,
}

/// Exit code 1 when the agent does not obey, as when it refuses.
pub(super) async fn run(format: Format, client: &Client, agent: String) -> Result<ExitCode, Failure> {
    let WhyResponse { verdict, findings } =
        client.agents().why(GetAgentRequest { agent }).await?.into_inner();
    let findings = findings.into_iter().map(finding).collect();
    let report = Report { verdict: output::plain(&verdict), findings };
    let obeys = !report.is_bad();
    match format {
        Format::Table | Format::Wide => output::text(&report.text())?,
        Format::Json | Format::Jsonl | Format::Csv => output::one(format, &Shown { report, obeys }, &[])?,
    }
    Ok(ExitCode::from(u8::from(!obeys)))
}

fn finding(finding: v1::Finding) -> Finding {
    let level = match finding.level() {
        FindingLevel::Good => Level::Good,
        FindingLevel::Unspecified | FindingLevel::Notice => Level::Notice,
        FindingLevel::Bad => Level::Bad,
    };
    let (check, detail) = (output::plain(&finding.check).into(), output::plain(&finding.detail));
    Finding { level, check, detail, next: finding.next }
}
