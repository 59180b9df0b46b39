//! What can be watched over months, for Prometheus: on a port of its own, without secrets. docs/telemetry.md lists every one.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tracing::{error, warn};

use crate::shutdown::Shutdown;

/// Counts from now on; once a process.
///
/// # Errors
/// When something counts already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new().install_recorder()
}

/// Answers `GET /metrics` until the end is asked for; `look` sets every gauge to what is true now. One look at a time: many who
/// read must not take the database from those who command.
pub async fn serve<L, F, E>(listener: TcpListener, handle: PrometheusHandle, shutdown: Shutdown, look: L)
where
    L: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send,
    E: Display + Send,
{
    let turn = Arc::new(Mutex::new(()));
    let render = move || {
        let (look, handle, turn) = (look.clone(), handle.clone(), Arc::clone(&turn));
        async move {
            let _turn = turn.lock().await;
            match look().await {
                Ok(()) => Ok(handle.render()),
                Err(error) => {
                    error!(%error, "metrics could not be gathered");
                    Err(StatusCode::SERVICE_UNAVAILABLE)
                }
            }
        }
    };
    let routes = Router::new().route("/metrics", get(render));
    let ended = async move { shutdown.requested().await };
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(ended).await {
        warn!(%error, "metrics cannot be read any more");
    }
}

/// A count or a time in seconds, as Prometheus has it.
#[must_use]
#[expect(clippy::as_conversions, reason = "counts and seconds are far below 2^53")]
pub const fn number(value: u64) -> f64 {
    value as f64
}
