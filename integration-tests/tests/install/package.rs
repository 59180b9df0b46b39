//! The agent's Debian package on machines with systemd as PID 1: installed, enrolled, rebooted, without
//! power, upgraded, removed.

use std::fs;

use integration_tests::containers::VERSION;
use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::machine::{Lan, Machine, repository};
use serde_json::{Value, json};

/// A switch, and a fleet whose server agents reach over it.
fn site() -> (Lan, Fleet) {
    let lan = Lan::new();
    let fleet = lan.on_hub(|| {
        let mut fleet = Lan::unmade_fleet();
        fleet.init().ok();
        fleet.start_server(None);
        fleet.add_context();
        fleet
    });
    (lan, fleet)
}

/// A package that `make package` left.
pub(crate) fn package(name: &str) -> Vec<u8> {
    let path = repository().join(format!("target/dist/{name}_{VERSION}_amd64.deb"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run: make test-install", path.display()))
}

/// A machine with the package, enrolled, with the action `note`, and started.
fn installed(lan: &Lan, fleet: &Fleet, name: &str) -> Machine {
    let machine = Machine::new(lan, name);
    machine.put("/root/writ-agent.deb", &package("writ-agent"), 0o644);
    let said = machine.sh("dpkg -i /root/writ-agent.deb").ok();
    assert!(said.stdout.contains("Copy an enrolment token here"), "{said:?}");
    enroll(lan, fleet, &machine);
    machine.put("/usr/local/bin/note", NOTE.as_bytes(), 0o755);
    machine.put("/etc/writ/actions.d/note.toml", definition("/usr/local/bin/note", "").as_bytes(), 0o644);
    machine.sh("systemctl start writ-agent").ok();
    connected(lan, fleet, name);
    machine
}

pub(crate) fn enroll(lan: &Lan, fleet: &Fleet, machine: &Machine) {
    let token = lan.on_hub(|| fs::read_to_string(fleet.token(1)).unwrap());
    let enrolled = machine.sh_with_input("runuser -u writ-agent -- writ-agent enroll --token-file -", &token);
    assert!(enrolled.ok().stdout.contains(&machine.name));
}

/// Writes down its word, and waits for its file to go if there is one of that name.
pub(crate) const NOTE: &str = "#!/bin/sh
echo \"$1\" >> /var/lib/writ/agent/notes
while [ -e \"/var/lib/writ/agent/$1.hold\" ]; do sleep 0.05; done
id -un
";

pub(crate) fn definition(program: &str, more: &str) -> String {
    format!(
        "program = \"{program}\"\narguments = [\"{{word}}\"]\nclass = \"change\"\n{more}\n[parameters.word]\ntype = \"text\"\npattern = \"[a-z0-9.]{{1,40}}\"\n"
    )
}

fn shown(lan: &Lan, fleet: &Fleet, name: &str) -> Value {
    lan.on_hub(|| fleet.json(&["agents", "show", name]))
}

pub(crate) fn connected(lan: &Lan, fleet: &Fleet, name: &str) {
    until("the agent does not connect", || shown(lan, fleet, name)["connected"] == true);
}

/// Sends `note` and waits; how it ended.
fn note(lan: &Lan, fleet: &Fleet, agent: &str, word: &str) -> Value {
    let word = format!("word={word}");
    lan.on_hub(|| fleet.json(&["send", "action", "note", &word, "--agent", agent, "--wait"]))
}

/// Sends it and does not wait; the command's id.
fn note_later(lan: &Lan, fleet: &Fleet, agent: &str, word: &str) -> String {
    let word = format!("word={word}");
    let sent = lan.on_hub(|| fleet.json(&["send", "action", "note", &word, "--agent", agent]));
    sent["command_id"].as_str().unwrap_or_else(|| panic!("{sent}")).to_owned()
}

/// How often the word was written down.
fn notes(machine: &Machine, word: &str) -> usize {
    let said = machine.sh("cat /var/lib/writ/agent/notes 2>/dev/null").stdout;
    said.lines().filter(|line| *line == word).count()
}

/// How it stands with the one agent it was sent to.
fn result(lan: &Lan, fleet: &Fleet, command: &str) -> Value {
    lan.on_hub(|| fleet.json(&["commands", "show", command]))["targets"][0].clone()
}

fn output(sent: &Value) -> &str {
    sent["targets"][0]["output"].as_str().unwrap_or_else(|| panic!("{sent:#}"))
}

fn main_pid(machine: &Machine) -> String {
    machine.sh("systemctl show -p MainPID --value writ-agent").ok().stdout
}

fn version(machine: &Machine) -> String {
    machine.sh("writ-agent --version").ok().stdout.trim().to_owned()
}

#[test]
fn an_installed_agent_obeys_after_a_reboot_a_power_loss_and_a_cut_cable() {
    let (lan, fleet) = site();
    let mut web1 = installed(&lan, &fleet, "web1");
    assert_eq!(web1.sh("systemctl is-enabled writ-agent").ok().stdout.trim(), "enabled");
    let exposure = web1.sh("systemd-analyze security --threshold=20 --no-pager writ-agent");
    assert_eq!(exposure.code, 0, "{}", exposure.stdout);
    let told = web1.sh("systemctl show -p StatusText --value writ-agent").ok().stdout;
    assert!(told.contains("connected to 10.78.0.1:"), "{told}");
    assert_eq!(output(&note(&lan, &fleet, "web1", "one")), "writ-agent\n");
    assert_eq!(notes(&web1, "one"), 1);
    // As journald wants it: priorities, and no time of its own.
    let logged = web1.sh("journalctl -u writ-agent -o json -g obeying --no-pager").ok();
    let line: Value = serde_json::from_str(logged.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(line["PRIORITY"], "6", "{line}");
    assert!(line["MESSAGE"].as_str().unwrap().starts_with("writ_agent::app::run: obeying"), "{line}");
    let page = web1.sh("man -P cat writ-agent-enroll");
    assert!(page.ok().stdout.contains("--token-file"));

    web1.power_off();
    web1.boot();
    connected(&lan, &fleet, "web1");
    note(&lan, &fleet, "web1", "two");

    // The power goes while a command runs.
    web1.sh("touch /var/lib/writ/agent/three.hold").ok();
    let command = note_later(&lan, &fleet, "web1", "three");
    until("the command does not start", || notes(&web1, "three") == 1);
    web1.lose_power();
    web1.boot();
    connected(&lan, &fleet, "web1");
    until("no answer", || result(&lan, &fleet, &command)["ending"] == "indeterminate");
    assert_eq!(notes(&web1, "three"), 1, "it was not started again");

    // Sent while the cable is out, it is obeyed once when it is in again.
    web1.plug(false);
    until("the cut is not noticed", || shown(&lan, &fleet, "web1")["connected"] == json!(false));
    let command = note_later(&lan, &fleet, "web1", "four");
    assert_eq!(notes(&web1, "four"), 0);
    web1.plug(true);
    until("no answer", || result(&lan, &fleet, &command)["state"] == "done");
    assert_eq!((notes(&web1, "four"), notes(&web1, "one")), (1, 1));
}

#[test]
fn upgraded_while_commands_flow_nothing_is_lost_and_what_is_older_is_refused() {
    let (lan, fleet) = site();
    let web1 = installed(&lan, &fleet, "web1");
    let (old, identity) = (version(&web1), shown(&lan, &fleet, "web1")["agent_id"].clone());
    web1.put("/root/next.deb", &fs::read(repository().join("target/install/next.deb")).unwrap(), 0o644);

    // Commands flow while one runs, the package is replaced and the agent starts again.
    web1.sh("touch /var/lib/writ/agent/long.hold").ok();
    let mut sent = vec![("long".to_owned(), note_later(&lan, &fleet, "web1", "long"))];
    until("the command does not start", || notes(&web1, "long") == 1);
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| web1.sh("dpkg -i /root/next.deb"));
        until("it is not asked to stop", || {
            web1.sh("systemctl is-active writ-agent").stdout.trim() == "deactivating"
        });
        sent.push(("during".to_owned(), note_later(&lan, &fleet, "web1", "during")));
        // What runs may finish.
        web1.sh("rm /var/lib/writ/agent/long.hold").ok();
        for number in 0..40 {
            let word = format!("flow{number}");
            let command = note_later(&lan, &fleet, "web1", &word);
            sent.push((word, command));
        }
        upgrade.join().unwrap().ok();
    });
    for (word, command) in &sent {
        until("no answer", || result(&lan, &fleet, command)["state"] == "done");
        assert_eq!(notes(&web1, word), 1, "{word}");
    }
    assert_eq!((version(&web1).as_str(), old.as_str()), ("writ-agent 9.0.0", "writ-agent 0.1.0"));
    let now = shown(&lan, &fleet, "web1");
    assert_eq!((&now["agent_id"], &now["agent_version"]), (&identity, &json!("9.0.0")), "{now}");

    // What is older is refused before anything is stopped.
    let running = main_pid(&web1);
    let refused = web1.sh("dpkg -i /root/writ-agent.deb").failed(1);
    assert!(refused.stderr.contains("0.1.0 is older"), "{refused:?}");
    assert_eq!((version(&web1).as_str(), main_pid(&web1)), ("writ-agent 9.0.0", running));
    assert_eq!(web1.sh("dpkg-query -W -f '${Status}' writ-agent").ok().stdout, "install ok installed");
    assert_eq!(output(&note(&lan, &fleet, "web1", "after")), "writ-agent\n");

    // Removed, it stops and its state stays; installed again, it is the same agent.
    web1.sh("dpkg --remove writ-agent").ok();
    assert_eq!(web1.sh("pgrep -x writ-agent").code, 1);
    web1.sh("test -s /var/lib/writ/agent/identity.dsse && test -s /etc/writ/actions.d/note.toml").ok();
    // The way back that the refusal names.
    web1.sh("dpkg -i /root/writ-agent.deb").ok();
    connected(&lan, &fleet, "web1");
    assert_eq!(shown(&lan, &fleet, "web1")["agent_id"], identity);
    assert_eq!(output(&note(&lan, &fleet, "web1", "again")), "writ-agent\n");

    // Purged, it never was here; what the host's owner wrote stays.
    web1.sh("dpkg --purge writ-agent").ok();
    assert_eq!(web1.sh("test -e /var/lib/writ").code, 1);
    assert_eq!(web1.sh("test -e /etc/writ/agent.toml").code, 1);
    web1.sh("test -s /etc/writ/actions.d/note.toml").ok();
}

#[test]
fn an_action_has_the_rights_of_the_agents_user_unless_the_host_says_otherwise() {
    let (lan, fleet) = site();
    let web1 = installed(&lan, &fleet, "web1");
    let send = |action: &str| {
        lan.on_hub(|| fleet.json(&["send", "action", action, "word=a", "--agent", "web1", "--wait"]))
    };

    // Another user needs an agent that runs as root: refused when it starts, with the file and the way out.
    let id = definition("/usr/local/bin/note", "user = \"backup\"");
    web1.put("/etc/writ/actions.d/others.toml", id.as_bytes(), 0o644);
    let _failed = web1.sh("systemctl restart writ-agent").failed(1);
    let said = web1.sh("journalctl -u writ-agent --no-pager -n 20").stdout;
    assert!(
        said.contains("others.toml")
            && said.contains("`user` is `backup`, but this agent runs as writ-agent"),
        "{said}"
    );
    // It is not tried again and again: nothing mends itself here.
    assert_eq!(web1.sh("systemctl show -p NRestarts --value writ-agent").ok().stdout.trim(), "0");

    // As root, by the example that the package brings.
    web1.put("/usr/local/bin/whoami", b"#!/bin/sh\nid\n", 0o755);
    let whoami = definition("/usr/local/bin/whoami", "user = \"backup\"");
    web1.put("/etc/writ/actions.d/others.toml", whoami.as_bytes(), 0o644);
    let restart = "program = \"/usr/bin/systemctl\"\narguments = [\"restart\", \"--\", \"cron.service\"]\nclass = \"change\"\n";
    web1.put("/etc/writ/actions.d/restart.toml", restart.as_bytes(), 0o644);
    let example = "/usr/share/doc/writ-agent/examples/privileged.conf";
    web1.sh(&format!(
        "install -D -m 644 {example} /etc/systemd/system/writ-agent.service.d/privileged.conf && systemctl daemon-reload && systemctl restart writ-agent"
    ))
    .ok();
    connected(&lan, &fleet, "web1");
    let backup = send("others");
    assert!(output(&backup).starts_with("uid=34(backup) gid=34(backup) groups=34(backup)"), "{backup:#}");
    let cron = || web1.sh("systemctl show -p MainPID --value cron").ok().stdout;
    let before = cron();
    let restarted = lan.on_hub(|| fleet.json(&["send", "action", "restart", "--agent", "web1", "--wait"]));
    assert_eq!(restarted["done"], 1, "{restarted:#}");
    assert_ne!(before, cron());

    // And back: its state is its own again.
    web1.sh("rm -r /etc/systemd/system/writ-agent.service.d /etc/writ/actions.d/others.toml && systemctl daemon-reload && systemctl restart writ-agent").ok();
    connected(&lan, &fleet, "web1");
    assert_eq!(output(&note(&lan, &fleet, "web1", "back")), "writ-agent\n");
    // What needs root's rights does not have them now.
    let refused = lan.on_hub(|| fleet.writ(&["send", "action", "restart", "--agent", "web1", "--wait"]));
    let _failed = refused.failed(1);

    // Root is told whose state this is, and nothing of root's is left in it.
    let enrolled = web1.sh("echo x | writ-agent enroll --token-file -");
    assert_eq!(enrolled.code, 64, "{enrolled:?}");
    let ran = web1.sh("systemctl stop writ-agent; writ-agent run").failed(1);
    assert!(
        ran.stderr.contains("belongs to user writ-agent; run this as that user: runuser -u writ-agent"),
        "{ran:?}"
    );
    let foreign = web1.sh("find /var/lib/writ/agent ! -user writ-agent").ok().stdout;
    assert_eq!(foreign, "");
}

/// Leaves behind what has no group, environment or output of its action's any more.
const STRAY: &str = "#!/bin/sh
env -i setsid sleep \"$1\" </dev/null >/dev/null 2>&1 &
until [ \"$(ps -o pgid= -p $! | tr -d ' ')\" = $! ]; do :; done
";

#[test]
fn what_an_action_leaves_behind_ends_with_it_whatever_it_does_to_be_forgotten() {
    let (lan, fleet) = site();
    let web1 = installed(&lan, &fleet, "web1");
    web1.put("/usr/local/bin/stray", STRAY.as_bytes(), 0o755);
    let file = "/etc/writ/actions.d/stray.toml";
    let ends_with_its_action = |seconds: &str| {
        let word = format!("word={seconds}");
        let sent =
            lan.on_hub(|| fleet.json(&["send", "action", "stray", &word, "--agent", "web1", "--wait"]));
        let told = &sent["targets"][0]["detail"];
        assert_eq!(told, "a process that had left its process group was killed", "{sent:#}");
        until("it lives", || web1.sh(&format!("pgrep -f '^sleep {seconds}$'")).code == 1);
    };
    web1.put(file, definition("/usr/local/bin/stray", "").as_bytes(), 0o644);
    web1.sh("systemctl restart writ-agent").ok();
    connected(&lan, &fleet, "web1");
    ends_with_its_action("991");
    ends_with_its_action("992");
    // One is left for the next action to clear, however many ran.
    let groups = "ls -d /sys/fs/cgroup/unified/system.slice/writ-agent.service/action-* /sys/fs/cgroup/system.slice/writ-agent.service/action-* 2>/dev/null";
    assert_eq!(web1.sh(groups).stdout.lines().count(), 1);

    // As another user, whose environment the agent does not see.
    web1.put(file, definition("/usr/local/bin/stray", "user = \"backup\"").as_bytes(), 0o644);
    let example = "/usr/share/doc/writ-agent/examples/privileged.conf";
    let folder = "/etc/systemd/system/writ-agent.service.d";
    let restart = "systemctl daemon-reload && systemctl restart writ-agent";
    web1.sh(&format!("install -D -m 644 {example} {folder}/privileged.conf && {restart}")).ok();
    connected(&lan, &fleet, "web1");
    ends_with_its_action("993");

    // Where the host gives the agent no group of its own, the receipt says what nobody knows.
    web1.put(&format!("{folder}/whole.conf"), b"[Service]\nDelegate=no\n", 0o644);
    web1.sh(restart).ok();
    connected(&lan, &fleet, "web1");
    let sent =
        lan.on_hub(|| fleet.json(&["send", "action", "stray", "word=994", "--agent", "web1", "--wait"]));
    let told = sent["targets"][0]["detail"].as_str().unwrap();
    assert!(told.starts_with("what left its process group is not known: it ran as another user"), "{told}");
    web1.sh("pgrep -f '^sleep 994$'").ok();
}

#[test]
fn an_agent_that_hangs_is_started_again_and_a_command_is_not() {
    let (lan, fleet) = site();
    let web1 = installed(&lan, &fleet, "web1");
    web1.put(
        "/etc/systemd/system/writ-agent.service.d/soon.conf",
        b"[Service]\nWatchdogSec=2s\nRestartSec=100ms\n",
        0o644,
    );
    web1.sh("systemctl daemon-reload && systemctl restart writ-agent").ok();
    connected(&lan, &fleet, "web1");
    assert_eq!(output(&note(&lan, &fleet, "web1", "before")), "writ-agent\n");
    let hung = main_pid(&web1);
    web1.sh(&format!("kill -STOP {hung}")).ok();
    let command = note_later(&lan, &fleet, "web1", "meanwhile");
    until("nobody notices", || !matches!(main_pid(&web1), pid if pid == hung || pid.trim() == "0"));
    until("no answer", || result(&lan, &fleet, &command)["state"] == "done");
    assert_eq!((notes(&web1, "before"), notes(&web1, "meanwhile")), (1, 1));
    let said = web1.sh("journalctl -u writ-agent --no-pager").stdout;
    assert!(said.contains("Watchdog timeout"), "{said}");
}

#[test]
fn the_static_program_runs_on_a_host_that_has_nothing_else() {
    let program = repository().join("target/dist/writ-agent");
    assert!(fs::metadata(&program).unwrap().len() <= 8 << 20, "at most 8 MB");
    let fleet = Fleet::unmade(Build::Shipped);
    let bare = fleet.path("bare");
    fs::create_dir(&bare).unwrap();
    fs::copy(&program, bare.join("writ-agent")).unwrap();
    let bare = bare.to_str().unwrap();
    assert_eq!(
        fleet.run_tool("chroot", &[bare, "/writ-agent", "--version"]).ok().stdout,
        "writ-agent 0.1.0\n"
    );
    let doctor = fleet.run_tool("chroot", &[bare, "/writ-agent", "doctor"]).failed(1);
    assert!(doctor.stdout.contains("identity"), "{doctor:?}");
}

#[test]
fn static_programs_find_names_where_the_name_service_lists_modules_and_say_in_words_what_they_do_not_find() {
    let (lan, fleet) = site();
    let machine = Machine::new(&lan, "oslo");
    machine.put("/root/writ.deb", &package("writ"), 0o644);
    machine.sh("dpkg -i /root/writ.deb").ok();
    machine.put("/root/ca.pem", &fs::read(fleet.path("server/admin-ca.pem")).unwrap(), 0o644);
    machine.put("/root/token", b"no token\n", 0o600);
    machine.sh("echo '192.0.2.7 listed.example' >> /etc/hosts").ok();
    let add = |server: &str| {
        machine
            .sh(&format!("writ context add it --server {server} --ca /root/ca.pem --token-file /root/token"))
    };
    for (server, says) in [
        // Found, and then nobody is there: the switch leads nowhere else.
        ("listed.example:7444", "cannot connect to listed.example:7444"),
        ("oslo:7444", "cannot connect to oslo:7444"),
        ("localhost:7444", "cannot connect to localhost:7444"),
        ("unlisted.example:7444", "unlisted.example"),
        ("printer.local:7444", "printer.local"),
        ("[fe80::1%none0]:7444", "this host has no such interface"),
    ] {
        let said = add(server);
        assert!(said.code == 3 && said.stderr.contains(says), "{server}: {said:?}");
    }
    let said = machine.sh("mv /etc/resolv.conf /etc/resolv.conf.away; writ context add it --server unlisted.example:1 --ca /root/ca.pem --token-file /root/token");
    assert!(said.stderr.contains("there is no name server to ask: /etc/resolv.conf is missing"), "{said:?}");
    let doctor = machine
        .sh("WRIT_SERVER=unlisted.example:1 WRIT_CA=/root/ca.pem WRIT_TOKEN_FILE=/root/token writ doctor");
    assert!(doctor.code == 1 && doctor.stdout.contains("put the name into /etc/hosts"), "{doctor:?}");
}
