//! Files that are gone, empty, cut or damaged: nothing else is lost by them, and what is said mends it.

use std::fs;
use std::path::Path;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet, lines};
use integration_tests::manager::Manager;
use tokio::signal::unix::{SignalKind, signal};

/// Every way a database was seen to end.
const WAYS: [&str; 5] = ["gone", "empty", "header", "cut", "overwritten"];

fn lose(database: &Path, whole: &[u8], way: &str) {
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{ending}", database.display()));
    }
    match way {
        "gone" => {}
        "empty" => fs::write(database, "").unwrap(),
        "header" => fs::write(database, &whole[..100]).unwrap(),
        "cut" => fs::write(database, &whole[..whole.len() / 2]).unwrap(),
        _ => fs::write(database, vec![7; whole.len()]).unwrap(),
    }
}

/// Every file of a folder with its content, but for databases and what is made anew at every start.
fn keys_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_str().unwrap().to_owned();
        if entry.path().is_dir() && !name.starts_with("replaced-") {
            all.extend(keys_of(&entry.path()));
        } else if entry.path().is_file() && !name.contains(".db") && name != "lock" {
            all.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_server_whose_database_is_lost_in_any_way_keeps_its_keys_and_names_one_cure() {
    let mut fleet = Fleet::new(Build::Shipped);
    let rome = fleet.agent("rome");
    let backup = fleet.backup();
    assert!(fleet.server.take().unwrap().stop().success());
    let (folder, database) = (fleet.path("server"), fleet.path("server/writ.db"));
    let whole = fs::read(&database).unwrap();
    let keys = keys_of(&folder);
    for way in WAYS {
        lose(&database, &whole, way);
        let asked = |said: &str| {
            let is_clear = said.contains("keys of a fleet lie here (`acme`), but its database writ.db is")
                && said.contains("writ-server cert restore FILE");
            assert!(is_clear, "{way}: {said}");
        };
        asked(&fleet.init().failed(1).stderr);
        // What compose.yaml and the Kubernetes manifest run at every start.
        asked(&fleet.init_with(&["--if-new"]).failed(1).stderr);
        asked(&fleet.try_server().wait().1);
        asked(&fleet.keys(&["doctor"]).failed(1).stderr);
        asked(&fleet.keys(&["cert", "create"]).failed(1).stderr);
        assert!(keys_of(&folder) == keys, "{way}: the keys are as they were");
    }
    // The cure, typed; what was there lies beside.
    let (place, passphrase) = (folder.to_str().unwrap(), fleet.path("passphrase"));
    let restored = ["cert", "restore", &backup, "--data-dir", place, "--passphrase-file"];
    let said =
        fleet.run("writ-server", &[&restored[..], &[passphrase.to_str().unwrap()]].concat()).ok().stdout;
    assert!(said.contains("Gone with the database: commands and receipts") && said.contains("1. "), "{said}");
    assert!(
        fs::read_dir(&folder)
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_str().unwrap().starts_with("writ.db.lost-") })
    );
    fleet.start_again();
    rome.wait_for_count("session began", 2);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    // What is restored where an `init` was interrupted is not what that `init` left.
    let other = Fleet::unmade(Build::Shipped);
    fs::create_dir(other.path("server")).unwrap();
    fs::write(other.path("server/unfinished"), "").unwrap();
    let _restored = other.keys(&["cert", "restore", &backup]).ok();
    assert!(!other.path("server/unfinished").exists());
}

#[test]
fn without_a_backup_the_keys_that_are_left_and_an_agents_chain_make_the_server_again() {
    let mut fleet = Fleet::new(Build::Shipped);
    let rome = fleet.agent("rome");
    assert!(fleet.server.take().unwrap().stop().success());
    fs::write(fleet.path("server/writ.db"), "").unwrap();
    let chain = fleet.path("rome/trust.chain");
    let rebuilt = fleet.keys(&["authority", "rebuild", chain.to_str().unwrap()]).ok().json();
    fleet.start_again();
    rome.wait_for_count("session began", 2);
    assert_eq!(
        fleet.json(&["send", "ping", "--all", "--wait"])["done"],
        1,
        "it signs with the key that was left"
    );
    let _confirmed = fleet.keys(&["authority", "confirm", rebuilt["bundle_digest"].as_str().unwrap()]).ok();
    // Keys of another fleet are never put under this chain.
    let other = Fleet::unmade(Build::Shipped);
    let _made = other.init().ok();
    fs::remove_file(other.path("server/writ.db")).unwrap();
    let mixed = other.keys(&["authority", "rebuild", chain.to_str().unwrap()]).failed(1);
    assert!(mixed.stderr.contains("it is of another fleet"), "{mixed:?}");
}

