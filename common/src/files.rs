//! Files that survive a crash: written beside, synced, renamed, and their folder synced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use crate::text::{self, NotOneLine};
use crate::users;
use writ_protocol::time::Timestamp;

/// A file that could not be read or written, or that too many may read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system's word.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process works on it.
    #[error("{}: another process of the same kind runs on this folder; stop it, or use another folder", folder.display())]
    InUse {
        /// Which folder.
        folder: PathBuf,
    },
    /// State of another user: what is written there as this one, its owner could not use any more.
    #[error("{}: belongs to user {owner}; run this as that user: runuser -u {owner} -- COMMAND", folder.display())]
    OthersFolder {
        /// Which folder.
        folder: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// It is to hold one secret, and holds something else.
    #[error("{}: {why}", path.display())]
    NotOneLine {
        /// Which file.
        path: PathBuf,
        /// What it is.
        why: NotOneLine,
    },
    /// A secret that others may read or replace.
    #[error("{}: mode {mode:03o} lets others read it; run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl FileError {
    /// What to type, if that alone mends it: rights, never content.
    #[must_use]
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::Exposed { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::OthersFolder { owner, .. } => Some(format!("runuser -u {owner} -- COMMAND")),
            Self::Io { path, source } if source.kind() == io::ErrorKind::PermissionDenied => Some(format!(
                "see whose {} is: ls -l; it must be readable by the user of this program",
                path.display()
            )),
            Self::Io { .. } | Self::InUse { .. } | Self::NotOneLine { .. } => None,
        }
    }

    /// The operating system's word about a file.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Gives a file its final name, durably.
///
/// # Errors
/// When it cannot be renamed.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::io(to))?;
    sync_folder(to)
}

/// Reads a secret file, and refuses one whose mode lets group or others in.
///
/// A group may read one that is root's: so systemd credentials and Kubernetes secrets are handed to a process
/// that is not root.
///
/// # Errors
/// When it cannot be read or is exposed.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let found = fs::metadata(path).map_err(FileError::io(path))?;
    let mode = found.permissions().mode() & 0o777;
    let is_handed_over = found.uid() == 0 && users::own_uid() != 0;
    if mode & if is_handed_over { 0o037 } else { 0o077 } != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    fs::read(path).map(Zeroizing::new).map_err(FileError::io(path))
}

/// Reads a secret of one line: a passphrase, a token, a password.
///
/// # Errors
/// When it cannot be read, is exposed, or is not one line of text.
pub fn secret_line(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let bytes = read_secret(path)?;
    text::secret_line(&bytes).map_err(|why| FileError::NotOneLine { path: path.to_owned(), why })
}

/// Reads a file anybody may read.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::io(path))
}

/// Writes a file only its owner may read, atomically and durably.
///
/// # Errors
/// When any step fails; the old content, if any, is then still whole.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write(path, content, 0o600)
}

/// Writes a file everybody may read, atomically and durably.
///
/// # Errors
/// When any step fails; the old content, if any, is then still whole.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write(path, content, 0o644)
}

/// The same for a file that is written piece by piece.
///
/// # Errors
/// When any step fails; the old content, if any, is then still whole.
pub fn write_public_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<(), FileError> {
    write_with(path, 0o644, |file| {
        let mut out = io::BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        out.flush()
    })
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    write_with(path, mode, |file| file.write_all(content))
}

fn write_with(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FileError> {
    // A name of this process's own: another may write the same file at the same moment.
    let beside = beside(path, process::id());
    forget_the_dead(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(FileError::io(&beside))?;
    // Whatever this user's mask is: a web server shall read what is published.
    let is_whole = file
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| fill(&mut file))
        .and_then(|()| file.sync_all())
        .map_err(FileError::io(&beside));
    let renamed = is_whole.and_then(|()| {
        crate::checkpoint!("file_beside");
        rename(&beside, path)
    });
    renamed.inspect_err(|_| {
        // What is not in force would only take room.
        let _ = fs::remove_file(&beside);
    })
}

/// How names of files end that are not in force yet: nobody else's file is taken for one that a crash left.
const BESIDE: &str = ".writ-new";

fn beside(path: &Path, process: u32) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{process}{BESIDE}"));
    PathBuf::from(beside)
}

