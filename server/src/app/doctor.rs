//! `writ-server doctor`.

use writ_common::daemon::Fatal;
use writ_common::doctor::Report;
use writ_common::shutdown::Shutdown;

use super::local::Place;
use crate::doctor::examine;

/// Exit code 1 when something is bad.
pub(super) async fn run(place: Place, shutdown: Shutdown) -> Result<(), Fatal> {
    let mint = place.mint(&shutdown).await?;
    let report = Report::of(examine(&mint).await.map_err(|error| Fatal::caused("cannot look", &error))?);
    place.say(&report, &report.text())?;
    if report.is_bad() { Err(Fatal::failure(report.verdict)) } else { Ok(()) }
}
