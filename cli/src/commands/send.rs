//! `writ send`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use writ_proto::admin::v1::submit_request::Action;
use writ_proto::admin::v1::{
    Command, GetCommandRequest, InventoryAction, NamedAction, NamedValue, PingAction, SettingsAction,
    SubmitRequest,
};

use super::preview;
use super::track::{self, Counts};
use crate::args::{Delivery, Format, Send};
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

const EXIT_AGENT: u8 = 1;
const EXIT_UNANSWERED: u8 = 6;

pub(super) async fn run(format: Format, client: &Client, verb: Send) -> Result<ExitCode, Failure> {
    let (delivery, action) = match verb {
        Send::Ping { delivery } => (delivery, Action::Ping(PingAction {})),
        Send::Action { name, parameters, delivery } => {
            let parameters = parameters.into_iter().map(|(name, value)| NamedValue { name, value }).collect();
            (delivery, Action::Run(NamedAction { name, parameters }))
        }
        Send::Inventory { delivery } => (delivery, Action::Inventory(InventoryAction {})),
        Send::Settings { heartbeat, endpoints, log_filter, as_installed, delivery } => {
            if heartbeat.is_none() && endpoints.is_empty() && log_filter.is_empty() && !as_installed {
                let text = "name a setting; to have all of them as installed again: --as-installed";
                return Err(Failure::usage(text));
            }
            let millis = heartbeat.map_or(0, |every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX));
            (delivery, Action::Settings(SettingsAction { heartbeat_ms: millis, endpoints, log_filter }))
        }
    };
    let Delivery { agents, all, selector, dry_run, expires, wait, timeout, id } = delivery;
    let request = SubmitRequest {
        agents,
        all,
        // Less than a second is still a wish for a short life, not for the default.
        expires_in_seconds: expires.as_secs().max(1),
        action: Some(action),
        command_id: id.map_or_else(String::new, |id| id.to_string()),
        selector: selector.unwrap_or_default(),
    };
    if dry_run {
        return preview::run(format, client, request).await.map(|()| ExitCode::SUCCESS);
    }
    let command = client.commands().submit(request).await?.into_inner();
    if !wait {
        let shown = track::show(command);
        let next = format!("writ commands show {}", shown.command_id);
        let fields =
            [("command", shown.command_id.clone()), ("state", shown.counts.describe()), ("next", next)];
        output::one(format, &shown, &fields)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Said at once: whatever becomes of the waiting, the command goes on.
    eprintln!("command {}", command.command_id);
    let latest = follow(client, command, timeout).await?;
    let counts = track::print(format, client, latest).await?;
    Ok(exit_code(counts))
}

fn exit_code(counts: Counts) -> ExitCode {
    if counts.failed + counts.refused > 0 {
        ExitCode::from(EXIT_AGENT)
    } else if counts.done < counts.targets {
        ExitCode::from(EXIT_UNANSWERED)
    } else {
        ExitCode::SUCCESS
    }
}

/// Follows a command to its end, or as long as one wants to wait; the bar is on standard error.
async fn follow(client: &Client, command: Command, timeout: Option<Duration>) -> Result<Command, Failure> {
    let mut latest = command;
    let counts = Counts::new(latest.progress);
    let bar = ProgressBar::with_draw_target(Some(counts.targets), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} answered  {msg}  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let request = GetCommandRequest { command_id: latest.command_id.clone() };
    let mut changes = client.commands().watch(request).await?.into_inner();
    let limit = timeout.unwrap_or(Duration::MAX);
    let is_terminal = std::io::stderr().is_terminal();
    let mut shown_tenths = None;
    let watching = async {
        while let Some(change) = changes.message().await? {
            let counts = Counts::new(change.progress);
            let settled = counts.settled();
            bar.set_position(settled);
            bar.set_message(counts.describe());
            // A log has no bar; it gets a line for every tenth.
            let tenths = Some(settled * 10 / counts.targets.max(1));
            if !is_terminal && tenths != shown_tenths {
                eprintln!("{settled}/{} answered: {}", counts.targets, counts.describe());
                shown_tenths = tenths;
            }
            latest = change;
        }
        Ok::<_, tonic::Status>(())
    };
    let ended = tokio::time::timeout(limit, watching).await;
    bar.finish();
    match ended {
        Ok(done) => done?,
        Err(_) => eprintln!(
            "writ: not all answered within {limit:?}; the command goes on: writ commands show {}; why an agent does not answer: writ why AGENT",
            latest.command_id
        ),
    }
    Ok(latest)
}
