//! What no list takes from a host: a list is made by people, and one day it names a file that every host
//! needs. Neither the agent nor what the host's package manager vouches for is blocked or quarantined.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use md5::Md5;
use md5::digest::Digest as _;
use rustix::fs::Stat;

use super::hash::{CHUNK, Limit, read};

/// Where dpkg says which files it installed, with the MD5 of each. That proves nothing against somebody who
/// can write there: such a one is root on this host.
const DPKG: &str = "/var/lib/dpkg";
/// Where systems have their programs. Without dpkg nobody vouches for a single file there, so all of them
/// are left alone.
const OF_THE_SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/etc"];

/// What is never touched on this host.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// The agent's own file.
    program: Option<(u64, u64)>,
    /// The agent's own folders.
    folders: Vec<PathBuf>,
    dpkg: PathBuf,
}

impl Guard {
    /// Of this agent, with these folders.
    pub(super) fn new(folders: Vec<PathBuf>) -> Self {
        let program = rustix::fs::stat("/proc/self/exe").ok().map(|stat| (stat.st_dev, stat.st_ino));
        let real = |folder: PathBuf| folder.canonicalize().unwrap_or(folder);
        Self { program, folders: folders.into_iter().map(real).collect(), dpkg: PathBuf::from(DPKG) }
    }

    /// Why a file is left alone, if it is. `content` is read to its end when that decides.
    pub(super) fn holds(
        &self,
        path: &Path,
        stat: &Stat,
        (content, limit): (&mut File, Limit<'_>),
        takes_packaged: bool,
    ) -> io::Result<Option<&'static str>> {
        if self.program.is_some_and(|program| program == (stat.st_dev, stat.st_ino)) {
            return Ok(Some("it is the running agent"));
        }
        if self.folders.iter().any(|folder| path.starts_with(folder)) {
            return Ok(Some("it is the agent's own"));
        }
        if takes_packaged {
            return Ok(None);
        }
        if !self.dpkg.is_dir() {
            let is_of_the_system = OF_THE_SYSTEM.iter().any(|folder| path.starts_with(folder));
            return Ok(is_of_the_system.then_some("it is in a folder of the system"));
        }
        let mut context = Md5::new();
        read(content, limit, |chunk| {
            context.update(chunk);
            Ok(())
        })?;
        let digest = hex::encode(context.finalize());
        let is_vouched_for = self.installed(&digest)?.iter().any(|name| is_at(name, stat));
        Ok(is_vouched_for.then_some("the package manager vouches for it"))
    }

    /// The files that packages brought with this content, as they name them.
    fn installed(&self, digest: &str) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.dpkg.join("info"))? {
            let file = entry?.path();
            if file.extension() == Some(OsStr::new("md5sums")) {
                // 32 digits, two spaces, and the path without its first slash.
                each_line(&file, |line| {
                    if let Some((found, name)) = line.split_at_checked(34)
                        && &found[..32] == digest.as_bytes()
                    {
                        names.push(name.to_owned());
                    }
                })?;
            }
        }
        // Of files of configuration the digest as it was installed stands elsewhere: a space, the path, the
        // digest, and perhaps that it is obsolete.
        let status = self.dpkg.join("status");
        if status.exists() {
            each_line(&status, |line| {
                let mut words = line.split(|byte| *byte == b' ');
                if let (Some(b""), Some(name), Some(found)) = (words.next(), words.next(), words.next())
                    && found == digest.as_bytes()
                {
                    names.push(name.strip_prefix(b"/").unwrap_or(name).to_owned());
                }
            })?;
        }
        Ok(names)
    }
}

/// Whether a file is one that a package names, by whatever name it was found: another hard link, or the same
/// folder mounted elsewhere. A package may say `bin/sh` of what lies in `usr/bin`.
fn is_at(name: &[u8], stat: &Stat) -> bool {
    let below = Path::new(OsStr::from_bytes(name));
    ["/", "/usr"].into_iter().any(|root| {
        let found = rustix::fs::stat(Path::new(root).join(below));
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino))
    })
}

fn each_line(file: &Path, mut told: impl FnMut(&[u8])) -> io::Result<()> {
    let (mut lines, mut line) = (BufReader::with_capacity(CHUNK, File::open(file)?), Vec::new());
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        told(line.strip_suffix(b"\n").unwrap_or(&line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(path: &Path) -> (File, Stat) {
        let file = File::open(path).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        (file, stat)
    }

    #[test]
    fn the_agent_and_what_a_package_brought_unchanged_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (own, dpkg, host) =
            ["own", "dpkg", "host"].map(|name| folder.path().canonicalize().unwrap().join(name)).into();
        let info = dpkg.join("info");
        for made in [&own, &dpkg, &info, &host] {
            fs::create_dir(made).unwrap();
        }
        let guard = Guard { dpkg: dpkg.clone(), ..Guard::new(vec![own.clone()]) };
        let holds = |path: &Path, takes_packaged: bool| {
            let (mut file, stat) = look(path);
            let limit = Limit { bytes: u64::MAX, goes_on: &|| true };
            guard.holds(path, &stat, (&mut file, limit), takes_packaged).unwrap()
        };
        assert_eq!(holds(&std::env::current_exe().unwrap(), true), Some("it is the running agent"));
        let key = own.join("key");
        fs::write(&key, "abc").unwrap();
        assert_eq!(holds(&key, true), Some("it is the agent's own"));
        let program = host.join("program");
        fs::write(&program, "abc").unwrap();
        assert_eq!(holds(&program, false), None);
        let named = program.to_str().unwrap().trim_start_matches('/');
        fs::write(info.join("a.list"), "").unwrap();
        fs::write(info.join("a.md5sums"), format!("short\n900150983cd24fb0d6963f7d28e17f72  {named}\n"))
            .unwrap();
        assert_eq!(holds(&program, false), Some("the package manager vouches for it"));
        assert_eq!(holds(&program, true), None);
        // By another of its names, too; and as a file of configuration.
        let link = host.join("link");
        fs::hard_link(&program, &link).unwrap();
        assert_eq!(holds(&link, false), Some("the package manager vouches for it"));
        fs::remove_file(info.join("a.md5sums")).unwrap();
        assert_eq!(holds(&program, false), None);
        fs::write(dpkg.join("status"), format!("Conffiles:\n /{named} 900150983cd24fb0d6963f7d28e17f72\n"))
            .unwrap();
        assert_eq!(holds(&program, false), Some("the package manager vouches for it"));
        // What was put in its place is no package's.
        fs::write(&program, "abd").unwrap();
        assert_eq!(holds(&program, false), None);
    }

    #[test]
    fn where_nobody_vouches_for_a_file_all_of_the_system_is_left_alone() {
        let guard = Guard { dpkg: PathBuf::from("/nowhere/at/all"), ..Guard::new(Vec::new()) };
        let (mut file, stat) = look(Path::new("/etc/passwd"));
        for (path, expected) in [
            ("/usr/bin/true", Some("it is in a folder of the system")),
            ("/srv/true", None),
            ("/usrlocal", None),
        ] {
            let limit = Limit { bytes: u64::MAX, goes_on: &|| true };
            let held = guard.holds(Path::new(path), &stat, (&mut file, limit), false).unwrap();
            assert_eq!(held, expected, "{path}");
        }
    }
}
