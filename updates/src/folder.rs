//! What is kept of updates, in one folder of its user:
//!
//! * `active.json`: which version of each component is in force. It alone decides; it is replaced whole.
//! * `components/NAME/SHA256`: the files it names.
//! * `incoming`: what a run has fetched so far. Nobody uses it, and the next run empties it.
//! * `trust/SHA256-OF-PINNED-ROOT`: the newest metadata that was seen from a repository.
//! * `last-run.json`: how the last run ended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use writ_common::files::{self, FileError};
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

use crate::digest;
use crate::reason::{Reason, UpdateError};
use crate::trusted::Trusted;
use crate::{Name, Release, Version};

/// Which version of each component is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf(pub BTreeMap<Name, Held>);

/// One state of what is in force: whenever it is replaced, there is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShelfState((u64, i64, i64));

/// What is held of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What is in force.
    pub active: Release,
    /// When it came into force, in milliseconds since 1970.
    pub since_ms: u64,
    /// What was in force before it, for a way back.
    pub earlier: Option<Release>,
    /// Somebody went back: no run replaces it until it is released.
    pub is_held: bool,
}

/// A run that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// Where from: `default`, `manager` or an address.
    pub source: String,
    /// SHA-256 over all that the source is: another root is another source.
    #[serde(default)]
    pub source_digest: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// These came into force.
    Updated(Vec<Name>),
    /// Nothing was newer.
    Current,
    /// It has begun. If nothing runs, it was killed, or took the program with it.
    UnderWay,
    /// Whoever ran it was asked to end.
    Stopped,
    /// What was in force before is in force still.
    Failed {
        /// Its stable code.
        code: String,
        /// In words.
        reason: String,
    },
}

/// That nobody else runs, or changes what is in force, until this is dropped.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "the lock ends when its file is closed")] File);

