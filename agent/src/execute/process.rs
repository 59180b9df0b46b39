//! One process: its own group, a clean environment, bounded output, killed with its children, those that left
//! its group too.

use std::collections::HashSet;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group, test_kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use writ_protocol::id::{Digest, random_bytes};
use writ_protocol::receipt::Ending;

use super::Ended;
use super::action::Invocation;
use super::action::{others_may_change_what_runs, script_fault};
use super::cgroup::{self, ActionGroup};

/// Read at a time from a process's output.
const READ_BYTES: usize = 8 << 10;
/// How long pipes are read after the leader and its group are gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often it is looked whether all of what was told to end has.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What is stopped is told to end, and killed so much later.
const GRACE: Duration = Duration::from_secs(5);

/// Kills the group when dropped, so that nothing of an action outlives its execution, however that ends.
struct Group(Option<Pid>);

impl Group {
    fn is_gone(&self) -> bool {
        self.0.is_none_or(|leader| matches!(test_kill_process_group(leader), Err(Errno::SRCH)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // "No such process" is what we want to hear.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Whether no process of a group is left.
#[must_use]
pub(crate) fn is_group_gone(group: u32) -> bool {
    let leader = i32::try_from(group).ok().and_then(Pid::from_raw);
    leader.is_some_and(|leader| matches!(test_kill_process_group(leader), Err(Errno::SRCH)))
}

/// The variable by which what an action started is known again; a child may leave its group, but inherits
/// this (proc(5), environ).
const MARK: &str = "WRIT_EXECUTION";
/// Of an environment so much is looked at; the kernel lets it be no longer unless somebody raised the stack's
/// limit.
const ENVIRONMENT_BYTES: u64 = 2 << 20;
/// Bit 19 of a set of capabilities.
const CAP_SYS_PTRACE: u64 = 1 << 19;
/// How often what was killed is looked for again: it may have started others meanwhile.
const ROUNDS: u32 = 8;

/// How what an action started is known.
#[derive(Debug)]
enum Kin {
    /// By their control group.
    Grouped(ActionGroup),
    /// By the variable they inherited.
    Marked(Vec<u8>),
    /// Not at all: the kernel does not show another user's environment.
    Hidden,
}

/// What of an action left its process group.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// So many, which were killed.
    Killed(usize),
    /// Nobody knows.
    Unknown,
}

impl Left {
    fn describe(&self) -> Option<String> {
        match self {
            Self::Unknown => Some(
                "what left its process group is not known: it ran as another user and without a control group, or hides what is in it"
                    .to_owned(),
            ),
            Self::Killed(0) => None,
            Self::Killed(1) => Some("a process that had left its process group was killed".to_owned()),
            Self::Killed(left) => {
                Some(format!("{left} processes that had left its process group were killed"))
            }
        }
    }
}

impl Kin {
    /// `is_other`: it runs as another user than the agent.
    fn of(group: Option<ActionGroup>, word: &str, is_other: bool) -> Self {
        match group {
            Some(group) => Self::Grouped(group),
            None if is_other && !may_look_into_others() => Self::Hidden,
            None => Self::Marked(format!("{MARK}={word}").into_bytes()),
        }
    }

    fn alive(&self) -> Option<Vec<Pid>> {
        match self {
            Self::Grouped(group) => group.members().ok(),
            Self::Marked(mark) => Some(marked(mark)),
            Self::Hidden => None,
        }
    }

    /// Ends those that left the process group.
    fn end(&self, group: Option<Pid>) -> Left {
        let mut ended = HashSet::new();
        for _ in 0..ROUNDS {
            let Some(mut found) = self.alive() else { return Left::Unknown };
            // Those of its group are killed already, and may not be gone yet.
            let has_left = |pid: &Pid| getpgid(Some(*pid)).is_ok_and(|its| Some(its) != group);
            found.retain(|pid| has_left(pid) && ended.insert(*pid));
            if found.is_empty() {
                break;
            }
            for pid in found {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        Left::Killed(ended.len())
    }
}

/// Whether this process may read the environment of other users' (capabilities(7), CAP_SYS_PTRACE).
fn may_look_into_others() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & CAP_SYS_PTRACE != 0)
}

/// Processes with this variable in the environment they were started with.
fn marked(mark: &[u8]) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let mut environment = Vec::new();
        let file = std::fs::File::open(entry.path().join("environ")).ok()?;
        file.take(ENVIRONMENT_BYTES).read_to_end(&mut environment).ok()?;
        environment.split(|byte| *byte == 0).any(|variable| variable == mark).then_some(pid)
    });
    found.collect()
}

