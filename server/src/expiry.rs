//! Before a certificate ends somebody is told, 90, 30, 7 and 1 days ahead: in the log, by an alert, by
//! `writ-server doctor`, and at any time by the metric of its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};
use writ_protocol::id::KeyId;
use writ_protocol::time::Timestamp;

use crate::context::Server;
use crate::store::{Alarm, AlertKind, SERVER};

/// So many days ahead.
const WARN_DAYS: [u64; 4] = [90, 30, 7, 1];
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How often dates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The tightest of 90, 30, 7 and 1 days that a moment is within, if any.
#[must_use]
pub(crate) fn days_left(until: Timestamp, now: Timestamp) -> Option<u64> {
    WARN_DAYS.into_iter().rev().find(|days| until < now + DAY * u32::try_from(*days).unwrap_or(u32::MAX))
}

/// Looks at the certificate that signs until the server ends; says each of the steps once.
pub(crate) async fn run(server: Arc<Server>) {
    // Whether it was noted that no certificate ends soon any more.
    let (mut said, mut is_ended) = (BTreeMap::<KeyId, u64>::new(), false);
    loop {
        let now = server.clock.wall();
        let signs = server.signer.entry().map(|entry| {
            let ends = server.signer.until().unwrap_or(entry.accept_until);
            (entry.certificate.key().id(), ends, days_left(ends, now))
        });
        // No days are left of one that has ended.
        let ended =
            || server.signer.ended().map(|entry| (entry.certificate.key().id(), entry.accept_until, Some(0)));
        let soonest = signs.or_else(ended);
        let days_until_end = soonest.as_ref().and_then(|(_, _, days)| *days);
        if let Some((key, ends, Some(days))) = soonest
            && said.insert(key, days) != Some(days)
        {
            let detail = match days {
                0 => format!(
                    "Certificate {key} ended at {ends}: no agent obeys this server. Make a new one: writ-server cert create."
                ),
                _ => format!(
                    "Certificate {key}, which signs now, ends at {ends}, in less than {days} days; from then on no agent obeys. Make the next one: writ-server cert create."
                ),
            };
            warn!(%key, days, %ends, "the signing certificate ends soon, or has ended; make the next one: writ-server cert create");
            let alarm = Alarm { kind: AlertKind::CertificateEnds, code: "", agent: SERVER, count: 1, detail };
            if let Err(error) = server.store.raise(alarm, None, now).await {
                error!(%error, "the alert could not be raised");
                said.remove(&key);
            }
        }
        if days_until_end.is_none() && !is_ended {
            let ended = server.store.end_alert(AlertKind::CertificateEnds, SERVER, now).await;
            is_ended = ended.inspect_err(|error| error!(%error, "the alert could not be ended")).is_ok();
        } else if days_until_end.is_some() {
            is_ended = false;
        }
        if server.shutdown.unless_requested(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_is_told_at_90_30_7_and_1_days() {
        let end = Timestamp::from_millis(1_790_000_000_000);
        let told =
            |days: u32, hours: u32| days_left(end, end - DAY * days - Duration::from_secs(3600) * hours);
        assert_eq!(
            [told(90, 1), told(89, 23), told(30, 1), told(29, 23)],
            [None, Some(90), Some(90), Some(30)]
        );
        assert_eq!([told(6, 23), told(1, 1), told(0, 23), told(0, 0)], [Some(7), Some(7), Some(1), Some(1)]);
    }
}
