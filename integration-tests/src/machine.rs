//! Machines with systemd as PID 1, on a switch of the story's own, as users have them: packages are
//! installed, the power goes.
//!
//! A machine is a container of systemd-nspawn over an overlay of `target/install/rootfs-$MACHINES`, which
//! `make test-install` makes, once for each Debian: what a story writes is the machine's disk, survives a
//! power loss, and is gone with the machine.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::daemon::{Said, tool, until, within};
use crate::fleet::{Build, Fleet};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The repository: where `target` is.
///
/// # Panics
/// When there is none above.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[expect(clippy::disallowed_methods, reason = "tests make the machines they need")]
fn program(name: &str) -> Command {
    Command::new(name)
}

fn run(name: &str, arguments: &[&str]) {
    let output = program(name).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}; make test-install installs it"));
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(arguments: &str) {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>());
}

/// A switch in a network namespace, with a host on it at [`Lan::HUB`]: where the story's server runs.
#[derive(Debug)]
pub struct Lan {
    name: String,
    ports: AtomicU32,
}

impl Lan {
    /// The address of the host on the switch itself.
    pub const HUB: &str = "10.78.0.1";

    /// Makes it.
    ///
    /// # Panics
    /// When this is not run by root.
    #[must_use]
    pub fn new() -> Self {
        let name = format!("wl{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lan = Self { name, ports: AtomicU32::new(1) };
        let hub = lan.hub();
        ip(&format!("netns add {hub}"));
        ip(&format!("-n {hub} link set lo up"));
        ip(&format!("-n {hub} link add br0 type bridge"));
        ip(&format!("-n {hub} addr add {}/24 dev br0", Self::HUB));
        ip(&format!("-n {hub} link set br0 up"));
        lan
    }

    /// The network namespace of the host on the switch.
    #[must_use]
    pub fn hub(&self) -> String {
        format!("{}h", self.name)
    }

    /// Starts whatever is started meanwhile on the host on the switch.
    pub fn on_hub<T>(&self, work: impl FnOnce() -> T) -> T {
        within(&self.hub(), work)
    }

    /// A fleet that is not made yet, whose agents reach their server over the switch. To be called on the
    /// hub.
    #[must_use]
    pub fn unmade_fleet() -> Fleet {
        let mut fleet = Fleet::unmade(Build::Shipped);
        fleet.leave_the_road();
        fleet.agents_address = Self::HUB;
        fleet.server_config = "[session]\nheartbeat = \"1s\"\n".to_owned();
        fleet
    }

    /// A port of the switch, for another host on it.
    #[must_use]
    pub fn port(&self) -> Port {
        let number = self.ports.fetch_add(1, Ordering::Relaxed);
        let (hub, host) = (self.hub(), format!("{}p{number}", self.name));
        ip(&format!("netns add {host}"));
        ip(&format!("-n {hub} link add p{number} type veth peer name host0 netns {host}"));
        ip(&format!("-n {hub} link set p{number} master br0 up"));
        ip(&format!("-n {host} link set lo up"));
        ip(&format!("-n {host} addr add 10.78.0.{}/24 dev host0", number + 1));
        ip(&format!("-n {host} link set host0 up"));
        Port { hub, host, number }
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = program("ip").args(["netns", "del", &self.hub()]).output();
    }
}

/// A port of the switch: the network namespace behind it has the address 10.78.0.(1 + its number).
#[derive(Debug)]
pub struct Port {
    hub: String,
    /// The network namespace behind it.
    pub host: String,
    number: u32,
}

impl Port {
    /// The address behind it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.78.0.{}", self.number + 1)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let _ = program("ip").args(["netns", "del", &self.host]).output();
    }
}

/// A machine that runs.
#[derive(Debug)]
pub struct Machine {
    /// Its host name.
    pub name: String,
    disk: Disk,
    port: Port,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    container: Child,
    _groups: Groups,
    /// PID 1 of the machine, as this host sees it.
    leader: String,
}

/// The machine's own part of each tree of control groups in which systemd keeps units. Without it, machines
/// would share their units' groups.
#[derive(Debug)]
struct Groups(Vec<PathBuf>);

