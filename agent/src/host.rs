//! What the host is: a few facts for selectors with every session, and the whole inventory when it is asked
//! for.

use std::net::SocketAddr;
use std::path::Path;

use procfs::net::TcpState;
use procfs::{CpuInfo, Current as _, Meminfo, Uptime};
use serde::Serialize;

use crate::VERSION;
use crate::connections::Looked;

/// Addresses and ports listed at most; an inventory fits its receipt with room to spare.
const MAX_ROWS: usize = 512;

/// Facts by name, in the order of [`writ_protocol::facts::FACTS`]; what is not known is left out.
#[must_use]
pub fn facts() -> Vec<(String, String)> {
    let uname = rustix::system::uname();
    let system = OsRelease::read();
    let said = [
        ("agent_version", VERSION.to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
        ("distribution", system.id),
        ("distribution_version", system.version),
        ("hostname", uname.nodename().to_string_lossy().into_owned()),
        ("kernel", uname.release().to_string_lossy().into_owned()),
        ("os", std::env::consts::OS.to_owned()),
    ];
    said.into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The answer to the action `inventory`, as JSON. What cannot be read is null, never an error.
#[derive(Debug, Serialize)]
pub(crate) struct Inventory {
    agent_version: &'static str,
    host_name: String,
    os: &'static str,
    distribution: OsRelease,
    kernel: String,
    kernel_build: String,
    arch: &'static str,
    cpu_model: Option<String>,
    cpus: Option<usize>,
    memory_bytes: Option<u64>,
    vendor: Option<String>,
    product: Option<String>,
    uptime_seconds: Option<u64>,
    packages: Option<Packages>,
    addresses: Rows<Address>,
    listening: Rows<Listening>,
    suspicious: Looked,
}

/// A list that says whether it is whole.
#[derive(Debug, Serialize)]
struct Rows<T> {
    total: usize,
    rows: Vec<T>,
}

impl<T> Rows<T> {
    fn new(mut rows: Vec<T>) -> Self {
        let total = rows.len();
        rows.truncate(MAX_ROWS);
        Self { total, rows }
    }
}

#[derive(Debug, Serialize)]
struct Packages {
    manager: &'static str,
    installed: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Address {
    interface: String,
    address: std::net::IpAddr,
    prefix_bits: u8,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Listening {
    protocol: &'static str,
    address: std::net::IpAddr,
    port: u16,
}

/// `os-release(5)`.
#[derive(Debug, Default, Serialize)]
struct OsRelease {
    id: String,
    version: String,
    name: String,
}

impl OsRelease {
    fn read() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        Self { id: field("ID"), version: field("VERSION_ID"), name: field("PRETTY_NAME") }
    }
}

/// Looks at the host; who on it talks to suspicious addresses was looked at before.
#[must_use]
pub(crate) fn inventory(suspicious: Looked) -> Inventory {
    let uname = rustix::system::uname();
    let cpus = CpuInfo::current().ok();
    Inventory {
        agent_version: VERSION,
        host_name: uname.nodename().to_string_lossy().into_owned(),
        os: std::env::consts::OS,
        distribution: OsRelease::read(),
        kernel: uname.release().to_string_lossy().into_owned(),
        kernel_build: uname.version().to_string_lossy().into_owned(),
        arch: std::env::consts::ARCH,
        cpu_model: cpus.as_ref().and_then(|cpus| cpus.model_name(0).map(str::to_owned)),
        cpus: cpus.as_ref().map(CpuInfo::num_cores),
        memory_bytes: Meminfo::current().ok().map(|memory| memory.mem_total),
        vendor: line("/sys/class/dmi/id/sys_vendor"),
        product: line("/sys/class/dmi/id/product_name"),
        uptime_seconds: Uptime::current().ok().map(|uptime| uptime.uptime_duration().as_secs()),
        packages: packages(),
        addresses: Rows::new(addresses()),
        listening: Rows::new(listening()),
        suspicious,
    }
}

fn line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Counted in the databases themselves; nothing is started. An RPM database cannot be counted that way.
fn packages() -> Option<Packages> {
    let count = |path: &str, starts: &str| {
        let text = std::fs::read_to_string(Path::new(path)).ok()?;
        Some(text.lines().filter(|line| line.starts_with(starts)).count())
    };
    let dpkg = || {
        Some(Packages {
            manager: "dpkg",
            installed: count("/var/lib/dpkg/status", "Status: install ok installed")?,
        })
    };
    let apk = || Some(Packages { manager: "apk", installed: count("/lib/apk/db/installed", "P:")? });
    dpkg().or_else(apk)
}

fn addresses() -> Vec<Address> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<_> = interfaces
        .into_iter()
        .filter(|interface| !interface.is_loopback())
        .map(|interface| {
            let prefix_bits = match &interface.addr {
                if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                if_addrs::IfAddr::V6(v6) => v6.prefixlen,
            };
            Address { address: interface.ip(), interface: interface.name, prefix_bits }
        })
        .collect();
    addresses.sort();
    addresses
}

fn listening() -> Vec<Listening> {
    let tcp = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
    let tcp = tcp.filter(|entry| entry.state == TcpState::Listen).map(|entry| ("tcp", entry.local_address));
    let udp = [procfs::net::udp(), procfs::net::udp6()].into_iter().flatten().flatten();
    // A UDP socket without a peer takes from anybody.
    let udp = udp.filter(|entry| entry.remote_address.port() == 0).map(|entry| ("udp", entry.local_address));
    let row = |(protocol, at): (&'static str, SocketAddr)| Listening {
        protocol,
        address: at.ip(),
        port: at.port(),
    };
    let mut rows: Vec<_> = tcp.chain(udp).map(row).collect();
    rows.sort();
    rows.dedup();
    rows
}

#[cfg(test)]
mod tests {
    use writ_protocol::facts::FACTS;

    use super::*;

    #[test]
    fn facts_are_of_the_closed_list_and_in_its_order() {
        let names: Vec<_> = facts().into_iter().map(|(name, _)| name).collect();
        let expected: Vec<_> = FACTS.iter().filter(|fact| names.iter().any(|name| name == *fact)).collect();
        assert_eq!(
            names.iter().map(String::as_str).collect::<Vec<_>>(),
            expected.into_iter().copied().collect::<Vec<_>>()
        );
        assert!(names.len() >= 4);
    }

    #[test]
    fn a_port_that_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let wanted = Listening { protocol: "tcp", address: at.ip(), port: at.port() };
        assert!(listening().contains(&wanted));
    }
}
