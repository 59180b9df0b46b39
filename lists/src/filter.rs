//! What an agent holds of a list: a binary fuse filter (Graf and Lemire, 2022), about nine bits an entry. It
//! never misses an entry, and takes one value in 256 for one although it is none.
//!
//! ```text
//! 0   8   "WRITFLTR"
//! 8   1   version of this format, 1
//! 9   1   kind
//! 10  6   zero
//! 16  8   number of entries
//! 24  32  the digest in the header of its list
//! 56  20  the filter's descriptor: seed (8), length of a segment (4), that length less one (4),
//!         length of all segments but two (4)
//! 76  …   its fingerprints, a byte each
//! ```
//!
//! What goes into it for an entry are the first 64 bits of the SHA-256 of the list's digest and the entry.
//! The entries alone would do where nobody is hostile: whoever contributes to a list could choose some that
//! the construction cannot take, or takes wrongly. The list's digest is known only when the last entry is
//! chosen.

use ring::digest::{Context, SHA256};
use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable as _, Filter as _, FilterRef as _};

use crate::format::Header;
use crate::index;
use crate::kind::{Key, Kind};

const MAGIC: &[u8; 8] = b"WRITFLTR";
const VERSION: u8 = 1;
const LIST: usize = 24;
const DESCRIPTOR: usize = 56;
const FINGERPRINTS: usize = DESCRIPTOR + BinaryFuse8::DESCRIPTOR_LEN;
/// The longest segment that the construction chooses.
const MAX_SEGMENT: u32 = 1 << 18;

/// Bytes that are no filter: what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(&'static str);

/// A filter in memory, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    kind: Kind,
    bytes: Vec<u8>,
}

impl Filter {
    pub(crate) fn of(header: Header, keys: &[Key]) -> Result<Self, FilterError> {
        let Header { kind, entries, digest, .. } = header;
        let cannot = FilterError("cannot be made: it would not know all its entries");
        let mut words: Vec<_> = keys.iter().map(|key| word(&digest, kind, key)).collect();
        // It is made of different words only; two entries may have one, though hardly ever do.
        words.sort_unstable();
        words.dedup();
        let filter = BinaryFuse8::try_from(&words).map_err(|_| cannot)?;
        // Not taken on trust: an entry that it missed would be taken for good everywhere.
        if !words.iter().all(|word| filter.contains(word)) {
            return Err(cannot);
        }
        let mut bytes = vec![0; FINGERPRINTS];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&[VERSION, kind.code()]);
        bytes[16..LIST].copy_from_slice(&u64::from(entries).to_le_bytes());
        bytes[LIST..DESCRIPTOR].copy_from_slice(&digest);
        filter.dma_copy_descriptor_to(&mut bytes[DESCRIPTOR..]);
        bytes.extend_from_slice(filter.dma_fingerprints());
        Ok(Self { kind, bytes })
    }

    /// A filter that came from elsewhere.
    ///
    /// # Errors
    /// When the bytes are no filter, or one that would be read outside of itself.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FilterError> {
        let number = |place: usize| {
            let bytes = bytes.get(place..place + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        if bytes.get(..8) != Some(MAGIC) {
            return Err(FilterError("is no filter"));
        }
        if bytes.get(8) != Some(&VERSION) {
            return Err(FilterError("is a filter of a later format; use a later version of this program"));
        }
        let kind = bytes.get(9).copied().and_then(Kind::from_code);
        let kind = kind.ok_or(FilterError("is of a kind that this version does not know"))?;
        let damaged = FilterError("is damaged; fetch it again");
        let (Some(length), Some(mask), Some(count)) = (number(64), number(68), number(72)) else {
            return Err(damaged);
        };
        // The three places of a key are below `count`, and up to one and two segments further.
        let fingerprints = index(count).saturating_add(2 * index(length));
        let is_sound = length.is_power_of_two()
            && length <= MAX_SEGMENT
            && mask == length - 1
            && count > 0
            && count.is_multiple_of(length)
            && bytes.len() == FINGERPRINTS.saturating_add(fingerprints);
        if is_sound { Ok(Self { kind, bytes }) } else { Err(damaged) }
    }

    /// The filter as it is kept and sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it is about.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The digest in the header of the list it is of.
    #[must_use]
    pub fn list(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(&self.bytes[LIST..DESCRIPTOR]);
        digest
    }

    /// Whether a key may be on the list. `false` is certain.
    #[must_use]
    pub fn may_contain(&self, key: &Key) -> bool {
        let (descriptor, fingerprints) = self.bytes[DESCRIPTOR..].split_at(BinaryFuse8::DESCRIPTOR_LEN);
        let word = word(&self.bytes[LIST..DESCRIPTOR], self.kind, key);
        BinaryFuse8Ref::from_dma(descriptor, fingerprints).contains(&word)
    }
}

fn word(list: &[u8], kind: Kind, key: &Key) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(list);
    context.update(&key[..usize::from(kind.width())]);
    let mut word = [0; 8];
    word.copy_from_slice(&context.finish().as_ref()[..8]);
    u64::from_be_bytes(word)
}
