//! Public keys in their canonical form.

use std::fmt;

use crate::id::KeyId;

/// RFC 8410 §4: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING } up to the 32 key bytes.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// An Ed25519 public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    raw: [u8; 32],
    id: KeyId,
}

/// Bytes that are not the canonical SubjectPublicKeyInfo of a key we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical Ed25519 SubjectPublicKeyInfo (RFC 8410)")]
pub struct InvalidPublicKey;

impl PublicKey {
    pub(super) fn from_raw(raw: [u8; 32]) -> Self {
        let mut key = Self { raw, id: KeyId::from_bytes([0; 32]) };
        key.id = KeyId::of(&key.spki());
        key
    }

    /// Reads a SubjectPublicKeyInfo, which has exactly one accepted form.
    ///
    /// # Errors
    /// For every other form and algorithm.
    pub fn from_spki(der: &[u8]) -> Result<Self, InvalidPublicKey> {
        let raw = der.strip_prefix(ED25519_SPKI_PREFIX.as_slice()).ok_or(InvalidPublicKey)?;
        Ok(Self::from_raw(raw.try_into().map_err(|_| InvalidPublicKey)?))
    }

    /// The canonical SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        [ED25519_SPKI_PREFIX.as_slice(), &self.raw].concat()
    }

    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub const fn raw(&self) -> &[u8; 32] {
        &self.raw
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}
