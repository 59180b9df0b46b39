//! "host:port", as people write it.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use rustls_pki_types::ServerName;

/// RFC 1035, section 2.3.4, without the final dot.
const MAX_NAME: usize = 253;

/// Where something answers. Read from `name:port`, `192.0.2.1:port`, `[2001:db8::1]:port` or
/// `[fe80::1%eth0]:port`; a final dot of a name, which no certificate carries, is left out, and capitals
/// become small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    host: String,
    /// The interface of a link-local address.
    zone: Option<String>,
    port: u16,
}

/// Why it is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlace {
    /// It has another shape.
    #[error("`{0}` is not host:port, such as writ.example:7443 or [2001:db8::1]:7443")]
    Shape(String),
    /// The name is too long.
    #[error("`{0}` is no host name: it has more than 253 characters")]
    TooLong(String),
    /// The name has something in it that names do not have.
    #[error(
        "`{0}` is no host name: its parts have 1 to 63 of a to z, digits and hyphens each, with dots between; other letters are written as xn--"
    )]
    Name(String),
    /// Its last part is a number, as those of addresses (RFC 3696, section 2).
    #[error(
        "`{0}` is neither an address, which has four numbers of 0 to 255, nor a name, whose last part is no number"
    )]
    Number(String),
    /// Multicast and broadcast.
    #[error(
        "`{0}` stands for many hosts at once, and none can be called by it: give a name, or an address of one host"
    )]
    Many(String),
    /// Every address of a host.
    #[error(
        "`{0}` stands for every address of a host, and nobody can call that: give its name, or one of its addresses"
    )]
    Unspecified(String),
    /// Of one interface of this host.
    #[error(
        "`{0}` names an interface, which is another one on every host: give a name, or an address without `%`"
    )]
    Zone(String),
}

impl Place {
    /// A host as it is written in a setting of its own, and a port.
    ///
    /// # Errors
    /// When it is no host.
    pub fn of(host: &str, port: u16) -> Result<Self, InvalidPlace> {
        let bare = without_brackets(host);
        let shown = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        shown.parse()
    }

    /// One that is given to other hosts.
    ///
    /// # Errors
    /// When it is none, or means nothing elsewhere.
    pub fn for_others(text: &str) -> Result<Self, InvalidPlace> {
        let place = Self::to_call(text)?;
        match place.zone {
            Some(_) => Err(InvalidPlace::Zone(text.to_owned())),
            None => Ok(place),
        }
    }

    /// One that this host calls.
    ///
    /// # Errors
    /// When it is none, or not that of one host.
    pub fn to_call(text: &str) -> Result<Self, InvalidPlace> {
        let place: Self = text.parse()?;
        // An IPv4 address within an IPv6 one is the same host.
        let ip = place.ip().map(|ip| ip.to_canonical());
        if ip.is_some_and(|ip| ip.is_unspecified()) {
            return Err(InvalidPlace::Unspecified(text.to_owned()));
        }
        if ip.is_some_and(|ip| ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)) {
            return Err(InvalidPlace::Many(text.to_owned()));
        }
        Ok(place)
    }

    /// The name, or the address without brackets and zone.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The address, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The same with its zone, if it is an address. `None` also when this host has no such interface.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let ip = self.ip()?;
        match (ip, &self.zone) {
            (IpAddr::V6(ip), Some(zone)) => {
                Some(SocketAddrV6::new(ip, self.port, 0, interface(zone)?).into())
            }
            _ => Some(SocketAddr::new(ip, self.port)),
        }
    }

    /// As a certificate names it.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.host.clone()).expect("checked when it was read")
    }
}

/// A host without a port that is given to others: a name of a certificate, an address in a setting. As it is
/// written from then on.
///
/// # Errors
/// When it is none, or means nothing elsewhere.
pub fn host_for_others(host: &str) -> Result<String, InvalidPlace> {
    let bare = without_brackets(host);
    let shown = if bare.contains(':') { format!("[{bare}]:1") } else { format!("{bare}:1") };
    let whole = |_: String| host.to_owned();
    Place::for_others(&shown).map(|place| place.host).map_err(|error| match error {
        InvalidPlace::Shape(text) | InvalidPlace::Name(text) => InvalidPlace::Name(whole(text)),
        InvalidPlace::Number(text) => InvalidPlace::Number(whole(text)),
        InvalidPlace::Many(text) => InvalidPlace::Many(whole(text)),
        InvalidPlace::TooLong(text) => InvalidPlace::TooLong(whole(text)),
        InvalidPlace::Unspecified(text) => InvalidPlace::Unspecified(whole(text)),
        InvalidPlace::Zone(text) => InvalidPlace::Zone(whole(text)),
    })
}

/// An address with colons may have brackets, and nothing else.
fn without_brackets(host: &str) -> &str {
    let within = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    within.filter(|host| host.contains(':')).unwrap_or(host)
}

