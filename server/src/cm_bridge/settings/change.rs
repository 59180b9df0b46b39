//! What an operator typed, checked once: [`Settings::changed`] is the one way to settings that are saved.

use std::time::Duration;

use writ_common::keys::pem;
use writ_common::keys::vault::Vault;
use writ_common::keys::vouched::PinnedAuthority;
use writ_common::net::Protocol;
use writ_common::status::Failure;
use writ_protocol::limits::{MAX_ENDPOINT_BYTES, MAX_NAME_BYTES};
use writ_protocol::manager::{RegistrationToken, check_communication};
use writ_protocol::place::{InvalidPlace, Place, host_for_others};
use writ_protocol::time::Timestamp;

use super::{Login, Pinned, Proxy, Settings};

/// What an operator typed. What is left out stays as it is; an empty text clears.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// What the manager lists.
    pub display_name: Option<String>,
    /// A host name or an address.
    pub address: Option<String>,
    /// The port.
    pub port: Option<u32>,
    /// Without TLS.
    pub clear_text: Option<bool>,
    /// A CA certificate, PEM or DER.
    pub authority: Option<Vec<u8>>,
    /// How long the authority of before is accepted beside it.
    pub authority_overlap: Duration,
    /// Nobody says who answers.
    pub without_authorization: Option<bool>,
    /// Of a web server in front of the manager.
    pub web_user: Option<String>,
    /// Of a web server in front of the manager.
    pub web_password: Option<String>,
    /// What a proxy on the way speaks.
    pub proxy: Option<ProxyChange>,
    /// Where it is.
    pub proxy_address: Option<String>,
    /// Where it is.
    pub proxy_port: Option<u32>,
    /// If it asks.
    pub proxy_user: Option<String>,
    /// If it asks.
    pub proxy_password: Option<String>,
    /// Where the manager finds this server, "host:port".
    pub forwarding_address: Option<String>,
    /// A registration token.
    pub registration_token: Option<String>,
    /// It polls at least so often.
    pub heartbeat: Option<Duration>,
    /// Silence after which something is wrong.
    pub abnormal_after: Option<Duration>,
}

/// What an operator says of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyChange {
    /// There is none any more.
    Off,
    /// It speaks this.
    Speaks(Protocol),
    /// Something this version has no word for.
    Unknown,
}

/// The longest a replaced authority is still accepted.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of a secret: SOCKS5 passwords have a length of one byte (RFC 1929 §2).
const MAX_SECRET_BYTES: usize = 255;

impl Settings {
    /// These settings with an operator's changes.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once; the field is the first one's.
    pub(crate) fn changed(&self, changes: Changes, vault: &Vault, now: Timestamp) -> Result<Self, Failure> {
        let mut problems = Problems::default();
        let mut settings = self.clone();
        settings.change_place(&changes, &mut problems);
        settings.change_trust(&changes, now, &mut problems);
        settings.change_logins(&changes, vault, &mut problems);
        settings.heartbeat = changes.heartbeat.unwrap_or(settings.heartbeat);
        settings.abnormal_after = changes.abnormal_after.unwrap_or(settings.abnormal_after);
        if let Err(why) = check_communication(settings.heartbeat, settings.abnormal_after) {
            let field = if why.starts_with("the heartbeat") { "heartbeat_ms" } else { "abnormal_after_ms" };
            problems.add(field, format!("cannot be taken: {why}"));
        }
        settings.check_together(&mut problems);
        problems.finish(settings)
    }

