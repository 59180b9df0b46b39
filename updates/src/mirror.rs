//! A repository copied byte for byte, to be served by whoever is nearer. Nothing is signed anew: whoever
//! updates from the copy trusts the same root as before, and need not trust who serves it.
//!
//! * `mirror/targets`: the components of the two newest copies, by digest and name.
//! * `mirror/metadata-NUMBER`: the metadata of one copy.
//! * `mirror.json`: which copies are served. It alone decides; it is replaced whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::once;
use serde::{Deserialize, Serialize};
use tough::{Prefix, Repository};
use writ_common::checkpoint;
use writ_common::files;

use crate::folder::Folder;
use crate::link::{ByteStream, Link, LinkError};
use crate::reason::{Reason, UpdateError};
use crate::run::{Source, list};
use crate::{MAX_COMPONENT_BYTES, MAX_COMPONENTS, MAX_METADATA_BYTES, Name};

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
    let ended = copy(folder, &incoming, source).await;
    let _ = fs::remove_dir_all(incoming);
    ended
}

async fn copy<L: Link>(folder: &Folder, incoming: &Path, source: Source<L>) -> Result<Mirrored, UpdateError> {
    let mut copies: Copies = folder.read_json(FILE)?.unwrap_or_default();
    let place = folder.path().join("mirror");
    tidy(&place, &copies);
    let Source { link, root, pace } = source;
    let source = Source { link: Remembering::new(link), root, pace };
    let repository = list(folder, &incoming.join("metadata"), source).await?;
    let (timestamp, root) =
        (repository.timestamp().signed.version.get(), repository.root().signed.version.get());
    if !repository.root().signed.consistent_snapshot {
        let text = "the repository has no consistent snapshots, so that a copy of it could not change while somebody reads it: have it made with them";
        return Err(UpdateError::new(Reason::Malformed, text));
    }
    let (targets, others) = bring(&repository, &place.join("targets")).await?;
    let components = targets.len();
    let is_same = |copy: &Copy| copy.timestamp == timestamp && copy.root == root;
    if copies.current.as_ref().is_some_and(is_same) {
        return Ok(Mirrored { is_new: false, timestamp, components, others });
    }
    let number = copies.current.as_ref().map_or(0, |copy| copy.number) + 1;
    let metadata = place.join(format!("metadata-{number}"));
    repository.cache_metadata(&metadata, true).await.map_err(|error| UpdateError::of_tuf(&error))?;
    for path in files::list(&metadata).map_err(UpdateError::file)? {
        sync(&path)?;
    }
    sync(&metadata)?;
    checkpoint!("mirror_copied");
    copies.earlier = copies.current.take();
    copies.current = Some(Copy { number, timestamp, root, targets });
    folder.write_json(FILE, &copies)?;
    tidy(&place, &copies);
    Ok(Mirrored { is_new: true, timestamp, components, others })
}

/// Brings the components that are not here; the files that the copy names.
async fn bring(repository: &Repository, folder: &Path) -> Result<(BTreeSet<String>, usize), UpdateError> {
    files::private_folder(folder).map_err(UpdateError::file)?;
    let (mut targets, mut others) = (BTreeSet::new(), 0);
    let all: BTreeMap<_, _> = repository.all_targets().map(|(name, target)| (name.clone(), target)).collect();
    for (name, target) in all {
        if name.raw().parse::<Name>().is_err() {
            others += 1;
            continue;
        }
        if targets.len() >= MAX_COMPONENTS || target.length > MAX_COMPONENT_BYTES {
            let text =
                format!("{} is too long, or there are more than {MAX_COMPONENTS} components", name.raw());
            return Err(UpdateError::new(Reason::TooLong, text));
        }
        let file = format!("{}.{}", hex::encode(&target.hashes.sha256[..]), name.raw());
        let path = folder.join(&file);
        if !fs::metadata(&path).is_ok_and(|found| found.len() == target.length) {
            let saved = repository.save_target(&name, folder, Prefix::Digest).await;
            saved.map_err(|error| UpdateError::of_tuf(&error))?;
            sync(&path)?;
        }
        targets.insert(file);
    }
    sync(folder)?;
    Ok((targets, others))
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

/// Remembers the metadata that was read. The library verifies it as it reads, and reads it once more to write
/// it: between the two the source may have changed.
#[derive(Debug, Clone)]
struct Remembering<L> {
    link: L,
    read: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl<L> Remembering<L> {
    fn new(link: L) -> Self {
        Self { link, read: Arc::default() }
    }
}

impl<L: Link> Link for Remembering<L> {
    async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
        if !path.starts_with("metadata/") {
            return self.link.fetch(path).await;
        }
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let mut stream = self.link.fetch(path).await?;
                let mut bytes = BytesMut::new();
                while let Some(piece) = stream.next().await {
                    bytes.extend_from_slice(&piece?);
                    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_METADATA_BYTES {
                        return Err(LinkError::Long(path.to_owned()));
                    }
                }
                let bytes = bytes.freeze();
                let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                read.insert(path.to_owned(), bytes.clone());
                bytes
            }
        };
        Ok(Box::pin(once(std::future::ready(Ok(bytes)))))
    }
}
