//! How this server meets its Control Manager. What an operator typed is checked once, in
//! `settings/change.rs`; an invalid [`Settings`] is not saved.

mod change;

use std::net::Ipv6Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use writ_common::keys::vouched::PinnedAuthority;
use writ_common::net::Protocol;
use writ_proto::admin::v1 as proto;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

/// Where a manager listens unless told otherwise.
const DEFAULT_PORT: u16 = 7543;
const HEARTBEAT: Duration = Duration::from_secs(30);
const ABNORMAL_AFTER: Duration = Duration::from_secs(120);

/// What an operator set. Secrets in it are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// What the manager lists.
    pub display_name: String,
    /// A host name or an address without brackets; empty: not set.
    pub address: String,
    /// The port.
    pub port: u16,
    /// No TLS.
    pub clear_text: bool,
    /// The authority in force first, then those of an overlap.
    pub authorities: Vec<Pinned>,
    /// Nobody says who answers.
    pub without_authorization: bool,
    /// For a web server in front of the manager.
    pub web: Option<Login>,
    /// On the way.
    pub proxy: Option<Proxy>,
    /// Two-way: where the manager finds this server, "host:port".
    pub forwarding: Option<String>,
    /// A registration token, sealed.
    pub token: Option<String>,
    /// It polls at least so often.
    pub heartbeat: Duration,
    /// Silence after which something is wrong.
    pub abnormal_after: Duration,
}

/// An authority an operator uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pinned {
    /// DER, in hexadecimal digits.
    der: String,
    /// The end of its overlap; `None`: the one in force.
    accepted_until: Option<u64>,
}

/// A user and a password, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The user.
    pub user: String,
    /// The password, sealed.
    pub password: String,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proxy {
    /// What it speaks.
    pub protocol: Protocol,
    /// A host name or an address without brackets.
    pub address: String,
    /// The port.
    pub port: u16,
    /// If it asks.
    pub login: Option<Login>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            display_name: format!("{}_WRIT", host_name()),
            address: String::new(),
            port: DEFAULT_PORT,
            clear_text: false,
            authorities: Vec::new(),
            without_authorization: false,
            web: None,
            proxy: None,
            forwarding: None,
            token: None,
            heartbeat: HEARTBEAT,
            abnormal_after: ABNORMAL_AFTER,
        }
    }
}

/// This host's name.
#[must_use]
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// "host:port", as everything that connects wants it.
#[must_use]
pub(crate) fn endpoint(address: &str, port: u16) -> String {
    if address.parse::<Ipv6Addr>().is_ok() {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

impl Settings {
    /// The manager's "host:port".
    #[must_use]
    pub(crate) fn endpoint(&self) -> String {
        endpoint(&self.address, self.port)
    }

    /// The authorities accepted now, the one in force first.
    #[must_use]
    pub(crate) fn pinned(&self, now: Timestamp) -> Vec<PinnedAuthority> {
        let counts = |pinned: &&Pinned| pinned.accepted_until.is_none_or(|until| now.as_millis() < until);
        let read = |pinned: &Pinned| PinnedAuthority::from_der(&hex::decode(&pinned.der).ok()?, now).ok();
        self.authorities.iter().filter(counts).filter_map(read).collect()
    }

    /// Whether the manager can be told from anybody else.
    #[must_use]
    pub(crate) const fn is_authorized(&self) -> bool {
        !self.authorities.is_empty()
    }

    /// What keeps these settings from being tried at all.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check_complete(&self, now: Timestamp) -> Result<(), String> {
        if self.address.is_empty() {
            return Err("no address is set".to_owned());
        }
        if self.without_authorization {
            return Ok(());
        }
        if self.authorities.is_empty() {
            return Err("no CA certificate of the manager was uploaded".to_owned());
        }
        if self.pinned(now).is_empty() {
            return Err("the CA certificate that was uploaded is not valid now".to_owned());
        }
        Ok(())
    }

    /// As shown; never a secret.
    #[must_use]
    pub(crate) fn show(&self, not_sent: bool) -> proto::ManagerSettings {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let proxy = self.proxy.as_ref();
        let protocol = proxy.map_or(proto::ProxyProtocol::Unspecified, |proxy| match proxy.protocol {
            Protocol::HttpConnect => proto::ProxyProtocol::HttpConnect,
            Protocol::Socks4 => proto::ProxyProtocol::Socks4,
            Protocol::Socks5 => proto::ProxyProtocol::Socks5,
        });
        let login = proxy.and_then(|proxy| proxy.login.as_ref());
        proto::ManagerSettings {
            display_name: self.display_name.clone(),
            address: self.address.clone(),
            port: self.port.into(),
            clear_text: self.clear_text,
            authorities: self.authorities.iter().filter_map(show_authority).collect(),
            without_authorization: self.without_authorization,
            web_user: self.web.as_ref().map_or_else(String::new, |web| web.user.clone()),
            web_password_set: self.web.is_some(),
            proxy_protocol: protocol.into(),
            proxy_address: proxy.map_or_else(String::new, |proxy| proxy.address.clone()),
            proxy_port: proxy.map_or(0, |proxy| proxy.port.into()),
            proxy_user: login.map_or_else(String::new, |login| login.user.clone()),
            proxy_password_set: login.is_some(),
            forwarding_address: self.forwarding.clone().unwrap_or_default(),
            registration_token_set: self.token.is_some(),
            heartbeat_ms: millis(self.heartbeat),
            abnormal_after_ms: millis(self.abnormal_after),
            not_sent,
        }
    }
}

fn show_authority(pinned: &Pinned) -> Option<proto::PinnedAuthorityRow> {
    let der = hex::decode(&pinned.der).ok()?;
    let read = PinnedAuthority::at_any_date(&der).ok()?;
    Some(proto::PinnedAuthorityRow {
        subject: read.subject.clone(),
        issuer: read.issuer.clone(),
        not_before_ms: read.not_before.as_millis(),
        not_after_ms: read.not_after.as_millis(),
        sha256: Digest::of(&der).to_string(),
        accepted_until_ms: pinned.accepted_until.unwrap_or(0),
    })
}
