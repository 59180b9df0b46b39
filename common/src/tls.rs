//! The channel: TLS 1.3 between machines. It keeps strangers from reading along; what is obeyed is decided by
//! envelopes alone.

mod client;
mod incoming;
mod issue;
mod probation;
mod server;
mod turns;

pub use client::{
    Anchors, ConnectError, Connection, TlsFault, check_authorities, connect, connect_by, connect_mail,
    connect_over, connect_web, over,
};
pub use incoming::{Accepted, Incoming, incoming};
pub use issue::{IssueError, TlsAuthority, TlsLeaf};
pub use probation::{InSession, Peer, Room};
pub use server::{ServerTls, TlsSetupError};

use std::net::IpAddr;
use std::time::Duration;

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

/// What a leaf says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFacts {
    /// Its host names and addresses.
    pub names: Vec<String>,
    /// The first moment of its validity.
    pub not_before: Timestamp,
    /// The last second of its validity.
    pub not_after: Timestamp,
}

/// The last second of a certificate's validity; `None` if it is no certificate.
#[must_use]
pub fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(unix(parsed.validity().not_after.timestamp()))
}

fn unix(seconds: i64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

impl LeafFacts {
    /// Reads a leaf; `None` if it is no certificate.
    #[must_use]
    pub fn read(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let alternatives = parsed.subject_alternative_name().ok()??;
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress([a, b, c, d]) => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            GeneralName::IPAddress(bytes) => {
                <[u8; 16]>::try_from(*bytes).ok().map(|v6| IpAddr::from(v6).to_string())
            }
            _ => None,
        };
        Some(Self {
            names: alternatives.value.general_names.iter().filter_map(name).collect(),
            not_before: unix(parsed.validity().not_before.timestamp()),
            not_after: unix(parsed.validity().not_after.timestamp()),
        })
    }

    /// Whether two thirds of its life are over, or none of it has begun: a clock that was ahead made it.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let life = self.not_after.since(self.not_before);
        now < self.not_before || now >= self.not_before + life * 2 / 3
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo; `None` if it is no certificate.
#[must_use]
pub fn spki_digest(certificate: &[u8]) -> Option<Digest> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Digest::of(parsed.public_key().raw))
}
