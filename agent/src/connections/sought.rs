//! Addresses, networks, domains and URLs that are suspicious objects, and where they are met.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use writ_objects::{List, ObjectType};
use writ_protocol::time::Timestamp;

use super::table::{Link, Table, host_of};
use super::{About, How, Meetings, Met};

/// What is looked for beside files.
#[derive(Debug, Default)]
pub(super) struct Sought {
    addresses: HashSet<IpAddr>,
    networks: Networks,
    domains: HashSet<String>,
    /// By their hosts.
    urls: HashMap<String, HashSet<String>>,
}

impl Sought {
    /// Of objects whose time is not over.
    pub(super) fn of(objects: Option<&List>, now: Timestamp) -> Self {
        let mut sought = Self::default();
        for object in objects.map_or(&[][..], List::objects) {
            if object.expires_at.is_some_and(|end| end <= now) {
                continue;
            }
            let value = object.value();
            match object.kind() {
                ObjectType::Sha256 | ObjectType::Sha1 => {}
                ObjectType::Ip => sought.addresses.extend(value.parse::<IpAddr>()),
                ObjectType::Cidr => sought.networks.add(value),
                ObjectType::Domain => drop(sought.domains.insert(value.to_owned())),
                ObjectType::Url => {
                    let host = host_of(value).unwrap_or_default();
                    sought.urls.entry(host).or_default().insert(value.to_owned());
                }
            }
        }
        sought
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { addresses, networks, domains, urls } = self;
        addresses.is_empty() && networks.0.is_empty() && domains.is_empty() && urls.is_empty()
    }

    /// Domains, and hosts of URLs that are names, in order.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let hosts = self.urls.keys().filter(|host| !host.is_empty() && host.parse::<IpAddr>().is_err());
        self.domains.iter().chain(hosts).cloned().collect()
    }

    /// Where they are met: `resolved` are the names of addresses. Whoever has a name may lead it anywhere, so
    /// that this host's own addresses are none of a name.
    pub(super) fn meet(&self, table: &Table, resolved: &HashMap<IpAddr, Vec<String>>, met: &mut Meetings) {
        let own: HashSet<_> = table.links.iter().map(|link| (link.network, link.local.ip())).collect();
        for link in &table.links {
            for about in self.of_address(link.end()) {
                met.add(about, |about| of_link(about, link, table));
            }
            let is_foreign =
                |address: &IpAddr| !address.is_loopback() && !own.contains(&(link.network, *address));
            let peer = link.peer.map(|peer| peer.ip()).filter(is_foreign);
            for name in peer.and_then(|peer| resolved.get(&peer)).into_iter().flatten() {
                for about in self.of_name(name) {
                    met.add(about, |about| Met { how: How::Resolved, ..of_link(about, link, table) });
                }
            }
        }
        for (url, pids) in &table.urls {
            for about in self.of_url(url) {
                for process in pids.iter().filter_map(|pid| table.processes.get(pid)) {
                    met.add(about.clone(), |about| Met::in_command_line(about, process));
                }
            }
        }
    }

    fn of_address(&self, address: IpAddr) -> Vec<About> {
        let exact = self.addresses.get(&address).map(|address| about(ObjectType::Ip, &address.to_string()));
        exact.into_iter().chain(self.networks.with(address).map(|it| about(ObjectType::Cidr, &it))).collect()
    }

    /// A domain that was resolved, or the URLs whose host was.
    fn of_name(&self, name: &str) -> Vec<About> {
        let domain = self.domains.get(name).map(|domain| about(ObjectType::Domain, domain));
        let urls = self.urls.get(name).into_iter().flatten().map(|url| about(ObjectType::Url, url));
        domain.into_iter().chain(urls).collect()
    }

    /// What a URL in a command line is, or what its host is.
    fn of_url(&self, url: &str) -> Vec<About> {
        let Some(host) = host_of(url) else { return Vec::new() };
        let known = self.urls.get(&host).and_then(|urls| urls.get(url));
        let mut met: Vec<_> = known.map(|url| about(ObjectType::Url, url)).into_iter().collect();
        if let Ok(address) = host.parse::<IpAddr>() {
            met.extend(self.of_address(address.to_canonical()));
            return met;
        }
        let starts = std::iter::once(0).chain(host.match_indices('.').map(|(dot, _)| dot + 1));
        let domains = starts.filter_map(|start| self.domains.get(&host[start..]));
        met.extend(domains.map(|domain| about(ObjectType::Domain, domain)));
        met
    }
}

