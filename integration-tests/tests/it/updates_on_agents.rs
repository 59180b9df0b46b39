//! Lists on agents: told by a signed command, fetched piece by piece, believed for their digest.

use std::fs;
use std::path::PathBuf;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::listed::{FILTER, Listed};
use serde_json::Value;

/// A fleet of whose list agents hold the filter.
struct Scene {
    listed: Listed,
}

impl Scene {
    fn new() -> Self {
        Self { listed: Listed::over(Fleet::unmade(Build::Testing)) }
    }

    fn folder(&self, agent: &str) -> PathBuf {
        self.listed.fleet.path(agent).join("components")
    }

    /// Whether an agent has the bytes that were published last.
    fn holds(&self, agent: &str) -> bool {
        let published = fs::read(self.listed.fleet.path("filter")).unwrap();
        let held = fs::read_dir(self.folder(agent)).into_iter().flatten().flatten();
        let files: Vec<_> =
            held.filter(|entry| entry.path().extension().is_some_and(|end| end.len() == 64)).collect();
        files.len() == 1 && fs::read(files[0].path()).unwrap() == published
    }

    fn covered(&self) -> (Value, Value) {
        let coverage = self.listed.fleet.json(&["updates", "coverage"]);
        (coverage[0]["holding"].clone(), coverage[0]["agents"].clone())
    }
}

#[test]
fn what_comes_into_force_on_a_server_is_on_its_agents_and_who_lacks_it_is_told() {
    let mut scene = Scene::new();
    scene.listed.publish("1", 150_000);
    scene.listed.start();
    let (rome, paris) = (scene.listed.fleet.agent("rome"), scene.listed.fleet.agent("paris"));
    for agent in [&rome, &paris] {
        agent.wait_for("component in force", |said| said["component"] == FILTER && said["version"] == "1");
    }
    assert!(scene.holds("rome") && scene.holds("paris"));
    let config = scene.listed.fleet.agent_config("rome").display().to_string();
    let status =
        scene.listed.fleet.run("writ-agent-testing", &["status", "--config", &config, "--output", "json"]);
    assert_eq!(status.ok().json()["components"][FILTER]["version"], "1");
    until("coverage is not whole", || scene.covered() == (2.into(), 2.into()));

    // An agent that is away hears of the next version when it comes back.
    paris.kill();
    scene.listed.publish("2", 160_000);
    let _synced = scene.listed.fleet.call("UpdateService/Sync", "{}").ok();
    rome.wait_for("component in force", |said| said["version"] == "2");
    assert!(scene.holds("rome") && !scene.holds("paris"));
    until("one is behind", || scene.covered() == (1.into(), 2.into()));
    let behind =
        scene.listed.fleet.json(&["updates", "coverage"])[0]["behind_selector"].as_str().unwrap().to_owned();
    let listed = scene.listed.fleet.json(&["agents", "list", "--selector", &behind]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["name"], "paris");
    let paris = scene.listed.fleet.start_agent("paris", None);
    paris.wait_for("component in force", |said| said["version"] == "2");
    until("coverage is not whole", || scene.covered() == (2.into(), 2.into()));

    // Sent by hand, it is there already; and what agents have no use for is not sent.
    let again = scene.listed.fleet.json(&["send", "component", FILTER, "--all", "--wait"]);
    assert_eq!(again["done"], 2, "{again}");
    assert!(again["targets"][0]["detail"].as_str().unwrap().contains("in force already"), "{again}");
    let refused = scene.listed.fleet.writ(&["send", "component", "file-reputation", "--all"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("no component that agents have a use for"),
        "{refused:?}"
    );
    let refused = scene.listed.fleet.writ(&["send", "component", "web-reputation-filter", "--all"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("no web-reputation-filter is in force"),
        "{refused:?}"
    );
}

#[test]
fn an_agent_that_is_killed_or_cut_off_goes_on_where_it_was() {
    let mut scene = Scene::new();
    scene.listed.publish("1", 150_000);
    scene.listed.start();
    let _enrolled = scene.listed.fleet.enroll("rome", &scene.listed.fleet.token(1)).ok();
    let stop = scene.listed.fleet.checkpoint("component_piece");
    let rome = scene.listed.fleet.start_agent("rome", Some(&stop));
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
        let stop = scene.listed.fleet.checkpoint(step);
        let rome = scene.listed.fleet.start_agent("rome", Some(&stop));
        let held = stop.reached();
        assert!(!scene.folder("rome").join(format!("{FILTER}.json")).exists(), "{step}");
        rome.kill();
        drop(held);
    }
    let rome = scene.listed.fleet.start_agent("rome", None);
    rome.wait_for("component in force", |said| said["version"] == "1");
    assert!(scene.holds("rome"));
    let command = scene.listed.fleet.json(&["commands", "list"])[0].clone();
    let shown = scene.listed.fleet.json(&["commands", "show", command["command_id"].as_str().unwrap()]);
    assert_eq!(shown["done"], 1, "{shown}");
}

#[test]
fn bytes_that_are_not_the_ones_of_the_command_are_refused_and_reported() {
    let mut scene = Scene::new();
    scene.listed.publish("1", 150_000);
    scene.listed.start();
    let rome = scene.listed.fleet.agent("rome");
    rome.wait_for("component in force", |_| true);
    // Somebody changes the server's file before agents fetch it.
    scene.listed.fleet.kill_server();
    scene.listed.publish("2", 160_000);
    let _synced = scene
        .listed
        .fleet
        .keys(&["updates", "sync", "--config", scene.listed.fleet.path("server.toml").to_str().unwrap()])
        .ok();
    let (_, _) = scene.listed.fleet.component(FILTER);
    let folder = scene.listed.fleet.path("server/updates/components").join(FILTER);
    let shelf: Value =
        serde_json::from_slice(&fs::read(scene.listed.fleet.path("server/updates/active.json")).unwrap())
            .unwrap();
    let file = folder.join(shelf[FILTER]["active"]["sha256"].as_str().unwrap());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    scene.listed.fleet.start_server(None);
    let failed = rome.wait_for("component not updated", |_| true);
    assert!(failed["why"].as_str().unwrap().contains("SHA-256 is another"), "{failed}");
    let held = fs::read_to_string(scene.folder("rome").join(format!("{FILTER}.json"))).unwrap();
    assert!(held.contains("\"version\":\"1\""), "{held}");
    let left = fs::read_dir(scene.folder("rome")).unwrap().count();
    assert_eq!(left, 2, "what came is removed");
    until("the command is answered", || {
        let commands = scene.listed.fleet.json(&["commands", "list"]);
        commands.as_array().unwrap().iter().any(|command| command["failed"] == 1)
    });
    assert_eq!(scene.covered(), (0.into(), 1.into()));
}

#[test]
fn a_host_that_denies_it_is_not_told_and_says_why_when_it_is() {
    let mut scene = Scene::new();
    scene.listed.publish("1", 1_000);
    scene.listed.fleet.actions_config = "deny = [\"update-component\"]\n".to_owned();
    scene.listed.start();
    let rome = scene.listed.fleet.agent("rome");
    scene.listed.fleet.actions_config = String::new();
    let paris = scene.listed.fleet.agent("paris");
    paris.wait_for("component in force", |_| true);
    assert_eq!(rome.count("command refused"), 0);
    let sent = ["--output", "json", "send", "component", FILTER, "--agent", "rome", "--wait"];
    let sent = scene.listed.fleet.writ(&sent).failed(1).json();
    assert_eq!(
        (&sent["refused"], &sent["targets"][0]["refusal_code"]),
        (&1.into(), &"action_not_allowed".into()),
        "{sent}"
    );
}