/// Removes what crashes left beside a file; it was never in force.
fn forget_the_dead(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let left = fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    for entry in left.into_iter().flatten().flatten() {
        let found = entry.file_name();
        let process = found
            .to_str()
            .and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(BESIDE));
        let process = process.and_then(|process| process.parse::<u32>().ok());
        let is_ours = process == Some(process::id());
        if process.is_some_and(|process| is_ours || !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes an empty file only its owner may read, if there is none: for databases, which would make it readable
/// to all.
///
/// # Errors
/// When it cannot be made.
pub fn touch_private(path: &Path) -> Result<(), FileError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(FileError::io(path)(error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The mark of a folder in which something is being made: its keys are nobody's until the mark is gone.
const UNFINISHED: &str = "unfinished";
/// What names of folders begin with into which state was moved.
const SET_ASIDE: [&str; 2] = ["replaced-", "unfinished-"];

/// Marks a folder, before the first key is written to it.
///
/// # Errors
/// When the mark cannot be written.
pub fn begin_making(folder: &Path) -> Result<(), FileError> {
    write_public(&folder.join(UNFINISHED), b"")
}

/// Takes the mark away: what was made is in force.
///
/// # Errors
/// When it cannot be removed.
pub fn end_making(folder: &Path) -> Result<(), FileError> {
    let path = folder.join(UNFINISHED);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(FileError::io(&path)).and_then(|()| sync_folder(&path)),
    }
}

/// Whether a folder is marked.
#[must_use]
pub fn is_unfinished(folder: &Path) -> bool {
    folder.join(UNFINISHED).exists()
}

/// Moves everything in a folder into one below it, whose name begins with `what`, in the order of `turn`.
/// What was moved so earlier, and the lock, stay.
///
/// # Errors
/// When something cannot be renamed; what was moved before it stays moved.
pub fn move_aside<K: Ord>(
    folder: &Path,
    what: &str,
    now: Timestamp,
    turn: impl Fn(&str) -> K,
) -> Result<PathBuf, FileError> {
    let aside = folder.join(format!("{what}-{}", now.to_string().replace(':', "")));
    private_folder(&aside)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(FileError::io(folder))? {
        let name = entry.map_err(FileError::io(folder))?.file_name().to_string_lossy().into_owned();
        let stays = ["lock", UNFINISHED].contains(&name.as_str())
            || SET_ASIDE.iter().any(|aside| name.starts_with(aside));
        if !stays {
            names.push(name);
        }
    }
    names.sort_by_key(|name| turn(name));
    for name in names {
        rename(&folder.join(&name), &aside.join(&name))?;
    }
    Ok(aside)
}

/// Takes a folder for this process; the lock is held as long as what is returned, and ends with the process
/// however that ends.
///
/// # Errors
/// When another process has it.
pub fn lock_folder(folder: &Path) -> Result<File, FileError> {
    check_owner(folder)?;
    let path = folder.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(FileError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(FileError::Io { path, source }),
    }
}

/// The same, and waits for who has it: only for what is held for a moment.
///
/// # Errors
/// When it cannot be locked.
pub fn wait_for_folder(folder: &Path) -> Result<File, FileError> {
    check_owner(folder)?;
    let path = folder.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(FileError::io(&path))?;
    file.lock().map_err(FileError::io(&path))?;
    Ok(file)
}

/// Keeps whoever would work on a folder from it while it is read. Whoever may read its lock may, root among
/// them, who follows no link there. To be held for a moment: what starts meanwhile finds the folder in use.
///
/// # Errors
/// When another process works on it, or nobody ever did.
pub fn share_folder(folder: &Path) -> Result<File, FileError> {
    let path = folder.join("lock");
    let file = open_plain(&path)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(FileError::Io { path, source }),
    }
}

/// Opens a file to read it, if it is one: in a folder of somebody else's a link leads anywhere, and a pipe
/// would be waited for.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub fn open_plain(path: &Path) -> Result<File, FileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(io::Error::from).map_err(FileError::io(path))?);
    if !file.metadata().map_err(FileError::io(path))?.is_file() {
        return Err(FileError::io(path)(io::Error::other("this is no file")));
    }
    Ok(file)
}

/// The files of a folder in the order of their names; a missing folder has none.
///
/// # Errors
/// When it cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |source| FileError::Io { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

/// Makes a folder, with its parents, that only its owner may enter; one that is there must be this user's.
///
/// # Errors
/// When it cannot be made, or is another user's.
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return check_owner(path);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::io(path))?;
    // Files below it are named by others, and a power cut must not take it from under them.
    for made in path.ancestors().take_while(|made| !made.as_os_str().is_empty()).take(3) {
        sync_folder(made)?;
    }
    check_owner(path)
}

/// Whether a folder of state is this user's. Root could write into another's, and would follow its links.
///
/// # Errors
/// When it cannot be looked at, or is another user's.
pub fn check_owner(folder: &Path) -> Result<(), FileError> {
    let uid = fs::metadata(folder).map_err(FileError::io(folder))?.uid();
    if uid == users::own_uid() {
        return Ok(());
    }
    Err(FileError::OthersFolder { folder: folder.to_owned(), owner: users::name_of(uid) })
}

fn sync_folder(path: &Path) -> Result<(), FileError> {
    let folder =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(FileError::io(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        write_public(&path, b"one").unwrap();
        let fails = |out: &mut dyn io::Write| {
            out.write_all(b"two")?;
            Err(io::Error::other("the disk is full"))
        };
        write_public_with(&path, fails).unwrap_err();
        assert_eq!(read(&path).unwrap(), b"one");
        // A folder is not replaced by a file.
        fs::create_dir(&other).unwrap();
        write_public(&other, b"two").unwrap_err();
        // A file of somebody else whose name ends alike is not taken for what a crash left.
        fs::write(folder.path().join("file.20261101.new"), "theirs").unwrap();
        write_public(&path, b"three").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn secrets_are_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_secret(&path, b"one").unwrap();
        write_secret(&path, b"two").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_slice(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_beside_a_file_is_removed_by_the_next_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        // No process has the largest number there is.
        fs::write(beside(&path, u32::MAX), "half").unwrap();
        fs::write(beside(&path, 1), "another is writing").unwrap();
        write_secret(&path, b"whole").unwrap();
        let left: Vec<_> = list(folder.path()).unwrap();
        assert_eq!(left, [path.clone(), beside(&path, 1)]);
    }

    #[test]
    fn an_exposed_secret_is_refused_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_public(&path, b"one").unwrap();
        let error = read_secret(&path).unwrap_err().to_string();
        assert!(error.contains("mode 644") && error.contains("chmod 600"), "{error}");
    }
}
