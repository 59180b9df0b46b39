//! A control group of its own for what an action starts (cgroups(7), version 2): children stay in it, whatever they do to their process
//! group, their user or their environment. Only where the agent is alone in a group that it may divide, as its unit says (`Delegate=yes`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::Pid;
use tokio::process::{Child, Command};

/// How often those are looked for that a program forked before it was moved.
const ROUNDS: u32 = 8;
/// How the groups are called, so that the agent removes none but its own.
const PREFIX: &str = "action-";

/// The agent's own group, if it is alone there. Asked before it starts anything.
static OWN: LazyLock<Option<Own>> = LazyLock::new(Own::found);

#[derive(Debug)]
struct Own {
    folder: PathBuf,
    /// Whoever holds it is the only one that starts a program: what is new in the group comes from that start.
    turn: Mutex<()>,
}

impl Own {
    fn found() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        let folder = folder(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?;
        let is_alone = members(&folder).ok()? == [rustix::process::getpid()];
        is_alone.then(|| Self { folder, turn: Mutex::new(()) })
    }
}

/// Where the group stands that this process is in, from the kernel's two tables (proc(5)).
fn folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    let below = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let fields: Vec<_> = mount.split(' ').collect();
        let (root, point) = (fields.get(3)?, fields.get(4)?);
        kind.starts_with("cgroup2 ")
            .then(|| own.strip_prefix(root).ok().map(|own| Path::new(point).join(own)))
    })??;
    // Outside of what this process may see.
    (!below.components().any(|part| part.as_os_str() == "..")).then_some(below)
}

/// Who is in a group.
fn members(folder: &Path) -> io::Result<Vec<Pid>> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).collect())
}

/// What one action started. Killed when dropped.
#[derive(Debug)]
pub(super) struct ActionGroup(PathBuf);

impl ActionGroup {
    /// Those of it that have not ended.
    pub(super) fn members(&self) -> Vec<Pid> {
        members(&self.0).unwrap_or_default()
    }

    fn take(&self, pid: Pid) -> io::Result<()> {
        let moved = std::fs::write(self.0.join("cgroup.procs"), pid.as_raw_nonzero().to_string());
        match moved {
            // It has ended.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(()),
            moved => moved,
        }
    }
}

impl Drop for ActionGroup {
    fn drop(&mut self) {
        // Kernels before 5.14 do not know it; who asks for the members kills each.
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
    }
}

/// Starts a program, in a group of its own where there can be one.
///
/// # Errors
/// The program's, as of [`Command::spawn`].
pub(super) fn spawn(command: &mut Command, word: &str) -> io::Result<(Child, Option<ActionGroup>)> {
    let Some(own) = OWN.as_ref() else { return Ok((command.spawn()?, None)) };
    let _turn = own.turn.lock().unwrap_or_else(PoisonError::into_inner);
    remove_empty(&own.folder);
    let folder = own.folder.join(format!("{PREFIX}{word}"));
    let group = std::fs::create_dir(&folder).ok().map(|()| ActionGroup(folder));
    let before = members(&own.folder);
    let child = command.spawn()?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let (Ok(before), Some(leader), Some(group)) = (before, leader, group) else { return Ok((child, None)) };
    if group.take(leader).is_err() {
        return Ok((child, None));
    }
    // What it forks from here on begins in its group; what it forked before is new in the agent's.
    for _ in 0..ROUNDS {
        let mut new = members(&own.folder).unwrap_or_default();
        new.retain(|pid| !before.contains(pid));
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = group.take(pid);
        }
    }
    Ok((child, Some(group)))
}

/// Removes the groups of actions that ended; the kernel keeps those in which something lives.
fn remove_empty(own: &Path) {
    for entry in std::fs::read_dir(own).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            remove(&entry.path());
        }
    }
}

/// A program may have made groups below its own.
fn remove(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_group_is_found_wherever_version_2_is_mounted() {
        let unit = "0::/system.slice/writ-agent.service\n";
        let mount = |root: &str, point: &str| {
            format!(
                "25 1 0:22 / /proc rw - proc proc rw\n30 22 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
            )
        };
        let found =
            |mounts: &str, groups: &str| folder(mounts, groups).map(|folder| folder.display().to_string());
        let at = "/sys/fs/cgroup/system.slice/writ-agent.service";
        assert_eq!(found(&mount("/", "/sys/fs/cgroup"), unit).as_deref(), Some(at));
        // Beside version 1.
        let hybrid = format!("4:memory:/a\n1:name=systemd:/b\n{unit}");
        let at = "/sys/fs/cgroup/unified/system.slice/writ-agent.service";
        assert_eq!(found(&mount("/", "/sys/fs/cgroup/unified"), &hybrid).as_deref(), Some(at));
        // In a container that sees its own part alone, and in one that sees less than its own.
        assert_eq!(
            found(&mount("/machine/a", "/sys/fs/cgroup"), "0::/machine/a/b\n").as_deref(),
            Some("/sys/fs/cgroup/b")
        );
        assert_eq!(found(&mount("/machine/a", "/sys/fs/cgroup"), unit), None);
        assert_eq!(found(&mount("/", "/sys/fs/cgroup"), "0::/../other\n"), None);
        // Version 1 alone.
        assert_eq!(found("25 1 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "4:cpu:/\n"), None);
    }
}
