//! Updates from a repository that others made: python-tuf's, held by nginx.

use std::fs;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::proxies::{PASSWORD, Proxy, USER};
use integration_tests::repository::{TufRepository, address};
use serde_json::Value;
use writ_common::keys::pem;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::TlsAuthority;

/// A fleet without a running server, a repository, and nginx that holds it.
fn scene() -> (Fleet, TufRepository, Proxy) {
    let fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    fs::create_dir(fleet.path("web")).unwrap();
    let repository = TufRepository::make(fleet.path("web/tuf"));
    let web = Proxy::files(&fleet.path("web"), None);
    (fleet, repository, web)
}

#[test]
fn a_server_follows_a_repository_of_other_tools_goes_back_and_on() {
    let (fleet, repository, web) = scene();
    // Before there is a source nothing is fetched, and it is said what is missing.
    let shown = fleet.keys(&["updates", "source", "show"]).ok().json();
    assert_eq!((&shown["update_source"], &shown["url"]), (&"default".into(), &"".into()));
    assert!(shown["next"].as_str().unwrap().contains("updates.url"), "{shown}");
    let refused = fleet.keys(&["updates", "sync"]).failed(64);
    assert!(refused.stderr.contains("update_no_source"), "{refused:?}");

    let set = fleet.update_from(&address(&web, "tuf"), &repository.root()).ok().json();
    assert_eq!((&set["update_source"], &set["next"]), (&"custom".into(), &"".into()));
    let sum = fleet.run_tool("sha256sum", &[&repository.root()]).ok().stdout;
    assert!(sum.starts_with(set["root_sha256"].as_str().unwrap()), "{set}");
    let synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(synced.json()["run"]["outcome"]["updated"], serde_json::json!(["tool"]));
    assert!(synced.stderr.contains("tool 1: 3 of 3 bytes"), "progress is shown: {synced:?}");
    assert_eq!(fleet.component("tool"), ("1".to_owned(), "one".to_owned()));
    assert_eq!(fleet.keys(&["updates", "sync"]).ok().json()["run"]["outcome"], "current");

    repository.offer("2", "two");
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool"), ("2".to_owned(), "two".to_owned()));
    let back = fleet.keys(&["updates", "rollback", "tool"]).ok().json();
    assert_eq!(
        (&back["components"][0]["is_held"], fleet.component("tool").1),
        (&true.into(), "one".to_owned())
    );
    let nothing = fleet.keys(&["updates", "rollback", "tool"]).failed(64);
    assert!(nothing.stderr.contains("update_nothing_earlier"), "{nothing:?}");
    let unknown = fleet.keys(&["updates", "rollback", "toool"]).failed(64);
    assert!(unknown.stderr.contains("update_unknown_component"), "{unknown:?}");
    repository.offer("3", "three");
    let held = fleet.keys(&["updates", "sync"]).ok().json()["held"][0].clone();
    assert_eq!((&held["name"], &held["version"]), (&"tool".into(), &"3".into()));
    assert_eq!(fleet.component("tool").1, "one");
    let _released = fleet.keys(&["updates", "release", "tool"]).ok();
    let again = fleet.keys(&["updates", "release", "tool"]).failed(64);
    assert!(again.stderr.contains("update_not_held"), "{again:?}");

    // Every key of the repository but one is replaced; the root that was pinned leads there.
    repository.python("rotate", &[]);
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool"), ("3".to_owned(), "three".to_owned()));
    let status = fleet.keys(&["updates", "status"]).ok().json();
    assert_eq!(status["components"][0]["earlier"]["version"], "1", "{status}");
    let held = fs::read_dir(fleet.path("server/updates/components/tool")).unwrap().count();
    assert_eq!(held, 2, "what nothing names is removed");
}

#[test]
fn what_is_wrong_with_a_source_is_said_before_anything_is_changed() {
    let (fleet, repository, web) = scene();
    let url = address(&web, "tuf");
    let (root, none) = (repository.root(), fleet.path("none").display().to_string());
    let timestamp = fleet.path("web/tuf/metadata/timestamp.json").display().to_string();
    let _set = fleet.update_from(&url, &root).ok();
    let before = fs::read(fleet.path("server/updates/choice/settings.json")).unwrap();
    for (url, root, why) in [
        ("nonsense", &root, "is no address of a repository"),
        ("ftp://updates.example/", &root, "`ftp` is no way to a repository"),
        ("https://op:secret@updates.example/", &root, "they must not stand in it"),
        ("http://updates.example/?a=b", &root, "it is that of a folder"),
        ("file://updates.example/srv", &root, "names a folder of this host"),
        (&url, &none, "No such file"),
        (&url, &timestamp, "update_no_root"),
    ] {
        let refused = fleet.update_from(url, root).failed(64);
        assert!(refused.stderr.contains(why), "{url} {root}: {refused:?}");
        assert_eq!(fs::read(fleet.path("server/updates/choice/settings.json")).unwrap(), before, "{url}");
    }
    for (arguments, why) in [
        (&["updates", "source", "set", "manager"][..], "writ manager update-source manager"),
        (&["updates", "source", "set", "default", "--root", &root], "updates.root"),
        (&["updates", "schedule", "--every", "1s"], "every 300 to 2592000 seconds"),
        (&["updates", "schedule", "--every", "300ms"], "every 300 to 2592000 seconds"),
    ] {
        let refused = fleet.keys(arguments).failed(64);
        assert!(refused.stderr.contains(why), "{arguments:?}: {refused:?}");
    }
    // A root that somebody changed is not signed by its keys.
    let forged = fs::read_to_string(&root).unwrap().replace("\"version\": 1", "\"version\": 2");
    fs::write(&none, forged).unwrap();
    let refused = fleet.update_from(&url, &none).failed(64);
    assert!(refused.stderr.contains("update_no_root"), "{refused:?}");
}

