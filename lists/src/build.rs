//! A list's file is made in memory and appears whole.

use std::io::{self, Write};
use std::path::Path;

use ring::digest::{Context, SHA256};
use writ_common::files::{self, FileError};

use crate::filter::{Filter, FilterError};
use crate::format::Header;
use crate::kind::{Key, Kind};
use crate::{MAX_ENTRIES, index};

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The bound.
    #[error("more than {MAX_ENTRIES} values were read, those that are repeated among them; split the list")]
    TooMany,
    /// Nothing to look for.
    #[error("the list is empty: nothing was read that is a {0}")]
    Empty(Kind),
}

/// Collects keys.
#[derive(Debug)]
pub struct Builder {
    kind: Kind,
    keys: Vec<Key>,
}

impl Builder {
    /// Begins a list.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind, keys: Vec::new() }
    }

    /// Adds a key of the list's kind.
    ///
    /// # Errors
    /// At [`MAX_ENTRIES`], where those that are repeated count.
    pub fn add(&mut self, key: Key) -> Result<(), BuildError> {
        if self.keys.len() >= index(MAX_ENTRIES) {
            return Err(BuildError::TooMany);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Sorts the keys, each once.
    ///
    /// # Errors
    /// When there is none.
    pub fn sort(self) -> Result<Sorted, BuildError> {
        let Self { kind, mut keys } = self;
        let count = |keys: &[Key]| u32::try_from(keys.len()).map_err(|_| BuildError::TooMany);
        let all = count(&keys)?;
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Err(BuildError::Empty(kind));
        }
        let mut digest = [0; 32];
        let mut context = Context::new(&SHA256);
        keys.iter().for_each(|key| context.update(&key[..usize::from(kind.width())]));
        digest.copy_from_slice(context.finish().as_ref());
        let header = Header::of(kind, count(&keys)?, digest);
        Ok(Sorted { header, keys, repeated: all - header.entries })
    }
}

/// The keys of a list in their order, of which its file and its filter are made.
#[derive(Debug)]
pub struct Sorted {
    header: Header,
    keys: Vec<Key>,
    repeated: u32,
}

impl Sorted {
    /// How many different ones there are.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.header.entries
    }

    /// How many were there already.
    #[must_use]
    pub const fn repeated(&self) -> u32 {
        self.repeated
    }

    /// The filter that agents hold. Takes 32 bytes of memory an entry while it is made.
    ///
    /// # Errors
    /// When the construction does not succeed. Keys cannot be chosen against it.
    pub fn filter(&self) -> Result<Filter, FilterError> {
        Filter::of(self.header, &self.keys)
    }

    /// Writes the list's file, and says how many bytes it has. It is whole and on disk, or as it was before.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write(&self, path: &Path) -> Result<u64, FileError> {
        files::write_public_with(path, |out| write(out, self.header, &self.keys))?;
        Ok(self.header.length())
    }
}

fn write(out: &mut dyn Write, header: Header, keys: &[Key]) -> io::Result<()> {
    out.write_all(&header.encode())?;
    let (mut before, mut left) = (0_u32, keys.iter().peekable());
    for bucket in 0..=header.buckets() {
        while left.next_if(|key| header.bucket(key) < bucket).is_some() {
            before += 1;
        }
        out.write_all(&before.to_le_bytes())?;
    }
    let width = usize::from(header.kind.width());
    keys.iter().try_for_each(|key| out.write_all(&key[..width]))
}
