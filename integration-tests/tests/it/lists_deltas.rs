//! Lists that change a little: what has changed comes, and the file that comes of it is the published one.

use std::fs;
use std::path::PathBuf;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::listed::Listed;
use integration_tests::manager::Manager;
use integration_tests::proxies::Proxy;

/// Digests, one a line.
fn digests(numbers: impl Iterator<Item = u32>) -> String {
    numbers.map(|number| format!("{number:032x}{:032x}\n", number.wrapping_mul(2_654_435_761))).collect()
}

/// The files of the repository whose names end so.
fn targets(scene: &Listed, end: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let listed = fs::read_dir(scene.fleet.path("tuf/targets")).unwrap().map_while(Result::ok);
    listed
        .map(|entry| entry.path())
        .filter(|path| end(&path.file_name().unwrap().to_string_lossy()))
        .collect()
}

/// The bytes of the list in force.
fn in_force(fleet: &Fleet) -> Vec<u8> {
    let shelf = fs::read_to_string(fleet.path("server/updates/active.json")).unwrap();
    let shelf: serde_json::Value = serde_json::from_str(&shelf).unwrap();
    let sha256 = shelf["file-reputation"]["active"]["sha256"].as_str().unwrap();
    fs::read(fleet.path("server/updates/components/file-reputation").join(sha256)).unwrap()
}

/// The bytes of the list that was published last.
fn published(scene: &Listed) -> Vec<u8> {
    fs::read(scene.fleet.path("list")).unwrap()
}

#[test]
fn a_list_that_changed_a_little_comes_as_what_has_changed() {
    let mut scene = Listed::over(Fleet::unmade(Build::Testing));
    let web = Proxy::files(&scene.fleet.path("tuf"), None);
    let address = format!("http://127.0.0.1:{}/", web.port);
    let folder = format!("file://{}", scene.fleet.path("tuf").display());
    scene.fleet.server_config = scene.fleet.server_config.replace(&folder, &address);
    scene.publish_text("1", &digests(0..20_000));
    scene.start();
    let server = scene.fleet.server();
    server.wait_for("an update is in force", |said| said["version"] == "1");
    assert_eq!(in_force(&scene.fleet), published(&scene));
    // A manager has what leads from one to the other, too.
    let root = scene.fleet.path("pinned.json").display().to_string();
    fs::copy(scene.fleet.path("tuf/metadata/1.root.json"), &root).unwrap();
    let mirrors = format!("[updates]\nupstream = \"{address}\"\nroot = \"{root}\"\nevery = \"10s\"\n");
    let manager = Manager::with(&scene.fleet, "manager", &mirrors);
    manager.daemon().wait_for("the repository is mirrored", |_| true);

    scene.publish_text("2", &digests(100..20_050));
    let is_delta = |name: &str| name.contains("file-reputation.from-");
    let deltas = targets(&scene, is_delta);
    assert_eq!(deltas.len(), 1);
    assert_eq!(fs::metadata(&deltas[0]).unwrap().len(), 96 + 150 * 32);
    let _synced = scene.fleet.call("UpdateService/Sync", "{}").ok();
    assert_eq!(in_force(&scene.fleet), published(&scene));
    let asked = |name: &str| web.said().contains(&format!("GET /targets/{name} "));
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(asked(&name(&deltas[0])), "{}", web.said());
    let whole = writ_protocol::id::Digest::of(&published(&scene));
    assert!(!asked(&format!("{whole}.file-reputation")), "the whole list came");
    manager.daemon().wait_for_count("the repository is mirrored", 2);
    assert!(scene.fleet.path("manager/updates/mirror/targets").join(name(&deltas[0])).exists());

    // Published once more without a change, what leads here stays.
    let _again = scene.repo("publish", &[]);
    assert_eq!(targets(&scene, is_delta), deltas);

    // One that is altered is of no use, and the whole list comes.
    scene.publish_text("3", &digests(100..20_100));
    for path in targets(&scene, is_delta) {
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let _synced = scene.fleet.call("UpdateService/Sync", "{}").ok();
    assert_eq!(in_force(&scene.fleet), published(&scene));
    scene.fleet.server().wait_for("a delta is of no use; the whole component is fetched", |said| {
        said["component"] == "file-reputation"
    });
    // A list that has nothing of the one before comes whole: nothing leads to it.
    let before = writ_protocol::id::Digest::of(&published(&scene));
    scene.publish_text("4", &digests(50_000..50_100));
    assert_eq!(targets(&scene, |name| name.ends_with(&format!(".from-{before}"))), Vec::<PathBuf>::new());
    let _synced = scene.fleet.call("UpdateService/Sync", "{}").ok();
    assert_eq!(in_force(&scene.fleet), published(&scene));
}