pub(super) async fn run(
    invocation: Invocation,
    on_group: impl FnOnce(u32) + Send,
    stopped: impl Future<Output = ()> + Send,
) -> Ended {
    let Invocation { program, arguments, working_directory, timeout, max_output, user, uid, secrets } =
        invocation;
    // Once more: the list was read when the agent started, and packages are replaced and rights changed
    // since.
    let fault = others_may_change_what_runs(&program, uid).or_else(|| script_fault(&program));
    if let Some(fault) = fault {
        return Ended::quiet(Ending::NotStarted, fault);
    }
    // Of this one start alone: another agent on this host may carry out the same command.
    let word = hex::encode(random_bytes::<16>());
    #[expect(clippy::disallowed_methods, reason = "the home of processes")]
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .current_dir(working_directory)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env(MARK, &word)
        .envs(secrets.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // Its other groups go with it: the standard library clears them for a process that root gives another
    // user.
    let is_other = user.as_ref().is_some_and(|user| user.uid != uid);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let mark = word.clone();
    let started = tokio::task::spawn_blocking(move || cgroup::spawn(&mut command, &mark)).await;
    let (mut child, own_group) = match started.unwrap_or_else(|ended| Err(ended.into())) {
        Ok(started) => started,
        Err(error) => {
            return Ended::quiet(Ending::NotStarted, format!("{}: {error}", program.display()));
        }
    };
    let leader = child.id();
    if let Some(leader) = leader {
        on_group(leader);
    }
    let leader = leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let group = Group(leader);
    let kin = Kin::of(own_group, &word, is_other);
    let mut collected =
        Collected { kept: Vec::new(), max: max_output, bytes: 0, digest: Context::new(&SHA256) };
    let told = AtomicBool::new(false);
    let stop = async {
        stopped.await;
        told.store(true, Ordering::Relaxed);
        if let Some(leader) = leader {
            let _ = kill_process_group(leader, Signal::TERM);
        }
        tokio::time::sleep(GRACE).await;
    };
    // After its grace, and at the time-out, the group is killed where it is dropped.
    let ended = tokio::select! {
        ended = tokio::time::timeout(timeout, collect((&mut child, group), &mut collected, &told)) => {
            ended.map_err(|_| ())
        }
        () = stop => Err(()),
    };
    let left = kin.end(leader);
    let (ending, mut details) = match ended {
        Ok(Ok((status, _, true))) => {
            (Ending::Stopped, vec![format!("it ended when it was told to: {}", ending(status).describe())])
        }
        Err(()) if told.load(Ordering::Relaxed) => {
            (Ending::Stopped, vec![format!("killed: it did not end within {GRACE:?} of being told to")])
        }
        Ok(Ok((status, is_read, false))) => {
            let held = "something it started left its process group and holds its output: it may go on";
            let is_held = !is_read && left == Left::Killed(0);
            (ending(status), if is_held { vec![held.to_owned()] } else { Vec::new() })
        }
        Ok(Err(error)) => (Ending::Indeterminate, vec![format!("the process was lost: {error}")]),
        Err(()) => (Ending::TimedOut, vec![format!("killed after {timeout:?}")]),
    };
    details.extend(left.describe());
    collected.end(ending, details.join("; "))
}

struct Collected {
    kept: Vec<u8>,
    max: usize,
    bytes: u64,
    digest: Context,
}

impl Collected {
    fn take(&mut self, bytes: &[u8]) {
        let room = self.max.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.digest.update(bytes);
    }

    fn end(self, ending: Ending, detail: String) -> Ended {
        let mut output_digest = [0; 32];
        output_digest.copy_from_slice(self.digest.finish().as_ref());
        Ended {
            ending,
            output: Bytes::from(self.kept),
            output_bytes: self.bytes,
            output_digest: Digest::from_bytes(output_digest),
            detail,
            listed: 0,
        }
    }
}

/// Reads both outputs, in the order they come, until the leader ends; then what is left in the pipes. Whether
/// they were read to their end, and whether the leader ended after it was told to.
async fn collect(
    (child, group): (&mut Child, Group),
    collected: &mut Collected,
    told: &AtomicBool,
) -> std::io::Result<(ExitStatus, bool, bool)> {
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    let status = loop {
        tokio::select! {
            biased;
            read = read_some(&mut stdout, &mut out) => collected.take(&out[..read]),
            read = read_some(&mut stderr, &mut err) => collected.take(&err[..read]),
            status = child.wait() => break status?,
        }
    };
    let was_told = told.load(Ordering::Relaxed);
    if was_told {
        // What it started was told, too, and has the same time to end.
        while !group.is_gone() {
            tokio::select! {
                biased;
                read = read_some(&mut stdout, &mut out) => collected.take(&out[..read]),
                read = read_some(&mut stderr, &mut err) => collected.take(&err[..read]),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
    // Whatever the leader left behind ends with it, and with that the pipes do. A child that left the group
    // may hold them open for ever; it is not waited for.
    drop(group);
    let rest = async {
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                biased;
                read = read_some(&mut stdout, &mut out) => collected.take(&out[..read]),
                read = read_some(&mut stderr, &mut err) => collected.take(&err[..read]),
            }
        }
    };
    let is_read = tokio::time::timeout(LAST_WORDS, rest).await.is_ok();
    Ok((status, is_read, was_told))
}

/// Reads from a pipe that is still open; waits for ever on a closed one.
async fn read_some<R: tokio::io::AsyncRead + Unpin>(pipe: &mut Option<R>, buffer: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    match open.read(buffer).await {
        Ok(read) if read > 0 => read,
        Ok(_) | Err(_) => {
            *pipe = None;
            0
        }
    }
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Killed(u32::try_from(signal).unwrap_or(0)),
        (None, None) => Ending::Indeterminate,
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::super::action::Secrets;
    use super::*;

    async fn unstopped(invocation: Invocation, on_group: impl FnOnce(u32) + Send) -> Ended {
        run(invocation, on_group, std::future::pending()).await
    }

    #[tokio::test]
    async fn what_is_stopped_is_told_to_end_and_its_output_kept() {
        let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 600 & wait; done";
        let (started, stopped) = tokio::sync::oneshot::channel();
        let stopped = async { stopped.await.unwrap() };
        let whole = Invocation { max_output: 4096, ..invocation("/bin/sh", &["-c", script]) };
        let ended = run(whole, |_| started.send(()).unwrap(), stopped).await;
        assert_eq!(ended.ending, Ending::Stopped, "{ended:?}");
        let said = String::from_utf8_lossy(&ended.output).into_owned();
        // Told before its shell had set the trap, it ends by the signal.
        assert!(said.ends_with("bye\n") || ended.detail.contains("killed by signal 15"), "{said} {ended:?}");
    }

    #[tokio::test]
    async fn what_a_stopped_script_had_started_has_time_to_end_too() {
        let folder = tempfile::tempdir().unwrap();
        let (up, mark) = (folder.path().join("up"), folder.path().join("tidy"));
        let (is_up, tidied) = (up.display(), mark.display());
        // The shell that waits has no trap and dies at once.
        let child = format!(
            "trap 'sleep 0.2; : > {tidied}; exit 0' TERM; : > {is_up}; while :; do sleep 600 & wait; done"
        );
        let script = format!("/bin/sh -c \"{child}\"; true");
        let is_ready = async {
            while !up.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = run(invocation("/bin/sh", &["-c", &script]), |_| {}, is_ready).await;
        assert_eq!(ended.ending, Ending::Stopped, "{ended:?}");
        assert!(mark.exists(), "its child tidied up: {ended:?}");
    }

    #[tokio::test]
    async fn what_does_not_end_when_told_is_killed() {
        let script = "trap '' TERM; echo up; while :; do sleep 600 & wait; done";
        let ended = run(invocation("/bin/sh", &["-c", script]), |_| {}, std::future::ready(())).await;
        assert_eq!(ended.ending, Ending::Stopped, "{ended:?}");
    }

    fn invocation(program: &str, arguments: &[&str]) -> Invocation {
        Invocation {
            program: program.into(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            working_directory: "/".into(),
            timeout: Duration::from_secs(20),
            max_output: 16,
            user: None,
            uid: 0,
            secrets: Secrets::default(),
        }
    }

    #[tokio::test]
    async fn output_is_kept_to_its_cap_and_counted_beyond() {
        let ended = unstopped(invocation("/usr/bin/seq", &["1", "10000"]), |_| {}).await;
        let whole: String = (1..=10_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(ended.ending, Ending::Exited(0));
        assert_eq!(ended.output.as_ref(), &whole.as_bytes()[..16]);
        assert_eq!(ended.output_bytes, u64::try_from(whole.len()).unwrap());
        assert_eq!(ended.output_digest, Digest::of(whole.as_bytes()));
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let ended =
            unstopped(Invocation { max_output: 4096, ..invocation("/usr/bin/env", &[]) }, |_| {}).await;
        let output = String::from_utf8(ended.output.to_vec()).unwrap();
        let mut names: Vec<_> =
            output.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, ["LANG", "PATH", "WRIT_EXECUTION"]);
    }

    #[tokio::test]
    async fn a_process_past_its_time_is_killed_with_its_children() {
        let mut slow = invocation("/bin/sh", &["-c", "sleep 600 & sleep 600"]);
        slow.timeout = Duration::from_millis(300);
        let mut group = 0;
        let ended = unstopped(slow, |leader| group = leader).await;
        assert_eq!(ended.ending, Ending::TimedOut);
        wait_until_gone(group).await;
    }

    #[tokio::test]
    async fn children_left_behind_end_with_the_leader() {
        let mut group = 0;
        let ended =
            unstopped(invocation("/bin/sh", &["-c", "sleep 600 & echo left"]), |leader| group = leader).await;
        assert_eq!((ended.ending, ended.output.as_ref()), (Ending::Exited(0), b"left\n".as_slice()));
        wait_until_gone(group).await;
    }

    #[tokio::test]
    async fn children_that_left_the_group_are_killed_and_told() {
        let script = "setsid sh -c \"echo \\$\\$ > $0; exec sleep 600\" & read left < $0; echo $left";
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let ended = unstopped(invocation("/bin/sh", &["-c", script, pipe.to_str().unwrap()]), |_| {}).await;
        assert_eq!(ended.ending, Ending::Exited(0));
        assert_eq!(ended.detail, "a process that had left its process group was killed");
        let left: u32 = String::from_utf8(ended.output.to_vec()).unwrap().trim().parse().unwrap();
        wait_until_gone(left).await;
    }

    /// The kernel removes killed processes in its own time, seconds on the busiest machine.
    async fn wait_until_gone(group: u32) {
        for _ in 0..20_000_000 {
            if is_group_gone(group) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("process group {group} is still there");
    }

    #[tokio::test]
    async fn a_missing_program_is_not_started_and_says_so() {
        let ended = unstopped(invocation("/nowhere/at/all", &[]), |_| {}).await;
        assert_eq!(ended.ending, Ending::NotStarted);
        assert!(ended.detail.contains("/nowhere/at/all"));
    }
}
