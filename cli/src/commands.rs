//! One file a verb.

mod agents;
mod alerts;
mod audit;
mod context;
mod enroll;
mod entities;
mod evidence;
mod manager;
mod operators;
mod preview;
mod send;
mod server;
mod track;
mod trust;
mod why;

use std::process::ExitCode;

use crate::args::{Arguments, Command, Evidence};
use crate::client::Client;
use crate::context::{Context, Contexts};
use crate::failure::Failure;

/// Rows asked for at a time.
const PAGE: u32 = 200;

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { output, context, command } = arguments;
    let connect = async || {
        // A name on the command line is what the person means now.
        if context.is_none()
            && let Some(context) = Context::of_environment()?
        {
            return Client::connect(&context).await.map_err(|failure| failure.about("WRIT_SERVER"));
        }
        let contexts = Contexts::load()?;
        let (name, chosen) = contexts.choose(context.as_deref())?;
        Client::connect(chosen).await.map_err(|failure| failure.about(&format!("context `{name}`")))
    };
    match command {
        Command::Context(command) => context::run(output, command).await?,
        Command::Enroll(command) => enroll::run(output, &connect().await?, command).await?,
        Command::Agents(command) => agents::run(output, &connect().await?, command).await?,
        Command::Send(command) => return send::run(output, &connect().await?, command).await,
        Command::Commands(command) => track::run(output, &connect().await?, command).await?,
        Command::Why { agent } => return why::run(output, &connect().await?, agent).await,
        Command::Evidence(Evidence::Export { command, file }) => {
            evidence::export(output, &connect().await?, command, &file).await?;
        }
        Command::Evidence(Evidence::Verify { file, pin }) => return evidence::verify(output, &file, pin),
        Command::Audit(command) => return audit::run(output, &connect().await?, command).await,
        Command::Operator(command) => operators::run(output, &connect().await?, command).await?,
        Command::Trust(command) => return trust::run(output, &connect().await?, command).await,
        Command::Manager(command) => return manager::run(output, &connect().await?, command).await,
        Command::Entities(command) => entities::run(output, &connect().await?, command).await?,
        Command::Instruct(command) => entities::instruct(output, &connect().await?, command).await?,
        Command::Alerts => alerts::run(output, &connect().await?).await?,
        Command::Server => server::run(output, &connect().await?).await?,
    }
    Ok(ExitCode::SUCCESS)
}
