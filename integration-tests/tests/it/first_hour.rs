//! What a person meets in the first hour on a machine of their own: names, files and pipes that are not as
//! ours are.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;

use integration_tests::fleet::{Build, Fleet, binary};

fn long_name() -> String {
    ["a".repeat(61), "b".repeat(61), "c".repeat(61), "d".repeat(58), "invalid".to_owned()].join(".")
}

#[test]
fn endpoints_and_names_are_written_in_one_way_or_refused_at_every_door() {
    let fleet = Fleet::new(Build::Shipped);
    let other = Fleet::unmade(Build::Shipped);
    for (endpoint, says) in [
        ("0.0.0.0:7443", "stands for every address of a host"),
        ("[::]:7443", "stands for every address of a host"),
        ("[fe80::1%eth0]:7443", "names an interface"),
        ("224.0.0.1:7443", "stands for many hosts"),
        ("999.1.1.1:7443", "neither an address"),
        ("https://writ.example:7443", "is not host:port"),
        (&format!("{}.{}:7443", long_name(), long_name()), "more than 253 characters"),
    ] {
        let said = other.init_with(&["--endpoint", endpoint]).failed(64);
        assert!(said.stderr.contains(says), "init {endpoint}: {said:?}");
        let said = fleet.keys(&["authority", "endpoints", "--endpoint", endpoint]).failed(64);
        assert!(said.stderr.contains(says), "authority endpoints {endpoint}: {said:?}");
        let said = fleet.writ(&["send", "settings", "--all", "--endpoint", endpoint]);
        assert!(said.code != 0 && said.stderr.contains(says), "send settings {endpoint}: {said:?}");
    }
    for host in ["0.0.0.0", "::", "[::]", "fe80::1%eth0", "ff02::1", "999.1.1.1"] {
        let said = other.init_with(&["--tls-name", host]).failed(64);
        assert!(said.stderr.contains("--tls-name"), "{host}: {said:?}");
        let said = fleet.settings(&["--address", host]);
        assert!(said.code != 0 && said.stderr.contains("--address"), "{host}: {said:?}");
    }
    let (ca, token) = (fleet.path("server/admin-ca.pem"), fleet.path("server/admin-token"));
    let add = |server: &str| {
        let files = ["--ca", ca.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
        fleet.writ(&[&["context", "add", "again", "--server", server][..], &files].concat())
    };
    let said = add("0.0.0.0:7444").failed(2);
    assert!(said.stderr.contains("stands for every address"), "{said:?}");
    // A final dot is no part of a name that a certificate carries.
    let _added = add(&format!("localhost.:{}", fleet.admin_port())).ok();
    let long = long_name();
    let made =
        other.init_with(&["--endpoint", &format!("{long}.:7443"), "--tls-name", &format!("{long}.")]).ok();
    assert!(!made.stderr.contains(&format!("{long}.:")), "{made:?}");
    let shown = other.keys(&["doctor"]);
    assert!(!shown.stdout.contains("does not name"), "{shown:?}");
}

#[test]
fn an_action_files_name_is_held_to_the_rule_of_names_and_a_script_of_another_system_is_told() {
    let mut fleet = Fleet::new(Build::Shipped);
    let _notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let rome = fleet.agent("rome");
    let action = |file: &str, program: &str| {
        fs::write(fleet.path("actions.d").join(file), format!("program = \"{program}\"\nclass = \"read\"\n"))
            .unwrap();
    };
    let doctor = || {
        let config = fleet.agent_config("rome");
        fleet.run("writ-agent", &["doctor", "--config", config.to_str().unwrap(), "--output", "json"])
    };
    let finding = || {
        let said = doctor().json();
        let all = said["findings"].as_array().unwrap().clone();
        all.into_iter().find(|finding| finding["check"] == "actions").unwrap()
    };
    for file in ["Up Time.toml", "ping.toml", "settings.toml", "UPTIME.toml"] {
        action(file, "/usr/bin/id");
        let said = finding();
        let detail = said["detail"].as_str().unwrap();
        assert!(said["level"] == "bad" && detail.contains("the file's name"), "{file}: {said}");
        let started = fleet.try_agent("paris", None).wait();
        assert!(!started.0.success());
        fs::remove_file(fleet.path("actions.d").join(file)).unwrap();
    }
    // One that the running agent has not read is known to its doctor.
    let script = fleet.path("greet");
    fs::write(&script, "#!/bin/bash\r\necho hi\r\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    action("greet.toml", script.to_str().unwrap());
    assert!(finding()["detail"].as_str().unwrap().contains("not those the running agent has read"));
    assert!(rome.stop().success());
    let _rome = fleet.start_agent("rome", None);
    // What keeps the kernel from starting a script is told by doctor and receipt, and what is said to mend it
    // does.
    for (content, why) in [
        ("#!/bin/bash\r\necho hi\r\n", "its lines end with CR and LF"),
        ("\u{feff}#!/bin/sh\necho hi\n", "a byte order mark stands before"),
        ("echo hi\n", "neither an ELF program nor a script"),
    ] {
        fs::write(&script, content).unwrap();
        assert!(finding()["detail"].as_str().unwrap().contains(why), "{}", finding());
        let sent =
            fleet.writ(&["--output", "json", "send", "action", "greet", "--all", "--wait"]).failed(1).json();
        let detail = sent["targets"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(why), "{sent}");
        let typed = &detail[detail.find("sed -i").unwrap()..];
        let _mended = fleet.run_tool("sh", &["-c", typed]).ok();
        let _obeyed = fleet.writ(&["send", "action", "greet", "--all", "--wait"]).ok();
    }
    // A file that is another than the running agent has read, and one that no agent reads.
    action("greet.toml", "/usr/bin/id");
    assert!(finding()["detail"].as_str().unwrap().contains("not those the running agent has read"));
    action("greet.toml", script.to_str().unwrap());
    fs::write(fleet.path("actions.d/wave.conf"), "program = \"/usr/bin/id\"\n").unwrap();
    assert!(finding()["detail"].as_str().unwrap().contains("does not end in .toml: wave.conf"));
}

#[test]
fn what_writ_reads_from_the_environment_and_how_files_begin_stops_no_program() {
    let fleet = Fleet::new(Build::Shipped);
    let _rome = fleet.agent("rome");
    let config = fleet.agent_config("rome");
    let agent = binary("writ-agent");
    let line =
        |variable: &str| format!("{variable} {} status --config {}", agent.display(), config.display());
    let _ignored = fleet.run_tool("sh", &["-c", &line("WRIT_TOKEN=secret")]).ok();
    let said = fleet.run_tool("sh", &["-c", &line("WRIT_TOKENS=secret")]).failed(64);
    assert!(said.stderr.contains("is not a known key"), "{said:?}");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("\u{feff}{text}")).unwrap();
    let _read = fleet.run_tool("sh", &["-c", &line("")]).ok();
    let utf16: Vec<u8> = "\u{feff}data_dir".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&config, utf16).unwrap();
    let said = fleet.run_tool("sh", &["-c", &line("")]).failed(64);
    assert!(said.stderr.contains("UTF-16"), "{said:?}");
    fs::write(&config, text).unwrap();

    let folder = OsStr::from_bytes(b"/tmp/writ-\xff").to_owned();
    for (program, verb) in [
        ("writ-server", "doctor"),
        ("writ-agent", "status"),
        ("writ-server", "run"),
        ("writ-control-manager", "run"),
    ] {
        #[expect(clippy::disallowed_methods, reason = "tests start what they test")]
        let mut command = std::process::Command::new(binary(program));
        let output = command.arg(verb).arg("--data-dir").arg(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(64) && said.contains("not UTF-8 text"),
            "{program} {verb}: {said}"
        );
    }
}

