//! `writ manager`: the line from this server up to its Control Manager.

mod settings;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tonic_types::StatusExt as _;
use writ_proto::admin::v1 as proto;

use self::settings::{confirm_authority, show_settings, wire};
use crate::args::Format;
use crate::args::manager::{Changes, Manager, Settings, UpdateSource};
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

pub(super) async fn run(format: Format, client: &Client, verb: Manager) -> Result<ExitCode, Failure> {
    let mut line = client.control_manager();
    let status = match verb {
        Manager::Settings(Settings::Show) => {
            let settings = line.get_settings(proto::GetManagerSettingsRequest {}).await?.into_inner();
            show_settings(format, client, &settings)?;
            return Ok(ExitCode::SUCCESS);
        }
        Manager::Settings(Settings::Set(changes)) => {
            confirm_authority(&changes)?;
            let settings = line.set_settings(wire(*changes)?).await?.into_inner();
            show_settings(format, client, &settings)?;
            return Ok(ExitCode::SUCCESS);
        }
        Manager::Test(changes) => return test(format, client, *changes).await,
        Manager::Register { update_source } => register(client, update_source, false).await?,
        Manager::Update => line.update(proto::UpdateManagerRequest {}).await?.into_inner(),
        Manager::ReRegister { update_source } => register(client, update_source, true).await?,
        Manager::Unregister => line.unregister(proto::UnregisterFromManagerRequest {}).await?.into_inner(),
        Manager::Status => line.get_status(proto::GetManagerStatusRequest {}).await?.into_inner(),
        Manager::UpdateSource { source: wanted } => {
            let update_source = source(Some(wanted)).into();
            line.set_update_source(proto::SetUpdateSourceRequest { update_source }).await?.into_inner()
        }
    };
    show_status(format, client, &status)?;
    Ok(ExitCode::SUCCESS)
}

fn source(wanted: Option<UpdateSource>) -> proto::UpdateSource {
    match wanted {
        None => proto::UpdateSource::Unspecified,
        Some(UpdateSource::Default) => proto::UpdateSource::Default,
        Some(UpdateSource::Manager) => proto::UpdateSource::Manager,
    }
}

/// Asks on a terminal what a program has to say by a flag.
async fn register(
    client: &Client,
    wanted: Option<UpdateSource>,
    is_anew: bool,
) -> Result<proto::ManagerStatus, Failure> {
    let ask = async |wanted| {
        let update_source = source(wanted).into();
        let mut line = client.control_manager();
        if is_anew {
            line.reregister(proto::ReregisterWithManagerRequest { update_source }).await
        } else {
            line.register(proto::RegisterWithManagerRequest { update_source }).await
        }
    };
    let refused = match ask(wanted).await {
        Ok(status) => return Ok(status.into_inner()),
        Err(refused) => refused,
    };
    let is_question =
        refused.get_details_error_info().is_some_and(|info| info.reason == "update_source_unanswered");
    if !is_question || !std::io::stdin().is_terminal() {
        return Err(Failure::from(refused)
            .with_next(is_question, "--update-source manager or --update-source default"));
    }
    writ_common::say::aside(format_args!("{}", refused.message()));
    let yes =
        confirmed("Use the Control Manager as the update source? No: stay with the current one [y/n] ")?;
    let answer = if yes { UpdateSource::Manager } else { UpdateSource::Default };
    Ok(ask(Some(answer)).await?.into_inner())
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    loop {
        let _ = write!(std::io::stderr(), "{question}");
        let mut line = String::new();
        let read =
            std::io::stdin().read_line(&mut line).map_err(|error| Failure::local(error.to_string()))?;
        match line.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ if read == 0 => return Err(Failure::local("nothing was answered; nothing was done")),
            _ => {}
        }
    }
}

