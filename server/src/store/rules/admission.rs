//! Whether a token lets an agent in: once for each of its uses, and again for the key it let in before.

use bytes::Bytes;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

/// An agent that has the key already.
#[derive(Debug, Clone)]
pub(in crate::store) struct KnownKey {
    /// What it was given.
    pub identity_record: Bytes,
    /// The token it came in with.
    pub token: Digest,
}

/// A token as stored.
#[derive(Debug, Clone)]
pub(in crate::store) struct KnownToken {
    pub realm: String,
    pub uses: u32,
    pub max_uses: u32,
    pub expires_at: Timestamp,
    /// Zero: it was not.
    pub revoked_at: Timestamp,
}

/// What becomes of an agent that shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Decision {
    /// It is let in: one more use is spent.
    New {
        /// The realm it belongs to.
        realm: String,
    },
    /// The same token and key were here before: it gets the same answer, counted once.
    Again(Bytes),
    /// Its key is another token's, or the token is unknown, spent or ended.
    Refused,
}

impl KnownToken {
    /// Whether it has not ended. One that is spent has not: its own agents may ask again.
    pub(in crate::store) fn is_open(&self, now: Timestamp) -> bool {
        self.revoked_at == Timestamp::ZERO && self.expires_at > now
    }
}

/// Decides about a key that is shown with a token.
pub(in crate::store) fn decide(
    key: Option<KnownKey>,
    shown: Digest,
    token: Option<KnownToken>,
    now: Timestamp,
) -> Decision {
    match (key, token) {
        (Some(known), _) if known.token == shown => Decision::Again(known.identity_record),
        (None, Some(token)) if token.is_open(now) && token.uses < token.max_uses => {
            Decision::New { realm: token.realm }
        }
        (Some(_), _) | (None, _) => Decision::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lets_in_as_often_as_it_says_until_it_ends_and_its_own_key_again() {
        let at = Timestamp::from_millis;
        let digest = |byte| Digest::from_bytes([byte; 32]);
        let token = |uses, expires_at, revoked_at| {
            let (expires_at, revoked_at) = (at(expires_at), at(revoked_at));
            Some(KnownToken { realm: "prod".to_owned(), uses, max_uses: 2, expires_at, revoked_at })
        };
        let key =
            |token| Some(KnownKey { identity_record: Bytes::from_static(b"record"), token: digest(token) });
        let again = Decision::Again(Bytes::from_static(b"record"));
        let new = Decision::New { realm: "prod".to_owned() };
        for (what, key, token, decision) in [
            ("a new key", None, token(1, 100, 0), new.clone()),
            ("a token nobody made", None, None, Decision::Refused),
            ("spent", None, token(2, 100, 0), Decision::Refused),
            ("expired this moment", None, token(0, 50, 0), Decision::Refused),
            ("one moment left", None, token(0, 51, 0), new),
            ("revoked", None, token(0, 100, 3), Decision::Refused),
            ("its own key, spent", key(1), token(2, 100, 0), again.clone()),
            ("its own key, and the token is gone", key(1), None, again),
            ("a key of another token", key(9), token(0, 100, 0), Decision::Refused),
        ] {
            assert_eq!(decide(key, digest(1), token, at(50)), decision, "{what}");
        }
    }
}
