//! Registration tokens: they let an entity in without approval, and never travel.

use std::fmt;
use std::str::FromStr;

use ring::hmac;
use zeroize::Zeroizing;

use crate::id::Digest;
use crate::keys::PublicKey;
use crate::wire::token;

pub const TOKEN_PREFIX: &str = "writ-manager1.";

/// Lets an entity in without approval. A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrationToken([u8; 32]);

impl RegistrationToken {
    /// Of these random bytes.
    #[must_use]
    pub const fn from_secret(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The bytes it was made of. A secret: it is kept sealed, and never travels.
    #[must_use]
    pub const fn secret(&self) -> [u8; 32] {
        self.0
    }

    /// What it is known by.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// What a manager keeps to check proofs.
    #[must_use]
    pub fn verifier(&self) -> TokenVerifier {
        TokenVerifier(*Digest::of(&[TOKEN_PREFIX.as_bytes(), &self.0].concat()).as_bytes())
    }

    /// Shows that this key's holder has the token, to nobody else's use.
    #[must_use]
    pub fn prove(&self, key: &PublicKey) -> TokenProof {
        let tag = hmac::sign(&self.verifier().key(), &key.spki());
        let proof = tag.as_ref().try_into().unwrap_or([0; 32]);
        TokenProof { id: self.id(), proof }
    }

    /// As handed to an operator, in a form that scanners of secrets can find.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(token::to_text(TOKEN_PREFIX, &self.0))
    }
}

/// That the holder of a key has a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenProof {
    /// Which token.
    pub id: Digest,
    /// HMAC-SHA-256 over the key's SubjectPublicKeyInfo.
    pub proof: [u8; 32],
}

/// What a token's proofs are checked by; made of its secret, which it does not tell.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenVerifier([u8; 32]);

impl TokenVerifier {
    /// As kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// To keep.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    /// Whether a proof is this key's.
    #[must_use]
    pub fn accepts(&self, proof: &TokenProof, key: &PublicKey) -> bool {
        hmac::verify(&self.key(), &key.spki(), &proof.proof).is_ok()
    }
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenVerifier(secret)")
    }
}

impl FromStr for RegistrationToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.trim().strip_prefix(TOKEN_PREFIX).ok_or("must begin with `writ-manager1.`")?;
        let bytes = token::from_body(TOKEN_PREFIX, body).and_then(|bytes| bytes.as_slice().try_into().ok());
        bytes.map(Self).ok_or("is damaged or incomplete; copy it again, whole")
    }
}

impl fmt::Debug for RegistrationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistrationToken(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_proves_itself_for_one_key_and_is_read_as_written() {
        let key = || crate::keys::PrivateKey::<crate::keys::Entity>::generate(crate::keys::Algorithm::P256);
        let (token, mine, other) = (RegistrationToken::from_secret([7; 32]), key(), key());
        let proof = token.prove(mine.public());
        assert!(token.verifier().accepts(&proof, mine.public()));
        assert!(!token.verifier().accepts(&proof, other.public()));
        assert!(!RegistrationToken::from_secret([8; 32]).verifier().accepts(&proof, mine.public()));
        assert_eq!(token.to_text().parse::<RegistrationToken>().unwrap(), token);
        for text in ["", "writ1.abc", "writ-manager1.", "writ-manager1.abc", "writ-manager1.****"] {
            assert!(text.parse::<RegistrationToken>().is_err(), "{text}");
        }
    }
}
