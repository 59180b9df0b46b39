//! A port of a daemon: bound, served over TLS, drained.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::Service;
use tracing::warn;

use crate::daemon::Fatal;
use crate::shutdown::Shutdown;
use crate::tls::{Room, ServerTls, incoming};

/// How long open requests and sessions may take to end.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a call may take until its answer begins. Streams begin at once.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections the kernel keeps until they are accepted, if net.core.somaxconn lets it: with fewer a burst
/// waits a second for its next try.
const BACKLOG: u32 = 4096;
/// Streams one connection may have open. An agent needs two, an entity three, an operator's console more.
pub const FEW_STREAMS: u32 = 4;
pub const MANY_STREAMS: u32 = 64;
/// Bytes of one stream, and of all streams of a connection, that nobody has read yet. A receipt of the
/// largest size takes two rounds.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// Bytes of the headers of one call: a token, and a trace that a proxy adds.
const MAX_HEADER_BYTES: u32 = 4 << 10;
/// Bytes of a message that asks for next to nothing: of health, of trust bundles.
pub const MAX_QUESTION_BYTES: usize = 1 << 10;

/// What every port of ours has in common.
#[must_use]
pub fn settings(streams: u32) -> Server {
    Server::builder()
        .max_concurrent_streams(streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .timeout(CALL_TIMEOUT)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
}

/// One service with a bound of its own for the messages of each method: a large one is read only where
/// somebody may send it.
#[derive(Debug, Clone)]
pub struct PerMethod<S> {
    /// By the path of a method.
    bounded: Vec<(&'static str, S)>,
    others: S,
}

impl<S> PerMethod<S> {
    /// The service as it serves each method listed, and as it serves all others.
    #[must_use]
    pub const fn new(bounded: Vec<(&'static str, S)>, others: S) -> Self {
        Self { bounded, others }
    }
}

impl<S: NamedService> NamedService for PerMethod<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for PerMethod<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Services of tonic are always ready.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.others.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> S::Future {
        let path = request.uri().path();
        let bounded = self.bounded.iter_mut().find(|(method, _)| *method == path);
        bounded.map_or(&mut self.others, |(_, service)| service).call(request)
    }
}

/// Serves until the end is asked for, and drains; without a certificate, in clear. Strangers have so much
/// `room`.
///
/// # Errors
/// When the port fails.
pub async fn serve<L>(
    router: Router<L>,
    listener: TcpListener,
    tls: Option<&ServerTls>,
    room: Room,
    shutdown: &Shutdown,
) -> Result<(), Fatal>
where
    L: tower::Layer<tonic::service::Routes> + Clone,
    L::Service: Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Future: Send,
            Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        > + Clone
        + Send
        + 'static,
{
    let asked = shutdown.clone();
    let connections = incoming(listener, tls, room, shutdown);
    let served = router.serve_with_incoming_shutdown(connections, async move {
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

/// Why nobody can listen at an address.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` = {address}: {}", reason(.source))]
pub struct BindError {
    /// Where it is set.
    key: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// A kernel without the family at all.
fn lacks_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program has this port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "it is no address of this host".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 are for root alone".to_owned(),
        _ if lacks_family(error) => "this host has no IPv6".to_owned(),
        _ => error.to_string(),
    }
}

impl BindError {
    /// What to do.
    #[must_use]
    pub fn cure(&self) -> String {
        let Self { key, address, source } = self;
        let port = address.port();
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                format!("see which one: ss -ltnp 'sport = :{port}'; end it, or set {key} to another port")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("set {key} to an address this host has (ip address), or to 0.0.0.0:{port}")
            }
            io::ErrorKind::PermissionDenied => {
                format!(
                    "set {key} to a port above 1023, or give the service AmbientCapabilities=CAP_NET_BIND_SERVICE"
                )
            }
            _ if lacks_family(source) => format!("set {key} to an IPv4 address, such as 0.0.0.0:{port}"),
            _ => format!("set {key} to another address"),
        }
    }
}

/// Where to listen instead: every address of a host without IPv6 is every IPv4 address.
fn instead(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let is_every_address = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    (is_every_address && lacks_family(error))
        .then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart finds sockets of before that the kernel still remembers.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes an address. `key` is where it is set.
///
/// # Errors
/// When it is taken or not this host's.
pub fn bind(address: SocketAddr, key: &'static str) -> Result<(TcpListener, SocketAddr), Fatal> {
    let explain = |source| {
        let error = BindError { key, address, source };
        Fatal::failure(format!("{error}; {}", error.cure()))
    };
    let bound = match listen(address) {
        Err(error) => match instead(address, &error) {
            Some(v4) => {
                warn!(key, address = %v4, "this host has no IPv6: listening at every IPv4 address");
                listen(v4)
            }
            None => Err(error),
        },
        bound => bound,
    };
    let listener = bound.map_err(explain)?;
    let bound = listener.local_addr().map_err(explain)?;
    Ok((listener, bound))
}

/// Whether an address could be taken, by the same rules.
///
/// # Errors
/// Why not.
pub fn try_bind(address: SocketAddr, key: &'static str) -> Result<(), BindError> {
    let bound = std::net::TcpListener::bind(address);
    let bound = bound.or_else(|error| match instead(address, &error) {
        Some(v4) => std::net::TcpListener::bind(v4),
        None => Err(error),
    });
    bound.map(drop).map_err(|source| BindError { key, address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_not_to_listen_has_a_cure_of_its_own() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = try_bind(taken.local_addr().unwrap(), "listen.admin").unwrap_err();
        assert!(error.to_string().ends_with("another program has this port"), "{error}");
        assert!(error.cure().contains("ss -ltnp"), "{}", error.cure());
        let error = try_bind("192.0.2.1:7443".parse().unwrap(), "listen.agents").unwrap_err();
        assert!(error.to_string().ends_with("no address of this host"), "{error}");
        let without = io::Error::from_raw_os_error(97);
        let every = SocketAddr::from(([0; 16], 7443));
        assert_eq!(instead(every, &without), Some("0.0.0.0:7443".parse().unwrap()));
        let one = "[2001:db8::1]:7443".parse().unwrap();
        assert_eq!(instead(one, &without), None, "an address somebody chose is not another one");
        let error = BindError { key: "listen.agents", address: one, source: without };
        assert_eq!(error.cure(), "set listen.agents to an IPv4 address, such as 0.0.0.0:7443");
    }
}
