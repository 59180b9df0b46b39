//! Repositories that our command makes, read by a client that is not ours.

use std::fs;

use integration_tests::fleet::{Build, Fleet, Said};
use integration_tests::proxies::Proxy;
use integration_tests::python;
use integration_tests::repository::address;

const MANAGER: &str = "writ-control-manager-testing";

struct Scene {
    fleet: Fleet,
    web: Proxy,
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::unmade(Build::Testing);
        fs::create_dir(fleet.path("web")).unwrap();
        let web = Proxy::files(&fleet.path("web"), None);
        Self { fleet, web }
    }

    fn repo(&self, verb: &str, more: &[&str]) -> Said {
        let [repository, keys] = ["web/tuf", "keys"].map(|name| self.fleet.path(name).display().to_string());
        let places = ["repo", verb, "--repository", &repository, "--keys", &keys, "--output", "json"];
        self.fleet.run(MANAGER, &[places.as_slice(), more].concat())
    }

    fn with_passphrase(&self, verb: &str, more: &[&str]) -> Said {
        let passphrase = self.fleet.path("passphrase").display().to_string();
        self.repo(verb, &[more, &["--passphrase-file", &passphrase]].concat())
    }

    fn offer(&self, version: &str) {
        let file = self.fleet.path("file").display().to_string();
        fs::write(&file, format!("content {version}")).unwrap();
        let _added = self.repo("add", &["--component", "tool", "--component-version", version, &file]).ok();
        let _published = self.repo("publish", &[]).ok();
    }

    /// What the reference client gets, or why it gets nothing.
    fn others(&self) -> Result<String, String> {
        let root = self.fleet.path("web/tuf/metadata/1.root.json").display().to_string();
        let folder = self.fleet.path("others").display().to_string();
        let url = address(&self.web, "tuf");
        let arguments = ["update", &folder, url.trim_end_matches('/'), &root, "tool"];
        let done = python::run("integration-tests/repositories.py", &arguments);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
    }
}

#[test]
fn python_tuf_updates_from_a_repository_of_ours_through_new_keys() {
    let scene = Scene::new();
    let made = scene.with_passphrase("init", &[]).ok().json();
    let root = made["root_file"].as_str().unwrap();
    let sum = scene.fleet.run_tool("sha256sum", &[root]).ok().stdout;
    assert!(sum.starts_with(made["root_sha256"].as_str().unwrap()), "{made}");
    scene.offer("1");
    assert_eq!(scene.others().unwrap(), "content 1");
    let all = ["--role", "root", "--role", "targets", "--role", "snapshot", "--role", "timestamp"];
    let rotated = scene.with_passphrase("rotate-root", &all).ok().json();
    assert_eq!(rotated["root_version"], 2);
    scene.offer("2");
    assert_eq!(scene.others().unwrap(), "content 2");
    let renewed = scene.with_passphrase("rotate-root", &["--keep-keys"]).ok().json();
    assert_eq!(renewed["root_version"], 3);
    assert_eq!(scene.others().unwrap(), "content 2");
    let status = scene.repo("status", &[]).ok().json();
    assert_eq!((&status["roles"][0]["version"], &status["is_unpublished"]), (&3.into(), &false.into()));
    // What is taken out of the plan is gone when that is published, and not before.
    let _removed = scene.repo("remove", &["--component", "tool"]).ok();
    assert_eq!(scene.repo("status", &[]).ok().json()["is_unpublished"], true);
    assert_eq!(scene.others().unwrap(), "content 2");
    let _published = scene.repo("publish", &[]).ok();
    assert!(scene.others().unwrap_err().contains("is not listed"));
}

#[test]
fn keys_are_secret_and_never_where_the_web_server_looks() {
    let scene = Scene::new();
    let _made = scene.with_passphrase("init", &[]).ok();
    scene.offer("1");
    let published =
        scene.fleet.run_tool("grep", &["-r", "-l", "PRIVATE", scene.fleet.path("web").to_str().unwrap()]);
    assert_eq!(published.stdout, "");
    let root = fs::read(scene.fleet.path("keys/root.key")).unwrap();
    assert!(root.starts_with(b"age-encryption.org/v1"), "the key of the root is sealed");
    let wrong = scene.fleet.write_secret("wrong", "another passphrase of mine").display().to_string();
    let refused = scene.repo("rotate-root", &["--passphrase-file", &wrong]).failed(64);
    assert!(refused.stderr.contains("root.key"), "{refused:?}");
    assert_eq!(scene.repo("status", &[]).ok().json()["roles"][0]["version"], 1);
    let exposed = scene.fleet.path("keys/timestamp.key");
    let _chmod = scene.fleet.run_tool("chmod", &["644", exposed.to_str().unwrap()]).ok();
    let refused = scene.repo("publish", &[]).failed(1);
    assert!(refused.stderr.contains("chmod 600"), "{refused:?}");
}

