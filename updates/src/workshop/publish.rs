//! Signing and publishing. What names other files is written after them, so that whoever reads meanwhile
//! finds everything that what they read names.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use jiff::Timestamp as Date;
use serde::{Deserialize, Serialize};
use tough::TargetName;
use tough::editor::RepositoryEditor;
use tough::editor::signed::{SignedRepository, SignedRole};
use tough::key_source::KeySource;
use tough::schema::{Hashes, KeyHolder, RoleKeys, Root, Signed, Target};
use tracing::warn;
use writ_common::checkpoint;
use writ_common::files;
use writ_common::keys::sealed::Passphrase;
use writ_lists::delta;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

use super::keys::{Role, SecretKey};
use super::{Lifetimes, Workshop, WorkshopError};
use crate::digest::{self, Hasher};
use crate::{MAX_COMPONENT_BYTES, Name, Release};

/// The specification that metadata follows.
const SPEC_VERSION: &str = "1.0.0";
/// Bytes copied at once.
const CHUNK: usize = 1 << 20;
/// The shortest and the longest lifetime.
const HOUR: Duration = Duration::from_secs(3600);
const TEN_YEARS: Duration = Duration::from_secs(3600 * 24 * 3653);

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// Versions of the metadata: root, targets, snapshot, timestamp.
    pub root: u64,
    /// Of the list of components.
    pub targets: u64,
    /// Of the list of metadata.
    pub snapshot: u64,
    /// Of the word which is the newest.
    pub timestamp: u64,
    /// SHA-256 of the newest root's file, for whoever pins it.
    pub root_sha256: Digest,
    /// The components in it.
    pub components: Vec<(Name, Release)>,
}

/// Which numbers were used. They are kept with the keys: what lies in the published folder may be a copy of
/// before, or anybody's.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) root: u64,
    pub(super) targets: u64,
    pub(super) snapshot: u64,
    pub(super) timestamp: u64,
    /// Of targets and snapshot in the last two publications, the newest first.
    pub(super) published: Vec<(u64, u64)>,
}

/// A root that is being replaced: what a crash leaves is finished, or undone, when the folder is opened.
#[derive(Serialize, Deserialize)]
struct Rotation {
    version: u64,
    roles: Vec<Role>,
}

impl Workshop {
    /// Signs the plan and puts it in force.
    ///
    /// # Errors
    /// When a key or a component's file is missing, or a file cannot be written. What was published before is
    /// whole then, and publishing again mends what was begun.
    pub async fn publish(&self, lifetimes: Lifetimes, now: Timestamp) -> Result<Published, WorkshopError> {
        let mut plan = self.plan()?;
        for (name, release) in &plan.components {
            self.check_target(name, release)?;
        }
        self.plan_deltas(&mut plan);
        // Noted before anything is written: a number that a reader may have seen is never used again.
        let mut numbers = self.numbers()?;
        let next = |number: u64| number.checked_add(1).ok_or(WorkshopError::Numbers);
        numbers.targets = next(numbers.targets)?;
        numbers.snapshot = next(numbers.snapshot)?;
        numbers.timestamp = next(numbers.timestamp)?;
        self.write_numbers(&numbers)?;
        let root_file = self.root_file(numbers.root);
        let root_bytes = files::read(&root_file)?;
        let version = |number| NonZeroU64::new(number).ok_or(WorkshopError::Numbers);
        let mut editor = RepositoryEditor::new(&root_file).await.map_err(signing)?;
        editor.targets_version(version(numbers.targets)?).map_err(signing)?;
        editor.targets_expires(date(now, lifetimes.targets)?).map_err(signing)?;
        editor.snapshot_version(version(numbers.snapshot)?);
        editor.snapshot_expires(date(now, lifetimes.snapshot)?);
        editor.timestamp_version(version(numbers.timestamp)?);
        editor.timestamp_expires(date(now, lifetimes.timestamp)?);
        for (name, release) in &plan.components {
            let target = TargetName::new(name.as_ref()).map_err(signing)?;
            editor.add_target(target, describe(release)).map_err(signing)?;
        }
        for (name, delta) in &plan.deltas {
            let target = TargetName::new(delta.target(name)).map_err(signing)?;
            editor
                .add_target(target, described(delta.sha256, delta.bytes, HashMap::new()))
                .map_err(signing)?;
        }
        let mut keys: Vec<Box<dyn KeySource>> = Vec::new();
        for role in [Role::Targets, Role::Snapshot, Role::Timestamp] {
            keys.push(Box::new(self.key(role, None)?));
        }
        let signed = editor.sign(&keys).await.map_err(signing)?;
        // Before what it makes count, and as late as can be: readers in between are told that it is unsigned.
        self.show_roots()?;
        self.show(&signed, &numbers).await?;
        let components = plan.components.clone().into_iter().collect();
        let published = plan.components.clone();
        self.write_plan(&super::Plan { is_changed: false, published, ..plan })?;
        numbers.published.insert(0, (numbers.targets, numbers.snapshot));
        numbers.published.truncate(2);
        self.write_numbers(&numbers)?;
        self.tidy(&numbers)?;
        let Numbers { root, targets, snapshot, timestamp, .. } = numbers;
        let root_sha256 = Digest::of(&root_bytes);
        Ok(Published { root, targets, snapshot, timestamp, root_sha256, components })
    }

