//! `make demo-keys`: a fleet of three through everything that happens to keys, on real processes, in a
//! temporary folder.
#![allow(clippy::print_stdout, reason = "talking is what a demonstration does")]
#![allow(clippy::unwrap_used, reason = "in a demonstration a panic is the failed step")]

use integration_tests::fleet::{Build, Daemon, Fleet, Said};
use integration_tests::intruder::Intruder;
use integration_tests::stolen::Stolen;
use writ_protocol::id::AgentId;

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn proved(text: &str) {
    println!("   => {text}");
}

/// A change of keys on the server's host.
fn keys(fleet: &Fleet, arguments: &[&str]) -> Said {
    println!("   $ writ-server {}", arguments.join(" "));
    let said = fleet.keys(arguments).ok();
    let version = said.json()["bundle_version"].clone();
    if fleet.server.is_some() && said.json()["published"] == true {
        fleet.server().wait_for("trust bundle in force", |said| said["bundle.version"] == version);
    }
    said
}

fn all_obey(fleet: &Fleet, agents: u64) {
    let done = fleet.json(&["send", "ping", "--all", "--wait"]);
    assert_eq!((&done["done"], &done["refused"]), (&agents.into(), &0.into()), "{done}");
}

fn converged(fleet: &Fleet) {
    assert_eq!(fleet.show(&["trust", "converge", "--watch", "--timeout", "1m"]), 0);
}

fn main() {
    println!("Keys live as long as the fleet: nobody visits a host in what follows.");

    step(1, "A fleet of three");
    let mut fleet = Fleet::new(Build::Shipped);
    let mut agents: Vec<Daemon> =
        ["rome", "paris", "oslo"].into_iter().map(|name| fleet.agent(name)).collect();
    all_obey(&fleet, 3);
    proved("three agents obey the key that `init` made");

    step(2, "A sealed backup, read back from where it is stored");
    let backup = fleet.path("elsewhere.age");
    let backup = backup.to_str().unwrap().to_owned();
    let _made = keys(&fleet, &["cert", "backup", &backup]);
    let _proven = keys(&fleet, &["cert", "prove-backup", &backup]);
    proved("every key and the chain of trust bundles are in one file only the passphrase opens");

    step(3, "oslo is switched off; two rotations, by a new certificate and by a standby");
    assert!(agents.remove(2).stop().success());
    let _made = keys(&fleet, &["cert", "create", "--overlap", "1h"]);
    all_away(&fleet);
    let _standby = keys(&fleet, &["cert", "create", "--standby"]);
    let _rotated = keys(&fleet, &["cert", "rotate", "--overlap", "0s"]);
    all_away(&fleet);
    assert_eq!(fleet.show(&["trust", "certificates"]), 0);
    assert_eq!(fleet.show(&["trust", "converge"]), 6, "oslo is behind");
    proved("two agents followed without a refused command; the third is named, with what it holds");

    step(4, "A new authority takes over");
    let (old, new) = (fleet.path("server/authority.key.age"), fleet.path("new-authority.age"));
    let (old, new) = (old.to_str().unwrap().to_owned(), new.to_str().unwrap().to_owned());
    let secret = fleet.path("passphrase");
    let create = ["authority", "create", &new, "--passphrase-file", secret.to_str().unwrap()];
    let _made = fleet.run("writ-server", &create).ok();
    let _rotated =
        keys(&fleet, &["authority", "rotate", "--to", &new, "--authority", &old, "--authority", &new]);
    proved("signed by the old one and the new one; the old one alone can change nothing any more");

    step(5, "oslo comes back");
    agents.push(fleet.start_agent("oslo", None));
    converged(&fleet);
    all_obey(&fleet, 3);
    proved("it walked three bundles it had never seen, each by the authority of the one before");

    leak(&mut fleet, &agents, &new);

    step(7, "The server burns down; what is left is the old backup of step 2, and the authority's key");
    fleet.kill_server();
    std::fs::rename(fleet.path("server"), fleet.path("burnt")).unwrap();
    let _restored = keys(&fleet, &["cert", "restore", &backup]);
    fleet.start_server(None);
    fleet.add_context();
    fleet
        .server()
        .wait_for("trust bundle in force, but nothing can be signed", |said| said["bundle.version"] == 6);
    println!("   the agents handed back five bundles the backup did not have");
    let head = fleet.json(&["server"])["chain_digest"].as_str().unwrap().to_owned();
    let _confirmed = keys(&fleet, &["authority", "confirm", &head]);
    let _mended = keys(&fleet, &["cert", "create", "--authority", &new]);
    fleet.server().wait_for_count("known again by its identity record", 3);
    converged(&fleet);
    all_obey(&fleet, 3);
    proved("one bundle, and the whole fleet obeys the new server; nobody visited a host");
    println!("\nEvery step came out as it should.");
}

/// A thief has the signing key until it is revoked.
fn leak(fleet: &mut Fleet, agents: &[Daemon], new: &str) {
    step(6, "The signing key leaks, and is revoked");
    let rome: AgentId = fleet.agent_id("rome").parse().unwrap();
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    villain.wait_for_session(rome);
    let leaked = fleet.json(&["server"])["signing_key_id"].as_str().unwrap().to_owned();
    let stolen = Stolen::with_key(fleet, "rome", &leaked);
    let before = agents[0].count("command admitted");
    villain.deliver(rome, stolen.ping(rome, &stolen.signing, |_| {}));
    agents[0].wait_for_count("command admitted", before + 1);
    println!("   the thief's ping is obeyed: the key is good");
    let _revoked = keys(fleet, &["cert", "revoke", &leaked[..16], "--authority", new]);
    agents[0].wait_for("trust bundle accepted", |said| said["bundle.version"] == 6);
    villain.deliver(rome, stolen.ping(rome, &stolen.signing, |_| {}));
    agents[0].wait_for("refused in silence", |said| said["code"] == "certificate_revoked");
    drop(villain);
    fleet.kill_server();
    fleet.start_server(None);
    fleet.add_context();
    converged(fleet);
    all_obey(fleet, 3);
    proved("the thief is refused from the next contact on, and the fleet obeys the key that took over");
}

/// Everybody but oslo.
fn all_away(fleet: &Fleet) {
    let done = fleet.json(&["send", "ping", "--agent", "rome", "--agent", "paris", "--wait"]);
    assert_eq!((&done["done"], &done["refused"]), (&2.into(), &0.into()), "{done}");
}