#[test]
fn a_web_server_with_tls_is_checked_by_the_authority_that_was_named() {
    let (fleet, repository, _web) = scene();
    let now = SystemClock::new().wall();
    let authority = TlsAuthority::create("web", now).unwrap();
    let leaf = authority.issue(&["127.0.0.1".to_owned()], now).unwrap();
    let place = |name: &str, text: &str| {
        fleet.write_secret(name, text);
        fleet.path(name)
    };
    let chain = place("web.pem", &pem::encode("CERTIFICATE", &leaf.chain[0]));
    let key = place("web.key", &pem::encode("PRIVATE KEY", &leaf.key));
    let ca = place("ca.pem", &pem::encode("CERTIFICATE", &authority.certificate)).display().to_string();
    let web = Proxy::files(&fleet.path("web"), Some((&chain, &key)));
    let url = format!("https://127.0.0.1:{}/tuf", web.port);
    let set = ["updates", "source", "set", "custom", "--url", &url, "--root", &repository.root()]
        .map(str::to_owned);
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let _set = fleet.keys(&[set.as_slice(), &["--ca", &ca]].concat()).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "one");
    let other = TlsAuthority::create("web", now).unwrap();
    let other = place("other.pem", &pem::encode("CERTIFICATE", &other.certificate)).display().to_string();
    let _set = fleet.keys(&[set.as_slice(), &["--ca", &other]].concat()).ok();
    let refused = fleet.keys(&["updates", "sync"]).failed(1);
    assert!(refused.stderr.contains("cannot verify 127.0.0.1"), "{refused:?}");
    assert!(refused.stderr.contains("update_unreachable"), "{refused:?}");
}

#[test]
fn a_proxy_that_is_set_is_the_way_and_without_it_nothing_is_reached() {
    let mut fleet = Fleet::new(Build::Testing);
    fs::create_dir(fleet.path("web")).unwrap();
    let repository = TufRepository::make(fleet.path("web/tuf"));
    let web = Proxy::files(&fleet.path("web"), None);
    let squid = Proxy::squid();
    let password = fleet.write_secret("proxy-password", PASSWORD).display().to_string();
    let proxy = format!("127.0.0.1:{}", squid.port);
    let _set = fleet
        .settings(&[
            "--proxy",
            "http",
            "--proxy-address",
            "127.0.0.1",
            "--proxy-port",
            &squid.port.to_string(),
            "--proxy-user",
            USER,
            "--proxy-password-file",
            &password,
        ])
        .ok();
    fleet.kill_server();
    let _set = fleet.update_from(&address(&web, "tuf"), &repository.root()).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "one");
    assert!(squid.said().contains(&format!("CONNECT 127.0.0.1:{}", web.port)), "{}", squid.said());
    drop(squid);
    let refused = fleet.keys(&["updates", "sync"]).failed(1);
    assert!(refused.stderr.contains("update_unreachable") && refused.stderr.contains(&proxy), "{refused:?}");
    let set = ["updates", "source", "set", "custom", "--direct", "--url", &address(&web, "tuf"), "--root"];
    let _set = fleet.keys(&[set.as_slice(), &[&repository.root()]].concat()).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
}