#[derive(Serialize)]
struct Leg {
    leg: String,
    outcome: &'static str,
    elapsed_us: u64,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

/// Shows the legs as they are gone; exit code 1 when one failed.
async fn test(format: Format, client: &Client, changes: Changes) -> Result<ExitCode, Failure> {
    let changes = wire(changes)?;
    let is_as_saved = changes == proto::SetManagerSettingsRequest::default();
    let request = proto::TestManagerConnectionRequest { changes: Some(changes) };
    let mut legs = client.control_manager().test_connection(request).await?.into_inner();
    let mut shown = Vec::new();
    while let Some(leg) = legs.message().await? {
        let outcome = match leg.outcome() {
            proto::LegOutcome::Passed => "passed",
            proto::LegOutcome::Failed => "failed",
            proto::LegOutcome::Skipped => "skipped",
            proto::LegOutcome::Unspecified => "unknown",
        };
        let name = leg.leg().as_str_name().trim_start_matches("CONNECTION_LEG_").to_ascii_lowercase();
        let row = Leg {
            leg: name,
            outcome,
            elapsed_us: leg.elapsed_us,
            detail: output::plain(&leg.detail),
            advice: leg.advice,
        };
        if format.is_for_people() {
            let elapsed = Duration::from_micros(row.elapsed_us).as_secs_f64() * 1000.0;
            output::text(&format!("{:21} {:8} {elapsed:>9.1} ms  {}", row.leg, row.outcome, row.detail))?;
        }
        shown.push(row);
    }
    let failed = shown.iter().find(|leg| leg.outcome == "failed");
    let advice = failed.map(|leg| format!("\n{} failed: {}\nNext: {}", leg.leg, leg.detail, leg.advice));
    let status = client.control_manager().get_status(proto::GetManagerStatusRequest {}).await?.into_inner();
    let code = if failed.is_some() { ExitCode::from(1) } else { ExitCode::SUCCESS };
    match format {
        Format::Json | Format::Jsonl | Format::Csv => output::one(format, &shown, &[])?,
        Format::Table | Format::Wide => output::text(&match (advice, status.next.as_str()) {
            (Some(advice), _) => advice,
            (None, _) if !is_as_saved => {
                let next = client.typed("writ manager settings set");
                format!("\nEverything that was tried passed. Next: save it: {next}, with the same flags")
            }
            (None, "") => "\nEverything that was tried passed.".to_owned(),
            (None, next) => format!("\nEverything that was tried passed. Next: {next}"),
        })?,
    }
    if shown.is_empty() {
        return Err(Failure::unreachable("the server ended the test before its first leg"));
    }
    Ok(code)
}

#[derive(Serialize)]
struct Status {
    state: &'static str,
    next: String,
    entity_id: String,
    entity_key_id: String,
    manager_id: String,
    manager_version: String,
    epoch: u64,
    certificate_authorization: bool,
    sandbox_connected: bool,
    mode: &'static str,
    last_contact: String,
    last_error: String,
    update_source: &'static str,
    update_source_offered: bool,
    settings_not_sent: bool,
    departure_pending: bool,
    instructions_open: u64,
    instructions_refused: u64,
}

fn show_status(format: Format, client: &Client, status: &proto::ManagerStatus) -> Result<(), Failure> {
    let state = match status.state() {
        proto::ManagerLinkState::Unspecified => "unknown to this version",
        proto::ManagerLinkState::Unregistered => "unregistered",
        proto::ManagerLinkState::Registering => "registering",
        proto::ManagerLinkState::Waiting => "waiting",
        proto::ManagerLinkState::Registered => "registered",
        proto::ManagerLinkState::Rejected => "rejected",
        proto::ManagerLinkState::Unknown => "unknown",
    };
    let update_source = match status.update_source() {
        proto::UpdateSource::Manager => "manager",
        proto::UpdateSource::Default => "default",
        proto::UpdateSource::Custom => "custom",
        proto::UpdateSource::Unspecified => "unknown to this version",
    };
    let shown = Status {
        state,
        next: status.next.clone(),
        entity_id: status.entity_id.clone(),
        entity_key_id: status.entity_key_id.clone(),
        manager_id: status.manager_id.clone(),
        manager_version: status.manager_version.clone(),
        epoch: status.epoch,
        certificate_authorization: status.certificate_authorization,
        sandbox_connected: status.sandbox_connected,
        mode: if status.two_way { "two-way" } else { "one-way" },
        last_contact: output::time(status.last_contact_ms),
        last_error: output::plain(&status.last_error),
        update_source,
        update_source_offered: status.update_source_offered,
        settings_not_sent: status.settings_not_sent,
        departure_pending: status.departure_pending,
        instructions_open: status.instructions_open,
        instructions_refused: status.instructions_refused,
    };
    output::one(format, &shown, &fields(&shown, client))
}

/// A status for people.
fn fields(shown: &Status, client: &Client) -> Vec<(&'static str, String)> {
    let mut fields = vec![("state", shown.state.to_owned())];
    if !shown.next.is_empty() {
        fields.push(("next", shown.next.clone()));
    }
    if shown.state != "unregistered" {
        fields.extend([
            ("entity", shown.entity_id.clone()),
            ("manager", format!("{} (version {})", shown.manager_id, shown.manager_version)),
            (
                "authorization",
                if shown.certificate_authorization {
                    "by certificate"
                } else {
                    "none: its instructions and updates are refused"
                }
                .to_owned(),
            ),
            ("mode", shown.mode.to_owned()),
            ("sandbox", if shown.sandbox_connected { "connected" } else { "not connected" }.to_owned()),
            ("last contact", shown.last_contact.clone()),
            (
                "instructions",
                format!("{} open, {} refused", shown.instructions_open, shown.instructions_refused),
            ),
        ]);
    }
    let source = match (shown.update_source, shown.update_source_offered) {
        ("manager", _) => "the Control Manager".to_owned(),
        ("default", true) => {
            let take = client.typed("writ manager update-source manager");
            format!("the configured update server; the manager offers itself: {take}")
        }
        ("default", false) => "the configured update server".to_owned(),
        (other, _) => other.to_owned(),
    };
    fields.push(("updates from", source));
    if shown.settings_not_sent {
        fields
            .push(("settings", format!("changed and not yet sent: {}", client.typed("writ manager update"))));
    }
    if shown.departure_pending {
        fields.push(("unregistered", "the manager was not reached yet and is told later".to_owned()));
    }
    if !shown.last_error.is_empty() {
        fields.push(("last error", shown.last_error.clone()));
    }
    fields
}
