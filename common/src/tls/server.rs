//! A server's certificate: shown by all ports at once, and replaced while they serve.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::{TlsLeaf, spki_digest};
use writ_protocol::id::Digest;

/// Leaves that are still answered for after a newer one is shown, and how long: greetings may be under way
/// under them.
const MAX_EARLIER_LEAVES: usize = 3;
const EARLIER_LEAF_COUNTS: Duration = Duration::from_secs(300);

/// A server's certificate, ready to be shown. Clones share it, so that a new one is shown by all ports at
/// once.
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

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the leaf, and of those shown until a few minutes ago, as agents
    /// saw them.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Clock as _, SystemClock};
    use crate::tls::{LeafFacts, TlsAuthority};

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
}