fn about(kind: ObjectType, value: &str) -> About {
    (kind.to_string(), value.to_owned())
}

/// An object that is met at an end of a socket.
pub(super) fn of_link((kind, value): About, link: &Link, table: &Table) -> Met {
    let Link { protocol, local, peer, pid, is_over, .. } = link;
    Met {
        kind,
        value,
        how: if peer.is_some() { How::Peer } else { How::Listening },
        protocol,
        local: local.to_string(),
        peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
        process: pid.and_then(|pid| table.processes.get(&pid)).cloned(),
        is_over: *is_over,
    }
}

/// Networks by their length, so that a look-up takes as many steps as there are lengths.
#[derive(Debug, Default)]
struct Networks(HashMap<(bool, u8), HashSet<IpAddr>>);

impl Networks {
    /// One as CIDR writes it; what is none is not looked for.
    fn add(&mut self, cidr: &str) {
        let Some((base, length)) = cidr.split_once('/') else { return };
        if let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse()) {
            self.0.entry((base.is_ipv4(), length)).or_default().insert(base);
        }
    }

    /// Those that an address is in.
    fn with(&self, address: IpAddr) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(move |((is_v4, length), bases)| {
            let base = (*is_v4 == address.is_ipv4()).then(|| first(address, *length))?;
            bases.contains(&base).then(|| format!("{base}/{length}"))
        })
    }
}

