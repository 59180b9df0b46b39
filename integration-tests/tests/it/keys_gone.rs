//! What is left when backups are old or gone, and what a thief of an old key can still do.

use std::fs;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::intruder::Intruder;
use integration_tests::stolen::Stolen;

const DAY: i64 = 86_400;

#[test]
fn with_the_authority_alone_a_server_is_rebuilt_from_the_chain_any_agent_holds() {
    let mut fleet = Fleet::new(Build::Testing);
    let (rome, _oslo) = (fleet.agent("rome"), fleet.agent("oslo"));
    // A chain that is not the newest: what it lacks, the agents hand back.
    let chain = fleet.path("a-chain");
    fs::copy(fleet.path("rome/trust.chain"), &chain).unwrap();
    let _made = fleet.keys(&["cert", "create", "--overlap", "0s"]).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    let authority = fleet.path("authority.age");
    fs::copy(fleet.path("server/authority.key.age"), &authority).unwrap();
    fleet.lose_the_server();

    let rebuilt = fleet.keys(&["authority", "rebuild", chain.to_str().unwrap()]).ok();
    assert_eq!(rebuilt.json()["bundle_version"], 1);
    let twice = fleet.keys(&["authority", "rebuild", chain.to_str().unwrap()]);
    assert!(twice.code == 1 && twice.stderr.contains("a fleet lives here, with its database"), "{twice:?}");
    fleet.start_again();
    fleet
        .server()
        .wait_for("trust bundle in force, but nothing can be signed", |said| said["bundle.version"] == 2);
    let shown = fleet.writ(&["server"]).ok().stdout;
    assert!(shown.contains("nothing can be signed; on the server: writ-server doctor"), "{shown}");
    let head = fleet.json(&["server"])["chain_digest"].as_str().unwrap().to_owned();
    let early = fleet.keys(&["authority", "channel", "--authority", authority.to_str().unwrap()]);
    assert!(early.code == 1 && early.stderr.contains("writ-server authority confirm"), "{early:?}");
    let _confirmed = fleet.keys(&["authority", "confirm", &head]).ok();
    let by = ["--authority", authority.to_str().unwrap()];
    let _channel = fleet.keys(&[["authority", "channel"].as_slice(), &by].concat()).ok();
    let _made = fleet.keys(&[["cert", "create"].as_slice(), &by].concat()).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 4);
    fleet.server().wait_for_count("known again by its identity record", 2);
    fleet.add_context();
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
}

#[test]
fn with_neither_backup_nor_authority_the_agents_that_obey_nobody_are_counted_listed_and_the_cure_is_named() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    // A fleet is made where one lives only if that one is given up by its name.
    let in_use = fleet.init_with(&["--replace-fleet", "acme"]);
    assert!(in_use.code == 1 && in_use.stderr.contains("another process"), "{in_use:?}");
    fleet.kill_server();
    let refused = fleet.init();
    assert!(refused.code == 1 && refused.stderr.contains("--replace-fleet acme"), "{refused:?}");
    let other = fleet.init_with(&["--replace-fleet", "acne"]);
    assert!(other.code == 1 && other.stderr.contains("--replace-fleet acme"), "{other:?}");
    let many: Vec<_> =
        (0..9).flat_map(|number| ["--endpoint".to_owned(), format!("h{number}.example:1")]).collect();
    let many: Vec<_> =
        ["--replace-fleet", "acme"].into_iter().chain(many.iter().map(String::as_str)).collect();
    let impossible = fleet.init_with(&many);
    assert!(impossible.code == 64 && impossible.stderr.contains("must hold 1 to 8"), "{impossible:?}");
    assert!(fleet.path("server/writ.db").exists(), "nothing was moved for what cannot be made");
    let _made = fleet.init_with(&["--replace-fleet", "acme"]).ok();
    let aside = fs::read_dir(fleet.path("server")).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.filter(|path| path.to_str().unwrap().contains("replaced-")).last().unwrap();
    assert!(aside.join("writ.db").exists() && aside.join("authority.key.age").exists(), "nothing is lost");
    fleet.start_again();

    fleet.server().wait_for("an agent of another chain asks here; it obeys nobody on this server", |_| true);
    rome.wait_for("the channel cannot be verified: asking for trust bundles alone", |_| true);
    let seen = fleet.writ(&["--output", "json", "trust", "converge"]).failed(6).json();
    assert_eq!(
        (&seen["strangers"][0]["address"], &seen["strangers"][0]["bundle_version"]),
        (&"127.0.0.1".into(), &1.into()),
        "{seen}"
    );
    let said = fleet.writ(&["trust", "converge"]).failed(6).stdout;
    assert!(
        said.contains("1 addresses ask for the chain of another fleet") && said.contains("cert restore"),
        "{said}"
    );
    assert_eq!(rome.count("command admitted"), 0);
}

