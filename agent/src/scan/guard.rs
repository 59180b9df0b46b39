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

use super::hash::CHUNK;

/// Where dpkg says which files it installed, with the MD5 of each. That proves nothing against somebody who
/// can write there: such a one is root on this host.
const DPKG: &str = "/var/lib/dpkg/info";
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
        content: &mut File,
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
        let expected = self.expected(path)?;
        if expected.is_empty() {
            return Ok(None);
        }
        let found = md5(content)?;
        Ok(expected.contains(&found).then_some("the package manager vouches for it"))
    }

    /// The digests that packages say a file has, in hexadecimal digits.
    fn expected(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = path.as_os_str().as_bytes();
        let below = path.strip_prefix(b"/").unwrap_or(path);
        // A package may say /bin/sh of what lies in /usr/bin: one is a link to the other.
        let names = [Some(below), below.strip_prefix(b"usr/")];
        let names: Vec<_> = names.into_iter().flatten().collect();
        let mut expected = Vec::new();
        for entry in fs::read_dir(&self.dpkg)? {
            let file = entry?.path();
            if file.extension() != Some(OsStr::new("md5sums")) {
                continue;
            }
            let mut lines = BufReader::with_capacity(CHUNK, File::open(&file)?);
            let mut line = Vec::new();
            loop {
                line.clear();
                if lines.read_until(b'\n', &mut line)? == 0 {
                    break;
                }
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                // 32 digits, two spaces, and the path without its first slash.
                let Some((digest, name)) = line.split_at_checked(34) else { continue };
                if names.contains(&name) {
                    expected.push(String::from_utf8_lossy(&digest[..32]).into_owned());
                }
            }
        }
        Ok(expected)
    }
}

fn md5(content: &mut File) -> io::Result<String> {
    io::Seek::rewind(content)?;
    let (mut context, mut buffer) = (Md5::new(), vec![0; CHUNK]);
    loop {
        let read = io::Read::read(content, &mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(context.finalize()));
        }
        context.update(&buffer[..read]);
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
        for made in [&own, &dpkg, &host] {
            fs::create_dir(made).unwrap();
        }
        let guard = Guard { dpkg: dpkg.clone(), ..Guard::new(vec![own.clone()]) };
        let holds = |path: &Path, takes_packaged: bool| {
            let (mut file, stat) = look(path);
            guard.holds(path, &stat, &mut file, takes_packaged).unwrap()
        };
        assert_eq!(holds(&std::env::current_exe().unwrap(), true), Some("it is the running agent"));
        let key = own.join("key");
        fs::write(&key, "abc").unwrap();
        assert_eq!(holds(&key, true), Some("it is the agent's own"));
        let program = host.join("program");
        fs::write(&program, "abc").unwrap();
        assert_eq!(holds(&program, false), None);
        let named = program.to_str().unwrap().trim_start_matches('/');
        fs::write(dpkg.join("a.list"), "").unwrap();
        fs::write(dpkg.join("a.md5sums"), format!("short\n900150983cd24fb0d6963f7d28e17f72  {named}\n"))
            .unwrap();
        assert_eq!(holds(&program, false), Some("the package manager vouches for it"));
        assert_eq!(holds(&program, true), None);
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
            assert_eq!(guard.holds(Path::new(path), &stat, &mut file, false).unwrap(), expected, "{path}");
        }
    }
}