#[test]
fn contexts_may_be_empty_or_a_link_and_secrets_have_one_line() {
    let fleet = Fleet::new(Build::Shipped);
    let folder = fleet.path("config/writ");
    fs::create_dir_all(&folder).unwrap();
    let (file, elsewhere) = (folder.join("contexts.toml"), fleet.path("dotfiles.toml"));
    let writ = |arguments: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "tests start what they test")]
        let mut command = std::process::Command::new(binary("writ"));
        command.args(arguments).env("XDG_CONFIG_HOME", fleet.path("config"));
        for name in ["WRIT_SERVER", "WRIT_CA", "WRIT_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command.output().unwrap()
    };
    fs::write(&elsewhere, "").unwrap();
    let _ = fs::remove_file(&file);
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    assert!(writ(&["context", "list"]).status.success(), "an empty file knows no server");
    let (ca, token) = (fleet.path("server/admin-ca.pem"), fleet.path("server/admin-token"));
    let server = format!("localhost:{}", fleet.admin_port());
    let add = |token: &str| {
        writ(&[
            "context",
            "add",
            "acme",
            "--server",
            &server,
            "--ca",
            ca.to_str().unwrap(),
            "--token-file",
            token,
        ])
    };
    assert!(add(token.to_str().unwrap()).status.success());
    assert!(
        file.is_symlink() && fs::read_to_string(&elsewhere).unwrap().contains("acme"),
        "the link stays one"
    );
    let secret = fs::read_to_string(&token).unwrap();
    let with_mark = fleet.write_secret("with-mark", &format!("\u{feff}{}\r\n", secret.trim()));
    assert!(add(with_mark.to_str().unwrap()).status.success());
    let two = fleet.write_secret("two", &format!("{}\n{}\n", secret.trim(), secret.trim()));
    let said = String::from_utf8(add(two.to_str().unwrap()).stderr).unwrap();
    assert!(said.contains("it has 2 lines"), "{said}");
    fleet.write_secret("passphrase", "\u{feff}correct horse battery staple\r\n");
    let _same = fleet.backup();
    fleet.write_secret("passphrase", "correct horse\nbattery staple\n");
    let said = fleet.keys(&["cert", "backup", fleet.path("other.age").to_str().unwrap()]);
    assert!(said.code == 64 && said.stderr.contains("it has 2 lines"), "{said:?}");
}

