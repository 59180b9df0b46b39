//! A repository copied byte for byte, to be served by whoever is nearer. Nothing is signed anew: whoever
//! updates from the copy trusts the same root as before, and need not trust who serves it.
//!
//! * `mirror/targets`: the components of the two newest copies and the deltas of lists, by digest and name.
//! * `mirror/metadata-NUMBER`: the metadata of one copy.
//! * `mirror.json`: which copies are served. It alone decides; it is replaced whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tough::{Prefix, Repository, TargetName};
use tracing::warn;
use writ_common::checkpoint;
use writ_common::files;
use writ_protocol::id::Digest;

use crate::MAX_RUN;
use crate::digest;
use crate::folder::Folder;
use crate::link::Link;
use crate::reason::{Reason, UpdateError};
use crate::run::{Listed, Offers, Source, check_room, list, offers};

/// Which copies are served.
const FILE: &str = "mirror.json";

/// One copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Copy {
    number: u64,
    /// The versions of timestamp and root, which say whether a copy is another one.
    timestamp: u64,
    root: u64,
    /// The files of its targets.
    targets: BTreeSet<String>,
}

/// The copies that are served. Whoever reads while a new one comes finds what the one before named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Copies {
    current: Option<Copy>,
    earlier: Option<Copy>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// There is another copy than before.
    pub is_new: bool,
    /// The version of its timestamp.
    pub timestamp: u64,
    /// Components in it.
    pub components: usize,
    /// Targets that are no components, and are not in it.
    pub others: usize,
}

/// Copies what a source has.
///
/// # Errors
/// Why not; what was served before is served still.
pub async fn mirror<L: Link>(folder: &Folder, source: Source<L>) -> Result<Mirrored, UpdateError> {
    let _lock = folder.lock()?;
    let incoming = folder.incoming()?;
    let copied = tokio::time::timeout(MAX_RUN, copy(folder, &incoming, source)).await;
    let copied = copied.unwrap_or_else(|_| Err(too_long()));
    let _ = fs::remove_dir_all(incoming);
    if matches!(&copied, Err(error) if error.reason == Reason::DiskFull) {
        // What came whole is kept for the next try, but not where it fills the disk.
        tidy(&folder.path().join("mirror"), &folder.read_json(FILE)?.unwrap_or_default());
    }
    copied
}

pub(crate) fn too_long() -> UpdateError {
    UpdateError::new(Reason::Slow, format!("it took longer than {MAX_RUN:?}"))
}

async fn copy<L: Link>(folder: &Folder, incoming: &Path, source: Source<L>) -> Result<Mirrored, UpdateError> {
    let mut copies: Copies = folder.read_json(FILE)?.unwrap_or_default();
    let place = folder.path().join("mirror");
    let Listed { repository, trusted } = list(folder, &incoming.join("metadata"), source).await?;
    let (timestamp, root) =
        (repository.timestamp().signed.version.get(), repository.root().signed.version.get());
    let Offers { components, deltas, others } = offers(&repository)?;
    let wanted = components.iter().map(|(target, _, release)| Wanted {
        target: target.clone(),
        sha256: release.sha256,
        bytes: release.bytes,
        is_needed: true,
    });
    let of_deltas = deltas.iter().map(|delta| Wanted {
        target: delta.target.clone(),
        sha256: delta.sha256,
        bytes: delta.bytes,
        is_needed: false,
    });
    let targets = bring(&repository, wanted.chain(of_deltas).collect(), &place.join("targets")).await?;
    let components = components.len();
    let is_same = |copy: &Copy| copy.timestamp == timestamp && copy.root == root;
    if copies.current.as_ref().is_some_and(is_same) {
        return Ok(Mirrored { is_new: false, timestamp, components, others });
    }
    let number = copies.current.as_ref().map_or(0, |copy| copy.number) + 1;
    let metadata = place.join(format!("metadata-{number}"));
    let _ = fs::remove_dir_all(&metadata);
    // The roots are those that were verified, from the pinned one on; the library would copy whatever comes.
    repository.cache_metadata(&metadata, false).await.map_err(|error| UpdateError::of_tuf(&error))?;
    for (name, bytes) in trusted.roots() {
        files::write_secret(&metadata.join(name), bytes).map_err(UpdateError::file)?;
    }
    for path in files::list(&metadata).map_err(UpdateError::file)? {
        sync(&path)?;
    }
    sync(&metadata)?;
    sync(&place)?;
    checkpoint!("mirror_copied");
    copies.earlier = copies.current.take();
    copies.current = Some(Copy { number, timestamp, root, targets });
    folder.write_json(FILE, &copies)?;
    tidy(&place, &copies);
    Ok(Mirrored { is_new: true, timestamp, components, others })
}

