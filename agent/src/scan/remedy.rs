//! What is done with a listed file: with the one that is open and whose digest was made again, and with no
//! other.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, Mode, Stat};
use writ_lists::{Key, Kind};
use writ_protocol::command::Remedy;
use writ_protocol::id::Digest;

use super::guard::Guard;
use super::hash::{CHUNK, Hasher, hash};
use super::place::{Place, has_changed};
use super::quarantine::{NotMoved, Quarantine};

/// What became of a listed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remedied {
    /// Nothing; why.
    Left(String),
    /// It cannot be executed; how far that goes.
    Blocked(String),
    /// It was moved away; the SHA-256 of its content, and what else there is to know.
    Quarantined(Digest, String),
}

/// What is done, and to what at most.
#[derive(Debug)]
pub(super) struct Remedies<'a> {
    pub(super) guard: &'a Guard,
    pub(super) quarantine: &'a Quarantine,
    pub(super) remedy: Remedy,
    pub(super) takes_packaged: bool,
    pub(super) kind: Kind,
    /// The present, in milliseconds since 1970.
    pub(super) now_ms: u64,
}

impl Remedies<'_> {
    /// Does to a file what the scan asks for, if it is still the listed one.
    pub(super) fn apply(&self, path: &Path, key: &Key) -> Remedied {
        self.try_apply(path, key).unwrap_or_else(|error| Remedied::Left(error.to_string()))
    }

    fn try_apply(&self, path: &Path, key: &Key) -> io::Result<Remedied> {
        let left = |why: &str| Ok(Remedied::Left(why.to_owned()));
        let place = Place::of(path)?;
        let (mut file, stat) = place.open()?;
        if !self.has_digest(&mut file, key)? {
            return left("it was exchanged or changed meanwhile");
        }
        if let Some(why) = self.guard.holds(path, &stat, &mut file, self.takes_packaged)? {
            return left(why);
        }
        if self.remedy != Remedy::Quarantine {
            return block(&file, &stat);
        }
        let taken = self.quarantine.take(
            (path, &place),
            (&mut file, &stat),
            |_, file| Ok(self.has_digest(file, key)? && !has_changed(&stat, &rustix::fs::fstat(&*file)?)),
            self.now_ms,
        );
        match taken {
            Ok(sha256) => {
                // Its other names lead to the same content, which is as dangerous there. Nothing immutable: the
                // scan may come by them, and move them away too.
                let more = match stat.st_nlink {
                    0 | 1 => String::new(),
                    _ => match take_execution(&file, &stat) {
                        Ok(()) => "it has other hard links, which stay, not executable".to_owned(),
                        Err(why) => format!("it has other hard links, which stay as they are: {why}"),
                    },
                };
                Ok(Remedied::Quarantined(sha256, more))
            }
            Err(NotMoved::Changed | NotMoved::Exchanged) => left("it was exchanged or changed meanwhile"),
            Err(NotMoved::Failed(why)) => {
                let instead = block(&file, &stat)?;
                Ok(match instead {
                    Remedied::Blocked(said) => Remedied::Blocked(format!("not quarantined: {why}; {said}")),
                    other => other,
                })
            }
        }
    }

    fn has_digest(&self, file: &mut File, key: &Key) -> io::Result<bool> {
        io::Seek::rewind(file)?;
        let hasher = Hasher::of(self.kind).ok_or_else(|| io::Error::other("it is no list of files"))?;
        Ok(hash(file, hasher, &mut vec![0; CHUNK], |_| Ok(()))? == *key)
    }
}

/// Takes from everybody that a file can be executed, and that it can be changed where the file system has a
/// flag for that.
fn block(file: &File, stat: &Stat) -> io::Result<Remedied> {
    if let Err(why) = take_execution(file, stat) {
        return Ok(Remedied::Left(why));
    }
    let flags = rustix::fs::ioctl_getflags(file)
        .and_then(|flags| rustix::fs::ioctl_setflags(file, flags.union(IFlags::IMMUTABLE)));
    Ok(Remedied::Blocked(match flags {
        Ok(()) => "not executable, immutable".to_owned(),
        Err(error) => format!("not executable; not immutable: {}", io::Error::from(error)),
    }))
}

/// Takes from everybody that a file can be executed; in words why not.
fn take_execution(file: &File, stat: &Stat) -> Result<(), String> {
    let executable = Mode::XUSR | Mode::XGRP | Mode::XOTH;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    if !mode.intersects(executable) {
        return Ok(());
    }
    let changed = rustix::fs::fchmod(file, mode.difference(executable));
    changed.map_err(|error| format!("its mode cannot be changed: {}", io::Error::from(error)))
}