#[test]
fn a_reader_that_goes_away_and_a_full_disk_end_no_program_by_a_panic() {
    let fleet = Fleet::new(Build::Shipped);
    let _rome = fleet.agent("rome");
    let writ = binary("writ").display().to_string();
    let agent = format!(
        "{} doctor --config {}",
        binary("writ-agent").display(),
        fleet.agent_config("rome").display()
    );
    let server =
        format!("{} doctor --data-dir {}", binary("writ-server").display(), fleet.path("server").display());
    let environment = format!(
        "WRIT_SERVER=localhost:{} WRIT_CA={ca} WRIT_TOKEN_FILE={token}",
        fleet.admin_port(),
        ca = fleet.path("server/admin-ca.pem").display(),
        token = fleet.path("server/admin-token").display()
    );
    let ping = format!("{environment} {writ} send ping --all --wait");
    let nobody = format!("{environment} {writ} send ping --agent nobody");
    // The code of the first of a pipe, whose reader has gone before anything is said.
    let piped = |line: &str| {
        let script = format!("set +e; {{ {line}; echo $? > {}; }} 2>&1 | true", fleet.path("code").display());
        let _ = fleet.run_tool("bash", &["-c", &script]);
        fs::read_to_string(fleet.path("code")).unwrap().trim().to_owned()
    };
    for (line, code) in [(&ping, "0"), (&agent, "0"), (&nobody, "5")] {
        assert_eq!(piped(line), code, "{line}");
    }
    assert_ne!(piped(&server), "101");
    let full =
        |line: &str, stream: &str| fleet.run_tool("sh", &["-c", &format!("{line} {stream}>/dev/full")]).code;
    assert_eq!(full(&ping, "2"), 0, "what is said aside is no part of the result");
    assert_eq!(full(&nobody, "2"), 5);
    assert_eq!(full(&ping, "1"), 8, "the result could not be written");
    assert_eq!(full(&agent, "1"), 1);
    assert_eq!(full(&format!("{writ} nonsense"), "2"), 2);
}

