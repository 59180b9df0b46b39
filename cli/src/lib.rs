//! writ: what an operator types.

mod args;
mod client;
mod commands;
mod complete;
mod confirm;
mod context;
mod failure;
mod output;
mod progress;
mod secret;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

/// Whether the answer is for a program, when the arguments cannot be parsed.
fn asks_for_json() -> bool {
    let arguments: Vec<_> = std::env::args().collect();
    let is_json = |format: &str| matches!(format, "json" | "jsonl");
    arguments.iter().any(|argument| argument.strip_prefix("--output=").is_some_and(is_json))
        || arguments.iter().any(|argument| argument.strip_prefix("-o").is_some_and(is_json))
        || arguments.windows(2).any(|pair| matches!(pair[0].as_str(), "--output" | "-o") && is_json(&pair[1]))
}

/// The command line, for manuals and shells.
#[must_use]
pub fn command_line() -> clap::Command {
    args::Arguments::command()
}

/// What a shell reads, so that it offers what the program and its server know; `None` for a shell it does not
/// know.
#[must_use]
pub fn completion(shell: &str) -> Option<String> {
    let shell = <args::Shell as clap::ValueEnum>::from_str(shell, false).ok()?;
    complete::registration(shell).ok()
}

/// Explicit, because a dependency that brings another provider would make rustls panic at first use.
fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    complete::answer_shells();
    let arguments = match args::Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are no mistakes, and people read mistakes as clap words them.
        Err(error) if !error.use_stderr() || !asks_for_json() => error.exit(),
        Err(error) => {
            let text = error.render().to_string();
            let said = text.trim_start_matches("error: ").lines().map(str::trim);
            let said: Vec<_> = said
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
                .collect();
            return failure::Failure::usage(said.join(" ").trim_end()).report(args::Format::Json);
        }
    };
    let format = arguments.output;
    use_ring();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::Failure::local(format!("cannot start: {error}")).report(format),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(code) => code,
        Err(failure) => failure.report(format),
    }
}
