//! `writ-agent upgrade`.

use std::path::Path;

use serde_json::json;
use writ_common::daemon::Fatal;
use writ_common::say;
use writ_common::shutdown::Shutdown;
use writ_common::telemetry;
use writ_common::telemetry::LogFormat;
use writ_common::time::{Clock as _, SystemClock};

use super::{Output, Upgrade, UpgradeAllow};
use crate::config::Config;
use crate::identity::Files;
use crate::upgrade::apply::Upgrader;
use crate::upgrade::host::Machine;
use crate::upgrade::{self, Allowed, Place, allow, state};

pub(super) async fn upgrade(verb: Upgrade, shutdown: Shutdown) -> Result<(), Fatal> {
    let place = Place::new(Path::new(upgrade::FOLDER));
    match verb {
        Upgrade::Allow(options) => allow(&place, options).await,
        Upgrade::Forbid { output } => {
            allow::forbid(&place).await?;
            let next = "systemctl restart writ-agent";
            let text = match output {
                Output::Json => json!({ "allowed": false, "next": next }).to_string(),
                Output::Text => format!("this agent is upgraded by no command any more\nnext: {next}"),
            };
            say::result(text).map_err(Fatal::failure)
        }
        Upgrade::Apply => apply(&place, shutdown).await,
        Upgrade::State { step, data_dir } => state::handle(&Files::new(&data_dir), step),
    }
}

async fn allow(place: &Place, options: UpgradeAllow) -> Result<(), Fatal> {
    let UpgradeAllow { place: state, unit, bundle, output } = options;
    let config = Config::load(state.config.as_deref(), state.data_dir.as_deref()).map_err(Fatal::usage)?;
    let allowed = allow::allow(place, &Files::new(&config.data_dir), (&unit, bundle)).await?;
    let Allowed { agent_id, realm, bundle_digest, component, program, unit, .. } = &allowed;
    let next = format!("systemctl restart {unit}");
    let text = match output {
        Output::Json => json!({
            "allowed": true,
            "agent_id": agent_id,
            "realm": realm,
            "bundle_digest": bundle_digest,
            "component": component,
            "program": program,
            "next": next,
        })
        .to_string(),
        Output::Text => format!(
            "agent      {agent_id}\nrealm      {realm}\nprogram    {}\npackages   {component}\nfleet      whom trust bundle {bundle_digest} names, and who follows from it\nnext       {next}",
            program.display()
        ),
    };
    say::result(text).map_err(Fatal::failure)
}

async fn apply(place: &Place, shutdown: Shutdown) -> Result<(), Fatal> {
    telemetry::init("info", LogFormat::Text).map_err(|error| Fatal::usage(format!("cannot log: {error}")))?;
    let Some(allowed) = place.allowed().map_err(Fatal::failure)? else {
        return Err(Fatal::usage("nobody allowed upgrades here; as root: writ-agent upgrade allow"));
    };
    let host = Machine::new(place, &allowed, &shutdown);
    let now = SystemClock::new().wall();
    Upgrader { place, allowed, host, now }.run().await.map_err(Fatal::failure)
}
