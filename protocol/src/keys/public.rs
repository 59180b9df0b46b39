//! Public keys in their canonical form.

use std::fmt;

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, VerificationAlgorithm};

use super::Algorithm;
use crate::id::KeyId;

/// RFC 8410 §4: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING } up to the 32 key bytes.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// RFC 5480 §2: SEQUENCE { SEQUENCE { id-ecPublicKey, secp256r1 }, BIT STRING } up to the 65 bytes of the
/// point, which is uncompressed and so begins with 4.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A public key of one of the two algorithms.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    raw: Raw,
    id: KeyId,
}

#[derive(Clone, PartialEq, Eq)]
enum Raw {
    Ed25519([u8; 32]),
    P256([u8; 65]),
}

/// Bytes that are not the canonical SubjectPublicKeyInfo of a key we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a canonical SubjectPublicKeyInfo of Ed25519 (RFC 8410) or of P-256 (RFC 5480: named curve, uncompressed)"
)]
pub struct InvalidPublicKey;

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo, which has exactly one accepted form for each algorithm.
    ///
    /// # Errors
    /// For every other form and algorithm.
    pub fn from_spki(der: &[u8]) -> Result<Self, InvalidPublicKey> {
        let raw = if let Some(key) = der.strip_prefix(ED25519_SPKI_PREFIX.as_slice()) {
            Raw::Ed25519(key.try_into().map_err(|_| InvalidPublicKey)?)
        } else {
            let point = der.strip_prefix(P256_SPKI_PREFIX.as_slice()).ok_or(InvalidPublicKey)?;
            let point: [u8; 65] = point.try_into().map_err(|_| InvalidPublicKey)?;
            if point[0] != 4 {
                return Err(InvalidPublicKey);
            }
            Raw::P256(point)
        };
        Ok(Self { raw, id: KeyId::of(der) })
    }

    /// From what ring calls a public key: 32 bytes of RFC 8032, or an uncompressed point.
    pub(super) fn from_ring(algorithm: Algorithm, raw: &[u8]) -> Result<Self, InvalidPublicKey> {
        Self::from_spki(&[prefix(algorithm), raw].concat())
    }

    /// The canonical SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        [prefix(self.algorithm()), self.raw()].concat()
    }

    /// Which algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.raw {
            Raw::Ed25519(_) => Algorithm::Ed25519,
            Raw::P256(_) => Algorithm::P256,
        }
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) const fn raw(&self) -> &[u8] {
        match &self.raw {
            Raw::Ed25519(raw) => raw,
            Raw::P256(point) => point,
        }
    }

    /// How its signatures are checked: RFC 8032, or FIPS 186-4 with SHA-256 and DER (r, s).
    pub(crate) fn verification(&self) -> &'static dyn VerificationAlgorithm {
        match self.raw {
            Raw::Ed25519(_) => &ED25519,
            Raw::P256(_) => &ECDSA_P256_SHA256_ASN1,
        }
    }
}

const fn prefix(algorithm: Algorithm) -> &'static [u8] {
    match algorithm {
        Algorithm::Ed25519 => &ED25519_SPKI_PREFIX,
        Algorithm::P256 => &P256_SPKI_PREFIX,
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_forms_of_a_key_are_no_keys() {
        let point = [&[4; 1], [9; 64].as_slice()].concat();
        let canonical = [P256_SPKI_PREFIX.as_slice(), &point].concat();
        assert_eq!(PublicKey::from_spki(&canonical).unwrap().spki(), canonical);
        for other in [
            [canonical.as_slice(), b"x"].concat(),
            canonical[..canonical.len() - 1].to_vec(),
            [P256_SPKI_PREFIX.as_slice(), &[2; 65]].concat(),
            Vec::new(),
        ] {
            assert_eq!(PublicKey::from_spki(&other), Err(InvalidPublicKey));
        }
    }
}
