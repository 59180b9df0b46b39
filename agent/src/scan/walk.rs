//! Every regular file below a folder, each once a name, without following a link.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, StatxFlags};

use super::place::{Place, open_folder, open_root};

/// Folders within folders; each that is open takes two file descriptors.
const MAX_DEPTH: usize = 256;

/// File systems that hold no files of anybody: what is read there is made by the kernel at that moment.
const OF_THE_KERNEL: [&str; 20] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];
/// File systems whose files are another host's, or a program's.
const OF_OTHERS: [&str; 12] =
    ["9p", "afs", "ceph", "cifs", "coda", "fuse", "fuseblk", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"];
/// Bytes of a path; what is deeper is not looked at.
const MAX_PATH: usize = 4096;

/// Why something is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Skip {
    /// The kernel does not let this user.
    NotPermitted,
    /// Reading failed.
    Failed,
    /// It is longer than files that are read.
    TooLong,
    /// It has changed while it was read: what was read may be none of its contents.
    Changed,
    /// It is neither a file nor a folder nor a link.
    Special,
    /// It is deeper than folders are followed.
    TooDeep,
    /// The kernel's own file system.
    Kernel,
    /// Another host's file system, or a program's.
    Remote,
    /// There is nothing at a path that was to be looked at.
    Missing,
}

impl Skip {
    pub(super) const fn says(self) -> &'static str {
        match self {
            Self::NotPermitted => "not permitted to the agent's user",
            Self::Failed => "cannot be read",
            Self::TooLong => "longer than the scan reads",
            Self::Changed => "changed while it was read",
            Self::Special => "a socket, a device or a pipe",
            Self::TooDeep => "more than 256 folders deep, or a path of more than 4096 bytes",
            Self::Kernel => "a file system of the kernel",
            Self::Remote => "another host's file system, or a program's; name it to have it scanned",
            Self::Missing => "not there",
        }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted,
            _ => Self::Failed,
        }
    }
}

/// What is found, and what is not.
pub(super) trait Visitor {
    /// A regular file, by its folder and name.
    fn file(&mut self, folder: &OwnedFd, name: &OsStr, path: &Path);
    /// Something that is not looked at.
    fn skipped(&mut self, path: &Path, why: Skip);
    /// Whether the walk goes on.
    fn goes_on(&self) -> bool;
}

/// A folder that is being listed.
struct Level {
    folder: Rc<OwnedFd>,
    listing: Dir,
    device: u64,
    /// Bytes of the path before its name was added.
    parent: usize,
}

