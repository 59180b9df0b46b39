//! Accepting: bounded handshakes with a time-out, so that a stranger who says nothing holds nothing up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{TlsLeaf, spki_digest};
use crate::id::Digest;
use crate::shutdown::Shutdown;

/// Handshakes under way at once; more wait in the listener's backlog. With the time-out, a stranger who opens silent
/// connections needs 200 a second to keep others waiting.
const MAX_HANDSHAKES: usize = 1024;
/// How long one may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Leaves that are still answered for after a newer one is shown, and how long: greetings may be under way under them.
const MAX_EARLIER_LEAVES: usize = 3;
const EARLIER_LEAF_COUNTS: Duration = Duration::from_secs(300);

/// A server's certificate, ready to be shown. Clones share it, so that a new one is shown by all ports at once.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
}

/// The leaf shown now first, then earlier ones.
#[derive(Debug)]
struct Shown(RwLock<Vec<ShownLeaf>>);

#[derive(Debug)]
struct ShownLeaf {
    certified: Arc<CertifiedKey>,
    spki_digest: Digest,
    /// Since when another one is shown.
    replaced: Option<Instant>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        shown.first().map(|leaf| Arc::clone(&leaf.certified))
    }
}

/// A certificate and key that do not work together.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// rustls' word.
    #[error("the TLS certificate and key cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    /// The leaf is no certificate.
    #[error("the TLS certificate is not valid DER")]
    NotACertificate,
}

impl ServerTls {
    /// Checks that leaf and key belong together.
    ///
    /// # Errors
    /// When they do not.
    pub fn new(leaf: &TlsLeaf) -> Result<Self, TlsSetupError> {
        let shown = Arc::new(Shown(RwLock::new(vec![certified(leaf)?])));
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Shown>::clone(&shown);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Nobody resumes: each connection is checked from the start.
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), shown })
    }

    /// Shows another leaf from now on; connections there are stay. Returns whether it is another one.
    ///
    /// # Errors
    /// When leaf and key do not belong together; then the one of before stays.
    pub fn show(&self, leaf: &TlsLeaf) -> Result<bool, TlsSetupError> {
        let new = certified(leaf)?;
        let mut shown = self.shown.0.write().unwrap_or_else(PoisonError::into_inner);
        if shown.first().is_some_and(|held| held.certified.cert == new.certified.cert) {
            return Ok(false);
        }
        if let Some(held) = shown.first_mut() {
            held.replaced = Some(Instant::now());
        }
        shown.insert(0, new);
        shown.truncate(1 + MAX_EARLIER_LEAVES);
        Ok(true)
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the leaf, and of those shown until a few minutes ago, as agents saw them.
    #[must_use]
    pub fn leaf_spki_digests(&self) -> Vec<Digest> {
        let shown = self.shown.0.read().unwrap_or_else(PoisonError::into_inner);
        let counts = |leaf: &&ShownLeaf| leaf.replaced.is_none_or(|at| at.elapsed() < EARLIER_LEAF_COUNTS);
        shown.iter().filter(counts).map(|leaf| leaf.spki_digest).collect()
    }
}

fn certified(leaf: &TlsLeaf) -> Result<ShownLeaf, TlsSetupError> {
    let first = leaf.chain.first().ok_or(TlsSetupError::NotACertificate)?;
    let spki_digest = spki_digest(first).ok_or(TlsSetupError::NotACertificate)?;
    let chain = leaf.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = PrivatePkcs8KeyDer::from(leaf.key.to_vec()).into();
    let certified = CertifiedKey::new(chain, rustls::crypto::ring::sign::any_supported_type(&key)?);
    certified.keys_match()?;
    Ok(ShownLeaf { certified: Arc::new(certified), spki_digest, replaced: None })
}

/// Connections of one port at once; more wait in the listener's backlog. Give the process that many open files.
const MAX_CONNECTIONS: usize = 16_384;

/// Connections whose handshake is done.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Accepted>);

/// Connections of one [`source`] on which nobody has proven anything yet; more are closed at once. Enough for a site behind
/// one address that comes back whole, few enough that one stranger cannot take all places.
const MAX_ON_PROBATION: u32 = 4096;
/// How long one may stay so.
const PROBATION: Duration = Duration::from_secs(60);

/// A connection that counts towards the bound as long as it is open.
#[derive(Debug)]
pub struct Accepted {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Gone once somebody proved for good who they are.
    probation_ends: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

/// Who is at the other end; in the extensions of every request. Clones share it.
#[derive(Debug, Clone)]
pub struct Peer {
    address: SocketAddr,
    probation: Arc<Probation>,
}

impl Peer {
    /// Its address, perhaps a proxy's.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Somebody proved who they are on this connection: it may stay.
    pub fn proven(&self) {
        self.probation.end();
        self.probation.is_over.store(true, Ordering::Release);
    }