    /// Plans what leads from the lists that were published last to those that are published now. A delta that
    /// is no shorter than its list, or cannot be made, is not made: the list is fetched whole.
    fn plan_deltas(&self, plan: &mut super::Plan) {
        let leads = |name: &Name, delta: &mut super::Delta| {
            let is_there = fs::metadata(self.delta_file(name, delta)).is_ok_and(|it| it.len() == delta.bytes);
            is_there && plan.components.get(name).is_some_and(|release| release.sha256 == delta.to)
        };
        plan.deltas.retain(leads);
        for (name, release) in plan.components.iter().filter(|(name, _)| !name.kinds().is_empty()) {
            let Some(before) = plan.published.get(name).filter(|before| before.sha256 != release.sha256)
            else {
                continue;
            };
            let beside = self.repository.join("targets").join(format!(".{name}.delta"));
            match self.make_delta(name, (before, release), &beside) {
                Ok(Some(delta)) => drop(plan.deltas.insert(name.clone(), delta)),
                Ok(None) => {}
                Err(why) => warn!(component = %name, why, "no delta is published, only the whole list"),
            }
            let _ = fs::remove_file(&beside);
        }
    }

    fn make_delta(
        &self,
        name: &Name,
        (before, release): (&Release, &Release),
        beside: &Path,
    ) -> Result<Option<super::Delta>, String> {
        let (base, new) = (self.target(name, before.sha256), self.target(name, release.sha256));
        let made = delta::between(&base, &new, beside).map_err(|error| error.to_string())?;
        let Some(bytes) = made else { return Ok(None) };
        let sha256 = digest::of_file(beside).map_err(|error| error.to_string())?;
        let delta = super::Delta { from: before.sha256, to: release.sha256, sha256, bytes };
        files::rename(beside, &self.delta_file(name, &delta)).map_err(|error| error.to_string())?;
        Ok(Some(delta))
    }

    fn delta_file(&self, name: &Name, delta: &super::Delta) -> PathBuf {
        self.repository.join("targets").join(format!("{}.{}", delta.sha256, delta.target(name)))
    }

    /// Writes what was signed to where the web server shows it.
    async fn show(&self, signed: &SignedRepository, numbers: &Numbers) -> Result<(), WorkshopError> {
        let drafts = self.keys.join("signed");
        let _ = fs::remove_dir_all(&drafts);
        files::private_folder(&drafts)?;
        signed.write(&drafts).await.map_err(signing)?;
        let names = [
            format!("{}.targets.json", numbers.targets),
            format!("{}.snapshot.json", numbers.snapshot),
            "timestamp.json".to_owned(),
        ];
        for name in names {
            files::write_public(&self.metadata(&name), &files::read(&drafts.join(&name))?)?;
            checkpoint!("repository_written");
        }
        let _ = fs::remove_dir_all(&drafts);
        Ok(())
    }

    /// Whether a component's file is there, as it was planned.
    pub(super) fn check_target(&self, name: &Name, release: &Release) -> Result<(), WorkshopError> {
        let file = self.target(name, release.sha256);
        match fs::metadata(&file) {
            Ok(found) if found.is_file() && found.len() == release.bytes => Ok(()),
            _ => Err(WorkshopError::Component(format!(
                "{}: it is not there as it was planned; once more: writ-control-manager repo add --component {name}",
                file.display()
            ))),
        }
    }

