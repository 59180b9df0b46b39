//! How this server meets its Control Manager. What an operator typed is checked once, in
//! `settings/change.rs`; an invalid [`Settings`] is not saved.

mod change;

pub(crate) use change::{Changes, ProxyChange};

use std::net::Ipv6Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use writ_common::keys::vouched::PinnedAuthority;
use writ_common::net::Protocol;
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

/// An authority for people.
#[derive(Debug)]
pub(crate) struct UploadedAuthority {
    /// What it says of itself.
    pub certificate: PinnedAuthority,
    /// SHA-256 of its DER.
    pub sha256: Digest,
    /// The end of its overlap; `None`: the one in force.
    pub accepted_until: Option<Timestamp>,
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

    /// The authorities that were uploaded, the one in force first, whatever their dates.
    #[must_use]
    pub(crate) fn uploaded(&self) -> Vec<UploadedAuthority> {
        let read = |pinned: &Pinned| {
            let der = hex::decode(&pinned.der).ok()?;
            let accepted_until = pinned.accepted_until.map(Timestamp::from_millis);
            let sha256 = Digest::of(&der);
            Some(UploadedAuthority {
                certificate: PinnedAuthority::at_any_date(&der).ok()?,
                sha256,
                accepted_until,
            })
        };
        self.authorities.iter().filter_map(read).collect()
    }
}
