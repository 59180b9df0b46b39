//! Making the channel's certificates: P-256, one authority, leaves that name hosts.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType,
};
use zeroize::Zeroizing;

use writ_protocol::keys::certificate::offset;
use writ_protocol::keys::{Algorithm, Holder, PrivateKey};
use writ_protocol::time::Timestamp;

/// id-kp-documentSigning (RFC 9336 §3): what tells a key that signs documents from every other key an
/// authority vouches for.
const DOCUMENT_SIGNING: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 36];
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate authority of the channel.
#[derive(Debug)]
pub struct TlsAuthority {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// The private key, PKCS#8.
    pub key: Zeroizing<Vec<u8>>,
}

/// A server's certificate and key.
#[derive(Debug)]
pub struct TlsLeaf {
    /// The leaf, then its authority, DER: clients that know only the authority's hash need to see it.
    pub chain: Vec<Vec<u8>>,
    /// The private key, PKCS#8.
    pub key: Zeroizing<Vec<u8>>,
}

/// The certificate library said no, most often to a host name.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a TLS certificate: {0}")]
pub struct IssueError(#[from] rcgen::Error);

impl TlsAuthority {
    /// A new authority, valid for ten years.
    ///
    /// # Errors
    /// When the library refuses the name.
    pub fn create(name: &str, now: Timestamp) -> Result<Self, IssueError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Clocks of hosts differ; an hour back costs nothing.
        params.not_before = offset(now - Duration::from_secs(3600));
        params.not_after = offset(now + DAY * 3650);
        let certificate = params.self_signed(&pair)?.der().to_vec();
        Ok(Self { certificate, key: Zeroizing::new(pair.serialize_der()) })
    }

    /// A certificate for a key that signs documents, valid for three years: what an entity that was given
    /// this authority believes.
    ///
    /// # Errors
    /// When the library refuses the name.
    pub fn certify<H: Holder>(
        &self,
        key: &PrivateKey<H>,
        name: &str,
        now: Timestamp,
    ) -> Result<Vec<u8>, IssueError> {
        let algorithm = match key.public().algorithm() {
            Algorithm::Ed25519 => &PKCS_ED25519,
            Algorithm::P256 => &PKCS_ECDSA_P256_SHA256,
        };
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&key.to_pkcs8().as_slice().into(), algorithm)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec())];
        params.not_before = offset(now - Duration::from_secs(3600));
        params.not_after = offset(now + DAY * 1095);
        Ok(params.signed_by(&pair, &self.issuer()?)?.der().to_vec())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, IssueError> {
        let signing =
            KeyPair::from_pkcs8_der_and_sign_algo(&self.key.as_slice().into(), &PKCS_ECDSA_P256_SHA256)?;
        Ok(Issuer::from_ca_cert_der(&self.certificate.as_slice().into(), signing)?)
    }

    /// A leaf for these host names and addresses, valid for a year.
    ///
    /// # Errors
    /// When a name is not one a certificate can carry.
    pub fn issue(&self, names: &[String], now: Timestamp) -> Result<TlsLeaf, IssueError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("writ", String::as_str));
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse::<IpAddr>() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => name.as_str().try_into().map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = offset(now - Duration::from_secs(3600));
        params.not_after = offset(now + DAY * 365);
        let leaf = params.signed_by(&pair, &self.issuer()?)?.der().to_vec();
        Ok(TlsLeaf { chain: vec![leaf, self.certificate.clone()], key: Zeroizing::new(pair.serialize_der()) })
    }
}
