//! Keys an organisation's certificate authority vouches for: a Control Manager signs by one, and an entity
//! was given the authority alone. The path is checked by RFC 5280, section 6.1: signatures, dates, names, CA
//! flags, path lengths and name constraints by `webpki`; beside it what that leaves out, the key usage of
//! issuers (section 4.2.1.3) and the path length of the authority.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use writ_protocol::id::Digest;
use writ_protocol::keys::{PublicKey, SigningCertificate};
use writ_protocol::time::Timestamp;

/// Certificates between a leaf and the authority.
const MAX_INTERMEDIATES: usize = 4;

/// id-kp-documentSigning (RFC 9336).
const DOCUMENT_SIGNING: &str = "1.3.6.1.5.5.7.3.36";
const DOCUMENT_SIGNING_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 36];

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
    /// The chain leads to the authority by a certificate that may not issue others, or not this one.
    #[error("the key ({key}) is not certified as RFC 5280 asks: {why}")]
    Path {
        /// Whose chain it is.
        key: String,
        /// The rule.
        why: String,
    },
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
        self.check_path(leaf, intermediates, now, KeyUsage::required_if_present(DOCUMENT_SIGNING_DER))?;
        Ok(certificate.key().clone())
    }

    /// Whether the certificate of a TLS server leads here now.
    ///
    /// # Errors
    /// Where the chain breaks.
    pub fn leads_from(
        &self,
        leaf: &[u8],
        intermediates: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<(), NotVouched> {
        self.check_path(leaf, intermediates, now, KeyUsage::server_auth())
    }

    fn check_path(
        &self,
        leaf: &[u8],
        intermediates: &[Vec<u8>],
        now: Timestamp,
        usage: KeyUsage,
    ) -> Result<(), NotVouched> {
        if intermediates.len() > MAX_INTERMEDIATES {
            return Err(NotVouched::TooLong);
        }
        let parse =
            |der| X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| NotVouched::Damaged);
        let own = parse(leaf)?;
        let key = Digest::of(own.public_key().raw).to_string();
        is_now(&own, now)?;
        let mut issuers: Vec<_> = intermediates.iter().map(|der| parse(der)).collect::<Result<_, _>>()?;
        issuers.push(parse(&self.der)?);
        for issuer in &issuers {
            is_now(issuer, now)?;
            let usage = issuer.key_usage().ok().flatten();
            if !issuer.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
                let why = format!("`{}` may not issue certificates", issuer.subject());
                return Err(NotVouched::Path { key, why });
            }
        }
        let longest = issuers.last().and_then(|authority| authority.basic_constraints().ok().flatten());
        let longest = longest.and_then(|constraints| constraints.value.path_len_constraint);
        if longest
            .is_some_and(|longest| usize::try_from(longest).is_ok_and(|most| intermediates.len() > most))
        {
            let why = "there are more certificates in between than the authority allows".to_owned();
            return Err(NotVouched::Path { key, why });
        }

        let authority = CertificateDer::from(self.der.as_slice());
        let anchor = anchor_from_trusted_cert(&authority).map_err(|_| NotVouched::Damaged)?;
        let leaf = CertificateDer::from(leaf);
        let end = EndEntityCert::try_from(&leaf).map_err(|error| path(&key, &error))?;
        let between: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
        end.verify_for_usage(algorithms, &[anchor], &between, at, usage, None, None)
            .map_err(|error| path(&key, &error))?;
        Ok(())
    }
}

/// Whom a certificate is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub key: Digest,
    /// For people.
    pub subject: String,
    /// SHA-256 of subject and issuer as encoded.
    pub name: Digest,
    /// The first moment of its validity.
    pub not_before: Timestamp,
}

impl Named {
    /// `None` if it is no certificate.
    #[must_use]
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (subject, issuer) = (parsed.subject(), parsed.issuer());
        Some(Self {
            key: Digest::of(parsed.public_key().raw),
            subject: subject.to_string(),
            name: Digest::of(&[subject.as_raw(), issuer.as_raw()].concat()),
            not_before: validity(&parsed).0,
        })
    }
}

