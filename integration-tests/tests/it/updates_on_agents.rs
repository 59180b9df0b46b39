//! Lists on agents: told by a signed command, fetched piece by piece, believed for their digest.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use serde_json::Value;

const MANAGER: &str = "writ-control-manager-testing";
const FILTER: &str = "file-reputation-filter";

/// A fleet whose server updates from a repository in a folder, and that folder.
struct Scene {
    fleet: Fleet,
}

impl Scene {
    fn new() -> Self {
        let mut fleet = Fleet::unmade(Build::Testing);
        let _made = fleet.init().ok();
        let passphrase = fleet.path("passphrase").display().to_string();
        let scene = |fleet: Fleet| Self { fleet };
        fleet.server_config = format!(
            "[updates]\nurl = \"file://{}\"\nroot = \"{}\"\n",
            fleet.path("tuf").display(),
            fleet.path("tuf/metadata/1.root.json").display()
        );
        let scene = scene(fleet);
        let _made = scene.repo("init", &["--passphrase-file", &passphrase]);
        scene
    }

    fn repo(&self, verb: &str, more: &[&str]) -> Value {
        let [repository, keys] = ["tuf", "keys"].map(|name| self.fleet.path(name).display().to_string());
        let places = ["repo", verb, "--output", "json", "--repository", &repository, "--keys", &keys];
        self.fleet.run(MANAGER, &[places.as_slice(), more].concat()).ok().json()
    }

    /// Publishes a list of so many digests with its filter, which has several pieces.
    fn publish(&self, version: &str, count: u32) {
        let [text, list, filter] =
            ["digests", "list", "filter"].map(|name| self.fleet.path(name).display().to_string());
        let mut digests = String::new();
        for number in 0..count {
            writeln!(digests, "{number:032x}{:032x}", number.wrapping_mul(2_654_435_761)).unwrap();
        }
        fs::write(&text, digests).unwrap();
        let build = ["lists", "build", "--kind", "sha256", "--out", &list, "--filter", &filter, &text];
        let _built = self.fleet.run(MANAGER, &build).ok();
        for (component, file) in [("file-reputation", &list), (FILTER, &filter)] {
            let _added = self.repo("add", &["--component", component, "--component-version", version, file]);
        }
        let _published = self.repo("publish", &[]);
    }

    fn start(&mut self) {
        self.fleet.start_server(None);
        self.fleet.add_context();
    }

    fn folder(&self, agent: &str) -> PathBuf {
        self.fleet.path(agent).join("components")
    }

    /// Whether an agent has the bytes that were published last.
    fn holds(&self, agent: &str) -> bool {
        let published = fs::read(self.fleet.path("filter")).unwrap();
        let held = fs::read_dir(self.folder(agent)).into_iter().flatten().flatten();
        let files: Vec<_> =
            held.filter(|entry| entry.path().extension().is_some_and(|end| end.len() == 64)).collect();
        files.len() == 1 && fs::read(files[0].path()).unwrap() == published
    }

    fn covered(&self) -> (Value, Value) {
        let coverage = self.fleet.json(&["updates", "coverage"]);
        (coverage[0]["holding"].clone(), coverage[0]["agents"].clone())
    }
}

