//! Scans: a listed file is found, reported, blocked or quarantined, and restored.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use integration_tests::daemon::{Daemon, until};
use integration_tests::fleet::{Build, Fleet};
use integration_tests::hostile_agent::HostileAgent;
use integration_tests::intruder::{Intruder, Lie};
use integration_tests::listed::Listed;
use prost::Message as _;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use writ_proto::v1::{self as proto, agent_frame, server_frame};

const EVIL: &str = "what nobody wants on a host\n";

/// More of that kind.
fn evil(number: usize) -> String {
    format!("{EVIL}number {number}\n")
}

fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A fleet whose list names one file, and a folder with that file in it.
struct Host {
    listed: Listed,
    rome: Option<Daemon>,
}

impl Host {
    fn new() -> Self {
        let mut host = Self::unstarted();
        host.start();
        host
    }

    fn unstarted() -> Self {
        let listed = Listed::over(Fleet::unmade(Build::Testing));
        let mut digests = format!("{}\n", sha256(EVIL.as_bytes()));
        for number in 0..4 {
            digests.push_str(&format!("{}\n", sha256(evil(number).as_bytes())));
        }
        for number in 0..1000_u32 {
            digests.push_str(&format!("{}\n", sha256(&number.to_le_bytes())));
        }
        listed.publish_text("7", &digests);
        fs::create_dir(listed.fleet.path("files")).unwrap();
        Self { listed, rome: None }
    }

    fn start(&mut self) {
        self.listed.start();
        let rome = self.listed.fleet.agent("rome");
        rome.wait_for("component in force", |_| true);
        self.rome = Some(rome);
    }

    fn rome(&self) -> &Daemon {
        self.rome.as_ref().unwrap()
    }

    fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.listed.fleet.path("files").join(name)
    }

    fn plant(&self, name: impl AsRef<Path>) -> PathBuf {
        let file = self.file(name);
        fs::write(&file, EVIL).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o4755)).unwrap();
        file
    }

    /// Has the agent scan that folder; what it answered.
    fn scan(&self, more: &[&str]) -> Value {
        let files = self.listed.fleet.path("files").display().to_string();
        self.send(&[&["scan", files.as_str()], more].concat())
    }

    fn send(&self, what: &[&str]) -> Value {
        self.send_to("rome", what)
    }

    fn send_to(&self, agent: &str, what: &[&str]) -> Value {
        let all = [&["--output", "json", "send"], what, &["--agent", agent, "--wait"]].concat();
        let said = self.listed.fleet.writ(&all).json();
        said["targets"][0].clone()
    }

    fn status(&self) -> Value {
        let config = self.listed.fleet.agent_config("rome").display().to_string();
        let status = ["status", "--config", &config, "--output", "json"];
        self.listed.fleet.run("writ-agent-testing", &status).ok().json()
    }
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("{field} of {answer}"))
}

#[test]
fn a_listed_file_is_reported_then_quarantined_and_put_back_as_it_was() {
    let host = Host::new();
    let (evil, good) = (host.plant("evil"), host.file("good"));
    fs::write(&good, "what everybody wants").unwrap();
    let before = fs::metadata(&evil).unwrap();
    let answer = host.scan(&[]);
    assert!(text(&answer, "detail").contains("2 files, 48 bytes"), "{answer}");
    let output = text(&answer, "output");
    assert!(output.contains("/files/evil\n") && output.contains("only reported"), "{output}");
    assert!(output.contains("listed in file-reputation 7"), "{output}");
    let alerts = host.listed.fleet.alerts("listed", "");
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert!(
        alerts[0]["detail"].as_str().unwrap().contains("1 listed, 0 blocked, 0 quarantined"),
        "{alerts:?}"
    );
    assert!(evil.exists());

    let answer = host.scan(&["--remedy", "quarantine"]);
    let sha256 = sha256(EVIL.as_bytes());
    assert!(text(&answer, "output").contains(&format!("quarantined: {sha256}\n")), "{answer}");
    assert!(!evil.exists() && good.exists());
    let kept = host.status()["quarantine"].clone();
    assert_eq!(kept[0]["sha256"], sha256, "{kept}");
    // Nobody who looks for the content finds it there.
    let folder = host.listed.fleet.path("rome/quarantine");
    let sealed = fs::read_dir(&folder).unwrap().flatten().map(|entry| fs::read(entry.path()).unwrap());
    let sealed: Vec<_> = sealed.collect();
    assert_eq!(sealed.len(), 2);
    let holds_it = |bytes: &Vec<u8>| bytes.windows(EVIL.len()).any(|part| part == EVIL.as_bytes());
    assert!(!sealed.iter().any(holds_it));

    // Something has its name meanwhile: nothing is overwritten.
    fs::write(&evil, "another").unwrap();
    let answer = host.send(&["restore-quarantined", &sha256]);
    assert!(text(&answer, "output").contains("something has its name now"), "{answer}");
    assert_eq!(fs::read_to_string(&evil).unwrap(), "another");
    fs::remove_file(&evil).unwrap();
    let answer = host.send(&["restore-quarantined", &sha256]);
    assert!(text(&answer, "output").starts_with("restored: "), "{answer}");
    let after = fs::metadata(&evil).unwrap();
    assert_eq!(fs::read_to_string(&evil).unwrap(), EVIL);
    let of =
        |found: &fs::Metadata| (found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec());
    assert_eq!(of(&after), of(&before));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    let answer = host.send(&["restore-quarantined", &sha256]);
    assert!(text(&answer, "detail").contains("no file with SHA-256"), "{answer}");

    // Deleted is for ever.
    let _quarantined = host.scan(&["--remedy", "quarantine"]);
    let answer = host.send(&["delete-quarantined", &sha256]);
    assert!(text(&answer, "output").starts_with("deleted: "), "{answer}");
    assert_eq!((evil.exists(), fs::read_dir(&folder).unwrap().count()), (false, 0));
}

