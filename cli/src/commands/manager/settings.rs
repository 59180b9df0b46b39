//! What an operator sets of the line to a Control Manager, and what is shown of it.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::keys::vouched::PinnedAuthority;
use writ_common::text::NotOneLine;
use writ_proto::admin::v1 as proto;
use writ_protocol::id::Digest;
use zeroize::Zeroizing;

use super::confirmed;
use crate::args::Format;
use crate::args::manager::{Changes, Proxy};
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

/// The CA's file as it will be sent; `None`: it is to be removed. What must not leave this host is refused
/// here.
fn authority(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    if path.as_os_str() == "none" {
        return Ok(None);
    }
    let bytes = files::read(path).map_err(|error| Failure::local(error.to_string()))?;
    let place = path.display();
    if bytes.is_empty() {
        return Err(Failure::local(format!("--ca {place}: the file is empty; `none` removes the CA")));
    }
    if pem::holds_private_key(&bytes) {
        return Err(Failure::local(format!(
            "--ca {place}: it holds a private key, which was not sent; give the certificate alone, and keep the key where it was made"
        )));
    }
    // Only what was read as a certificate goes anywhere.
    let found =
        pem::certificates(&bytes).map_err(|error| Failure::local(format!("--ca {place}: {error}")))?;
    let blocks = found.iter().map(|der| pem::encode("CERTIFICATE", der).to_string());
    Ok(Some(blocks.collect::<String>().into_bytes()))
}

/// What is about to be trusted, before it is.
pub(super) fn confirm_authority(changes: &Changes) -> Result<(), Failure> {
    let Some(path) = changes.ca.as_deref() else { return Ok(()) };
    let Some(bytes) = authority(path)? else { return Ok(()) };
    let der = pem::certificates(&bytes).ok().and_then(|found| found.into_iter().next()).unwrap_or(bytes);
    // What is none is refused by the server, with its reason.
    let Ok(read) = PinnedAuthority::at_any_date(&der) else { return Ok(()) };
    writ_common::say::aside(format_args!(
        "Certificate authority of the manager:\n  subject    {}\n  issuer     {}\n  valid      {} to {}\n  SHA-256    {}",
        output::plain(&read.subject),
        output::plain(&read.issuer),
        read.not_before,
        read.not_after,
        Digest::of(&der)
    ));
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
    files::secret_line(path).map_err(|error| {
        let is_empty = matches!(error, FileError::NotOneLine { why: NotOneLine::Empty, .. });
        let hint = if is_empty { "; `none` removes what is set" } else { "" };
        Failure::local(format!("{error}{hint}"))
    })
}

pub(super) fn wire(changes: Changes) -> Result<proto::SetManagerSettingsRequest, Failure> {
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
        clear_text_i_know_what_i_do: changes.clear_text_i_know_what_i_am_doing,
        authority,
        authority_overlap_seconds: changes.ca_overlap.map_or(0, |overlap| overlap.as_secs()),
        without_authorization_i_know_what_i_do: changes.without_authorization_i_know_what_i_am_doing,
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

pub(super) fn show_settings(
    format: Format,
    client: &Client,
    settings: &proto::ManagerSettings,
) -> Result<(), Failure> {
    let shown = Shown::new(settings);
    output::one(format, &shown, &shown.fields(client))
}

impl Authority {
    fn new(row: &proto::PinnedAuthorityRow) -> Self {
        Self {
            subject: row.subject.clone(),
            issuer: row.issuer.clone(),
            not_before: output::time(row.not_before_ms),
            not_after: output::time(row.not_after_ms),
            sha256: row.sha256.clone(),
            accepted_until: (row.accepted_until_ms > 0).then(|| output::time(row.accepted_until_ms)),
        }
    }

    /// On one line.
    fn line(&self) -> String {
        let Self { subject, not_after, .. } = self;
        let sha256 = &self.sha256[..16.min(self.sha256.len())];
        let end = self.accepted_until.as_ref().map(|until| format!(", replaced, accepted until {until}"));
        format!("{subject} (SHA-256 {sha256}…, until {not_after}{})", end.unwrap_or_default())
    }
}

impl Shown {
    fn new(settings: &proto::ManagerSettings) -> Self {
        let proxy = match settings.proxy_protocol() {
            proto::ProxyProtocol::Unspecified => "none",
            proto::ProxyProtocol::HttpConnect => "http",
            proto::ProxyProtocol::Socks4 => "socks4",
            proto::ProxyProtocol::Socks5 => "socks5",
        };
        Self {
            display_name: settings.display_name.clone(),
            address: settings.address.clone(),
            port: settings.port,
            clear_text: settings.clear_text,
            authorities: settings.authorities.iter().map(Authority::new).collect(),
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
        }
    }

    fn fields(&self, client: &Client) -> [(&'static str, String); 10] {
        let login = |user: &str, is_set: bool| match (user.is_empty(), is_set) {
            (true, _) => "none".to_owned(),
            (false, true) => format!("{user}, password set"),
            (false, false) => format!("{user}, no password"),
        };
        let manager = match self.address.as_str() {
            "" => "no address is set".to_owned(),
            address => format!("{address} port {}", self.port),
        };
        let channel = if self.clear_text { "clear text: a listener reads along" } else { "TLS" };
        let authorities: Vec<_> = self.authorities.iter().map(Authority::line).collect();
        let trust = match (authorities.is_empty(), self.without_authorization) {
            (false, _) => authorities.join("; "),
            (true, true) => "none: nobody says who answers, and nothing it says is obeyed".to_owned(),
            (true, false) => "not uploaded yet: --ca FILE".to_owned(),
        };
        let proxy = match self.proxy {
            "none" => "none".to_owned(),
            protocol => {
                let login = login(&self.proxy_user, self.proxy_password_set);
                format!("{protocol} {}:{}, user {login}", self.proxy_address, self.proxy_port)
            }
        };
        let mode = match self.two_way.as_str() {
            "" => "one-way".to_owned(),
            address => format!("two-way by {address}"),
        };
        let token = if self.registration_token_set { "set" } else { "none: the manager's operator approves" };
        let seconds = |millis: u64| humantime::format_duration(Duration::from_millis(millis)).to_string();
        let heartbeat =
            format!("{}, abnormal after {}", seconds(self.heartbeat_ms), seconds(self.abnormal_after_ms));
        let sent = match self.not_sent {
            true => format!("not yet: {}", client.typed("writ manager update")),
            false => "nothing has to be".to_owned(),
        };
        [
            ("display name", self.display_name.clone()),
            ("manager", manager),
            ("channel", channel.to_owned()),
            ("CA", trust),
            ("web server", login(&self.web_user, self.web_password_set)),
            ("proxy", proxy),
            ("mode", mode),
            ("token", token.to_owned()),
            ("heartbeat", heartbeat),
            ("sent", sent),
        ]
    }
}
