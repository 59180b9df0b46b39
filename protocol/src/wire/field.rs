//! Fields with their names, for errors.

use crate::envelope::InvalidDocument;
use crate::id::{AgentId, CommandId, Digest, EntityId, FleetId, JournalId, ManagerId, SessionMark};
use crate::keys::PublicKey;
use crate::limits::{MAX_DETAIL_BYTES, MAX_ENDPOINT_BYTES, MAX_NAME_BYTES};
use crate::time::Timestamp;

pub(super) fn invalid(field: &'static str, rule: impl Into<String>) -> InvalidDocument {
    InvalidDocument { field, rule: rule.into() }
}

pub(super) fn missing(field: &'static str) -> InvalidDocument {
    invalid(field, "is missing")
}

macro_rules! from_bytes {
    ($($name:ident -> $type:ty;)*) => {
        $(pub(super) fn $name(field: &'static str, bytes: &[u8]) -> Result<$type, InvalidDocument> {
            <$type>::try_from(bytes).map_err(|error| invalid(field, error.to_string()))
        })*
    };
}

from_bytes! {
    fleet -> FleetId;
    agent -> AgentId;
    command -> CommandId;
    digest -> Digest;
    journal -> JournalId;
    mark -> SessionMark;
    manager -> ManagerId;
    entity -> EntityId;
}

pub(super) fn nonce(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], InvalidDocument> {
    bytes.try_into().map_err(|_| invalid(field, "must have 32 bytes"))
}

pub(super) fn public_key(field: &'static str, der: &[u8]) -> Result<PublicKey, InvalidDocument> {
    PublicKey::from_spki(der).map_err(|error| invalid(field, error.to_string()))
}

/// A time that must be set.
pub(super) fn time(field: &'static str, millis: u64) -> Result<Timestamp, InvalidDocument> {
    if millis == 0 { Err(missing(field)) } else { Ok(Timestamp::from_millis(millis)) }
}

/// A text for people that may be empty.
pub(super) fn text(field: &'static str, text: String) -> Result<String, InvalidDocument> {
    if text.len() > MAX_DETAIL_BYTES || text.chars().any(char::is_control) {
        return Err(invalid(field, "must have at most 1024 bytes and no control characters"));
    }
    Ok(text)
}

/// Where a server is found: 1 to 259 bytes, no control characters.
pub(super) fn endpoint(field: &'static str, text: String) -> Result<String, InvalidDocument> {
    let is_printable = !text.chars().any(char::is_control);
    if text.is_empty() || text.len() > MAX_ENDPOINT_BYTES || !is_printable {
        return Err(invalid(field, "must have 1 to 259 bytes and no control characters"));
    }
    Ok(text)
}

/// A name for people: 1 to 128 bytes, no control characters, so that it cannot forge a line of a log.
pub(super) fn name(field: &'static str, text: String) -> Result<String, InvalidDocument> {
    let is_printable = !text.chars().any(char::is_control);
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !is_printable {
        return Err(invalid(field, "must have 1 to 128 bytes and no control characters"));
    }
    Ok(text)
}

pub(super) fn length(value: usize) -> u32 {
    u32::try_from(value).expect("counts are bounded far below 2^32 by common::limits")
}
