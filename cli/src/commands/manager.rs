//! `writ manager`: the line from this server up to its Control Manager.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tonic_types::StatusExt as _;
use writ_common::files;
use writ_common::id::Digest;
use writ_common::keys::pem;
use writ_common::keys::vouched::PinnedAuthority;
use writ_proto::admin::v1 as proto;
use zeroize::Zeroizing;

use crate::args::Format;
use crate::args::manager::{Changes, Manager, Proxy, Settings, UpdateSource};
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

pub(super) async fn run(format: Format, client: &Client, verb: Manager) -> Result<ExitCode, Failure> {
    let mut line = client.control_manager();
    let status = match verb {
        Manager::Settings(Settings::Show) => {
            let settings = line.get_settings(proto::GetManagerSettingsRequest {}).await?.into_inner();
            show_settings(format, &settings)?;
            return Ok(ExitCode::SUCCESS);
        }
        Manager::Settings(Settings::Set(changes)) => {
            confirm_authority(&changes)?;
            let settings = line.set_settings(wire(*changes)?).await?.into_inner();
            show_settings(format, &settings)?;
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
    show_status(format, &status)?;
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
    eprintln!("{}", refused.message());
    let yes =
        confirmed("Use the Control Manager as the update source? No: stay with the current one [y/n] ")?;
    let answer = if yes { UpdateSource::Manager } else { UpdateSource::Default };
    Ok(ask(Some(answer)).await?.into_inner())
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    loop {
        eprint!("{question}");
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

/// The CA's file as it will be sent; `None`: it is to be removed. What must not leave this host is refused here.
fn authority(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    if path.as_os_str() == "none" {
        return Ok(None);
    }
    let bytes = files::read(path).map_err(|error| Failure::local(error.to_string()))?;
    let place = path.display();
    if bytes.is_empty() {
        return Err(Failure::local(format!("--ca {place}: the file is empty; `none` removes the CA")));
    }
    if bytes.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err(Failure::local(format!(
            "--ca {place}: it holds a private key, which was not sent; give the certificate alone, and keep the key where it was made"
        )));
    }
    Ok(Some(bytes))
}

/// What is about to be trusted, before it is.
fn confirm_authority(changes: &Changes) -> Result<(), Failure> {
    let Some(path) = changes.ca.as_deref() else { return Ok(()) };
    let Some(bytes) = authority(path)? else { return Ok(()) };
    let der = pem::certificates(&bytes).ok().and_then(|found| found.into_iter().next()).unwrap_or(bytes);
    // What is none is refused by the server, with its reason.
    let Ok(read) = PinnedAuthority::at_any_date(&der) else { return Ok(()) };
    eprintln!(
        "Certificate authority of the manager:\n  subject    {}\n  issuer     {}\n  valid      {} to {}\n  SHA-256    {}",
        output::plain(&read.subject),
        output::plain(&read.issuer),
        read.not_before,
        read.not_after,
        Digest::of(&der)
    );
    if changes.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "compare the SHA-256 above with what the manager's operator reads out, and say --yes; nothing was saved",
        ));
    }
    if confirmed("Compare the SHA-256 with what the manager's operator reads out. Save it? [y/n] ")? {
        Ok(())
    } else {
        Err(Failure::local("not saved"))
    }
}