/// What an answer says of one of the files.
fn told<'a>(output: &'a str, name: &str) -> &'a str {
    let from = output.find(&format!("/files/{name}\n")).unwrap_or_else(|| panic!("{name} in {output}"));
    output[from..].split('\n').nth(2).unwrap()
}

#[test]
fn only_what_lies_below_is_acted_on_whatever_its_name_and_kind() {
    let host = Host::new();
    let outside = host.listed.fleet.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("evil"), EVIL).unwrap();
    symlink(&outside, host.file("folder-link")).unwrap();
    symlink(outside.join("evil"), host.file("file-link")).unwrap();
    let odd = OsStr::from_bytes(b"no\xff\xfeutf8\x1b[31m\nline");
    let (one, odd) = (host.plant("one"), host.plant(odd));
    fs::hard_link(&one, host.file("two")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        host.file("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    fs::File::create(host.file("sparse")).unwrap().set_len(10 << 30).unwrap();
    fs::create_dir(host.file("left-out")).unwrap();
    let left_out = host.plant("left-out/evil");
    let mut deep = host.file("deep");
    for _ in 0..300 {
        fs::create_dir(&deep).unwrap();
        deep.push("d");
    }
    let exclude = host.file("left-out").display().to_string();
    let answer = host.scan(&["--remedy", "quarantine", "--exclude", &exclude]);
    assert!(text(&answer, "detail").contains("3 listed, 0 blocked, 3 quarantined"), "{answer}");
    let output = text(&answer, "output");
    assert!(!one.exists() && !host.file("two").exists() && !odd.exists());
    assert!(output.contains("other hard links, which stay, not executable"), "{output}");
    // Whatever a name has in it, it is one line of text.
    assert!(output.contains("/files/no\u{fffd}\u{fffd}utf8 [31m line\n"), "{output}");
    assert!(output.contains("a socket, a device or a pipe: 1: "), "{output}");
    assert!(
        output.contains("longer than the scan reads: 1: ") && output.contains("/files/sparse"),
        "{output}"
    );
    assert!(
        output.contains("more than 256 folders deep, or a path of more than 4096 bytes: 1: "),
        "{output}"
    );
    assert_eq!(fs::read_to_string(outside.join("evil")).unwrap(), EVIL);
    assert!(left_out.exists());
    let answer = host.send(&["restore-quarantined", &sha256(EVIL.as_bytes())]);
    assert!(text(&answer, "detail").contains("3 restored, 0 not"), "{answer}");
    assert_eq!(fs::read_to_string(&odd).unwrap(), EVIL);

    // A file may be named itself, and nothing is there at another path.
    let (named, gone) = (one.display().to_string(), host.file("gone").display().to_string());
    let answer = host.send(&["scan", &named, &gone]);
    assert!(text(&answer, "detail").contains("1 files"), "{answer}");
    assert!(text(&answer, "output").contains("not looked at, not there: 1: "), "{answer}");
}

#[test]
fn no_list_takes_the_agent_or_what_a_package_brought_from_a_host() {
    let mut host = Host::unstarted();
    let packaged = fs::canonicalize("/bin/sh").unwrap();
    let agent = host.listed.fleet.path("rome/identity.dsse");
    let shell = sha256(&fs::read(&packaged).unwrap());
    host.start();
    // A list that names what every host needs.
    let own = sha256(&fs::read(&agent).unwrap());
    host.listed.publish_text("8", &format!("{shell}\n{own}\n{}\n", sha256(EVIL.as_bytes())));
    let _synced = host.listed.fleet.call("UpdateService/Sync", "{}").ok();
    host.rome().wait_for("component in force", |said| said["version"] == "8");
    let files = host.listed.fleet.path("files").display().to_string();
    let agents_folder = host.listed.fleet.path("rome").display().to_string();
    let evil: Vec<_> = ["a", "b", "c"].map(|name| host.plant(name)).into();
    let shell = packaged.display().to_string();
    let answer = host.send(&["scan", &shell, &agents_folder, "--remedy", "quarantine"]);
    let output = text(&answer, "output");
    assert!(output.contains("left alone: the package manager vouches for it"), "{output}");
    assert!(output.contains("left alone: it is the agent's own"), "{output}");
    assert!(text(&answer, "detail").contains("2 listed, 0 blocked, 0 quarantined"), "{answer}");
    let answer = host.send(&["scan", &files, "--remedy", "block", "--max-remedied", "2"]);
    let output = text(&answer, "output");
    assert!(text(&answer, "detail").contains("3 listed, 2 blocked"), "{answer}");
    assert!(output.contains("left alone: 2 files were blocked and quarantined already"), "{output}");
    let blocked: Vec<_> =
        evil.iter().filter(|file| fs::metadata(file).unwrap().mode() & 0o111 == 0).collect();
    assert_eq!(blocked.len(), 2);
    for file in blocked {
        let name = file.file_name().unwrap().to_str().unwrap();
        let said = told(output, name);
        let file = fs::File::open(file).unwrap();
        let flags = rustix::fs::ioctl_getflags(&file);
        let is_immutable = flags.is_ok_and(|flags| flags.contains(rustix::fs::IFlags::IMMUTABLE));
        let expected = if is_immutable { "not executable, immutable" } else { "; not immutable: " };
        assert!(said.contains("blocked: not executable") && said.contains(expected), "{said}");
        if let Ok(flags) = flags {
            let _ = rustix::fs::ioctl_setflags(&file, flags.difference(rustix::fs::IFlags::IMMUTABLE));
        }
    }
}

#[test]
fn a_file_is_where_it_was_or_in_quarantine_whenever_the_agent_is_killed() {
    let mut host = Host::new();
    host.rome.take().unwrap().kill();
    let sha256 = sha256(EVIL.as_bytes());
    let files = host.listed.fleet.path("files").display().to_string();
    let is_kept = |host: &Host| host.status()["quarantine"].as_array().unwrap().len();
    let (scan, restore) =
        (["scan", &files, "--remedy", "quarantine"], ["restore-quarantined", sha256.as_str()]);
    let steps: [(&[&str], &str); 6] = [
        (&scan, "quarantine_sealed"),
        (&scan, "quarantine_noted"),
        (&scan, "quarantine_hidden"),
        (&scan, "quarantine_removed"),
        (&restore, "restore_written"),
        (&restore, "restore_placed"),
    ];
    for (what, step) in steps {
        let is_restored = what[0] == "restore-quarantined";
        let evil = host.plant("evil");
        if is_restored {
            let rome = host.listed.fleet.start_agent("rome", None);
            let answer = host.send(&scan);
            assert!(text(&answer, "detail").contains("1 quarantined"), "{step}: {answer}");
            rome.kill();
        }
        let stop = host.listed.fleet.checkpoint(step);
        let rome = host.listed.fleet.start_agent("rome", Some(&stop));
        let _sent = host.listed.fleet.writ(&[&["send"], what, &["--all"]].concat()).ok();
        let held = stop.reached();
        rome.kill();
        drop(held);
        // Whatever the step, its content is somewhere.
        assert!(evil.exists() || host.file_is_sealed(), "{step}");
        let rome = host.listed.fleet.start_agent("rome", None);
        // What was cut short is done: a command that may be started again is.
        rome.wait_for("command ended", |_| true);
        let hidden = fs::read_dir(&files).unwrap().flatten();
        let hidden = hidden.filter(|entry| entry.file_name().as_bytes().starts_with(b".writ-")).count();
        assert_eq!(hidden, 0, "{step}");
        assert_eq!(evil.exists(), is_restored, "{step}");
        assert!(is_restored || is_kept(&host) == 1, "{step}: {}", host.status());
        if is_kept(&host) > 0 {
            let answer = host.send(&["delete-quarantined", &sha256]);
            assert!(text(&answer, "detail").contains("1 deleted"), "{step}: {answer}");
        }
        rome.kill();
    }
}

impl Host {
    fn file_is_sealed(&self) -> bool {
        let quarantine =
            fs::read_dir(self.listed.fleet.path("rome/quarantine")).into_iter().flatten().flatten();
        quarantine.filter(|entry| entry.path().extension().is_some_and(|end| end == "json")).count() > 0
    }
}

#[test]
fn what_nobody_answers_is_left_alone_unless_the_scan_is_strict() {
    let mut host = Host::new();
    let evil = host.plant("evil");
    // The server has lost its list: the agent's filter says that the file may be on it.
    let lists = host.listed.fleet.path("server/updates/components/file-reputation");
    host.listed.fleet.kill_server();
    fs::remove_dir_all(lists).unwrap();
    host.listed.fleet.start_server(None);
    let answer = host.scan(&["--remedy", "quarantine"]);
    assert!(text(&answer, "detail").contains("0 listed, 0 blocked, 0 quarantined, 1 undecided"), "{answer}");
    assert!(text(&answer, "output").contains("the server did not say"), "{answer}");
    assert!(evil.exists());
    host.listed.fleet.server().wait_for("a list that an agent asked about cannot be read", |_| true);
    let answer = host.scan(&["--remedy", "quarantine", "--strict"]);
    assert!(text(&answer, "detail").contains("1 blocked, 0 quarantined"), "{answer}");
    assert!(text(&answer, "output").contains("may be listed, and the server does not say"), "{answer}");
    let file = fs::File::open(&evil).unwrap();
    if let Ok(flags) = rustix::fs::ioctl_getflags(&file) {
        let _ = rustix::fs::ioctl_setflags(&file, flags.difference(rustix::fs::IFlags::IMMUTABLE));
    }
}

#[test]
fn a_scan_is_slowed_down_shown_and_stopped() {
    let host = Host::new();
    fs::write(host.file("long"), vec![0; 10 << 20]).unwrap();
    let files = host.listed.fleet.path("files").display().to_string();
    let sent = host.listed.fleet.json(&["send", "scan", &files, "--bytes-per-second", "1000", "--all"]);
    host.rome().wait_for("scan began", |_| true);
    until("how it stands is not shown", || {
        host.status()["scan"]["at"].as_str().is_some_and(|at| at.ends_with("/files"))
    });
    let answer = host.send(&["stop-scan"]);
    assert_eq!(text(&answer, "detail"), "a scan was stopped");
    let id = sent["command_id"].as_str().unwrap();
    until("it does not end", || host.listed.fleet.json(&["commands", "show", id])["failed"] == 1);
    let shown = host.listed.fleet.json(&["commands", "show", id]);
    assert!(text(&shown["targets"][0], "detail").starts_with("not to the end: it was stopped; "), "{shown}");
    assert!(host.status()["scan"].is_null());
    let answer = host.send(&["stop-scan"]);
    assert_eq!(text(&answer, "detail"), "no scan ran");
}

/// The most memory that a process has had, in MiB.
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn a_million_files_and_one_of_a_hundred_gigabytes_take_little_memory_and_bounded_time() {
    let host = Host::new();
    let before = peak(host.rome());
    // A million names of twenty files: a file system bears no more names of one.
    let many = host.file("many");
    for file in 0..20 {
        let folder = many.join(file.to_string());
        fs::create_dir_all(&folder).unwrap();
        let first = folder.join("0");
        fs::write(&first, format!("file {file}\n")).unwrap();
        for name in 1..50_000 {
            fs::hard_link(&first, folder.join(name.to_string())).unwrap();
        }
    }
    let _evil = host.plant("many/evil");
    let answer = host.send(&["scan", &many.display().to_string()]);
    assert!(text(&answer, "detail").starts_with("1000001 files, "), "{answer}");
    assert!(text(&answer, "detail").contains(": 1 listed, "), "{answer}");
    let huge = host.file("huge");
    fs::File::create(&huge).unwrap().set_len(100 << 30).unwrap();
    let more = ["--max-file-bytes", "200000000000", "--max-time", "2s"];
    let answer = host.send(&[&["scan", &huge.display().to_string()][..], &more].concat());
    assert!(text(&answer, "detail").starts_with("not to the end: its time was over; "), "{answer}");
    assert_eq!(answer["state"], "failed", "{answer}");
    let grown = peak(host.rome()) - before;
    assert!(grown < 24, "it took {grown} MiB more");
}

#[test]
fn on_a_full_disk_a_file_stays_where_it_is_and_is_blocked() {
    let host = Host::new();
    let quarantine = host.listed.fleet.path("rome/quarantine");
    fs::create_dir_all(&quarantine).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", quarantine.to_str().unwrap()];
    let _mounted = host.listed.fleet.run_tool("mount", &options).ok();
    let evil = host.plant("evil");
    // It takes what there is.
    let _full = fs::write(quarantine.join("filler"), vec![0; 1 << 20]).unwrap_err();
    let answer = host.scan(&["--remedy", "quarantine"]);
    let unmounted = host.listed.fleet.run_tool("umount", &[quarantine.to_str().unwrap()]);
    assert!(text(&answer, "detail").contains("1 listed, 1 blocked, 0 quarantined"), "{answer}");
    assert!(text(&answer, "output").contains("not quarantined: "), "{answer}");
    assert_eq!(fs::read_to_string(&evil).unwrap(), EVIL);
    assert_eq!(unmounted.code, 0, "{unmounted:?}");
    let file = fs::File::open(&evil).unwrap();
    if let Ok(flags) = rustix::fs::ioctl_getflags(&file) {
        let _ = rustix::fs::ioctl_setflags(&file, flags.difference(rustix::fs::IFlags::IMMUTABLE));
    }
}

#[test]
fn who_holds_the_key_of_the_channel_alone_calls_no_listed_file_good() {
    let host = Host::new();
    let rome = host.listed.fleet.agent_id("rome").parse().unwrap();
    let villain = Intruder::in_the_middle(&host.listed.fleet.road, &host.listed.fleet.path("server"));
    villain.wait_for_session(rome);
    let scanned = |number: usize| {
        fs::write(host.file("evil"), evil(number)).unwrap();
        let answer = host.scan(&["--remedy", "quarantine"]);
        text(&answer, "detail").to_owned()
    };
    assert!(scanned(0).contains("1 listed, 0 blocked, 1 quarantined, 0 undecided"));
    for (number, lie, code) in [
        (1, Lie::Repeats, "wrong_question"),
        (2, Lie::Alters, "bad_signature"),
        (3, Lie::Forges, "unknown_key"),
    ] {
        villain.lie(lie);
        let said = scanned(number);
        assert!(said.contains("0 listed, 0 blocked, 0 quarantined, 1 undecided"), "{lie:?}: {said}");
        host.listed.fleet.server().wait_for("agent refused", |said| said["code"] == code);
    }
}

#[test]
fn an_agent_that_asks_without_end_is_told_to_wait_and_keeps_no_other_waiting() {
    let mut host = Host::new();
    let _evil = host.plant("evil");
    let paris = host.listed.fleet.agent("paris");
    paris.wait_for("component in force", |_| true);
    paris.kill();
    let mut paris = HostileAgent::in_place_of(&host.listed.fleet, "paris");
    let question = |number: u8| {
        let values = vec![vec![number; 32].into()];
        let component = "file-reputation".to_owned();
        proto::ReputationQuestion { nonce: vec![number; 32].into(), component, values }.encode_to_vec()
    };
    for number in 0..200 {
        paris.say(agent_frame::Frame::Question(question(number).into()));
    }
    let answer = host.send_to("rome", &["scan", &host.file("evil").display().to_string()]);
    assert!(text(&answer, "detail").contains("1 listed"), "{answer}");
    let (mut answered, mut told_to_wait) = (0, 0);
    while answered + told_to_wait < 200 {
        let Some(heard) = paris.hear() else { panic!("the session ended") };
        let server_frame::Frame::ReputationAnswer(answer) = heard else { continue };
        match answer.again_after_ms {
            0 => answered += 1,
            1.. => told_to_wait += 1,
        }
    }
    assert!(answered >= 64 && told_to_wait > 0, "{answered} answered, {told_to_wait} told to wait");
    // What is no question ends its session, and no other.
    paris.say(agent_frame::Frame::Question(bytes::Bytes::from_static(b"what?")));
    while paris.hear().is_some() {}
    assert_eq!(host.rome().count("session began"), 1);
    host.rome = None;
}
