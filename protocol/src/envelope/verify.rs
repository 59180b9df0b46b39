//! The one place where signatures are checked.

use std::collections::BTreeSet;

use prost::Message as _;
use ring::signature::UnparsedPublicKey;
use writ_proto::v1 as proto;

use super::Purpose;
use super::encode::pae;
use crate::id::{Digest, KeyId};
use crate::keys::PublicKey;
use crate::limits::MAX_SIGNATURES;
use crate::refusal::{Refusal, RefusalCode};

/// A key that might have signed, and whether its signature counts at this moment.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The key.
    pub key: &'a PublicKey,
    /// `Err` when the key is known but must not be obeyed, with the reason.
    pub standing: Result<(), RefusalCode>,
}

impl<'a> Candidate<'a> {
    /// A key whose signature counts.
    #[must_use]
    pub const fn accepted(key: &'a PublicKey) -> Self {
        Self { key, standing: Ok(()) }
    }
}

/// A document whose signatures were found good. Made only by [`verify`].
#[derive(Debug)]
#[must_use]
pub struct Verified<P: Purpose> {
    document: P::Document,
    digest: Digest,
    signers: BTreeSet<KeyId>,
    envelope: proto::Envelope,
}

impl<P: Purpose> Verified<P> {
    /// The document.
    pub const fn document(&self) -> &P::Document {
        &self.document
    }

    /// The document, without its evidence.
    pub fn into_document(self) -> P::Document {
        self.document
    }

    /// SHA-256 over what was signed.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The envelope it came in, decoded.
    pub(super) const fn envelope(&self) -> &proto::Envelope {
        &self.envelope
    }

    /// How many signatures it has, good or not.
    pub fn signatures(&self) -> usize {
        self.envelope.signatures.len()
    }

    /// The distinct accepted keys that signed.
    pub const fn signers(&self) -> &BTreeSet<KeyId> {
        &self.signers
    }
}

/// Checks an envelope from a stranger: size, shape, `threshold` distinct accepted keys, payload type,
/// canonical payload, in this order (protocol.md §4.1 to §4.5).
///
/// # Errors
/// The first check that failed.
pub fn verify<P: Purpose>(
    envelope: &[u8],
    candidates: &[Candidate<'_>],
    threshold: usize,
) -> Result<Verified<P>, Refusal> {
    // §4.1 before a byte is decoded
    if envelope.len() > P::MAX_BYTES {
        let detail = format!("{} bytes, at most {} are looked at", envelope.len(), P::MAX_BYTES);
        return Err(Refusal::new(RefusalCode::Oversized, detail));
    }
    // §4.2
    let decoded = decode(envelope)?;
    // §4.3
    let signed = pae(&decoded.payload_type, &decoded.payload);
    let signers = count_signers(&decoded.signatures, &signed, candidates, threshold)?;
    // §4.4
    if decoded.payload_type != P::PAYLOAD_TYPE {
        let detail = format!("signed as `{}`, offered as `{}`", decoded.payload_type, P::PAYLOAD_TYPE);
        return Err(Refusal::new(RefusalCode::WrongPurpose, detail));
    }
    // §4.5
    let payload = P::Proto::decode(decoded.payload.clone())
        .map_err(|error| Refusal::new(RefusalCode::MalformedPayload, error.to_string()))?;
    if payload.encode_to_vec() != decoded.payload {
        return Err(Refusal::new(
            RefusalCode::NonCanonical,
            "decoding and encoding the payload gives other bytes",
        ));
    }
    let document = P::Document::try_from(payload)
        .map_err(|error| Refusal::new(RefusalCode::MalformedPayload, error.to_string()))?;
    Ok(Verified { document, digest: Digest::of(&signed), signers, envelope: decoded })
}

/// What the first signature of an envelope claims to be made with; for records about refused ones only.
#[must_use]
pub fn claimed_keyid(envelope: &[u8]) -> Option<String> {
    decode(envelope).ok()?.signatures.into_iter().next().map(|signature| signature.keyid)
}

fn decode(envelope: &[u8]) -> Result<proto::Envelope, Refusal> {
    let malformed = |detail: String| Refusal::new(RefusalCode::MalformedEnvelope, detail);
    let decoded = proto::Envelope::decode(envelope).map_err(|error| malformed(error.to_string()))?;
    if decoded.encode_to_vec() != envelope {
        return Err(malformed("unknown, repeated or trailing bytes".to_owned()));
    }
    let signatures = decoded.signatures.len();
    if signatures == 0 || signatures > MAX_SIGNATURES {
        return Err(malformed(format!("{signatures} signatures, there must be 1 to {MAX_SIGNATURES}")));
    }
    // Key ids are hints, but what is recorded of them must be bounded.
    if decoded.signatures.iter().any(|signature| signature.keyid.len() > 64) {
        return Err(malformed("a key id is longer than 64 characters".to_owned()));
    }
    Ok(decoded)
}

/// The distinct accepted keys that signed; an error unless they reach the threshold.
fn count_signers(
    signatures: &[proto::Signature],
    signed: &[u8],
    candidates: &[Candidate<'_>],
    threshold: usize,
) -> Result<BTreeSet<KeyId>, Refusal> {
    let mut signers = BTreeSet::new();
    let mut rejected = None;
    let mut is_any_key_known = false;
    for signature in signatures {
        for candidate in candidates {
            let id = candidate.key.id();
            // §2.4: the hint spares work. A wrong one only makes the signature useless.
            let is_hinted = signature.keyid.is_empty() || signature.keyid == id.to_string();
            if !is_hinted || signers.contains(&id) {
                continue;
            }
            is_any_key_known = true;
            #[expect(clippy::disallowed_methods, reason = "protocol.md §2.3: the home of verifying")]
            let is_good = UnparsedPublicKey::new(candidate.key.verification(), candidate.key.raw())
                .verify(signed, &signature.sig)
                .is_ok();
            match candidate.standing {
                Ok(()) if is_good => {
                    signers.insert(id);
                }
                Err(code) if is_good => rejected = Some(Refusal::new(code, format!("signed by key {id}"))),
                Ok(()) | Err(_) => {}
            }
        }
    }
    // A threshold of zero would make every envelope good.
    if signers.len() >= threshold.max(1) {
        return Ok(signers);
    }
    if let Some(refusal) = rejected {
        return Err(refusal);
    }
    if !signers.is_empty() {
        let detail = format!("{} distinct keys signed, {threshold} are needed", signers.len());
        return Err(Refusal::new(RefusalCode::ThresholdNotMet, detail));
    }
    if candidates.is_empty() {
        return Err(Refusal::new(RefusalCode::NoTrust, "no key is trusted"));
    }
    if is_any_key_known {
        return Err(Refusal::new(RefusalCode::BadSignature, "no signature by a listed key verifies"));
    }
    let named = signatures.first().map_or("", |signature| signature.keyid.as_str());
    Err(Refusal::new(RefusalCode::UnknownKey, format!("no listed key is named; the first names {named:?}")))
}
