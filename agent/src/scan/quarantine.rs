//! Files that were moved away: sealed, with all that is needed to put them back.
//!
//! `quarantine/ID.sealed` is a file's content, `ID.json` what is noted of it. A file is sealed and noted
//! before its name is taken from its folder; then the name is first changed, and only if it is still the file
//! that was sealed is it removed. So whenever the agent is killed, the file is where it was or here.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use writ_common::checkpoint;
use writ_common::files::{self, FileError};
use writ_protocol::id::Digest;

use super::place::Place;
use crate::components::check_room;

/// Bytes sealed at once; each gets a tag of 16.
const BLOCK: usize = 64 << 10;
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
}

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
        for (_, note) in self.notes() {
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

    /// Ends what was begun when the agent was killed.
    pub(crate) fn recover(&self) {
        let notes = self.notes();
        for (id, note) in &notes {
            let Ok(note) = note else { continue };
            let settled = match note.state {
                State::Kept => continue,
                State::Removing => self.settle(id, note),
                State::Restoring => self.settle_restored(id, note),
            };
            match settled {
                Ok(said) => info!(path = note.shown, said, "a quarantine that was cut short"),
                Err(why) => {
                    warn!(path = note.shown, why, "a quarantine that was cut short could not be ended")
                }
            }
        }
        // Sealed without a note: the file never left its place.
        for path in files::list(&self.folder).unwrap_or_default() {
            let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|end| end == "sealed")
                && !notes.iter().any(|(noted, _)| noted == id)
            {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn settle(&self, id: &str, note: &Note) -> Result<&'static str, String> {
        let place = Place::of(&note.path()?).map_err(|error| error.to_string())?;
        let hidden = Place { folder: place.folder, name: note.hidden.clone().into() };
        match hidden.stat() {
            Ok(stat) if note.is_of(&stat) => {
                rustix::fs::unlinkat(&hidden.folder, &hidden.name, AtFlags::empty())
                    .map_err(|error| error.to_string())?;
            }
            // Another file was taken for it: it gets its name back.
            Ok(_) => {
                let name = note.path()?.file_name().unwrap_or_default().to_owned();
                let (folder, flags) = (&hidden.folder, RenameFlags::NOREPLACE);
                rustix::fs::renameat_with(folder, &hidden.name, folder, &name, flags)
                    .map_err(|error| error.to_string())?;
                return self.forget(id).map(|()| "another file had taken its place; it is left alone");
            }
            Err(_) => {
                let still = Place::of(&note.path()?).and_then(|place| place.stat());
                if still.is_ok_and(|stat| note.is_of(&stat)) {
                    return self.forget(id).map(|()| "the file is where it was");
                }
            }
        }
        self.note(id, &Note { state: State::Kept, ..note.clone() }).map_err(|error| error.to_string())?;
        Ok("the file is in quarantine")
    }

    /// What was being written back is here still; what was written of it has no use.
    fn settle_restored(&self, id: &str, note: &Note) -> Result<&'static str, String> {
        let place = Place::of(&note.path()?).map_err(|error| error.to_string())?;
        match rustix::fs::unlinkat(&place.folder, &note.hidden, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.to_string()),
        }
        self.note(id, &Note { state: State::Kept, ..note.clone() }).map_err(|error| error.to_string())?;
        Ok("the file is in quarantine still")
    }

    /// Moves a file away whose content has this digest; `file` is open, and of it alone is read.
    pub(super) fn take(
        &self,
        (path, place): (&Path, &Place),
        (file, stat): (&mut File, &Stat),
        is_expected: impl Fn(&[u8; 32], &mut File) -> io::Result<bool>,
        at_ms: u64,
    ) -> Result<Digest, NotMoved> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: io::Error| NotMoved::Failed(error.to_string());
        files::private_folder(&self.folder)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        self.check_bounds(bytes).map_err(NotMoved::Failed)?;
        let id = random::<16>()?;
        let id = hex::encode(id);
        let key = random::<32>()?;
        let sealed = self.folder.join(format!("{id}.sealed"));
        let written = seal(file, &sealed, &key);
        let done = written.map_err(failed).and_then(|(sha256, sealed_bytes)| {
            if sealed_bytes != bytes || !is_expected(sha256.as_bytes(), file).map_err(failed)? {
                return Err(NotMoved::Changed);
            }
            Ok(sha256)
        });
        let sha256 = match done {
            Ok(sha256) => sha256,
            Err(error) => {
                let _ = fs::remove_file(&sealed);
                return Err(error);
            }
        };
        checkpoint!("quarantine_sealed");
        let note = Note {
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
            key: hex::encode(key),
            at_ms,
        };
        if let Err(error) = self.note(&id, &note) {
            let _ = fs::remove_file(&sealed);
            return Err(error.into());
        }
        checkpoint!("quarantine_noted");
        if let Err(error) = remove(place, &note) {
            self.forget(&id).map_err(NotMoved::Failed)?;
            return Err(error);
        }
        checkpoint!("quarantine_removed");
        // If this fails the next start does it.
        if let Err(error) = self.note(&id, &Note { state: State::Kept, ..note }) {
            warn!(%error, "that a file is in quarantine could not be noted; the next start tries again");
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
        for (id, note) in self.notes() {
            let Ok(note) = note else { continue };
            if note.sha256 != sha256.to_string() || note.state != State::Kept {
                continue;
            }
            match act(&id, &note) {
                Ok(()) => done.push(note.shown),
                Err(why) => failed.push(format!("{}: {why}", note.shown)),
            }
        }
        (done, failed)
    }

    fn notes(&self) -> Vec<(String, Result<Note, String>)> {
        let mut notes = Vec::new();
        for path in files::list(&self.folder).unwrap_or_default() {
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
        notes
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
    if !found.is_ok_and(|found| note.is_of(&found)) {
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

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Reads as much as there is, up to a block.
fn read_block(from: &mut impl io::Read, block: &mut Vec<u8>, most: usize) -> io::Result<()> {
    block.clear();
    from.take(u64::try_from(most).unwrap_or(u64::MAX)).read_to_end(block).map(drop)
}

/// Seals a file's content in blocks, each with its number; its SHA-256 and its length.
fn seal(from: &mut File, to: &Path, key: &[u8; 32]) -> io::Result<(Digest, u64)> {
    let broken = |_| io::Error::other("sealing failed");
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(broken)?;
    let key = LessSafeKey::new(key);
    let mut sealed = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    from.rewind()?;
    let (mut block, mut number, mut bytes) = (Vec::new(), 0, 0);
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    loop {
        read_block(from, &mut block, BLOCK)?;
        if block.is_empty() {
            break;
        }
        context.update(&block);
        bytes += u64::try_from(block.len()).unwrap_or(u64::MAX);
        key.seal_in_place_append_tag(nonce(number), Aad::empty(), &mut block).map_err(broken)?;
        sealed.write_all(&block)?;
        number += 1;
    }
    sealed.sync_all()?;
    let digest = Digest::try_from(context.finish().as_ref()).map_err(io::Error::other)?;
    Ok((digest, bytes))
}

/// Puts a file back where it was, as it was, unless something is there.
fn put_back(sealed: &Path, note: &Note) -> Result<(), String> {
    let path = note.path()?;
    let place = Place::of(&path).map_err(|error| format!("its folder cannot be reached: {error}"))?;
    if place.stat().is_ok() {
        return Err("something has its name now; move that away first".to_owned());
    }
    let name = &note.hidden;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&place.folder, name, flags, Mode::RUSR | Mode::WUSR);
    let mut made = File::from(made.map_err(|error| format!("it cannot be written there: {error}"))?);
    let written = open_into(sealed, &mut made, note).and_then(|()| {
        let fd = made.as_fd();
        let what = |what: &str| {
            let what = what.to_owned();
            move |error: rustix::io::Errno| format!("{what}: {}", io::Error::from(error))
        };
        // The owner first: it takes the bits of mode 6000 away.
        let found = rustix::fs::fstat(fd).map_err(what("it cannot be looked at"))?;
        if (found.st_uid, found.st_gid) != (note.uid, note.gid) {
            let (uid, gid) = (Uid::from_raw(note.uid), Gid::from_raw(note.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(what("it cannot be given to its owner"))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(note.mode)).map_err(what("it cannot have its mode"))?;
        let time = |(seconds, nanos): (i64, i64)| Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time(note.accessed), last_modification: time(note.modified) };
        rustix::fs::futimens(fd, &times).map_err(what("it cannot have its times"))?;
        made.sync_all().map_err(|error| error.to_string())?;
        checkpoint!("restore_written");
        let (folder, flags) = (&place.folder, RenameFlags::NOREPLACE);
        rustix::fs::renameat_with(folder, name, folder, &place.name, flags)
            .map_err(what("it cannot have its name"))
    });
    if let Err(why) = written {
        let _ = rustix::fs::unlinkat(&place.folder, name, AtFlags::empty());
        return Err(why);
    }
    place.sync().map_err(|error| error.to_string())
}

/// Writes the content of a sealed file, if it is whole.
fn open_into(sealed: &Path, to: &mut File, note: &Note) -> Result<(), String> {
    let key = note.key()?;
    let damaged = || format!("{}: damaged", sealed.display());
    let mut from = File::open(sealed).map_err(|error| format!("{}: {error}", sealed.display()))?;
    let (mut block, mut number) = (Vec::new(), 0);
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    loop {
        read_block(&mut from, &mut block, BLOCK + CHACHA20_POLY1305.tag_len())
            .map_err(|error| format!("{}: {error}", sealed.display()))?;
        if block.is_empty() {
            break;
        }
        let content = key.open_in_place(nonce(number), Aad::empty(), &mut block).map_err(|_| damaged())?;
        context.update(content);
        to.write_all(content).map_err(|error| error.to_string())?;
        number += 1;
    }
    let found = Digest::try_from(context.finish().as_ref()).map_err(|_| damaged())?;
    if found.to_string() == note.sha256 { Ok(()) } else { Err(damaged()) }
}
