//! Fetching: the signed list first, then what of it is not here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tough::schema::Target;
use tough::{ExpirationEnforcement, Limits, Repository, RepositoryLoader, TargetName};
use tracing::warn;
use url::Url;
use writ_common::files;
use writ_protocol::id::Digest;

use super::{Progress, Report, Source};
use crate::digest::{self, Hasher};
use crate::folder::Folder;
use crate::link::{Adapter, Link, METADATA, Remembering, TARGETS};
use crate::reason::{Reason, UpdateError};
use crate::trusted::Trusted;
use crate::{MAX_COMPONENT_BYTES, MAX_COMPONENTS, MAX_METADATA_BYTES, Name, Release, Version};

/// Bytes between two words of progress.
const STEP: u64 = 4 << 20;
/// Bytes of the disk that are left for others, or a twentieth of a small one: the database has no other.
const KEPT_FREE: u64 = 256 << 20;
/// Newer roots followed in one run.
const MAX_ROOTS: u64 = 256;

/// A component whose bytes are the ones that signed metadata describes.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) name: Name,
    pub(super) release: Release,
    pub(super) file: PathBuf,
    /// SHA-256 of what came.
    pub(super) sha256: Digest,
}

/// What came from a source. Its bytes are those that were signed; of what use they are is not known yet.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) relabelled: Vec<(Name, Release)>,
    pub(super) report: Report,
}

pub(super) async fn fetch<L: Link>(
    folder: &Folder,
    incoming: &Path,
    source: Source<L>,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Fetched, UpdateError> {
    let Listed { repository, .. } = list(folder, &incoming.join("metadata"), source).await?;
    let Offers { components, deltas, others } = offers(&repository)?;
    let of = folder.clone();
    // Its digests are of many bytes: others work meanwhile.
    let compared = tokio::task::spawn_blocking(move || compare(components, &of)).await;
    let compared = compared.map_err(|error| UpdateError::new(Reason::Disk, error.to_string()))?;
    let Compared { wanted, mut report, relabelled } = compared?;
    report.others = others;
    let bytes = wanted.iter().map(|(_, _, release)| release.bytes).sum();
    told(Progress::Listed { wanted: wanted.len(), bytes });
    let place = incoming.join("components");
    files::private_folder(&place).map_err(UpdateError::file)?;
    check_room(&place, bytes)?;
    let mut arrivals = Vec::new();
    for (target, name, release) in wanted {
        let file = place.join(name.as_ref());
        let shorter = shorter_way(folder, &deltas, &name, &release)?;
        let made = match &shorter {
            Some((delta, base)) => make(&repository, (delta, base), (&name, &release), &file, told).await?,
            None => None,
        };
        let sha256 = match made {
            Some(sha256) => sha256,
            None => bring(&repository, &target, (&name, &release), &file, told).await?,
        };
        arrivals.push(Arrival { name, release, file, sha256 });
    }
    Ok(Fetched { arrivals, relabelled, report })
}

/// What a source has, and the roots that lead there.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) repository: Repository,
    pub(crate) trusted: Trusted,
}

/// Reads what there is. Whatever becomes of it, metadata that was verified on the way is kept.
pub(crate) async fn list<L: Link>(
    folder: &Folder,
    work: &Path,
    source: Source<L>,
) -> Result<Listed, UpdateError> {
    let mut trusted = folder.trusted(&source.root)?;
    trusted.copy_to(work)?;
    let root = trusted.newest()?.bytes.clone();
    let limits = Limits {
        max_root_size: MAX_METADATA_BYTES,
        max_targets_size: MAX_METADATA_BYTES,
        max_timestamp_size: MAX_METADATA_BYTES,
        max_snapshot_size: MAX_METADATA_BYTES,
        max_root_updates: MAX_ROOTS,
    };
    let address =
        |text: &str| Url::parse(text).map_err(|error| UpdateError::new(Reason::Malformed, error.to_string()));
    let link = Remembering::new(source.link);
    let loaded = RepositoryLoader::new(&root, address(METADATA)?, address(TARGETS)?)
        .transport(Adapter::new(link.clone(), source.pace))
        .limits(limits)
        .datastore(work)
        .expiration_enforcement(ExpirationEnforcement::Safe)
        .load()
        .await;
    let kept = trusted.keep(work, |version| link.came(&format!("{version}.root.json")));
    let repository = loaded.map_err(|error| UpdateError::of_tuf(&error))?;
    kept?;
    if !repository.root().signed.consistent_snapshot {
        let text = "the repository has no consistent snapshots, so that it changes while somebody reads it: have it made with them";
        return Err(UpdateError::new(Reason::Malformed, text));
    }
    Ok(Listed { repository, trusted })
}

