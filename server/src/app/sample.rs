//! What `GET /metrics` shows of a running server.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use writ_protocol::time::Timestamp;

use crate::authority::mismatch::holdings;
use crate::cm_bridge::Uplink;
use crate::metrics::{self, Gauges};
use crate::store::StoreError;

/// Answers until the server ends.
pub(super) async fn serve(uplink: Arc<Uplink>, listener: TcpListener, handle: PrometheusHandle) {
    let shutdown = uplink.server.shutdown.clone();
    let look = move || {
        let uplink = Arc::clone(&uplink);
        async move { sample(&uplink).await.map(metrics::show) }
    };
    writ_common::metrics::serve(listener, handle, shutdown, look).await;
}

async fn sample(uplink: &Uplink) -> Result<Gauges, StoreError> {
    let server = &uplink.server;
    let backups = server.store.backups().await?;
    let proven = backups.iter().filter(|backup| backup.proven_at > Timestamp::ZERO);
    let holdings = holdings(server).await?;
    let agents = |is_counted: fn(&_) -> bool| {
        let counted = holdings.iter().filter(&is_counted);
        counted.map(|holding| holding.holders.agents).sum()
    };
    Ok(Gauges {
        signing_ends: server.signer.until().unwrap_or(Timestamp::ZERO),
        bundle: server.chain().head().bundle.version,
        proven_backup: proven.map(|backup| backup.bundle_version).max().unwrap_or(0),
        enrolled: agents(|_| true),
        with_newest: agents(|holding| holding.is_newest),
        obeying: agents(|holding| holding.refusal.is_none()),
        connected: server.dispatcher.registry().connected(),
        backlog: server.store.backlog(server.clock.wall()).await?,
        alerts: server.store.alert_counts().await?,
        strangers: u64::try_from(server.unknown_fleet.list(&server.chain()).len()).unwrap_or(u64::MAX),
        manager: uplink.bridge.last_contact(),
    })
}
