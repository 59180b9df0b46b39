//! Telling a web server of the organisation's (`alerts.webhook`): each alert is a signed word of its own.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use tracing::warn;
use url::Url;
use writ_common::shutdown::Shutdown;
use writ_common::web::WebHook;
use writ_common::{files, text};
use writ_protocol::id::FleetId;
use writ_protocol::notice::AlertNotice;
use writ_protocol::time::Timestamp;

use super::{Untold, authorities};
use crate::context::Server;
use crate::store::{AlertKind, AlertRow, SERVER};

/// Where alerts are posted.
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
        let hook = WebHook::new(url, ca.as_deref().map(authorities).transpose()?, shutdown)?;
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
    pub(super) async fn tell(&self, server: &Server, alert: &AlertRow) -> Result<(), Untold> {
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