type Components = Vec<(TargetName, Name, Release)>;

/// What makes the list that somebody has the one that a repository has now.
#[derive(Debug, Clone)]
pub(crate) struct DeltaTarget {
    pub(crate) target: TargetName,
    pub(crate) name: Name,
    /// The digest of the file that it is made to.
    pub(crate) from: Digest,
    /// Its own digest and length.
    pub(crate) sha256: Digest,
    pub(crate) bytes: u64,
}

/// What a repository has.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    pub(crate) components: Components,
    pub(crate) deltas: Vec<DeltaTarget>,
    /// Targets that are neither.
    pub(crate) others: usize,
}

/// Between a component's name and the digest of the file that a delta of it is made to.
pub(crate) const DELTA_FROM: &str = ".from-";

/// A target that is called like a delta of a list.
fn delta(target: &TargetName, repository: &Repository) -> Option<DeltaTarget> {
    let (name, from) = target.raw().split_once(DELTA_FROM)?;
    let (name, from) = (name.parse::<Name>().ok()?, from.parse().ok()?);
    let described = repository.targets().signed.find_target(target, false).ok()?;
    let sha256 = Digest::try_from(&described.hashes.sha256[..]).ok()?;
    let is_fine = !name.kinds().is_empty() && described.length <= MAX_COMPONENT_BYTES;
    is_fine.then(|| DeltaTarget { target: target.clone(), name, from, sha256, bytes: described.length })
}

/// What a repository has. A name is what the first role says that may speak for it: delegates list what they
/// like.
pub(crate) fn offers(repository: &Repository) -> Result<Offers, UpdateError> {
    let names: BTreeSet<&TargetName> = repository.all_targets().map(|(name, _)| name).collect();
    let Offers { mut components, mut deltas, mut others } = Offers::default();
    for target in names {
        if let Some(delta) = delta(target, repository) {
            deltas.push(delta);
            continue;
        }
        // What a server makes itself is nobody else's to give.
        let named = target.raw().parse::<Name>().ok().filter(|name| !name.is_made_here());
        let described = repository.targets().signed.find_target(target, false).ok();
        match named.zip(described) {
            Some((name, described)) => {
                let release = release(&name, described)?;
                components.push((target.clone(), name, release));
            }
            None => others += 1,
        }
    }
    if components.len() > MAX_COMPONENTS {
        let listed = components.len();
        let text =
            format!("the repository lists {listed} components, and {MAX_COMPONENTS} are taken at most");
        return Err(UpdateError::new(Reason::TooLong, text));
    }
    // One for each component is what a repository has; more is nobody's use.
    deltas.truncate(MAX_COMPONENTS);
    Ok(Offers { components, deltas, others })
}

/// What is to be done about what a source has.
struct Compared {
    wanted: Components,
    /// Bytes that are here, under another version.
    relabelled: Vec<(Name, Release)>,
    report: Report,
}

fn compare(components: Components, folder: &Folder) -> Result<Compared, UpdateError> {
    let shelf = folder.shelf()?;
    // What somebody removed or changed, or a disk forgot, comes again.
    let is_here = |name: &Name, release: &Release| {
        digest::of_file(&folder.file(name, release)).is_ok_and(|found| found == release.sha256)
    };
    let mut report = Report::default();
    let is_listed = |name: &&Name| components.iter().any(|(_, listed, _)| listed == *name);
    let is_lost = |name: &&Name| !is_listed(name) && !name.is_made_here();
    report.unlisted = shelf.0.keys().filter(is_lost).cloned().collect();
    let (mut wanted, mut relabelled) = (Components::new(), Vec::new());
    for (target, name, release) in components {
        match shelf.0.get(&name) {
            Some(held) if held.active.sha256 == release.sha256 && is_here(&name, &release) => {
                if held.active.version != release.version {
                    relabelled.push((name, release));
                }
            }
            Some(held) if held.is_held && held.active.sha256 != release.sha256 => {
                report.held.push((name, release));
            }
            Some(_) | None => wanted.push((target, name, release)),
        }
    }
    Ok(Compared { wanted, relabelled, report })
}