    /// Somebody proved who they are for one session: the connection may stay as long as this is held, and a probation's
    /// time longer. An identity whose sessions replace each other cannot hold connections that way.
    #[must_use]
    pub fn in_session(&self) -> InSession {
        self.probation.end();
        self.probation.sessions.fetch_add(1, Ordering::AcqRel);
        InSession(Arc::clone(&self.probation))
    }
}

/// That a proven session is held on a connection.
#[derive(Debug)]
pub struct InSession(Arc<Probation>);

impl Drop for InSession {
    fn drop(&mut self) {
        if self.0.sessions.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.begin_again();
        }
    }
}

/// Whom connections and failures are counted by: a host has one IPv4 address, but a whole /64 of IPv6.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

type Sources = Arc<Mutex<HashMap<IpAddr, u32>>>;

#[derive(Debug)]
struct Probation {
    source: IpAddr,
    is_counted: AtomicBool,
    is_over: AtomicBool,
    sessions: AtomicU32,
    sources: Sources,
}

impl Probation {
    /// `None` when the address has as many as it may.
    fn begin(source: IpAddr, sources: &Sources) -> Option<Self> {
        let mut held = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(source).or_default();
        if *count >= MAX_ON_PROBATION {
            return None;
        }
        *count += 1;
        Some(Self {
            source,
            is_counted: AtomicBool::new(true),
            is_over: AtomicBool::new(false),
            sessions: AtomicU32::new(0),
            sources: Arc::clone(sources),
        })
    }

    /// Nothing is proven on it any more: it counts again, over the bound too, so that others of its source wait.
    fn begin_again(&self) {
        if !self.is_counted.swap(true, Ordering::AcqRel) {
            *self.sources.lock().unwrap_or_else(PoisonError::into_inner).entry(self.source).or_default() += 1;
        }
    }