#[test]
fn keys_without_their_database_are_not_given_up_by_mistake() {
    let mut fleet = Fleet::new(Build::Testing);
    fleet.kill_server();
    fs::remove_file(fleet.path("server/writ.db")).unwrap();
    let refused = fleet.init();
    assert!(refused.code == 1 && refused.stderr.contains("keys of a fleet lie here (`acme`)"), "{refused:?}");
    let _made = fleet.init_with(&["--replace-fleet", "acme"]).ok();
}

#[test]
fn a_database_put_back_to_an_earlier_state_mints_nothing_over_what_agents_hold() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    fleet.kill_server();
    let parts = ["writ.db", "writ.db-wal", "writ.db-shm"];
    for part in parts {
        fs::copy(fleet.path("server").join(part), fleet.path(part)).unwrap();
    }
    fleet.start_again();
    let _made = fleet.keys(&["cert", "create"]).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    let _late = fleet.agent("oslo");
    fleet.kill_server();
    for part in parts {
        fs::copy(fleet.path(part), fleet.path("server").join(part)).unwrap();
    }
    drop(rome);
    let refused = fleet.keys(&["cert", "create"]);
    assert!(refused.code == 1 && refused.stderr.contains("an earlier database"), "{refused:?}");
    assert!(refused.stderr.contains("writ-server authority confirm"), "{refused:?}");
    fleet.start_again();
    // The agents hand the bundle back, and those enrolled since show their records.
    let _rome = fleet.start_agent("rome", None);
    fleet.server().wait_for("trust bundle in force", |said| said["bundle.version"] == 2);
    fleet.server().wait_for("known again by its identity record", |said| said["name"] == "oslo");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
}

#[test]
fn a_server_whose_certificate_expired_while_it_was_off_is_mended_by_one_bundle() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    fleet.restart_server_at(3 * 365 * DAY + DAY);
    fleet.server().wait_for("nothing can be signed", |_| true);
    let ended = "the signing certificate ends soon, or has ended; make the next one: writ-server cert create";
    fleet.server().wait_for(ended, |said| said["days"] == 0);
    // The operator's clock is the one that is wrong; the TLS leaf was renewed at the server's time.
    let said = fleet.writ(&["server"]);
    assert!(said.code != 0 && said.stderr.contains("the certificate there begins at 2"), "{said:?}");
    assert!(said.stderr.contains("this machine's clock says 2"), "{said:?}");
    assert!(!said.stderr.contains("--ca"), "{said:?}");
    let doctor = fleet.keys(&["doctor"]).failed(1).json();
    let verdict = doctor["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("signing:") && verdict.contains("is retired since"), "{verdict}");
    let _mended = fleet.keys(&["cert", "create"]).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    rome.wait_for_count("session began", 2);
}

#[test]
fn a_fleet_whose_server_ran_ahead_of_time_is_brought_back_by_one_bundle() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    fleet.restart_server_at(2 * 3600);
    rome.wait_for_count("session began", 2);
    fleet.server_flags = vec!["--accept-clock".to_owned()];
    fleet.restart_server_at(0);
    rome.wait_for("refused in silence", |said| said["code"] == "time_went_back");
    let _reset = fleet.keys(&["authority", "reset-floor"]).ok();
    rome.wait_for_count("session began", 3);
    fleet.add_context();
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn the_thief_of_a_retired_key_who_turns_time_back_is_not_believed() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    let mut thief = fleet.further_server(&fleet.backup());
    let _rotated = fleet.keys(&["cert", "create", "--overlap", "1h"]).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    fleet.restart_server_at(2 * 3600);
    rome.wait_for_count("session began", 2);
    // At a time at which its key still counted.
    fleet.road.lead_to(thief.road.destination());
    rome.wait_for("refused in silence", |said| said["code"] == "time_went_back");
    // At the true time its own server would not sign any more; one that does not care is refused for the
    // date.
    thief.kill_server();
    assert_eq!(rome.count("session began"), 2);
}

#[test]
fn an_agent_that_was_away_when_a_key_was_revoked_refuses_it_after_one_contact() {
    let mut fleet = Fleet::new(Build::Testing);
    let oslo = fleet.agent("oslo");
    let id = fleet.agent_id("oslo").parse().unwrap();
    let stolen = Stolen::from(&fleet, "oslo");
    assert!(oslo.stop().success());
    let leaked = fleet.json(&["server"])["signing_key_id"].as_str().unwrap().to_owned();
    let _revoked = fleet.keys(&["cert", "revoke", &leaked[..16]]).ok();
    fleet.server().wait_for("trust bundle in force", |said| said["bundle.version"] == 2);
    let oslo = fleet.start_agent("oslo", None);
    oslo.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    villain.wait_for_session(id);
    villain.deliver(id, stolen.ping(id, &stolen.signing, |_| {}));
    oslo.wait_for("refused in silence", |said| said["code"] == "certificate_revoked");
    drop(villain);
    fleet.kill_server();
    // A retired key, and one no bundle lists any more, can be revoked too: nothing it vouched for counts from
    // then on.
    let unknown = fleet.keys(&["cert", "revoke", "ffffffffffff"]);
    assert!(
        unknown.code == 1 && unknown.stderr.contains("no certificate's key id begins with"),
        "{unknown:?}"
    );
}
