//! DSSE's pre-authentication encoding (secure-systems-lab/dsse, protocol.md, "PAE").

use crate::id::Digest;

/// `"DSSEv1" SP LEN(type) SP type SP LEN(body) SP body`, lengths in decimal ASCII.
pub(super) fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// What receipts, approvals and journals refer to: SHA-256 of the encoding (protocol.md §2.6).
#[must_use]
pub fn digest(payload_type: &str, payload: &[u8]) -> Digest {
    Digest::of(&pae(payload_type, payload))
}
