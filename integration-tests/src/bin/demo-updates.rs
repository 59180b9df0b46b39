//! `make demo-updates`: an update server behind nginx, a Control Manager that mirrors it and reads a sandbox by
//! TAXII, a server and three agents, on real processes, in a temporary folder.
#![allow(clippy::print_stdout, reason = "talking is what a demonstration does")]
#![allow(clippy::unwrap_used, reason = "in a demonstration a panic is the failed step")]

use std::fs;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::listed::{FILTER, Listed};
use integration_tests::manager::Manager;
use integration_tests::proxies::Proxy;
use integration_tests::sandbox::{Sandbox, indicator};
use serde_json::json;
use writ_protocol::id::Digest;

/// A file that an update server lists, and one that an analysis finds.
const LISTED: &str = "what the world knows to be bad\n";
const FOUND: &str = "what an analysis found this morning\n";

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn proved(text: &str) {
    println!("   => {text}");
}

/// What an operator types, for somebody to watch; it must go well.
fn types(fleet: &Fleet, arguments: &[&str]) {
    println!("   $ writ {}", arguments.join(" "));
    assert_eq!(fleet.show(arguments), 0);
}

/// Has the server update now, by gRPC as an operator with grpcurl does; what it printed.
fn sync(fleet: &Fleet, goes_well: bool) -> String {
    println!("   $ grpcurl -d '{{}}' SERVER writ.admin.v1.UpdateService/Sync");
    let said = fleet.call("UpdateService/Sync", "{}");
    let text = format!("{}{}", said.stdout, said.stderr);
    let outcome = text.contains("updateFailed") || said.code != 0;
    assert_eq!(!outcome, goes_well, "{said:?}");
    text
}

/// Shows the line with a code, which must be there.
fn tells(said: &str, code: &str) {
    let line = said.lines().find(|line| line.contains(code)).unwrap_or_else(|| panic!("no {code} in {said}"));
    println!("     {}", line.trim());
}

fn sha256(content: &str) -> String {
    Digest::of(content.as_bytes()).to_string()
}

/// Waits until all agents hold what is in force.
fn covered(fleet: &Fleet, component: &str) {
    until(&format!("not all agents hold {component}"), || {
        let rows = fleet.json(&["updates", "coverage"]);
        let row = rows.as_array().unwrap().iter().find(|row| row["component"] == component).cloned();
        row.is_some_and(|row| row["holding"] == 3 && row["agents"] == 3)
    });
}

fn main() {
    println!("Lists and suspicious objects, from those who publish them to the agents that look for them.");

    step(1, "An update server: static files behind nginx. A server with three agents follows it");
    let mut scene = Listed::over(Fleet::unmade(Build::Shipped));
    let web = Proxy::files(&scene.fleet.path("tuf"), None);
    let address = format!("http://127.0.0.1:{}/", web.port);
    let folder = format!("file://{}", scene.fleet.path("tuf").display());
    scene.fleet.server_config = scene.fleet.server_config.replace(&folder, &address);
    scene.publish_text("1", &format!("{}\n", sha256("nothing that is here")));
    scene.start();
    let agents = ["rome", "paris", "oslo"].map(|name| scene.fleet.agent(name));
    covered(&scene.fleet, FILTER);
    types(&scene.fleet, &["updates", "coverage"]);
    proved("version 1 of the list is in force, and three agents hold its filter");

    step(2, "A Control Manager mirrors the repository, and a sandbox is connected to it");
    let sandbox = Sandbox::start(&scene.fleet);
    let root = scene.fleet.path("pinned.json").display().to_string();
    fs::copy(scene.fleet.path("tuf/metadata/1.root.json"), &root).unwrap();
    let mirrors = format!("[updates]\nupstream = \"{address}\"\nroot = \"{root}\"\nevery = \"10s\"\n");
    let config = mirrors + &sandbox.config("files = \"quarantine\"");
    let manager = Manager::with(&scene.fleet, "manager", &config);
    manager.daemon().wait_for("the repository is mirrored", |_| true);
    proved("the manager holds a copy, byte for byte, and signs none of it");

    step(3, "The server registers, and accepts the manager as its update source");
    let fleet = &scene.fleet;
    manager.introduce(fleet);
    let token = manager.token(fleet);
    let _set = fleet
        .settings(&["--registration-token-file", &token, "--heartbeat", "1s", "--abnormal-after", "3s"])
        .ok();
    types(fleet, &["manager", "register", "--update-source", "manager"]);
    until("the server did not subscribe", || {
        let shown = fleet.json(&["objects", "subscription", "show"]);
        shown["state"] == "active" && shown["version"] != 0
    });
    types(fleet, &["objects", "subscription", "show"]);
    proved("it is subscribed to the suspicious objects of the manager without another click");

    step(4, "A new version of the list comes by the manager");
    scene.publish_text("2", &format!("{}\n", sha256(LISTED)));
    manager.daemon().wait_for_count("the repository is mirrored", 2);
    let _said = sync(fleet, true);
    let updated = fleet.server().wait_for("an update is in force", |said| said["version"] == "2");
    assert_eq!(updated["source"], "manager");
    covered(fleet, FILTER);
    proved("version 2 came from the manager, under the root that the server pinned itself");

    finds(fleet, &sandbox);
    refuses(&scene, &manager);
    drop(agents);
    println!("\nEvery step came out as it should.");
}

