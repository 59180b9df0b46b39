//! The upkeep of a manager: another authority, clear text, a certificate that ended meanwhile, a server that
//! was copied, more names.

use std::fs;
use std::time::Duration;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use serde_json::json;
use writ_common::keys::pem;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::TlsAuthority;

#[test]
fn an_authority_is_replaced_with_an_overlap_and_after_it_the_old_one_is_nobodys() {
    let mut fleet = Fleet::new(Build::Testing);
    let mut manager = Manager::new(&fleet);
    let _status = fleet.registered(&manager);

    // The next authority goes to the servers first.
    let next = TlsAuthority::create("next", SystemClock::new().wall()).unwrap();
    let file = fleet.path("next-ca.pem");
    fs::write(&file, pem::encode("CERTIFICATE", &next.certificate).as_bytes()).unwrap();
    let shown = fleet.settings(&["--ca", file.to_str().unwrap(), "--ca-overlap", "1h"]).ok().json();
    assert_eq!(shown["authorities"].as_array().unwrap().len(), 2, "{shown:#}");
    let _sent = fleet.json(&["manager", "update"]);
    let (legs, went_well) = fleet.legs(&[]);
    assert!(went_well, "the old one is accepted during the overlap: {legs:#?}");

    // Then the manager follows; both are met.
    manager.take_authority(&next);
    manager.kill();
    manager.start(None);
    let (legs, went_well) = fleet.legs(&[]);
    assert!(went_well, "the new one is accepted: {legs:#?}");

    // After the overlap the old one alone is somebody else's.
    fleet.restart_server_at(2 * 3600);
    fleet.add_context();
    let authorities = fleet.json(&["manager", "settings", "show"])["authorities"].clone();
    assert_eq!(authorities.as_array().unwrap().len(), 2, "{authorities:#}");
    let two_hours = Duration::from_secs(2 * 3600);
    manager.restart_at(i64::try_from(two_hours.as_secs()).unwrap());
    let (legs, went_well) = fleet.legs(&[]);
    assert!(went_well, "{legs:#?}");
    manager.give_back_authority();
    manager.kill();
    manager.start(None);
    let (legs, went_well) = fleet.legs(&[]);
    assert!(!went_well, "{legs:#?}");
    assert_eq!(integration_tests::manager::failed(&legs)["leg"], "certificate_trust", "{legs:#?}");
}

#[test]
fn in_clear_text_the_seal_still_holds_and_it_is_audited() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let port = manager.clear_port.to_string();
    let to = [
        "--address",
        "localhost",
        "--port",
        &port,
        "--ca",
        &manager.ca(),
        "--clear-text-i-know-what-i-do",
        "true",
    ];
    let _set = fleet.settings(&to).ok();
    fleet
        .server()
        .wait_for("the line to the Control Manager is set to clear text", |said| said["actor"] == "admin");
    let (legs, went_well) = fleet.legs(&[]);
    assert!(went_well, "{legs:#?}");
    let tls = legs.iter().find(|leg| leg["leg"] == "tls").unwrap();
    assert_eq!((&tls["outcome"], &tls["detail"]), (&"skipped".into(), &"clear text is set".into()));
    let status = fleet.json(&["manager", "register", "--update-source", "default"]);
    assert_eq!(
        (&status["state"], &status["certificate_authorization"]),
        (&"waiting".into(), &true.into()),
        "{status}"
    );
    let token = manager.token(&fleet);
    let refused = fleet.settings(&["--registration-token-file", &token]).failed(7);
    assert!(refused.stderr.contains("must be empty in clear text"), "{refused:?}");
    assert_eq!(fleet.cm(&["entities", "manager"])["entities_waiting"], json!(1));
}

#[test]
fn a_manager_that_was_off_for_longer_than_its_certificate_lives_or_was_killed_while_it_renewed_it_starts() {
    let fleet = Fleet::new(Build::Testing);
    let mut manager = Manager::new(&fleet);
    let days = |days: i64| days * 86_400;
    let first = fs::read(manager.path("tls.pem")).unwrap();
    manager.restart_at(days(400));
    let second = fs::read(manager.path("tls.pem")).unwrap();
    assert_ne!(first, second, "it was renewed at the start");
    // A key beside another one's certificate.
    fs::copy(manager.path("signing.key"), manager.path("tls.key")).unwrap();
    manager.restart_at(days(400));
    assert_ne!(second, fs::read(manager.path("tls.pem")).unwrap());
}

#[test]
fn a_copied_server_is_found_out() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let _status = fleet.registered(&manager);
    let _copy = fleet.copied_server();
    manager.daemon().wait_for("entity rejected", |said| said["code"] == "replayed");
}

#[test]
fn names_are_added_to_a_manager_that_was_made_without_them() {
    let fleet = Fleet::new(Build::Shipped);
    let mut manager = Manager::new(&fleet);
    manager.introduce(&fleet);
    let folder = manager.path("");
    let names = ["names", "--tls-name", "127.0.0.2", "--data-dir", folder.to_str().unwrap()];
    let (legs, went_well) = fleet.legs(&["--address", "127.0.0.2"]);
    assert!(!went_well, "{legs:#?}");
    let failed = integration_tests::manager::failed(&legs);
    assert_eq!(failed["leg"], "host_name", "{failed}");
    assert!(failed["advice"].as_str().unwrap().contains("writ-control-manager names"), "{failed}");
    let _added = fleet.run("writ-control-manager", &names).ok();
    manager.kill();
    manager.start(None);
    let (legs, went_well) = fleet.legs(&["--address", "127.0.0.2"]);
    assert!(went_well, "{legs:#?}");
}