#[test]
fn a_server_begins_by_itself_when_a_source_is_set_and_an_alert_says_when_it_fails() {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    fs::create_dir(fleet.path("web")).unwrap();
    let repository = TufRepository::make(fleet.path("web/tuf"));
    let web = Proxy::files(&fleet.path("web"), None);
    fleet.server_config =
        format!("[updates]\nurl = \"{}\"\nroot = \"{}\"\n", address(&web, "tuf"), repository.root());
    fleet.start_server(None);
    fleet.add_context();
    fleet
        .server()
        .wait_for("an update is in force", |said| said["component"] == "tool" && said["version"] == "1");
    assert_eq!(fleet.component("tool").1, "one");
    // The same by an operator's call, once the repository lies.
    repository.offer("2", "two");
    repository.python("attack", &["other-file"]);
    let called = fleet.call("UpdateService/Sync", "{}");
    assert_ne!(called.code, 0, "{called:?}");
    assert!(called.stderr.contains("update_mismatched"), "{called:?}");
    let alerts = fleet.alerts("update_failed", "update_mismatched");
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    let status = fleet.call("UpdateService/GetStatus", "{}").ok();
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["lastRun"]["code"], "update_mismatched", "{status}");
    assert_eq!(status["components"][0]["version"], "1", "{status}");
    assert_eq!(fleet.component("tool").1, "one");
    repository.offer("3", "three");
    let called = fleet.call("UpdateService/Sync", "{}").ok();
    for stage in ["SYNC_STAGE_LISTED", "SYNC_STAGE_FETCHING", "SYNC_STAGE_VERIFIED", "SYNC_STAGE_ENDED"] {
        assert!(called.stdout.contains(stage), "{called:?}");
    }
    assert_eq!(fleet.component("tool").1, "three");
    let back = fleet.call("UpdateService/RollBack", "{\"component\": \"tool\"}").ok();
    assert!(back.stdout.contains("\"held\": true"), "{back:?}");
    let off = fleet.call("UpdateService/SetSchedule", "{\"every_seconds\": 0}").ok();
    assert!(!off.stdout.contains("everySeconds"), "{off:?}");
    let released = fleet.call("UpdateService/Release", "{\"component\": \"tool\"}").ok();
    assert!(!released.stdout.contains("\"held\""), "{released:?}");
}

#[test]
fn somebody_goes_back_while_a_run_is_under_way_and_it_is_heeded() {
    let (fleet, repository, web) = scene();
    let _set = fleet.update_from(&address(&web, "tuf"), &repository.root()).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    repository.offer("2", "two");
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    repository.offer("3", "three");
    let stop = fleet.checkpoint("update_fetched");
    let folder = fleet.path("server").display().to_string();
    let run = fleet.spawn("writ-server-testing", &["updates", "sync", "--data-dir", &folder], &stop);
    let held = stop.reached();
    // Another run has to wait; going back does not.
    let busy = fleet.keys(&["updates", "sync"]).failed(1);
    assert!(busy.stderr.contains("(update_busy)"), "{busy:?}");
    let status = fleet.keys(&["updates", "status"]).ok().json();
    assert_eq!(status["last_run"]["outcome"], "under_way", "{status}");
    let _back = fleet.keys(&["updates", "rollback", "tool"]).ok();
    drop(held);
    let (ended, said) = run.wait();
    assert!(ended.success(), "{said}");
    assert_eq!(fleet.component("tool"), ("1".to_owned(), "one".to_owned()));
    let _released = fleet.keys(&["updates", "release", "tool"]).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    assert_eq!(fleet.component("tool").1, "three");
}

#[test]
fn a_source_that_lost_its_root_is_an_alert_and_mending_it_begins_a_run() {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    let repository = TufRepository::make(fleet.path("tuf"));
    let root = fleet.path("root.json").display().to_string();
    fleet.server_config =
        format!("[updates]\nurl = \"file://{}\"\nroot = \"{root}\"\n", repository.folder.display());
    fleet.start_server(None);
    fleet.add_context();
    fleet.server().wait_for("an update failed", |said| said["code"] == "update_no_source");
    let alerts = fleet.alerts("update_failed", "update_no_source");
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    let doctor = fleet.keys(&["doctor"]);
    assert!(doctor.stdout.contains("the last one failed at"), "{doctor:?}");
    fs::copy(repository.root(), &root).unwrap();
    let _synced = fleet.call("UpdateService/Sync", "{}").ok();
    assert_eq!(fleet.component("tool").1, "one");
    // A file that is gone or changed comes again; one that would be gone back to is looked at first.
    repository.offer("2", "two");
    let _synced = fleet.call("UpdateService/Sync", "{}").ok();
    let shelf: Value =
        serde_json::from_slice(&fs::read(fleet.path("server/updates/active.json")).unwrap()).unwrap();
    let file = |which: &str| {
        let sha256 = shelf["tool"][which]["sha256"].as_str().unwrap();
        fleet.path("server/updates/components/tool").join(sha256)
    };
    fs::write(file("earlier"), "ONE").unwrap();
    let refused = fleet.keys(&["updates", "rollback", "tool"]).failed(1);
    assert!(refused.stderr.contains("nobody can go back to version 1"), "{refused:?}");
    fs::write(file("active"), "TWO").unwrap();
    let _synced = fleet.call("UpdateService/Sync", "{}").ok();
    assert_eq!(fleet.component("tool"), ("2".to_owned(), "two".to_owned()));
    let log = fleet.json(&["audit", "list", "--output", "json"]);
    assert!(log.to_string().contains("UpdateService/Sync"), "{log}");
}
