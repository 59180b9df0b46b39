//! Connecting: the peer's certificate is checked against anchors we were given, never against the host's
//! store.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    version,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::{LeafFacts, spki_digest};
use crate::net::{DialError, Proxy, reach};
use crate::time::{Clock as _, SystemClock};
use writ_protocol::id::Digest;
use writ_protocol::place::{InvalidPlace, Place, server_name};
use writ_protocol::time::Timestamp;

/// For TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a peer's certificate must lead to.
#[derive(Debug, Clone)]
pub enum Anchors {
    /// These authorities, DER.
    Authorities(Vec<Vec<u8>>),
    /// These authorities, DER, whatever this host's clock says of dates. Only where it is checked next that a
    /// signed hello names the leaf (protocol.md §6.2): the clock of an agent's host decides nothing.
    AuthoritiesAtAnyDate(Vec<Vec<u8>>),
    /// Nothing: any server may answer. Only for questions whose answers prove themselves and which say
    /// nothing of who asks (protocol.md §6.11).
    Unverified,
    /// An authority the peer shows itself, whose SubjectPublicKeyInfo has one of these SHA-256 hashes.
    SpkiDigests(Vec<Digest>),
}

/// A channel and what was seen on it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// For tonic's clients. One connection, never re-established behind our back.
    pub channel: Channel,
    /// SHA-256 of the SubjectPublicKeyInfo of the peer's leaf.
    pub leaf_spki_digest: Digest,
}

/// Why there is no connection, by leg.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not "host:port".
    #[error(transparent)]
    Address(#[from] InvalidPlace),
    /// Name, proxy or TCP.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TLS, most often an authority we were not given.
    #[error("cannot verify {endpoint}: {}", in_words(.source))]
    Tls {
        /// Where to.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// Too slow.
    #[error("{0} did not answer within {CONNECT_TIMEOUT:?}")]
    Timeout(String),
    /// The anchors are not certificates.
    #[error("the given certificate authorities cannot be used: {0}")]
    Anchors(#[from] rustls::Error),
    /// HTTP/2 could not be started.
    #[error("cannot speak to {endpoint}: {source}")]
    Http {
        /// Where to.
        endpoint: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// What TLS stumbles over, in the order it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The two do not speak the same TLS, or one hung up.
    Handshake,
    /// The certificate does not lead to an authority we were given, or not now.
    Trust,
    /// It is another host's.
    Name,
}

/// What is wrong with the dates of a certificate, with times as people read them; anything else in the
/// library's words.
fn in_words(source: &io::Error) -> String {
    let time = |at: UnixTime| Timestamp::from_millis(at.as_secs().saturating_mul(1000)).to_string();
    let fault = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match fault {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            time: now,
            not_after,
        })) => {
            format!(
                "the certificate there ended at {}, and this machine's clock says {}",
                time(*not_after),
                time(*now)
            )
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            time: now,
            not_before,
        })) => {
            format!(
                "the certificate there begins at {}, and this machine's clock says {}",
                time(*not_before),
                time(*now)
            )
        }
        _ => source.to_string(),
    }
}

