//! Power that fails in the middle of a change of keys: afterwards it is done, or not begun.

use std::fs;

use integration_tests::fleet::{Build, Fleet};

fn in_force(fleet: &Fleet, version: u64) {
    fleet.server().wait_for("trust bundle in force", |said| said["bundle.version"] == version);
}

#[test]
fn a_change_of_keys_killed_at_any_step_is_done_or_not_begun() {
    for step in ["file_beside", "keys_written", "backup_written", "bundle_published"] {
        let fleet = Fleet::new(Build::Testing);
        let rome = fleet.agent("rome");
        fleet.keys_killed_at(step, &["cert", "create"]);
        let published = u64::from(step == "bundle_published");
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1, "{step}");
        let _again = fleet.keys(&["cert", "create"]).ok();
        in_force(&fleet, 2 + published);
        rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2 + published);
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1, "{step}");
    }
}

#[test]
fn a_new_authority_of_the_channel_killed_half_way_is_mended_by_doing_it_again() {
    for step in ["backup_written", "bundle_published"] {
        let mut fleet = Fleet::new(Build::Testing);
        let rome = fleet.agent("rome");
        fleet.keys_killed_at(step, &["authority", "channel"]);
        let published = u64::from(step == "bundle_published");
        let _again = fleet.keys(&["authority", "channel"]).ok();
        in_force(&fleet, 2 + published);
        rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2 + published);
        fleet.kill_server();
        fleet.start_again();
        rome.wait_for_count("session began", 2);
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1, "{step}");
    }
}

#[test]
fn a_backup_killed_before_its_name_is_there_is_made_again() {
    let fleet = Fleet::new(Build::Testing);
    let file = fleet.path("backup.age");
    fleet.keys_killed_at("file_beside", &["cert", "backup", file.to_str().unwrap()]);
    assert!(!file.exists(), "half a backup never has the final name");
    let again = fleet.backup();
    let _proven = fleet.keys(&["cert", "prove-backup", &again]).ok();
}

#[test]
fn a_restore_killed_at_any_step_is_run_again() {
    for (step, says) in
        [("file_beside", "there is no fleet here"), ("files_restored", "but its database writ.db is gone")]
    {
        let mut fleet = Fleet::new(Build::Testing);
        let rome = fleet.agent("rome");
        let file = fleet.backup();
        fleet.lose_the_server();
        fleet.keys_killed_at(step, &["cert", "restore", &file]);
        let unfinished = fleet.try_server().wait().1;
        assert!(unfinished.contains(says), "{step}: {unfinished}");
        if step == "files_restored" {
            let init = fleet.init();
            assert!(init.code == 1 && init.stderr.contains("keys of a fleet lie here"), "{init:?}");
        }
        let _restored = fleet.keys(&["cert", "restore", &file]).ok();
        fleet.start_again();
        rome.wait_for_count("session began", 2);
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    }
}

#[test]
fn the_file_of_a_further_server_is_not_there_before_its_bundle_is_in_force() {
    let fleet = Fleet::new(Build::Testing);
    let file = fleet.path("paris.age");
    let create = ["cert", "create", "--realm", "paris", "--for", file.to_str().unwrap()];
    fleet.keys_killed_at("backup_written", &create);
    assert!(!file.exists(), "it would make a fork");
    let _made = fleet.keys(&create).ok();
    assert!(file.exists());
    assert!(!fleet.path("paris.age.unfinished").exists());
}

#[test]
fn a_backup_of_another_fleet_is_not_mixed_with_what_is_here() {
    let mut fleet = Fleet::new(Build::Testing);
    let file = fleet.backup();
    let other = Fleet::unmade(Build::Testing);
    let _made = other.init().ok();
    let foreign = other.keys(&["cert", "restore", &file]);
    assert!(
        foreign.code == 1 && foreign.stderr.contains("is of another one; nothing was changed"),
        "{foreign:?}"
    );
    fs::remove_file(other.path("server/writ.db")).unwrap();
    let mixed = other.keys(&["cert", "restore", &file]);
    assert!(mixed.code == 1 && mixed.stderr.contains("another one than in the backup"), "{mixed:?}");
    assert!(!other.path("server/writ.db").exists());
    // A host that was put back to an earlier state has the channel of before; the backup brings the present
    // one.
    fleet.kill_server();
    let earlier = fleet.run_tool(
        "cp",
        &["-a", fleet.path("server").to_str().unwrap(), fleet.path("earlier").to_str().unwrap()],
    );
    assert_eq!(earlier.code, 0);
    fleet.start_again();
    let rome = fleet.agent("rome");
    let _channel = fleet.keys(&["authority", "channel"]).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    fs::remove_file(&file).unwrap();
    let later = fleet.backup();
    fleet.lose_the_server();
    fs::rename(fleet.path("earlier"), fleet.path("server")).unwrap();
    let restored = fleet.keys(&["cert", "restore", &later]).ok();
    assert!(
        restored.json()["files"].as_array().unwrap().iter().any(|name| name == "tls.pem"),
        "{restored:?}"
    );
    fleet.start_again();
    fleet.server().wait_for("known again by its identity record", |said| said["name"] == "rome");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn an_agent_killed_at_any_step_of_taking_a_trust_bundle_has_the_old_one_or_the_new_one() {
    for step in ["trust_accepted", "file_beside", "trust_written"] {
        let fleet = Fleet::new(Build::Testing);
        drop(fleet.agent("rome"));
        let _made = fleet.keys(&["cert", "create"]).ok();
        in_force(&fleet, 2);
        // The status file is written first of all, before there is a line to a server.
        let stop = fleet.checkpoint(if step == "file_beside" { "trust_accepted" } else { step });
        let agent = fleet.try_agent("rome", Some(&stop));
        let held = stop.reached();
        agent.kill();
        drop(held);
        let (chain, copy) = (fleet.path("rome/trust.chain"), fleet.path("rome/trust.chain.last-good"));
        let (chain, copy) = (fs::read(chain).unwrap(), fs::read(copy).unwrap());
        assert_eq!(chain == copy, step != "trust_written", "{step}: only between the two files they differ");
        let rome = fleet.start_agent("rome", None);
        let accepted = usize::from(step != "trust_written");
        rome.wait_for_count("trust bundle accepted", accepted);
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    }
}

#[test]
fn a_damaged_trust_chain_is_replaced_by_its_last_good_copy_and_two_damaged_ones_are_trust_lost() {
    let fleet = Fleet::new(Build::Testing);
    drop(fleet.agent("rome"));
    let (chain, copy) = (fleet.path("rome/trust.chain"), fleet.path("rome/trust.chain.last-good"));
    let whole = fs::read(&chain).unwrap();
    for damaged in [&[][..], &whole[..whole.len() / 2], b"garbage"] {
        fs::write(&chain, damaged).unwrap();
        let rome = fleet.start_agent("rome", None);
        rome.wait_for("the trust chain is damaged; its last good copy counts", |_| true);
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
        drop(rome);
        fs::write(&copy, damaged).unwrap();
        let said = fleet.try_agent("rome", None).wait().1;
        assert!(said.contains("trust lost") && said.contains("obeys nobody"), "{said}");
        fs::write(&copy, &whole).unwrap();
    }
}
