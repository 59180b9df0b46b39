//! A network of the story's own: a server's host behind a gate that translates addresses, and a manager's
//! host outside.
//!
//! `10.77.1.2` (server) - `10.77.1.1` gate `10.77.2.1` - `10.77.2.2` (manager). The manager's host has no way
//! to the server's but what the gate forwards. All of it lives in network namespaces and is gone with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon::{tool, until, within};

/// The server's host.
pub const SERVER: &str = "10.77.1.2";
/// The gate, as the manager sees it.
pub const GATE: &str = "10.77.2.1";
/// The manager's host.
pub const MANAGER: &str = "10.77.2.2";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Three hosts.
#[derive(Debug)]
pub struct Network {
    name: String,
    dns: Option<Child>,
}

fn ip(arguments: &str) {
    run("ip", arguments);
}

#[expect(clippy::disallowed_methods, reason = "tests make the network they need")]
fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; make test installs it"));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// Makes the hosts. The server's and the manager's have IPv4 alone.
    ///
    /// # Panics
    /// When this is not run by root.
    #[must_use]
    pub fn new() -> Self {
        let name = format!("writ{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let network = Self { name, dns: None };
        let [server, gate, manager] = network.hosts();
        for host in [&server, &gate, &manager] {
            ip(&format!("netns add {host}"));
            ip(&format!("-n {host} link set lo up"));
            run(
                "ip",
                &format!(
                    "netns exec {host} sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
                ),
            );
        }
        for (host, inner, outer, subnet) in [(&server, "in", "gin", 1), (&manager, "out", "gout", 2)] {
            ip(&format!("-n {host} link add {inner} type veth peer name {outer} netns {gate}"));
            ip(&format!("-n {host} addr add 10.77.{subnet}.2/24 dev {inner}"));
            ip(&format!("-n {host} link set {inner} up"));
            ip(&format!("-n {gate} addr add 10.77.{subnet}.1/24 dev {outer}"));
            ip(&format!("-n {gate} link set {outer} up"));
        }
        // Outbound only: the manager's host knows no way to the server's.
        ip(&format!("-n {server} route add default via 10.77.1.1"));
        run("ip", &format!("netns exec {gate} sysctl -qw net.ipv4.ip_forward=1"));
        network.iptables("-t nat -A POSTROUTING -o gout -j MASQUERADE");
        network.iptables("-A FORWARD -i gout -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
        network.iptables("-A FORWARD -i gin -j ACCEPT");
        network.iptables("-P FORWARD DROP");
        network
    }

    fn hosts(&self) -> [String; 3] {
        ["s", "g", "m"].map(|host| format!("{}{host}", self.name))
    }

    fn iptables(&self, rule: &str) {
        let [_, gate, _] = self.hosts();
        run("ip", &format!("netns exec {gate} iptables {rule}"));
    }

    /// Has the gate forward a port of its own to the server's host.
    pub fn forward(&self, port: u16, to: u16) {
        self.iptables(&format!(
            "-t nat -A PREROUTING -i gout -p tcp --dport {port} -j DNAT --to-destination {SERVER}:{to}"
        ));
        self.iptables(&format!("-I FORWARD -i gout -p tcp -d {SERVER} --dport {to} -j ACCEPT"));
    }

    /// Has the gate swallow what is sent to an address.
    pub fn swallow(&self, address: &str) {
        self.iptables(&format!("-I FORWARD -d {address} -j DROP"));
    }

    /// Runs something on the server's host.
    pub fn on_server<T>(&self, work: impl FnOnce() -> T) -> T {
        let [server, _, _] = self.hosts();
        within(&server, work)
    }

    /// Runs something on the manager's host.
    pub fn on_manager<T>(&self, work: impl FnOnce() -> T) -> T {
        let [_, _, manager] = self.hosts();
        within(&manager, work)
    }

    /// Whether the name server was asked for a name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn was_asked_for(&self, name: &str) -> bool {
        let log = fs::read_to_string(self.resolver().join("asked")).unwrap();
        log.contains(&format!("] {name} from "))
    }

    fn resolver(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.hosts()[0])
    }

    /// Gives the server's host a name server: `cm.test` is the manager's host, `six.test` has IPv6 alone,
    /// other names of `test` are none.
    ///
    /// # Panics
    /// When dnsmasq does not start.
    #[expect(clippy::disallowed_methods, reason = "tests start what they need")]
    pub fn name_hosts(&mut self) {
        fs::create_dir_all(self.resolver()).unwrap();
        fs::write(
            self.resolver().join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n",
        )
        .unwrap();
        let [server, _, _] = self.hosts();
        let record = format!("--host-record=cm.test,{MANAGER}");
        let log = format!("--log-facility={}", self.resolver().join("asked").display());
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &server,
                tool("dnsmasq").to_str().unwrap(),
                "--no-daemon",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
            ])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local=/test/", &record])
            .args(["--host-record=six.test,2001:db8::7", "--user=root", "--log-queries", &log])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.dns = Some(child.unwrap());
        let asked = format!("netns exec {server} getent ahostsv4 cm.test");
        until("dnsmasq does not answer", || {
            Command::new("ip").args(asked.split_whitespace()).output().unwrap().status.success()
        });
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    #[expect(clippy::disallowed_methods, reason = "tests take away what they made")]
    fn drop(&mut self) {
        if let Some(dns) = &mut self.dns {
            let _ = dns.kill();
            let _ = dns.wait();
        }
        let _ = fs::remove_dir_all(self.resolver());
        for host in self.hosts() {
            let _ = Command::new("ip").args(["netns", "del", &host]).output();
        }
    }
}
