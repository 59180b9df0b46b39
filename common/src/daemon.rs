//! The one shape of every `main`: provider, signals, run, exit code.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::shutdown::Shutdown;

/// A wrong configuration or command line (`EX_CONFIG` is 78, but sysexits' `EX_USAGE` is what people check).
pub const EXIT_USAGE: u8 = 64;
/// Anything else that went wrong.
pub const EXIT_FAILURE: u8 = 1;

/// Why a program ends badly: its exit code and the text for the person who started it.
#[derive(Debug)]
pub struct Fatal {
    code: u8,
    message: String,
}

impl Fatal {
    /// The person must change something they wrote.
    pub fn usage(message: impl Display) -> Self {
        Self { code: EXIT_USAGE, message: message.to_string() }
    }

    /// Something in the world is not as it must be.
    pub fn failure(message: impl Display) -> Self {
        Self { code: EXIT_FAILURE, message: message.to_string() }
    }

    /// It failed, and what was printed says why.
    #[must_use]
    pub const fn said() -> Self {
        Self { code: EXIT_FAILURE, message: String::new() }
    }

    /// Failure with its causes, most specific last.
    pub fn caused(context: impl Display, error: &dyn std::error::Error) -> Self {
        let mut message = format!("{context}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { code: EXIT_FAILURE, message }
    }
}

impl Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// How many threads a program's tasks share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One, on hosts that have other things to do.
    One,
    /// One a core.
    PerCore,
}

/// Whether this process serves, and goes on when the terminal it was started from is closed.
static OUTLIVES_TERMINAL: AtomicBool = AtomicBool::new(false);

/// From here on SIGHUP is no wish to end: what runs would be cut off.
pub fn outlive_terminal() {
    OUTLIVES_TERMINAL.store(true, Ordering::Relaxed);
}

/// Lets this process open as many files as it may: a server has one socket a peer. A program that starts
/// others does not ask for this, for they would inherit it.
pub fn open_many_files() {
    let may = getrlimit(Resource::Nofile);
    // What cannot be raised stays, and the doctor says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: may.maximum, maximum: may.maximum });
}

/// Ends a program in good order when it is asked to, and keeps other signals from ending it in any other.
async fn listen(
    shutdown: Shutdown,
    mut ends: Vec<Signal>,
    mut hang_up: Vec<Signal>,
    mut others: Vec<Signal>,
) {
    loop {
        tokio::select! {
            () = any(&mut ends) => break,
            () = any(&mut hang_up) => match OUTLIVES_TERMINAL.load(Ordering::Relaxed) {
                true => info!("SIGHUP does not end this program, and reads no configuration; to do that, restart it"),
                false => break,
            },
            () = any(&mut others) => info!("a signal without a meaning here is ignored"),
            () = shutdown.requested() => return,
        }
    }
    shutdown.trigger();
}

async fn any(signals: &mut [Signal]) {
    poll_fn(|context| {
        let came = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if came { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Whether this process was started with SIGHUP ignored: the first bit of the set, proc(5).
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 == 1)
}

/// Runs a program's work with ring as the TLS provider. SIGTERM, SIGINT and SIGQUIT are the wish to end;
/// SIGHUP too, unless it serves.
#[must_use]
pub fn run<F>(name: &str, threads: Threads, work: impl FnOnce(Shutdown) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Fatal>>,
{
    // Explicit, because a dependency that brings another provider would make rustls panic at first use.
    // An error means it is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut runtime = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::PerCore => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            crate::say::aside(format_args!("{name}: cannot start: {error}"));
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let shutdown = Shutdown::new();
    let result = runtime.block_on(async {
        let ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()].map(signal);
        // `nohup` has decided already.
        let hang_up: Vec<_> =
            if is_hang_up_ignored() { Vec::new() } else { vec![signal(SignalKind::hangup())] };
        // Each of them would end the process at once, whatever it is doing.
        let others =
            [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()].map(signal);
        let all = [ends.into_iter().collect(), hang_up.into_iter().collect(), others.into_iter().collect()];
        let [Ok(ends), Ok(hang_up), Ok(others)] = all else {
            return Err(Fatal::failure("cannot listen for signals"));
        };
        shutdown.spawn(listen(shutdown.clone(), ends, hang_up, others));
        work(shutdown.clone()).await
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal { code, message }) if message.is_empty() => ExitCode::from(code),
        Err(Fatal { code, message }) => {
            crate::say::aside(format_args!("{name}: {message}"));
            ExitCode::from(code)
        }
    }
}
