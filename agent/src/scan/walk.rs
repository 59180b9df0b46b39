//! Every regular file below a folder, each once a name, without following a link.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType};

use super::place::{Place, open_folder, open_root};

/// Folders within folders; each that is open takes two file descriptors.
const MAX_DEPTH: usize = 256;

/// File systems that hold no files of anybody: what is read there is made by the kernel at that moment. The
/// numbers are those of `linux/magic.h`.
const OF_THE_KERNEL: [u32; 18] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x0000_1cd1, // devpts
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x6265_6570, // configfs
    0xf97c_ff8c, // selinux
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0x6759_6969, // rpc_pipefs
    0x6e73_6673, // nsfs
    0x0000_0187, // autofs
];
/// File systems whose files are another host's, or a program's.
const OF_OTHERS: [u32; 9] = [
    0x0000_6969, // nfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x0000_517b, // smb
    0x6573_5546, // fuse
    0x0102_1997, // 9p
    0x00c3_6400, // ceph
    0x5346_414f, // afs
    0x7375_7245, // coda
];

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
            Self::TooDeep => "more than 256 folders deep",
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

/// Walks along a path and all that is below, but for what is excluded. The path is one without links.
pub(super) fn walk(root: &Path, excluded: &[PathBuf], visitor: &mut dyn Visitor) {
    let is_excluded = |path: &Path| excluded.iter().any(|excluded| path == excluded);
    if excluded.iter().any(|excluded| root.starts_with(excluded)) {
        return;
    }
    let begun = if root == Path::new("/") {
        open_root()
    } else {
        match Place::of(root).and_then(|place| Ok((place.stat()?, place))) {
            Ok((stat, place)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                return visitor.file(&place.folder, &place.name, root);
            }
            Ok((_, place)) => open_folder(&place.folder, &place.name),
            Err(error) => Err(error),
        }
    };
    let mut levels = Vec::new();
    match begun.and_then(|folder| level(folder, 0)) {
        Ok(level) => levels.push(level),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return visitor.skipped(root, Skip::Missing),
        Err(error) => return visitor.skipped(root, Skip::of(&error)),
    }
    let mut path = root.to_owned();
    while let Some(top) = levels.last_mut() {
        if !visitor.goes_on() {
            return;
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
}

fn level(folder: OwnedFd, parent: usize) -> io::Result<Level> {
    let device = rustix::fs::fstat(&folder)?.st_dev;
    Ok(Level { listing: Dir::read_from(&folder)?, folder: Rc::new(folder), device, parent })
}

/// Opens a folder, unless it is where a file system begins that is not scanned unasked.
fn enter(folder: &OwnedFd, name: &OsStr, device: u64) -> io::Result<Result<Level, Skip>> {
    let opened = open_folder(folder, name)?;
    if rustix::fs::fstat(&opened)?.st_dev != device {
        let found = rustix::fs::fstatfs(&opened)?.f_type;
        // Numbers of 32 bits, which some architectures keep in a signed field.
        let magic = u32::try_from(found & 0xffff_ffff).unwrap_or(0);
        if OF_THE_KERNEL.contains(&magic) {
            return Ok(Err(Skip::Kernel));
        }
        if OF_OTHERS.contains(&magic) {
            return Ok(Err(Skip::Remote));
        }
    }
    level(opened, 0).map(Ok)
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
