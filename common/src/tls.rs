//! The channel: TLS 1.3 between machines. It keeps strangers from reading along; what is obeyed is decided by
//! envelopes alone.

mod client;
mod issue;
mod server;

pub use client::{Anchors, ConnectError, Connection, connect, server_name};
pub use issue::{IssueError, TlsAuthority, TlsLeaf};
pub use server::{Accepted, Incoming, ServerTls, TlsSetupError, incoming};

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::id::Digest;

/// SHA-256 of a certificate's SubjectPublicKeyInfo; `None` if it is no certificate.
#[must_use]
pub fn spki_digest(certificate: &[u8]) -> Option<Digest> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Digest::of(parsed.public_key().raw))
}
