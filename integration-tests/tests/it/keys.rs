//! Keys live as long as the fleet: rotated, revoked, split, lost and restored, and no host is visited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use integration_tests::fleet::{Build, Fleet};
use integration_tests::hostile_agent::HostileAgent;
use integration_tests::intruder::Intruder;
use integration_tests::stolen::Stolen;
use writ_protocol::id::AgentId;

fn standing(fleet: &Fleet) -> Vec<String> {
    let listed = fleet.keys(&["cert", "list"]).ok().json();
    listed.as_array().unwrap().iter().map(|row| row["standing"].as_str().unwrap().to_owned()).collect()
}

fn in_force(fleet: &Fleet, version: u64) {
    fleet.server().wait_for("trust bundle in force", |said| said["bundle.version"] == version);
}

#[test]
fn certificates_rotate_while_commands_flow_and_none_is_refused() {
    let fleet = Fleet::new(Build::Testing);
    let (rome, _oslo) = (fleet.agent("rome"), fleet.agent("oslo"));
    let (fleet, is_over) = (Arc::new(fleet), Arc::new(AtomicBool::new(false)));
    let sender = std::thread::spawn({
        let (fleet, is_over) = (Arc::clone(&fleet), Arc::clone(&is_over));
        move || {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                let done = fleet.json(&["send", "ping", "--all", "--wait"]);
                assert_eq!((&done["done"], &done["refused"]), (&2.into(), &0.into()), "{done}");
                sent += 1;
            }
            sent
        }
    });
    let first = fleet.keys(&["cert", "create"]).ok().json();
    in_force(&fleet, 2);
    let _standby = fleet.keys(&["cert", "create", "--standby", "--key-algorithm", "ecdsa-p256"]).ok();
    in_force(&fleet, 3);
    assert_eq!(standing(&fleet), ["draining", "active", "standby"]);
    let second = fleet.keys(&["cert", "rotate", "--overlap", "1h"]).ok().json();
    in_force(&fleet, 4);
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 4);
    is_over.store(true, Ordering::Relaxed);
    assert!(sender.join().unwrap() > 0);
    assert_eq!(standing(&fleet), ["draining", "draining", "active"]);
    assert_ne!(first["signing_key_id"], second["signing_key_id"]);
    assert_eq!(fleet.json(&["server"])["signing_key_id"], second["signing_key_id"]);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty());
    assert_eq!(rome.count("session began"), 1, "no stream was dropped");
    let refused = fleet.keys(&["cert", "rotate"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("no standby certificate is held here"),
        "{refused:?}"
    );
}

#[test]
fn a_leaked_key_that_is_revoked_commands_nobody_and_what_waits_under_it_is_cancelled() {
    let mut fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let away = fleet.agent("oslo");
    assert!(away.stop().success());
    let rome: AgentId = fleet.agent_id("rome").parse().unwrap();
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    villain.wait_for_session(rome);
    let stolen = Stolen::from(&fleet, "rome");
    let waiting = fleet.json(&["send", "ping", "--agent", "oslo"]);

    let leaked = fleet.keys(&["cert", "list"]).ok().json()[0]["key_id"].as_str().unwrap().to_owned();
    let changed = fleet.keys(&["cert", "revoke", &leaked[..12]]).ok().json();
    assert_ne!(changed["signing_key_id"], leaked.as_str());
    agent.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    villain.deliver(rome, stolen.ping(rome, &stolen.signing, |_| {}));
    agent.wait_for("refused in silence", |said| said["code"] == "certificate_revoked");
    let waiting = waiting["command_id"].as_str().unwrap();
    fleet.server().wait_for("command cancelled: the key that signed it was revoked", |said| {
        said["command.id"] == waiting
    });
    assert_eq!(fleet.json(&["commands", "show", waiting])["cancelled"], 1);
    assert_eq!(fleet.json(&["send", "ping", "--agent", "rome", "--wait"])["done"], 1);
    assert_eq!(standing(&fleet), ["revoked", "active"]);
    // A thief who is the only one to greet an agent that was away gets as far as the old bundle reaches, and
    // no farther once the agent met the server.
    drop(villain);
    fleet.kill_server();
    fleet.start_server(None);
    fleet.add_context();
    let _oslo = fleet.start_agent("oslo", None);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
}

