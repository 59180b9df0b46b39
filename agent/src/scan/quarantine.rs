//! Files that were moved away: sealed, with all that is needed to put them back.
//!
//! `quarantine/ID.sealed` is a file's content, `ID.json` what is noted of it. A file is sealed and noted
//! before its name is taken from its folder; then the name is first changed, and only if it is still the file
//! that was sealed is it removed. So whenever the agent is killed, the file is where it was or here.

mod sealed;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use ring::aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{AtFlags, RenameFlags, Stat};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use writ_common::checkpoint;
use writ_common::files::{self, FileError};
use writ_protocol::id::{CommandId, Digest};

use super::hash::Limit;
use super::place::{Place, is_rewritten, length};
use crate::components::check_room;
use sealed::{access_list, digest, put_back, seal};

/// Bytes of content that all files in quarantine have together.
const MAX_BYTES: u64 = 4 << 30;
/// Files in quarantine.
const MAX_FILES: usize = 10_000;

/// Where a file in quarantine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is sealed, and its name is being taken from its folder.
    Removing,
    /// It is here alone.
    Kept,
    /// It is being written back, under the hidden name at first.
    Restoring,
}

/// What is noted of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    state: State,
    /// The path in hexadecimal digits: it may be no UTF-8.
    path: String,
    /// The path for people.
    shown: String,
    /// What it is called while it is being removed.
    hidden: String,
    device: u64,
    inode: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds and nanoseconds of the last access and the last change.
    accessed: (i64, i64),
    modified: (i64, i64),
    bytes: u64,
    sha256: String,
    /// Its access list, as the kernel keeps it, in hexadecimal digits; empty: it had none.
    access: String,
    /// Whose folder it was in.
    folder_uid: u32,
    /// The command that had it moved away.
    command: String,
    /// What it is sealed with. It keeps nothing secret: it keeps the content from being run, or found by
    /// those who look for it.
    key: String,
    /// When, in milliseconds since 1970.
    at_ms: u64,
}

impl Note {
    fn path(&self) -> Result<PathBuf, String> {
        let bytes = hex::decode(&self.path).map_err(|_| "its path is damaged".to_owned())?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }

    fn key(&self) -> Result<LessSafeKey, String> {
        let damaged = || "its key is damaged".to_owned();
        let bytes = hex::decode(&self.key).map_err(|_| damaged())?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| damaged())?;
        Ok(LessSafeKey::new(key))
    }

    fn is_of(&self, stat: &Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }

    /// Whether it has the length and the time of the file that was sealed. An inode alone may be used again,
    /// and what was written after the sealing is nowhere else.
    fn is_unchanged(&self, stat: &Stat) -> bool {
        let modified = (stat.st_mtime, nanos(stat.st_mtime_nsec));
        (self.bytes, self.modified) == (length(stat), modified)
    }
}

/// The id of a note and what it says, or what is wrong with it.
type Noted = (String, Result<Note, String>);

/// A file in quarantine, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Kept {
    /// Where it was, for people.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Quarantine {
    folder: PathBuf,
    /// One change at a time.
    alone: Mutex<()>,
}

/// Why a file was not moved away; it is where it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMoved {
    /// Another file has its name now.
    #[error("it was exchanged meanwhile")]
    Exchanged,
    /// Its content is another by now.
    #[error("it changed meanwhile")]
    Changed,
    /// Something does not work.
    #[error("{0}")]
    Failed(String),
}

