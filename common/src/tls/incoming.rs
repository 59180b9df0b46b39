//! Accepting: a handshake has a time-out, and strangers have so much room.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::ServerTls;
use super::probation::{PROBATION, Peer, Room, Unproven};
use super::turns::{Line, Turns};
use crate::hush::Hush;
use crate::net::source;
use crate::shutdown::Shutdown;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one port at once; more wait in the listener's backlog. Give the process that many open
/// files.
const MAX_CONNECTIONS: usize = 16_384;
/// Strangers that go when the process may open no more files.
const PLACES_AT_ONCE: usize = 16;

/// Connections whose handshake is done.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Accepted>);

/// A connection that counts towards the bound as long as it is open.
#[derive(Debug)]
pub struct Accepted {
    carrier: Carrier,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

/// Boxed: TLS has much to remember.
#[derive(Debug)]
enum Carrier {
    Tls(Box<TlsStream<Watched>>),
    Clear(Watched),
}

/// A socket below TLS: what strangers send is counted from the first byte, and what has to go goes in the
/// midst of a handshake.
#[derive(Debug)]
struct Watched {
    socket: TcpStream,
    peer: Peer,
    ends: Pin<Box<Ends>>,
    line: Line,
    /// It reads what has come since its turn.
    has_turn: bool,
}

/// When a connection has to go that proves nothing.
#[derive(Debug)]
struct Ends {
    timer: Pin<Box<Sleep>>,
    hang_up: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watched {
    fn new(socket: TcpStream, peer: Peer, line: Line) -> Self {
        let hang_up = Box::pin(peer.probation.hang_up.clone().cancelled_owned());
        let ends = Ends { timer: Box::pin(tokio::time::sleep(PROBATION)), hang_up };
        Self { socket, peer, ends: Box::pin(ends), line, has_turn: false }
    }

    /// What one says who has proven nothing is heard in turns, each of which ends with all that it has said.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.peer.probation.is_unproven() {
            self.line.leave();
        } else if !self.has_turn {
            ready!(self.socket.poll_read_ready(context))?;
            ready!(self.line.poll_turn(context));
            self.has_turn = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it has to go, as if the other side had hung up.
    fn has_to_go(&mut self, context: &mut Context<'_>) -> bool {
        let (ends, probation) = (&mut self.ends, &self.peer.probation);
        while probation.is_open() && ends.timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let due = if probation.is_unproven() { probation.ends() } else { now + PROBATION };
            if due <= now {
                probation.hang_up.cancel();
                break;
            }
            ends.timer.as_mut().reset(due);
        }
        ends.hang_up.as_mut().poll(context).is_ready()
    }

