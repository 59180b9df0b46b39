//! Tells a web server of the organisation's about alerts (`alerts.webhook`): that one is open, that it ended,
//! that somebody has seen to it. How often an open one is raised again is not told each time.
//!
//! The queue is the table of alerts: what was told last stands beside each. So nothing is lost when this
//! server or the other one is away, and nothing grows. A word may come twice, when this server ends between
//! the answer and the note of it; the number, the state and the time of an alert tell which it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use tracing::{info, warn};
use url::Url;
use writ_common::backoff::Backoff;
use writ_common::keys::pem;
use writ_common::shutdown::Shutdown;
use writ_common::web::WebHook;
use writ_common::{files, text};
use writ_protocol::id::FleetId;
use writ_protocol::notice::AlertNotice;
use writ_protocol::time::Timestamp;

use crate::context::Server;
use crate::store::{Alarm, AlertKind, AlertRow, SERVER, StoreError};

/// How often it is looked whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first bound of the wait after the web server did not take something.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Alerts told in one go, one after the other.
const BATCH: u32 = 100;

/// Where alerts are told.
#[derive(Debug, Clone)]
pub(crate) struct WebhookSettings {
    /// Its address.
    pub url: Url,
    /// Who vouches for it; `None`: those that this host trusts.
    pub ca: Option<PathBuf>,
    /// A file with a bearer token.
    pub token_file: Option<PathBuf>,
}

/// A place that is told.
#[derive(Debug)]
pub(crate) struct Webhook {
    hook: WebHook,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Webhook {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(settings: &WebhookSettings, shutdown: Shutdown) -> Result<Self, String> {
        let WebhookSettings { url, ca, token_file } = settings;
        let authorities = ca.as_ref().map(|path| {
            let text = files::read(path).map_err(|error| error.to_string())?;
            pem::certificates(&text).map_err(|error| format!("{}: {error}", path.display()))
        });
        let hook = WebHook::new(url, authorities.transpose()?, shutdown)?;
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        if let Some(path) = token_file {
            let token = files::secret_line(path).map_err(|error| error.to_string())?;
            let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
            let mut value = value.map_err(|_| format!("{}: it is no bearer token", path.display()))?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        Ok(Self { hook, headers })
    }

    /// Tells one thing.
    async fn tell(&self, server: &Server, alert: &AlertRow) -> Result<(), Untold> {
        let chain = server.chain();
        let fleet = (server.fleet, chain.head().bundle.fleet_name.as_str());
        let word = server.signer.alert(|now| notice(fleet, alert, now));
        let word = word.map_err(|error| Untold::Ours(error.to_string()))?;
        match self.hook.post(&self.headers, Bytes::from(word)).await {
            Ok(status) if status.is_success() => Ok(()),
            // Not this one: it would keep all others waiting behind it for ever.
            Ok(status) if status.is_client_error() && !ABOUT_THE_WAY.contains(&status.as_u16()) => {
                warn!(alert = alert.id, %status, "the webhook will not have this alert, which is left out");
                Ok(())
            }
            Ok(status) => Err(Untold::Theirs(format!("it answers {status}"))),
            Err(error) => Err(Untold::Theirs(text::quoted(&error.to_string()))),
        }
    }
}

/// Statuses of 4xx that say nothing of what was posted: a wrong token, address or method, too slow, too much.
const ABOUT_THE_WAY: [u16; 6] = [401, 403, 404, 405, 408, 429];

/// Why something was not told.
enum Untold {
    /// The web server did not take it.
    Theirs(String),
    /// This server could not say it.
    Ours(String),
}

fn notice((fleet_id, fleet): (FleetId, &str), alert: &AlertRow, now: Timestamp) -> AlertNotice {
    let is_of_server = alert.agent == SERVER;
    AlertNotice {
        fleet_id: fleet_id.to_string(),
        fleet: fleet.to_owned(),
        alert_id: alert.id,
        state: alert.state().as_str(),
        kind: alert.kind.clone(),
        code: alert.code.clone(),
        agent_id: if is_of_server { String::new() } else { alert.agent.to_string() },
        agent_name: alert.agent_name.clone(),
        count: alert.count,
        first_at: alert.first_at.to_string(),
        last_at: alert.last_at.to_string(),
        detail: text::plain(&alert.detail),
        next: AlertKind::stored_cure(&alert.kind, &alert.code),
        signed_at: now.to_string(),
    }
}

/// Until the server ends.
pub(crate) async fn run(server: Arc<Server>, webhook: Option<Webhook>) {
    let Some(webhook) = webhook else {
        end(&server).await;
        if let Err(error) = server.store.forget_untold().await {
            warn!(%error, "what nobody is told of could not be noted");
        }
        return;
    };
    let mut backoff = Backoff::new(FIRST_BACKOFF, MAX_BACKOFF);
    // Once for each time it begins to fail: who has seen to it is not asked again. One of before the server
    // started may be open still.
    let (mut is_failing, mut may_be_open) = (false, true);
    loop {
        let Some(told) = server.shutdown.unless_requested(Box::pin(turn(&server, &webhook))).await else {
            return;
        };
        let wait = match told {
            Ok(told) => {
                if told > 0 {
                    info!(told, "the webhook was told of alerts");
                }
                backoff.reset();
                is_failing = false;
                if told > 0 && std::mem::take(&mut may_be_open) {
                    end(&server).await;
                }
                LOOK_EVERY
            }
            Err(Untold::Ours(why)) => {
                warn!(%why, "the webhook cannot be told of alerts now; it is tried again");
                backoff.after_failure()
            }
            Err(Untold::Theirs(why)) => {
                warn!(%why, "the webhook does not take alerts; it is tried again");
                if !std::mem::replace(&mut is_failing, true) {
                    may_be_open = true;
                    raise(&server, &why).await;
                }
                backoff.after_failure()
            }
        };
        if server.shutdown.unless_requested(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Tells what is not told, in its order; the first that is not taken ends it.
async fn turn(server: &Server, webhook: &Webhook) -> Result<usize, Untold> {
    let failed = |error: StoreError| Untold::Ours(error.to_string());
    let untold = server.store.untold_alerts(BATCH).await.map_err(failed)?;
    for alert in &untold {
        webhook.tell(server, alert).await?;
        server.store.note_told(alert.id, alert.state(), alert.last_at).await.map_err(failed)?;
    }
    Ok(untold.len())
}

async fn raise(server: &Server, why: &str) {
    let detail = format!("Alerts are not told elsewhere: {why}.");
    let alarm = Alarm { kind: AlertKind::NotTold, code: "", agent: SERVER, count: 1, detail };
    if let Err(error) = server.store.raise(alarm, None, server.clock.wall()).await {
        warn!(%error, "the alert could not be raised");
    }
}

async fn end(server: &Server) {
    if let Err(error) = server.store.end_alert(AlertKind::NotTold, SERVER, server.clock.wall()).await {
        warn!(%error, "the alert could not be ended");
    }
}
