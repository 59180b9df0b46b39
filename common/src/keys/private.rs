//! Private keys. They sign nothing themselves: [`crate::envelope::sign`] does.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::{Holder, PublicKey};
use crate::envelope::Purpose;
use crate::id::random_bytes;

/// Closes [`Holder`].
pub trait Sealed {}

/// PKCS#8 v1 of RFC 8410 §7 up to the 32 seed bytes. OpenSSL 3.0 does not read ring's v2.
const PKCS8_V1_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A private key of one kind of holder.
pub struct PrivateKey<H: Holder> {
    pair: Arc<Ed25519KeyPair>,
    public: PublicKey,
    seed: Arc<Zeroizing<[u8; 32]>>,
    holder: PhantomData<H>,
}

/// The right to sign documents of one purpose with one key.
pub struct SigningKey<P: Purpose> {
    pub(crate) pair: Arc<Ed25519KeyPair>,
    public: PublicKey,
    purpose: PhantomData<P>,
}

/// Bytes that are no private key we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an unencrypted Ed25519 private key in PKCS#8 form")]
pub struct InvalidPrivateKey;

impl<H: Holder> PrivateKey<H> {
    /// A new key from the operating system's random source.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_seed(Zeroizing::new(random_bytes()))
    }

    fn from_seed(seed: Zeroizing<[u8; 32]>) -> Self {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed of 32 bytes is always a key");
        let mut raw = [0; 32];
        raw.copy_from_slice(pair.public_key().as_ref());
        let public = PublicKey::from_raw(raw);
        Self { pair: Arc::new(pair), public, seed: Arc::new(seed), holder: PhantomData }
    }

    /// Reads PKCS#8, version 1 (OpenSSL) or 2 (ring); a public key in it must match.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidPrivateKey> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| InvalidPrivateKey)?;
        // Both versions carry the seed as OCTET STRING in an OCTET STRING after the same 9 bytes of
        // algorithm; ring has just checked the structure.
        let marker = &PKCS8_V1_PREFIX[5..];
        let start = der.windows(marker.len()).position(|window| window == marker).ok_or(InvalidPrivateKey)?;
        let seed = der
            .get(start + marker.len()..)
            .and_then(|rest| rest.first_chunk::<32>())
            .ok_or(InvalidPrivateKey)?;
        Ok(Self::from_seed(Zeroizing::new(*seed)))
    }

    /// PKCS#8 version 1, which every OpenSSL reads. A secret: write it through [`crate::files::write_secret`].
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([PKCS8_V1_PREFIX.as_slice(), self.seed.as_slice()].concat())
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Narrows the key to one purpose; compiles only for purposes this holder may sign.
    #[must_use]
    pub fn for_purpose<P: Purpose<Signer = H>>(&self) -> SigningKey<P> {
        SigningKey { pair: Arc::clone(&self.pair), public: self.public.clone(), purpose: PhantomData }
    }
}

impl<P: Purpose> SigningKey<P> {
    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl<H: Holder> Clone for PrivateKey<H> {
    fn clone(&self) -> Self {
        Self {
            pair: Arc::clone(&self.pair),
            public: self.public.clone(),
            seed: Arc::clone(&self.seed),
            holder: PhantomData,
        }
    }
}

impl<P: Purpose> Clone for SigningKey<P> {
    fn clone(&self) -> Self {
        Self { pair: Arc::clone(&self.pair), public: self.public.clone(), purpose: PhantomData }
    }
}

impl<H: Holder> fmt::Debug for PrivateKey<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, {}, secret)", H::NAME, self.public.id())
    }
}

impl<P: Purpose> fmt::Debug for SigningKey<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, {}, secret)", P::PAYLOAD_TYPE, self.public.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Agent;

    #[test]
    fn a_key_survives_pkcs8_of_either_version() {
        let key = PrivateKey::<Agent>::generate();
        let again = PrivateKey::<Agent>::from_pkcs8(&key.to_pkcs8()).unwrap();
        assert_eq!(again.public(), key.public());

        let version_2 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let ring_pair = Ed25519KeyPair::from_pkcs8(version_2.as_ref()).unwrap();
        let ours = PrivateKey::<Agent>::from_pkcs8(version_2.as_ref()).unwrap();
        assert_eq!(ours.public().raw(), ring_pair.public_key().as_ref());
    }

    #[test]
    fn garbage_is_no_key_and_debug_output_is_no_leak() {
        assert_eq!(PrivateKey::<Agent>::from_pkcs8(b"no").unwrap_err(), InvalidPrivateKey);
        let key = PrivateKey::<Agent>::generate();
        let shown = format!("{key:?}");
        assert!(shown.contains("secret") && !shown.contains(&hex::encode(key.seed.as_slice())));
    }
}