impl ConnectError {
    /// Whether it is only that a certificate is not valid now, as this machine's clock has it.
    #[must_use]
    pub fn is_about_dates(&self) -> bool {
        let Self::Tls { source, .. } = self else { return false };
        let fault = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        matches!(
            fault,
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
            ))
        )
    }

    /// Whether somebody may be there whom the anchors do not vouch for.
    #[must_use]
    pub const fn is_unverifiable(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::Anchors(_))
    }

    /// What TLS stumbled over; `None`: it was not TLS.
    #[must_use]
    pub fn tls_fault(&self) -> Option<TlsFault> {
        let Self::Tls { source, .. } = self else { return None };
        let fault = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        Some(match fault {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => TlsFault::Name,
            Some(rustls::Error::InvalidCertificate(_)) => TlsFault::Trust,
            _ => TlsFault::Handshake,
        })
    }

    /// What the person who reads this should do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Address(_) => "correct the address",
            Self::Dial(error) => error.advice(),
            Self::Timeout(_) => "look at the firewalls in between: something swallows what is sent",
            Self::Tls { source, .. } => {
                match source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
                    Some(rustls::Error::InvalidCertificate(
                        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                    )) => {
                        "the certificate there does not carry this name: give the server, or the web server in between, one that does (writ-server authority endpoints, writ-control-manager names)"
                    }
                    Some(rustls::Error::InvalidCertificate(
                        CertificateError::Expired
                        | CertificateError::ExpiredContext { .. }
                        | CertificateError::NotValidYet
                        | CertificateError::NotValidYetContext { .. },
                    )) => "look at the clocks on both ends; then renew the certificate there",
                    Some(rustls::Error::InvalidCertificate(_)) => {
                        "somebody else answers there, or its authority was replaced: see that the address is right"
                    }
                    Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                        "what answers there does not speak HTTP/2: switch it on in the web server in between"
                    }
                    Some(rustls::Error::InvalidMessage(_)) => {
                        "what answers there speaks no TLS at all: correct the port"
                    }
                    Some(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)) => {
                        "what answers there does not speak TLS 1.3: a proxy in between, or another program"
                    }
                    _ => {
                        "what answers there does not speak TLS as we do: a proxy in between, or another program"
                    }
                }
            }
            Self::Anchors(_) => "mend the certificates that were given",
            Self::Http { .. } => "what answers there is no server of ours",
        }
    }
}

/// Connects to "host:port" over TLS 1.3.
///
/// # Errors
/// By leg; see [`ConnectError`].
pub async fn connect(endpoint: &str, anchors: &Anchors) -> Result<Connection, ConnectError> {
    connect_by(None, endpoint, anchors).await
}

/// The same, by a proxy if there is one.
///
/// # Errors
/// By leg; see [`ConnectError`].
pub async fn connect_by(
    proxy: Option<&Proxy>,
    endpoint: &str,
    anchors: &Anchors,
) -> Result<Connection, ConnectError> {
    let place: Place = endpoint.parse()?;
    // Boxed: a resolver's futures are large, and most of the life of a connection is not spent here.
    let stream = Box::pin(reach(&place, proxy)).await?;
    connect_over(stream, endpoint, anchors).await
}

/// The same over a stream that leads to "host:port" already, perhaps by a proxy.
///
/// # Errors
/// By leg; see [`ConnectError`].
pub async fn connect_over<S>(stream: S, endpoint: &str, anchors: &Anchors) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = client_config(anchors, b"h2")?;
    let stream = handshake(stream, endpoint, server_name(endpoint)?, config).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let leaf_spki_digest = leaf
        .and_then(|leaf| spki_digest(leaf))
        .ok_or_else(|| ConnectError::Anchors(CertificateError::BadEncoding.into()))?;
    Ok(Connection { channel: over(stream, endpoint).await?, leaf_spki_digest })
}

/// A stream to a web server over TLS 1.3, for HTTP/1.1; by a proxy if there is one.
///
/// # Errors
/// By leg; see [`ConnectError`].
pub async fn connect_web(
    proxy: Option<&Proxy>,
    place: &Place,
    anchors: &Anchors,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let stream = Box::pin(reach(place, proxy)).await?;
    let config = client_config(anchors, b"http/1.1")?;
    handshake(stream, &place.to_string(), place.server_name(), config).await
}

/// A stream to a mail server over TLS 1.3 from its first byte ("implicit TLS", RFC 8314 §3.3).
///
/// # Errors
/// By leg; see [`ConnectError`].
pub async fn connect_mail(place: &Place, anchors: &Anchors) -> Result<TlsStream<TcpStream>, ConnectError> {
    let stream = Box::pin(reach(place, None)).await?;
    let mut config = client_config(anchors, b"")?;
    // Mail servers negotiate no protocol.
    config.alpn_protocols.clear();
    handshake(stream, &place.to_string(), place.server_name(), config).await
}

async fn handshake<S>(
    stream: S,
    endpoint: &str,
    name: ServerName<'static>,
    config: ClientConfig,
) -> Result<TlsStream<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connected)
        .await
        .map_err(|_| ConnectError::Timeout(endpoint.to_owned()))?;
    connected.map_err(|source| ConnectError::Tls { endpoint: endpoint.to_owned(), source })
}

