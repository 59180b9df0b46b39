//! One sealed file with everything a lost server needs: a tar archive under a passphrase (age), its manifest first.

use std::path::{Path, PathBuf};

use serde::Serialize;
use writ_common::files::{self, FileError};
use writ_common::id::{Digest, FleetId};
use writ_common::keys::sealed::{Passphrase, SealError, open, seal};
use writ_common::time::Timestamp;
use zeroize::Zeroizing;

/// A backup that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The archive could not be packed.
    #[error("the backup could not be packed: {0}")]
    Pack(#[from] std::io::Error),
    /// It could not be sealed, or does not open again.
    #[error("the backup could not be sealed: {0}")]
    Seal(#[from] SealError),
    /// What was written is not what is read back.
    #[error("{}: what was written is not what is read back; the disk is failing", .0.display())]
    ReadBack(PathBuf),
}

#[derive(Serialize)]
struct Manifest<'a> {
    format: u32,
    fleet_id: String,
    fleet_name: &'a str,
    made_at: String,
    files: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    sha256: String,
}

/// Seals files into one archive, syncs it to disk, and reads it back once.
///
/// # Errors
/// When any step fails; a half-written file never has the final name.
pub fn write_backup(
    path: &Path,
    fleet: (FleetId, &str),
    contents: &[(&str, &[u8])],
    passphrase: &Passphrase,
    now: Timestamp,
) -> Result<(), BackupError> {
    let manifest = Manifest {
        format: 1,
        fleet_id: fleet.0.to_string(),
        fleet_name: fleet.1,
        made_at: now.to_string(),
        files: contents
            .iter()
            .map(|(name, content)| Entry { name, sha256: Digest::of(content).to_string() })
            .collect(),
    };
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::from)?;
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in
        std::iter::once(("manifest.json", manifest.as_slice())).chain(contents.iter().copied())
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(now.as_millis() / 1000);
        header.set_cksum();
        archive.append_data(&mut header, name, content)?;
    }
    let plain = Zeroizing::new(archive.into_inner()?);
    let sealed = seal(&plain, passphrase)?;
    files::write_secret(path, &sealed)?;
    let read_back = open(&files::read_secret(path)?, passphrase)?;
    if read_back != plain {
        return Err(BackupError::ReadBack(path.to_owned()));
    }
    Ok(())
}