#[test]
fn what_is_typed_wrong_has_the_exit_code_of_wrong_usage_and_a_refused_connection_is_no_matter_of_trust() {
    let fleet = Fleet::new(Build::Shipped);
    let _rome = fleet.agent("rome");
    for arguments in [
        &["send", "ping", "--selector", "site in (rome"][..],
        &["agents", "list", "--selector", "=x"],
        &["agents", "label", "rome", "site"],
        &["agents", "label", "rome", "si te=rome"],
        &["agents", "label", "rome", "site=a b"],
    ] {
        let said = fleet.writ(arguments);
        assert_eq!(said.code, 2, "{arguments:?}: {said:?}");
    }
    let ca = fleet.path("server/admin-ca.pem");
    let token = fleet.path("server/admin-token");
    let port = integration_tests::ports::free_port();
    let arguments = [
        "context",
        "add",
        "x",
        "--server",
        &format!("localhost:{port}"),
        "--ca",
        ca.to_str().unwrap(),
        "--token-file",
        token.to_str().unwrap(),
    ];
    let said = fleet.writ(&arguments).failed(3);
    assert!(
        !said.stderr.contains("--ca") && said.stderr.contains("start what is to answer there"),
        "{said:?}"
    );
    // Health, for programs.
    let config = fleet.path("asked.toml");
    fs::write(&config, format!("[listen]\nadmin = \"127.0.0.1:{}\"\n", fleet.admin_port())).unwrap();
    let healthy =
        fleet.run("writ-server", &["health", "--config", config.to_str().unwrap(), "--output", "json"]);
    assert_eq!((healthy.code, healthy.json()["serving"].as_bool()), (0, Some(true)), "{healthy:?}");
}

#[test]
fn a_doctor_says_a_long_error_once_and_a_killed_agents_journal_is_not_called_empty() {
    let fleet = Fleet::new(Build::Shipped);
    let agent = fleet.agent("rome");
    let _done = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    agent.kill();
    let config = fleet.agent_config("rome");
    let status = fleet.run("writ-agent", &["status", "--config", config.to_str().unwrap()]).ok();
    assert!(status.stdout.contains("1 commands remembered"), "{status:?}");
    fs::write(fleet.path("rome/trust.chain"), "no").unwrap();
    fs::write(fleet.path("rome/trust.chain.copy"), "no").unwrap();
    for entry in fs::read_dir(fleet.path("rome")).unwrap().map(Result::unwrap) {
        if entry.file_name().to_str().unwrap().starts_with("trust") {
            fs::write(entry.path(), "no").unwrap();
        }
    }
    let doctor = fleet.run("writ-agent", &["doctor", "--config", config.to_str().unwrap()]).failed(1);
    assert_eq!(doctor.stderr, "", "{doctor:?}");
    let longest =
        doctor.stdout.lines().filter(|line| line.trim().starts_with("bad")).max_by_key(|line| line.len());
    let detail = longest.unwrap().split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
    let flat = doctor.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(flat.matches(detail.as_str()).count(), 1, "{}", doctor.stdout);
}

#[test]
fn between_an_operators_decision_and_the_agents_next_attempt_its_doctor_does_not_call_all_well() {
    let fleet = Fleet::new(Build::Shipped);
    let agent = fleet.agent("rome");
    let _removed = fleet.writ(&["agents", "remove", "rome"]).ok();
    // The session is over, and nothing was tried since.
    agent.wait_for("session ended", |_| true);
    let config = fleet.agent_config("rome");
    let said = fleet.run("writ-agent", &["doctor", "--config", config.to_str().unwrap()]).failed(1);
    assert!(said.stdout.contains("was removed by an operator"), "{said:?}");
}

