//! What can be watched over months. docs/telemetry.md lists every metric.

use std::sync::Arc;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tokio::net::TcpListener;
use writ_common::metrics::number;
use writ_protocol::manager::{RejectionCode, ReplyBody};

use crate::VERSION;
use crate::context::Manager;
use crate::presence::Presence;
use crate::registry::Decided;
use crate::store::StoreError;

const ENTITIES: &str = "writ_manager_entities";
const CALLS: &str = "writ_manager_calls_total";
const OPEN: &str = "writ_manager_instruction_deliveries_open";
const SIGNING_ENDS: &str = "writ_manager_signing_certificate_not_after_timestamp_seconds";
const BUILD: &str = "writ_manager_build_info";

/// Who calls: anybody may make a key, and no stranger's calls should wake somebody.
const CALLERS: [&str; 2] = ["stranger", "entity"];

/// A call was answered, to one that had been let in or to a stranger.
pub(crate) fn count_call(decided: &Decided, was_in: bool) {
    let outcome = match decided {
        Decided::Reply(ReplyBody::Rejected(rejection)) => rejection.code.as_str(),
        Decided::Reply(_) | Decided::Objects(..) => "taken",
    };
    counter!(CALLS, "from" => CALLERS[usize::from(was_in)], "outcome" => outcome).increment(1);
}

/// Counts from now on; once a process.
///
/// # Errors
/// When something counts already.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = writ_common::metrics::install()?;
    describe_gauge!(ENTITIES, Unit::Count, "entities, by how they stand");
    describe_counter!(
        CALLS,
        Unit::Count,
        "signed calls of entities since the start: taken, or the code of the rejection"
    );
    describe_gauge!(OPEN, Unit::Count, "instructions to entities of which nothing final is known yet");
    describe_gauge!(SIGNING_ENDS, Unit::Seconds, "until when what this manager signs is believed, Unix time");
    describe_gauge!(BUILD, "1; the version is a label");
    gauge!(BUILD, "version" => VERSION).set(1);
    // A series that appears with its first event hides that event from `increase`.
    for outcome in RejectionCode::ALL.iter().map(|code| code.as_str()).chain(["taken"]) {
        CALLERS.iter().for_each(|from| counter!(CALLS, "from" => *from, "outcome" => outcome).absolute(0));
    }
    Ok(handle)
}

/// Answers `GET /metrics` until the manager ends.
pub(crate) async fn serve(manager: Arc<Manager>, listener: TcpListener, handle: PrometheusHandle) {
    let shutdown = manager.shutdown.clone();
    let look = move || {
        let manager = Arc::clone(&manager);
        async move { sample(&manager).await }
    };
    writ_common::metrics::serve(listener, handle, shutdown, look).await;
}

/// Sets every gauge to what is true now.
async fn sample(manager: &Manager) -> Result<(), StoreError> {
    let now = manager.now();
    let entities = manager.store.all_entities().await?;
    for presence in Presence::ALL {
        let stands = |entity: &&crate::store::EntityRow| {
            Presence::of(entity.admission, &entity.registration, entity.last_contact, now) == presence
        };
        let count = u64::try_from(entities.iter().filter(stands).count()).unwrap_or(u64::MAX);
        gauge!(ENTITIES, "state" => presence.as_str()).set(number(count));
    }
    gauge!(OPEN).set(number(manager.store.open_deliveries(now).await?));
    gauge!(SIGNING_ENDS).set(number(manager.authority.signs_until().as_millis() / 1000));
    Ok(())
}
