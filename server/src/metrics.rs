//! What can be watched over months. docs/telemetry.md lists every metric.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use writ_common::metrics::number;
use writ_protocol::refusal::RefusalCode;
use writ_protocol::time::Timestamp;

use crate::VERSION;
use crate::store::{AlertKind, TargetState};

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
        TargetState::Failed | TargetState::Waiting | TargetState::Delivered | TargetState::Cancelled => {
            "failed"
        }
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

/// What is true at a moment.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// Until when this server can sign; zero: it cannot.
    pub signing_ends: Timestamp,
    /// The version of the newest trust bundle.
    pub bundle: u64,
    /// The version of the newest bundle in a backup that was proven readable; zero: there is none.
    pub proven_backup: u64,
    /// Agents that are enrolled and not removed.
    pub enrolled: u64,
    /// Agents that hold the newest bundle.
    pub with_newest: u64,
    /// Agents that accept the key that signs now.
    pub obeying: u64,
    /// Agents with a proven session.
    pub connected: u64,
    /// Deliveries that no receipt was stored of, and when the oldest was issued.
    pub backlog: (u64, Timestamp),
    /// How often each kind of alert was raised.
    pub alerts: Vec<(String, u64)>,
    /// Addresses of agents of another chain.
    pub strangers: u64,
    /// When the Control Manager last gave an answer that counted; zero: never.
    pub manager: Timestamp,
}

/// Shows what is true now.
pub(crate) fn show(now: Gauges) {
    let seconds = |at: Timestamp| number(at.as_millis() / 1000);
    gauge!(SIGNING_ENDS).set(seconds(now.signing_ends));
    gauge!(BUNDLE).set(number(now.bundle));
    gauge!(BACKUP).set(number(now.proven_backup));
    gauge!(ENROLLED).set(number(now.enrolled));
    gauge!(NEWEST).set(number(now.with_newest));
    gauge!(OBEYING).set(number(now.obeying));
    gauge!(CONNECTED).set(number(now.connected));
    gauge!(OPEN).set(number(now.backlog.0));
    gauge!(OLDEST).set(seconds(now.backlog.1));
    for (kind, raised) in now.alerts {
        counter!(ALERTS, "kind" => kind).absolute(raised);
    }
    gauge!(STRANGERS).set(number(now.strangers));
    gauge!(MANAGER).set(seconds(now.manager));
}