#[test]
fn a_foreign_certificate_of_the_channel_is_not_served_without_a_word() {
    let mut fleet = Fleet::new(Build::Shipped);
    let other = Fleet::unmade(Build::Shipped);
    let _made = other.init().ok();
    fleet.kill_server();
    for file in ["tls.pem", "tls.key"] {
        fs::copy(other.path("server").join(file), fleet.path("server").join(file)).unwrap();
    }
    fleet.start_server(None);
    let said = "the TLS certificate is by no authority the trust bundle lists: agents cannot verify this channel; put back one that is, or make a new authority: writ-server authority channel";
    fleet.server().wait_for(said, |_| true);
    let doctor = fleet.keys(&["doctor"]).failed(1).json();
    assert!(doctor["verdict"].as_str().unwrap().starts_with("channel:"), "{doctor}");
}

/// What a terminal shows of a command of ours, in the order in which it was drawn.
fn drawn(typescript: &std::path::Path) -> String {
    String::from_utf8_lossy(&fs::read(typescript).unwrap()).into_owned()
}

#[test]
fn a_bar_stays_where_its_work_stays_and_its_clock_goes_on() {
    let mut fleet = Fleet::new(Build::Shipped);
    let oslo = fleet.agent("oslo");
    let _rome = fleet.agent("rome");
    assert!(oslo.stop().success());
    let typescript = fleet.path("typescript");
    // `script` gives a program a terminal and keeps what it draws.
    let on_a_terminal = |line: &str| {
        let line = format!(
            "TERM=xterm XDG_CONFIG_HOME={} {} {line}",
            fleet.path("config").display(),
            binary("writ").display()
        );
        ["-qec".to_owned(), line, typescript.display().to_string()]
    };

    let sent = fleet.spawn_tool("script", &on_a_terminal("send ping --all --yes --wait --timeout 4s")).wait();
    let shown = drawn(&typescript);
    assert_eq!(sent.0.code(), Some(6), "{shown}");
    let last = shown.rsplit_once("/2 answered").unwrap();
    assert!(last.0.ends_with('1') && last.1.contains("1 done, 1 waiting"), "{shown}");
    assert!(
        ["1s", "2s", "3s"].iter().any(|seconds| shown.contains(seconds)),
        "the clock stood still: {shown}"
    );

    // The only agent that holds the next bundle is the one that runs.
    let _made = fleet.keys(&["cert", "create", "--overlap", "1h"]).ok();
    let watched = fleet.spawn_tool("script", &on_a_terminal("trust converge --watch --timeout 4s")).wait();
    let shown = drawn(&typescript);
    assert!(!watched.0.success(), "{shown}");
    let last = shown.rsplit_once("/2 hold the newest bundle").unwrap();
    assert!(last.0.ends_with('1') && last.1.contains("bundle 2"), "{shown}");

    // A pipe in the typescript's place shows the moment at which the bar says that one of two has answered.
    fs::remove_file(&typescript).unwrap();
    let _made = fleet.run_tool("mkfifo", &[typescript.to_str().unwrap()]).ok();
    let waits = fleet.spawn_tool("script", &on_a_terminal("send ping --all --yes --wait"));
    let mut pipe = fs::File::open(&typescript).unwrap();
    let (mut shown, mut part) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&shown).contains("1/2 answered") {
        let length = pipe.read(&mut part).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&part[..length]);
    }
    fleet.kill_server();
    pipe.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8_lossy(&shown);
    assert!(!waits.wait().0.success(), "{shown}");
    assert!(!shown.contains("2/2") && shown.contains("the command goes on"), "{shown}");
}
