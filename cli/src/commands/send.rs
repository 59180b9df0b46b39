//! `writ send`.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use writ_common::{files, say};
use writ_proto::admin::v1::submit_request::Action;
use writ_proto::admin::v1::{
    Command, GetCommandRequest, InventoryAction, NamedAction, NamedValue, PingAction, PreviewRequest,
    PreviewResponse, QuarantinedAction, ScanAction, SettingsAction, StopScanAction, SubmitRequest,
    UpdateComponentAction, UpgradeAction,
};

use writ_protocol::command::ActionClass;

use super::track::{self, Counts};
use super::{preview, rollouts};
use crate::args::{Delivery, Format, Send, Waves};
use crate::client::Client;
use crate::confirm;
use crate::failure::Failure;
use crate::output;
use crate::progress::Progress;

/// Agents failed or refused.
pub(super) const EXIT_AGENT: u8 = 1;
/// Not all answered.
pub(super) const EXIT_UNANSWERED: u8 = 6;

/// What is asked for, and of whom.
fn asked(verb: Send) -> Result<(Delivery, Action), Failure> {
    Ok(match verb {
        Send::Ping { delivery } => (delivery, Action::Ping(PingAction {})),
        Send::Action { name, parameters, secrets, delivery } => {
            let plain = |(name, value)| NamedValue { name, value, secret: false };
            let mut given: Vec<_> = parameters.into_iter().map(plain).collect();
            for (name, file) in secrets {
                let value = files::secret_line(Path::new(&file));
                let value = value.map_err(|error| Failure::local(error.to_string()))?;
                given.push(NamedValue { name, value: value.as_str().to_owned(), secret: true });
            }
            (delivery, Action::Run(NamedAction { name, parameters: given }))
        }
        Send::Inventory { delivery } => (delivery, Action::Inventory(InventoryAction {})),
        Send::Component { component, delivery } => {
            (delivery, Action::UpdateComponent(UpdateComponentAction { component, ..Default::default() }))
        }
        Send::Upgrade { wanted, greet_within, allow_older, delivery } => {
            let greet_within_seconds = u32::try_from(greet_within.as_secs().max(1)).unwrap_or(u32::MAX);
            let upgrade =
                UpgradeAction { version: wanted, greet_within_seconds, allow_older, packages: Vec::new() };
            (delivery, Action::Upgrade(upgrade))
        }
        Send::Scan {
            roots,
            exclude,
            remedy,
            strict,
            packaged,
            max_remedied,
            max_file_bytes,
            max_time,
            bytes_per_second,
            resolve,
            delivery,
        } => {
            let scan = ScanAction {
                roots,
                exclude,
                remedy: remedy.word().to_owned(),
                strict,
                packaged,
                max_remedied: max_remedied.unwrap_or(0),
                max_file_bytes: max_file_bytes.unwrap_or(0),
                max_seconds: u32::try_from(max_time.as_secs().max(1)).unwrap_or(u32::MAX),
                bytes_per_second: bytes_per_second.unwrap_or(0),
                resolve,
            };
            (delivery, Action::Scan(scan))
        }
        Send::StopScan { delivery } => (delivery, Action::StopScan(StopScanAction {})),
        Send::RestoreQuarantined { sha256, delivery } => {
            (delivery, Action::RestoreQuarantined(QuarantinedAction { sha256: sha256.to_string() }))
        }
        Send::DeleteQuarantined { sha256, delivery } => {
            (delivery, Action::DeleteQuarantined(QuarantinedAction { sha256: sha256.to_string() }))
        }
        Send::Settings { heartbeat, endpoints, log_filter, as_installed, delivery } => {
            if heartbeat.is_none() && endpoints.is_empty() && log_filter.is_empty() && !as_installed {
                let text = "name a setting; to have all of them as installed again: --as-installed";
                return Err(Failure::usage(text));
            }
            let millis = heartbeat.map_or(0, |every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX));
            (delivery, Action::Settings(SettingsAction { heartbeat_ms: millis, endpoints, log_filter }))
        }
    })
}

