//! A running daemon, its log, and what an operator's command line said.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use serde_json::Value;

use crate::python;

/// How long a story waits for anything before it fails. Generous: the machine may be busy; a good run never
/// gets near.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so that no log speaks of.
///
/// # Panics
/// When it never is.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "the end of patience is a time")]
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// A binary of this build, beside the one that runs.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let folder = here.ancestors().find(|folder| folder.join("writ").is_file());
    let path =
        folder.unwrap_or_else(|| panic!("no writ beside {}; run: make build", here.display())).join(name);
    assert!(path.is_file(), "{} is missing; run the tests with: make test", path.display());
    path
}

thread_local! {
    /// The network namespace this thread starts programs in.
    static HOST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Starts whatever is started meanwhile on a host of a story's own network.
pub fn within<T>(host: &str, work: impl FnOnce() -> T) -> T {
    let before = HOST.replace(Some(host.to_owned()));
    let done = work();
    HOST.set(before);
    done
}

/// A program that `make` unpacked below `target`, if it is one of those; else as it is named.
pub(crate) fn tool(name: &str) -> PathBuf {
    let unpacked = ["target/network/bin", "target/install/unpacked/bin"];
    let places = unpacked.map(|folder| python::root().join(folder).join(name));
    places.into_iter().find(|place| place.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

pub(crate) fn command(program: &Path) -> Command {
    let program = &program.to_str().map_or_else(|| program.to_owned(), tool);
    let host = HOST.with_borrow(Clone::clone);
    #[expect(clippy::disallowed_methods, reason = "tests start what they test")]
    let mut command = match host {
        Some(host) => {
            // It becomes the program: the same process.
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &host]).arg(program);
            command
        }
        None => Command::new(program),
    };
    // Whatever the caller has set must not change a story.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WRIT")) {
        command.env_remove(name);
    }
    command
}

/// A running daemon and its log so far.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grown: Condvar,
}

impl Log {
    /// A test that fails while it looks must not keep others from saying why.
    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Daemon {
    pub(crate) fn spawn(name: &str, mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stderr, writer) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.lock().0.push(line);
                writer.grown.notify_all();
            }
            writer.lock().1 = true;
            writer.grown.notify_all();
        });
        Self { name: name.to_owned(), child, log }
    }

    /// Waits for a log line with this message whose fields satisfy a condition; the first such line, old or
    /// new.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for(&self, message: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let find = |lines: &[String]| {
            lines.iter().find_map(|line| {
                let fields = serde_json::from_str::<Value>(line).ok()?.get("fields")?.clone();
                (fields["message"] == message && matches(&fields)).then_some(fields)
            })
        };
        let waiting = self.log.lock();
        let (lines, _) = self
            .log
            .grown
            .wait_timeout_while(waiting, PATIENCE, |(lines, is_over)| find(lines).is_none() && !*is_over)
            .unwrap();
        find(&lines.0).unwrap_or_else(|| {
            panic!("{} never said {message:?}; it said:\n{}", self.name, lines.0.join("\n"))
        })
    }

    /// Waits until there are so many lines with this message.
    ///
    /// # Panics
    /// When they do not come.
    pub fn wait_for_count(&self, message: &str, count: usize) {
        let waiting = self.log.lock();
        let (lines, _) = self
            .log
            .grown
            .wait_timeout_while(waiting, PATIENCE, |(lines, is_over)| {
                with_message(lines, message).len() < count && !*is_over
            })
            .unwrap();
        let found = with_message(&lines.0, message).len();
        assert!(
            found >= count,
            "{} said {message:?} {found} times, not {count}; it said:\n{}",
            self.name,
            lines.0.join("\n")
        );
    }

    /// How many lines with this message there are.
    #[must_use]
    pub fn count(&self, message: &str) -> usize {
        self.lines(message).len()
    }

    /// The fields of all lines with this message.
    #[must_use]
    pub fn lines(&self, message: &str) -> Vec<Value> {
        with_message(&self.log.lock().0, message)
    }

    /// Everything it said.
    #[must_use]
    pub fn said(&self) -> String {
        self.log.lock().0.join("\n")
    }

    /// kill -9, as power failures and the OOM killer do.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same while others still look at it.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn kill_in_place(&self) {
        self.signal("-9");
    }

    /// Has `strace` write its system calls of some kinds to a file, until that is interrupted.
    ///
    /// # Panics
    /// When it may not.
    #[must_use]
    pub fn trace(&self, calls: &str, to: &Path) -> Self {
        let mut command = command(Path::new("strace"));
        command.args(["-f", "-e", calls, "-p", &self.pid().to_string(), "-o"]).arg(to);
        let strace = Self::spawn("strace", command);
        until("strace watches", || strace.said().contains("attached"));
        strace
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `-STOP`.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, signal: &str) {
        let mut kill = command(Path::new("/bin/kill"));
        assert!(kill.args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) -> ExitStatus {
        let mut kill = command(Path::new("/bin/kill"));
        assert!(kill.arg(self.child.id().to_string()).status().unwrap().success());
        let waiting = self.log.lock();
        let (lines, _) =
            self.log.grown.wait_timeout_while(waiting, PATIENCE, |(_, is_over)| !*is_over).unwrap();
        assert!(lines.1, "{} did not end; it said:\n{}", self.name, lines.0.join("\n"));
        drop(lines);
        self.child.wait().unwrap()
    }

    /// Waits until it ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let waiting = self.log.lock();
        let (lines, _) =
            self.log.grown.wait_timeout_while(waiting, PATIENCE, |(_, is_over)| !*is_over).unwrap();
        assert!(lines.1, "{} did not end; it said:\n{}", self.name, lines.0.join("\n"));
        let said = lines.0.join("\n");
        drop(lines);
        (self.child.wait().unwrap(), said)
    }
}

fn with_message(lines: &[String], message: &str) -> Vec<Value> {
    let fields = |line: &String| Some(serde_json::from_str::<Value>(line).ok()?.get("fields")?.clone());
    lines.iter().filter_map(fields).filter(|fields| fields["message"] == message).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.said());
        }
    }
}

/// A state in which a daemon stops until the story lets it go, or kills it.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) variable: String,
    pub(crate) reached: mpsc::Receiver<std::os::unix::net::UnixStream>,
}

impl Checkpoint {
    /// Waits until the daemon stands there; dropping what is returned lets it go on.
    ///
    /// # Panics
    /// When it never gets there.
    #[must_use]
    pub fn reached(&self) -> std::os::unix::net::UnixStream {
        let mut stream = self
            .reached
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{} was never reached", self.variable));
        let mut name = vec![0; self.variable.split('=').next().unwrap().len()];
        stream.read_exact(&mut name).unwrap();
        stream
    }
}

/// Runs a program to its end, with nothing on standard input.
pub(crate) fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{command:?}: {error}; make test and test-install install what is needed")
    });
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What the operator's command line said.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, if it went well.
    ///
    /// # Panics
    /// When it did not.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl Said {
    /// The same, if it ended with this exit code.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn failed(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}
