//! `writ-server doctor`.

use writ_common::daemon::Fatal;
use writ_common::doctor::Report;
use writ_common::shutdown::Shutdown;

use super::cert::{Place, mint, say};
use crate::doctor::examine;

/// Exit code 1 when something is bad.
pub(super) async fn run(place: Place, shutdown: Shutdown) -> Result<(), Fatal> {
    let mint = mint(&place, &shutdown).await?;
    let report = Report::of(examine(&mint).await.map_err(|error| Fatal::caused("cannot look", &error))?);
    say(&place, &report, &report.text())?;
    if report.is_bad() { Err(Fatal::failure(report.verdict)) } else { Ok(()) }
}
