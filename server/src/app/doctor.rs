//! `writ-server doctor`.

use writ_common::daemon::Fatal;
use writ_common::doctor::Report;
use writ_common::shutdown::Shutdown;

use super::Doctor;
use crate::doctor::{examine, ports, traces, updates};

/// Exit code 1 when something is bad.
pub(super) async fn run(options: Doctor, shutdown: Shutdown) -> Result<(), Fatal> {
    let Doctor { place } = options;
    let config = place.folder.config()?;
    let publisher = place.reader(&shutdown).await?;
    let mut findings = examine(&publisher).await.map_err(|error| Fatal::caused("cannot look", &error))?;
    findings.extend(traces(&publisher, &config).await);
    findings.push(updates(&publisher, &config));
    findings.push(ports(&publisher.files, &config, place.folder.start()).await);
    let report = Report::of(findings);
    place.say(&report, &report.text())?;
    if report.is_bad() { Err(Fatal::said()) } else { Ok(()) }
}