    fn change_place(&mut self, changes: &Changes, problems: &mut Problems) {
        if let Some(name) = &changes.display_name {
            if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
                problems.add("display_name", "must have at most 128 bytes and no control characters");
            }
            self.display_name =
                if name.trim().is_empty() { Self::default().display_name } else { name.trim().to_owned() };
        }
        if let Some(address) = &changes.address {
            match plain_address(address) {
                Ok(address) => self.address = address,
                Err(why) => problems.add("address", why),
            }
        }
        if let Some(port) = changes.port {
            match plain_port(port) {
                Ok(port) => self.port = port,
                Err(why) => problems.add("port", why),
            }
        }
        if let Some(forwarding) = &changes.forwarding_address {
            let is_good = forwarding.is_empty() || Place::for_others(forwarding).is_ok();
            if !is_good || forwarding.len() > MAX_ENDPOINT_BYTES {
                problems.add(
                    "forwarding_address",
                    "must be host:port, such as gate.example:7545 or [2001:db8::1]:7545",
                );
            }
            self.forwarding = (!forwarding.is_empty()).then(|| forwarding.clone());
        }
        if let Some(clear_text) = changes.clear_text {
            self.clear_text = clear_text;
        }
    }

    fn change_trust(&mut self, changes: &Changes, now: Timestamp, problems: &mut Problems) {
        let overlap = changes.authority_overlap;
        if overlap > MAX_OVERLAP {
            problems.add("authority_overlap_seconds", "must be at most 2592000 (30 days)");
        }
        if let Some(without) = changes.without_authorization {
            self.without_authorization = without;
        }
        let Some(uploaded) = &changes.authority else { return };
        if uploaded.is_empty() {
            self.authorities.clear();
            return;
        }
        match read_authority(uploaded, now) {
            Ok(authority) => {
                let der = hex::encode(authority.der());
                let until = (now + overlap).as_millis();
                self.authorities.retain(|held| held.der != der);
                self.authorities
                    .retain(|held| held.accepted_until.is_none_or(|until| until > now.as_millis()));
                for held in &mut self.authorities {
                    held.accepted_until = Some(held.accepted_until.map_or(until, |had| had.min(until)));
                }
                // An authority and the one before it: more are a mistake somebody repeats.
                self.authorities.truncate(1);
                self.authorities
                    .retain(|held| held.accepted_until.is_some_and(|until| until > now.as_millis()));
                self.authorities.insert(0, Pinned { der, accepted_until: None });
            }
            Err(why) => problems.add("authority", why),
        }
    }

    fn change_logins(&mut self, changes: &Changes, vault: &Vault, problems: &mut Problems) {
        let web = Given { user: changes.web_user.as_deref(), password: changes.web_password.as_deref() };
        self.web = web.over(self.web.take(), vault, ("web_user", "web_password"), problems);
        if let Some(token) = &changes.registration_token {
            self.token = if token.is_empty() {
                None
            } else {
                match token.parse::<RegistrationToken>() {
                    Ok(token) => problems.take("registration_token", vault.seal(&token.secret())),
                    Err(why) => {
                        problems.add("registration_token", why);
                        None
                    }
                }
            };
        }
        let protocol = match changes.proxy {
            None => self.proxy.as_ref().map(|proxy| proxy.protocol),
            Some(ProxyChange::Off) => None,
            Some(ProxyChange::Speaks(protocol)) => Some(protocol),
            Some(ProxyChange::Unknown) => {
                problems.add("proxy_protocol", "must be HTTP_CONNECT, SOCKS4, SOCKS5 or none");
                None
            }
        };
        let texts = [&changes.proxy_address, &changes.proxy_user, &changes.proxy_password];
        let names_some =
            texts.into_iter().flatten().any(|text| !text.is_empty()) || changes.proxy_port.is_some();
        let Some(protocol) = protocol else {
            if names_some {
                problems.add("proxy_protocol", "must be said when anything else of a proxy is");
            }
            // Disabled: nothing of it is kept or used.
            self.proxy = None;
            return;
        };
        let had = self.proxy.take();
        let login =
            Given { user: changes.proxy_user.as_deref(), password: changes.proxy_password.as_deref() };
        let held = had.as_ref().and_then(|had| had.login.clone());
        let login = login.over(held, vault, ("proxy_user", "proxy_password"), problems);
        if protocol == Protocol::Socks4 && login.is_some() {
            problems.add("proxy_user", "must be empty: SOCKS4 has no passwords; use SOCKS5");
        }
        let address = changes.proxy_address.clone().or_else(|| had.as_ref().map(|had| had.address.clone()));
        let port = changes.proxy_port.or_else(|| had.as_ref().map(|had| u32::from(had.port)));
        let address = plain_address(address.as_deref().unwrap_or_default()).and_then(|address| {
            if address.is_empty() { Err("must be set when there is a proxy".to_owned()) } else { Ok(address) }
        });
        let port = plain_port(port.unwrap_or_default());
        match (address, port) {
            (Ok(address), Ok(port)) => self.proxy = Some(Proxy { protocol, address, port, login }),
            (Err(why), _) => problems.add("proxy_address", why),
            (_, Err(why)) => problems.add("proxy_port", why),
        }
    }

    /// Rules over several fields.
    fn check_together(&self, problems: &mut Problems) {
        if self.clear_text && self.web.is_some() {
            problems.add("web_user", "must be empty in clear text: a listener would have the password");
        }
        if self.clear_text && self.token.is_some() {
            problems.add(
                "registration_token",
                "must be empty in clear text: a listener could register; have an operator approve instead",
            );
        }
        if self.without_authorization && self.web.is_some() {
            problems.add(
                "web_user",
                "must be empty without a CA certificate: any program that answers would have the password",
            );
        }
        if self.without_authorization && self.token.is_some() {
            problems.add(
                "registration_token",
                "must be empty without a CA certificate: nobody can say who would get it",
            );
        }
        if self.without_authorization && !self.authorities.is_empty() {
            problems.add(
                "without_authorization_i_know_what_i_do",
                "contradicts the CA certificate that is set: remove one of the two",
            );
        }
    }
}

/// A user and a password as an operator gave them: left out, cleared by an empty text, or new.
struct Given<'a> {
    user: Option<&'a str>,
    password: Option<&'a str>,
}