#[test]
fn a_manager_whose_database_is_lost_in_any_way_goes_on_with_its_keys() {
    let fleet = Fleet::new(Build::Shipped);
    let mut manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let first = fleet.registered(&manager);
    manager.stop();
    let database = manager.path("control-manager.db");
    let whole = fs::read(&database).unwrap();
    let keys = keys_of(&manager.path(""));
    for way in WAYS {
        lose(&database, &whole, way);
        for more in [[].as_slice(), &["--if-new"]] {
            let said = manager.init(&fleet, more).failed(1).stderr;
            assert!(
                said.contains("keys of a manager lie here") && said.contains("--keep-keys"),
                "{way}: {said}"
            );
        }
        let said = manager.try_run(&fleet).failed(1).stderr;
        assert!(said.contains("keys of a manager lie here"), "{way}: {said}");
        assert!(keys_of(&manager.path("")) == keys, "{way}: the keys are as they were");
    }
    // Also where an earlier `init` left its mark.
    fs::write(manager.path("unfinished"), "").unwrap();
    let _kept = manager.init(&fleet, &["--keep-keys"]).ok();
    assert!(!manager.path("unfinished").exists());
    manager.start(None);
    manager.add_context(&fleet);
    fleet.server().wait_for("the Control Manager says no", |said| said["code"] == "unknown_entity");
    let token = manager.token(&fleet);
    let _set = fleet.settings(&["--registration-token-file", &token]).ok();
    let status = fleet.json(&["manager", "re-register"]);
    assert_eq!(
        (&status["state"], &status["entity_id"]),
        (&"registered".into(), &first["entity_id"]),
        "{status}"
    );
    let without = Manager::unmade(&fleet, "another", "");
    let said = without.init(&fleet, &["--keep-keys"]).failed(1);
    assert!(said.stderr.contains("no keys of a manager lie here"), "{said:?}");
}