impl From<FileError> for NotMoved {
    fn from(error: FileError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Quarantine {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), alone: Mutex::default() }
    }

    /// What is in it, and what is wrong with the rest.
    pub(crate) fn kept(&self) -> (Vec<Kept>, Vec<String>) {
        let (mut kept, mut damaged) = (Vec::new(), Vec::new());
        let notes = self.notes().unwrap_or_else(|error| {
            damaged.push(error.to_string());
            Vec::new()
        });
        for (_, note) in notes {
            match note {
                Ok(note) => kept.push(Kept {
                    path: note.shown,
                    sha256: note.sha256,
                    bytes: note.bytes,
                    since_ms: note.at_ms,
                }),
                Err(why) => damaged.push(why),
            }
        }
        kept.sort_by(|one, next| (one.since_ms, &one.path).cmp(&(next.since_ms, &next.path)));
        (kept, damaged)
    }

    /// Files that a command had moved away already: where they were, and their SHA-256.
    pub(super) fn taken_by(&self, command: CommandId) -> Vec<(String, Digest)> {
        let notes = self.notes().unwrap_or_default().into_iter().filter_map(|(_, note)| note.ok());
        let of_it = notes.filter(|note| note.command == command.to_string());
        of_it.filter_map(|note| Some((note.shown, note.sha256.parse().ok()?))).collect()
    }

    /// Ends what was begun when the agent was killed.
    pub(crate) fn recover(&self) {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        // A folder that cannot be listed is none that is empty.
        let (notes, files) = match self.notes().and_then(|notes| Ok((notes, files::list(&self.folder)?))) {
            Ok(found) => found,
            Err(error) if error.is_missing() => return,
            Err(error) => return warn!(%error, "the quarantine cannot be read"),
        };
        for (id, note) in &notes {
            if let Ok(note) = note {
                self.settle(id, note);
            }
        }
        // Sealed without a note: the file never left its place.
        for path in files {
            let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_sealed = path.extension().is_some_and(|end| end == "sealed");
            if is_sealed && !notes.iter().any(|(noted, _)| noted == id) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Ends what was begun with one file; as it is noted then, if it is here still.
    fn settle(&self, id: &str, note: &Note) -> Option<Note> {
        let settled = match note.state {
            State::Kept => return Some(note.clone()),
            State::Removing => self.settle_removed(id, note),
            State::Restoring => self.settle_restored(id, note),
        };
        match settled {
            Ok(said) => info!(path = note.shown, said, "a quarantine that was cut short"),
            Err(why) => warn!(path = note.shown, why, "a quarantine that was cut short could not be ended"),
        }
        let left = files::read(&self.folder.join(format!("{id}.json"))).ok()?;
        serde_json::from_slice(&left).ok()
    }

    fn settle_removed(&self, id: &str, note: &Note) -> Result<&'static str, String> {
        let place = match Place::of(&note.path()?) {
            Ok(place) => place,
            // With its folder all names of it are gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.settle_kept(id, note),
            Err(error) => return Err(error.to_string()),
        };
        let hidden = Place { folder: place.folder, name: note.hidden.clone().into() };
        match hidden.stat() {
            Ok(stat) if note.is_of(&stat) && note.is_unchanged(&stat) => {
                rustix::fs::unlinkat(&hidden.folder, &hidden.name, AtFlags::empty())
                    .map_err(|error| error.to_string())?;
                self.settle_kept(id, note)
            }
            // Another file was taken for it, or it was written to: it gets its name back.
            Ok(_) => {
                let name = note.path()?.file_name().unwrap_or_default().to_owned();
                let (folder, flags) = (&hidden.folder, RenameFlags::NOREPLACE);
                rustix::fs::renameat_with(folder, &hidden.name, folder, &name, flags)
                    .map_err(|error| error.to_string())?;
                self.forget(id).map(|()| "it had changed meanwhile; it is left alone")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let still = Place::of(&note.path()?).and_then(|place| place.stat());
                match still {
                    Ok(stat) if note.is_of(&stat) && note.is_unchanged(&stat) => {
                        self.forget(id).map(|()| "the file is where it was")
                    }
                    _ => self.settle_kept(id, note),
                }
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn settle_kept(&self, id: &str, note: &Note) -> Result<&'static str, String> {
        self.note(id, &Note { state: State::Kept, ..note.clone() }).map_err(|error| error.to_string())?;
        Ok("the file is in quarantine")
    }

    /// What was being written back has its name, or is here still.
    fn settle_restored(&self, id: &str, note: &Note) -> Result<&'static str, String> {
        let place = match Place::of(&note.path()?) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.settle_kept(id, note),
            Err(error) => return Err(error.to_string()),
        };
        match rustix::fs::unlinkat(&place.folder, &note.hidden, AtFlags::empty()) {
            // It had not its name yet.
            Ok(()) => return self.settle_kept(id, note),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.to_string()),
        }
        if place.open().is_ok_and(|(mut file, stat)| {
            let limit = Limit { bytes: note.bytes, goes_on: &|| true };
            note.is_unchanged(&stat)
                && digest(&mut file, limit).is_ok_and(|found| found.to_string() == note.sha256)
        }) {
            return self.forget(id).map(|()| "the file is back");
        }
        self.settle_kept(id, note)
    }

    /// Moves a file away, if its content stays what it is; `file` is open, and of it alone is read. Says
    /// whether a name of it is left that nobody knows of.
    pub(super) fn take(
        &self,
        (path, place): (&Path, &Place),
        (file, stat, limit): (&mut File, &Stat, Limit<'_>),
        is_expected: impl Fn(&mut File) -> io::Result<bool>,
        (command, at_ms): (CommandId, u64),
    ) -> Result<Digest, NotMoved> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: io::Error| NotMoved::Failed(error.to_string());
        files::private_folder(&self.folder)?;
        let bytes = length(stat);
        self.check_bounds(bytes).map_err(NotMoved::Failed)?;
        let (id, key) = (hex::encode(random::<16>()?), random::<32>()?);
        let sealed = self.folder.join(format!("{id}.sealed"));
        let done = seal(file, limit, &sealed, &key).map_err(failed).and_then(|(sha256, found)| {
            let now = rustix::fs::fstat(&*file).map_err(|error| failed(error.into()))?;
            if found != bytes || is_rewritten(stat, &now) || !is_expected(file).map_err(failed)? {
                return Err(NotMoved::Changed);
            }
            Ok(sha256)
        });
        let access = done.and_then(|sha256| Ok((sha256, access_list(file).map_err(failed)?)));
        let (sha256, access) = match access {
            Ok(done) => done,
            Err(error) => {
                let _ = fs::remove_file(&sealed);
                return Err(error);
            }
        };
        checkpoint!("quarantine_sealed");
        let folder = rustix::fs::fstat(&place.folder).map_err(|error| failed(error.into()));
        let note = folder.map(|folder| Note {
            state: State::Removing,
            path: hex::encode(path.as_os_str().as_bytes()),
            shown: super::shown(path),
            hidden: format!(".writ-{id}"),
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            accessed: (stat.st_atime, nanos(stat.st_atime_nsec)),
            modified: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            bytes,
            sha256: sha256.to_string(),
            access: hex::encode(access),
            folder_uid: folder.st_uid,
            command: command.to_string(),
            key: hex::encode(key),
            at_ms,
        });
        let noted = note.and_then(|note| self.note(&id, &note).map(|()| note).map_err(NotMoved::from));
        let note = match noted {
            Ok(note) => note,
            Err(error) => {
                let _ = self.forget(&id);
                return Err(error);
            }
        };
        checkpoint!("quarantine_noted");
        if let Err(error) = remove(place, &note) {
            self.forget(&id).map_err(NotMoved::Failed)?;
            return Err(error);
        }
        checkpoint!("quarantine_removed");
        // If this fails the next start does it, or whoever asks for the file.
        if let Err(error) = self.note(&id, &Note { state: State::Kept, ..note }) {
            warn!(%error, "that a file is in quarantine could not be noted");
        }
        Ok(sha256)
    }

    fn check_bounds(&self, bytes: u64) -> Result<(), String> {
        let (kept, _) = self.kept();
        let held: u64 = kept.iter().map(|kept| kept.bytes).sum();
        if kept.len() >= MAX_FILES || held.saturating_add(bytes) > MAX_BYTES {
            return Err(format!(
                "the quarantine is full: it holds {} files of {held} bytes, and takes {MAX_FILES} of {MAX_BYTES}; restore or delete some",
                kept.len()
            ));
        }
        check_room(&self.folder, bytes)
    }

    /// Puts every file of this content back where it was; how many, and what kept the others.
    pub(crate) fn restore(&self, sha256: Digest) -> (Vec<String>, Vec<String>) {
        self.each(sha256, |id, note| {
            let hidden = hex::encode(random::<16>().map_err(|error| error.to_string())?);
            let note = Note { state: State::Restoring, hidden: format!(".writ-{hidden}"), ..note.clone() };
            let noted = |note: &Note| self.note(id, note).map_err(|error| error.to_string());
            noted(&note)?;
            if let Err(why) = put_back(&self.folder.join(format!("{id}.sealed")), &note) {
                noted(&Note { state: State::Kept, ..note })?;
                return Err(why);
            }
            checkpoint!("restore_placed");
            self.forget(id)
        })
    }

    /// Removes every file of this content for ever; which, and what kept the others.
    pub(crate) fn delete(&self, sha256: Digest) -> (Vec<String>, Vec<String>) {
        self.each(sha256, |id, _| self.forget(id))
    }

    fn each(
        &self,
        sha256: Digest,
        act: impl Fn(&str, &Note) -> Result<(), String>,
    ) -> (Vec<String>, Vec<String>) {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        let notes = match self.notes() {
            Ok(notes) => notes,
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return (done, vec![error.to_string()]),
        };
        let of_it = notes.into_iter().filter_map(|(id, note)| Some((id, note.ok()?)));
        for (id, note) in of_it.filter(|(_, note)| note.sha256 == sha256.to_string()) {
            let Some(note) = self.settle(&id, &note) else { continue };
            let acted = match note.state {
                State::Kept => act(&id, &note),
                State::Removing | State::Restoring => {
                    Err("it was cut short, and cannot be ended now; see the agent's log".to_owned())
                }
            };
            match acted {
                Ok(()) => done.push(note.shown),
                Err(why) => failed.push(format!("{}: {why}", note.shown)),
            }
        }
        (done, failed)
    }

    fn notes(&self) -> Result<Vec<Noted>, FileError> {
        let mut notes = Vec::new();
        for path in files::list(&self.folder)? {
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            let read = files::read(&path).map_err(|error| error.to_string());
            let note = read.and_then(|text| {
                serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
            });
            notes.push((id, note));
        }
        Ok(notes)
    }

    fn note(&self, id: &str, note: &Note) -> Result<(), FileError> {
        let text = serde_json::to_vec(note).unwrap_or_default();
        files::write_secret(&self.folder.join(format!("{id}.json")), &text)
    }

    /// The note first: what is sealed without one is removed by the next start.
    fn forget(&self, id: &str) -> Result<(), String> {
        for end in ["json", "sealed"] {
            let path = self.folder.join(format!("{id}.{end}"));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("{}: {error}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn nanos(nanos: impl TryInto<i64>) -> i64 {
    nanos.try_into().unwrap_or(0)
}

fn random<const N: usize>() -> Result<[u8; N], NotMoved> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| NotMoved::Failed("the operating system has no random bytes".to_owned()))?;
    Ok(bytes)
}