/// Whether so many bytes have room, and leave some for whatever else lives on the disk.
pub(crate) fn check_room(folder: &Path, bytes: u64) -> Result<(), UpdateError> {
    let found = rustix::fs::statvfs(folder).map_err(|error| UpdateError::io(folder, error.into()))?;
    let (free, all) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
    let kept = (all / 20).min(KEPT_FREE);
    if bytes == 0 || bytes.saturating_add(kept) <= free {
        return Ok(());
    }
    let text = format!(
        "{}: {bytes} bytes are to come, {free} are free, and {kept} are left for others",
        folder.display()
    );
    Err(UpdateError::new(Reason::DiskFull, text))
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

/// The delta that leads from what is here to what is wanted, and the file that it is made to, if it is shorter
/// than the component.
fn shorter_way<'d>(
    folder: &Folder,
    deltas: &'d [DeltaTarget],
    name: &Name,
    release: &Release,
) -> Result<Option<(&'d DeltaTarget, PathBuf)>, UpdateError> {
    let Some((held, file)) = folder.active(name)? else { return Ok(None) };
    let leads = |delta: &&DeltaTarget| {
        delta.name == *name && delta.from == held.sha256 && delta.bytes < release.bytes
    };
    Ok(deltas.iter().find(leads).map(|delta| (delta, file)))
}

/// Makes a component of the one that is here and of what has changed since; its digest, if it is the one that
/// was signed. `None`: the whole of it must come.
async fn make(
    repository: &Repository,
    (delta, base): (&DeltaTarget, &Path),
    (name, release): (&Name, &Release),
    file: &Path,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Option<Digest>, UpdateError> {
    let beside = file.with_extension("delta");
    // For a while both are there.
    if file.parent().is_some_and(|folder| check_room(folder, release.bytes + delta.bytes).is_err()) {
        return Ok(None);
    }
    let wanted = Release { sha256: delta.sha256, bytes: delta.bytes, ..release.clone() };
    let brought = bring(repository, &delta.target, (name, &wanted), &beside, told).await;
    let (base, made, of_delta, bytes) = (base.to_owned(), file.to_owned(), beside.clone(), release.bytes);
    let made = match brought {
        Ok(_) => {
            // It reads and writes the whole of a list: others work meanwhile.
            let applied = tokio::task::spawn_blocking(move || {
                writ_lists::delta::apply(&base, &of_delta, &made, bytes)
                    .map_err(|error| error.to_string())?;
                digest::of_file(&made).map_err(|error| error.to_string())
            });
            applied.await.map_err(|error| error.to_string()).flatten()
        }
        Err(error) if error.reason == Reason::DiskFull => return Err(error),
        Err(error) => Err(error.to_string()),
    };
    let _ = std::fs::remove_file(&beside);
    match made {
        Ok(sha256) if sha256 == release.sha256 => Ok(Some(sha256)),
        other => {
            let why = other.map_or_else(|why| why, |_| "another file came of it".to_owned());
            warn!(component = %name, why, "a delta is of no use; the whole component is fetched");
            let _ = std::fs::remove_file(file);
            Ok(None)
        }
    }
}

/// Fetches one component into a file, which is on the disk when this returns.
async fn bring(
    repository: &Repository,
    target: &TargetName,
    (name, release): (&Name, &Release),
    file: &Path,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Digest, UpdateError> {
    let failed = |source| UpdateError::io(file, source);
    let missing = || UpdateError::new(Reason::Missing, format!("{name} is not listed"));
    let read = repository.read_target(target).await.map_err(|error| UpdateError::of_tuf(&error))?;
    let mut stream = read.ok_or_else(missing)?;
    let mut out = File::create_new(file).await.map_err(failed)?;
    let (mut done, mut said, mut hasher) = (0_u64, 0, Hasher::new());
    // The library compares the digest when the stream ends, and says so in its place.
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| UpdateError::of_tuf(&error))?;
        hasher.update(&piece);
        out.write_all(&piece).await.map_err(failed)?;
        done += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if done / STEP > said {
            said = done / STEP;
            told(Progress::Fetching { name: name.clone(), release: release.clone(), done });
        }
    }
    out.sync_all().await.map_err(failed)?;
    told(Progress::Fetching { name: name.clone(), release: release.clone(), done });
    Ok(hasher.finish())
}
