//! What makes one list another: the entries that go, and those that come. All numbers in little-endian order:
//!
//! ```text
//! 0   8   "WRITDIFF"
//! 8   1   version of this format, 1
//! 9   1   kind
//! 10  6   zero
//! 16  8   number of entries that go, G
//! 24  8   number of entries that come, C
//! 32  32  SHA-256 of the entries of the list that it is made to
//! 64  32  SHA-256 of the entries of the list that comes of it
//! 96  W × G  the entries that go, ascending, none twice; W is the kind's width
//!     W × C  the entries that come, the same
//! ```
//!
//! The list that comes of it is made of bytes that stand in the two files alone, and has the digest that the
//! delta names, so it is the same file, byte for byte, as the one that was published.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::iter::Peekable;
use std::path::Path;

use ring::digest::{Context, SHA256};
use writ_common::files::{self, FileError};

use crate::MAX_ENTRIES;
use crate::format::Header;
use crate::kind::{Key, Kind};
use crate::list::{List, ListError};

const MAGIC: &[u8; 8] = b"WRITDIFF";
const VERSION: u8 = 1;
const HEADER: usize = 96;
/// Entries of a delta: they are in memory while it is made.
const MAX_CHANGES: u64 = 4_000_000;
/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// Why there is no delta, or no list comes of it.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// A list.
    #[error(transparent)]
    List(#[from] ListError),
    /// Where it is written to.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The two do not belong together, or one is damaged.
    #[error("{0}")]
    Unfit(&'static str),
}

/// Entries of a file in their order.
struct Entries {
    from: BufReader<File>,
    width: usize,
    left: u64,
}

impl Entries {
    fn new(mut file: File, start: u64, width: usize, count: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(start))?;
        Ok(Self { from: BufReader::with_capacity(BUFFER, file), width, left: count })
    }

    fn of_list(list: &List, path: &Path) -> Result<Self, DeltaError> {
        let header = list.header();
        let width = usize::from(header.kind.width());
        Ok(Self::new(File::open(path)?, header.start(), width, header.entries.into())?)
    }
}

impl Iterator for Entries {
    type Item = io::Result<Key>;

    fn next(&mut self) -> Option<io::Result<Key>> {
        self.left = self.left.checked_sub(1)?;
        let mut key = [0; 32];
        Some(self.from.read_exact(&mut key[..self.width]).map(|()| key))
    }
}

/// The next of entries that must be ascending.
fn advance(entries: &mut Peekable<impl Iterator<Item = io::Result<Key>>>) -> Result<Option<Key>, DeltaError> {
    let Some(key) = entries.next().transpose()? else { return Ok(None) };
    if let Some(Ok(next)) = entries.peek()
        && *next <= key
    {
        return Err(DeltaError::Unfit("its entries are not ascending"));
    }
    Ok(Some(key))
}

/// Writes what makes one list the other, and says how many bytes that is; `None`: the lists are of different
/// kinds, or it would be no shorter than the list itself.
///
/// # Errors
/// When a list cannot be read, or the disk fails.
pub fn between(base: &Path, new: &Path, out: &Path) -> Result<Option<u64>, DeltaError> {
    let (of_base, of_new) = (List::open(base)?, List::open(new)?);
    if of_base.kind() != of_new.kind() {
        return Ok(None);
    }
    let width = u64::from(of_new.kind().width());
    // Beyond that many it is no shorter.
    let room = of_new.bytes().saturating_sub(u64::try_from(HEADER).unwrap_or(u64::MAX) + 1);
    let most = (room / width).min(MAX_CHANGES);
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut before, mut after) = (Entries::of_list(&of_base, base)?, Entries::of_list(&of_new, new)?);
    let (mut one, mut other) = (before.next().transpose()?, after.next().transpose()?);
    while one.is_some() || other.is_some() {
        let order = match (&one, &other) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, _) => std::cmp::Ordering::Greater,
        };
        if order.is_lt() {
            gone.extend(one);
        }
        if order.is_gt() {
            come.extend(other);
        }
        if u64::try_from(gone.len() + come.len()).unwrap_or(u64::MAX) > most {
            return Ok(None);
        }
        if order.is_le() {
            one = before.next().transpose()?;
        }
        if order.is_ge() {
            other = after.next().transpose()?;
        }
    }
    let width = usize::from(of_new.kind().width());
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&[VERSION, of_new.kind().code()]);
    header[16..24].copy_from_slice(&u64::try_from(gone.len()).unwrap_or(u64::MAX).to_le_bytes());
    header[24..32].copy_from_slice(&u64::try_from(come.len()).unwrap_or(u64::MAX).to_le_bytes());
    header[32..64].copy_from_slice(&of_base.digest());
    header[64..].copy_from_slice(&of_new.digest());
    files::write_public_with(out, |file| {
        file.write_all(&header)?;
        gone.iter().chain(&come).try_for_each(|key| file.write_all(&key[..width]))
    })?;
    Ok(Some(u64::try_from(HEADER + (gone.len() + come.len()) * width).unwrap_or(u64::MAX)))
}

