//! `writ-server doctor`.

use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::shutdown::Shutdown;

use super::cert::{Place, mint, say};
use crate::doctor::{Finding, Level, examine};

#[derive(Serialize)]
struct Shown {
    verdict: String,
    findings: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    level: &'static str,
    check: &'static str,
    detail: String,
    next: String,
}

/// Exit code 1 when something is bad.
pub(super) async fn run(place: Place, shutdown: Shutdown) -> Result<(), Fatal> {
    let mint = mint(&place, &shutdown).await?;
    let findings = examine(&mint).await.map_err(|error| Fatal::caused("cannot look", &error))?;
    let worst = findings.iter().find(|finding| finding.level == Level::Bad);
    let verdict =
        worst.map_or_else(|| "nothing is wrong".to_owned(), |bad| format!("{}: {}", bad.check, bad.detail));
    let is_bad = worst.is_some();
    let rows: Vec<_> = findings
        .into_iter()
        .map(|Finding { check, level, detail, next }| Row { level: level.as_str(), check, detail, next })
        .collect();
    let lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let next = if row.next.is_empty() {
                String::new()
            } else {
                format!("\n                 Next: {}", row.next)
            };
            format!("  {:6} {:8} {}{next}", row.level, row.check, row.detail)
        })
        .collect();
    let text = format!("{verdict}\n{}", lines.join("\n"));
    say(&place, &Shown { verdict: verdict.clone(), findings: rows }, &text)?;
    if is_bad { Err(Fatal::failure(verdict)) } else { Ok(()) }
}
