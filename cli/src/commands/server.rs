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
    #[serde(skip_serializing_if = "Option::is_none")]
    turns: Option<Turns>,
}

/// Of `limits.running`.
#[derive(Serialize)]
struct Turns {
    limit: u32,
    running: u32,
    waiting: u32,
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
        running_limit,
        running,
        waiting_for_turn,
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
        turns: (running_limit > 0).then_some(Turns {
            limit: running_limit,
            running,
            waiting: waiting_for_turn,
        }),
    };
    let signs_until = match signing_accept_until_ms {
        0 => "nothing can be signed; on the server: writ-server doctor".to_owned(),
        _ => shown.signing_accept_until.clone(),
    };
    let mut fields = vec![
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
    if let Some(Turns { limit, running, waiting }) = &shown.turns {
        fields.push((
            "running",
            format!("{running} commands of {limit} at a time; {waiting} agents wait for their turn"),
        ));
    }
    output::one(format, &shown, &fields)
}
