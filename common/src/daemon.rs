//! The one shape of every `main`: provider, signals, run, exit code.

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

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

/// Runs a program's work with ring as the TLS provider and SIGTERM and SIGINT as the wish to end.
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
            eprintln!("{name}: cannot start: {error}");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let shutdown = Shutdown::new();
    let result = runtime.block_on(async {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return Err(Fatal::failure("cannot listen for signals"));
        };
        let asked = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                () = asked.requested() => {}
            }
            asked.trigger();
        });
        work(shutdown.clone()).await
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal { code, message }) => {
            eprintln!("{name}: {message}");
            ExitCode::from(code)
        }
    }
}