    /// It does not count among its source's any more.
    fn end(&self) {
        if !self.is_counted.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut held = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

impl Drop for Probation {
    fn drop(&mut self) {
        self.end();
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.peer.probation.is_over.load(Ordering::Acquire) {
            self.probation_ends = None;
        }
        let this = &mut *self;
        while let Some(ends) = &mut this.probation_ends
            && ends.as_mut().poll(context).is_ready()
        {
            if this.peer.probation.sessions.load(Ordering::Acquire) == 0 {
                // As if the other side had hung up.
                return Poll::Ready(Ok(()));
            }
            ends.as_mut().reset(Instant::now() + PROBATION);
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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

/// Accepts connections until the shutdown is asked for.
#[must_use]
pub fn incoming(listener: TcpListener, tls: &ServerTls, shutdown: &Shutdown) -> Incoming {
    let (done, connections) = mpsc::channel(64);
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sources = Sources::default();
    let tasks = shutdown.clone();
    shutdown.spawn(async move {
        loop {
            let room = async {
                let handshake = Arc::clone(&handshakes).acquire_owned().await;
                (handshake, Arc::clone(&places).acquire_owned().await)
            };
            let Some((Ok(permit), Ok(place))) = tasks.unless_requested(room).await else { return };
            let (stream, peer) = match tasks.unless_requested(listener.accept()).await {
                None => return,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    // Out of descriptors most likely: wait for some to be closed instead of spinning.
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(probation) = Probation::begin(source(peer.ip()), &sources) else {
                debug!(%peer, "connection closed: too many of this address prove nothing");
                continue;
            };
            let peer = Peer { address: peer, probation: Arc::new(probation) };
            let (acceptor, done) = (acceptor.clone(), done.clone());
            tasks.spawn(async move {
                let _held_until_done = permit;
                let _ = stream.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let probation_ends = Some(Box::pin(tokio::time::sleep(PROBATION)));
                        let _ = done.send(Accepted { stream, peer, probation_ends, _place: place }).await;
                    }
                    Ok(Err(error)) => debug!(peer = %peer.address, %error, "handshake failed"),
                    Err(_) => debug!(peer = %peer.address, "handshake took too long"),
                }
            });
        }
    });
    Incoming(connections)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::time::{Clock as _, SystemClock};
    use crate::tls::{Anchors, LeafFacts, TlsAuthority, connect};

    fn leaf() -> (TlsAuthority, TlsLeaf) {
        let now = SystemClock::new().wall();
        let authority = TlsAuthority::create("test", now).unwrap();
        let leaf = authority.issue(&["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()], now);
        (authority, leaf.unwrap())
    }

    #[test]
    fn a_leaf_says_its_names_and_when_it_is_due() {
        let (_, leaf) = leaf();
        let facts = LeafFacts::read(&leaf.chain[0]).unwrap();
        assert_eq!(facts.names, ["localhost", "127.0.0.1", "::1"]);
        let day = Duration::from_secs(86_400);
        assert!(!facts.is_due(facts.not_before + day * 243) && facts.is_due(facts.not_before + day * 244));
        assert!(facts.is_due(facts.not_before - day), "made by a clock that was ahead");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaf_beside_anothers_key_is_not_shown_and_earlier_ones_are_answered_for_a_while() {
        let (authority, first) = leaf();
        let tls = ServerTls::new(&first).unwrap();
        let issue = || authority.issue(&["localhost".to_owned()], SystemClock::new().wall()).unwrap();
        let (second, other) = (issue(), issue());
        let mixed = TlsLeaf { chain: second.chain.clone(), key: other.key };
        tls.show(&mixed).unwrap_err();
        assert!(tls.show(&second).unwrap() && !tls.show(&second).unwrap());
        let digest = |leaf: &TlsLeaf| spki_digest(&leaf.chain[0]).unwrap();
        assert_eq!(tls.leaf_spki_digests(), [digest(&second), digest(&first)]);
        tokio::time::advance(EARLIER_LEAF_COUNTS).await;
        assert_eq!(tls.leaf_spki_digests(), [digest(&second)]);
    }

    /// The paused clock jumps ahead whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn who_proves_nothing_is_hung_up_on_and_who_does_is_not() {
        let (authority, leaf) = leaf();
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("localhost:{}", listener.local_addr().unwrap().port());
        let mut accepted = incoming(listener, &ServerTls::new(&leaf).unwrap(), &shutdown);
        let anchors = Anchors::Authorities(vec![authority.certificate]);
        for proves in [false, true] {
            // The client's end lives in its channel.
            let (connection, connected) = tokio::join!(connect(&endpoint, &anchors), accepted.next());
            let (_connection, mut connected) = (connection.unwrap(), connected.unwrap().unwrap());
            if proves {
                connected.peer.proven();
            }
            let mut said = Vec::new();
            // HTTP/2's first words, then nothing.
            let ended = tokio::time::timeout(PROBATION * 2, connected.read_to_end(&mut said)).await;
            assert_eq!(ended.is_ok(), !proves, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_outlives_its_sessions_by_a_probation_and_no_longer() {
        let (authority, leaf) = leaf();
        let shutdown = Shutdown::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("localhost:{}", listener.local_addr().unwrap().port());
        let mut accepted = incoming(listener, &ServerTls::new(&leaf).unwrap(), &shutdown);
        let anchors = Anchors::Authorities(vec![authority.certificate]);
        let (connection, connected) = tokio::join!(connect(&endpoint, &anchors), accepted.next());
        let (_connection, mut connected) = (connection.unwrap(), connected.unwrap().unwrap());
        let mut said = Vec::new();
        let session = connected.peer.in_session();
        let held = tokio::time::timeout(PROBATION * 9, connected.read_to_end(&mut said)).await;
        assert!(held.is_err(), "{said:?}");
        assert_eq!(connected.peer.probation.sources.lock().unwrap().len(), 0);
        drop(session);
        assert_eq!(connected.peer.probation.sources.lock().unwrap().len(), 1);
        tokio::time::timeout(PROBATION * 2, connected.read_to_end(&mut said)).await.unwrap().unwrap();
    }

    #[test]
    fn a_host_cannot_change_its_ipv6_address_to_count_as_another() {
        let (one, two) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:2".parse().unwrap());
        assert_eq!(source(one), source(two));
        assert_eq!(source("::ffff:10.0.0.1".parse().unwrap()), source("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_address_has_so_many_on_probation_and_places_come_back() {
        let (sources, one) = (Sources::default(), IpAddr::from([10, 0, 0, 1]));
        let mut held: Vec<_> =
            (0..MAX_ON_PROBATION).map(|_| Probation::begin(one, &sources).unwrap()).collect();
        assert!(Probation::begin(one, &sources).is_none());
        assert!(Probation::begin(IpAddr::from([10, 0, 0, 2]), &sources).is_some());
        held.pop().unwrap().end();
        assert!(Probation::begin(one, &sources).is_some());
        drop(held);
        assert!(sources.lock().unwrap().is_empty());
    }
}