impl Given<'_> {
    fn over(
        self,
        held: Option<Login>,
        vault: &Vault,
        (user_field, password_field): (&'static str, &'static str),
        problems: &mut Problems,
    ) -> Option<Login> {
        let user = self
            .user
            .map_or_else(|| held.as_ref().map(|held| held.user.clone()).unwrap_or_default(), str::to_owned);
        let is_plain = |text: &str| text.len() <= MAX_SECRET_BYTES && !text.chars().any(char::is_control);
        if !is_plain(&user) || user.contains(':') {
            problems.add(user_field, "must have at most 255 bytes, no `:` and no control characters");
        }
        let password = match self.password {
            Some(password) if !is_plain(password) => {
                problems.add(password_field, "must have at most 255 bytes and no control characters");
                None
            }
            Some("") => None,
            Some(password) => problems.take(password_field, vault.seal(password.as_bytes())),
            // A password belongs to its user.
            None => held.filter(|held| held.user == user).map(|held| held.password),
        };
        match (user.is_empty(), password) {
            (false, Some(password)) => Some(Login { user, password }),
            (true, None) => None,
            // Clearing the user clears the password it was for.
            (true, Some(_)) if self.password.is_none() => None,
            (true, Some(_)) => {
                problems.add(user_field, "must be set when a password is");
                None
            }
            (false, None) => {
                problems.add(password_field, "must be set when a user is");
                None
            }
        }
    }
}

#[derive(Default)]
struct Problems(Vec<(&'static str, String)>);

impl Problems {
    fn add(&mut self, field: &'static str, why: impl Into<String>) {
        self.0.push((field, why.into()));
    }

    fn take<T>(&mut self, field: &'static str, made: Result<T, impl std::fmt::Display>) -> Option<T> {
        made.map_err(|error| self.add(field, error.to_string())).ok()
    }

    fn finish(self, settings: Settings) -> Result<Settings, Failure> {
        match self.0.as_slice() {
            [] => Ok(settings),
            [(field, why)] => Err(Failure::invalid(field, format!("{field} {why}"))),
            [(first, _), ..] => {
                let all: Vec<_> = self.0.iter().map(|(field, why)| format!("{field} {why}")).collect();
                Err(Failure::invalid(first, all.join("; ")))
            }
        }
    }
}

/// Without brackets; a name of DNS, an IPv4 or an IPv6 address.
fn plain_address(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    host_for_others(text).map_err(|error| match error {
        InvalidPlace::Shape(_) | InvalidPlace::Name(_) => format!(
            "is `{text}`; it must be a host name, an IPv4 or an IPv6 address, without scheme, port or path"
        ),
        error => format!("cannot be used: {error}"),
    })
}

fn plain_port(port: u32) -> Result<u16, String> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("is {port}; it must be 1 to 65535"))
}

/// PEM or DER, one CA certificate that is valid now.
fn read_authority(uploaded: &[u8], now: Timestamp) -> Result<PinnedAuthority, String> {
    if pem::holds_private_key(uploaded) {
        return Err("holds a private key: upload the certificate alone, and keep the key where it was made"
            .to_owned());
    }
    let found = pem::certificates(uploaded).map_err(|error| format!("is no certificate: {error}"))?;
    let [der] = found.as_slice() else {
        return Err(format!("holds {} certificates; upload the root CA alone", found.len()));
    };
    PinnedAuthority::from_der(der, now).map_err(|error| format!("cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: Changes) -> Result<Settings, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(&folder.path().join("key")).unwrap();
        Settings::default().changed(changes, &vault, Timestamp::from_millis(1_790_000_000_000))
    }

    #[test]
    fn addresses_of_every_kind_are_taken_with_or_without_brackets_and_made_into_endpoints() {
        for (typed, endpoint) in [
            ("cm.example", "cm.example:7543"),
            ("192.0.2.7", "192.0.2.7:7543"),
            ("2001:db8::7", "[2001:db8::7]:7543"),
            ("[2001:DB8:0::7]", "[2001:db8::7]:7543"),
            (" cm.example ", "cm.example:7543"),
        ] {
            let address = Some(typed.to_owned());
            let settings = changed(Changes { address, ..Default::default() });
            assert_eq!(settings.unwrap().endpoint(), endpoint, "{typed}");
        }
        for typed in [
            "http://cm",
            "cm:7543",
            "cm/x",
            "10.0.0",
            "1.2.3.4.5",
            "[cm]",
            "[192.0.2.7]",
            "a b",
            "-",
            "cm..example",
        ] {
            let address = Some(typed.to_owned());
            let refused = changed(Changes { address, ..Default::default() });
            assert!(refused.is_err(), "{typed}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let refused = changed(Changes {
            port: Some(0),
            web_user: Some("a:b".to_owned()),
            forwarding_address: Some("x".to_owned()),
            ..Default::default()
        });
        let text = refused.unwrap_err().message().to_owned();
        for word in
            ["port is 0", "web_user must have", "forwarding_address must be", "web_password must be set"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