    /// Nothing is sent any more to whom must go. Asked with each write too: for one who does not read,
    /// nothing may be polled but those.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.has_to_go(context) {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_to_go(context) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_turn(context))?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        self.has_turn &= read.is_ready();
        self.peer.probation.read(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.socket).poll_write(context, data);
        if let Poll::Ready(Ok(bytes)) = written {
            self.peer.probation.wrote(bytes);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, data);
        if let Poll::Ready(Ok(bytes)) = written {
            self.peer.probation.wrote(bytes);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Carrier::Clear(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Tls(stream) => Pin::new(stream).poll_write(context, data),
            Carrier::Clear(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Tls(stream) => Pin::new(stream).poll_write_vectored(context, data),
            Carrier::Clear(stream) => Pin::new(stream).poll_write_vectored(context, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.carrier {
            Carrier::Tls(stream) => stream.is_write_vectored(),
            Carrier::Clear(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tls(stream) => Pin::new(stream).poll_flush(context),
            Carrier::Clear(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Carrier::Clear(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

/// Whether others have to go before another one can come.
fn is_out_of_files(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    lacks.iter().any(|lack| error.raw_os_error() == Some(lack.raw_os_error()))
}

/// Accepts connections until the shutdown is asked for; without a certificate, in clear.
#[must_use]
pub fn incoming(listener: TcpListener, tls: Option<&ServerTls>, room: Room, shutdown: &Shutdown) -> Incoming {
    let (done, connections) = mpsc::channel(64);
    let acceptor = tls.map(ServerTls::acceptor);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let unproven = Unproven::new(room, Some(shutdown.clone()));
    let turns = Turns::give(shutdown);
    let (tasks, hush) = (shutdown.clone(), Hush::default());
    shutdown.spawn(async move {
        loop {
            let (socket, address) = match tasks.unless_requested(listener.accept()).await {
                None => return,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    // Out of descriptors most likely: those of strangers go, and meanwhile it does not spin.
                    if let Some(unsaid) = hush.may_say("not accepted", IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
                        warn!(%error, unsaid, "connection not accepted");
                    }
                    if is_out_of_files(&error) {
                        (0..PLACES_AT_ONCE).for_each(|_| unproven.make_place());
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            if places.available_permits() == 0 {
                unproven.make_place();
            }
            let place = tasks.unless_requested(Arc::clone(&places).acquire_owned()).await;
            let Some(Ok(place)) = place else { return };
            let peer = unproven.begin(address);
            let _ = socket.set_nodelay(true);
            let socket = Watched::new(socket, peer.clone(), Line::new(&turns, source(address.ip())));
            let (acceptor, done) = (acceptor.clone(), done.clone());
            tasks.spawn(async move {
                let carrier = match acceptor {
                    None => Carrier::Clear(socket),
                    Some(acceptor) => {
                        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
                            Ok(Ok(stream)) => Carrier::Tls(Box::new(stream)),
                            Ok(Err(error)) => {
                                debug!(peer = %address, %error, "handshake failed");
                                return;
                            }
                            Err(_) => {
                                debug!(peer = %address, "handshake took too long");
                                return;
                            }
                        }
                    }
                };
                let _ = done.send(Accepted { carrier, peer, _place: place }).await;
            });
        }
    });
    Incoming(connections)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::time::{Clock as _, SystemClock};
    use crate::tls::{Anchors, TlsAuthority, TlsLeaf, connect};
    use writ_protocol::id::Digest;

    fn leaf() -> (TlsAuthority, TlsLeaf) {
        let now = SystemClock::new().wall();
        let authority = TlsAuthority::create("test", now).unwrap();
        let leaf = authority.issue(&["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()], now);
        (authority, leaf.unwrap())
    }

    async fn port(leaf: &TlsLeaf, room: Room) -> (String, Incoming, Shutdown) {
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("localhost:{}", listener.local_addr().unwrap().port());
        let accepted = incoming(listener, Some(&ServerTls::new(leaf).unwrap()), room, &shutdown);
        (endpoint, accepted, shutdown)
    }

    /// The paused clock jumps ahead whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn who_proves_nothing_is_hung_up_on_and_who_does_is_not() {
        let (authority, leaf) = leaf();
        let (endpoint, mut accepted, _shutdown) = port(&leaf, Room::OTHERS).await;
        let anchors = Anchors::Authorities(vec![authority.certificate]);
        for proves in [false, true] {
            // The client's end lives in its channel.
            let (connection, connected) = tokio::join!(connect(&endpoint, &anchors), accepted.next());
            let (_connection, mut connected) = (connection.unwrap(), connected.unwrap().unwrap());
            if proves {
                connected.peer.proven(Digest::of(b"anna"));
            }
            let mut said = Vec::new();
            // HTTP/2's first words, then nothing.
            let ended = tokio::time::timeout(PROBATION * 2, connected.read_to_end(&mut said)).await;
            assert_eq!(ended.is_ok(), !proves, "{said:?}");
            assert_eq!(connected.write_all(b"late").await.is_err(), !proves);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_outlives_its_session_by_its_last_words_and_no_longer() {
        let (authority, leaf) = leaf();
        let (endpoint, mut accepted, _shutdown) = port(&leaf, Room::OTHERS).await;
        let anchors = Anchors::Authorities(vec![authority.certificate]);
        let (connection, connected) = tokio::join!(connect(&endpoint, &anchors), accepted.next());
        let (_connection, mut connected) = (connection.unwrap(), connected.unwrap().unwrap());
        let mut said = Vec::new();
        let session = connected.peer.in_session();
        let held = tokio::time::timeout(PROBATION * 9, connected.read_to_end(&mut said)).await;
        assert!(held.is_err(), "{said:?}");
        drop(session);
        let ended = tokio::time::timeout(PROBATION / 2, connected.read_to_end(&mut said)).await;
        assert!(ended.unwrap().is_err(), "no word of TLS says that it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_called_again_and_again_stays_and_one_that_is_left_does_not() {
        let (authority, leaf) = leaf();
        let (endpoint, mut accepted, _shutdown) = port(&leaf, Room::OTHERS).await;
        let anchors = Anchors::Authorities(vec![authority.certificate]);
        let (connection, connected) = tokio::join!(connect(&endpoint, &anchors), accepted.next());
        let (_connection, mut connected) = (connection.unwrap(), connected.unwrap().unwrap());
        let mut said = Vec::new();
        for _ in 0..9 {
            drop(connected.peer.in_call(Digest::of(b"anna")));
            let held = tokio::time::timeout(PROBATION * 2 / 3, connected.read_to_end(&mut said)).await;
            assert!(held.is_err(), "between two calls");
        }
        let ended = tokio::time::timeout(PROBATION, connected.read_to_end(&mut said)).await;
        assert!(ended.unwrap().is_err(), "nobody calls any more");
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a stranger says nothing of TLS")]
    async fn silent_ones_go_in_the_midst_of_a_handshake_and_who_means_it_is_served() {
        let (authority, leaf) = leaf();
        let (endpoint, mut accepted, _shutdown) = port(&leaf, Room::of_connections(9, 4)).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(endpoint.replace("localhost", "127.0.0.1")).await.unwrap());
        }
        let anchors = Anchors::Authorities(vec![authority.certificate]);
        let (connection, connected) = tokio::join!(connect(&endpoint, &anchors), accepted.next());
        let (_connection, _connected) = (connection.unwrap(), connected.unwrap().unwrap());
        let mut first = silent.remove(0);
        assert_eq!(first.read(&mut [0; 1]).await.unwrap_or_default(), 0, "the oldest silent one had to go");
    }
}
