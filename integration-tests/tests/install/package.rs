//! The agent's Debian package on machines with systemd as PID 1: installed, enrolled, rebooted, without power, upgraded, removed.

use std::fs;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::machine::{Lan, Machine, repository};
use serde_json::{Value, json};

/// A switch, and a fleet whose server agents reach over it.
fn site() -> (Lan, Fleet) {
    let lan = Lan::new();
    let fleet = lan.on_hub(|| {
        let mut fleet = Fleet::unmade(Build::Shipped);
        fleet.leave_the_road();
        fleet.agents_address = Lan::HUB;
        fleet.server_config = "[session]\nheartbeat = \"1s\"\n".to_owned();
        fleet.init().ok();
        fleet.start_server(None);
        fleet.add_context();
        fleet
    });
    (lan, fleet)
}

/// The package that `make package` left, and that of a later release.
fn packages() -> (Vec<u8>, Vec<u8>) {
    let built = fs::read_dir(repository().join("target/dist")).unwrap().map(|entry| entry.unwrap().path());
    let built: Vec<_> = built.filter(|path| path.extension().is_some_and(|ending| ending == "deb")).collect();
    assert_eq!(built.len(), 1, "one package, of this version: {built:?}");
    (fs::read(&built[0]).unwrap(), fs::read(repository().join("target/install/next.deb")).unwrap())
}

/// A machine with the package, enrolled, with the action `note`, and started.
fn installed(lan: &Lan, fleet: &Fleet, name: &str) -> Machine {
    let machine = Machine::new(lan, name);
    machine.put("/root/writ-agent.deb", &packages().0, 0o644);
    let said = machine.sh("dpkg -i /root/writ-agent.deb").ok();
    assert!(said.stdout.contains("obeys nobody yet"), "{said:?}");
    enroll(lan, fleet, &machine);
    machine.put("/usr/local/bin/note", NOTE.as_bytes(), 0o755);
    machine.put("/etc/writ/actions.d/note.toml", definition("/usr/local/bin/note", "").as_bytes(), 0o644);
    machine.sh("systemctl start writ-agent").ok();
    connected(lan, fleet, name);
    machine
}

fn enroll(lan: &Lan, fleet: &Fleet, machine: &Machine) {
    let token = lan.on_hub(|| fs::read_to_string(fleet.token(1)).unwrap());
    let enrolled = machine.sh_with_input("runuser -u writ-agent -- writ-agent enroll --token-file -", &token);
    assert!(enrolled.ok().stdout.contains(&machine.name));
}

/// Writes down its word, and waits for its file to go if there is one of that name.
const NOTE: &str = "#!/bin/sh
echo \"$1\" >> /var/lib/writ/agent/notes
while [ -e \"/var/lib/writ/agent/$1.hold\" ]; do sleep 0.05; done
id -un
";

fn definition(program: &str, more: &str) -> String {
    format!(
        "program = \"{program}\"\narguments = [\"{{word}}\"]\nclass = \"change\"\n{more}\n[parameters.word]\ntype = \"text\"\npattern = \"[a-z0-9.]{{1,40}}\"\n"
    )
}

fn shown(lan: &Lan, fleet: &Fleet, name: &str) -> Value {
    lan.on_hub(|| fleet.json(&["agents", "show", name]))
}

fn connected(lan: &Lan, fleet: &Fleet, name: &str) {
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

fn result(lan: &Lan, fleet: &Fleet, command: &str) -> Value {
    lan.on_hub(|| fleet.json(&["commands", "show", command]))
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
    let first = note(&lan, &fleet, "web1", "one");
    eprintln!("{first:#}");
    assert_eq!(notes(&web1, "one"), 1);

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
    until("no answer", || result(&lan, &fleet, &command).to_string().contains("indeterminate"));
    assert_eq!(notes(&web1, "three"), 1, "it was not started again");

    // Sent while the cable is out, it is obeyed once when it is in again.
    web1.plug(false);
    until("the cut is not noticed", || shown(&lan, &fleet, "web1")["connected"] == json!(false));
    let command = note_later(&lan, &fleet, "web1", "four");
    assert_eq!(notes(&web1, "four"), 0);
    web1.plug(true);
    until("no answer", || result(&lan, &fleet, &command).to_string().contains("succeeded"));
    assert_eq!((notes(&web1, "four"), notes(&web1, "one")), (1, 1));
}