/// The first address of the network of this length that an address is in.
fn first(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use writ_objects::{Object, Source};
    use writ_protocol::command::Remedy;

    use super::super::table::Process;
    use super::*;

    fn sought(objects: &[(ObjectType, &str)]) -> Sought {
        let object = |(kind, value): &(ObjectType, &str)| {
            Object::new(*kind, value, Remedy::Log, Source::Analysed).unwrap()
        };
        let list = List::of(objects.iter().map(object).collect()).unwrap();
        Sought::of(Some(&list), Timestamp::from_millis(1))
    }

    fn table(links: &[(&str, Option<&str>)], urls: &[&str]) -> Table {
        let link = |(local, peer): &(&str, Option<&str>)| Link {
            protocol: "tcp",
            local: local.parse().unwrap(),
            peer: peer.map(|peer| peer.parse().unwrap()),
            pid: Some(7),
            is_over: false,
            network: 1,
        };
        let urls = urls.iter().map(|url| ((*url).to_owned(), vec![7])).collect();
        let process = Process { pid: 7, user: 1000, program: "/usr/bin/curl".to_owned() };
        let (links, processes) = (links.iter().map(link).collect(), BTreeMap::from([(7, process)]));
        Table { links, processes, urls, ..Table::default() }
    }

    fn values(sought: &Sought, table: &Table) -> Vec<(String, String, How)> {
        resolved(sought, table, &HashMap::new())
    }

    fn resolved(
        sought: &Sought,
        table: &Table,
        names: &HashMap<IpAddr, Vec<String>>,
    ) -> Vec<(String, String, How)> {
        let mut met = Meetings::default();
        sought.meet(table, names, &mut met);
        met.told().0.into_iter().map(|met| (met.kind, met.value, met.how)).collect()
    }

    fn is(kind: &str, value: &str, how: How) -> (String, String, How) {
        (kind.to_owned(), value.to_owned(), how)
    }

    #[test]
    fn addresses_and_networks_are_met_at_either_end_and_others_are_not() {
        use ObjectType::{Cidr, Ip};
        let sought = sought(&[
            (Ip, "192.0.2.7"),
            (Ip, "2001:db8::7"),
            (Cidr, "198.51.100.0/25"),
            (Cidr, "2001:db8:1::/48"),
            (Cidr, "10.0.0.0/8"),
        ]);
        let met = |links: &[(&str, Option<&str>)]| values(&sought, &table(links, &[]));
        let here = "203.0.113.1:50000";
        assert_eq!(met(&[(here, Some("192.0.2.7:443"))]), [is("ip", "192.0.2.7", How::Peer)]);
        assert_eq!(met(&[(here, Some("192.0.2.8:443"))]), []);
        assert_eq!(met(&[("192.0.2.7:22", None)]), [is("ip", "192.0.2.7", How::Listening)]);
        // The own end of a connection is not what somebody talks to.
        assert_eq!(met(&[("192.0.2.7:22", Some("203.0.113.9:1"))]), []);
        let network = is("cidr", "198.51.100.0/25", How::Peer);
        assert_eq!(met(&[(here, Some("198.51.100.127:1"))]), [network]);
        assert_eq!(met(&[(here, Some("198.51.100.128:1"))]), []);
        let v6 = "[2001:db8::1]:1";
        assert_eq!(met(&[(v6, Some("[2001:db8::7]:443"))]), [is("ip", "2001:db8::7", How::Peer)]);
        assert_eq!(met(&[(v6, Some("[2001:db8:1:2::3]:1"))]), [is("cidr", "2001:db8:1::/48", How::Peer)]);
        assert_eq!(met(&[(here, Some("10.255.255.255:1"))]), [is("cidr", "10.0.0.0/8", How::Peer)]);
        assert_eq!(met(&[(here, Some("11.0.0.0:1"))]), []);
    }

    #[test]
    fn names_are_met_in_command_lines_and_by_their_addresses() {
        use ObjectType::{Domain, Ip, Url};
        let sought = sought(&[
            (Domain, "evil.example"),
            (Url, "http://bad.example/a"),
            (Url, "http://[2001:db8::9]/b"),
            (Ip, "192.0.2.7"),
        ]);
        let met = |urls: &[&str]| values(&sought, &table(&[], urls));
        let line = How::CommandLine;
        assert_eq!(met(&["http://evil.example/x"]), [is("domain", "evil.example", line)]);
        assert_eq!(met(&["http://a.b.evil.example/"]), [is("domain", "evil.example", line)]);
        assert_eq!(met(&["http://notevil.example/", "http://evil.example.org/"]), []);
        assert_eq!(met(&["http://bad.example/a"]), [is("url", "http://bad.example/a", line)]);
        assert_eq!(met(&["http://bad.example/b"]), []);
        assert_eq!(met(&["http://192.0.2.7/x"]), [is("ip", "192.0.2.7", line)]);
        // What name servers are asked for, and what their answers mean.
        assert_eq!(sought.names().into_iter().collect::<Vec<_>>(), ["bad.example", "evil.example"]);
        let talks = table(&[("203.0.113.1:1", Some("198.51.100.1:443"))], &[]);
        let address: IpAddr = "198.51.100.1".parse().unwrap();
        let both = vec!["evil.example".to_owned(), "bad.example".to_owned()];
        let found = resolved(&sought, &talks, &HashMap::from([(address, both.clone())]));
        let expected =
            [is("domain", "evil.example", How::Resolved), is("url", "http://bad.example/a", How::Resolved)];
        assert_eq!(found, expected);
        // A name that is led to this host itself accuses nobody.
        for address in ["203.0.113.1", "127.0.0.1"] {
            let end = format!("{address}:443");
            let own = table(&[("203.0.113.1:1", Some(&end))], &[]);
            let names = HashMap::from([(address.parse().unwrap(), both.clone())]);
            assert_eq!(resolved(&sought, &own, &names), [], "{address}");
        }
    }

    #[test]
    fn what_is_over_and_what_is_a_file_is_not_looked_for() {
        let now = Timestamp::from_millis(10);
        let mut over = Object::new(ObjectType::Ip, "192.0.2.7", Remedy::Log, Source::Analysed).unwrap();
        over.expires_at = Some(now);
        let file = Object::new(ObjectType::Sha256, &"ab".repeat(32), Remedy::Log, Source::Analysed).unwrap();
        assert!(Sought::of(Some(&List::of(vec![over, file]).unwrap()), now).is_empty());
        assert!(Sought::of(None, now).is_empty());
    }

    #[test]
    fn who_opens_many_connections_to_some_hides_no_other() {
        use ObjectType::Ip;
        let many: Vec<_> = (1..=40).map(|last| format!("192.0.2.{last}")).collect();
        let objects: Vec<_> = many.iter().map(|address| (Ip, address.as_str())).collect();
        let sought = sought(&objects);
        let ends: Vec<_> =
            (1..40).flat_map(|last| (1..30).map(move |port| format!("192.0.2.{last}:{port}"))).collect();
        let mut links: Vec<_> = ends.iter().map(|end| ("203.0.113.1:1", Some(end.as_str()))).collect();
        links.push(("203.0.113.1:1", Some("192.0.2.40:443")));
        let mut met = Meetings::default();
        sought.meet(&table(&links, &[]), &HashMap::new(), &mut met);
        let (told, count) = met.told();
        assert_eq!(count, links.len());
        assert!(told.len() < links.len() && told.iter().any(|met| met.value == "192.0.2.40"));
    }
}
