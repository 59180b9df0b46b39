//! Private keys. They sign nothing themselves: [`crate::envelope::sign`] does.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::der::algorithm;
use super::{Algorithm, Holder, PublicKey};
use crate::envelope::Tag;
use crate::id::random_bytes;

/// Closes [`Holder`].
pub trait Sealed {}

/// PKCS#8 v1 of RFC 8410 §7 up to the 32 seed bytes. OpenSSL 3.0 does not read ring's v2.
const PKCS8_V1_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A private key of one kind of holder.
pub struct PrivateKey<H: Holder> {
    pair: Arc<Pair>,
    public: PublicKey,
    pkcs8: Arc<Zeroizing<Vec<u8>>>,
    holder: PhantomData<H>,
}

/// What ring signs with.
pub(crate) enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// The right to sign documents of one purpose with one key.
pub struct SigningKey<P: Tag> {
    pub(crate) pair: Arc<Pair>,
    public: PublicKey,
    purpose: PhantomData<P>,
}

/// Bytes that are no private key we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {0}; Writ signs with Ed25519 or P-256")]
pub struct InvalidPrivateKey(&'static str);

impl<H: Holder> PrivateKey<H> {
    /// A new key from the operating system's random source.
    ///
    /// # Panics
    /// When the operating system has no random bytes, which it always has once it runs.
    #[must_use]
    pub fn generate(algorithm: Algorithm) -> Self {
        let made = match algorithm {
            Algorithm::Ed25519 => Ok(Self::from_seed(&random_bytes())),
            Algorithm::P256 => {
                let random = SystemRandom::new();
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
                Self::from_pkcs8(pkcs8.expect("the random source never fails once seeded").as_ref())
            }
        };
        made.expect("ring reads what it made")
    }

    fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed of 32 bytes is always a key");
        let public = PublicKey::from_ring(Algorithm::Ed25519, pair.public_key().as_ref());
        // Version 1, which every OpenSSL reads, whatever the key was read from.
        let pkcs8 = Zeroizing::new([PKCS8_V1_PREFIX.as_slice(), seed].concat());
        Self::new(Pair::Ed25519(pair), public.expect("32 bytes are a key"), pkcs8)
    }

    fn new(pair: Pair, public: PublicKey, pkcs8: Zeroizing<Vec<u8>>) -> Self {
        Self { pair: Arc::new(pair), public, pkcs8: Arc::new(pkcs8), holder: PhantomData }
    }

    /// Reads PKCS#8 of either algorithm, Ed25519 in version 1 (OpenSSL) or 2 (ring); a public key in it must
    /// match.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, InvalidPrivateKey> {
        let wrong = || InvalidPrivateKey(algorithm(der));
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new());
        if let Ok(pair) = p256 {
            let public = PublicKey::from_ring(Algorithm::P256, pair.public_key().as_ref());
            let public = public.map_err(|_| wrong())?;
            return Ok(Self::new(Pair::P256(pair), public, Zeroizing::new(der.to_vec())));
        }
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| wrong())?;
        // Both versions carry the seed as OCTET STRING in an OCTET STRING after the same 9 bytes of
        // algorithm; ring has just checked the structure.
        let marker = &PKCS8_V1_PREFIX[5..];
        let start = der.windows(marker.len()).position(|window| window == marker).ok_or_else(wrong)?;
        let seed =
            der.get(start + marker.len()..).and_then(|rest| rest.first_chunk::<32>()).ok_or_else(wrong)?;
        Ok(Self::from_seed(seed))
    }

    /// PKCS#8, which every OpenSSL reads. A secret: a file of it is for its owner alone.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::clone(&self.pkcs8)
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Narrows the key to one purpose; compiles only for purposes this holder may sign.
    #[must_use]
    pub fn for_purpose<P: Tag<Signer = H>>(&self) -> SigningKey<P> {
        SigningKey { pair: Arc::clone(&self.pair), public: self.public.clone(), purpose: PhantomData }
    }
}

impl<P: Tag> SigningKey<P> {
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
            pkcs8: Arc::clone(&self.pkcs8),
            holder: PhantomData,
        }
    }
}

impl<P: Tag> Clone for SigningKey<P> {
    fn clone(&self) -> Self {
        Self { pair: Arc::clone(&self.pair), public: self.public.clone(), purpose: PhantomData }
    }
}

impl<H: Holder> fmt::Debug for PrivateKey<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, {}, secret)", H::NAME, self.public.id())
    }
}

impl<P: Tag> fmt::Debug for SigningKey<P> {
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
        for algorithm in Algorithm::ALL {
            let key = PrivateKey::<Agent>::generate(algorithm);
            let again = PrivateKey::<Agent>::from_pkcs8(&key.to_pkcs8()).unwrap();
            assert_eq!((again.public(), again.public().algorithm()), (key.public(), algorithm));
        }

        let version_2 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let ring_pair = Ed25519KeyPair::from_pkcs8(version_2.as_ref()).unwrap();
        let ours = PrivateKey::<Agent>::from_pkcs8(version_2.as_ref()).unwrap();
        assert_eq!(ours.public().raw(), ring_pair.public_key().as_ref());
    }

    #[test]
    fn garbage_is_no_key_and_debug_output_is_no_leak() {
        let unknown = InvalidPrivateKey("a private key of an unknown kind");
        assert_eq!(PrivateKey::<Agent>::from_pkcs8(b"no").unwrap_err(), unknown);
        let key = PrivateKey::<Agent>::generate(Algorithm::Ed25519);
        let (shown, seed) = (format!("{key:?}"), hex::encode(&key.pkcs8[PKCS8_V1_PREFIX.len()..]));
        assert!(shown.contains("secret") && !shown.contains(&seed));
    }
}
