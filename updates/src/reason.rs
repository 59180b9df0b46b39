//! Why an update did not take place: each reason has a stable code, and what to do about it.

use std::error::Error;
use std::io;
use std::path::Path;

use tough::TransportError;
use tough::error::Error as Tuf;
use writ_common::files::FileError;

use crate::link::{LinkError, of_the_way};

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No source was set, or its root was not pinned.
    NoSource,
    /// What is to be pinned is no root.
    NoRoot,
    /// The source cannot be reached, or what it sends breaks off.
    Unreachable,
    /// It sends slower than is any use.
    Slow,
    /// A file is longer than it may be.
    TooLong,
    /// Metadata is out of date: nobody signs it any more, or somebody holds back what is newer.
    Expired,
    /// Metadata is older than what was seen before.
    RolledBack,
    /// Metadata is not signed by enough of the keys that count.
    Unsigned,
    /// A file is not the one that signed metadata describes.
    Mismatched,
    /// What was sent is no metadata.
    Malformed,
    /// A file that is listed is not there.
    Missing,
    /// A component is of no use as what it says it is.
    Unusable,
    /// There is no room on the disk.
    DiskFull,
    /// A file of ours cannot be read or written.
    Disk,
    /// A file of ours is damaged.
    Damaged,
    /// Another run is under way.
    Busy,
    /// Somebody ended it.
    Stopped,
    /// The program ended before it did.
    Killed,
    /// No such component.
    Unknown,
    /// There is nothing to go back to.
    NothingEarlier,
    /// There is nothing to release.
    NotHeld,
    /// Runs would begin too often, or too seldom.
    BadSchedule,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::NoSource,
        Self::NoRoot,
        Self::Unreachable,
        Self::Slow,
        Self::TooLong,
        Self::Expired,
        Self::RolledBack,
        Self::Unsigned,
        Self::Mismatched,
        Self::Malformed,
        Self::Missing,
        Self::Unusable,
        Self::DiskFull,
        Self::Disk,
        Self::Damaged,
        Self::Busy,
        Self::Stopped,
        Self::Killed,
        Self::Unknown,
        Self::NothingEarlier,
        Self::NotHeld,
        Self::BadSchedule,
    ];

    /// Its stable code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSource => "update_no_source",
            Self::NoRoot => "update_no_root",
            Self::Unreachable => "update_unreachable",
            Self::Slow => "update_slow",
            Self::TooLong => "update_too_long",
            Self::Expired => "update_expired",
            Self::RolledBack => "update_rolled_back",
            Self::Unsigned => "update_unsigned",
            Self::Mismatched => "update_mismatched",
            Self::Malformed => "update_malformed",
            Self::Missing => "update_missing",
            Self::Unusable => "update_unusable",
            Self::DiskFull => "update_disk_full",
            Self::Disk => "update_disk",
            Self::Damaged => "update_damaged",
            Self::Busy => "update_busy",
            Self::Stopped => "update_stopped",
            Self::Killed => "update_killed",
            Self::Unknown => "update_unknown_component",
            Self::NothingEarlier => "update_nothing_earlier",
            Self::NotHeld => "update_not_held",
            Self::BadSchedule => "update_bad_schedule",
        }
    }

    /// What to do; empty when the text says it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Unreachable | Self::Slow => {
                "look at the way to the source and at the proxy; what is in force stays, and the next run tries again"
            }
            Self::Missing => "see that the address is the repository's; if it is, have it published again",
            Self::TooLong | Self::Malformed | Self::Mismatched => {
                "tell whoever runs the repository: it is damaged, or somebody on the way changes it"
            }
            Self::Expired => {
                "look at this host's clock; if it is right, have the repository published anew: either nobody does, or somebody on the way holds back what is newer"
            }
            Self::RolledBack => {
                "a mirror that is behind catches up by itself; if this stays, somebody on the way, or at the source, sends old lists"
            }
            Self::Unsigned => {
                "ask whoever runs the repository whether its keys were replaced without a new root; if not, somebody sends a forged one"
            }
            Self::Unusable => "tell whoever publishes it",
            Self::Killed => {
                "see in the log of that time what ended the program: this host was switched off, or had no memory left, perhaps for what was fetched"
            }
            Self::DiskFull => "make room; what is in force stays, and the next run tries again",
            _ => "",
        }
    }
}

/// An update, or a change of it, that did not take place. What was in force is in force still.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{} ({})", .text, if .reason.advice().is_empty() { "" } else { ". What to do: " }, .reason.advice(), .reason.as_str())]
pub struct UpdateError {
    /// Why.
    pub reason: Reason,
    /// In words.
    pub text: String,
}

impl UpdateError {
    /// For a reason, in these words.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    pub(crate) fn file(error: FileError) -> Self {
        let reason = match &error {
            FileError::Io { source, .. } => of_io(source),
            _ => Reason::Disk,
        };
        Self::new(reason, error.to_string())
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::new(of_io(&source), format!("{}: {source}", path.display()))
    }

    fn of_link(error: &LinkError) -> Self {
        let reason = match error {
            LinkError::Missing(_) => Reason::Missing,
            LinkError::Connect(_)
            | LinkError::Status { .. }
            | LinkError::Broken { .. }
            | LinkError::File { .. }
            | LinkError::Refused(_) => Reason::Unreachable,
            LinkError::Slow { .. } => Reason::Slow,
            LinkError::Long(_) | LinkError::Many => Reason::TooLong,
        };
        Self::new(reason, error.to_string())
    }

    fn of_transport(error: &TransportError) -> Self {
        if let Some(error) = of_the_way(error) {
            return Self::of_link(error);
        }
        match error.source().and_then(|source| source.downcast_ref::<Tuf>()) {
            Some(error) => Self::of_tuf(error),
            None => Self::new(Reason::Unreachable, error.to_string()),
        }
    }

    /// What the library says, by our reasons. Its own words are kept: they name roles and versions.
    pub(crate) fn of_tuf(error: &Tuf) -> Self {
        let reason = match error {
            Tuf::Transport { source, .. } => return Self::of_transport(source),
            Tuf::ExpiredMetadata { .. } => Reason::Expired,
            Tuf::OlderMetadata { .. }
            | Tuf::OlderSnapshotInTimestamp { .. }
            | Tuf::SnapshotRoleMissing { .. }
            | Tuf::SnapshotRoleRollback { .. } => Reason::RolledBack,
            Tuf::VerifyMetadata { .. } | Tuf::VerifyRoleMetadata { .. } => Reason::Unsigned,
            Tuf::HashMismatch { .. } | Tuf::VersionMismatch { .. } => Reason::Mismatched,
            Tuf::MaxSizeExceeded { .. } | Tuf::MaxUpdatesExceeded { .. } => Reason::TooLong,
            Tuf::ParseTrustedMetadata { .. } | Tuf::VerifyTrustedMetadata { .. } => Reason::Damaged,
            other => of_cause(other),
        };
        Self::new(reason, writ_common::text::quoted(&whole(error)))
    }
}

/// Of errors that are about a file of ours, or about the metadata.
fn of_cause(error: &Tuf) -> Reason {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(error) = found.downcast_ref::<io::Error>() {
            return of_io(error);
        }
        cause = found.source();
    }
    Reason::Malformed
}

fn of_io(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Reason::DiskFull
        }
        _ => Reason::Disk,
    }
}

/// With causes that it does not name itself.
fn whole(error: &Tuf) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        let said = found.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = found.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_code_of_its_own() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }
}
