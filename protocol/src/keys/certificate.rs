//! Signing certificates: an X.509 wrapper that gives a key a name and dates. Trust comes from the bundle
//! alone.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::public::InvalidPublicKey;
use super::{Algorithm, PrivateKey, PublicKey, Server};
use crate::time::Timestamp;

/// A signing certificate lives three years.
pub const SIGNING_LIFETIME: Duration = Duration::from_secs(3 * 365 * 24 * 3600);

/// A parsed X.509 certificate whose key can verify commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningCertificate {
    der: Vec<u8>,
    key: PublicKey,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why bytes are not a usable signing certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// Not X.509, or followed by something.
    #[error("not an X.509 certificate in DER form")]
    Der,
    /// An algorithm we do not use.
    #[error("its key is {InvalidPublicKey}")]
    Key,
    /// It could not be made.
    #[error("it could not be made: {0}")]
    Make(String),
}

impl SigningCertificate {
    /// Parses DER.
    ///
    /// # Errors
    /// When it is no certificate, or its key is of another algorithm.
    pub fn from_der(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| InvalidCertificate::Der)?;
        if !rest.is_empty() {
            return Err(InvalidCertificate::Der);
        }
        let key = PublicKey::from_spki(parsed.public_key().raw).map_err(|_| InvalidCertificate::Key)?;
        let seconds = |at: i64| Timestamp::ZERO + Duration::from_secs(u64::try_from(at).unwrap_or(0));
        Ok(Self {
            der: der.to_vec(),
            key,
            not_before: seconds(parsed.validity().not_before.timestamp()),
            not_after: seconds(parsed.validity().not_after.timestamp()),
        })
    }

    /// Makes a self-signed one. Nobody relies on the signature: bundles carry the trust.
    ///
    /// # Errors
    /// When the certificate library refuses the name.
    pub fn issue(key: &PrivateKey<Server>, name: &str, now: Timestamp) -> Result<Self, InvalidCertificate> {
        Self::issue_until(key, name, now, now + SIGNING_LIFETIME)
    }

    /// The same with an end of its own.
    ///
    /// # Errors
    /// When the certificate library refuses the name.
    pub fn issue_until(
        key: &PrivateKey<Server>,
        name: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Self, InvalidCertificate> {
        let make = |error: rcgen::Error| InvalidCertificate::Make(error.to_string());
        let pkcs8 = key.to_pkcs8();
        let algorithm = match key.public().algorithm() {
            Algorithm::Ed25519 => &PKCS_ED25519,
            Algorithm::P256 => &PKCS_ECDSA_P256_SHA256,
        };
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.as_slice().into(), algorithm)
            .map_err(make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = offset(now);
        params.not_after = offset(until);
        Self::from_der(params.self_signed(&pair).map_err(make)?.der())
    }

    /// The certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The common name of its subject, for people.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(&self.der).ok()?;
        let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
        Some(name.to_owned())
    }

    /// The key it names.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The first moment of its validity.
    #[must_use]
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last second of its validity.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// For rcgen, which has its own time type.
#[must_use]
pub fn offset(at: Timestamp) -> time_of_rcgen::OffsetDateTime {
    let seconds = i64::try_from(at.as_millis() / 1000).unwrap_or(i64::MAX);
    time_of_rcgen::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time_of_rcgen::OffsetDateTime::UNIX_EPOCH)
}

use time as time_of_rcgen;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_names_the_key_it_was_issued_for() {
        for algorithm in Algorithm::ALL {
            let key = PrivateKey::<Server>::generate(algorithm);
            let now = Timestamp::from_millis(1_790_000_000_000);
            let certificate = SigningCertificate::issue(&key, "acme", now).unwrap();
            assert_eq!(certificate.key(), key.public());
            assert_eq!(certificate.not_before(), now);
            assert_eq!(certificate.name().as_deref(), Some("acme"));
            assert_eq!(certificate.not_after(), now + SIGNING_LIFETIME);
            let trailing = [certificate.der(), b"x"].concat();
            assert_eq!(SigningCertificate::from_der(&trailing), Err(InvalidCertificate::Der));
        }
    }
}
