//! One sealed file with everything a lost server needs: a tar archive under a passphrase (age), its manifest
//! first.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::keys::sealed::{Passphrase, SealError, open, seal};
use writ_protocol::id::{AgentId, Digest, FleetId, KeyId};
use writ_protocol::keys::{Authority, PrivateKey, PublicKey};
use writ_protocol::refusal::Refusal;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;
use zeroize::Zeroizing;

use super::Files;

/// A backup that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
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

/// What a sealed file must hold to be one of our backups.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The passphrase is wrong, or the file is not whole.
    #[error("{}: {source}; nothing was changed", path.display())]
    Seal {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// It opens, but is no backup of ours, or not a whole one.
    #[error("{}: {reason}; nothing was changed", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    fleet_id: String,
    fleet_name: String,
    made_at: String,
    files: Vec<ListedFile>,
}

#[derive(Serialize, Deserialize)]
struct ListedFile {
    name: String,
    sha256: String,
}

/// A backup that was opened wholly and found whole.
pub(crate) struct Archive {
    /// The fleet.
    pub fleet: FleetId,
    /// Its name.
    pub fleet_name: String,
    /// The chain of trust bundles.
    pub chain: Chain,
    /// SHA-256 of the sealed file.
    pub digest: Digest,
    /// The sealed file.
    pub path: PathBuf,
    files: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive({}, {} files, secret)", self.fleet_name, self.files.len())
    }
}

impl Archive {
    /// Opens a backup; believes nothing of it before all of it was read and checked against its manifest.
    ///
    /// # Errors
    /// When the passphrase is wrong or anything is missing or altered.
    pub(crate) fn open(path: &Path, passphrase: &Passphrase) -> Result<Self, ArchiveError> {
        let sealed = files::read(path)?;
        let plain = open(&sealed, passphrase)
            .map_err(|source| ArchiveError::Seal { path: path.to_owned(), source })?;
        let damaged = |reason: String| ArchiveError::Damaged { path: path.to_owned(), reason };
        let mut files = unpack(&plain).map_err(|error| damaged(error.to_string()))?;
        let manifest = files.remove(MANIFEST).ok_or_else(|| damaged("it has no manifest".to_owned()))?;
        let manifest: Manifest =
            serde_json::from_slice(&manifest).map_err(|error| damaged(format!("its manifest: {error}")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("it has format {}, this server reads {FORMAT}", manifest.format)));
        }
        let listed: BTreeMap<_, _> =
            manifest.files.iter().map(|entry| (entry.name.as_str(), entry.sha256.as_str())).collect();
        if listed.len() != files.len() {
            return Err(damaged("its manifest names other files than it holds".to_owned()));
        }
        for (name, content) in &files {
            if listed.get(name.as_str()) != Some(&Digest::of(content).to_string().as_str()) {
                return Err(damaged(format!("{name} is not what its manifest says")));
            }
        }
        let chain = chain_of(&files).map_err(damaged)?;
        let fleet =
            manifest.fleet_id.parse().map_err(|_| damaged("its manifest names no fleet".to_owned()))?;
        if chain.head().bundle.fleet != fleet {
            return Err(damaged("its chain is of another fleet".to_owned()));
        }
        let fleet_name = manifest.fleet_name;
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(Self { fleet, fleet_name, chain, digest: Digest::of(&sealed), path: whole, files })
    }

    /// The files below the data directory that it holds, the chain's bundles not among them.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let files = self.files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
        files.filter(|(name, _)| !name.starts_with(BUNDLES) && *name != REMOVED)
    }

    /// Goes on along bundles that follow it, such as those of an agent that is ahead.
    ///
    /// # Errors
    /// When they do not follow.
    pub(crate) fn extend(&mut self, bundles: Vec<Bytes>) -> Result<(), Refusal> {
        for envelope in bundles {
            if Chain::digest_of(&envelope).is_none_or(|digest| !self.chain.contains(digest)) {
                self.chain.extend(envelope)?;
            }
        }
        Ok(())
    }

    /// Whether it holds the private key of a signing certificate.
    #[must_use]
    pub(crate) fn holds(&self, key: KeyId) -> bool {
        self.files.contains_key(&format!("signing/{key}.key"))
    }

    /// The authorities whose sealed keys are in it and open with this passphrase.
    #[must_use]
    pub(crate) fn authorities(&self, passphrase: &Passphrase) -> Vec<PublicKey> {
        let sealed = self.files.iter().filter(|(name, _)| name.starts_with("authority"));
        let key = |content: &[u8]| {
            let der = pem::private_key(&open(content, passphrase).ok()?).ok()?;
            Some(PrivateKey::<Authority>::from_pkcs8(&der).ok()?.public().clone())
        };
        sealed.filter_map(|(_, content)| key(content)).collect()
    }

    /// Agents that were removed when it was made.
    #[must_use]
    pub(crate) fn removed(&self) -> Vec<AgentId> {
        let text = self.files.get(REMOVED).map(|content| String::from_utf8_lossy(content));
        text.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()).collect()
    }
}

