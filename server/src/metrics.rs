//! What can be watched over months. docs/telemetry.md lists every metric.

use std::sync::Arc;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tokio::net::TcpListener;
use writ_common::metrics::number;
use writ_protocol::refusal::RefusalCode;
use writ_protocol::time::Timestamp;

use crate::VERSION;
use crate::authority::mismatch::holdings;
use crate::context::Server;
use crate::store::{AlertKind, StoreError, TargetState};

const SIGNING_ENDS: &str = "writ_signing_certificate_accept_until_timestamp_seconds";
const BUNDLE: &str = "writ_trust_bundle_version";
const BACKUP: &str = "writ_backup_proven_bundle_version";
const ENROLLED: &str = "writ_agents_enrolled";
const CONNECTED: &str = "writ_agents_connected";
const NEWEST: &str = "writ_agents_with_newest_bundle";
const OBEYING: &str = "writ_agents_obeying";
const STRANGERS: &str = "writ_stranger_addresses";
const MANAGER: &str = "writ_control_manager_last_contact_timestamp_seconds";

const OPEN: &str = "writ_deliveries_open";
const OLDEST: &str = "writ_delivery_oldest_open_timestamp_seconds";
const COMMANDS: &str = "writ_commands_total";
const RECEIPTS: &str = "writ_receipts_total";
const REFUSALS: &str = "writ_refusals_total";
const ALERTS: &str = "writ_alerts_total";
const SPANS: &str = "writ_trace_spans_total";
const BUILD: &str = "writ_build_info";

/// A command was recorded.
pub(crate) fn count_command() {
    counter!(COMMANDS).increment(1);
}

/// A first receipt was stored; what it says.
pub(crate) fn count_receipt(state: TargetState) {
    counter!(RECEIPTS, "outcome" => outcome(state)).increment(1);
}

/// How a receipt's outcome is called outside.
pub(crate) const fn outcome(state: TargetState) -> &'static str {
    match state {
        TargetState::Done => "done",
        TargetState::Refused => "refused",
        TargetState::Failed | TargetState::Queued | TargetState::Sent | TargetState::Cancelled => "failed",
    }
}

/// Counted at most at once: an agent's number, however great, must leave room for the next.
const MAX_REFUSALS: u64 = 1_000_000;

/// Agents refused so often, for this reason.
pub(crate) fn count_refusals(code: RefusalCode, count: u64) {
    counter!(REFUSALS, "code" => code.as_str()).increment(count.min(MAX_REFUSALS));
}

/// Spans were exported, or lost.
pub(crate) fn count_spans(fate: &'static str, count: usize) {
    counter!(SPANS, "fate" => fate).increment(u64::try_from(count).unwrap_or(u64::MAX));
}

/// Counts from now on; once a process.
///
/// # Errors
/// When something counts already.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = writ_common::metrics::install()?;
    let seconds = "until when this server can sign with the certificates it holds, Unix time; 0: it cannot";
    describe_gauge!(SIGNING_ENDS, Unit::Seconds, seconds);
    describe_gauge!(BUNDLE, Unit::Count, "version of the newest trust bundle");
    describe_gauge!(
        BACKUP,
        Unit::Count,
        "version of the newest trust bundle in a backup that was proven readable; 0: none was"
    );
    describe_gauge!(ENROLLED, Unit::Count, "agents that are enrolled and not removed");
    describe_gauge!(CONNECTED, Unit::Count, "agents with a proven session");
    describe_gauge!(NEWEST, Unit::Count, "agents that hold the newest trust bundle");
    describe_gauge!(OBEYING, Unit::Count, "agents that accept the key that signs now");
    describe_gauge!(
        STRANGERS,
        Unit::Count,
        "addresses from which agents have asked whose bundle this chain does not have"
    );
    describe_gauge!(
        MANAGER,
        Unit::Seconds,
        "when the Control Manager last gave an answer that counted, Unix time; 0: never since the start, or none is registered"
    );
    describe_gauge!(
        OPEN,
        Unit::Count,
        "deliveries of unexpired commands that no receipt was stored of; at most 100000 are counted"
    );
    describe_gauge!(
        OLDEST,
        Unit::Seconds,
        "when the oldest command with such a delivery was issued, Unix time; 0: there is none"
    );
    describe_counter!(COMMANDS, Unit::Count, "commands recorded");
    describe_counter!(RECEIPTS, Unit::Count, "first receipts stored, by what they say");
    describe_counter!(REFUSALS, Unit::Count, "refusals reported or answered by agents, by code");
    describe_counter!(ALERTS, Unit::Count, "what alerts were raised for, by kind");
    describe_counter!(SPANS, Unit::Count, "spans of traces the collector took, and those that were lost");
    describe_gauge!(BUILD, "1; the version is a label");
    gauge!(BUILD, "version" => VERSION).set(1);
    // A series that appears with its first event hides that event from `increase`.
    counter!(COMMANDS).absolute(0);
    for state in [TargetState::Done, TargetState::Failed, TargetState::Refused] {
        counter!(RECEIPTS, "outcome" => outcome(state)).absolute(0);
    }
    ["exported", "lost"].iter().for_each(|fate| count_spans(fate, 0));
    RefusalCode::ALL.iter().for_each(|code| count_refusals(*code, 0));
    AlertKind::ALL.iter().for_each(|kind| counter!(ALERTS, "kind" => kind.as_str()).absolute(0));
    Ok(handle)
}

/// Answers `GET /metrics` until the server ends.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener, handle: PrometheusHandle) {
    let shutdown = server.shutdown.clone();
    let look = move || {
        let server = Arc::clone(&server);
        async move { sample(&server).await }
    };
    writ_common::metrics::serve(listener, handle, shutdown, look).await;
}

/// Sets every gauge to what is true now.
async fn sample(server: &Server) -> Result<(), StoreError> {
    gauge!(SIGNING_ENDS).set(number(server.signer.until().map_or(0, |ends| ends.as_millis() / 1000)));
    gauge!(BUNDLE).set(number(server.chain().head().bundle.version));
    let backups = server.store.backups().await?;
    let proven = backups.iter().filter(|backup| backup.proven_at > Timestamp::ZERO);
    gauge!(BACKUP).set(number(proven.map(|backup| backup.bundle_version).max().unwrap_or(0)));
    let holdings = holdings(server).await?;
    let all = || holdings.iter();
    gauge!(ENROLLED).set(number(all().map(|holding| holding.holders.agents).sum()));
    let newest = all().filter(|holding| holding.is_newest);
    gauge!(NEWEST).set(number(newest.map(|holding| holding.holders.agents).sum()));
    let obeying = all().filter(|holding| holding.refusal.is_none());
    gauge!(OBEYING).set(number(obeying.map(|holding| holding.holders.agents).sum()));
    gauge!(CONNECTED).set(number(server.dispatcher.registry().connected()));
    let (open, oldest) = server.store.backlog(server.clock.wall()).await?;
    for (kind, raised) in server.store.alert_counts().await? {
        counter!(ALERTS, "kind" => kind).absolute(raised);
    }
    gauge!(OPEN).set(number(open));
    gauge!(OLDEST).set(number(oldest.as_millis() / 1000));
    let strangers = u64::try_from(server.unknown_fleet.list(&server.chain()).len()).unwrap_or(u64::MAX);
    gauge!(STRANGERS).set(number(strangers));
    gauge!(MANAGER).set(number(server.bridge.last_contact().as_millis() / 1000));
    Ok(())
}
