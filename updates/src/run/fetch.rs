//! Fetching: the signed list first, then what of it is not here.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tough::schema::Target;
use tough::{ExpirationEnforcement, Limits, Repository, RepositoryLoader, TargetName};
use url::Url;
use writ_protocol::id::Digest;

use super::{Progress, Report, Source};
use crate::folder::Folder;
use crate::link::{Adapter, Link, METADATA, TARGETS};
use crate::reason::{Reason, UpdateError};
use crate::{MAX_COMPONENT_BYTES, MAX_COMPONENTS, MAX_METADATA_BYTES, Name, Release, Version};

/// Bytes between two words of progress.
const STEP: u64 = 4 << 20;
/// Newer roots followed in one run.
const MAX_ROOTS: u64 = 256;

/// A component whose bytes are the ones that signed metadata describes.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) name: Name,
    pub(super) release: Release,
    pub(super) file: PathBuf,
}

/// What came from a source. Its bytes are those that were signed; of what use they are is not known yet.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) report: Report,
}

pub(super) async fn fetch<L: Link>(
    folder: &Folder,
    incoming: &Path,
    source: Source<L>,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Fetched, UpdateError> {
    let repository = list(folder, &incoming.join("metadata"), source).await?;
    let (wanted, report) = compare(&repository, folder)?;
    let bytes = wanted.iter().map(|(_, _, release)| release.bytes).sum();
    told(Progress::Listed { wanted: wanted.len(), bytes });
    let mut arrivals = Vec::new();
    for (target, name, release) in wanted {
        let file = incoming.join(name.as_ref());
        bring(&repository, &target, (&name, &release), &file, told).await?;
        arrivals.push(Arrival { name, release, file });
    }
    Ok(Fetched { arrivals, report })
}

/// Reads what there is. Whatever becomes of it, metadata that was verified on the way is kept.
pub(crate) async fn list<L: Link>(
    folder: &Folder,
    work: &Path,
    source: Source<L>,
) -> Result<Repository, UpdateError> {
    let trusted = folder.trusted(&source.root);
    trusted.copy_to(work)?;
    let root = trusted.root(&source.root)?;
    let limits = Limits {
        max_root_size: MAX_METADATA_BYTES,
        max_targets_size: MAX_METADATA_BYTES,
        max_timestamp_size: MAX_METADATA_BYTES,
        max_snapshot_size: MAX_METADATA_BYTES,
        max_root_updates: MAX_ROOTS,
    };
    let address =
        |text: &str| Url::parse(text).map_err(|error| UpdateError::new(Reason::Malformed, error.to_string()));
    let loaded = RepositoryLoader::new(&root, address(METADATA)?, address(TARGETS)?)
        .transport(Adapter::new(source.link, source.pace))
        .limits(limits)
        .datastore(work)
        .expiration_enforcement(ExpirationEnforcement::Safe)
        .load()
        .await;
    let kept = trusted.keep_from(work);
    let repository = loaded.map_err(|error| UpdateError::of_tuf(&error))?;
    kept?;
    Ok(repository)
}

type Wanted = Vec<(TargetName, Name, Release)>;

/// What the source has and is not in force here.
fn compare(repository: &Repository, folder: &Folder) -> Result<(Wanted, Report), UpdateError> {
    let shelf = folder.shelf()?;
    // What somebody removed, or a power cut took, comes again.
    let is_here = |name: &Name, release: &Release| {
        fs::metadata(folder.file(name, release)).is_ok_and(|found| found.len() == release.bytes)
    };
    let (mut wanted, mut report, mut listed) = (Wanted::new(), Report::default(), Vec::new());
    for (target, described) in repository.all_targets() {
        let Ok(name) = target.raw().parse::<Name>() else {
            report.others += 1;
            continue;
        };
        let release = release(&name, described)?;
        listed.push(name.clone());
        match shelf.0.get(&name) {
            Some(held) if held.active.sha256 == release.sha256 && is_here(&name, &release) => {}
            Some(held) if held.is_held && held.active.sha256 != release.sha256 => {
                report.held.push((name, release))
            }
            Some(_) | None => wanted.push((target.clone(), name, release)),
        }
    }
    if listed.len() > MAX_COMPONENTS {
        let text = format!(
            "the repository lists {} components, and {MAX_COMPONENTS} are taken at most",
            listed.len()
        );
        return Err(UpdateError::new(Reason::TooLong, text));
    }
    report.unlisted = shelf.0.keys().filter(|name| !listed.contains(name)).cloned().collect();
    wanted.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
    Ok((wanted, report))
}

/// What metadata says of a component. Its version is in `custom`; a repository that was made by other tools
/// has none, and the file's digest stands for it.
fn release(name: &Name, described: &Target) -> Result<Release, UpdateError> {
    let malformed = |why: String| UpdateError::new(Reason::Malformed, format!("{name}: {why}"));
    let sha256 = Digest::try_from(&described.hashes.sha256[..])
        .map_err(|_| malformed("its digest has not 32 bytes".to_owned()))?;
    if described.length > MAX_COMPONENT_BYTES {
        let text =
            format!("{name} has {} bytes, and {MAX_COMPONENT_BYTES} are taken at most", described.length);
        return Err(UpdateError::new(Reason::TooLong, text));
    }
    let version = described.custom.get("version").and_then(|version| version.as_str());
    let version = match version {
        Some(version) => version.parse::<Version>(),
        None => sha256.to_string()[..12].parse(),
    };
    let version = version.map_err(|error| malformed(error.to_string()))?;
    Ok(Release { version, sha256, bytes: described.length })
}

/// Fetches one component into a file, which is on the disk when this returns.
async fn bring(
    repository: &Repository,
    target: &TargetName,
    (name, release): (&Name, &Release),
    file: &Path,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), UpdateError> {
    let failed = |source| UpdateError::io(file, source);
    let missing = || UpdateError::new(Reason::Missing, format!("{name} is not listed"));
    let read = repository.read_target(target).await.map_err(|error| UpdateError::of_tuf(&error))?;
    let mut stream = read.ok_or_else(missing)?;
    let mut out = File::create_new(file).await.map_err(failed)?;
    let (mut done, mut said) = (0_u64, 0);
    // The library compares the digest when the stream ends, and says so in its place.
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| UpdateError::of_tuf(&error))?;
        out.write_all(&piece).await.map_err(failed)?;
        done += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if done / STEP > said {
            said = done / STEP;
            told(Progress::Fetching { name: name.clone(), release: release.clone(), done });
        }
    }
    out.sync_all().await.map_err(failed)?;
    told(Progress::Fetching { name: name.clone(), release: release.clone(), done });
    Ok(())
}
