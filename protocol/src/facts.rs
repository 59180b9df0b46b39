//! What an agent may say about itself for selectors. The names are a closed list, so that no agent can put
//! itself under an operator's label; the values are its own word and never decide about trust.

use crate::limits::MAX_NAME_BYTES;

/// Every fact, in alphabetical order.
pub const FACTS: [&str; 10] = [
    "agent_version",
    "arch",
    "distribution",
    "distribution_version",
    "file_reputation_filter",
    "hostname",
    "kernel",
    "os",
    "suspicious_objects",
    "web_reputation_filter",
];

/// Whether a text may name an agent or a fleet: what can stand in a selector and be pasted into a shell.
#[must_use]
pub fn is_plain_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_plain)
}

/// What the identity record says; selectors may look at it too.
pub const RECORD: [&str; 2] = ["name", "realm"];