/// What an analysis finds reaches agents, which find it.
fn finds(fleet: &Fleet, sandbox: &Sandbox) {
    step(5, "The sandbox finds a bad file; three agents learn of it");
    let pattern = format!("[file:hashes.'SHA-256' = '{}']", sha256(FOUND));
    sandbox.add(&[indicator(1, 0, &pattern, &json!({ "confidence": 90 }))]);
    types(fleet, &["--context", "cm", "entities", "sandbox", "--sync"]);
    until("the object did not come", || fleet.json(&["objects", "subscription", "sync"])["objects"] == 1);
    types(fleet, &["objects", "list"]);
    covered(fleet, "suspicious-objects");
    proved("from the analysis to three agents, by two seals; nobody typed the digest");

    step(6, "Scans find both files, quarantine them, and put them back");
    let folder = fleet.path("srv");
    fs::create_dir(&folder).unwrap();
    let planted = [("listed", LISTED), ("found", FOUND)].map(|(name, content)| {
        fs::write(folder.join(name), content).unwrap();
        (folder.join(name), content)
    });
    let srv = folder.display().to_string();
    types(fleet, &["send", "scan", &srv, "--agent", "rome", "--wait"]);
    assert!(planted.iter().all(|(path, _)| path.exists()));
    proved("a scan that only looks touches nothing");
    types(fleet, &["send", "scan", &srv, "--remedy", "quarantine", "--agent", "rome", "--wait"]);
    assert!(planted.iter().all(|(path, _)| !path.exists()));
    proved("both are in rome's quarantine, sealed");
    for (path, content) in &planted {
        types(fleet, &["send", "restore-quarantined", &sha256(content), "--agent", "rome", "--wait"]);
        assert_eq!(fs::read_to_string(path).unwrap(), *content);
    }
    assert_eq!(fleet.alerts("listed", "").len(), 1);
    proved("they are back as they were, and the alert says what was found");
}

/// What an enemy does who holds the web server.
fn refuses(scene: &Listed, manager: &Manager) {
    let fleet = &scene.fleet;
    step(7, "Whoever holds the web server puts an old state of the repository there");
    let metadata = fleet.path("tuf/metadata");
    let kept = fleet.path("metadata-of-2");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let _copied = fleet.run_tool("cp", &["-rT", from.to_str().unwrap(), to.to_str().unwrap()]).ok();
    };
    copy(&metadata, &kept);
    scene.publish_text("3", &format!("{}\n{}\n", sha256(LISTED), sha256("more")));
    manager.daemon().wait_for_count("the repository is mirrored", 3);
    let _said = sync(fleet, true);
    copy(&kept, &metadata);
    manager
        .daemon()
        .wait_for("the repository could not be mirrored", |said| said["code"] == "update_rolled_back");
    proved("the manager refuses it: update_rolled_back");
    types(fleet, &["manager", "update-source", "default"]);
    let said = sync(fleet, false);
    tells(&said, "update_rolled_back");
    proved("so does the server, by another way to the same repository");

    step(8, "They put other bytes in the place of a list");
    scene.publish_text("4", &format!("{}\n", sha256(LISTED)));
    let targets = fs::read_dir(fleet.path("tuf/targets")).unwrap().map_while(Result::ok);
    let newest = targets
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(FILTER))
        .max_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
    let newest = newest.unwrap().path();
    let mut bytes = fs::read(&newest).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let said = sync(fleet, false);
    tells(&said, "update_mismatched");
    types(fleet, &["updates", "coverage"]);
    proved("what was in force before still is, on the server and on all agents");
}
