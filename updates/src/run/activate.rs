//! Activating: one rename brings all of a run into force.

use writ_common::checkpoint;
use writ_protocol::time::Timestamp;

use super::Report;
use super::stage::Staged;
use crate::folder::{Folder, Held};
use crate::reason::UpdateError;

pub(super) fn activate(folder: &Folder, staged: Staged, now: Timestamp) -> Result<Report, UpdateError> {
    let Staged { releases, relabelled, mut report } = staged;
    let mut shelf = folder.shelf()?;
    for (name, release) in releases {
        let before = shelf.0.get(&name);
        // Somebody went back while this run was under way.
        if before.is_some_and(|held| held.is_held && held.active.sha256 != release.sha256) {
            report.held.push((name, release));
            continue;
        }
        // A file that was lost and came again replaces nothing.
        let held = match before {
            Some(held) if held.active.sha256 == release.sha256 => {
                Held { active: release.clone(), ..held.clone() }
            }
            before => {
                let earlier = before.map(|held| held.active.clone());
                Held { active: release.clone(), since_ms: now.as_millis(), earlier, is_held: false }
            }
        };
        shelf.0.insert(name.clone(), held);
        report.activated.push((name, release));
    }
    for (name, release) in relabelled {
        if let Some(held) = shelf.0.get_mut(&name).filter(|held| held.active.sha256 == release.sha256) {
            held.active = release;
        }
    }
    // Also when nothing is new: what an interrupted run left is removed with it.
    folder.put(&shelf)?;
    checkpoint!("update_activated");
    Ok(report)
}