/// The folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at this path, which is made when something is written.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes it for one run or change; two at a time would remove each other's files.
    ///
    /// # Errors
    /// When another process or task has it.
    pub fn lock(&self) -> Result<Alone, UpdateError> {
        files::private_folder(&self.0).map_err(UpdateError::file)?;
        files::lock_folder(&self.0).map(Alone).map_err(|error| match error {
            FileError::InUse { .. } => UpdateError::new(
                Reason::Busy,
                "another update or change of it is under way: wait for its end",
            ),
            other => UpdateError::file(other),
        })
    }

    /// Takes what is in force for one change of it, however many want to: each holds it for a moment. A run
    /// needs it at its end alone, so that somebody can go back while one is under way.
    pub(crate) fn lock_shelf(&self) -> Result<Alone, UpdateError> {
        let folder = self.0.join("components");
        for folder in [&self.0, &folder] {
            files::private_folder(folder).map_err(UpdateError::file)?;
        }
        files::wait_for_folder(&folder).map(Alone).map_err(UpdateError::file)
    }

    /// What is in force.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn shelf(&self) -> Result<Shelf, UpdateError> {
        Ok(self.read_json("active.json")?.unwrap_or_default())
    }

    /// Which state of it this is, without reading it; `None`: there is none.
    #[must_use]
    pub fn shelf_state(&self) -> Option<ShelfState> {
        let found = fs::metadata(self.0.join("active.json")).ok()?;
        Some(ShelfState((found.ino(), found.mtime(), found.mtime_nsec())))
    }

    /// The file of a component that is in force.
    ///
    /// # Errors
    /// When it cannot be known.
    pub fn active(&self, name: &Name) -> Result<Option<(Release, PathBuf)>, UpdateError> {
        let held = self.shelf()?.0.remove(name);
        Ok(held.map(|held| (held.active.clone(), self.file(name, &held.active))))
    }

    /// Opens a file by its digest, if it is in force or was before, under a name that is asked for.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(
        &self,
        sha256: Digest,
        is_wanted: impl Fn(&Name) -> bool,
    ) -> Result<Option<File>, UpdateError> {
        for (name, held) in self.shelf()?.0.iter().filter(|(name, _)| is_wanted(name)) {
            for release in [Some(&held.active), held.earlier.as_ref()].into_iter().flatten() {
                if release.sha256 == sha256 {
                    let path = self.file(name, release);
                    let opened = File::open(&path).map_err(|source| UpdateError::io(&path, source));
                    return opened.map(Some);
                }
            }
        }
        Ok(None)
    }

    /// How the last run ended, if there was one. A note that is damaged is none: nothing rests on it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last_run(&self) -> Result<Option<LastRun>, UpdateError> {
        match self.read_json("last-run.json") {
            Err(error) if error.reason == Reason::Damaged => Ok(None),
            read => read,
        }
    }

    /// Notes how a run ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_run(&self, run: &LastRun) -> Result<(), UpdateError> {
        self.write_json("last-run.json", run)
    }

    /// Brings a component into force that this server made; whether it is another than before.
    ///
    /// # Errors
    /// When it cannot be written; what was in force before is in force still.
    pub fn place(
        &self,
        name: &Name,
        version: Version,
        content: &[u8],
        now: Timestamp,
    ) -> Result<bool, UpdateError> {
        let bytes = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let release = Release { version, sha256: Digest::of(content), bytes };
        let file = self.file(name, &release);
        let is_here = |shelf: &Shelf| {
            let active = shelf.0.get(name).map(|held| &held.active);
            active.is_some_and(|active| active.sha256 == release.sha256)
                && digest::of_file(&file).is_ok_and(|found| found == release.sha256)
        };
        if is_here(&self.shelf()?) {
            return Ok(false);
        }
        let _lock = self.lock_shelf()?;
        files::private_folder(&self.0.join("components").join(name.as_ref())).map_err(UpdateError::file)?;
        files::write_secret(&file, content).map_err(UpdateError::file)?;
        let mut shelf = self.shelf()?;
        let before = shelf.0.get(name).map(|held| held.active.clone());
        let earlier = before.filter(|before| before.sha256 != release.sha256);
        let held = Held { active: release, since_ms: now.as_millis(), earlier, is_held: false };
        shelf.0.insert(name.clone(), held);
        self.put(&shelf)?;
        Ok(true)
    }

    /// Goes back to the version before, and stays there.
    ///
    /// # Errors
    /// When there is none, or it cannot be written.
    pub fn roll_back(&self, name: &Name, now: Timestamp) -> Result<Held, UpdateError> {
        if name.is_made_here() {
            let text = format!("this server makes {name} itself: change what it is made of, by writ objects");
            return Err(UpdateError::new(Reason::NothingEarlier, text));
        }
        let _lock = self.lock_shelf()?;
        let mut shelf = self.shelf()?;
        let held = shelf.0.get_mut(name).ok_or_else(|| unknown(name))?;
        let earlier = held.earlier.take().ok_or_else(|| {
            let text = format!(
                "of {name} only version {} is here: there is none to go back to",
                held.active.version
            );
            UpdateError::new(Reason::NothingEarlier, text)
        })?;
        let file = self.file(name, &earlier);
        if !digest::of_file(&file).is_ok_and(|found| found == earlier.sha256) {
            let text = format!(
                "{}: it is not there, or damaged, so that nobody can go back to version {}; {} stays in force",
                file.display(),
                earlier.version,
                held.active.version
            );
            return Err(UpdateError::new(Reason::Damaged, text));
        }
        *held = Held { active: earlier, since_ms: now.as_millis(), earlier: None, is_held: true };
        let told = held.clone();
        self.put(&shelf)?;
        Ok(told)
    }

    /// Lets the next run replace what was gone back to.
    ///
    /// # Errors
    /// When it is not held, or it cannot be written.
    pub fn release(&self, name: &Name) -> Result<Held, UpdateError> {
        let _lock = self.lock_shelf()?;
        let mut shelf = self.shelf()?;
        let held = shelf.0.get_mut(name).ok_or_else(|| unknown(name))?;
        if !held.is_held {
            return Err(UpdateError::new(
                Reason::NotHeld,
                format!("{name} is not held: runs replace it already"),
            ));
        }
        held.is_held = false;
        let told = held.clone();
        self.put(&shelf)?;
        Ok(told)
    }

    /// The trust in a repository whose root was pinned.
    pub(crate) fn trusted(&self, pinned: &[u8]) -> Result<Trusted, UpdateError> {
        Trusted::open(&self.0.join("trust"), pinned)
    }

    /// Removes what a run that was stopped has fetched.
    pub fn forget_incoming(&self, _alone: &Alone) {
        let _ = fs::remove_dir_all(self.0.join("incoming"));
    }

    /// Puts what is in force, in one rename, and removes what is not named any more.
    pub(crate) fn put(&self, shelf: &Shelf) -> Result<(), UpdateError> {
        self.write_json("active.json", shelf)?;
        self.tidy(shelf);
        Ok(())
    }

    /// Where a version of a component is.
    pub(crate) fn file(&self, name: &Name, release: &Release) -> PathBuf {
        self.0.join("components").join(name.as_ref()).join(release.sha256.to_string())
    }

    /// Where a run puts what it fetches; emptied.
    pub(crate) fn incoming(&self) -> Result<PathBuf, UpdateError> {
        let incoming = self.0.join("incoming");
        let emptied = match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        emptied.map_err(|source| UpdateError::io(&incoming, source))?;
        files::private_folder(&incoming).map_err(UpdateError::file)?;
        Ok(incoming)
    }

    /// Removes files that nothing names. One that stays only takes room, and the next run tries again.
    fn tidy(&self, shelf: &Shelf) {
        for folder in files::list(&self.0.join("components")).unwrap_or_default() {
            let held = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
            let held = held.and_then(|name: Name| shelf.0.get(&name));
            let is_named = |path: &Path| {
                let named = held.into_iter().flat_map(|held| [Some(&held.active), held.earlier.as_ref()]);
                named.flatten().any(|release| path.ends_with(release.sha256.to_string()))
            };
            for path in files::list(&folder).unwrap_or_default() {
                if !is_named(&path) {
                    let _ = fs::remove_file(path);
                }
            }
        }
    }

    /// A document in the folder; `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, UpdateError> {
        let path = self.0.join(name);
        match files::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                let text = format!(
                    "{} is damaged ({error}): put it back from a copy; without one, remove it, and what it said is forgotten: of active.json what is held, of settings.json the source and its root",
                    path.display()
                );
                UpdateError::new(Reason::Damaged, text)
            }),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(UpdateError::file(error)),
        }
    }

    /// Puts a document in the folder, whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), UpdateError> {
        files::private_folder(&self.0).map_err(UpdateError::file)?;
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| UpdateError::new(Reason::Damaged, error.to_string()))?;
        files::write_secret(&self.0.join(name), &bytes).map_err(UpdateError::file)
    }
}

fn unknown(name: &Name) -> UpdateError {
    UpdateError::new(
        Reason::Unknown,
        format!("there is no component {name} here; see: writ-server updates status"),
    )
}
