//! Signatures over anything at all, for making what an honest server never sends.

use bytes::Bytes;
use prost::Message as _;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use writ_proto::v1 as proto;
use writ_protocol::keys::{Holder, PrivateKey, PublicKey};

/// A key that signs whatever it is given.
#[derive(Debug)]
pub struct Forger {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl Forger {
    /// The key of a seed.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&seed).unwrap(), seed }
    }

    /// A stolen key.
    #[must_use]
    pub fn stolen<H: Holder>(key: &PrivateKey<H>) -> Self {
        let pkcs8 = key.to_pkcs8();
        Self::new(pkcs8[16..].try_into().unwrap())
    }

    /// The same key with the type the honest code wants.
    #[must_use]
    pub fn honest<H: Holder>(&self) -> PrivateKey<H> {
        let pkcs8 =
            [hex::decode("302e020100300506032b657004220420").unwrap().as_slice(), &self.seed].concat();
        PrivateKey::from_pkcs8(&pkcs8).unwrap()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let prefix = hex::decode("302a300506032b6570032100").unwrap();
        PublicKey::from_spki(&[prefix.as_slice(), self.pair.public_key().as_ref()].concat()).unwrap()
    }

    /// One signature of a DSSE envelope.
    #[must_use]
    pub fn signature(&self, payload_type: &str, payload: &[u8]) -> proto::Signature {
        let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
        let signed = [head.as_bytes(), payload].concat();
        #[expect(clippy::disallowed_methods, reason = "forging is what this file is for")]
        let sig = self.pair.sign(&signed);
        proto::Signature { sig: Bytes::copy_from_slice(sig.as_ref()), keyid: self.public().id().to_string() }
    }
}

/// An envelope by any number of forgers.
#[must_use]
pub fn envelope(payload_type: &str, payload: &[u8], forgers: &[&Forger]) -> proto::Envelope {
    proto::Envelope {
        payload: Bytes::copy_from_slice(payload),
        payload_type: payload_type.to_owned(),
        signatures: forgers.iter().map(|forger| forger.signature(payload_type, payload)).collect(),
    }
}

/// The payload type of a purpose.
#[must_use]
pub fn payload_type(purpose: &str) -> String {
    format!("application/vnd.writ.{purpose}.v1+protobuf")
}

/// An envelope of a message, encoded.
#[must_use]
pub fn sealed(purpose: &str, message: &impl prost::Message, forger: &Forger) -> Bytes {
    envelope(&payload_type(purpose), &message.encode_to_vec(), &[forger]).encode_to_vec().into()
}
