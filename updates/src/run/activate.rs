//! Activating: one rename brings all of a run into force.

use writ_common::checkpoint;
use writ_protocol::time::Timestamp;

use super::Report;
use super::stage::Staged;
use crate::folder::{Folder, Held};
use crate::reason::UpdateError;

pub(super) fn activate(folder: &Folder, staged: Staged, now: Timestamp) -> Result<Report, UpdateError> {
    let Staged { releases, mut report } = staged;
    let mut shelf = folder.shelf()?;
    for (name, release) in &releases {
        let before = shelf.0.remove(name);
        // A file that was lost and came again replaces nothing.
        let held = match before {
            Some(held) if held.active.sha256 == release.sha256 => held,
            before => {
                let earlier = before.map(|held| held.active);
                Held { active: release.clone(), since_ms: now.as_millis(), earlier, is_held: false }
            }
        };
        shelf.0.insert(name.clone(), held);
    }
    // Also when nothing is new: what an interrupted run left is removed with it.
    folder.put(&shelf)?;
    checkpoint!("update_activated");
    report.activated = releases;
    Ok(report)
}