    /// Replaces keys, by a new root that the old and the new key of the root sign. With no roles the keys
    /// stay and the root only lives longer. What the replaced keys signed is signed anew.
    ///
    /// # Errors
    /// When a key is missing or a file cannot be written. Either the old root is in force then, or the new
    /// one is and publishing finishes the rest.
    pub async fn rotate(
        &self,
        roles: &[Role],
        passphrase: &Passphrase,
        root_lifetime: Duration,
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<Published, WorkshopError> {
        // Before anything is replaced: what is signed anew is signed at once after it.
        check_lifetimes(&lifetimes, root_lifetime, now)?;
        let version = self.numbers()?.root.checked_add(1).and_then(NonZeroU64::new);
        let version = version.ok_or(WorkshopError::Numbers)?;
        let rotation = Rotation { version: version.get(), roles: roles.to_vec() };
        let bytes = serde_json::to_vec(&rotation).map_err(signing)?;
        files::write_secret(&self.keys.join("rotation.json"), &bytes)?;
        self.sign_root(Some((version, roles)), passphrase, root_lifetime, now).await?;
        checkpoint!("repository_root_signed");
        self.finish_rotation()?;
        self.publish(lifetimes, now).await
    }

    /// Finishes what a crash left of a rotation: the new keys count if the root that names them is signed.
    pub(super) fn finish_rotation(&self) -> Result<(), WorkshopError> {
        let path = self.keys.join("rotation.json");
        let bytes = match files::read(&path) {
            Err(error) if error.is_missing() => return Ok(()),
            read => read?,
        };
        let rotation: Rotation = serde_json::from_slice(&bytes)
            .map_err(|error| WorkshopError::Metadata { path: path.clone(), why: error.to_string() })?;
        let is_signed = self.root_file(rotation.version).exists();
        if is_signed {
            let numbers = self.numbers()?;
            self.write_numbers(&Numbers { root: rotation.version, ..numbers })?;
        }
        for role in rotation.roles {
            if is_signed { self.take_next(role)? } else { self.drop_next(role)? }
        }
        fs::remove_file(&path).map_err(WorkshopError::io(&path))
    }

    /// Signs a root: the first, or the next with new keys for these roles.
    pub(super) async fn sign_root(
        &self,
        next: Option<(NonZeroU64, &[Role])>,
        passphrase: &Passphrase,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<(), WorkshopError> {
        let (version, replaced) = next.unwrap_or((NonZeroU64::MIN, &[]));
        let mut root = Root {
            spec_version: SPEC_VERSION.to_owned(),
            consistent_snapshot: true,
            version,
            expires: date(now, lifetime)?,
            keys: HashMap::new(),
            roles: HashMap::new(),
            _extra: HashMap::new(),
        };
        let old = self.key(Role::Root, Some(passphrase))?;
        let mut new_root_key = None;
        for role in Role::ALL {
            let key = match (replaced.contains(&role), role) {
                (true, _) => self.next_key(role, Some(passphrase))?,
                (false, Role::Root) => self.key(role, Some(passphrase))?,
                (false, _) => self.key(role, None)?,
            };
            let public = key.public().map_err(WorkshopError::Sign)?;
            let id = public.key_id().map_err(signing)?;
            root.keys.insert(id.clone(), public);
            let keys = RoleKeys { keyids: vec![id], threshold: NonZeroU64::MIN, _extra: HashMap::new() };
            root.roles.insert(role.tuf(), keys);
            if role == Role::Root {
                new_root_key = Some(key);
            }
        }
        let mut signed = sign_by(&root, KeyHolder::Root(root.clone()), new_root_key).await?;
        if let Some((version, _)) = next {
            let before = self.root(version.get() - 1)?;
            let by_old = sign_by(&root, KeyHolder::Root(before), Some(old)).await?;
            signed = signed.add_old_signatures(by_old.signed().signatures.clone()).map_err(signing)?;
        }
        let file = self.root_file(version.get());
        files::private_folder(&self.keys.join("roots"))?;
        Ok(files::write_secret(&file, signed.buffer())?)
    }

    /// Where a signed root is kept, with the keys: without it nobody who pinned an older one gets to a newer.
    pub(super) fn root_file(&self, version: u64) -> PathBuf {
        self.keys.join("roots").join(format!("{version}.root.json"))
    }

    /// Publishes the signed roots that are not there, or not as they were signed.
    fn show_roots(&self) -> Result<(), WorkshopError> {
        for path in files::list(&self.keys.join("roots"))? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let (bytes, to) = (files::read(&path)?, self.metadata(name));
            if name.ends_with(".root.json") && fs::read(&to).ok().as_ref() != Some(&bytes) {
                files::write_public(&to, &bytes)?;
            }
        }
        Ok(())
    }

    /// A root that was signed.
    pub(super) fn root(&self, version: u64) -> Result<Root, WorkshopError> {
        let path = self.root_file(version);
        let bytes = files::read(&path)?;
        let root: Signed<Root> = serde_json::from_slice(&bytes)
            .map_err(|error| WorkshopError::Metadata { path, why: error.to_string() })?;
        Ok(root.signed)
    }

    pub(super) fn numbers(&self) -> Result<Numbers, WorkshopError> {
        let path = self.keys.join("numbers.json");
        let bytes = files::read(&path)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| WorkshopError::Metadata { path, why: format!("it is damaged: {error}") })
    }

    pub(super) fn write_numbers(&self, numbers: &Numbers) -> Result<(), WorkshopError> {
        let bytes = serde_json::to_vec_pretty(numbers).map_err(signing)?;
        Ok(files::write_secret(&self.keys.join("numbers.json"), &bytes)?)
    }

