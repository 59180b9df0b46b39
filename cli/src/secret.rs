//! Secrets that are shown once: in a new file only its owner can read.

use std::path::{Path, PathBuf};

use writ_common::files;

use crate::failure::Failure;

/// A file that can be written, looked at before a secret is made that could not be kept.
pub(crate) struct NewSecretFile(PathBuf);

impl NewSecretFile {
    pub(crate) fn check(path: PathBuf) -> Result<Self, Failure> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if path.exists() || folder.is_some_and(|folder| !folder.is_dir()) {
            let why = if path.exists() { "it exists; name a new file" } else { "its folder does not exist" };
            return Err(Failure::local(format!("--token-file {}: {why}; no token was made", path.display())));
        }
        Ok(Self(path))
    }

    /// Writes it; returns where.
    pub(crate) fn write(&self, secret: &str) -> Result<&Path, Failure> {
        files::write_secret(&self.0, secret.as_bytes()).map_err(|error| Failure::local(error.to_string()))?;
        Ok(&self.0)
    }
}
