//! The Control Manager as the source of updates: it mirrors a repository, and its servers take it from there.

use std::fs;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use integration_tests::proxies::Proxy;
use integration_tests::repository::{TufRepository, address};

/// A component of several messages of gRPC.
fn long(word: &str) -> String {
    word.repeat(300_000)
}

#[test]
fn choosing_the_manager_begins_the_first_run_and_declining_leaves_the_source() {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    fs::create_dir(fleet.path("web")).unwrap();
    let repository = TufRepository::make(fleet.path("web/tuf"));
    repository.offer("2", &long("two "));
    let web = Proxy::files(&fleet.path("web"), None);
    let pinned = fleet.path("pinned.json").display().to_string();
    fs::copy(repository.root(), &pinned).unwrap();
    let upstream = format!(
        "[updates]\nupstream = \"{}\"\nroot = \"{pinned}\"\nevery = \"10s\"\n",
        address(&web, "tuf"),
    );
    // The update server of the configuration is away; its root is pinned all the same.
    fleet.server_config = format!("[updates]\nurl = \"http://127.0.0.1:9/\"\nroot = \"{pinned}\"\n");
    fleet.start_server(None);
    fleet.add_context();
    fleet.server().wait_for("an update failed", |said| said["code"] == "update_unreachable");
    let manager = Manager::with(&fleet, "manager", &upstream);
    manager.daemon().wait_for("the repository is mirrored", |said| said["components"] == 1);
    manager.introduce(&fleet);

    // Declined: nothing changes.
    let token = manager.token(&fleet);
    let _token = fleet.settings(&["--registration-token-file", &token]).ok();
    let status = fleet.json(&["manager", "register", "--update-source", "default"]);
    assert_eq!(status["update_source"], "default", "{status}");
    let shown = fleet.keys(&["updates", "source", "show"]).ok().json();
    assert_eq!(shown["update_source"], "default");
    assert!(!fleet.path("server/updates/active.json").exists());

    // Accepted: the first run begins at once.
    let _chosen = fleet.json(&["manager", "update-source", "manager"]);
    let updated = fleet.server().wait_for("an update is in force", |_| true);
    assert_eq!((&updated["source"], &updated["version"]), (&"manager".into(), &"2".into()));
    assert_eq!(fleet.component("tool"), ("2".to_owned(), long("two ")));

    // A new version upstream goes the same way. The manager holds it byte for byte.
    repository.offer("3", "three");
    manager.daemon().wait_for_count("the repository is mirrored", 2);
    let synced = fleet.call("UpdateService/Sync", "{}").ok();
    assert!(synced.stdout.contains("\"source\": \"manager\""), "{synced:?}");
    assert_eq!(fleet.component("tool").1, "three");
    let mirrored = fleet.run_tool(
        "find",
        &[fleet.path("manager/updates/mirror").to_str().unwrap(), "-name", "*.targets.json"],
    );
    let newest = mirrored.ok().stdout.lines().max().unwrap().to_owned();
    let original = fleet.path("web/tuf/metadata").join(newest.rsplit('/').next().unwrap());
    assert_eq!(fs::read(newest).unwrap(), fs::read(original).unwrap());
    // A root that nobody signed is not passed on.
    let first = fs::read(repository.root()).unwrap();
    fs::write(repository.root(), "{\"evil\": true}").unwrap();
    repository.offer("4", "four");
    manager.daemon().wait_for_count("the repository is mirrored", 3);
    let copies = fs::read_to_string(fleet.path("manager/updates/mirror.json")).unwrap();
    let copies: serde_json::Value = serde_json::from_str(&copies).unwrap();
    let served = format!("manager/updates/mirror/metadata-{}/1.root.json", copies["current"]["number"]);
    assert_eq!(fs::read(fleet.path(&served)).unwrap(), first);
}

#[test]
fn a_manager_that_is_somebody_elses_serves_nothing_that_counts() {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    let honest = TufRepository::make(fleet.path("honest"));
    let forged = TufRepository::make(fleet.path("forged"));
    fleet.server_config =
        format!("[updates]\nurl = \"file://{}\"\nroot = \"{}\"\n", honest.folder.display(), honest.root());
    fleet.start_server(None);
    fleet.add_context();
    fleet.server().wait_for("an update is in force", |_| true);
    let upstream = format!(
        "[updates]\nupstream = \"file://{}\"\nroot = \"{}\"\nevery = \"10s\"\n",
        forged.folder.display(),
        forged.root()
    );
    let manager = Manager::with(&fleet, "manager", &upstream);
    manager.daemon().wait_for("the repository is mirrored", |_| true);
    manager.introduce(&fleet);
    let token = manager.token(&fleet);
    let _token = fleet.settings(&["--registration-token-file", &token]).ok();
    let _registered = fleet.json(&["manager", "register", "--update-source", "manager"]);
    let failed = fleet.server().wait_for("an update failed", |said| said["source"] == "manager");
    assert_eq!(failed["code"], "update_unsigned", "{failed}");
    assert_eq!(fleet.component("tool").1, "one");
    // The root of the manager's own repository can be pinned instead.
    let set = ["updates", "source", "set", "manager", "--root", &forged.root()];
    let _set = fleet.keys(&set.map(str::to_owned).each_ref().map(String::as_str)).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
}
