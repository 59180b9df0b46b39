//! Accepting: bounded handshakes with a time-out, so that a stranger who says nothing holds nothing up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
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

/// A server's certificate, ready to be shown.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    leaf_spki_digest: Digest,
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
        let first = leaf.chain.first().ok_or(TlsSetupError::NotACertificate)?;
        let leaf_spki_digest = spki_digest(first).ok_or(TlsSetupError::NotACertificate)?;
        let chain = leaf.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivatePkcs8KeyDer::from(leaf.key.to_vec()).into();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { config: Arc::new(config), leaf_spki_digest })
    }

    /// SHA-256 of the leaf's SubjectPublicKeyInfo, as agents see it.
    #[must_use]
    pub const fn leaf_spki_digest(&self) -> Digest {
        self.leaf_spki_digest
    }
}

/// Connections of one port at once; more wait in the listener's backlog. Give the process that many open files.
const MAX_CONNECTIONS: usize = 16_384;

/// Connections whose handshake is done.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<Accepted>);

/// A connection that counts towards the bound as long as it is open.
#[derive(Debug)]
pub struct Accepted {
    stream: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
    type ConnectInfo = ();

    fn connect_info(&self) {}
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
            let (acceptor, done) = (acceptor.clone(), done.clone());
            tasks.spawn(async move {
                let _held_until_done = permit;
                let _ = stream.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let _ = done.send(Accepted { stream, _place: place }).await;
                    }
                    Ok(Err(error)) => debug!(%peer, %error, "handshake failed"),
                    Err(_) => debug!(%peer, "handshake took too long"),
                }
            });
        }
    });
    Incoming(connections)
}