/// A file that is copied.
struct Wanted {
    target: TargetName,
    sha256: Digest,
    bytes: u64,
    /// Without it the repository is not whole.
    is_needed: bool,
}

/// Brings the files that are not here; the files that the copy names.
async fn bring(
    repository: &Repository,
    wanted: Vec<Wanted>,
    folder: &Path,
) -> Result<BTreeSet<String>, UpdateError> {
    files::private_folder(folder).map_err(UpdateError::file)?;
    let file = |wanted: &Wanted| format!("{}.{}", wanted.sha256, wanted.target.raw());
    let named: Vec<_> = wanted.iter().map(|wanted| (folder.join(file(wanted)), wanted.sha256)).collect();
    let is_here =
        move |(file, sha256): (PathBuf, Digest)| digest::of_file(&file).is_ok_and(|found| found == sha256);
    // Its digests are of many bytes: others work meanwhile.
    let are_here =
        tokio::task::spawn_blocking(move || named.into_iter().map(is_here).collect::<Vec<_>>()).await;
    let are_here = are_here.map_err(|error| UpdateError::new(Reason::Disk, error.to_string()))?;
    let missing: Vec<_> =
        wanted.iter().zip(are_here).filter(|(_, is_here)| !is_here).map(|(wanted, _)| wanted).collect();
    let needed = missing.iter().filter(|wanted| wanted.is_needed).map(|wanted| wanted.bytes);
    check_room(folder, needed.sum())?;
    let mut left_out = BTreeSet::new();
    for wanted in missing {
        if !wanted.is_needed && check_room(folder, wanted.bytes).is_err() {
            left_out.insert(file(wanted));
            continue;
        }
        // The library compares the digest, and the file takes its name only then.
        let saved = repository.save_target(&wanted.target, folder, Prefix::Digest).await;
        match saved.map_err(|error| UpdateError::of_tuf(&error)) {
            Ok(()) => {}
            // Whoever wants it takes the whole list.
            Err(error) if !wanted.is_needed => {
                warn!(target = wanted.target.raw(), %error, "a delta is not mirrored");
                left_out.insert(file(wanted));
                continue;
            }
            Err(error) => return Err(error),
        }
        sync(&folder.join(file(wanted)))?;
    }
    sync(folder)?;
    Ok(wanted.iter().map(file).filter(|name| !left_out.contains(name)).collect())
}

fn sync(path: &Path) -> Result<(), UpdateError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| UpdateError::io(path, source))
}

/// Removes what no copy names. What stays only takes room, and the next run tries again.
fn tidy(place: &Path, copies: &Copies) {
    let served: Vec<_> = copies.current.iter().chain(&copies.earlier).collect();
    let name =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for path in files::list(place).unwrap_or_default() {
        let number = name(&path).strip_prefix("metadata-").and_then(|number| number.parse::<u64>().ok());
        if number.is_some_and(|number| served.iter().all(|copy| copy.number != number)) {
            let _ = fs::remove_dir_all(path);
        }
    }
    for path in files::list(&place.join("targets")).unwrap_or_default() {
        if served.iter().all(|copy| !copy.targets.contains(&name(&path))) {
            let _ = fs::remove_file(path);
        }
    }
}

impl Folder {
    /// A file of the copy, by its path below the repository; `None`: there is none, or no copy.
    ///
    /// # Errors
    /// When it cannot be known.
    pub fn mirrored(&self, path: &str) -> Result<Option<PathBuf>, UpdateError> {
        let Some((folder, name)) = path.split_once('/') else { return Ok(None) };
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-_%".contains(&byte);
        if name.is_empty() || name.starts_with('.') || name.len() > 250 || !name.bytes().all(is_fine) {
            return Ok(None);
        }
        let copies: Copies = self.read_json(FILE)?.unwrap_or_default();
        let place = self.path().join("mirror");
        let served = copies.current.iter().chain(&copies.earlier);
        let found = match folder {
            "targets" => served
                .filter(|copy| copy.targets.contains(name))
                .map(|_| place.join("targets").join(name))
                .find(|path| path.exists()),
            "metadata" => served
                .map(|copy| place.join(format!("metadata-{}", copy.number)).join(name))
                .find(|path| path.exists()),
            _ => None,
        };
        Ok(found)
    }

    /// Whether there is a copy.
    ///
    /// # Errors
    /// When it cannot be known.
    pub fn is_mirror(&self) -> Result<bool, UpdateError> {
        Ok(self.read_json::<Copies>(FILE)?.is_some_and(|copies| copies.current.is_some()))
    }
}