/// What stands in a delta's header.
struct Said {
    kind: Kind,
    gone: u64,
    come: u64,
    base: [u8; 32],
    new: [u8; 32],
}

impl Said {
    fn read(path: &Path) -> Result<Self, DeltaError> {
        let mut file = File::open(path)?;
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|_| DeltaError::Unfit("it is no delta: it is too short"))?;
        if &header[..8] != MAGIC || header[8] != VERSION || header[10..16] != [0; 6] {
            return Err(DeltaError::Unfit("it is no delta of this format"));
        }
        let number = |place: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[place..place + 8]);
            u64::from_le_bytes(bytes)
        };
        let digest = |place: usize| {
            let mut bytes = [0; 32];
            bytes.copy_from_slice(&header[place..place + 32]);
            bytes
        };
        let kind = Kind::from_code(header[9]).ok_or(DeltaError::Unfit("it is of an unknown kind"))?;
        let (gone, come) = (number(16), number(24));
        let most = u64::from(MAX_ENTRIES);
        let header_bytes = u64::try_from(HEADER).unwrap_or(u64::MAX);
        if gone > most
            || come > most
            || file.metadata()?.len() != header_bytes + (gone + come) * u64::from(kind.width())
        {
            return Err(DeltaError::Unfit("it has not the length that its header says"));
        }
        Ok(Self { kind, gone, come, base: digest(32), new: digest(64) })
    }
}

/// Hands over the entries of the list that comes of it, in their order.
fn merge(
    (list, base): (&List, &Path),
    (said, delta): (&Said, &Path),
    mut take: impl FnMut(&Key) -> Result<(), DeltaError>,
) -> Result<(), DeltaError> {
    let width = usize::from(said.kind.width());
    let start = u64::try_from(HEADER).unwrap_or(u64::MAX);
    let second = start + said.gone * u64::from(said.kind.width());
    let mut held = Entries::of_list(list, base)?.peekable();
    let mut gone = Entries::new(File::open(delta)?, start, width, said.gone)?.peekable();
    let mut come = Entries::new(File::open(delta)?, second, width, said.come)?.peekable();
    let (mut next_gone, mut next_come) = (advance(&mut gone)?, advance(&mut come)?);
    while let Some(key) = advance(&mut held)? {
        while let Some(new) = next_come.filter(|new| *new < key) {
            take(&new)?;
            next_come = advance(&mut come)?;
        }
        if next_come == Some(key) {
            return Err(DeltaError::Unfit("it brings what is there already"));
        }
        if next_gone == Some(key) {
            next_gone = advance(&mut gone)?;
        } else {
            take(&key)?;
        }
    }
    while let Some(new) = next_come {
        take(&new)?;
        next_come = advance(&mut come)?;
    }
    if next_gone.is_some() {
        return Err(DeltaError::Unfit("it takes away what is not there"));
    }
    Ok(())
}

