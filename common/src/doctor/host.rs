//! What goes wrong on a host when a daemon is installed: whose folder it is, what is left of the disk, how
//! many files may be open.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::users;

/// Below this many bytes a daemon that syncs everything may stop within the hour.
const LEAST_BYTES: u64 = 64 << 20;
/// Below this many somebody should look soon.
const FEW_BYTES: u64 = 1 << 30;
/// Files of a disk left, for a write beside and a rename.
const LEAST_FILES: u64 = 100;

/// Whether a folder of state is its user's alone.
#[must_use]
pub fn folder(path: &Path) -> Finding {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) if found.is_dir() => found,
        Ok(_) => {
            return Finding::bad("folder", format!("{shown} is no folder"), "name another one by data_dir");
        }
        Err(error) => {
            return Finding::bad(
                "folder",
                format!("{shown}: {error}"),
                "see that it is there, and look as root or its owner",
            );
        }
    };
    let (owner, mode) = (users::name_of(found.uid()), found.permissions().mode() & 0o777);
    if mode & 0o022 != 0 && mode & 0o2000 == 0 {
        let detail = format!("{shown} has mode {mode:03o}: others may replace what is in it");
        return Finding::bad("folder", detail, format!("chmod go-w {shown}"));
    }
    let uid = found.uid();
    // Of another user only what root left there is a mistake: that user cannot read it.
    let strangers = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let stranger = strangers.filter_map(|entry| Some((entry.metadata().ok()?.uid(), entry.path())));
    if let Some((_, path)) = stranger.into_iter().find(|(other, _)| *other != uid) {
        let detail = format!("{} is not {owner}'s, whose folder it lies in", path.display());
        return Finding::bad("folder", detail, format!("chown --recursive {owner}: {shown}"));
    }
    Finding::good("folder", format!("{shown}, of user {owner}, mode {mode:03o}"))
}

/// Says so when root looks for somebody else: what root can read and start, that user may not.
#[must_use]
pub fn another_user(folder: &Path, command: &str) -> Option<Finding> {
    let owner = users::owner_of(folder).filter(|owner| users::own_uid() == 0 && *owner != 0)?;
    let owner = users::name_of(owner);
    let detail = format!("root looks, {owner} runs: whether it may read the same files was not tried");
    // One that has a number alone is of a container, or of another host.
    let is_named = owner.parse::<u32>().is_err();
    let next = if is_named { format!("runuser -u {owner} -- {command}") } else { String::new() };
    Some(Finding::notice("user", detail, next))
}

/// What is left of the disk under a folder.
#[must_use]
pub fn disk(path: &Path) -> Finding {
    let left = match statvfs(path) {
        Ok(left) => left,
        Err(error) => {
            return Finding::bad("disk", format!("{}: {error}", path.display()), "look at the disk");
        }
    };
    if left.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let detail = format!("{} lies on a disk that is read-only", path.display());
        return Finding::bad("disk", detail, "look at the disk, and mount it for writing");
    }
    let bytes = left.f_bavail.saturating_mul(left.f_frsize);
    let detail = format!("{} MB free", bytes >> 20);
    // Some file systems have no bound of files and say 0 of 0.
    let has_files = left.f_files == 0 || left.f_favail > LEAST_FILES;
    if bytes < LEAST_BYTES || !has_files {
        let detail =
            if has_files { detail } else { format!("{detail}, but room for {} files", left.f_favail) };
        return Finding::bad("disk", detail, "make room: what cannot be synced is not done");
    }
    if bytes < FEW_BYTES {
        Finding::notice("disk", detail, "make room soon")
    } else {
        Finding::good("disk", detail)
    }
}

/// How many files and sockets this user's processes may have open, against what is needed. It is this shell's
/// bound: the service has its unit's.
#[must_use]
pub fn open_files(needed: u64) -> Finding {
    let may = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let detail = format!("{may} files may be open here, {needed} are needed");
    if may < needed {
        let next = "for the service: systemctl edit it, LimitNOFILE=65536; for a container: --ulimit nofile=65536:65536";
        return Finding::notice("limits", detail, next);
    }
    Finding::good("limits", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_folder_others_may_write_and_files_of_others_are_found() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        assert_eq!(folder(path).level, Level::Good);
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(folder(path).next.starts_with("chmod go-w"), "{:?}", folder(path));
        assert_eq!(folder(&path.join("none")).level, Level::Bad);
    }

    #[test]
    fn disk_and_limits_are_looked_at() {
        let temporary = tempfile::tempdir().unwrap();
        assert!(disk(temporary.path()).detail.ends_with("MB free"));
        assert_eq!(disk(&temporary.path().join("none")).level, Level::Bad);
        assert_eq!((open_files(1).level, open_files(u64::MAX).level), (Level::Good, Level::Notice));
    }
}