impl Groups {
    fn new() -> Self {
        let name = format!("writ-machine-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let trees = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(Path::new);
        let trees = trees.into_iter().filter(|tree| tree.join("cgroup.procs").exists());
        let folders: Vec<_> = trees.map(|tree| tree.join(&name)).collect();
        folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
        Self(folders)
    }

    /// Shell that moves itself there.
    fn enter(&self) -> String {
        self.0.iter().map(|folder| format!("echo $$ > {}/cgroup.procs; ", folder.display())).collect()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // The kernel empties them in its own time, a second at most on the busiest machine.
        for _ in 0..1_000_000 {
            self.0.iter().for_each(|folder| remove(folder));
            if !self.0.iter().any(|folder| folder.exists()) {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Removes control groups from below; one in which something lives stays.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// An overlay over the common root.
#[derive(Debug)]
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        let release = std::env::var("MACHINES").unwrap_or_else(|_| "bookworm".to_owned());
        let lower = repository().join(format!("target/install/rootfs-{release}"));
        assert!(lower.join("usr").is_dir(), "{} is missing; run: make test-install", lower.display());
        let folder = TempDir::with_prefix("writ-machine-").unwrap();
        for part in ["upper", "work", "root"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        let at = |part: &str| folder.path().join(part).display().to_string();
        let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), at("upper"), at("work"));
        run("mount", &["-t", "overlay", "overlay", "-o", &layers, &at("root")]);
        Self(folder)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = program("umount").arg("--lazy").arg(self.root()).output();
    }
}

impl Machine {
    /// A new machine on the switch, booted.
    #[must_use]
    pub fn new(lan: &Lan, name: &str) -> Self {
        let mut machine = Self { name: name.to_owned(), disk: Disk::new(), port: lan.port(), running: None };
        machine.put("/etc/hostname", format!("{name}\n").as_bytes(), 0o644);
        machine.boot();
        machine
    }

    /// Boots it, and waits until everything that starts by itself has started.
    ///
    /// # Panics
    /// When it does not boot.
    pub fn boot(&mut self) {
        let (root, log) = (self.disk.root(), self.disk.0.path().join("console"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let groups = Groups::new();
        let container = program("sh")
            .args(["-c", &format!("{}exec \"$@\"", groups.enter()), "machine"])
            .arg(tool("systemd-nspawn"))
            .args(["-q", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe", "-b"])
            .arg("-D")
            .arg(root)
            .arg(format!("--machine={}", self.name))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.port.host))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("systemd-nspawn: {error}; make test-install installs it"));
        let children = format!("/proc/{0}/task/{0}/children", container.id());
        self.running = Some(Running { container, _groups: groups, leader: String::new() });
        until("the machine does not boot", || {
            // The first child is not the machine's first process yet: it makes it, and ends.
            let leader = fs::read_to_string(&children).unwrap_or_default();
            if leader.trim().is_empty() {
                return false;
            }
            self.running.as_mut().unwrap().leader = leader.trim().to_owned();
            let state = self.sh("systemctl is-system-running --wait").stdout;
            matches!(state.trim(), "running" | "degraded")
        });
    }

    fn inside(&self) -> Command {
        let mut command = program("nsenter");
        command.args(["-t", &self.running.as_ref().unwrap().leader, "-a", "env", "-i"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"]);
        command
    }

    /// Runs a line of shell as root, as somebody logged in there would.
    #[must_use]
    pub fn sh(&self, script: &str) -> Said {
        self.sh_with_input(script, "")
    }

    /// The same with something on standard input.
    ///
    /// # Panics
    /// When the machine does not run.
    #[must_use]
    pub fn sh_with_input(&self, script: &str, input: &str) -> Said {
        let mut command = self.inside();
        command.args(["sh", "-c", script]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that does not read it is not wrong.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its address on the switch.
    #[must_use]
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Puts a file on its disk.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, path: &str, content: &[u8], mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.disk.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The power goes: the kernel forgets every process at once, and what was synced stays.
    ///
    /// # Panics
    /// When it does not run.
    pub fn lose_power(&mut self) {
        let mut running = self.running.take().unwrap();
        run("kill", &["-9", &running.leader]);
        running.container.wait().unwrap();
    }

    /// Ends in good order.
    ///
    /// # Panics
    /// When it does not run.
    pub fn power_off(&mut self) {
        let mut running = self.running.take().unwrap();
        // systemd(1): the signal that asks its first process to power off.
        run("kill", &["-s", "RTMIN+4", &running.leader]);
        running.container.wait().unwrap();
    }

    /// Pulls the cable out, or puts it back.
    pub fn plug(&self, is_in: bool) {
        let Port { hub, number, .. } = &self.port;
        ip(&format!("-n {hub} link set p{number} {}", if is_in { "up" } else { "down" }));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.running.is_some() {
            let said = self.sh("systemctl status writ-agent; journalctl -u writ-agent --no-pager -n 60");
            eprintln!("--- machine {}:\n{}{}", self.name, said.stdout, said.stderr);
        }
        if let Some(mut running) = self.running.take() {
            let _ = program("kill").args(["-9", &running.leader]).output();
            let _ = running.container.kill();
            let _ = running.container.wait();
        }
    }
}
