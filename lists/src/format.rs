//! A list's file, all numbers in little-endian order:
//!
//! ```text
//! 0   8   "WRITLIST"
//! 8   1   version of this format, 1
//! 9   1   kind
//! 10  1   bits of a key that choose its bucket, B
//! 11  5   zero
//! 16  8   number of entries, N
//! 24  32  SHA-256 of the entries, which names the list; a filter names the list it is of by it
//! 56  4 × (2^B + 1)   for each bucket how many entries stand before it; last N
//!     W × N           the entries, ascending, none twice; W is the kind's width
//! ```
//!
//! The file is believed because of the digest under which it came; its own is not checked.

use crate::kind::{Key, Kind};
use crate::{MAX_ENTRIES, index};

pub(crate) const MAGIC: &[u8; 8] = b"WRITLIST";
pub(crate) const VERSION: u8 = 1;
pub(crate) const HEADER: usize = 56;
pub(crate) const HEADER_BYTES: u64 = 56;
/// Entries in a bucket of a list whose keys are spread evenly, at most: one read of half a kilobyte.
const BUCKET: u32 = 16;
/// A table of at most 64 MiB.
const MAX_BITS: u8 = 24;

/// What stands before the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) bits: u8,
    pub(crate) entries: u32,
    pub(crate) digest: [u8; 32],
}

impl Header {
    pub(crate) fn of(kind: Kind, entries: u32, digest: [u8; 32]) -> Self {
        let bits = (0..MAX_BITS).find(|bits| entries.div_ceil(1 << bits) <= BUCKET).unwrap_or(MAX_BITS);
        Self { kind, bits, entries, digest }
    }

    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..11].copy_from_slice(&[VERSION, self.kind.code(), self.bits]);
        bytes[16..24].copy_from_slice(&u64::from(self.entries).to_le_bytes());
        bytes[24..].copy_from_slice(&self.digest);
        bytes
    }

    /// What is wrong with bytes that are no header is told.
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Self, &'static str> {
        if &bytes[..8] != MAGIC {
            return Err("is no list; build one with `writ-control-manager lists build`");
        }
        if bytes[8] != VERSION {
            return Err("is a list of a later format; use a later version of this program");
        }
        let kind = Kind::from_code(bytes[9]).ok_or("is of a kind that this version does not know")?;
        let (mut number, mut digest) = ([0; 8], [0; 32]);
        number.copy_from_slice(&bytes[16..24]);
        digest.copy_from_slice(&bytes[24..]);
        let entries = u32::try_from(u64::from_le_bytes(number)).unwrap_or(u32::MAX);
        let header = Self::of(kind, entries, digest);
        if entries > MAX_ENTRIES || header.encode() != *bytes {
            return Err("is damaged: its header contradicts itself; fetch it again");
        }
        Ok(header)
    }

    pub(crate) const fn buckets(self) -> usize {
        1 << self.bits
    }

    /// Where the entries begin.
    pub(crate) const fn start(self) -> u64 {
        HEADER_BYTES + 4 * ((1 << self.bits) + 1)
    }

    /// Bytes of the whole file.
    pub(crate) fn length(self) -> u64 {
        self.place(self.entries)
    }

    /// Where an entry begins.
    pub(crate) fn place(self, entry: u32) -> u64 {
        self.start() + u64::from(entry) * u64::from(self.kind.width())
    }

    pub(crate) fn bucket(self, key: &Key) -> usize {
        let start = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
        index(start.checked_shr(32 - u32::from(self.bits)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_sixteen_values_on_average_or_fewer() {
        for (entries, bits) in
            [(0, 0), (16, 0), (17, 1), (32, 1), (33, 2), (64, 2), (65, 3), (10_000_000, 20)]
        {
            assert_eq!(Header::of(Kind::Sha256, entries, [0; 32]).bits, bits, "{entries}");
        }
    }
}