    /// Removes what neither this nor the last publication names: whoever reads still finds what they read of.
    fn tidy(&self, numbers: &Numbers) -> Result<(), WorkshopError> {
        let mut named = HashSet::new();
        for (targets, snapshot) in &numbers.published {
            let file = format!("{targets}.targets.json");
            let path = self.metadata(&file);
            // The folder may have been put back from a copy without it.
            if let Ok(bytes) = files::read(&path) {
                let listed: Signed<tough::schema::Targets> = serde_json::from_slice(&bytes)
                    .map_err(|error| WorkshopError::Metadata { path, why: error.to_string() })?;
                named.extend(listed.signed.targets.into_iter().map(|(name, target)| {
                    format!("{}.{}", hex::encode(&target.hashes.sha256[..]), name.raw())
                }));
            }
            named.extend([file, format!("{snapshot}.snapshot.json")]);
        }
        let forget = |folder: &str, is_ours: fn(&str) -> bool| -> Result<(), WorkshopError> {
            for path in files::list(&self.repository.join(folder))? {
                let name = path.file_name().and_then(|name| name.to_str());
                if name.is_some_and(|name| is_ours(name) && !named.contains(name)) {
                    let _ = fs::remove_file(path);
                }
            }
            Ok(())
        };
        forget("metadata", |name| name.ends_with(".targets.json") || name.ends_with(".snapshot.json"))?;
        forget("targets", |_| true)?;
        Ok(())
    }
}

async fn sign_by(
    root: &Root,
    by: KeyHolder,
    key: Option<SecretKey>,
) -> Result<SignedRole<Root>, WorkshopError> {
    let mut keys: Vec<Box<dyn KeySource>> = Vec::new();
    if let Some(key) = key {
        keys.push(Box::new(key));
    }
    SignedRole::new(root.clone(), &by, &keys, &SystemRandom::new()).await.map_err(signing)
}

fn describe(release: &Release) -> Target {
    let version = serde_json::Value::from(release.version.as_ref());
    described(release.sha256, release.bytes, HashMap::from([("version".to_owned(), version)]))
}

fn described(sha256: Digest, length: u64, custom: HashMap<String, serde_json::Value>) -> Target {
    let hashes = Hashes { sha256: sha256.as_bytes().to_vec().into(), _extra: HashMap::new() };
    Target { length, hashes, custom, _extra: HashMap::new() }
}

/// Whether what is signed can count so long.
pub(super) fn check_lifetimes(
    lifetimes: &Lifetimes,
    root: Duration,
    now: Timestamp,
) -> Result<(), WorkshopError> {
    let Lifetimes { timestamp, snapshot, targets } = *lifetimes;
    [root, timestamp, snapshot, targets].into_iter().try_for_each(|lifetime| date(now, lifetime).map(|_| ()))
}

fn date(now: Timestamp, lifetime: Duration) -> Result<Date, WorkshopError> {
    if !(HOUR..=TEN_YEARS).contains(&lifetime) {
        return Err(WorkshopError::Lifetime);
    }
    let end = (now + lifetime).as_millis() / 1000;
    let end = i64::try_from(end).ok().and_then(|second| Date::from_second(second).ok());
    end.ok_or(WorkshopError::Lifetime)
}

fn signing(error: impl std::fmt::Display) -> WorkshopError {
    WorkshopError::Sign(error.to_string())
}

/// Copies a file that others may read, and says what its digest is; the copy is on the disk when this
/// returns. `told` hears how many bytes are copied.
pub(super) fn copy(from: &Path, to: &Path, told: &mut dyn FnMut(u64)) -> Result<Digest, WorkshopError> {
    let mut source = File::open(from).map_err(WorkshopError::io(from))?;
    // Whatever has the name is of a try that ended; a link would lead elsewhere.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(WorkshopError::io(to)(error)),
        Ok(()) | Err(_) => {}
    }
    let mut out = File::create_new(to).map_err(WorkshopError::io(to))?;
    out.set_permissions(Permissions::from_mode(0o644)).map_err(WorkshopError::io(to))?;
    let (mut buffer, mut hasher, mut done) = (vec![0; CHUNK], Hasher::new(), 0_u64);
    loop {
        let read = source.read(&mut buffer).map_err(WorkshopError::io(from))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(WorkshopError::io(to))?;
        done += u64::try_from(read).unwrap_or(u64::MAX);
        if done > MAX_COMPONENT_BYTES {
            let text = format!("{}: it grew while it was read, beyond what is taken", from.display());
            return Err(WorkshopError::Component(text));
        }
        told(done);
    }
    out.sync_all().map_err(WorkshopError::io(to))?;
    Ok(hasher.finish())
}
