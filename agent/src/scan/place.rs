//! Files by their folder: opened without following a link, so that nobody who may write in a folder leads
//! the agent elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

/// What is opened for reading waits for nobody and takes no terminal, whatever it turns out to be.
const READING: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name in an open folder.
#[derive(Debug)]
pub(super) struct Place {
    /// The folder.
    pub folder: OwnedFd,
    /// The name.
    pub name: OsString,
}

impl Place {
    /// Where an absolute path leads, no part of which is a link.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut parts: Vec<&OsStr> = Vec::new();
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(part) => parts.push(part),
                Component::CurDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(io::Error::other("it is no absolute path of one place"));
                }
            }
        }
        let name = parts.pop().ok_or_else(|| io::Error::other("it is the root of all folders"))?.to_owned();
        // Opened for its place alone: who may pass through a folder need not be able to list it.
        let passing = OFlags::PATH.union(FOLDER);
        let mut folder = rustix::fs::open("/", passing, Mode::empty())?;
        for part in parts {
            folder = rustix::fs::openat(&folder, part, passing, Mode::empty())?;
        }
        Ok(Self { folder, name })
    }

    /// Opens the file there for reading, if it is a regular one.
    pub(super) fn open(&self) -> io::Result<(File, Stat)> {
        open_file(&self.folder, &self.name)
    }

    /// What is there now, itself and not what a link leads to.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Has the disk know what was changed in the folder.
    pub(super) fn sync(&self) -> io::Result<()> {
        // It may have been opened for its place alone.
        let folder = rustix::fs::openat(&self.folder, ".", FOLDER, Mode::empty())?;
        Ok(rustix::fs::fsync(folder)?)
    }
}

/// Opens a regular file in a folder for reading.
pub(super) fn open_file(folder: impl AsFd, name: &OsStr) -> io::Result<(File, Stat)> {
    let file = rustix::fs::openat(folder, name, READING, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no file any more"));
    }
    Ok((File::from(file), stat))
}

/// Opens the root of all folders for listing.
pub(super) fn open_root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/", FOLDER, Mode::empty())?)
}

/// Opens a folder in a folder for listing.
pub(super) fn open_folder(folder: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, name, FOLDER, Mode::empty())?)
}

/// Whether a file has changed between two looks at it, in whatever way.
pub(super) fn has_changed(before: &Stat, after: &Stat) -> bool {
    is_rewritten(before, after)
        || (before.st_ctime, before.st_ctime_nsec) != (after.st_ctime, after.st_ctime_nsec)
}

/// Whether a file's content may have changed between two looks at it. Its mode, its owner and its names may
/// have: somebody who changes them without end must not keep a file from being acted on.
pub(super) fn is_rewritten(before: &Stat, after: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    of(before) != of(after)
}

/// The bytes of a file, as its folder has them.
pub(super) fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(u64::MAX)
}
