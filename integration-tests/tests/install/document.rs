//! README.md and docs/operations.md, typed block by block on machines with systemd: what the pages say works.

use std::collections::BTreeMap;
use std::fs;

use integration_tests::machine::{Lan, Machine, repository};

use crate::package::package;

/// A block and the machine it is for: shell, or a file whose first line is its path.
struct Block {
    is_file: bool,
    machine: String,
    lines: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some("") => is_inside = false,
            // Not typed on a machine: the test of the archive runs it.
            Some("python") => {}
            Some(kind) => {
                let (kind, machine) =
                    kind.split_once(' ').unwrap_or_else(|| panic!("{kind}: on which machine?"));
                blocks.push(Block {
                    is_file: kind == "toml",
                    machine: machine.to_owned(),
                    lines: Vec::new(),
                });
                is_inside = true;
            }
            None if is_inside => blocks.last_mut().unwrap().lines.push(line.to_owned()),
            None => {}
        }
    }
    blocks
}

const PASSPHRASE: &str = "correct horse battery staple";

/// Machines on one switch with the packages in root's folder; `server.example` is the first of them.
fn machines(lan: &Lan, names: &[&'static str]) -> BTreeMap<&'static str, Machine> {
    let machines: BTreeMap<_, _> = names.iter().map(|name| (*name, Machine::new(lan, name))).collect();
    for machine in machines.values() {
        for name in ["writ-server", "writ", "writ-agent"] {
            machine.put(&format!("/root/{name}_0.1.0_amd64.deb"), &package(name), 0o644);
        }
    }
    lead_to(&machines, &machines[names[0]].address());
    machines
}

fn lead_to(machines: &BTreeMap<&str, Machine>, address: &str) {
    for machine in machines.values() {
        let hosts = format!("127.0.0.1 localhost\n{address} server.example\n");
        machine.put("/etc/hosts", hosts.as_bytes(), 0o644);
    }
}

#[test]
fn every_block_of_the_readme_on_using_it_works_on_machines_once_the_agent_may_restart_units() {
    let page = fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, page) = page.split_once("## Use it").unwrap();
    let lan = Lan::new();
    let machines = machines(&lan, &["server", "web1"]);
    let (server, web) = (&machines["server"], &machines["web1"]);
    // What the example restarts, on an agent that may.
    let unit = "[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/nginx-was-started\n";
    web.put("/etc/systemd/system/nginx.service", unit.as_bytes(), 0o644);
    let all = blocks(page);
    assert_eq!(all.len(), 4);
    for Block { is_file, machine: name, lines } in all {
        let machine = &machines[name.as_str()];
        let text = lines.join("\n") + "\n";
        if is_file {
            machine.put(lines[0].trim_start_matches("# "), text.as_bytes(), 0o644);
            let folder = "/etc/systemd/system/writ-agent.service.d";
            let example = "/usr/share/doc/writ-agent/examples/privileged.conf";
            let restart = "systemctl daemon-reload && systemctl restart writ-agent";
            web.sh(&format!("install -D -m 644 {example} {folder}/privileged.conf && {restart}")).ok();
            continue;
        }
        let mut script = text;
        if script.contains("evidence export COMMAND") {
            let digest = server
                .sh("writ --output json server | sed -n 's/.*\"chain_digest\": \"\\(.*\\)\".*/\\1/p'")
                .ok()
                .stdout;
            script = script.replace("DIGEST", digest.trim());
            let latest = "$(writ --output json commands list | sed -n 's/.*\"command_id\": \"\\(.*\\)\".*/\\1/p' | head -1)";
            script = script.replace("COMMAND", latest);
        }
        let script = format!("set -e; cd /root\n{script}");
        machine.put("/root/block.sh", script.as_bytes(), 0o700);
        // The passphrase is asked for on a terminal, twice. Elsewhere a terminal would ask for more than
        // the page shows.
        let asks = script.lines().any(|line| line.contains("writ-server init --name"));
        let said = match asks {
            true => {
                let typed = format!("{PASSPHRASE}\n{PASSPHRASE}\n");
                machine.sh_with_input("script -qec 'bash /root/block.sh' /dev/null", &typed)
            }
            false => machine.sh("bash /root/block.sh"),
        };
        assert_eq!(said.code, 0, "on {name}:\n{script}\n{}\n{}", said.stdout, said.stderr);
        if name == "server" && script.contains("token create") {
            let token = server.sh("cat /root/token").ok().stdout;
            web.put("/root/token", token.as_bytes(), 0o600);
        }
    }
    web.sh("test -e /run/nginx-was-started").ok();
}

#[test]
fn every_block_of_the_operations_page_works_on_machines_as_it_stands() {
    let page = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let lan = Lan::new();
    let machines = machines(&lan, &["server", "web1", "server2"]);
    let all = blocks(&page);
    assert!(all.len() > 15, "{}", all.len());
    let mut passphrase = String::new();
    for Block { is_file, machine: name, lines } in all {
        assert!(!is_file, "{lines:?}");
        let machine = &machines[name.as_str()];
        let (copies, typed): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("scp "));
        if name == "server2" && typed.iter().any(|line| line.contains("cert restore")) {
            // What a person does there: lead the name to the new host.
            lead_to(&machines, &machine.address());
        }
        let script: Vec<_> = typed.into_iter().map(String::as_str).collect();
        // Where the page says that the passphrase is typed, it is.
        let typed =
            if script.iter().any(|line| line.contains("# type it")) { passphrase.as_str() } else { "" };
        let said = machine.sh_with_input(&format!("set -e; cd /root\n{}", script.join("\n")), typed);
        if passphrase.is_empty() {
            passphrase = machine.sh("cat /run/writ-passphrase").stdout;
        }
        assert_eq!(said.code, 0, "on {name}:\n{}\n{}\n{}", script.join("\n"), said.stdout, said.stderr);
        for copy in copies {
            let words: Vec<_> = copy.split(' ').collect();
            let (file, to) = (words[1], words[2].trim_end_matches(':'));
            let content = machine.sh(&format!("cd /root; base64 {file}")).ok().stdout;
            let base = file.rsplit('/').next().unwrap();
            machines[to].sh_with_input(&format!("umask 077; base64 -d > /root/{base}"), &content).ok();
        }
    }
    // What the page says last: purging a package burns no fleet.
    let purged = machines["server"].sh("dpkg --purge writ-server").ok();
    assert!(purged.stdout.contains("The keys in /var/lib/writ/server stay."), "{purged:?}");
    machines["server"].sh("ls /var/lib/writ/server/signing/*.key").ok();
}
