//! A port of a daemon: bound, served over TLS, drained.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::daemon::Fatal;
use crate::shutdown::Shutdown;
use crate::tls::{ServerTls, incoming};

/// How long open requests and sessions may take to end.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a call may take until its answer begins. Streams begin at once.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Streams one connection may have open.
const MAX_STREAMS: u32 = 64;

/// What every port of ours has in common.
#[must_use]
pub fn settings() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .timeout(CALL_TIMEOUT)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
}

/// Serves until the end is asked for, and drains.
///
/// # Errors
/// When the port fails.
pub async fn serve<L>(
    router: Router<L>,
    listener: TcpListener,
    tls: &ServerTls,
    shutdown: &Shutdown,
) -> Result<(), Fatal>
where
    L: tower::Layer<tonic::service::Routes> + Clone,
    L::Service: tower::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Future: Send,
            Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        > + Clone
        + Send
        + 'static,
{
    let asked = shutdown.clone();
    let served = router.serve_with_incoming_shutdown(incoming(listener, tls, shutdown), async move {
        asked.requested().await;
    });
    // A connection that does not end must not keep the server from ending.
    let overtime = async {
        shutdown.requested().await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        result = served => {
            shutdown.trigger();
            result.map_err(|error| Fatal::caused("a port failed", &error))
        }
        () = overtime => Ok(()),
    }
}

/// Takes an address. `key` is where it is set.
///
/// # Errors
/// When it is taken or not this host's.
pub async fn bind(address: SocketAddr, key: &str) -> Result<(TcpListener, SocketAddr), Fatal> {
    let explain = |error: std::io::Error| {
        Fatal::failure(format!("`{key}` = {address}: {error}; is another one running?"))
    };
    let listener = TcpListener::bind(address).await.map_err(explain)?;
    let bound = listener.local_addr().map_err(explain)?;
    Ok((listener, bound))
}