/// Makes the list that comes of a delta and has so many bytes. It is whole and on disk, or not there. Takes no
/// more memory than the table of the list: the files are read twice.
///
/// # Errors
/// When the delta is made to another list, one of them is damaged, or the disk fails.
pub fn apply(base: &Path, delta: &Path, out: &Path, bytes: u64) -> Result<(), DeltaError> {
    let (list, said) = (List::open(base)?, Said::read(delta)?);
    if said.kind != list.kind() || said.base != list.digest() {
        return Err(DeltaError::Unfit("it is made to another list"));
    }
    let entries = (u64::from(list.entries()) + said.come).checked_sub(said.gone);
    let entries = entries.and_then(|entries| u32::try_from(entries).ok()).filter(|entries| *entries > 0);
    let entries = entries.filter(|entries| *entries <= MAX_ENTRIES);
    let header =
        Header::of(said.kind, entries.ok_or(DeltaError::Unfit("no list has so many entries"))?, said.new);
    // Before anything is written.
    if header.length() != bytes {
        return Err(DeltaError::Unfit("a list of another length comes of it"));
    }
    let width = usize::from(said.kind.width());
    let mut counts = vec![0_u32; header.buckets()];
    let mut context = Context::new(&SHA256);
    merge((&list, base), (&said, delta), |key| {
        context.update(&key[..width]);
        counts[header.bucket(key)] += 1;
        Ok(())
    })?;
    if context.finish().as_ref() != said.new {
        return Err(DeltaError::Unfit("another list comes of it than it says"));
    }
    let mut failed = None;
    let written = files::write_public_with(out, |file| {
        file.write_all(&header.encode())?;
        let mut before = 0_u32;
        for count in std::iter::once(&0).chain(&counts) {
            before += count;
            file.write_all(&before.to_le_bytes())?;
        }
        let merged = merge((&list, base), (&said, delta), |key| Ok(file.write_all(&key[..width])?));
        merged.map_err(|error| {
            let text = io::Error::other(error.to_string());
            failed = Some(error);
            text
        })
    });
    match (failed, written) {
        (Some(error), _) => Err(error),
        (None, written) => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::digest::digest;
    use tempfile::TempDir;

    use super::*;
    use crate::Builder;

    fn key(number: u32) -> Key {
        digest(&SHA256, &number.to_le_bytes()).as_ref().try_into().unwrap()
    }

    fn list(
        folder: &TempDir,
        name: &str,
        kind: Kind,
        keys: impl IntoIterator<Item = u32>,
    ) -> std::path::PathBuf {
        let mut builder = Builder::new(kind);
        for number in keys {
            let mut key = key(number);
            key[usize::from(kind.width())..].fill(0);
            builder.add(key).unwrap();
        }
        let path = folder.path().join(name);
        let _ = builder.sort().unwrap().write(&path).unwrap();
        path
    }

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().len()
    }

    #[test]
    fn a_delta_is_short_and_makes_the_same_file() {
        let folder = TempDir::new().unwrap();
        for kind in [Kind::Sha256, Kind::Md5] {
            let base = list(&folder, "base", kind, 0..20_000);
            let new = list(&folder, "new", kind, (100..20_000).chain(30_000..30_050));
            let (delta, made) = (folder.path().join("delta"), folder.path().join("made"));
            let bytes = between(&base, &new, &delta).unwrap().unwrap();
            assert_eq!(bytes, 96 + 150 * u64::from(kind.width()));
            assert_eq!(bytes, std::fs::metadata(&delta).unwrap().len());
            apply(&base, &delta, &made, length(&new)).unwrap();
            assert_eq!(std::fs::read(&made).unwrap(), std::fs::read(&new).unwrap());
            // And nothing comes of it beside another list.
            std::fs::remove_file(&made).unwrap();
            let error = apply(&new, &delta, &made, length(&new)).unwrap_err().to_string();
            assert!(error.contains("made to another list") && !made.exists(), "{error}");
            let error = apply(&base, &delta, &made, length(&new) - 32).unwrap_err().to_string();
            assert!(error.contains("another length") && !made.exists(), "{error}");
        }
    }

    #[test]
    fn a_delta_that_is_no_shorter_is_not_made() {
        let folder = TempDir::new().unwrap();
        let base = list(&folder, "base", Kind::Sha256, 0..1000);
        let other = list(&folder, "other", Kind::Sha256, 1000..2000);
        let narrow = list(&folder, "narrow", Kind::Md5, 0..1000);
        let delta = folder.path().join("delta");
        for new in [&other, &narrow] {
            assert_eq!(between(&base, new, &delta).unwrap(), None);
            assert!(!delta.exists());
        }
    }

    #[test]
    fn what_is_altered_anywhere_makes_no_list() {
        let folder = TempDir::new().unwrap();
        let base = list(&folder, "base", Kind::Sha256, 0..50);
        let new = list(&folder, "new", Kind::Sha256, (3..50).chain(60..62));
        let (delta, made) = (folder.path().join("delta"), folder.path().join("made"));
        let _ = between(&base, &new, &delta).unwrap().unwrap();
        let good = std::fs::read(&delta).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            std::fs::write(&delta, &bad).unwrap();
            apply(&base, &delta, &made, length(&new)).unwrap_err();
            assert!(!made.exists(), "{place}");
        }
        for cut in 0..good.len() {
            std::fs::write(&delta, &good[..cut]).unwrap();
            apply(&base, &delta, &made, length(&new)).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn whatever_two_lists_are_the_delta_leads_from_one_to_the_other(
            before in prop::collection::btree_set(0_u32..300, 1..200),
            after in prop::collection::btree_set(0_u32..300, 1..200),
        ) {
            let folder = TempDir::new().unwrap();
            let base = list(&folder, "base", Kind::Sha1, before);
            let new = list(&folder, "new", Kind::Sha1, after);
            let (delta, made) = (folder.path().join("delta"), folder.path().join("made"));
            if let Some(bytes) = between(&base, &new, &delta).unwrap() {
                prop_assert!(bytes < length(&new));
                apply(&base, &delta, &made, length(&new)).unwrap();
                prop_assert_eq!(std::fs::read(&made).unwrap(), std::fs::read(&new).unwrap());
            }
        }
    }
}
