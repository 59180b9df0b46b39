//! A control group of its own for what an action starts (cgroups(7), version 2): children stay in it,
//! whatever they do to their process group, their user or their environment. Only where systemd gave the
//! agent its group to divide (`Delegate=` in the unit).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::process::Pid;
use tokio::process::{Child, Command};
use tracing::{info, warn};

/// How the groups are called, so that the agent removes none but its own.
const PREFIX: &str = "action-";

/// The agent's own group, if it was given one.
static OWN: LazyLock<Option<Own>> = LazyLock::new(Own::found);

#[derive(Debug)]
struct Own {
    folder: PathBuf,
    /// One program at a time is started: the agent is in the program's group meanwhile.
    turn: Mutex<()>,
}

impl Own {
    fn found() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        let folder = folder(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?;
        is_delegated(&folder).then(|| Self { folder, turn: Mutex::new(()) })
    }
}

/// Finds out whether each action gets a control group, and says so.
pub(crate) fn prepare() {
    match OWN.as_ref() {
        Some(own) => info!(group = %own.folder.display(), "each action has a control group of its own"),
        None => info!("actions have no control groups: the agent was given none to divide"),
    }
}

/// Whether systemd marked a group as its service's to divide (systemd.resource-control(5), since version
/// 251).
fn is_delegated(folder: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(folder, "user.delegate", &mut value)
        .is_ok_and(|length| value.get(..length) == Some(b"1"))
}

/// Where the group stands that this process is in, from the kernel's two tables (proc(5)).
fn folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    let below = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = own.strip_prefix(root).ok().filter(|_| kind.starts_with("cgroup2 "))?;
        Some(Path::new(point).join(below))
    })?;
    // Outside of what this process may see.
    (!below.components().any(|part| part.as_os_str() == "..")).then_some(below)
}

/// The groups below one.
fn groups(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// What one action started. Killed when dropped.
#[derive(Debug)]
pub(super) struct ActionGroup(PathBuf);

impl ActionGroup {
    /// Those of it that have not ended.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(super) fn members(&self) -> io::Result<Vec<Pid>> {
        let mut all = Vec::new();
        match collect(&self.0, &mut all) {
            // Removed, because nothing was left in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            collected => collected.map(|()| all),
        }
    }
}

/// A program may have made groups below its own.
fn collect(folder: &Path, all: &mut Vec<Pid>) -> io::Result<()> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs"))?;
    all.extend(text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)));
    groups(folder).try_for_each(|below| collect(&below, all))
}

impl Drop for ActionGroup {
    fn drop(&mut self) {
        // Kernels before 5.14 do not know it; who asks for the members kills each.
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
    }
}

/// Starts a program, in a group of its own where there can be one. Blocks for some milliseconds.
///
/// # Errors
/// The program's, as of [`Command::spawn`].
pub(super) fn spawn(command: &mut Command, word: &str) -> io::Result<(Child, Option<ActionGroup>)> {
    let Some(own) = OWN.as_ref() else { return Ok((command.spawn()?, None)) };
    let _turn = own.turn.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    groups(&own.folder).filter(is_ours).for_each(|action| remove_ended(&action));
    let folder = own.folder.join(format!("{PREFIX}{word}"));
    // A process is born where its parent is. Moved after its start, what it forked meanwhile would be left
    // behind.
    let entered = std::fs::create_dir(&folder).and_then(|()| enter(&folder));
    if let Err(error) = entered {
        warn!(%error, "an action has no control group of its own");
        return Ok((command.spawn()?, None));
    }
    let started = command.spawn();
    if let Err(error) = enter(&own.folder) {
        // Its group holds the agent, and must not be killed.
        warn!(%error, "the agent is left in an action's control group");
        return Ok((started?, None));
    }
    Ok((started?, Some(ActionGroup(folder))))
}

/// Moves this process.
fn enter(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("cgroup.procs"), "0")
}

/// Removes the group of an action that ended, and those below it.
fn remove_ended(action: &Path) {
    let events = std::fs::read_to_string(action.join("cgroup.events")).unwrap_or_default();
    if events.lines().any(|line| line == "populated 0") {
        groups(action).for_each(|below| remove_ended(&below));
        let _ = std::fs::remove_dir(action);
    }
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
        let part = mount("/machine/a", "/sys/fs/cgroup");
        assert_eq!(found(&part, "0::/machine/a/b\n").as_deref(), Some("/sys/fs/cgroup/b"));
        assert_eq!(found(&part, unit), None);
        assert!(found(&(part + &mount("/", "/mnt")), unit).is_some(), "another mount shows it");
        assert_eq!(found(&mount("/", "/sys/fs/cgroup"), "0::/../other\n"), None);
        // Version 1 alone.
        assert_eq!(found("25 1 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "4:cpu:/\n"), None);
    }
}
