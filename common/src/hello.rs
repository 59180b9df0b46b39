//! The first words of a session (protocol.md §6).

use crate::id::{AgentId, Digest, FleetId, KeyId};
use crate::time::Timestamp;

/// 32 random bytes that make a session's first words unrepeatable.
pub type Nonce = [u8; 32];

/// A server's greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    /// The fleet.
    pub fleet: FleetId,
    /// The agent's nonce, given back.
    pub agent_nonce: Nonce,
    /// The server's own.
    pub server_nonce: Nonce,
    /// The server's time, from which session time runs.
    pub time: Timestamp,
    /// The version of the newest trust bundle.
    pub chain_version: u64,
    /// Its digest.
    pub chain_digest: Digest,
    /// SHA-256 of the SubjectPublicKeyInfo of each TLS leaf this server answers for.
    pub tls_leaf_spki_digests: Vec<Digest>,
    /// The protocol's version.
    pub protocol: u32,
}

/// An agent's proof of identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentProof {
    /// The fleet.
    pub fleet: FleetId,
    /// Who it is.
    pub agent: AgentId,
    /// Its nonce.
    pub agent_nonce: Nonce,
    /// The server's nonce.
    pub server_nonce: Nonce,
    /// Whose hello it believed.
    pub server_key: KeyId,
    /// The TLS leaf it saw.
    pub tls_leaf_spki_digest: Digest,
}
