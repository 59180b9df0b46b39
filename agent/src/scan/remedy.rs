//! What is done with a listed file: with the one that is open and whose digest was made again, and with no
//! other.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{IFlags, Mode, Stat};
use writ_lists::{Key, Kind};
use writ_protocol::command::Remedy;
use writ_protocol::id::{CommandId, Digest};

use super::guard::Guard;
use super::hash::{Hasher, Limit, read};
use super::place::{Place, length};
use super::quarantine::{NotMoved, Quarantine};

/// What became of a listed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remedied {
    /// Nothing; why.
    Left(String),
    /// Nobody could execute or change it before.
    Already,
    /// It cannot be executed; how far that goes.
    Blocked(String),
    /// It was moved away; the SHA-256 of its content, and what else there is to know.
    Quarantined(Digest, String),
}

/// What is done, and to what at most.
#[derive(Clone, Copy)]
pub(super) struct Remedies<'a> {
    pub(super) guard: &'a Guard,
    pub(super) quarantine: &'a Quarantine,
    pub(super) remedy: Remedy,
    pub(super) takes_packaged: bool,
    pub(super) kind: Kind,
    /// How much is read of a file at most, and whether the scan goes on.
    pub(super) limit: Limit<'a>,
    /// The scan's command.
    pub(super) command: CommandId,
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
        // Somebody may write to it all the time: no more of it is read than it has now.
        let limit = Limit { bytes: length(&stat).min(self.limit.bytes), ..self.limit };
        if !self.has_digest((&mut file, limit), key)? {
            return left("it was exchanged or changed meanwhile");
        }
        if let Some(why) = self.guard.holds(path, &stat, (&mut file, limit), self.takes_packaged)? {
            return left(why);
        }
        if self.remedy != Remedy::Quarantine {
            return Ok(block(&file));
        }
        // What is immutable, as a scan made it before, cannot be moved away.
        let was_immutable = is_immutable(&file) && set_immutable(&file, false).is_ok();
        let taken = self.quarantine.take(
            (path, &place),
            (&mut file, &stat, limit),
            |file| self.has_digest((file, limit), key),
            (self.command, self.now_ms),
        );
        match taken {
            Ok(sha256) => Ok(Remedied::Quarantined(sha256, other_names(&file, &stat))),
            Err(error) => {
                if was_immutable {
                    let _ = set_immutable(&file, true);
                }
                match error {
                    NotMoved::Changed | NotMoved::Exchanged => left("it was exchanged or changed meanwhile"),
                    NotMoved::Failed(why) => Ok(match block(&file) {
                        Remedied::Blocked(said) => {
                            Remedied::Blocked(format!("not quarantined: {why}; {said}"))
                        }
                        Remedied::Left(said) => Remedied::Left(format!("not quarantined: {why}; {said}")),
                        other @ (Remedied::Already | Remedied::Quarantined(..)) => other,
                    }),
                }
            }
        }
    }

    fn has_digest(&self, (file, limit): (&mut File, Limit<'_>), key: &Key) -> io::Result<bool> {
        let no_files = || io::Error::other("it is no list of files");
        let mut hasher = Hasher::of(self.kind).ok_or_else(no_files)?;
        read(file, limit, |chunk| {
            hasher.update(chunk);
            Ok(())
        })?;
        Ok(hasher.finish() == *key)
    }
}

/// What is left of a file that was moved away: its other names lead to the same content, which is as
/// dangerous there. They are not made immutable: the scan may come by them, and move them away too.
fn other_names(file: &File, before: &Stat) -> String {
    let left = rustix::fs::fstat(file).map_or(0, |now| now.st_nlink);
    if left == 0 {
        return String::new();
    }
    // As many as before: somebody gave it another name in the last moment.
    let what =
        if left < before.st_nlink { "it has other hard links, which stay" } else { "it has a new name" };
    match take_execution(file) {
        Ok(()) => format!("{what}, not executable"),
        Err(error) => format!("{what} as it is: its mode cannot be changed: {error}"),
    }
}

/// Takes from everybody that a file can be executed, and that it can be changed where the file system has a
/// flag for that.
fn block(file: &File) -> Remedied {
    if is_immutable(file) && is_executable(file).is_ok_and(|is_executable| !is_executable) {
        return Remedied::Already;
    }
    if let Err(error) = take_execution(file) {
        return Remedied::Left(format!("its mode cannot be changed: {error}"));
    }
    let flagged = set_immutable(file, true);
    // Its owner may have changed the mode back in the last moment. Now he cannot.
    if flagged.is_ok() && is_executable(file).unwrap_or(true) {
        let again = set_immutable(file, false)
            .map_err(io::Error::from)
            .and_then(|()| take_execution(file))
            .and_then(|()| Ok(set_immutable(file, true)?));
        if again.is_err() || is_executable(file).unwrap_or(true) {
            return Remedied::Left("somebody makes it executable again and again".to_owned());
        }
    }
    Remedied::Blocked(match flagged {
        Ok(()) => "not executable, immutable".to_owned(),
        Err(error) => format!("not executable; not immutable: {}", io::Error::from(error)),
    })
}

const EXECUTABLE: Mode = Mode::XUSR.union(Mode::XGRP).union(Mode::XOTH);

/// The mode of a file, as it is now.
fn mode(file: &File) -> io::Result<Mode> {
    Ok(Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode & 0o7777))
}

fn is_executable(file: &File) -> io::Result<bool> {
    Ok(mode(file)?.intersects(EXECUTABLE))
}

/// Takes from everybody that a file can be executed. Also from one that cannot be now: its owner may change
/// that at any moment, so the mode is always set.
fn take_execution(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, mode(file)?.difference(EXECUTABLE))?)
}

fn is_immutable(file: &File) -> bool {
    rustix::fs::ioctl_getflags(file).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
}

fn set_immutable(file: &File, is_to_be: bool) -> rustix::io::Result<()> {
    let flags = rustix::fs::ioctl_getflags(file)?;
    let flags = if is_to_be { flags.union(IFlags::IMMUTABLE) } else { flags.difference(IFlags::IMMUTABLE) };
    rustix::fs::ioctl_setflags(file, flags)
}
