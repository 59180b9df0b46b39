//! Accepting: bounded handshakes with a time-out, so that a stranger who says nothing holds nothing up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, version};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tracing::{debug, warn};

use super::{TlsLeaf, spki_digest};
use crate::id::Digest;
use crate::shutdown::Shutdown;

/// Handshakes under way at once; more wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 256;
/// How long one may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Connections whose handshake is done.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<TlsStream<TcpStream>>);

impl Stream for Incoming {
    type Item = io::Result<TlsStream<TcpStream>>;

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
    let tasks = shutdown.clone();
    shutdown.spawn(async move {
        loop {
            let Some(Ok(permit)) = tasks.unless_requested(Arc::clone(&handshakes).acquire_owned()).await
            else {
                return;
            };
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
                        let _ = done.send(stream).await;
                    }
                    Ok(Err(error)) => debug!(%peer, %error, "handshake failed"),
                    Err(_) => debug!(%peer, "handshake took too long"),
                }
            });
        }
    });
    Incoming(connections)
}