/// Takes the name of a file from its folder. It is changed before it is removed: only then is it certain
/// which file it leads to.
fn remove(place: &Place, note: &Note) -> Result<(), NotMoved> {
    let (folder, hidden, flags) = (&place.folder, &note.hidden, RenameFlags::NOREPLACE);
    let failed = |error: rustix::io::Errno| {
        NotMoved::Failed(format!("its name cannot be taken from its folder: {}", io::Error::from(error)))
    };
    rustix::fs::renameat_with(folder, &place.name, folder, hidden, flags).map_err(failed)?;
    checkpoint!("quarantine_hidden");
    let found = rustix::fs::statat(folder, hidden, AtFlags::SYMLINK_NOFOLLOW);
    if !found.is_ok_and(|found| note.is_of(&found) && note.is_unchanged(&found)) {
        // Nothing is put on top of what may have come there meanwhile.
        let back = rustix::fs::renameat_with(folder, hidden, folder, &place.name, flags);
        return Err(match back {
            Ok(()) => NotMoved::Exchanged,
            Err(_) => NotMoved::Failed(format!("it was exchanged meanwhile, twice; one is {hidden} now")),
        });
    }
    rustix::fs::unlinkat(folder, hidden, AtFlags::empty()).map_err(|error| {
        let _ = rustix::fs::renameat_with(folder, hidden, folder, &place.name, flags);
        failed(error)
    })?;
    // It is gone from here, whether the disk knows it yet or not.
    if let Err(error) = place.sync() {
        warn!(%error, "a folder could not be synced");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