/// An authority vouches for many keys: web servers', people's, hosts'. One that may also be a TLS key is held
/// by whatever ends TLS, which must not be able to speak for the manager (RFC 9336).
fn signs_documents(certificate: &X509Certificate<'_>) -> bool {
    let Ok(Some(usage)) = certificate.extended_key_usage() else { return false };
    let usage = usage.value;
    let names_documents = usage.other.iter().any(|oid| oid.to_id_string() == DOCUMENT_SIGNING);
    names_documents && !usage.any && !usage.server_auth && !usage.client_auth
}

/// What webpki says, with what people have to do about it.
fn path(key: &str, error: &webpki::Error) -> NotVouched {
    let key = key.to_owned();
    let why = match error {
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            return NotVouched::Unknown(key);
        }
        webpki::Error::PathLenConstraintViolated => {
            "there are more certificates in between than one of them allows".to_owned()
        }
        webpki::Error::NameConstraintViolation => {
            "it has a name that its issuers may not certify (name constraints)".to_owned()
        }
        other => other.to_string(),
    };
    NotVouched::Path { key, why }
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
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
        KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
    };

    use super::*;
    use crate::tls::TlsAuthority;
    use writ_protocol::keys::certificate::offset;
    use writ_protocol::keys::{Algorithm, Manager, PrivateKey};

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

    /// A certificate authority, or a leaf that signs documents, as somebody's tools make it.
    fn made(
        issuer: Option<&Issuer<'static, KeyPair>>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Vec<u8>, Issuer<'static, KeyPair>) {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, Digest::of(&pair.serialize_der()).to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = offset(now() - DAY);
        params.not_after = offset(now() + DAY);
        change(&mut params);
        let der = match issuer {
            Some(issuer) => params.signed_by(&pair, issuer).unwrap().der().to_vec(),
            None => params.self_signed(&pair).unwrap().der().to_vec(),
        };
        (der, Issuer::new(params, pair))
    }

    fn leaf(params: &mut CertificateParams) {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 36])];
        params.subject_alt_names = vec![SanType::DnsName("cm.acme.example".try_into().unwrap())];
    }

    #[test]
    fn whoever_is_between_may_certify_only_what_its_own_certificate_allows() {
        let constrained = |length| {
            move |params: &mut CertificateParams| {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
            }
        };
        let names = |name: &'static str| {
            move |params: &mut CertificateParams| {
                let permitted_subtrees = vec![GeneralSubtree::DnsName(name.to_owned())];
                params.name_constraints =
                    Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
            }
        };
        type Change = Box<dyn FnOnce(&mut CertificateParams)>;
        let as_is = || -> Change { Box::new(|_| ()) };
        let cases: Vec<(&str, Change, Change, Change)> = vec![
            ("", as_is(), as_is(), as_is()),
            ("", as_is(), Box::new(constrained(1)), Box::new(names("acme.example"))),
            ("than the authority allows", Box::new(constrained(1)), as_is(), as_is()),
            ("than one of them allows", as_is(), Box::new(constrained(0)), as_is()),
            ("may not issue certificates", as_is(), as_is(), Box::new(leaf)),
            (
                "may not issue certificates",
                as_is(),
                Box::new(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
                as_is(),
            ),
            ("name constraints", as_is(), Box::new(names("other.example")), as_is()),
            (
                "certified as RFC 5280 asks",
                as_is(),
                as_is(),
                Box::new(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            ),
        ];
        for (word, root, upper, lower) in cases {
            let (root, by_root) = made(None, root);
            let (upper, by_upper) = made(Some(&by_root), upper);
            let (lower, by_lower) = made(Some(&by_upper), lower);
            let (own, _) = made(Some(&by_lower), leaf);
            let pinned = PinnedAuthority::from_der(&root, now()).unwrap();
            match pinned.vouches_for(&own, &[lower, upper], now()) {
                Ok(_) => assert_eq!(word, ""),
                Err(error) => {
                    assert!(!word.is_empty() && error.to_string().contains(word), "{word}: {error}")
                }
            }
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
