//! What can be watched over months, for Prometheus: on a port of its own, without secrets. docs/telemetry.md
//! lists every one.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_stream::StreamExt as _;
use tracing::{debug, error};

use crate::shutdown::Shutdown;
use crate::tls::{Room, incoming};

/// Who reads at a time, of one source and in all; past it the oldest of the largest source goes.
const READERS: Room = Room::of_connections(8, 64);
/// A connection is never kept longer: one that says nothing must not keep others out. Prometheus comes again.
const READER_TIMEOUT: Duration = Duration::from_secs(30);

/// Counts from now on; once a process.
///
/// # Errors
/// When something counts already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new().install_recorder()
}

/// Answers `GET /metrics` until the end is asked for; `look` sets every gauge to what is true now. One look
/// at a time: many who read must not take the database from those who command.
pub async fn serve<L, F, E>(listener: TcpListener, handle: PrometheusHandle, shutdown: Shutdown, look: L)
where
    L: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), E>> + Send,
    E: Display + Send,
{
    let turn = Arc::new(Mutex::new(()));
    let answer = move |request: Request<Incoming>| {
        let (look, handle, turn) = (look.clone(), handle.clone(), Arc::clone(&turn));
        async move {
            if request.uri().path() != "/metrics" {
                return Ok::<_, Infallible>(said(StatusCode::NOT_FOUND, "see /metrics\n".to_owned()));
            }
            let _turn = turn.lock().await;
            Ok(match look().await {
                Ok(()) => said(StatusCode::OK, handle.render()),
                Err(error) => {
                    error!(%error, "metrics could not be gathered");
                    said(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "they could not be gathered; see the log\n".to_owned(),
                    )
                }
            })
        }
    };
    let mut connections = incoming(listener, None, READERS, &shutdown);
    while let Some(Some(Ok(stream))) = shutdown.unless_requested(connections.next()).await {
        let (answer, ended) = (answer.clone(), shutdown.clone());
        shutdown.spawn(async move {
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            let served = ended.unless_requested(tokio::time::timeout(READER_TIMEOUT, served)).await;
            if let Some(Ok(Err(error))) = served {
                debug!(%error, "a reader of metrics went");
            }
        });
    }
}

fn said(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A count or a time in seconds, as Prometheus has it.
#[must_use]
#[expect(clippy::as_conversions, reason = "counts and seconds are far below 2^53")]
pub const fn number(value: u64) -> f64 {
    value as f64
}
