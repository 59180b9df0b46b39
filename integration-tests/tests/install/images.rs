//! The images in containers of podman: what is in them, a server beside agents on machines, its host lost,
//! and all of compose.yaml.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use integration_tests::containers::{HARDENED, Podman, VERSION};
use integration_tests::daemon::{Said, until};
use integration_tests::fleet::{Build, Fleet};
use integration_tests::machine::{Lan, Machine, Port};
use serde_json::Value;

use crate::package::{NOTE, definition, package};

/// At most, so that a host with a slow line has it soon.
const MAX_IMAGE_BYTES: u64 = 25_000_000;

#[test]
fn an_image_holds_one_static_program_that_is_not_root() {
    let lan = Lan::new();
    let podman = Podman::new(&lan.hub());
    for name in ["server", "manager", "agent", "cli"] {
        let inspected = podman.run(&["image", "inspect", &podman.image(name)]).ok().json();
        let image = &inspected[0];
        assert!(image["Size"].as_u64().unwrap() <= MAX_IMAGE_BYTES, "{name}: {}", image["Size"]);
        assert_eq!(image["User"], "10001:10001", "{name}");
        assert_eq!(image["Healthcheck"].is_null(), name == "cli", "{name}: {image:#}");
        let image = podman.image(name);
        let shell =
            podman.run(&["run", "--rm", "--network=none", "--pull=never", "--entrypoint=/bin/sh", &image]);
        assert_ne!(shell.code, 0, "{name} has no shell");
        let version =
            podman.run(&[&["run", "--rm", "--network=none"], &HARDENED[..], &[&image, "--version"]].concat());
        assert!(version.ok().stdout.trim().ends_with(VERSION));
    }
}

/// A server in a container of a host on the switch, with its state in a volume.
struct Server {
    place: Port,
    podman: Podman,
    files: Fleet,
}

impl Server {
    fn new(lan: &Lan) -> Self {
        let (place, podman) = (lan.port(), Podman::new(&lan.hub()));
        let server = Self { place, podman, files: Fleet::unmade(Build::Shipped) };
        // As on a host: the file is the container's user's.
        std::os::unix::fs::chown(server.files.path("passphrase"), Some(10_001), Some(10_001)).unwrap();
        server
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.podman.name)
    }

    /// Runs `writ-server` to its end over a volume.
    fn local(&self, volume: &str, more: &[&str], arguments: &[&str]) -> Said {
        let data = format!("{}:/data", self.name(volume));
        let passphrase = format!("{}:/run/passphrase:ro", self.files.path("passphrase").display());
        let image = self.podman.image("server");
        let begin = ["run", "--rm", "--network=none", "-v", &data, "-v", &passphrase];
        self.podman.run(&[&begin, &HARDENED[..], more, &[&image], arguments].concat())
    }

    fn start(&self, volume: &str) {
        let (name, data) = (self.name("server"), format!("{}:/data", self.name(volume)));
        let network = format!("--network=ns:/run/netns/{}", self.place.host);
        let image = self.podman.image("server");
        let begin = ["run", "--detach", "--name", &name, &network, "-v", &data];
        self.podman.run(&[&begin, &HARDENED[..], &[&image]].concat()).ok();
        until("the server is not healthy", || self.podman.run(&["healthcheck", "run", &name]).code == 0);
    }

    /// The operator's command, in a container too.
    fn writ(&self, volume: &str, arguments: &[&str]) -> Said {
        let data = format!("{}:/server:ro", self.name(volume));
        let network = format!("--network=ns:/run/netns/{}", self.place.host);
        let name = format!("--add-host=server.example:{}", self.place.address());
        let image = self.podman.image("cli");
        let begin = ["run", "--rm", &network, &name, "-v", &data, "-e", "WRIT_SERVER=server.example:7444"];
        let places =
            ["-e", "WRIT_CA=/server/server/admin-ca.pem", "-e", "WRIT_TOKEN_FILE=/server/server/admin-token"];
        self.podman.run(&[&begin, &places[..], &HARDENED[..], &[&image, "--output=json"], arguments].concat())
    }

    fn note(&self, volume: &str, word: &str) {
        let word = format!("word={word}");
        let sent =
            self.writ(volume, &["send", "action", "note", &word, "--all", "--wait", "--timeout", "60s"]);
        assert_eq!(sent.ok().json()["done"], 1);
    }

    fn agents(&self, volume: &str) -> Value {
        self.writ(volume, &["agents", "list"]).ok().json()
    }

    fn connected(&self, volume: &str) {
        until("the agent does not connect", || self.agents(volume)[0]["connected"] == true);
    }
}

