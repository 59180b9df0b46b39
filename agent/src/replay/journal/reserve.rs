//! Room on the disk for what must be written when there is none: receipts of what ran, marks of sessions, a
//! trust bundle. Commands are admitted only while it is there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use writ_protocol::limits::{MAX_BUNDLE_BYTES, MAX_RECEIPT_BYTES};

/// A bundle, 64 receipts of the largest output, and what redb writes around them.
const BYTES: usize = MAX_BUNDLE_BYTES + 64 * MAX_RECEIPT_BYTES + (4 << 20);

#[derive(Debug)]
pub(super) struct Reserve(PathBuf);

impl Reserve {
    /// The one beside a journal.
    pub(super) fn beside(journal: &Path) -> Self {
        Self(journal.with_extension("reserve"))
    }

    /// Sees that it is there.
    ///
    /// # Errors
    /// When there is no room for it.
    pub(super) fn keep(&self) -> io::Result<()> {
        let is_there = fs::metadata(&self.0).is_ok_and(|found| usize::try_from(found.len()) == Ok(BYTES));
        if is_there {
            return Ok(());
        }
        let made = self.make();
        if made.is_err() {
            let _ = fs::remove_file(&self.0);
        }
        made
    }

    fn make(&self) -> io::Result<()> {
        let mut file = File::create(&self.0)?;
        let length = u64::try_from(BYTES).unwrap_or(u64::MAX);
        match fallocate(&file, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            allocated => {
                allocated?;
                return file.sync_all();
            }
        }
        // No zeros: a file system that compresses would keep no room for them.
        let mut block = [0; 4096];
        for (place, byte) in block.iter_mut().enumerate() {
            *byte = u8::try_from(place * 167 % 251).unwrap_or_default();
        }
        for number in 0..BYTES / block.len() {
            block[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&block)?;
        }
        file.sync_all()
    }

    /// Gives the room to what must be written; whether there was any.
    pub(super) fn release(&self) -> bool {
        fs::remove_file(&self.0).is_ok()
    }
}
