//! Scans by the agent of the package: what it can do with its own rights, and with the drop-ins that the
//! package brings.

use integration_tests::daemon::until;
use integration_tests::fleet::Fleet;
use integration_tests::listed::{FILTER, Listed};
use integration_tests::machine::{Lan, Machine};
use serde_json::Value;
use writ_protocol::id::Digest;

use crate::package::{connected, enroll, package};

const EVIL: &str = "what nobody wants on a host\n";

/// What an agent answers to a command.
fn send(lan: &Lan, fleet: &Fleet, what: &[&str]) -> Value {
    let all = [&["--output", "json", "send"], what, &["--all", "--wait"]].concat();
    lan.on_hub(|| fleet.writ(&all)).json()["targets"][0].clone()
}

/// Beside those that are there.
fn drop_in(machine: &Machine, name: &str) {
    let folder = "/etc/systemd/system/writ-agent.service.d";
    let example = format!("/usr/share/doc/writ-agent/examples/{name}");
    let restart = "systemctl daemon-reload && systemctl restart writ-agent";
    machine.sh(&format!("install -D -m 644 {example} {folder}/{name} && {restart}")).ok();
}

/// Who talks to a suspicious address is found, and of which process it is only with the drop-in.
fn who_talks_is_named_with_the_drop_in(lan: &Lan, fleet: &Fleet, web1: &Machine) {
    let _added = lan.on_hub(|| fleet.json(&["objects", "add", "ip", Lan::HUB]));
    let holds = || web1.sh("ls /var/lib/writ/agent/components/suspicious-objects.json").code == 0;
    until("the objects do not come", holds);
    let (hub, port) = (Lan::HUB, fleet.agents_port());
    let connect = format!("exec 3<>/dev/tcp/{hub}/{port}; exec sleep 1d");
    web1.sh(&format!("systemd-run --unit talker bash -c '{connect}'")).ok();
    let talks = format!("talks to {hub}:{port}");
    let output = || {
        let answer = send(lan, fleet, &["scan", "/srv/a"]);
        answer["output"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let met = |output: &str, by: &str| output.lines().any(|line| line.contains(by) && line.contains(&talks));
    until("nobody talks", || met(&output(), "a process that this agent may not see"));
    let said = output();
    assert!(said.contains("processes of other users are hidden from this agent"), "{said}");
    drop_in(web1, "connections.conf");
    connected(lan, fleet, "web1");
    let said = output();
    assert!(met(&said, "sleep (process "), "{said}");
    assert!(!said.contains("are hidden from this agent"), "{said}");
    web1.sh("systemctl stop talker").ok();
}

#[test]
fn a_scan_has_the_rights_of_the_agents_user_unless_the_host_says_otherwise() {
    let lan = Lan::new();
    let listed = lan.on_hub(|| {
        let mut listed = Listed::over(Lan::unmade_fleet());
        listed.publish_text("1", &format!("{}\n", Digest::of(EVIL.as_bytes())));
        listed.start();
        listed
    });
    let fleet = &listed.fleet;
    let web1 = Machine::new(&lan, "web1");
    web1.put("/root/writ-agent.deb", &package("writ-agent"), 0o644);
    web1.sh("dpkg -i /root/writ-agent.deb").ok();
    enroll(&lan, fleet, &web1);
    // A file of root's, one of a user's, one in a folder that is bound to another place, and one on a file
    // system of its own.
    web1.sh("mkdir -p /root/own /home/ann /srv/a /srv/bound /srv/memory && mount --bind /srv/a /srv/bound && mount -t tmpfs none /srv/memory")
        .ok();
    web1.put("/root/own/evil", EVIL.as_bytes(), 0o700);
    web1.put("/home/ann/evil", EVIL.as_bytes(), 0o4755);
    web1.put("/srv/a/evil", EVIL.as_bytes(), 0o755);
    web1.sh("cp -p /srv/a/evil /srv/memory/evil").ok();
    web1.sh("chown -R backup:backup /home/ann && chmod 4755 /home/ann/evil").ok();
    web1.sh("systemctl start writ-agent").ok();
    connected(&lan, fleet, "web1");
    let holds = || web1.sh(&format!("ls /var/lib/writ/agent/components/{FILTER}.json")).code == 0;
    until("the filter does not come", holds);
    let scan = ["scan", "/root", "/home", "/srv"];
    let detail = |answer: &Value| answer["detail"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();

    // As it is installed.
    let answer = send(&lan, fleet, &scan);
    assert!(detail(&answer).contains("3 listed"), "{answer}");
    let output = answer["output"].as_str().unwrap();
    assert!(output.contains("not looked at, not permitted to the agent's user: "), "{output}");
    for found in ["/srv/a/evil\n", "/srv/bound/evil\n", "/srv/memory/evil\n"] {
        assert!(output.contains(found), "{found} in {output}");
    }
    let answer = send(&lan, fleet, &["scan", "/srv/a", "--remedy", "quarantine"]);
    let output = answer["output"].as_str().unwrap();
    assert!(
        output.contains("left alone: not quarantined: its name cannot be taken from its folder: "),
        "{output}"
    );
    assert!(output.contains("; its mode cannot be changed: "), "{output}");
    // It had the lowest priority, as far as the unit lets it.
    let said = web1.sh("journalctl -u writ-agent --no-pager").stdout;
    assert!(!said.contains("the scan has the priority of the agent"), "{said}");

    who_talks_is_named_with_the_drop_in(&lan, fleet, &web1);
    // It reads everything, and changes nothing.
    drop_in(&web1, "inspect.conf");
    connected(&lan, fleet, "web1");
    let answer = send(&lan, fleet, &scan);
    assert!(detail(&answer).contains("5 listed") && detail(&answer).contains(" 0 not looked at"), "{answer}");
    let answer = send(&lan, fleet, &["scan", "/home", "--remedy", "quarantine"]);
    assert!(answer["output"].as_str().unwrap().contains("left alone: "), "{answer}");
    assert_eq!(web1.sh("cat /home/ann/evil").ok().stdout, EVIL);

    // It changes what it finds, and puts it back as it was.
    drop_in(&web1, "quarantine.conf");
    connected(&lan, fleet, "web1");
    // The rights are the agent's own: no action has them.
    let rights = "#!/bin/sh\ngrep -E '^Cap(Prm|Eff|Amb)' /proc/self/status\n";
    web1.put("/usr/local/bin/rights", rights.as_bytes(), 0o755);
    web1.put(
        "/etc/writ/actions.d/rights.toml",
        b"program = \"/usr/local/bin/rights\"\nclass = \"read\"\n",
        0o644,
    );
    web1.sh("systemctl restart writ-agent").ok();
    connected(&lan, fleet, "web1");
    let answer = send(&lan, fleet, &["action", "rights"]);
    let none = ["CapPrm", "CapEff", "CapAmb"].map(|set| format!("{set}:\t{:016x}\n", 0)).concat();
    assert_eq!(answer["output"], none, "{answer}");
    let answer = send(&lan, fleet, &[&scan[..], &["--remedy", "quarantine"]].concat());
    // The bound folder shows the same file a second time; it is gone by then.
    assert!(detail(&answer).contains("0 blocked, 4 quarantined"), "{answer}");
    let _gone = web1.sh("ls /root/own/evil /home/ann/evil /srv/a/evil /srv/memory/evil").failed(2);
    let sha256 = Digest::of(EVIL.as_bytes()).to_string();
    let answer = send(&lan, fleet, &["restore-quarantined", &sha256]);
    assert!(detail(&answer).contains("4 restored, 0 not"), "{answer}");
    assert_eq!(web1.sh("stat -c '%a %U' /home/ann/evil").ok().stdout, "4755 backup\n");
    assert_eq!(web1.sh("cat /srv/bound/evil /root/own/evil").ok().stdout, EVIL.repeat(2));
    let answer = send(&lan, fleet, &["scan", "/home", "--remedy", "block"]);
    assert!(answer["output"].as_str().unwrap().contains("blocked: not executable"), "{answer}");
    assert_eq!(web1.sh("stat -c %a /home/ann/evil").ok().stdout, "4644\n");
    web1.sh("chattr -i /home/ann/evil || true").ok();
}