/// A secret from a file, or asked for; the terminal shows nothing of it.
fn secret(path: &Path, what: &str) -> Result<Zeroizing<String>, Failure> {
    if path.as_os_str() == "-" {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::usage(format!(
                "{what}: `-` asks on a terminal, and this is none; give a file"
            )));
        }
        return rpassword::prompt_password(format!("{what}: "))
            .map(Zeroizing::new)
            .map_err(|error| Failure::local(error.to_string()));
    }
    if path.as_os_str() == "none" {
        return Ok(Zeroizing::default());
    }
    let bytes = files::read_secret(path).map_err(|error| Failure::local(error.to_string()))?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::local(format!("{}: not UTF-8 text", path.display())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Failure::local(format!(
            "{}: the file is empty; `none` removes what is set",
            path.display()
        )));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn wire(changes: Changes) -> Result<proto::SetManagerSettingsRequest, Failure> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let secret = |path: Option<std::path::PathBuf>, what| {
        path.map(|path| secret(&path, what).map(|secret| secret.to_string())).transpose()
    };
    let authority = changes.ca.map(|path| authority(&path).map(Option::unwrap_or_default)).transpose()?;
    let proxy_protocol = changes.proxy.map(|proxy| match proxy {
        Proxy::None => proto::ProxyProtocol::Unspecified,
        Proxy::Http => proto::ProxyProtocol::HttpConnect,
        Proxy::Socks4 => proto::ProxyProtocol::Socks4,
        Proxy::Socks5 => proto::ProxyProtocol::Socks5,
    });
    Ok(proto::SetManagerSettingsRequest {
        display_name: changes.display_name,
        address: changes.address,
        port: changes.port,
        clear_text_i_know_what_i_do: changes.clear_text_i_know_what_i_do,
        authority,
        authority_overlap_seconds: changes.ca_overlap.map_or(0, |overlap| overlap.as_secs()),
        without_authorization_i_know_what_i_do: changes.without_authorization_i_know_what_i_do,
        web_user: changes.web_user,
        web_password: secret(changes.web_password_file, "Password of the web server")?,
        proxy_protocol: proxy_protocol.map(Into::into),
        proxy_address: changes.proxy_address,
        proxy_port: changes.proxy_port,
        proxy_user: changes.proxy_user,
        proxy_password: secret(changes.proxy_password_file, "Password of the proxy")?,
        forwarding_address: if changes.one_way { Some(String::new()) } else { changes.two_way },
        registration_token: secret(changes.registration_token_file, "Registration token")?,
        heartbeat_ms: changes.heartbeat.map(millis),
        abnormal_after_ms: changes.abnormal_after.map(millis),
    })
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
        if format == Format::Table {
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
        Format::Json => output::one(format, &shown, &[])?,
        Format::Table => output::text(&match (advice, status.next.as_str()) {
            (Some(advice), _) => advice,
            (None, _) if !is_as_saved => {
                "\nEverything that was tried passed. Next: save it: writ manager settings set, with the same flags".to_owned()
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
struct Shown {
    display_name: String,
    address: String,
    port: u32,
    clear_text: bool,
    authorities: Vec<Authority>,
    without_authorization: bool,
    web_user: String,
    web_password_set: bool,
    proxy: &'static str,
    proxy_address: String,
    proxy_port: u32,
    proxy_user: String,
    proxy_password_set: bool,
    two_way: String,
    registration_token_set: bool,
    heartbeat_ms: u64,
    abnormal_after_ms: u64,
    not_sent: bool,
}

#[derive(Serialize)]
struct Authority {
    subject: String,
    issuer: String,
    not_before: String,
    not_after: String,
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_until: Option<String>,
}

fn show_settings(format: Format, settings: &proto::ManagerSettings) -> Result<(), Failure> {
    let proxy = match settings.proxy_protocol() {
        proto::ProxyProtocol::Unspecified => "none",
        proto::ProxyProtocol::HttpConnect => "http",
        proto::ProxyProtocol::Socks4 => "socks4",
        proto::ProxyProtocol::Socks5 => "socks5",
    };
    let authority = |row: &proto::PinnedAuthorityRow| Authority {
        subject: row.subject.clone(),
        issuer: row.issuer.clone(),
        not_before: output::time(row.not_before_ms),
        not_after: output::time(row.not_after_ms),
        sha256: row.sha256.clone(),
        accepted_until: (row.accepted_until_ms > 0).then(|| output::time(row.accepted_until_ms)),
    };
    let shown = Shown {
        display_name: settings.display_name.clone(),
        address: settings.address.clone(),
        port: settings.port,
        clear_text: settings.clear_text,
        authorities: settings.authorities.iter().map(authority).collect(),
        without_authorization: settings.without_authorization,
        web_user: settings.web_user.clone(),
        web_password_set: settings.web_password_set,
        proxy,
        proxy_address: settings.proxy_address.clone(),
        proxy_port: settings.proxy_port,
        proxy_user: settings.proxy_user.clone(),
        proxy_password_set: settings.proxy_password_set,
        two_way: settings.forwarding_address.clone(),
        registration_token_set: settings.registration_token_set,
        heartbeat_ms: settings.heartbeat_ms,
        abnormal_after_ms: settings.abnormal_after_ms,
        not_sent: settings.not_sent,
    };
    let set = |user: &str, is_set: bool| match (user.is_empty(), is_set) {
        (true, _) => "none".to_owned(),
        (false, true) => format!("{user}, password set"),
        (false, false) => format!("{user}, no password"),
    };
    let authorities: Vec<_> = shown
        .authorities
        .iter()
        .map(|one| {
            let end = one.accepted_until.as_ref().map(|until| format!(", replaced, accepted until {until}"));
            format!(
                "{} (SHA-256 {}…, until {}{})",
                one.subject,
                &one.sha256[..16.min(one.sha256.len())],
                one.not_after,
                end.unwrap_or_default()
            )
        })
        .collect();
    let trust = match (authorities.is_empty(), shown.without_authorization) {
        (false, _) => authorities.join("; "),
        (true, true) => "none: nobody says who answers, and nothing it says is obeyed".to_owned(),
        (true, false) => "not uploaded yet: --ca FILE".to_owned(),
    };
    let proxy = if proxy == "none" {
        proxy.to_owned()
    } else {
        let login = set(&shown.proxy_user, shown.proxy_password_set);
        format!("{proxy} {}:{}, user {login}", shown.proxy_address, shown.proxy_port)
    };
    let seconds = |millis: u64| humantime::format_duration(Duration::from_millis(millis)).to_string();
    let fields = [
        ("display name", shown.display_name.clone()),
        (
            "manager",
            if shown.address.is_empty() {
                "no address is set".to_owned()
            } else {
                format!("{} port {}", shown.address, shown.port)
            },
        ),
        (
            "channel",
            if shown.clear_text { "clear text: whoever listens reads along" } else { "TLS" }.to_owned(),
        ),
        ("CA", trust),
        ("web server", set(&shown.web_user, shown.web_password_set)),
        ("proxy", proxy),
        (
            "mode",
            if shown.two_way.is_empty() {
                "one-way".to_owned()
            } else {
                format!("two-way by {}", shown.two_way)
            },
        ),
        (
            "token",
            if shown.registration_token_set { "set" } else { "none: the manager's operator approves" }
                .to_owned(),
        ),
        (
            "heartbeat",
            format!("{}, abnormal after {}", seconds(shown.heartbeat_ms), seconds(shown.abnormal_after_ms)),
        ),
        (
            "sent",
            if shown.not_sent { "not yet: writ manager update" } else { "nothing has to be" }.to_owned(),
        ),
    ];
    output::one(format, &shown, &fields)
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

fn show_status(format: Format, status: &proto::ManagerStatus) -> Result<(), Failure> {
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
        proto::UpdateSource::Unspecified | proto::UpdateSource::Default => "default",
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
    let mut fields = vec![("state", shown.state.to_owned())];
    if !shown.next.is_empty() {
        fields.push(("next", shown.next.clone()));
    }
    if state != "unregistered" {
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
    let source = match (update_source, shown.update_source_offered) {
        ("manager", _) => "the Control Manager",
        (_, true) => {
            "the configured update server; the manager offers itself: writ manager update-source manager"
        }
        (_, false) => "the configured update server",
    };
    fields.push(("updates from", source.to_owned()));
    if shown.settings_not_sent {
        fields.push(("settings", "changed and not yet sent: writ manager update".to_owned()));
    }
    if shown.departure_pending {
        fields.push(("unregistered", "the manager was not reached yet and is told later".to_owned()));
    }
    if !shown.last_error.is_empty() {
        fields.push(("last error", shown.last_error.clone()));
    }
    output::one(format, &shown, &fields)
}
