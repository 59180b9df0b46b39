//! How an agent gets its name.

use crate::id::{AgentId, Digest, FleetId};
use crate::keys::PublicKey;
use crate::time::Timestamp;

/// A new agent's proof that it holds the key it wants recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The fleet.
    pub fleet: FleetId,
    /// SHA-256 of the token's secret.
    pub token_digest: Digest,
    /// The key.
    pub public_key: PublicKey,
    /// The host's name.
    pub host_name: String,
    /// The agent's version.
    pub agent_version: String,
    /// The TLS leaf it saw.
    pub tls_leaf_spki_digest: Digest,
}

/// The server's word that a key is an agent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRecord {
    /// The fleet.
    pub fleet: FleetId,
    /// The agent.
    pub agent: AgentId,
    /// Its key.
    pub public_key: PublicKey,
    /// Its name.
    pub name: String,
    /// Its realm.
    pub realm: String,
    /// When.
    pub recorded_at: Timestamp,
}

/// What an operator hands to a new host. A secret until it is spent.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// 32 random bytes; the server keeps only their SHA-256.
    pub secret: [u8; 32],
    /// The fleet.
    pub fleet: FleetId,
    /// The version of the bundle the chain must lead from.
    pub bundle_version: u64,
    /// Its digest.
    pub bundle_digest: Digest,
    /// SHA-256 of the SubjectPublicKeyInfo of each TLS CA.
    pub tls_ca_spki_digests: Vec<Digest>,
    /// Where servers are.
    pub endpoints: Vec<String>,
    /// The realm agents of this token belong to.
    pub realm: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl EnrolmentToken {
    /// What the server knows the token by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.secret)
    }
}

impl std::fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrolmentToken({}, fleet {}, secret)", self.digest(), self.fleet)
    }
}
