//! One file a verb.

mod actions;
mod agents;
mod alerts;
mod audit;
mod context;
mod doctor;
mod enroll;
mod entities;
mod evidence;
mod manager;
mod objects;
mod operators;
mod preview;
mod rollouts;
mod selectors;
mod send;
mod server;
mod track;
mod trust;
mod updates;
mod why;

use std::process::ExitCode;
use std::time::Duration;

use writ_common::backoff::Backoff;

use crate::args::{Arguments, Audit, Command, Evidence};
use crate::client::Client;
use crate::complete;
use crate::context::{Context, Contexts};
use crate::failure::Failure;

/// The first bound of the wait between attempts to reach a server.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait between them.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Rows asked for at a time.
const PAGE: u32 = 200;

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { output, context, patience, command } = arguments;
    let connect_once = async || {
        // A name on the command line is what the person means now.
        if context.is_none()
            && let Some(context) = Context::of_environment()?
        {
            return Client::connect(&context).await.map_err(|failure| failure.about("WRIT_SERVER"));
        }
        let contexts = Contexts::load()?;
        let (name, chosen) = contexts.choose(context.as_deref())?;
        let connected = Client::connect(chosen).await;
        let connected = connected.map_err(|failure| failure.about(&format!("context `{name}`")))?;
        Ok(connected.named(context.clone()))
    };
    let connect = async || {
        let trying = async {
            let mut backoff = Backoff::new(FIRST_BACKOFF, MAX_BACKOFF);
            loop {
                match connect_once().await {
                    Err(failure) if failure.may_pass() => tokio::time::sleep(backoff.after_failure()).await,
                    tried => return tried,
                }
            }
        };
        match patience {
            None => connect_once().await,
            // The last attempt says what is wrong.
            Some(patience) => match tokio::time::timeout(patience, trying).await {
                Ok(connected) => connected,
                Err(_) => connect_once().await,
            },
        }
    };
    match command {
        Command::Doctor => return doctor::run(output, context.as_deref()).await,
        Command::Context(command) => context::run(output, command).await?,
        Command::Enroll(command) => enroll::run(output, &connect().await?, command).await?,
        Command::Actions(command) => actions::run(output, &connect().await?, command).await?,
        Command::Agents(command) => agents::run(output, &connect().await?, command).await?,
        Command::Selectors(command) => selectors::run(output, &connect().await?, command).await?,
        Command::Send(command) => return send::run(output, &connect().await?, *command).await,
        Command::Commands(command) => return track::run(output, &connect().await?, command).await,
        Command::Rollouts(command) => return rollouts::run(output, &connect().await?, command).await,
        Command::Why { agent } => return why::run(output, &connect().await?, agent).await,
        Command::Evidence(Evidence::Export { command, file }) => {
            evidence::export(output, &connect().await?, command, &file).await?;
        }
        Command::Evidence(Evidence::Verify { file, pin }) => return evidence::verify(output, &file, pin),
        Command::Audit(Audit::Check { file, known }) => return audit::check(output, &file, known),
        Command::Audit(command) => return audit::run(output, &connect().await?, command).await,
        Command::Operator(command) => operators::run(output, &connect().await?, command).await?,
        Command::Trust(command) => return trust::run(output, &connect().await?, command).await,
        Command::Objects(command) => objects::run(output, &connect().await?, command).await?,
        Command::Updates(command) => updates::run(output, &connect().await?, &command).await?,
        Command::Manager(command) => return manager::run(output, &connect().await?, command).await,
        Command::Entities(command) => entities::run(output, &connect().await?, command).await?,
        Command::Instruct(command) => entities::instruct(output, &connect().await?, command).await?,
        Command::Alerts { all, since, verb } => {
            alerts::run(output, &connect().await?, (all, since), verb).await?;
        }
        Command::Completion { shell } => crate::output::text(complete::registration(shell)?.trim_end())?,
        Command::Server => server::run(output, &connect().await?).await?,
    }
    Ok(ExitCode::SUCCESS)
}