#[test]
fn an_emptied_key_file_is_found_by_the_doctor_with_what_mends_it() {
    let fleet = Fleet::new(Build::Shipped);
    let _manager = Manager::new(&fleet);
    let backup = fleet.backup();
    for name in
        ["authority.key.age", "tls-ca.key", "admin-ca.pem", "manager-entity.key", "manager-secrets.key"]
    {
        let path = fleet.path("server").join(name);
        let (whole, aside) = (fs::read(&path).unwrap(), format!("{}.damaged", path.display()));
        for content in ["", "no"] {
            fs::write(&path, content).unwrap();
            let found = fleet.keys(&["doctor"]).failed(1).json();
            let files =
                found["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "files");
            let files = files.unwrap();
            assert!(files["level"] == "bad" && files["detail"].as_str().unwrap().contains(name), "{found}");
            let next = files["next"].as_str().unwrap().to_owned();
            assert!(next.starts_with(&format!("mv {} {aside}", path.display())), "{next}");
            if next.contains("cert restore") {
                fs::rename(&path, &aside).unwrap();
                let _restored = fleet.keys(&["cert", "restore", &backup]).ok();
                assert_eq!(fs::read(&path).unwrap(), whole);
            }
        }
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn an_emptied_key_file_of_a_manager_is_named_with_what_mends_it_or_made_anew() {
    let fleet = Fleet::new(Build::Shipped);
    let mut manager = Manager::new(&fleet);
    manager.stop();
    for name in ["control-manager-ca.pem", "signing.key", "signing.pem", "tls.pem"] {
        let path = manager.path(name);
        let whole = fs::read(&path).unwrap();
        for content in ["", "no"] {
            fs::write(&path, content).unwrap();
            let said = manager.try_run(&fleet).failed(1).stderr;
            let file = path.display().to_string();
            assert!(said.contains(&file) && said.contains("from a copy; without one: mv "), "{said}");
        }
        fs::write(&path, whole).unwrap();
    }
    // The channel's key is made anew beside its certificate, whose names it keeps; without the authority's
    // there is only a warning.
    fs::write(manager.path("tls.key"), "").unwrap();
    manager.start(None);
    manager.stop();
    assert!(!fs::read(manager.path("tls.key")).unwrap().is_empty());
    fs::write(manager.path("control-manager-ca.key"), "").unwrap();
    manager.start(None);
    manager.stop();
}

#[test]
fn an_agent_whose_journal_is_damaged_says_so_and_so_does_its_doctor_and_the_cure_mends_it() {
    let fleet = Fleet::new(Build::Shipped);
    assert!(fleet.agent("rome").stop().success());
    let journal = fleet.path("rome/journal.redb");
    let whole = fs::read(&journal).unwrap();
    fs::write(&journal, [&whole[..4096], &vec![0xa5; whole.len() - 4096][..]].concat()).unwrap();
    let cure = format!("mv {0} {0}.damaged", journal.display());
    let (status, said) = fleet.try_agent("rome", None).wait();
    assert!(status.code() == Some(1) && said.contains(&cure), "{status:?} {said}");
    let looked =
        fleet.run("writ-agent", &["doctor", "--config", fleet.agent_config("rome").to_str().unwrap()]);
    assert!(looked.code == 1 && looked.stdout.contains(&cure), "{looked:?}");
    fs::rename(&journal, fleet.path("rome/journal.redb.damaged")).unwrap();
    let rome = fleet.start_agent("rome", None);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    assert!(rome.stop().success());
    // An empty one is begun anew, and doctor and agent say so.
    fs::write(&journal, "").unwrap();
    let looked =
        fleet.run("writ-agent", &["doctor", "--config", fleet.agent_config("rome").to_str().unwrap()]);
    assert!(looked.stdout.contains("begins a new journal"), "{looked:?}");
    let _rome = fleet.start_agent("rome", None);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

/// A disk of a few tens of megabytes.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn at(fleet: &Fleet, place: &Path) -> Self {
        fs::create_dir(place).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs", place.to_str().unwrap()];
        let _mounted = fleet.run_tool("mount", &options).ok();
        Self(place.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "tests take away what they made")]
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn an_agent_on_a_full_disk_refuses_lives_and_obeys_again_when_there_is_room() {
    let mut fleet = Fleet::new(Build::Shipped);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let disk = SmallDisk::at(&fleet, &fleet.path("rome"));
    let agent = fleet.agent("rome");
    let send = |word: &str| {
        let word = format!("word={word}");
        fleet.writ(&["--output", "json", "send", "action", "note", &word, "--all", "--wait"])
    };
    let _first = send("before").ok();
    let mut words = vec!["before".to_owned()];
    let filler = disk.0.join("filler");
    let fill = || drop(fs::write(&filler, vec![1; 49 << 20]));
    fill();
    // What is set aside bears what ran; then nothing more is admitted, until there is room.
    let refused = loop {
        let word = format!("full{}", words.len());
        let said = send(&word);
        if said.code != 0 {
            break said;
        }
        words.push(word);
        assert!(words.len() < 1000, "the journal never grew");
    };
    assert_eq!(refused.json()["targets"][0]["refusal_code"], "journal_failed", "{refused:?}");
    // All of it is gone now.
    let _ = fs::remove_file(disk.0.join("journal.reserve"));
    fill();
    assert_eq!(send("later").json()["targets"][0]["refusal_code"], "journal_failed");
    assert_eq!(agent.count("session began"), 1, "the agent lives, and so does its session");
    fs::remove_file(&filler).unwrap();
    let _after = send("after").ok();
    words.push("after".to_owned());
    assert_eq!(lines(&notes), words, "what was refused was not started, all else once");
    until("room was not set aside again", || disk.0.join("journal.reserve").exists());
    assert!(agent.stop().success());
}

/// What this process handles, the programs it starts meet with its default (execve(2)), also when somebody
/// started the tests by nohup.
fn handle_hang_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let _within = runtime.enter();
    drop(signal(SignalKind::hangup()).unwrap());
}

#[test]
fn a_closed_terminal_and_signals_without_a_meaning_end_no_daemon_and_cut_off_no_action() {
    handle_hang_up();
    let mut fleet = Fleet::new(Build::Shipped);
    let gate = fleet.path("gate");
    let _made = fleet.run_tool("mkfifo", &[gate.to_str().unwrap()]).ok();
    let script = format!("read line < {}; echo \"$1\" >> \"$NOTES\"", gate.display());
    let notes = fleet.allow("wait", &script, "");
    let agent = fleet.agent("rome");
    let manager = Manager::new(&fleet);
    let sent = fleet.json(&["send", "action", "wait", "word=whole", "--all"]);
    let id = sent["command_id"].as_str().unwrap();
    agent.wait_for("action started", |said| said["command.id"] == id);
    for signal in ["-HUP", "-USR1", "-USR2"] {
        for daemon in [&agent, fleet.server(), manager.daemon()] {
            daemon.signal(signal);
        }
    }
    for daemon in [&agent, fleet.server(), manager.daemon()] {
        daemon.wait_for(
            "SIGHUP does not end this program, and reads no configuration; to do that, restart it",
            |_| true,
        );
        daemon.wait_for("a signal without a meaning here is ignored", |_| true);
    }
    fs::write(&gate, "go\n").unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    assert_eq!(lines(&notes), ["whole"]);
}
