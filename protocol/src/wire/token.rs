//! Tokens as text: a prefix that scanners of secrets find, and base64url of the bytes and a checksum, so that
//! a copy that is not whole is told from a token that is not known. An enrolment token's bytes are the
//! protobuf message.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use writ_proto::v1 as proto;
use zeroize::Zeroizing;

use super::field;
use crate::envelope::InvalidDocument;
use crate::id::Digest;
use crate::identity::EnrolmentToken;
use crate::limits::{MAX_ENDPOINTS, MAX_KEYS};

/// How the text of a token begins, for scanners of secrets.
pub const PREFIX: &str = "writ1.";
/// The first bytes of the SHA-256 of prefix and bytes.
const SUM_BYTES: usize = 4;
/// 16 CA digests and 8 endpoints fit several times.
const MAX_TEXT_BYTES: usize = 8 << 10;

/// A token's text.
pub(crate) fn to_text(prefix: &str, bytes: &[u8]) -> String {
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode([bytes, &sum(prefix, bytes)].concat()))
}

/// What follows the prefix of a token's text as bytes; `None` of a copy that is not whole.
pub(crate) fn from_body(prefix: &str, body: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).ok()?);
    let length = bytes.len().checked_sub(SUM_BYTES)?;
    let expected = bytes.split_off(length);
    (expected == sum(prefix, &bytes)).then_some(bytes)
}

fn damaged() -> InvalidDocument {
    field::invalid("token", "is damaged or incomplete; copy it again, whole")
}

fn sum(prefix: &str, bytes: &[u8]) -> [u8; SUM_BYTES] {
    let digest = Digest::of(&[prefix.as_bytes(), bytes].concat());
    let [a, b, c, d, ..] = *digest.as_bytes();
    [a, b, c, d]
}

impl EnrolmentToken {
    /// The text handed to a new host. A secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self {
            secret,
            fleet,
            bundle_version,
            bundle_digest,
            tls_ca_spki_digests,
            endpoints,
            realm,
            expires_at,
        } = self;
        let message = proto::EnrolmentToken {
            secret: secret.to_vec().into(),
            fleet_id: fleet.as_bytes().to_vec().into(),
            bundle_version: *bundle_version,
            bundle_digest: bundle_digest.as_bytes().to_vec().into(),
            tls_ca_spki_digests: tls_ca_spki_digests.iter().map(|d| d.as_bytes().to_vec().into()).collect(),
            endpoints: endpoints.clone(),
            realm: realm.clone(),
            expires_at_ms: expires_at.as_millis(),
        };
        to_text(PREFIX, &message.encode_to_vec())
    }

    /// Reads the text of a token.
    ///
    /// # Errors
    /// When it is cut short, has another prefix, or is no token at all.
    pub fn from_text(text: &str) -> Result<Self, InvalidDocument> {
        let body = text
            .trim()
            .strip_prefix(PREFIX)
            .filter(|body| body.len() <= MAX_TEXT_BYTES)
            .ok_or_else(|| field::invalid("token", "must begin with `writ1.`"))?;
        Self::from_bytes(&from_body(PREFIX, body).ok_or_else(damaged)?)
    }

    /// Reads what a token's text stands for, without the checksum.
    ///
    /// # Errors
    /// When it is no token.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidDocument> {
        let message = proto::EnrolmentToken::decode(bytes).map_err(|_| damaged())?;
        let proto::EnrolmentToken {
            secret,
            fleet_id,
            bundle_version,
            bundle_digest,
            tls_ca_spki_digests,
            endpoints,
            realm,
            expires_at_ms,
        } = message;
        let is_bounded = (1..=MAX_KEYS).contains(&tls_ca_spki_digests.len())
            && (1..=MAX_ENDPOINTS).contains(&endpoints.len())
            && bundle_version > 0;
        if !is_bounded {
            return Err(damaged());
        }
        Ok(Self {
            secret: field::nonce("token.secret", &secret).map_err(|_| damaged())?,
            fleet: field::fleet("token.fleet_id", &fleet_id).map_err(|_| damaged())?,
            bundle_version,
            bundle_digest: field::digest("token.bundle_digest", &bundle_digest).map_err(|_| damaged())?,
            tls_ca_spki_digests: tls_ca_spki_digests
                .iter()
                .map(|digest| field::digest("token.tls_ca_spki_digests", digest))
                .collect::<Result<_, _>>()
                .map_err(|_| damaged())?,
            endpoints: endpoints
                .into_iter()
                .map(|e| field::endpoint("token.endpoints", e))
                .collect::<Result<_, _>>()?,
            realm: field::name("token.realm", realm)?,
            expires_at: field::time("token.expires_at_ms", expires_at_ms).map_err(|_| damaged())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::FleetId;
    use crate::time::Timestamp;

    #[test]
    fn a_token_survives_its_text_and_says_when_it_is_damaged() {
        let token = EnrolmentToken {
            secret: [3; 32],
            fleet: FleetId::from_bytes([1; 16]),
            bundle_version: 4,
            bundle_digest: Digest::of(b"bundle"),
            tls_ca_spki_digests: vec![Digest::of(b"ca")],
            endpoints: vec!["writ.example:7443".to_owned()],
            realm: "default".to_owned(),
            expires_at: Timestamp::from_millis(9),
        };
        let text = token.to_text();
        assert_eq!(EnrolmentToken::from_text(&format!(" {text}\n")).unwrap(), token);
        for cut in 0..text.len() {
            EnrolmentToken::from_text(&text[..cut]).unwrap_err();
        }
        for place in PREFIX.len()..text.len() {
            let mut copied = text.clone().into_bytes();
            copied[place] = if copied[place] == b'A' { b'B' } else { b'A' };
            let said = EnrolmentToken::from_text(std::str::from_utf8(&copied).unwrap()).unwrap_err();
            assert!(said.to_string().contains("copy it again"), "{said}");
        }
        assert!(!format!("{token:?}").contains(&hex::encode(token.secret)));
    }
}
