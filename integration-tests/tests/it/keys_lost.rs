//! A server that lost its disk comes back from its backup, and no host is visited.

use std::fs;

use integration_tests::fleet::{Build, Fleet, Said};
use integration_tests::intruder::Intruder;
use integration_tests::stolen::now;

fn confirmed(fleet: &Fleet, restored: &Said) {
    let head = restored.json()["bundle_digest"].as_str().unwrap().to_owned();
    let _confirmed = fleet.keys(&["authority", "confirm", &head]).ok();
}

#[test]
fn a_server_made_anew_from_its_backup_is_obeyed_by_agents_that_notice_nothing() {
    let mut fleet = Fleet::new(Build::Testing);
    let (rome, _oslo) = (fleet.agent("rome"), fleet.agent("oslo"));
    let _removed = fleet.agent("lima");
    let _ = fleet.writ(&["agents", "remove", "lima"]).ok();
    let file = fleet.backup();
    let proven = fleet.keys(&["cert", "prove-backup", &file]).ok();
    assert_eq!(
        (&proven.json()["bundle_version"], &proven.json()["holds_authority"]),
        (&1.into(), &true.into())
    );
    fleet.lose_the_server();
    let restored = fleet.keys(&["cert", "restore", &file]).ok();
    let twice = fleet.keys(&["cert", "restore", &file]).ok();
    assert_eq!(twice.json()["files"].as_array().unwrap().len(), 0, "{twice:?}");
    fleet.start_again();
    fleet.server().wait_for_count("known again by its identity record", 2);
    rome.wait_for_count("session began", 2);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
    fleet.server().wait_for("removed before the backup was made", |_| true);
    assert_eq!(fleet.json(&["agents", "show", "rome"])["held"], "");
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty());
    // No bundle before somebody said that this is where the fleet stands.
    let early = fleet.keys(&["cert", "create"]);
    assert!(early.code == 1 && early.stderr.contains("writ-server authority confirm"), "{early:?}");
    confirmed(&fleet, &restored);
    let _made = fleet.keys(&["cert", "create"]).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
}

#[test]
fn agents_enrolled_under_a_key_that_was_revoked_are_known_to_a_server_made_anew_all_the_same() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    let away = fleet.agent("oslo");
    assert!(away.stop().success());
    let leaked = fleet.json(&["server"])["signing_key_id"].as_str().unwrap().to_owned();
    let _revoked = fleet.keys(&["cert", "revoke", &leaked[..16]]).ok();
    rome.wait_for("identity record renewed", |_| true);
    let oslo = fleet.start_agent("oslo", None);
    oslo.wait_for("identity record renewed", |_| true);
    let file = fleet.backup();
    fleet.lose_the_server();
    let _restored = fleet.keys(&["cert", "restore", &file]).ok();
    fleet.start_again();
    fleet.server().wait_for_count("known again by its identity record", 2);
    let done = fleet.json(&["send", "ping", "--all", "--wait"]);
    assert_eq!(done["done"], 2);
    // What they sign now is time-proven.
    let (evidence, id) = (fleet.path("evidence.json"), done["command_id"].as_str().unwrap());
    let _exported = fleet.writ(&["evidence", "export", id, "--file", evidence.to_str().unwrap()]).ok();
    let pin = fleet.json(&["trust", "bundles"]).as_array().unwrap().last().unwrap()["digest"].clone();
    let verified =
        fleet.writ(&["evidence", "verify", evidence.to_str().unwrap(), "--pin", pin.as_str().unwrap()]).ok();
    assert!(!verified.stdout.contains("not time-proven"), "{verified:?}");
}

#[test]
fn agents_that_are_ahead_of_an_old_backup_hand_back_what_it_lacks() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    let file = fleet.backup();
    // Keys that are only on the disk that will be lost, and agents that obey no others.
    for version in [2, 3] {
        let _made = fleet.keys(&["cert", "create", "--overlap", "0s"]).ok();
        rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == version);
    }
    fleet.lose_the_server();
    let _restored = fleet.keys(&["cert", "restore", &file]).ok();
    fleet.start_again();
    fleet
        .server()
        .wait_for("trust bundle in force, but nothing can be signed", |said| said["bundle.version"] == 3);
    let said = fleet.writ(&["send", "ping", "--all"]);
    assert!(said.code != 0, "{said:?}");
    let head = fleet.json(&["server"])["chain_digest"].as_str().unwrap().to_owned();
    let _confirmed = fleet.keys(&["authority", "confirm", &head]).ok();
    let _mended = fleet.keys(&["cert", "create"]).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 4);
    fleet.server().wait_for("known again by its identity record", |said| said["name"] == "rome");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn agents_come_back_by_a_bundle_alone_when_the_tls_key_and_its_authority_are_lost() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    fleet.kill_server();
    for name in ["tls-ca.key", "tls.key", "tls.pem", "admin-ca.pem"] {
        fs::remove_file(fleet.path("server").join(name)).unwrap();
    }
    let _made = fleet.keys(&["authority", "channel"]).ok();
    fleet.start_again();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    rome.wait_for_count("session began", 2);
    assert!(rome.count("the channel cannot be verified: asking for trust bundles alone") > 0);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn a_stranger_at_the_servers_address_hears_a_bundles_number_and_nothing_else() {
    let fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    let id = fleet.agent_id("rome").parse().unwrap();
    let stranger = Intruder::stranger(&fleet.road, &fleet.path("server"), now());
    rome.wait_for("no trust bundle from an unverified channel", |_| true);
    assert_eq!(stranger.trust_chain_calls()[0].version, 1);
    assert!(!stranger.knows(id), "no hello was said");
}

#[test]
fn a_backup_with_a_wrong_passphrase_cut_short_or_altered_anywhere_restores_nothing() {
    let mut fleet = Fleet::new(Build::Testing);
    let file = fleet.backup();
    fleet.lose_the_server();
    let whole = fs::read(&file).unwrap();
    let refused = |fleet: &Fleet, said: &str| {
        let answer = fleet.keys(&["cert", "restore", &file]);
        assert!(answer.code == 64 && answer.stderr.contains(said), "{answer:?}");
        assert!(!fleet.path("server").exists(), "nothing was made");
    };
    fleet.write_secret("passphrase", "correct horse battery stable\n");
    refused(&fleet, "the passphrase does not open this file");
    fleet.write_secret("passphrase", "correct horse battery staple\n");
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        refused(&fleet, "nothing was changed");
    }
    // The header that names the passphrase's salt, its end, and regions of the sealed content.
    for place in [5, 40, 120, 200, whole.len() / 3, whole.len() - 20] {
        let mut altered = whole.clone();
        altered[place] ^= 1;
        fs::write(&file, &altered).unwrap();
        refused(&fleet, "nothing was changed");
    }
    fs::write(&file, &whole).unwrap();
    let _restored = fleet.keys(&["cert", "restore", &file]).ok();
}
