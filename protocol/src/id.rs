//! Names of things: fleets, agents, commands, keys and digests.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};

use crate::time::Timestamp;

/// Text or bytes that are not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The wrong number of bytes.
    #[error("{what} has {actual} bytes instead of {expected}")]
    Length {
        /// Which id.
        what: &'static str,
        /// How many bytes it should have.
        expected: usize,
        /// How many it has.
        actual: usize,
    },
    /// Text that is no UUID or hex string.
    #[error("`{text}` is not a valid {what}")]
    Text {
        /// Which id.
        what: &'static str,
        /// The text, as given.
        text: String,
    },
}

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps the raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// A new UUIDv7 (RFC 9562 §5.7) of this time.
            #[must_use]
            pub fn generate(now: Timestamp) -> Self {
                let random: [u8; 10] = random_bytes();
                Self(*uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid().as_bytes())
            }

            /// The 16 bytes that stand in signed documents.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = InvalidId;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
                let wrong = InvalidId::Length { what: $what, expected: 16, actual: bytes.len() };
                bytes.try_into().map(Self).map_err(|_| wrong)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                uuid::Uuid::parse_str(text)
                    .map(|uuid| Self(*uuid.as_bytes()))
                    .map_err(|_| InvalidId::Text { what: $what, text: text.to_owned() })
            }
        }
    };
}

uuid_type!(
    /// One fleet: every agent that follows one chain of trust bundles.
    FleetId,
    "fleet id"
);
uuid_type!(
    /// One agent, for ever; never given to another.
    AgentId,
    "agent id"
);
uuid_type!(
    /// One command. The agent's journal knows it by this and its digest.
    CommandId,
    "command id"
);
uuid_type!(
    /// One journal of an agent; a new journal has a new id.
    JournalId,
    "journal id"
);
uuid_type!(
    /// One Control Manager.
    ManagerId,
    "manager id"
);
uuid_type!(
    /// One server as its Control Manager lists it.
    EntityId,
    "entity id"
);
uuid_type!(
    /// One instruction of a Control Manager, however many entities it is for.
    InstructionId,
    "instruction id"
);
uuid_type!(
    /// What one session writes into an agent's journal: 16 random bytes, made by the agent.
    SessionMark,
    "session mark"
);

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// SHA-256 of some bytes.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
                let mut out = [0; 32];
                out.copy_from_slice(hash.as_ref());
                Self(out)
            }

            /// SHA-256 of parts, each after its length (8 bytes, big-endian), so that no two lists of parts
            /// give the same bytes.
            #[must_use]
            pub fn of_parts<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Self {
                let mut bytes = Vec::new();
                for part in parts {
                    bytes.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                    bytes.extend_from_slice(part);
                }
                Self::of(&bytes)
            }

            /// Wraps the raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = InvalidId;
            fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
                let wrong = InvalidId::Length { what: $what, expected: 32, actual: bytes.len() };
                bytes.try_into().map(Self).map_err(|_| wrong)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let wrong = InvalidId::Text { what: $what, text: text.to_owned() };
                // One way to write it: two texts of one key would be two keys where texts are compared.
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(wrong);
                }
                let bytes = hex::decode(text).map_err(|_| wrong)?;
                Self::try_from(bytes.as_slice())
            }
        }
    };
}

hash_type!(
    /// SHA-256; for a signed document, over its DSSE pre-authentication encoding (protocol.md §2.6).
    Digest,
    "digest"
);
hash_type!(
    /// SHA-256 of a canonical SubjectPublicKeyInfo (protocol.md §2.4). A hint in envelopes, a name elsewhere.
    KeyId,
    "key id"
);

/// Random bytes from the operating system.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system's random source never fails once seeded");
    bytes
}