#[test]
fn an_agent_away_across_three_rotations_and_a_new_authority_comes_back_and_obeys() {
    let fleet = Fleet::new(Build::Testing);
    let away = fleet.agent("rome");
    assert!(away.stop().success());
    let waiting = fleet.json(&["send", "ping", "--all"]);
    for _ in 0..3 {
        let _made = fleet.keys(&["cert", "create", "--overlap", "0s"]).ok();
    }
    let (old, new) = (fleet.path("server/authority.key.age"), fleet.path("new.key.age"));
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    let secret = fleet.path("passphrase");
    let program = "writ-server-testing";
    let _made =
        fleet.run(program, &["authority", "create", new, "--passphrase-file", secret.to_str().unwrap()]).ok();
    let alone = fleet.keys(&["authority", "rotate", "--to", new]);
    assert!(alone.code == 1 && alone.stderr.contains("not signed by enough authorities"), "{alone:?}");
    let _rotated =
        fleet.keys(&["authority", "rotate", "--to", new, "--authority", old, "--authority", new]).ok();
    in_force(&fleet, 5);
    let by_the_old = fleet.keys(&["cert", "create"]);
    assert!(by_the_old.code == 1 && by_the_old.stderr.contains("not signed by enough"), "{by_the_old:?}");

    let behind = fleet.writ(&["--output", "json", "trust", "converge"]).failed(6).json();
    assert_eq!((&behind["newest"], &behind["obeying"]), (&0.into(), &0.into()), "{behind}");
    assert_eq!(
        (&behind["behind"][0]["agent_name"], &behind["behind"][0]["reason"]),
        (&"rome".into(), &"unknown_key".into())
    );
    let csv = fleet.path("mismatched.csv");
    let listed = fleet.keys(&["cert", "list", "--mismatched", "--csv", csv.to_str().unwrap()]).ok().json();
    assert_eq!((&listed[0]["agent_name"], &listed[0]["address"]), (&"rome".into(), &"127.0.0.1".into()));
    let written = std::fs::read_to_string(csv).unwrap();
    assert!(written.starts_with("\"agent_id\",") && written.contains("\"unknown_key\""), "{written}");

    let rome = fleet.start_agent("rome", None);
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 5);
    let watched = fleet.writ(&["--output", "json", "trust", "converge", "--watch", "--timeout", "1m"]).ok();
    assert_eq!(
        (&watched.json()["newest"], &watched.json()["obeying"]),
        (&1.into(), &1.into()),
        "{watched:?}"
    );
    assert_eq!(fleet.json(&["trust", "bundles"]).as_array().unwrap().len(), 5);
    assert_eq!(fleet.json(&["trust", "certificates"])[3]["standing"], "active");
    // Signed three times over while it waited, by keys that ended meanwhile, and obeyed by the last.
    let id = waiting["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    assert_eq!(fleet.json(&["commands", "show", id])["done"], 1);
    let _sixth = fleet.keys(&["cert", "create", "--authority", new]).ok();
    in_force(&fleet, 6);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn one_of_three_authorities_is_lost_and_the_other_two_replace_it() {
    let fleet = Fleet::new(Build::Testing);
    let _rome = fleet.agent("rome");
    let secret = fleet.path("passphrase");
    let secret = secret.to_str().unwrap();
    let keys: Vec<_> = ["a", "b", "c", "d"].map(|name| fleet.path(name).to_str().unwrap().to_owned()).into();
    for key in &keys {
        let _made =
            fleet.run("writ-server-testing", &["authority", "create", key, "--passphrase-file", secret]).ok();
    }
    let old = fleet.path("server/authority.key.age");
    let members = |keys: &[String]| {
        keys.iter().flat_map(|key| ["--member".to_owned(), key.clone()]).collect::<Vec<_>>()
    };
    let signers = |keys: &[&str]| {
        keys.iter().flat_map(|key| ["--authority".to_owned(), (*key).to_owned()]).collect::<Vec<_>>()
    };
    let split = |members: Vec<String>, signers: Vec<String>| {
        let all =
            [vec!["authority".into(), "split".into(), "--threshold".into(), "2".into()], members, signers]
                .concat();
        fleet.keys(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let _split = split(members(&keys[..3]), signers(&[old.to_str().unwrap(), &keys[0], &keys[1]])).ok();
    in_force(&fleet, 2);
    // c is lost. One of the others alone is not enough; two are, and d takes its place.
    let replaced = [keys[0].clone(), keys[1].clone(), keys[3].clone()];
    let alone = split(members(&replaced), signers(&[&keys[0]]));
    assert!(alone.code == 1 && alone.stderr.contains("1 distinct keys signed, 2 are needed"), "{alone:?}");
    let _replaced = split(members(&replaced), signers(&[&keys[0], &keys[1]])).ok();
    in_force(&fleet, 3);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    assert_eq!(fleet.json(&["agents", "show", "rome"])["bundle_version"], 3);
}

#[test]
fn what_an_agent_only_says_it_holds_keeps_nobody_from_minting() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let _hostile = HostileAgent::with_proof(&fleet, "rome", |proof| {
        proof.bundle_version = 999;
        proof.bundle_digest = vec![9; 32].into();
    })
    .unwrap();
    let _made = fleet.keys(&["cert", "create"]).ok();
    in_force(&fleet, 2);
}

#[test]
fn two_servers_that_minted_at_the_same_time_are_joined_by_one_bundle_their_agents_follow() {
    let mut fleet = Fleet::new(Build::Testing);
    let (rome, oslo) = (fleet.agent("rome"), fleet.agent("oslo"));
    // The state both begin with; then each mints a bundle 2 of its own. oslo follows the one, rome the other.
    fleet.kill_server();
    let copied = fleet.run_tool(
        "cp",
        &["-a", fleet.path("server").to_str().unwrap(), fleet.path("fork").to_str().unwrap()],
    );
    assert_eq!(copied.code, 0, "{copied:?}");
    assert!(rome.stop().success());
    let _theirs = fleet.keys(&["cert", "create", "--overlap", "0s"]).ok();
    fleet.start_server(None);
    oslo.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    assert!(oslo.stop().success());
    fleet.kill_server();
    std::fs::rename(fleet.path("server"), fleet.path("other")).unwrap();
    std::fs::rename(fleet.path("fork"), fleet.path("server")).unwrap();
    let _ours = fleet.keys(&["cert", "create", "--overlap", "0s"]).ok();
    fleet.start_server(None);
    fleet.add_context();
    let rome = fleet.start_agent("rome", None);
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);

    let nobody = fleet.keys(&["authority", "repair"]).failed(1);
    assert!(nobody.stderr.contains("no agent handed over another chain"), "{nobody:?}");
    let oslo = fleet.try_agent("oslo", None);
    let said = fleet
        .server()
        .wait_for("an agent handed over trust bundles of another chain of this fleet: two servers minted at the same time", |_| true);
    let refused = fleet.keys(&["cert", "create"]).failed(1);
    let despite = format!("--despite {}", said["bundle.digest"].as_str().unwrap());
    assert!(refused.stderr.contains(&despite), "{refused:?}");
    let chain = fleet.path("oslo/trust.chain");
    let by_file = ["authority", "repair", "--dry-run", "--fork", chain.to_str().unwrap()];
    let _also = fleet.keys(&by_file).ok();
    let _joined = fleet.keys(&["authority", "repair"]).ok();
    in_force(&fleet, 3);
    oslo.wait_for("trust bundle accepted", |said| said["bundle.version"] == 3);
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 3);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
}