#[test]
fn a_server_is_killed_replaced_and_restored_elsewhere_and_no_agent_is_visited() {
    let lan = Lan::new();
    let mut server = Server::new(&lan);
    let init = [
        "init",
        "--if-new",
        "--name",
        "acme",
        "--endpoint",
        "server.example:7443",
        "--passphrase-file",
        "/run/passphrase",
    ];
    server.local("one", &[], &init).ok();
    let again = server.local("one", &[], &init).ok();
    assert!(again.stderr.contains("is here already; nothing was changed"), "{again:?}");
    server.start("one");

    let token =
        server.writ("one", &["enroll", "token", "create"]).ok().json()["token"].as_str().unwrap().to_owned();
    let web1 = Machine::new(&lan, "web1");
    let lead_to = |server: &Server| {
        let hosts = format!("127.0.0.1 localhost\n{} server.example\n", server.place.address());
        web1.put("/etc/hosts", hosts.as_bytes(), 0o644);
    };
    lead_to(&server);
    web1.put("/root/writ-agent.deb", &package("writ-agent"), 0o644);
    web1.sh("dpkg -i /root/writ-agent.deb").ok();
    web1.put("/usr/local/bin/note", NOTE.as_bytes(), 0o755);
    web1.put("/etc/writ/actions.d/note.toml", definition("/usr/local/bin/note", "").as_bytes(), 0o644);
    web1.put("/etc/writ/agent.toml", b"[link]\nmax_backoff = \"1s\"\n", 0o644);
    web1.sh_with_input("runuser -u writ-agent -- writ-agent enroll --token-file -", &token).ok();
    web1.sh("systemctl start writ-agent").ok();
    server.connected("one");
    server.note("one", "first");
    let agent = server.agents("one")[0]["agent_id"].clone();

    cut_the_network(&server, &web1);

    // Killed, and another container over the same volume.
    let name = server.name("server");
    server.podman.run(&["kill", "--signal=KILL", &name]).ok();
    server.podman.run(&["rm", &name]).ok();
    server.start("one");
    server.connected("one");
    server.note("one", "second");

    // The host burns down; what is left is the sealed backup. Another host has another address, and the name
    // leads there.
    let backups = server.podman.volume(&server.name("one")).join("server/backups");
    let latest = fs::read_dir(backups).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let kept = server.files.path("kept-backup");
    fs::copy(latest, &kept).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o644)).unwrap();
    server.podman.run(&["rm", "--force", "--time", "0", &name]).ok();
    server.podman.run(&["volume", "rm", &server.name("one")]).ok();
    let backup = format!("{}:/backup:ro", kept.display());
    let restored = server.local(
        "two",
        &["-v", &backup],
        &["cert", "restore", "/backup", "--passphrase-file", "/run/passphrase"],
    );
    restored.ok();
    let burnt = server.place.address();
    server.place = lan.port();
    assert_ne!(server.place.address(), burnt);
    lead_to(&server);
    server.start("two");
    server.connected("two");
    server.note("two", "third");
    assert_eq!(server.agents("two")[0]["agent_id"], agent);
    assert_eq!(
        web1.sh("sort /var/lib/writ/agent/notes | tr '\\n' ' '").ok().stdout,
        "cut first second third "
    );
}

/// What is sent while the network is cut waits, and comes once.
fn cut_the_network(server: &Server, web1: &Machine) {
    web1.plug(false);
    let sent = server.writ("one", &["send", "action", "note", "word=cut", "--all"]).ok().json();
    let cut = sent["command_id"].as_str().unwrap();
    let waited = server.writ(
        "one",
        &["send", "action", "note", "word=cut", "--all", "--id", cut, "--wait", "--timeout", "2s"],
    );
    assert_eq!(waited.code, 6, "{waited:?}");
    web1.plug(true);
    let healed = ["send", "action", "note", "word=cut", "--all", "--id", cut, "--wait", "--timeout", "60s"];
    assert_eq!(server.writ("one", &healed).ok().json()["done"], 1);
}

#[test]
fn compose_makes_a_fleet_from_nothing_and_finds_it_again() {
    let lan = Lan::new();
    let podman = Podman::new(&lan.hub());
    // Where the file says.
    let passphrase = integration_tests::machine::repository().join("deploy/passphrase");
    fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o400)).unwrap();
    std::os::unix::fs::chown(&passphrase, Some(10_001), Some(10_001)).unwrap();
    podman.compose(&["up", "--detach"]).ok();
    let writ = |arguments: &[&str]| {
        podman
            .compose(&[&["run", "--rm", "-T", "writ", "--output=json", "--patience=1m"], arguments].concat())
    };
    let agents = || {
        let listed = writ(&["agents", "list"]).ok();
        let rows: Value = serde_json::from_str(&listed.stdout[listed.stdout.find('[').unwrap()..]).unwrap();
        let connected = rows.as_array().unwrap().iter().filter(|agent| agent["connected"] == true);
        connected.map(|agent| (agent["name"].to_string(), agent["agent_id"].to_string())).collect::<Vec<_>>()
    };
    until("the agents do not come", || agents().len() == 2);
    let first = agents();
    let sent = writ(&["send", "ping", "--all", "--wait"]).ok();
    assert!(sent.stdout.contains("\"done\": 2"), "{sent:?}");
    // The passphrase is not needed again.
    fs::write(&passphrase, "gone\n").unwrap();
    podman.compose(&["down"]).ok();
    podman.compose(&["up", "--detach"]).ok();
    until("the agents do not come back", || agents().len() == 2);
    assert_eq!(agents(), first);
    fs::remove_file(&passphrase).unwrap();
}
