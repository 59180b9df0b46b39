//! `writ server`.

use serde::Serialize;
use writ_proto::admin::v1::{GetSystemRequest, System};

use crate::args::Format;
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

#[derive(Serialize)]
struct Shown {
    fleet_name: String,
    fleet_id: String,
    version: String,
    chain_version: u64,
    chain_digest: String,
    signing_key_id: String,
    signing_accept_until: String,
    agents_enrolled: u64,
    agents_connected: u64,
    time: String,
}

pub(super) async fn run(format: Format, client: &Client) -> Result<(), Failure> {
    let System {
        version,
        fleet_id,
        fleet_name,
        chain_version,
        chain_digest,
        signing_key_id,
        signing_accept_until_ms,
        agents_enrolled,
        agents_connected,
        time_ms,
    } = client.system().get(GetSystemRequest {}).await?.into_inner();
    let shown = Shown {
        fleet_name,
        fleet_id,
        version,
        chain_version,
        chain_digest,
        signing_key_id,
        signing_accept_until: match signing_accept_until_ms {
            0 => "nothing can be signed".to_owned(),
            until => output::time(until),
        },
        agents_enrolled,
        agents_connected,
        time: output::time(time_ms),
    };
    let signs_until = match signing_accept_until_ms {
        0 => "nothing can be signed; on the server: writ-server doctor".to_owned(),
        _ => shown.signing_accept_until.clone(),
    };
    let fields = [
        ("fleet", format!("{} ({})", shown.fleet_name, shown.fleet_id)),
        ("version", shown.version.clone()),
        ("bundle", format!("{} ({})", shown.chain_version, shown.chain_digest)),
        (
            "signing key",
            if shown.signing_key_id.is_empty() { "none".to_owned() } else { shown.signing_key_id.clone() },
        ),
        ("signs until", signs_until),
        ("agents", format!("{} of {} connected", shown.agents_connected, shown.agents_enrolled)),
        ("time", shown.time.clone()),
    ];
    output::one(format, &shown, &fields)
}