pub(super) async fn run(format: Format, client: &Client, verb: Send) -> Result<ExitCode, Failure> {
    let (delivery, action) = asked(verb)?;
    let Delivery { agents, all, selector, limit, dry_run, unchecked, yes, .. } = delivery;
    let Delivery { expires, wait, timeout, id, waves, .. } = delivery;
    let only_seed = Waves { seed: waves.seed, ..Waves::default() };
    if limit.is_none() && waves.seed.is_some() && waves == only_seed {
        let text = "--seed orders a rollout or picks agents: give --canary, --batch or --limit, too";
        return Err(Failure::usage(text));
    }
    let limit_seed = limit.map(|_| waves.seed.unwrap_or_else(any_seed));
    let rollout = rollouts::plan(waves, limit.is_some());
    let is_staged = rollout.is_some();
    let mut request = SubmitRequest {
        agents,
        all,
        // Less than a second is still a wish for a short life, not for the default.
        expires_in_seconds: expires.as_secs().max(1),
        action: Some(action),
        command_id: id.map_or_else(String::new, |id| id.to_string()),
        selector: selector.unwrap_or_default(),
        rollout,
        unchecked,
        audience_root: String::new(),
        limit: limit.unwrap_or(0),
        limit_seed: limit_seed.unwrap_or(0),
    };
    if let Some(seed) = limit_seed {
        say::aside(format_args!("the same agents another time: --seed {seed}"));
    }
    if dry_run {
        return preview::run(format, client, request).await.map(|()| ExitCode::SUCCESS);
    }
    if !yes && confirm::can_ask() {
        confirm(client, &mut request).await?;
    }
    let command = client.commands().submit(request).await?.into_inner();
    if !wait {
        let shown = track::show(command);
        let verb = if is_staged { "rollouts watch" } else { "commands show" };
        let next = client.typed(&format!("writ {verb} {}", output::short(&shown.command_id)));
        let fields =
            [("command", shown.command_id.clone()), ("state", shown.counts.describe()), ("next", next)];
        output::one(format, &shown, &fields)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Said at once: whatever becomes of the waiting, the command goes on.
    say::aside(format_args!("command {}", command.command_id));
    if is_staged {
        return rollouts::watch(format, client, command.command_id, timeout).await;
    }
    let latest = follow(client, command, timeout).await?;
    let counts = track::print(format, client, latest).await?;
    Ok(exit_code(counts))
}

/// What is asked for, without values that are secret.
fn described(request: &SubmitRequest) -> String {
    match &request.action {
        Some(Action::Run(run)) => {
            let value =
                |given: &NamedValue| if given.secret { "(secret)" } else { given.value.as_str() }.to_owned();
            let given = run.parameters.iter().map(|given| format!(" {}={}", given.name, value(given)));
            format!("{}{}", run.name, given.collect::<String>())
        }
        Some(Action::Ping(_)) => "ping".to_owned(),
        Some(Action::Inventory(_)) => "inventory".to_owned(),
        Some(Action::Settings(_)) => "settings".to_owned(),
        Some(Action::UpdateComponent(_)) => "update-component".to_owned(),
        Some(Action::Upgrade(upgrade)) => format!("upgrade to {}", upgrade.version),
        Some(Action::Scan(_)) => "scan".to_owned(),
        Some(Action::StopScan(_)) => "stop-scan".to_owned(),
        Some(Action::RestoreQuarantined(_)) => "restore-quarantined".to_owned(),
        Some(Action::DeleteQuarantined(_)) => "delete-quarantined".to_owned(),
        None => "nothing".to_owned(),
    }
}

/// A number that nobody could know before: each process hashes by keys of its own.
fn any_seed() -> u64 {
    (RandomState::new().hash_one(()) >> 12) + 1
}

/// Has somebody type for how many agents it is, where that matters. It is then sent to these, or to nobody.
async fn confirm(client: &Client, request: &mut SubmitRequest) -> Result<(), Failure> {
    let asked = PreviewRequest { request: Some(request.clone()), page_size: 1, page_token: String::new() };
    let shown = client.commands().preview(asked).await?.into_inner();
    let PreviewResponse { target_count, audience_root, action_class, not_allowing, seed, .. } = shown;
    // What would be refused anyway is not asked for.
    let is_refused = !shown.obstacle.is_empty() && !request.unchecked;
    if is_refused || (!request.all && action_class == ActionClass::Read.as_str()) {
        return Ok(());
    }
    let refusing = match not_allowing {
        0 => String::new(),
        some => format!(", of which {some} would refuse it (which, and why: --dry-run)"),
    };
    let whom = match shown.targets.as_slice() {
        [only] if target_count == 1 => only.agent_name.clone(),
        _ => format!("{target_count} agents"),
    };
    let what = format!("{}: class {action_class}, for {whom}{refusing}.", described(request));
    confirm::by_typing(&what, &target_count.to_string())?;
    request.audience_root = audience_root;
    if let Some(rollout) = &mut request.rollout {
        rollout.seed = seed;
    }
    Ok(())
}

pub(super) fn exit_code(counts: Counts) -> ExitCode {
    if counts.failed + counts.refused > 0 {
        ExitCode::from(EXIT_AGENT)
    } else if counts.done < counts.targets {
        ExitCode::from(EXIT_UNANSWERED)
    } else {
        ExitCode::SUCCESS
    }
}

/// Follows a command to its end, or as long as one wants to wait; the bar is on standard error.
pub(super) async fn follow(
    client: &Client,
    command: Command,
    timeout: Option<Duration>,
) -> Result<Command, Failure> {
    let mut latest = command;
    let counts = Counts::new(latest.progress);
    let mut progress = Progress::of(counts.targets, "answered");
    progress.show(counts.settled(), counts.targets, counts.describe());
    let request = GetCommandRequest { command_id: latest.command_id.clone() };
    let limit = timeout.unwrap_or(Duration::MAX);
    let watching = async {
        let mut changes = client.commands().watch(request).await?.into_inner();
        while let Some(change) = changes.message().await? {
            let counts = Counts::new(change.progress);
            progress.show(counts.settled(), counts.targets, counts.describe());
            latest = change;
        }
        Ok::<_, tonic::Status>(())
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, watching) => Some(ended),
        _ = tokio::signal::ctrl_c() => None,
    };
    progress.end();
    let id = output::short(&latest.command_id);
    let typed = |verb: &str| client.typed(&format!("writ commands {verb} {id}"));
    let goes_on = format!("the command goes on: {}; to end it: {}", typed("watch"), typed("stop"));
    let counts = Counts::new(latest.progress);
    match ended {
        None => say::aside(format_args!("writ: {goes_on}")),
        Some(Ok(Err(status))) => return Err(Failure::from(status).with_next(true, &goes_on)),
        Some(Ok(Ok(()))) if counts.settled() < counts.targets => {
            return Err(Failure::unreachable(format!("the server ended before all had answered; {goes_on}")));
        }
        Some(Ok(Ok(()))) => {}
        Some(Err(_)) => say::aside(format_args!(
            "writ: not all answered within {limit:?}; {goes_on}; why an agent does not answer: {}",
            client.typed("writ why AGENT")
        )),
    }
    Ok(latest)
}
