//! `writ-server init`.

use futures_util::future::join_all;
use tracing::debug;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::net::resolve;
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::place::Place;

use super::{Init, passphrase};
use crate::authority::create::{CreateError, FleetPlan, NewFleet, check_room, create};

/// Where operators come in unless `listen.admin` says otherwise.
const ADMIN_PORT: u16 = 7444;

pub(super) async fn init(options: Init, shutdown: Shutdown) -> Result<(), Fatal> {
    let Init { place, name, endpoints, tls_names, kind, passphrase_file, replace_fleet, if_new } = options;
    let files = place.folder.files()?;
    if files.folder().exists() {
        files::check_owner(files.folder()).map_err(Fatal::failure)?;
        // Before anybody is asked for a passphrase.
        match check_room(&files, replace_fleet.as_deref()).await {
            Err(CreateError::Exists { fleet, name: there, .. }) if if_new && there == name => {
                writ_common::say::aside(format_args!(
                    "fleet `{name}` ({fleet}) is here already; nothing was changed"
                ));
                return Ok(());
            }
            checked => checked.map_err(explain)?,
        }
    }
    let passphrase = passphrase::ask(passphrase_file.as_deref(), "the authority key and the backup", true)?;
    let plan = FleetPlan {
        name,
        endpoints,
        extra_names: tls_names,
        algorithm: kind.key_algorithm,
        passphrase,
        replaces: replace_fleet,
    };
    // As they will be signed; what is none is refused below.
    let places = plan.endpoints.iter().filter_map(|endpoint| Place::for_others(endpoint).ok());
    let endpoints: Vec<_> = places.map(|place| place.to_string()).collect();
    let host = host_of(&endpoints);
    let begin = || {
        writ_common::say::aside(format_args!(
            "making keys and sealing the backup; the passphrase hash takes a few seconds …"
        ))
    };
    let made = create(&files, plan, begin, SystemClock::new().wall(), &shutdown).await;
    let made = made.map_err(explain)?;
    say_doubts(&endpoints, &shutdown).await;
    let is_drained = shutdown.drain(std::time::Duration::from_secs(5)).await;
    debug!(is_drained, "store closed");
    // A folder that is named needs no configuration, which may be what is broken.
    let port = place.folder.config().map_or(ADMIN_PORT, |config| config.listen_admin.port());
    place.say(&made, &describe(&made, &format!("{host}:{port}"), &place.folder.start().how()))
}

fn explain(error: CreateError) -> Fatal {
    match error {
        CreateError::FleetPlan(_)
        | CreateError::Tls(_)
        | CreateError::Certificate(_)
        | CreateError::Seal(_) => Fatal::usage(error),
        CreateError::Exists { .. }
        | CreateError::Lost(_)
        | CreateError::Presence(_)
        | CreateError::File(_)
        | CreateError::Store(_)
        | CreateError::Backup(_) => Fatal::caused("no fleet was made", &error),
    }
}

/// Warns of endpoints that look wrong from here: they are signed for years, and an agent that finds nobody
/// there is lost.
pub(super) async fn say_doubts(endpoints: &[String], shutdown: &Shutdown) {
    for doubt in shutdown.unless_requested(doubts(endpoints)).await.unwrap_or_default() {
        writ_common::say::aside(format_args!(
            "writ-server: warning: {doubt}. Agents look there once they have the trust bundle; to change it: writ-server authority endpoints"
        ));
    }
}

async fn doubts(endpoints: &[String]) -> Vec<String> {
    let ask = |endpoint: &str| {
        let place = endpoint.parse::<Place>();
        async move {
            match place {
                Ok(place) => resolve(&place).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    let asked = join_all(endpoints.iter().map(|endpoint| ask(endpoint))).await;
    let mut doubts = Vec::new();
    for (endpoint, asked) in endpoints.iter().zip(asked) {
        let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
        if ["localhost", "127.0.0.1", "[::1]"].contains(&host) {
            doubts.push(format!("{endpoint}: only agents on this host find it"));
        } else if let Err(error) = asked {
            doubts.push(format!("{endpoint}: from here, now, it leads nowhere: {error}"));
        }
        if port == "7444" {
            doubts.push(format!("{endpoint}: 7444 is where operators come in unless listen.admin says otherwise; agents come to 7443"));
        }
    }
    doubts
}

/// The host of the first endpoint: this server, most likely.
fn host_of(endpoints: &[String]) -> String {
    let host = endpoints.first().and_then(|endpoint| endpoint.rsplit_once(':'));
    host.map_or_else(|| "HOST".to_owned(), |(host, _)| host.to_owned())
}

fn describe(made: &NewFleet, admin: &str, start: &str) -> String {
    let NewFleet {
        fleet_id,
        fleet_name,
        authority_key_id,
        signing_key_id,
        signing_accept_until,
        tls_ca_spki_sha256,
        bundle_digest,
        authority_file,
        admin_token_file,
        admin_ca_file,
        backup_file,
        replaced_folder,
    } = made;
    let replaced = replaced_folder.as_ref().map_or_else(String::new, |folder| {
        format!(
            "\nThe state of the fleet that was given up lies in {}; its agents obey nobody here.",
            folder.display()
        )
    });
    format!(
        "Fleet `{fleet_name}` is made.{replaced}

  fleet id            {fleet_id}
  authority key       {authority_key_id}
  signing key         {signing_key_id}
  signs until         {signing_accept_until}
  TLS authority       {tls_ca_spki_sha256}
  trust bundle 1      {bundle_digest}

  sealed backup       {backup}
  sealed authority    {authority}
  admin token         {token}
  TLS authority file  {ca}

Next:
  1. Copy the sealed backup to another place. Without it and its passphrase a lost disk is a lost fleet.
  2. {start}
  3. writ context add {fleet_name} --server {admin} --ca {ca} --token-file {token}",
        backup = backup_file.display(),
        authority = authority_file.display(),
        token = admin_token_file.display(),
        ca = admin_ca_file.display(),
    )
}
