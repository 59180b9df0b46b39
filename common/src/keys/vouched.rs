//! Keys an organisation's certificate authority vouches for: a Control Manager signs by one, and an entity was given the authority
//! alone. Chains are short and checked here once (RFC 5280 §6.1, of which dates, names, signatures and CA flags are what applies).

use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{PublicKey, SigningCertificate};
use crate::id::Digest;
use crate::time::Timestamp;

/// Certificates between a leaf and the authority.
const MAX_INTERMEDIATES: usize = 4;

/// id-kp-documentSigning.
const DOCUMENT_SIGNING: &str = "1.3.6.1.5.5.7.3.36";

/// Why a certificate authority cannot be pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    /// Not X.509.
    #[error("it is no X.509 certificate")]
    NotACertificate,
    /// A leaf.
    #[error("it is not a certificate authority (basicConstraints does not say CA)")]
    NotAnAuthority,
    /// Too late.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// Too early.
    #[error("it is not valid before {0}")]
    NotYetValid(Timestamp),
}

/// Why a key is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotVouched {
    /// A certificate cannot be read, or its key is of an algorithm we do not use.
    #[error("the certificate of the key cannot be read")]
    Damaged,
    /// The chain is too long.
    #[error("there are more than {MAX_INTERMEDIATES} certificates between the key and the authority")]
    TooLong,
    /// The chain does not lead to the authority.
    #[error("the key ({0}) is not certified by the authority that was given")]
    Unknown(String),
    /// A certificate of the chain is out of date.
    #[error("a certificate of the key is valid from {from} to {until}, not at {now}")]
    NotNow {
        /// The first moment.
        from: Timestamp,
        /// The last one.
        until: Timestamp,
        /// When it was judged.
        now: Timestamp,
    },
    /// It may not sign.
    #[error("the certificate of the key does not allow digital signatures")]
    Usage,
    /// It is for something else, such as a web server's TLS.
    #[error(
        "the certificate is not one for signing documents (extended key usage 1.3.6.1.5.5.7.3.36, and neither TLS server nor client)"
    )]
    Purpose,
}

/// A certificate authority an operator uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedAuthority {
    der: Vec<u8>,
    /// For people.
    pub subject: String,
    /// For people.
    pub issuer: String,
    /// The first moment of its validity.
    pub not_before: Timestamp,
    /// The last one.
    pub not_after: Timestamp,
}

impl PinnedAuthority {
    /// Reads an authority, and refuses what is none now.
    ///
    /// # Errors
    /// What it is instead.
    pub fn from_der(der: &[u8], now: Timestamp) -> Result<Self, InvalidAuthority> {
        let authority = Self::at_any_date(der)?;
        if authority.not_after < now {
            return Err(InvalidAuthority::Expired(authority.not_after));
        }
        if now < authority.not_before {
            return Err(InvalidAuthority::NotYetValid(authority.not_before));
        }
        Ok(authority)
    }

    /// The same whatever its dates, to show it.
    ///
    /// # Errors
    /// What it is instead.
    pub fn at_any_date(der: &[u8]) -> Result<Self, InvalidAuthority> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| InvalidAuthority::NotACertificate)?;
        if !rest.is_empty() {
            return Err(InvalidAuthority::NotACertificate);
        }
        if !parsed.is_ca() {
            return Err(InvalidAuthority::NotAnAuthority);
        }
        let (not_before, not_after) = validity(&parsed);
        let (subject, issuer) = (parsed.subject().to_string(), parsed.issuer().to_string());
        Ok(Self { der: der.to_vec(), subject, issuer, not_before, not_after })
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The key of a leaf this authority vouches for now, perhaps by others in between, to sign documents.
    ///
    /// # Errors
    /// Why it does not.
    pub fn vouches_for(
        &self,
        leaf: &[u8],
        intermediates: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<PublicKey, NotVouched> {
        let certificate = SigningCertificate::from_der(leaf).map_err(|_| NotVouched::Damaged)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| NotVouched::Damaged)?;
        let allows = parsed.key_usage().ok().flatten().is_none_or(|usage| usage.value.digital_signature());
        if !allows {
            return Err(NotVouched::Usage);
        }
        if !signs_documents(&parsed) {
            return Err(NotVouched::Purpose);
        }
        self.leads_from(leaf, intermediates, now)?;
        Ok(certificate.key().clone())
    }

    /// Whether a leaf's certificate leads here now, whatever it is for.
    ///
    /// # Errors
    /// Where the chain breaks.
    pub fn leads_from(
        &self,
        leaf: &[u8],
        intermediates: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<(), NotVouched> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(NotVouched::TooLong);
        }
        let parse =
            |der| X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| NotVouched::Damaged);
        let mut below = parse(leaf)?;
        let key = Digest::of(below.public_key().raw).to_string();
        let mut above: Vec<_> = intermediates.iter().map(|der| parse(der)).collect::<Result<_, _>>()?;
        above.push(parse(&self.der)?);
        for issuer in above {
            is_now(&below, now)?;
            let is_issued = issuer.is_ca()
                && below.issuer() == issuer.subject()
                && below.verify_signature(Some(issuer.public_key())).is_ok();
            if !is_issued {
                return Err(NotVouched::Unknown(key));
            }
            below = issuer;
        }
        is_now(&below, now)
    }
}

