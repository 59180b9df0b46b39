//! writ: what an operator types.

mod args;
mod client;
mod commands;
mod context;
mod failure;
mod output;
mod secret;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    let format = arguments.output;
    // Explicit, because a dependency that brings another provider would make rustls panic at first use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::Failure::local(format!("cannot start: {error}")).report(format),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(code) => code,
        Err(failure) => failure.report(format),
    }
}
