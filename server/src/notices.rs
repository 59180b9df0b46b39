//! Tells people elsewhere about alerts, by a web server of the organisation's (`alerts.webhook`) and by mail
//! (`alerts.mail`): that one is open, that it ended, that somebody has seen to it. How often an open one is
//! raised again is not told each time.
//!
//! The queue is the table of alerts: what each was told last stands beside each. So nothing is lost when this
//! server or the other one is away, and nothing grows. A word may come twice, when this server ends between
//! the answer and the note of it; the number, the state and the time of an alert tell which it is.

mod mail;
mod webhook;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use writ_common::backoff::Backoff;
use writ_common::files;
use writ_common::keys::pem;

use crate::context::Server;
use crate::store::{Alarm, AlertKind, SERVER, StoreError, Teller};
pub(crate) use mail::{Mail, MailSettings};
pub(crate) use webhook::{Webhook, WebhookSettings};

/// How often it is looked whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first bound of the wait after something was not taken.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Alerts told in one go.
const BATCH: u32 = 100;

/// A way to tell alerts.
#[derive(Debug)]
pub(crate) enum Way {
    /// One after the other.
    Webhook(Webhook),
    /// All together.
    Mail(Mail),
}

/// Why something was not told.
enum Untold {
    /// The other side did not take it.
    Theirs(String),
    /// This server could not say it.
    Ours(String),
}

impl Way {
    /// Tells what is not told, in its order; how many, and how long to wait then.
    async fn turn(&self, server: &Server) -> Result<(usize, Duration), Untold> {
        let failed = |error: StoreError| Untold::Ours(error.to_string());
        let teller = match self {
            Self::Webhook(_) => Teller::Webhook,
            Self::Mail(_) => Teller::Mail,
        };
        let untold = server.store.untold_alerts(teller, BATCH).await.map_err(failed)?;
        let wait = match self {
            // The first that is not taken ends it.
            Self::Webhook(webhook) => {
                for alert in &untold {
                    webhook.tell(server, alert).await?;
                    let told = server.store.note_told(teller, std::slice::from_ref(alert));
                    told.await.map_err(failed)?;
                }
                LOOK_EVERY
            }
            Self::Mail(_) if untold.is_empty() => LOOK_EVERY,
            Self::Mail(mail) => {
                mail.tell(server, &untold).await?;
                server.store.note_told(teller, &untold).await.map_err(failed)?;
                mail.every()
            }
        };
        Ok((untold.len(), wait))
    }
}

/// Until the server ends.
pub(crate) async fn run(server: Arc<Server>, teller: Teller, way: Option<Way>) {
    let (name, kind) = match teller {
        Teller::Webhook => ("webhook", AlertKind::NotTold),
        Teller::Mail => ("mail server", AlertKind::NotMailed),
    };
    let Some(way) = way else {
        end(&server, kind).await;
        if let Err(error) = server.store.forget_untold(teller).await {
            warn!(%error, "what nobody is told of could not be noted");
        }
        return;
    };
    let mut backoff = Backoff::new(FIRST_BACKOFF, MAX_BACKOFF);
    // Once for each time it begins to fail: who has seen to it is not asked again. One of before the server
    // started may be open still.
    let (mut is_failing, mut may_be_open) = (false, true);
    loop {
        let Some(told) = server.shutdown.unless_requested(Box::pin(way.turn(&server))).await else {
            return;
        };
        let wait = match told {
            Ok((told, wait)) => {
                if told > 0 {
                    info!(told, "the {name} was told of alerts");
                }
                backoff.reset();
                is_failing = false;
                if told > 0 && std::mem::take(&mut may_be_open) {
                    end(&server, kind).await;
                }
                wait
            }
            Err(Untold::Ours(why)) => {
                warn!(%why, "the {name} cannot be told of alerts now; it is tried again");
                backoff.after_failure()
            }
            Err(Untold::Theirs(why)) => {
                warn!(%why, "the {name} does not take alerts; it is tried again");
                if !std::mem::replace(&mut is_failing, true) {
                    may_be_open = true;
                    raise(&server, kind, &why).await;
                }
                backoff.after_failure()
            }
        };
        if server.shutdown.unless_requested(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Who vouches for the other side, DER.
fn authorities(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = files::read(path).map_err(|error| error.to_string())?;
    pem::certificates(&text).map_err(|error| format!("{}: {error}", path.display()))
}

async fn raise(server: &Server, kind: AlertKind, why: &str) {
    let what = if kind == AlertKind::NotMailed { "mailed" } else { "told elsewhere" };
    let detail = format!("Alerts are not {what}: {why}.");
    let alarm = Alarm { kind, code: "", agent: SERVER, count: 1, detail };
    if let Err(error) = server.store.raise(alarm, None, server.clock.wall()).await {
        warn!(%error, "the alert could not be raised");
    }
}

async fn end(server: &Server, kind: AlertKind) {
    if let Err(error) = server.store.end_alert(kind, SERVER, server.clock.wall()).await {
        warn!(%error, "the alert could not be ended");
    }
}