#[test]
fn what_comes_into_force_on_a_server_is_on_its_agents_and_who_lacks_it_is_told() {
    let mut scene = Scene::new();
    scene.publish("1", 150_000);
    scene.start();
    let (rome, paris) = (scene.fleet.agent("rome"), scene.fleet.agent("paris"));
    for agent in [&rome, &paris] {
        agent.wait_for("component in force", |said| said["component"] == FILTER && said["version"] == "1");
    }
    assert!(scene.holds("rome") && scene.holds("paris"));
    let config = scene.fleet.agent_config("rome").display().to_string();
    let status = scene.fleet.run("writ-agent-testing", &["status", "--config", &config, "--output", "json"]);
    assert_eq!(status.ok().json()["components"][FILTER]["version"], "1");
    until("coverage is not whole", || scene.covered() == (2.into(), 2.into()));

    // An agent that is away hears of the next version when it comes back.
    paris.kill();
    scene.publish("2", 160_000);
    let _synced = scene.fleet.call("UpdateService/Sync", "{}").ok();
    rome.wait_for("component in force", |said| said["version"] == "2");
    assert!(scene.holds("rome") && !scene.holds("paris"));
    until("one is behind", || scene.covered() == (1.into(), 2.into()));
    let behind =
        scene.fleet.json(&["updates", "coverage"])[0]["behind_selector"].as_str().unwrap().to_owned();
    let listed = scene.fleet.json(&["agents", "list", "--selector", &behind]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["name"], "paris");
    let paris = scene.fleet.start_agent("paris", None);
    paris.wait_for("component in force", |said| said["version"] == "2");
    until("coverage is not whole", || scene.covered() == (2.into(), 2.into()));

    // Sent by hand, it is there already; and what agents have no use for is not sent.
    let again = scene.fleet.json(&["send", "component", FILTER, "--all", "--wait"]);
    assert_eq!(again["done"], 2, "{again}");
    assert!(again["targets"][0]["detail"].as_str().unwrap().contains("in force already"), "{again}");
    let refused = scene.fleet.writ(&["send", "component", "file-reputation", "--all"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("no component that agents have a use for"),
        "{refused:?}"
    );
    let refused = scene.fleet.writ(&["send", "component", "web-reputation-filter", "--all"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("no web-reputation-filter is in force"),
        "{refused:?}"
    );
}

#[test]
fn an_agent_that_is_killed_or_cut_off_goes_on_where_it_was() {
    let mut scene = Scene::new();
    scene.publish("1", 150_000);
    scene.start();
    let _enrolled = scene.fleet.enroll("rome", &scene.fleet.token(1)).ok();
    let stop = scene.fleet.checkpoint("component_piece");
    let rome = scene.fleet.start_agent("rome", Some(&stop));
    let held = stop.reached();
    rome.kill();
    drop(held);
    let incoming = || {
        let files = fs::read_dir(scene.folder("rome")).unwrap().flatten();
        files.map(|entry| entry.metadata().unwrap().len()).collect::<Vec<_>>()
    };
    assert_eq!(incoming(), [65_536], "one piece has come, and nothing is in force");
    // Killed again when all has come, and when it is in its place.
    for step in ["component_fetched", "component_placed"] {
        let stop = scene.fleet.checkpoint(step);
        let rome = scene.fleet.start_agent("rome", Some(&stop));
        let held = stop.reached();
        assert!(!scene.folder("rome").join(format!("{FILTER}.json")).exists(), "{step}");
        rome.kill();
        drop(held);
    }
    let rome = scene.fleet.start_agent("rome", None);
    rome.wait_for("component in force", |said| said["version"] == "1");
    assert!(scene.holds("rome"));
    let command = scene.fleet.json(&["commands", "list"])[0].clone();
    let shown = scene.fleet.json(&["commands", "show", command["command_id"].as_str().unwrap()]);
    assert_eq!(shown["done"], 1, "{shown}");
}

#[test]
fn bytes_that_are_not_the_ones_of_the_command_are_refused_and_reported() {
    let mut scene = Scene::new();
    scene.publish("1", 150_000);
    scene.start();
    let rome = scene.fleet.agent("rome");
    rome.wait_for("component in force", |_| true);
    // Somebody changes the server's file before agents fetch it.
    scene.fleet.kill_server();
    scene.publish("2", 160_000);
    let _synced = scene
        .fleet
        .keys(&["updates", "sync", "--config", scene.fleet.path("server.toml").to_str().unwrap()])
        .ok();
    let (_, _) = scene.fleet.component(FILTER);
    let folder = scene.fleet.path("server/updates/components").join(FILTER);
    let shelf: Value =
        serde_json::from_slice(&fs::read(scene.fleet.path("server/updates/active.json")).unwrap()).unwrap();
    let file = folder.join(shelf[FILTER]["active"]["sha256"].as_str().unwrap());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    scene.fleet.start_server(None);
    let failed = rome.wait_for("component not updated", |_| true);
    assert!(failed["why"].as_str().unwrap().contains("SHA-256 is another"), "{failed}");
    let held = fs::read_to_string(scene.folder("rome").join(format!("{FILTER}.json"))).unwrap();
    assert!(held.contains("\"version\":\"1\""), "{held}");
    let left = fs::read_dir(scene.folder("rome")).unwrap().count();
    assert_eq!(left, 2, "what came is removed");
    until("the command is answered", || {
        let commands = scene.fleet.json(&["commands", "list"]);
        commands.as_array().unwrap().iter().any(|command| command["failed"] == 1)
    });
    assert_eq!(scene.covered(), (0.into(), 1.into()));
}

#[test]
fn a_host_that_denies_it_is_not_told_and_says_why_when_it_is() {
    let mut scene = Scene::new();
    scene.publish("1", 1_000);
    scene.fleet.actions_config = "deny = [\"update-component\"]\n".to_owned();
    scene.start();
    let rome = scene.fleet.agent("rome");
    scene.fleet.actions_config = String::new();
    let paris = scene.fleet.agent("paris");
    paris.wait_for("component in force", |_| true);
    assert_eq!(rome.count("command refused"), 0);
    let sent = ["--output", "json", "send", "component", FILTER, "--agent", "rome", "--wait"];
    let sent = scene.fleet.writ(&sent).failed(1).json();
    assert_eq!(
        (&sent["refused"], &sent["targets"][0]["refusal_code"]),
        (&1.into(), &"action_not_allowed".into()),
        "{sent}"
    );
}
