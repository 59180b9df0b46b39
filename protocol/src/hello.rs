//! The first words of a session (protocol.md §6).

use std::time::Duration;

use bytes::Bytes;

use crate::envelope::{HelloPurpose, Verified};
use crate::id::{AgentId, Digest, FleetId, JournalId, KeyId, SessionMark};
use crate::limits::{PROTOCOL, SKEW};
use crate::refusal::{Refusal, RefusalCode};
use crate::time::Timestamp;
use crate::trust::{Keyring, TrustBundle};

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

/// That a session begins: the server noted the agent's proof and how its journal stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The fleet.
    pub fleet: FleetId,
    /// Who is welcome.
    pub agent: AgentId,
    /// Its nonce.
    pub agent_nonce: Nonce,
    /// The server's nonce.
    pub server_nonce: Nonce,
    /// The mark the journal keeps from now on.
    pub mark: SessionMark,
    /// The agent refuses what was issued earlier; zero: no such rule.
    pub commands_from: Timestamp,
    /// How often the agent should say something.
    pub heartbeat: Duration,
    /// Silence longer than this ends the session.
    pub heartbeat_deadline: Duration,
}

/// An agent's proof of identity, and what it says of itself to a server that proved itself.
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
    /// Its version.
    pub agent_version: String,
    /// Version and digest of the bundle it holds.
    pub bundle: (u64, Digest),
    /// How its journal stands.
    pub journal: JournalStanding,
    /// Its identity record's envelope, for a server that lost its database.
    pub identity_record: Bytes,
}

/// How an agent's journal stands when a session begins. A journal that was put back to an earlier state, or
/// lives twice, does not have the mark of the last session (protocol.md §6.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalStanding {
    /// Which journal.
    pub id: JournalId,
    /// Rises with every transaction.
    pub counter: u64,
    /// How many commands it ever admitted. Only a session brings new ones, so unlike the counter this cannot
    /// catch up while a host that was put back finishes what ran.
    pub admissions: u64,
    /// What the latest sessions wrote, newest first. More than one, so that a server that was put back to an
    /// earlier state is told from a journal that was.
    pub marks: Vec<SessionMark>,
    /// What this session writes.
    pub next_mark: SessionMark,
}

/// What an agent knows when a hello arrives.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The newest bundle the agent holds.
    pub bundle: &'a TrustBundle,
    /// The agent's realm.
    pub realm: &'a str,
    /// The nonce it sent.
    pub nonce: Nonce,
    /// SHA-256 of the SubjectPublicKeyInfo of the TLS leaf on the wire.
    pub tls_leaf: Digest,
    /// Session time never falls below this.
    pub floor: Timestamp,
    /// How long the hello took.
    pub round_trip: Duration,
}

impl Expected<'_> {
    /// Whether this hello is by a server the agent obeys, on this connection, now (protocol.md §6.2).
    ///
    /// The hello brings its own time, so its signer's dates are judged by that time; the floor keeps it
    /// honest.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, envelope: &[u8]) -> Result<Verified<HelloPurpose>, Refusal> {
        let keyring = Keyring::new(self.bundle, self.realm);
        let verified = keyring.verify_at::<HelloPurpose>(envelope, |hello| hello.time)?;
        let hello = verified.document();
        if hello.fleet != self.bundle.fleet {
            return Err(Refusal::new(
                RefusalCode::WrongFleet,
                format!("the hello is of fleet {}", hello.fleet),
            ));
        }
        let mismatch = |detail: &'static str| Err(Refusal::new(RefusalCode::HelloMismatch, detail));
        if hello.agent_nonce != self.nonce {
            return mismatch("the hello answers another nonce");
        }
        if !hello.tls_leaf_spki_digests.contains(&self.tls_leaf) {
            return mismatch("the hello does not name the TLS leaf that is on the wire");
        }
        if hello.protocol != PROTOCOL {
            return mismatch("the server speaks another version; upgrade the older of the two");
        }
        if self.round_trip > SKEW {
            let detail = format!("the hello took {:?}", self.round_trip);
            return Err(Refusal::new(RefusalCode::RoundTripTooLong, detail));
        }
        if hello.time < self.floor {
            let detail = format!("the server says {}, the floor is {}", hello.time, self.floor);
            return Err(Refusal::new(RefusalCode::TimeWentBack, detail));
        }
        Ok(verified)
    }
}