/// The number of an interface (RFC 4007, section 11.2): its name or the number itself.
fn interface(zone: &str) -> Option<u32> {
    let is_plain = zone.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let listed =
        || std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok()?.trim().parse().ok();
    zone.parse().ok().or_else(|| if is_plain { listed() } else { None })
}

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let shape = || InvalidPlace::Shape(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(shape)?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(shape)?;
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(shape)?;
            let (address, zone) = match inner.split_once('%') {
                Some((address, zone)) if !zone.is_empty() => (address, Some(zone.to_owned())),
                Some(_) => return Err(shape()),
                None => (inner, None),
            };
            let address: Ipv6Addr = address.parse().map_err(|_| shape())?;
            return Ok(Self { host: address.to_string(), zone, port });
        }
        // Without brackets nobody can say where an IPv6 address ends and the port begins.
        if host.contains([':', '/', '%', '@']) || host.is_empty() {
            return Err(shape());
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.len() > MAX_NAME {
            return Err(InvalidPlace::TooLong(host.to_owned()));
        }
        if ServerName::try_from(name).is_err() {
            let last = name.rsplit('.').next().unwrap_or_default();
            return Err(match last.parse::<u64>() {
                Ok(_) => InvalidPlace::Number(host.to_owned()),
                Err(_) => InvalidPlace::Name(host.to_owned()),
            });
        }
        Ok(Self { host: name.to_ascii_lowercase(), zone: None, port })
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, zone, port } = self;
        match zone {
            Some(zone) => write!(f, "[{host}%{zone}]:{port}"),
            None if host.contains(':') => write!(f, "[{host}]:{port}"),
            None => write!(f, "{host}:{port}"),
        }
    }
}

/// The host of "host:port", as a certificate would name it.
///
/// # Errors
/// When it is anything else, such as a URL.
pub fn server_name(endpoint: &str) -> Result<ServerName<'static>, InvalidPlace> {
    endpoint.parse::<Place>().map(|place| place.server_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_in_one_way() {
        let long =
            format!("{}.example", ["a".repeat(61), "b".repeat(61), "c".repeat(61), "d".repeat(58)].join("."));
        assert_eq!(long.len(), 252);
        for (written, read) in [
            ("writ.example:7443", "writ.example:7443"),
            ("writ.example.:7443", "writ.example:7443"),
            ("Writ.EXAMPLE:7443", "writ.example:7443"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[2001:DB8:0:0::1]:65535", "[2001:db8::1]:65535"),
            ("[fe80::1%eth0]:7443", "[fe80::1%eth0]:7443"),
            ("web_1:7443", "web_1:7443"),
            (&format!("{long}:7443"), &format!("{long}:7443")),
            (&format!("{long}.:7443"), &format!("{long}:7443")),
        ] {
            let place: Place = written.parse().unwrap();
            assert_eq!(place.to_string(), read);
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
            let _named = place.server_name();
        }
        assert_eq!("[fe80::1%7]:1".parse::<Place>().unwrap().address().unwrap().to_string(), "[fe80::1%7]:1");
        assert_eq!(
            "[fe80::1%lo]:1".parse::<Place>().unwrap().address().unwrap().to_string(),
            "[fe80::1%1]:1"
        );
    }

    #[test]
    fn what_is_no_place_is_told_why() {
        let shape = |text: &str| assert_eq!(text.parse::<Place>(), Err(InvalidPlace::Shape(text.to_owned())));
        for text in [
            "writ.example",
            "writ.example:",
            "writ.example:0",
            "writ.example:70000",
            "::1:7443",
            "[::1:7443",
            "[::1]7443",
            "[::1%]:7443",
            "https://writ.example:7443",
            ":7443",
            "a@b:7443",
            "[writ.example]:7443",
        ] {
            shape(text);
        }
        let long = "a".repeat(50).repeat(6);
        assert!(matches!(format!("{long}:1").parse::<Place>(), Err(InvalidPlace::TooLong(_))));
        for name in ["a..b:1", "a b:1", &format!("{}:1", "a".repeat(64)), ".:1", "ü.example:1"] {
            assert!(matches!(name.parse::<Place>(), Err(InvalidPlace::Name(_))), "{name}");
        }
        for name in ["999.1.1.1:1", "1.2.3:1", "web.7:1", "127.1:1"] {
            assert!(matches!(name.parse::<Place>(), Err(InvalidPlace::Number(_))), "{name}");
        }
        for text in ["224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"] {
            assert!(matches!(Place::for_others(text), Err(InvalidPlace::Many(_))), "{text}");
        }
        for text in ["0.0.0.0:7443", "[::]:7443", "[::ffff:0.0.0.0]:7443"] {
            assert_eq!(Place::for_others(text), Err(InvalidPlace::Unspecified(text.to_owned())));
        }
        assert!(matches!(Place::for_others("[fe80::1%eth0]:7443"), Err(InvalidPlace::Zone(_))));
        assert_eq!(Place::for_others("[fe80::1]:7443").unwrap().to_string(), "[fe80::1]:7443");
    }
}
