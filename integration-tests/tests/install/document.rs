//! docs/operations.md, typed block by block on machines with systemd: what the page says works.

use std::collections::BTreeMap;
use std::fs;

use integration_tests::machine::{Lan, Machine, repository};

use crate::package::package;

/// A block of shell and the machine it is for.
struct Block {
    machine: String,
    lines: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some("") => is_inside = false,
            Some(kind) => {
                let machine = kind.strip_prefix("sh ").unwrap_or_else(|| panic!("{kind}: on which machine?"));
                blocks.push(Block { machine: machine.to_owned(), lines: Vec::new() });
                is_inside = true;
            }
            None if is_inside => blocks.last_mut().unwrap().lines.push(line.to_owned()),
            None => {}
        }
    }
    blocks
}

#[test]
fn every_block_of_the_operations_page_works_on_machines_as_it_stands() {
    let page = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let lan = Lan::new();
    let names = ["server", "web1", "server2"];
    let machines: BTreeMap<_, _> = names.map(|name| (name, Machine::new(&lan, name))).into();
    let lead_to = |address: &str| {
        for machine in machines.values() {
            machine.put(
                "/etc/hosts",
                format!("127.0.0.1 localhost\n{address} server.example\n").as_bytes(),
                0o644,
            );
        }
    };
    lead_to(machines["server"].address().as_str());
    for machine in machines.values() {
        for name in ["writ-server", "writ", "writ-agent"] {
            machine.put(&format!("/root/{name}_0.1.0_amd64.deb"), &package(name), 0o644);
        }
    }
    let all = blocks(&page);
    assert!(all.len() > 15, "{}", all.len());
    let mut passphrase = String::new();
    for Block { machine: name, lines } in all {
        let machine = &machines[name.as_str()];
        let (copies, typed): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("scp "));
        if name == "server2" && typed.iter().any(|line| line.contains("cert restore")) {
            // What a person does there: lead the name to the new host.
            lead_to(&machine.address());
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
