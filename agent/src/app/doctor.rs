//! `writ-agent doctor`.

use writ_common::daemon::Fatal;
use writ_common::doctor::Report;
use writ_common::say;
use writ_common::time::{Clock as _, SystemClock};

use super::{Output, StatusOptions};
use crate::config::Config;
use crate::doctor::examine;

/// Exit code 1 when something is bad.
pub(super) async fn doctor(options: StatusOptions) -> Result<(), Fatal> {
    let StatusOptions { place, output } = options;
    let config = Config::load(place.config.as_deref(), place.data_dir.as_deref()).map_err(Fatal::usage)?;
    let report = Report::of(examine(&config, place.start(), SystemClock::new().wall()).await);
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&report).map_err(Fatal::failure)?,
        Output::Text => report.text(),
    };
    say::result(text).map_err(Fatal::failure)?;
    if report.is_bad() { Err(Fatal::said()) } else { Ok(()) }
}