/// Walks along a path and all that is below, but for what is excluded. The path is one without links. Whether
/// it came to its end.
pub(super) fn walk(root: &Path, excluded: &[PathBuf], visitor: &mut dyn Visitor) -> bool {
    let is_excluded = |path: &Path| excluded.iter().any(|excluded| path == excluded);
    if excluded.iter().any(|excluded| root.starts_with(excluded)) {
        return true;
    }
    let begun = if root == Path::new("/") {
        open_root()
    } else {
        match Place::of(root).and_then(|place| Ok((place.stat()?, place))) {
            Ok((stat, place)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                visitor.file(&place.folder, &place.name, root);
                return visitor.goes_on();
            }
            Ok((_, place)) => open_folder(&place.folder, &place.name),
            Err(error) => Err(error),
        }
    };
    let mut levels = Vec::new();
    match begun.and_then(|folder| level(folder, 0)) {
        Ok(level) => levels.push(level),
        Err(error) => {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            visitor.skipped(root, if is_missing { Skip::Missing } else { Skip::of(&error) });
            return true;
        }
    }
    let mut path = root.to_owned();
    while let Some(top) = levels.last_mut() {
        if !visitor.goes_on() {
            return false;
        }
        let entry = match top.listing.read() {
            Some(Ok(entry)) => entry,
            Some(Err(error)) => {
                visitor.skipped(&path, Skip::of(&error.into()));
                pop(&mut levels, &mut path);
                continue;
            }
            None => {
                pop(&mut levels, &mut path);
                continue;
            }
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let (folder, device) = (Rc::clone(&top.folder), top.device);
        let before = path.as_os_str().len();
        path.push(name);
        if path.as_os_str().len() > MAX_PATH {
            visitor.skipped(&path, Skip::TooDeep);
            cut(&mut path, before);
            continue;
        }
        if is_excluded(&path) {
            cut(&mut path, before);
            continue;
        }
        match kind_of(&folder, name, entry.file_type()) {
            Ok(FileType::RegularFile) => visitor.file(&folder, name, &path),
            Ok(FileType::Directory) if levels.len() >= MAX_DEPTH => visitor.skipped(&path, Skip::TooDeep),
            Ok(FileType::Directory) => {
                match enter(&folder, name, device) {
                    Ok(Ok(entered)) => {
                        levels.push(Level { parent: before, ..entered });
                        continue;
                    }
                    Ok(Err(skip)) => visitor.skipped(&path, skip),
                    // It went away between two looks: nothing is there to be looked at.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => visitor.skipped(&path, Skip::of(&error)),
                }
            }
            Ok(FileType::Symlink) => {}
            Ok(_) => visitor.skipped(&path, Skip::Special),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => visitor.skipped(&path, Skip::of(&error)),
        }
        cut(&mut path, before);
    }
    true
}

fn level(folder: OwnedFd, parent: usize) -> io::Result<Level> {
    let device = rustix::fs::fstat(&folder)?.st_dev;
    Ok(Level { listing: Dir::read_from(&folder)?, folder: Rc::new(folder), device, parent })
}

/// Opens a folder, unless it is where a file system begins that is not scanned unasked. That is asked before
/// it is opened, and in a way that asks no other host: one that does not answer would hold the scan for ever.
fn enter(folder: &OwnedFd, name: &OsStr, parent: u64) -> io::Result<Result<Level, Skip>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(folder, name, flags, StatxFlags::TYPE)?;
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    if device != parent
        && let Some(why) = not_scanned(found.stx_dev_major, found.stx_dev_minor)
    {
        return Ok(Err(why));
    }
    level(open_folder(folder, name)?, 0).map(Ok)
}

/// Whether a path is on a file system that is not scanned unless it is named.
pub(super) fn is_left_out(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::TYPE)
        .is_ok_and(|found| not_scanned(found.stx_dev_major, found.stx_dev_minor).is_some())
}

/// Why the file system of a device is not scanned, if it is not: proc(5), `mountinfo`.
fn not_scanned(major: u32, minor: u32) -> Option<Skip> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let device = format!("{major}:{minor}");
    let of_it = mounts.lines().filter(|line| line.split(' ').nth(2) == Some(&device));
    let kinds = of_it.filter_map(|line| line.split_once(" - ")?.1.split(' ').next());
    let mut kinds = kinds.map(|kind| kind.split_once('.').map_or(kind, |(kind, _)| kind));
    kinds.find_map(|kind| {
        if OF_THE_KERNEL.contains(&kind) {
            Some(Skip::Kernel)
        } else if OF_OTHERS.contains(&kind) {
            Some(Skip::Remote)
        } else {
            None
        }
    })
}

fn kind_of(folder: &OwnedFd, name: &OsStr, listed: FileType) -> io::Result<FileType> {
    if listed != FileType::Unknown {
        return Ok(listed);
    }
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn pop(levels: &mut Vec<Level>, path: &mut PathBuf) {
    if let Some(level) = levels.pop()
        && !levels.is_empty()
    {
        cut(path, level.parent);
    }
}

/// Takes the last name off again, to so many bytes.
fn cut(path: &mut PathBuf, bytes: usize) {
    let mut text = std::mem::take(path).into_os_string().into_encoded_bytes();
    text.truncate(bytes);
    *path = PathBuf::from(OsString::from_vec(text));
}
