//! A list that is looked up where it lies.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::format::{HEADER, HEADER_BYTES, Header};
use crate::index;
use crate::kind::{Key, Kind, NotOfKind};

/// Entries read at once. A bucket has more only if somebody chose keys that begin alike; it is then halved
/// until it fits.
const AT_ONCE: u32 = 64;

/// Why a list is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The disk's.
    #[error("{}: cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no list, or not whole.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
}

/// An open list. Its table is in memory, four bytes for about sixteen entries; the entries stay on disk.
#[derive(Debug)]
pub struct List {
    path: PathBuf,
    file: File,
    header: Header,
    table: Vec<u32>,
}

impl List {
    /// Opens a list.
    ///
    /// # Errors
    /// When it cannot be read, is no list or is not whole.
    pub fn open(path: &Path) -> Result<Self, ListError> {
        let unreadable = |error| ListError::Unreadable { path: path.to_owned(), error };
        let unusable = |why: &str| ListError::Unusable { path: path.to_owned(), why: why.to_owned() };
        // Opening a pipe would wait for the one who writes.
        if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(unusable("is no file"));
        }
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut bytes = [0; HEADER];
        match file.read_exact_at(&mut bytes, 0) {
            // Too short for a header, so it is none.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => read.map_err(unreadable)?,
        }
        let header = Header::decode(&bytes).map_err(unusable)?;
        if length != header.length() {
            let expected = header.length();
            return Err(unusable(&format!("has {length} bytes and should have {expected}; fetch it again")));
        }
        let mut bytes = vec![0; 4 * (header.buckets() + 1)];
        file.read_exact_at(&mut bytes, HEADER_BYTES).map_err(unreadable)?;
        let table: Vec<_> = bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect();
        if table.first() != Some(&0) || table.last() != Some(&header.entries) || !table.is_sorted() {
            return Err(unusable("is damaged: its table contradicts itself; fetch it again"));
        }
        Ok(Self { path: path.to_owned(), file, header, table })
    }

    pub(crate) const fn header(&self) -> Header {
        self.header
    }

    /// What it is about.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.header.kind
    }

    /// SHA-256 of its entries; the filter of this list names it by that.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        self.header.digest
    }

    /// How many entries it has.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.header.entries
    }

    /// Bytes of its file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.header.length()
    }

    /// Whether a key of its kind is on it: one read of the disk, mostly of half a kilobyte.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn contains(&self, key: &Key) -> Result<bool, ListError> {
        let unreadable = |error| ListError::Unreadable { path: self.path.clone(), error };
        self.find(key).map_err(unreadable)
    }

    /// Whether a value is on it, as somebody wrote it; a domain also when one is that it is below.
    ///
    /// # Errors
    /// When the value is not of the list's kind, inside; when the disk fails, outside.
    pub fn contains_value(&self, text: &str) -> Result<Result<bool, NotOfKind>, ListError> {
        let keys = match self.kind().keys(text) {
            Ok(keys) => keys,
            Err(error) => return Ok(Err(error)),
        };
        for key in keys {
            if self.contains(&key)? {
                return Ok(Ok(true));
            }
        }
        Ok(Ok(false))
    }

    fn find(&self, key: &Key) -> io::Result<bool> {
        let (width, bucket) = (usize::from(self.kind().width()), self.header.bucket(key));
        let wanted = &key[..width];
        let (mut from, mut to) = (self.table[bucket], self.table[bucket + 1]);
        let mut entries = [0; 64 * 32];
        while to - from > AT_ONCE {
            let middle = from.midpoint(to);
            self.file.read_exact_at(&mut entries[..width], self.header.place(middle))?;
            if &entries[..width] <= wanted {
                from = middle;
            } else {
                to = middle;
            }
        }
        let entries = &mut entries[..index(to - from) * width];
        self.file.read_exact_at(entries, self.header.place(from))?;
        Ok(entries.chunks_exact(width).any(|entry| entry == wanted))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::digest::{SHA256, digest};
    use tempfile::TempDir;

    use super::*;
    use crate::{Builder, Filter};

    fn key(number: usize) -> Key {
        digest(&SHA256, &number.to_le_bytes()).as_ref().try_into().unwrap()
    }

    fn written(kind: Kind, keys: impl Iterator<Item = Key>) -> (TempDir, PathBuf, Filter) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let mut builder = Builder::new(kind);
        keys.for_each(|key| builder.add(key).unwrap());
        let sorted = builder.sort().unwrap();
        let _ = sorted.write(&path).unwrap();
        (folder, path, sorted.filter().unwrap())
    }

    #[test]
    fn what_is_listed_is_found_and_nothing_else() {
        for count in [1, 2, 15, 16, 17, 1000, 100_000] {
            let (_folder, path, filter) = written(Kind::Sha256, (0..count).map(key));
            let list = List::open(&path).unwrap();
            assert_eq!(list.digest(), filter.list());
            assert_eq!(index(list.entries()), count);
            let unlisted = count..count + 1000;
            for number in (0..count).step_by(count.div_ceil(2000)) {
                assert!(list.contains(&key(number)).unwrap(), "{number} of {count}");
                assert!(filter.may_contain(&key(number)), "{number} of {count}");
            }
            assert!(unlisted.clone().all(|number| !list.contains(&key(number)).unwrap()));
            // Of a thousand about four are expected; forty would be ten times the promise.
            let maybe = unlisted.filter(|number| filter.may_contain(&key(*number))).count();
            assert!(maybe < 40, "{maybe} of 1000 with {count} listed");
        }
    }

    #[test]
    fn a_narrow_kind_is_compared_by_its_own_bytes() {
        let narrow = |number| {
            let mut key = key(number);
            key[usize::from(Kind::Md5.width())..].fill(0);
            key
        };
        let (_folder, path, _) = written(Kind::Md5, (0..1000).map(narrow));
        let list = List::open(&path).unwrap();
        assert!((0..1000).all(|number| list.contains(&narrow(number)).unwrap()));
        assert_eq!(list.bytes(), std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn keys_that_were_chosen_to_begin_alike_are_found_as_well() {
        let alike = |number: usize| {
            let mut key = [7; 32];
            key[24..].copy_from_slice(&number.to_be_bytes());
            key
        };
        let (_folder, path, filter) = written(Kind::Sha256, (0..5000).map(alike));
        let list = List::open(&path).unwrap();
        assert!((0..5000).all(|number| list.contains(&alike(number)).unwrap()));
        assert!(!list.contains(&alike(5000)).unwrap());
        assert!((0..5000).all(|number| filter.may_contain(&alike(number))));
    }

    /// Entries whose first 64 bits the library, given these alone, puts into one place for its first seed.
    /// Its counters have room for 63 of them; with more it panics, or makes a filter that misses entries.
    #[test]
    fn keys_that_were_chosen_against_the_filter_are_found_as_well() {
        const FIRST_SEED: u64 = 0x910a_2dec_8902_5cc1;
        let unmixed = |hash: u64| {
            let mut word = hash;
            word ^= word >> 33;
            word = word.wrapping_mul(0x9cb4_b2f8_1293_37db);
            word ^= word >> 33;
            word = word.wrapping_mul(0x4f74_430c_22a5_4005);
            word ^= word >> 33;
            word.wrapping_sub(FIRST_SEED)
        };
        // The highest bits of a hash choose its first place.
        let chosen = |number: u64| {
            let mut key = key(usize::try_from(number).unwrap());
            key[..8].copy_from_slice(&unmixed(number << 20).to_be_bytes());
            key
        };
        let keys = (0..1000).map(key).chain((1000..1400).map(chosen));
        let alone: Vec<_> =
            keys.clone().map(|key| u64::from_be_bytes(key[..8].try_into().unwrap())).collect();
        let is_sound = std::panic::catch_unwind(|| {
            let filter = xorf::BinaryFuse8::try_from(&alone).unwrap();
            alone.iter().all(|word| xorf::Filter::contains(&filter, word))
        });
        assert!(!is_sound.is_ok_and(|sound| sound), "the attack is one");
        let (_folder, path, filter) = written(Kind::Sha256, keys.clone());
        let list = List::open(&path).unwrap();
        assert!(keys.clone().all(|key| list.contains(&key).unwrap() && filter.may_contain(&key)));
    }

    #[test]
    fn a_list_that_is_cut_or_longer_is_refused() {
        let (_folder, path, filter) = written(Kind::Sha256, (0..100).map(key));
        let whole = std::fs::read(&path).unwrap();
        for length in [0, HEADER - 1, HEADER, HEADER + 4, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(List::open(&path).is_err(), "{length} bytes");
        }
        std::fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        let error = List::open(&path).unwrap_err().to_string();
        assert!(error.contains("fetch it again"), "{error}");
        for length in 0..filter.as_bytes().len() {
            assert!(Filter::from_bytes(filter.as_bytes()[..length].to_vec()).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_refused_or_looked_up_without_a_panic(place in 0_usize..300, value: u8) {
            let (_folder, path, filter) = written(Kind::Sha256, (0..40).map(key));
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[place] = value;
            std::fs::write(&path, bytes).unwrap();
            if let Ok(list) = List::open(&path) {
                for number in 0..80 {
                    let _ = list.contains(&key(number));
                }
            }
            let mut bytes = filter.as_bytes().to_vec();
            let place = place % bytes.len();
            bytes[place] = value;
            if let Ok(filter) = Filter::from_bytes(bytes) {
                for number in 0..80 {
                    let _ = filter.may_contain(&key(number));
                }
            }
        }
    }
}