#[test]
fn bad_input_changes_nothing_and_is_named() {
    let scene = Scene::new();
    let nothing = scene.repo("publish", &[]).failed(64);
    assert!(nothing.stderr.contains("repo init"), "{nothing:?}");
    let _made = scene.with_passphrase("init", &[]).ok();
    let again = scene.with_passphrase("init", &[]).failed(64);
    assert!(again.stderr.contains("already"), "{again:?}");
    let file = scene.fleet.path("file").display().to_string();
    fs::write(&file, "no list").unwrap();
    let add = |component: &str, version: &str, file: &str| {
        scene.repo("add", &["--component", component, "--component-version", version, file])
    };
    for (said, why) in [
        (add("file-reputation", "1", &file).failed(64), "is no list"),
        (add("../tool", "1", &file).failed(2), "is no name of a component"),
        (add("tool", "../1", &file).failed(2), "is no version"),
        (add("tool", "1", scene.fleet.path("").to_str().unwrap()).failed(64), "it is no file"),
        (add("tool", "1", "/nowhere").failed(1), "No such file"),
        (scene.repo("remove", &["--component", "tool"]).failed(64), "no component tool"),
        (scene.repo("publish", &["--timestamp-lifetime", "1s"]).failed(64), "1 hour to 10 years"),
        (scene.with_passphrase("rotate-root", &["--role", "boss"]).failed(2), "is no role"),
    ] {
        assert!(said.stderr.contains(why), "{why}: {said:?}");
    }
    let status = scene.repo("status", &[]).ok().json();
    assert_eq!(status["components"], serde_json::json!([]));
    // Two at a time would sign over each other: the second ends at once.
    let arguments = ["repo", "publish", "--repository", "web/tuf", "--keys", "keys"];
    let arguments = arguments.map(|argument| match argument {
        "web/tuf" | "keys" => scene.fleet.path(argument).display().to_string(),
        other => other.to_owned(),
    });
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let stop = scene.fleet.checkpoint("repository_written");
    let first = scene.fleet.spawn(MANAGER, &arguments, &stop);
    let held = stop.reached();
    let second = scene.repo("publish", &[]).failed(1);
    assert!(second.stderr.contains("another process"), "{second:?}");
    first.kill();
    drop(held);
    let _published = scene.repo("publish", &[]).ok();
}

#[test]
fn what_is_published_can_be_read_whatever_the_mask_and_numbers_are_never_used_twice() {
    let scene = Scene::new();
    let manager = integration_tests::daemon::binary(MANAGER).display().to_string();
    let place = |name: &str| scene.fleet.path(name).display().to_string();
    let script = format!(
        "umask 077; exec {manager} repo init --repository {} --keys {} --passphrase-file {}",
        place("web/tuf"),
        place("keys"),
        place("passphrase")
    );
    let _made = scene.fleet.run_tool("sh", &["-c", &script]).ok();
    let found = scene.fleet.run_tool("find", &[&place("web/tuf"), "!", "-perm", "-o=r"]).ok().stdout;
    assert_eq!(found, "", "a web server reads all of it");
    scene.offer("1");
    let _kept = scene.fleet.run_tool("cp", &["-r", &place("web/tuf"), &place("copy")]).ok();
    scene.offer("2");
    assert_eq!(scene.others().unwrap(), "content 2");
    // A lifetime that cannot be is refused before a key is replaced.
    let wrong = ["--role", "timestamp", "--timestamp-lifetime", "30m"];
    let refused = scene.with_passphrase("rotate-root", &wrong).failed(64);
    assert!(refused.stderr.contains("1 hour to 10 years"), "{refused:?}");
    assert_eq!(scene.others().unwrap(), "content 2");
    // The published folder is put back from a copy: what is missing is said, and the numbers go on.
    fs::remove_dir_all(scene.fleet.path("web/tuf")).unwrap();
    fs::rename(scene.fleet.path("copy"), scene.fleet.path("web/tuf")).unwrap();
    let status = scene.repo("status", &[]).failed(1);
    assert!(status.stderr.contains("repo"), "{status:?}");
    let refused = scene.repo("publish", &[]).failed(64);
    assert!(refused.stderr.contains("repo add --component tool"), "{refused:?}");
    scene.offer("3");
    assert_eq!(scene.others().unwrap(), "content 3");
}
