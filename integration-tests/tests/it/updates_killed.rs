//! Updates and publications that are killed at every step, and a disk without room.

use std::fs;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use integration_tests::repository::TufRepository;

const SERVER: &str = "writ-server-testing";
const MANAGER: &str = "writ-control-manager-testing";

fn source(repository: &TufRepository) -> String {
    format!("file://{}", repository.folder.display())
}

#[test]
fn an_update_killed_at_any_step_leaves_the_old_version_or_the_new_one() {
    let fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    let repository = TufRepository::make(fleet.path("tuf"));
    let _set = fleet.update_from(&source(&repository), &repository.root()).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    let folder = fleet.path("server").display().to_string();
    let mut before = "one".to_owned();
    for (number, (step, is_active)) in [
        // The first file that is written beside another: metadata that is kept.
        ("file_beside", false),
        ("update_fetched", false),
        ("update_verified", false),
        ("update_staged", false),
        ("update_activated", true),
    ]
    .into_iter()
    .enumerate()
    {
        let new = format!("content {number}");
        repository.offer(&format!("k{number}"), &new);
        fleet.kill_at(step, SERVER, &["updates", "sync", "--data-dir", &folder]);
        let expected = if is_active { &new } else { &before };
        assert_eq!(&fleet.component("tool").1, expected, "{step}");
        let _synced = fleet.keys(&["updates", "sync"]).ok();
        assert_eq!(fleet.component("tool").1, new, "{step}");
        assert!(!fleet.path("server/updates/incoming").exists(), "{step}: what was left is removed");
        before = new;
    }
}

#[test]
fn a_publication_killed_at_any_step_is_whole_for_readers_and_finished_by_the_next() {
    let fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    let [repository, keys, file] = ["tuf", "keys", "file"].map(|name| fleet.path(name).display().to_string());
    let passphrase = fleet.path("passphrase").display().to_string();
    let repo = |verb: &str, more: &[&str]| {
        let arguments = ["repo", verb, "--repository", &repository, "--keys", &keys];
        [arguments.as_slice(), more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |arguments: Vec<String>| {
        fleet.run(MANAGER, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).ok()
    };
    let _made = run(repo("init", &["--passphrase-file", &passphrase]));
    let root = format!("{repository}/metadata/1.root.json");
    let _set = fleet.update_from(&format!("file://{repository}"), &root).ok();
    let offer = |version: &str| {
        fs::write(&file, version).unwrap();
        let more = ["--component", "tool", "--component-version", version, &file];
        let _added = run(repo("add", &more));
    };
    offer("1");
    let _published = run(repo("publish", &[]));
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    let kill = |step: &str, arguments: Vec<String>| {
        fleet.kill_at(step, MANAGER, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    };
    // The targets are written, and nothing names them yet.
    offer("2");
    kill("repository_written", repo("publish", &[]));
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "1");
    let _published = run(repo("publish", &[]));
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "2");
    // The new root is signed, and readers do not see it yet.
    let all = ["--role", "root", "--role", "targets", "--role", "snapshot", "--role", "timestamp"];
    let rotate = repo("rotate-root", &[all.as_slice(), &["--passphrase-file", &passphrase]].concat());
    kill("repository_root_signed", rotate.clone());
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    // They see it, and its keys have signed nothing yet.
    kill("repository_written", repo("publish", &[]));
    let refused = fleet.keys(&["updates", "sync"]).failed(1);
    assert!(refused.stderr.contains("(update_unsigned)"), "{refused:?}");
    assert_eq!(fleet.component("tool").1, "2");
    offer("3");
    let _published = run(repo("publish", &[]));
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "3");
    // Killed before the new root is there: the old keys still count.
    kill("file_beside", rotate.clone());
    offer("4");
    let _published = run(repo("publish", &[]));
    let _rotated = run(rotate);
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "4");
}

#[test]
fn a_mirror_killed_before_its_copy_is_served_serves_the_one_of_before_and_then_the_new_one() {
    let fleet = Fleet::unmade(Build::Testing);
    let repository = TufRepository::make(fleet.path("tuf"));
    let config = format!(
        "[updates]\nupstream = \"{}\"\nroot = \"{}\"\nevery = \"10s\"\n",
        source(&repository),
        repository.root()
    );
    let mut manager = Manager::unmade(&fleet, "manager", &config);
    let _made = manager.init(&fleet, &[]).ok();
    manager.start(None);
    manager.daemon().wait_for("the repository is mirrored", |_| true);
    manager.kill();
    let served = || fs::read_to_string(fleet.path("manager/updates/mirror.json")).unwrap();
    let before = served();
    repository.offer("2", "two");
    let stop = fleet.checkpoint("mirror_copied");
    manager.start(Some(&stop));
    let held = stop.reached();
    manager.kill();
    drop(held);
    assert_eq!(served(), before);
    manager.start(None);
    manager.daemon().wait_for("the repository is mirrored", |_| true);
    assert_ne!(served(), before);
    let folders = fs::read_dir(fleet.path("manager/updates/mirror")).unwrap().count();
    assert_eq!(folders, 3, "two copies of the metadata, and the targets of both");
}

/// A small disk of its own for updates.
struct Disk(std::path::PathBuf);

impl Disk {
    fn new(fleet: &Fleet, place: &str) -> Self {
        let place = fleet.path(place);
        fs::create_dir(&place).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", place.to_str().unwrap()];
        let _mounted = fleet.run_tool("mount", &options).ok();
        Self(place)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_what_is_in_force_and_is_named() {
    let fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    let repository = TufRepository::make(fleet.path("tuf"));
    let disk = Disk::new(&fleet, "server/updates");
    let _set = fleet.update_from(&source(&repository), &repository.root()).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    repository.offer("2", &"too much ".repeat(200_000));
    let refused = fleet.keys(&["updates", "sync"]).failed(1);
    assert!(refused.stderr.contains("(update_disk_full)"), "{refused:?}");
    assert_eq!(fleet.component("tool").1, "one");
    // Not even its metadata fits.
    repository.offer("3", "three");
    let filler = disk.0.join("filler");
    let filled = fleet.run_tool("dd", &["if=/dev/zero", &format!("of={}", filler.display()), "bs=4096"]);
    assert!(filled.stderr.contains("No space left"), "{filled:?}");
    let refused = fleet.keys(&["updates", "sync"]).failed(1);
    assert!(refused.stderr.contains("(update_disk_full)"), "{refused:?}");
    assert_eq!(fleet.component("tool").1, "one");
    fs::remove_file(filler).unwrap();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "three");
}
