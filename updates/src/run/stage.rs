//! Staging: files go where they are used from. Nobody uses them yet.

use writ_common::files;

use super::Report;
use super::fetch::Arrival;
use super::verify::Verified;
use crate::folder::Folder;
use crate::reason::UpdateError;
use crate::{Name, Release};

/// What is in its place and can be brought into force by one rename.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) releases: Vec<(Name, Release)>,
    pub(super) relabelled: Vec<(Name, Release)>,
    pub(super) report: Report,
}

pub(super) fn stage(folder: &Folder, verified: Verified) -> Result<Staged, UpdateError> {
    let Verified { arrivals, relabelled, report } = verified;
    let mut releases = Vec::new();
    for Arrival { name, release, file, sha256: _ } in arrivals {
        let place = folder.file(&name, &release);
        if let Some(parent) = place.parent() {
            files::private_folder(parent).map_err(UpdateError::file)?;
        }
        // The name is the digest: what may be there already has the same bytes.
        files::rename(&file, &place).map_err(UpdateError::file)?;
        releases.push((name, release));
    }
    Ok(Staged { releases, relabelled, report })
}
