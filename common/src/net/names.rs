//! What a name means: `/etc/hosts` first, then the name servers of `/etc/resolv.conf`, both read at every
//! question. Other sources of `/etc/nsswitch.conf` are not asked (multicast, directories); this host's own
//! name is known without any.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

use writ_protocol::place::Place;

use super::{Families, family, other_family};

/// How long a name may take.
pub const NAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Where name servers are listed (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why a name means nothing here.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Somebody who must know says that there is none.
    #[error("there is no name {0}")]
    Unknown(String),
    /// There is one, without an address.
    #[error("the name {0} has no address")]
    NoAddress(String),
    /// Nobody says anything.
    #[error("no name server answered for {0} within {NAME_TIMEOUT:?}")]
    Silent(String),
    /// They say that they cannot.
    #[error("the name servers failed for {name}: {why}")]
    Failed {
        /// Which name.
        name: String,
        /// In their words.
        why: String,
    },
    /// There is nobody to ask.
    #[error("{name} is not in /etc/hosts, and there is no name server to ask: {why}")]
    NoServer {
        /// Which name.
        name: String,
        /// What is wrong with the list of them.
        why: String,
    },
    /// Its addresses are of another kind than this host's.
    #[error("{name} has only {} addresses, such as {address}, and this host has none", family(*address))]
    OtherFamily {
        /// Which name.
        name: String,
        /// One of them.
        address: IpAddr,
    },
    /// The list of name servers cannot be read.
    #[error("/etc/resolv.conf cannot be read: {0}")]
    Unreadable(String),
    /// The zone of an address is no interface of this host.
    #[error("{0}: this host has no such interface")]
    NoInterface(String),
}

impl NameError {
    /// What to do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unknown(name) if name.ends_with(".local") => {
                "names below .local are asked for by multicast, which is not done here: use an address, or put the name into /etc/hosts"
            }
            Self::Unknown(_) | Self::NoAddress(_) => "correct the name, or add it to DNS or to /etc/hosts",
            Self::Silent(_) | Self::Failed { .. } => {
                "look at the name servers in /etc/resolv.conf and at the way to them"
            }
            Self::NoServer { .. } => "name one in /etc/resolv.conf, or put the name into /etc/hosts",
            Self::OtherFamily { address, .. } if other_family(*address) == "IPv6" => {
                "give the name an IPv6 address, or this host an IPv4 one"
            }
            Self::OtherFamily { .. } => "give the name an IPv4 address, or this host an IPv6 one",
            Self::Unreadable(_) => "correct /etc/resolv.conf, or put the name into /etc/hosts",
            Self::NoInterface(_) => "see the names of this host's interfaces: ip link",
        }
    }
}

/// The addresses of a place, those of a family this host has first.
///
/// # Errors
/// Why there are none.
pub async fn resolve(place: &Place) -> Result<Vec<SocketAddr>, NameError> {
    if place.ip().is_some() {
        let address = place.address().ok_or_else(|| NameError::NoInterface(place.to_string()))?;
        return Ok(vec![address]);
    }
    let name = place.host();
    // This host is asked for its own name before the name servers are, which may not answer.
    let known = Some(listed(name)).filter(|found| !found.is_empty()).or_else(|| own(name));
    let mut found = match known {
        Some(found) => found,
        None => match tokio::time::timeout(NAME_TIMEOUT, ask(name)).await {
            Err(_) => return Err(NameError::Silent(name.to_owned())),
            Ok(found) => found?,
        },
    };
    let families = Families::of_this_host();
    found.sort_by_key(|address| !families.reach(*address));
    Ok(found.into_iter().map(|address| SocketAddr::new(address, place.port())).collect())
}

/// What `/etc/hosts` says, and `localhost`, which never leaves this host (RFC 6761, section 6.3).
fn listed(name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    if let (Ok(hosts), Ok(name)) = (Hosts::from_system(), Name::from_ascii(name)) {
        for kind in [RecordType::A, RecordType::AAAA] {
            let listed = hosts.lookup_static_host(&Query::query(name.clone(), kind));
            let records = listed.iter().flat_map(|listed| listed.answers());
            found.extend(records.filter_map(|record| record.data.ip_addr()));
        }
    }
    let is_local =
        name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    if found.is_empty() && is_local {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

/// The addresses of this host, if it is its own name: hosts without an entry for themselves are common.
fn own(name: &str) -> Option<Vec<IpAddr>> {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if !name.eq_ignore_ascii_case(&own) {
        return None;
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses = interfaces.iter().map(if_addrs::Interface::ip);
    let usable: Vec<_> = addresses
        .filter(|address| !address.is_loopback())
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    Some(if usable.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { usable })
}

fn without_search(text: &[u8]) -> Vec<u8> {
    let searches = |line: &&[u8]| line.starts_with(b"search") || line.starts_with(b"domain");
    let lines: Vec<_> = text.split(|byte| *byte == b'\n').filter(|line| !searches(line)).collect();
    lines.join(&b'\n')
}

async fn ask(name: &str) -> Result<Vec<IpAddr>, NameError> {
    let nobody = |why: String| NameError::NoServer { name: name.to_owned(), why };
    let text = match std::fs::read(RESOLV_CONF) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(nobody(format!("{RESOLV_CONF} is missing")));
        }
        Err(error) => return Err(nobody(format!("{RESOLV_CONF}: {error}"))),
    };
    // One search domain that is no name must not keep every other name from being found: such lists come with
    // a lease.
    let (config, mut options) = parse_resolv_conf(&text)
        .or_else(|_| parse_resolv_conf(without_search(&text)))
        .map_err(|error| NameError::Unreadable(error.to_string()))?;
    if config.name_servers().is_empty() {
        return Err(nobody(format!("{RESOLV_CONF} names none")));
    }
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // One question, one answer: nothing is kept, so that what an operator mends counts at once.
    options.cache_size = 0;
    let mut builder = TokioResolver::builder_with_config(config, Default::default());
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(|error| nobody(error.to_string()))?;
    match resolver.lookup_ip(name).await {
        Ok(found) => {
            let found: Vec<_> = found.iter().collect();
            if found.is_empty() { Err(NameError::NoAddress(name.to_owned())) } else { Ok(found) }
        }
        Err(error) if error.is_nx_domain() => Err(NameError::Unknown(name.to_owned())),
        Err(error) if error.is_no_records_found() => Err(NameError::NoAddress(name.to_owned())),
        Err(NetError::Timeout) => Err(NameError::Silent(name.to_owned())),
        Err(error) => Err(NameError::Failed { name: name.to_owned(), why: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_localhost_and_this_hosts_own_name_need_no_name_server() {
        let places = |text: &str| text.parse::<Place>().unwrap();
        let found = resolve(&places("[2001:db8::1]:7")).await.unwrap();
        assert_eq!(found, ["[2001:db8::1]:7".parse().unwrap()]);
        let found = resolve(&places("LocalHost:7")).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        let error = resolve(&places("[fe80::1%none0]:7")).await.unwrap_err();
        assert_eq!(error.to_string(), "[fe80::1%none0]:7: this host has no such interface");
        let own_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert!(own(&own_name).is_some_and(|found| !found.is_empty()));
        assert_eq!(own("somebody-else"), None);
    }

    #[test]
    fn a_search_list_that_is_broken_keeps_no_name_server_from_being_asked() {
        let text = b"nameserver 192.0.2.53\nsearch lan example..com\n";
        parse_resolv_conf(text).unwrap_err();
        let (config, _) = parse_resolv_conf(without_search(text)).unwrap();
        assert_eq!(config.name_servers().len(), 1);
    }
}