/// An authority vouches for many keys: web servers', people's, hosts'. One that may also be a TLS key is held by whatever ends TLS, which
/// must not be able to speak for the manager (RFC 9336).
fn signs_documents(certificate: &X509Certificate<'_>) -> bool {
    let Ok(Some(usage)) = certificate.extended_key_usage() else { return false };
    let usage = usage.value;
    let names_documents = usage.other.iter().any(|oid| oid.to_id_string() == DOCUMENT_SIGNING);
    names_documents && !usage.any && !usage.server_auth && !usage.client_auth
}

fn validity(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let millis =
        |seconds: i64| Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let validity = certificate.validity();
    (millis(validity.not_before.timestamp()), millis(validity.not_after.timestamp()))
}

fn is_now(certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(), NotVouched> {
    let (from, until) = validity(certificate);
    if now < from || until < now { Err(NotVouched::NotNow { from, until, now }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keys::{Algorithm, Manager, PrivateKey};
    use crate::tls::TlsAuthority;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000)
    }

    #[test]
    fn an_authority_vouches_for_the_keys_it_certified_and_for_no_others() {
        let authority = TlsAuthority::create("manager", now()).unwrap();
        let pinned = PinnedAuthority::from_der(&authority.certificate, now()).unwrap();
        for algorithm in Algorithm::ALL {
            let key = PrivateKey::<Manager>::generate(algorithm);
            let leaf = authority.certify(&key, "manager instructions", now()).unwrap();
            assert_eq!(pinned.vouches_for(&leaf, &[], now()).unwrap(), *key.public());
            let other = TlsAuthority::create("manager", now()).unwrap();
            let stranger = other.certify(&key, "manager instructions", now()).unwrap();
            assert!(matches!(pinned.vouches_for(&stranger, &[], now()), Err(NotVouched::Unknown(_))));
            let late = now() + DAY * 4000;
            assert!(matches!(pinned.vouches_for(&leaf, &[], late), Err(NotVouched::NotNow { .. })));
            let mut altered = leaf.clone();
            let tls = authority.issue(&["localhost".to_owned()], now()).unwrap();
            assert_eq!(pinned.vouches_for(&tls.chain[0], &[], now()), Err(NotVouched::Purpose));
            let last = altered.len() - 1;
            altered[last] ^= 1;
            let _refused = pinned.vouches_for(&altered, &[], now()).unwrap_err();
        }
    }

    #[test]
    fn what_is_no_authority_now_is_not_pinned() {
        let authority = TlsAuthority::create("manager", now()).unwrap();
        let leaf = authority.issue(&["localhost".to_owned()], now()).unwrap();
        let at = |der: &[u8], now| PinnedAuthority::from_der(der, now).unwrap_err();
        assert_eq!(at(b"no", now()), InvalidAuthority::NotACertificate);
        assert_eq!(at(&leaf.chain[0], now()), InvalidAuthority::NotAnAuthority);
        assert!(matches!(at(&authority.certificate, now() + DAY * 4000), InvalidAuthority::Expired(_)));
        assert!(matches!(at(&authority.certificate, now() - DAY), InvalidAuthority::NotYetValid(_)));
    }
}
