//! The one place where signatures are made.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message as _;
use ring::rand::SystemRandom;
use writ_proto::v1 as proto;

use super::encode::pae;
use super::verify::Verified;
use super::{Notice, Purpose, Tag};
use crate::id::Digest;
use crate::keys::SigningKey;
use crate::keys::private::Pair;

/// A signed envelope and the digest it is known by.
pub struct Sealed<P: Purpose> {
    bytes: Bytes,
    digest: Digest,
    purpose: PhantomData<P>,
}

impl<P: Purpose> Sealed<P> {
    /// The encoded envelope, as it travels and is stored.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The digest of what was signed.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

impl<P: Purpose> Clone for Sealed<P> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), digest: self.digest, purpose: PhantomData }
    }
}

impl<P: Purpose> fmt::Debug for Sealed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({}, {})", P::PAYLOAD_TYPE, self.digest)
    }
}

/// Signs a document with every given key, in their order.
///
/// # Panics
/// When the operating system has no random bytes for a P-256 signature, which it always has once it runs.
#[must_use]
pub fn sign<P: Purpose>(keys: &[&SigningKey<P>], document: &P::Document) -> Sealed<P> {
    let payload = P::Proto::from(document).encode_to_vec();
    let signed = pae(P::PAYLOAD_TYPE, &payload);
    let signatures = keys.iter().map(|key| signature(key, &signed)).collect();
    let envelope =
        proto::Envelope { payload: payload.into(), payload_type: P::PAYLOAD_TYPE.to_owned(), signatures };
    Sealed { bytes: envelope.encode_to_vec().into(), digest: Digest::of(&signed), purpose: PhantomData }
}

/// Adds a signature to an envelope that was verified: over the identical payload, beside those it has. The
/// digest stays.
///
/// # Panics
/// As [`sign`].
#[must_use]
pub fn add_signature<P: Purpose>(verified: &Verified<P>, key: &SigningKey<P>) -> Sealed<P> {
    let mut envelope = verified.envelope().clone();
    let signed = pae(&envelope.payload_type, &envelope.payload);
    envelope.signatures.push(signature(key, &signed));
    Sealed { bytes: envelope.encode_to_vec().into(), digest: verified.digest(), purpose: PhantomData }
}

/// Signs a notice: the envelope of JSON that DSSE describes (secure-systems-lab/dsse, envelope.md), on one
/// line.
///
/// # Errors
/// When the document cannot be written as JSON.
pub fn sign_notice<P: Notice>(key: &SigningKey<P>, document: &P::Document) -> serde_json::Result<String> {
    let payload = serde_json::to_vec(document)?;
    let proto::Signature { sig, keyid } = signature(key, &pae(P::PAYLOAD_TYPE, &payload));
    let envelope = serde_json::json!({
        "payloadType": P::PAYLOAD_TYPE,
        "payload": STANDARD.encode(payload),
        "signatures": [{ "keyid": keyid, "sig": STANDARD.encode(sig) }],
    });
    Ok(envelope.to_string())
}

fn signature<P: Tag>(key: &SigningKey<P>, signed: &[u8]) -> proto::Signature {
    #[expect(clippy::disallowed_methods, reason = "protocol.md §2.1: the home of signing")]
    let sig = match &*key.pair {
        Pair::Ed25519(pair) => pair.sign(signed),
        Pair::P256(pair) => pair
            .sign(&SystemRandom::new(), signed)
            .expect("the operating system's random source never fails once seeded"),
    };
    proto::Signature { sig: Bytes::copy_from_slice(sig.as_ref()), keyid: key.public().id().to_string() }
}