/// HTTP/2 over a stream as it is: TLS that was verified, or a clear text somebody asked for by its name.
///
/// # Errors
/// When HTTP/2 cannot be started.
pub async fn over<S>(stream: S, endpoint: &str) -> Result<Channel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |source| ConnectError::Http { endpoint: endpoint.to_owned(), source };
    // A zone cannot stand in the authority of a URI as it is written; nobody looks at this one.
    let authority = if endpoint.contains('%') { "link.local" } else { endpoint };
    let target = Endpoint::from_shared(format!("http://{authority}")).map_err(http)?;
    // The stream made above is handed over once. When it breaks the channel is dead: its holder
    // connects again from the start, and with it checks again from the start.
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream =
            stream.take().map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    target.connect_with_connector(connector).await.map_err(http)
}

/// `application`: what is spoken over it (RFC 7301).
fn client_config(anchors: &Anchors, application: &[u8]) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let judge = match anchors {
        Anchors::Authorities(authorities) => Judge::Strict(webpki(roots(authorities)?)?),
        Anchors::AuthoritiesAtAnyDate(authorities) => Judge::AtAnyDate(webpki(roots(authorities)?)?),
        Anchors::SpkiDigests(digests) => Judge::Pinned(digests.clone()),
        Anchors::Unverified => Judge::Nobody,
    };
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(OurClock))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge))
        .with_no_client_auth();
    config.alpn_protocols = vec![application.to_vec()];
    Ok(config)
}

fn webpki(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// Whether each of these can vouch for a peer.
///
/// # Errors
/// Why one cannot.
pub fn check_authorities(authorities: &[Vec<u8>]) -> Result<(), String> {
    roots(authorities).map(|_| ()).map_err(|error| error.to_string())
}

fn roots(authorities: &[Vec<u8>]) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from(authority.clone()))?;
    }
    Ok(roots)
}

/// The one clock of this program, for rustls.
#[derive(Debug)]
struct OurClock;

impl TimeProvider for OurClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since_epoch = Duration::from_millis(SystemClock::new().wall().as_millis());
        Some(UnixTime::since_unix_epoch(since_epoch))
    }
}

/// Who judges a peer's certificate.
#[derive(Debug)]
enum Judge {
    /// As every TLS client does.
    Strict(Arc<WebPkiServerVerifier>),
    /// Everything but the dates: a leaf that is out of date now is judged once more in the middle of its own
    /// life.
    AtAnyDate(Arc<WebPkiServerVerifier>),
    /// The shown authority with one of these hashes is the only root.
    Pinned(Vec<Digest>),
    /// The holder of the key of the leaf shown.
    Nobody,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self {
            Self::Nobody => Ok(ServerCertVerified::assertion()),
            Self::Strict(webpki) => webpki.verify_server_cert(leaf, shown, name, ocsp, now),
            Self::AtAnyDate(webpki) => {
                let judged = webpki.verify_server_cert(leaf, shown, name, ocsp, now);
                let is_about_dates = matches!(
                    &judged,
                    Err(rustls::Error::InvalidCertificate(
                        CertificateError::Expired
                            | CertificateError::ExpiredContext { .. }
                            | CertificateError::NotValidYet
                            | CertificateError::NotValidYetContext { .. }
                    ))
                );
                let facts = LeafFacts::read(leaf).filter(|_| is_about_dates);
                let Some(LeafFacts { not_before, not_after, .. }) = facts else { return judged };
                let middle = not_before + not_after.since(not_before) / 2;
                let middle = UnixTime::since_unix_epoch(Duration::from_millis(middle.as_millis()));
                webpki.verify_server_cert(leaf, shown, name, ocsp, middle)
            }
            Self::Pinned(digests) => {
                let is_pinned = |der: &&CertificateDer<'_>| {
                    spki_digest(der).is_some_and(|digest| digests.contains(&digest))
                };
                let authority = shown.iter().find(is_pinned).ok_or(CertificateError::UnknownIssuer)?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                webpki(roots)?.verify_server_cert(leaf, shown, name, ocsp, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