fn unpack(plain: &[u8]) -> std::io::Result<BTreeMap<String, Zeroizing<Vec<u8>>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(plain).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        // Names we write: a file, or one in one of two folders. Nothing else is ever made from an archive.
        let is_ours = match name.split_once('/') {
            None => true,
            Some((folder, rest)) => matches!(folder, "signing" | "bundles") && !rest.contains('/'),
        };
        if !is_ours || name.contains("..") || !entry.header().entry_type().is_file() {
            return Err(std::io::Error::other(format!("it holds `{name}`, which no backup of ours does")));
        }
        let mut content = Zeroizing::new(Vec::new());
        entry.read_to_end(&mut content)?;
        files.insert(name, content);
    }
    Ok(files)
}

fn chain_of(files: &BTreeMap<String, Zeroizing<Vec<u8>>>) -> Result<Chain, String> {
    let mut bundles: Vec<_> = files
        .iter()
        .filter_map(|(name, content)| {
            let version: u64 = name.strip_prefix(BUNDLES)?.strip_suffix(".dsse")?.parse().ok()?;
            Some((version, Bytes::copy_from_slice(content)))
        })
        .collect();
    bundles.sort_by_key(|(version, _)| *version);
    let bundles = bundles.into_iter().map(|(_, envelope)| envelope);
    Chain::stored(bundles).map_err(|refusal| refusal.to_string())
}

/// A file by its name below the data directory.
pub(crate) type ArchivedFile = (String, Zeroizing<Vec<u8>>);

/// What a backup holds: every key there is, public files beside them, and the chain.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn contents(files: &Files, chain: &Chain) -> Result<Vec<ArchivedFile>, FileError> {
    let mut contents = Vec::new();
    let mut paths = vec![files.authority(), files.tls_ca_key(), files.tls_ca()];
    paths.extend(files::list(&files.signing())?);
    for path in paths {
        let key = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if key.is_some_and(|key| files.stays_here(key)) {
            continue;
        }
        let name = path.strip_prefix(files.folder()).unwrap_or(&path).display().to_string();
        let is_key = path.extension().is_some_and(|extension| extension == "key" || extension == "age");
        let is_ours = is_key || path.extension().is_some_and(|extension| extension == "pem");
        match files::read(&path) {
            // The authority's key is meant to be moved offline, and so may be that of the channel.
            Err(error) if error.is_missing() => {}
            read if is_ours => contents.push((name, Zeroizing::new(read?))),
            _ => {}
        }
    }
    for link in chain.links() {
        contents
            .push((format!("{BUNDLES}{}.dsse", link.bundle.version), Zeroizing::new(link.envelope.to_vec())));
    }
    Ok(contents)
}

const FORMAT: u32 = 1;
/// Ids of agents that were removed, one a line.
pub(crate) const REMOVED: &str = "removed-agents.txt";
const MANIFEST: &str = "manifest.json";
const BUNDLES: &str = "bundles/";

/// Seals files into one archive, syncs it to disk, and reads it back once. Returns the sealed bytes.
///
/// # Errors
/// When any step fails; a half-written file never has the final name.
pub(crate) fn write_backup(
    path: &Path,
    fleet: (FleetId, &str),
    contents: &[ArchivedFile],
    passphrase: &Passphrase,
    now: Timestamp,
) -> Result<Vec<u8>, BackupError> {
    let manifest = Manifest {
        format: FORMAT,
        fleet_id: fleet.0.to_string(),
        fleet_name: fleet.1.to_owned(),
        made_at: now.to_string(),
        files: contents
            .iter()
            .map(|(name, content)| ListedFile { name: name.clone(), sha256: Digest::of(content).to_string() })
            .collect(),
    };
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::from)?;
    let mut archive = tar::Builder::new(Vec::new());
    let all = contents.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    for (name, content) in std::iter::once((MANIFEST, manifest.as_slice())).chain(all) {
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
    Ok(sealed)
}
