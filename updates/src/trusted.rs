//! The newest metadata that was seen from a repository: what keeps it from going back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use writ_common::files;
use writ_protocol::id::Digest;

use crate::reason::{Reason, UpdateError};

/// The file that says whom to trust.
const ROOT: &str = "root.json";
/// In the order in which they are kept. Each was verified by the time it was written, so that a crash between
/// two of them leaves an older one beside a newer one, as between two runs. The root is first: it says which
/// keys the others must be signed by, and those by replaced keys count no more.
const METADATA: [&str; 4] = [ROOT, "timestamp.json", "snapshot.json", "targets.json"];

/// What is trusted of one repository. Which one is said by the root that was pinned: two sources with the same
/// root are two ways to one repository.
#[derive(Debug, Clone)]
pub struct Trusted {
    folder: PathBuf,
    pinned: Digest,
}

impl Trusted {
    pub(crate) fn new(all: PathBuf, pinned: &[u8]) -> Self {
        let pinned = Digest::of(pinned);
        Self { folder: all.join(pinned.to_string()), pinned }
    }

    /// SHA-256 of the root that was pinned.
    #[must_use]
    pub const fn pinned(&self) -> Digest {
        self.pinned
    }

    /// The root to begin with: the newest that was seen. One that began with the pinned root again would take
    /// keys that were replaced since.
    pub(crate) fn root(&self, pinned: &[u8]) -> Result<Vec<u8>, UpdateError> {
        match files::read(&self.folder.join(ROOT)) {
            Err(error) if error.is_missing() => Ok(pinned.to_vec()),
            read => read.map_err(UpdateError::file),
        }
    }

    /// Copies it to where the library works. The library writes in place, so it never works on the original.
    pub(crate) fn copy_to(&self, work: &Path) -> Result<(), UpdateError> {
        files::private_folder(work).map_err(UpdateError::file)?;
        for name in METADATA {
            match fs::copy(self.folder.join(name), work.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => {
                    copied.map_err(|source| UpdateError::io(&work.join(name), source))?;
                }
            }
        }
        Ok(())
    }

    /// Keeps what the library has verified, also of a run that failed: what was seen once is not forgotten.
    pub(crate) fn keep_from(&self, work: &Path) -> Result<(), UpdateError> {
        files::private_folder(&self.folder).map_err(UpdateError::file)?;
        for name in METADATA {
            let (from, to) = (work.join(name), self.folder.join(name));
            match fs::read(&from) {
                // Of a full disk it may be a piece.
                Ok(bytes) if serde_json::from_slice::<IgnoredAny>(&bytes).is_err() => {}
                Ok(bytes) if fs::read(&to).is_ok_and(|held| held == bytes) => {}
                Ok(bytes) => files::write_secret(&to, &bytes).map_err(UpdateError::file)?,
                // By the library's word: its keys were replaced, which forgives a version that was too high.
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != ROOT => {
                    let _ = fs::remove_file(&to);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(UpdateError::io(&from, source)),
            }
        }
        Ok(())
    }

    /// Whether a root can be pinned: it is one, and signed by enough of its own keys.
    ///
    /// # Errors
    /// Why not.
    pub fn check_root(bytes: &[u8]) -> Result<u64, UpdateError> {
        let bad = |why: String| {
            UpdateError::new(Reason::NoRoot, format!("it is no root of a TUF repository: {why}"))
        };
        let root: tough::schema::Signed<tough::schema::Root> =
            serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        root.signed.verify_role(&root).map_err(|error| bad(error.to_string()))?;
        Ok(root.signed.version.get())
    }
}
