//! More than one server: they share a certificate, or have one each; agents go from one to the other and
//! back, and a thief does not keep them.

use integration_tests::fleet::{Build, Fleet};
use integration_tests::intruder::Intruder;
use integration_tests::stolen::{Stolen, now};
use writ_proto::v1::{self as proto, command::Action};
use writ_protocol::id::AgentId;

#[test]
fn agents_obey_two_servers_that_share_a_certificate_and_go_from_one_to_the_other_and_back() {
    let mut first = Fleet::new(Build::Testing);
    let rome = first.agent("rome");
    let second = first.further_server(&first.backup());

    // A server that does not answer is not kept; one that does is, and is gone to when the session ends.
    let nobody = first.writ(&["send", "settings", "--endpoint", "localhost:1", "--all", "--wait"]);
    assert!(nobody.code == 1 && nobody.stdout.contains("the settings of before are in force"), "{nobody:?}");
    let _moved = first.json(&["send", "settings", "--endpoint", &second.endpoint(), "--all", "--wait"]);
    first.kill_server();
    rome.wait_for("session began", |said| said["endpoint"] == second.endpoint());
    second.server().wait_for("known again by its identity record", |said| said["name"] == "rome");
    assert_eq!(second.json(&["send", "ping", "--all", "--wait"])["done"], 1);

    let _back = second.json(&["send", "settings", "--as-installed", "--all", "--wait"]);
    first.start_server(None);
    first.add_context();
    let before = rome.count("session began");
    second.road.cut();
    rome.wait_for_count("session began", before + 1);
    assert_eq!(first.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    assert!(
        first.json(&["alerts"]).as_array().unwrap().is_empty(),
        "neither server took the other for a thief"
    );
}

#[test]
fn servers_with_a_certificate_each_command_their_own_realm_and_are_refused_by_the_others_agents() {
    let rome = Fleet::new(Build::Testing);
    let sealed = rome.path("paris.age").to_str().unwrap().to_owned();
    let ours = rome.keys(&["cert", "create", "--realm", "default", "--for", &sealed]);
    assert!(ours.code == 1 && ours.stderr.contains("this server commands default itself"), "{ours:?}");
    let alone = rome.keys(&["cert", "create", "--realm", "paris"]);
    assert!(
        alone.code == 1 && alone.stderr.contains("Give it a server of its own (--for FILE)"),
        "{alone:?}"
    );
    let _made = rome.keys(&["cert", "create", "--realm", "paris", "--for", &sealed]).ok();
    rome.server().wait_for("trust bundle in force", |said| said["bundle.version"] == 2);
    let listed = rome.keys(&["cert", "list"]).ok().json();
    assert_eq!(
        (&listed[1]["realms"][0], &listed[1]["held_here"], &listed[1]["standing"]),
        (&"paris".into(), &false.into(), &"active".into())
    );
    let paris = rome.further_server(&sealed);
    let held = paris.keys(&["cert", "list"]).ok().json();
    assert_eq!(
        (&held[0]["held_here"], &held[1]["held_here"]),
        (&false.into(), &true.into()),
        "its own key alone"
    );
    assert!(!paris.path("server/authority.key.age").exists());

    let _roman = rome.agent("roman");
    let token = paris.path("token");
    let _token = paris
        .writ(&["enroll", "token", "create", "--realm", "paris", "--token-file", token.to_str().unwrap()])
        .ok();
    // Its token names where the bundle says servers are; this one stands elsewhere, so the road is led there
    // meanwhile.
    rome.road.lead_to(paris.road.destination());
    let _enrolled = paris.enroll("parisian", &token).ok();
    let parisian = paris.start_agent("parisian", None);
    assert_eq!(paris.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    // Led to the other server, both refuse: the key is in their bundle, and not for their realm.
    parisian.wait_for("session began", |_| true);
    let roman = rome.json(&["agents", "show", "roman"]);
    assert_eq!(roman["realm"], "default");
    drop(parisian);
    rome.road.lead_to(rome_port(&rome));
    let parisian = paris.try_agent("parisian", None);
    let refused = parisian.wait_for("no session", |_| true);
    assert!(refused["error"].as_str().unwrap().contains("wrong_realm"), "{refused}");
}

#[test]
fn the_leaked_key_of_a_further_server_is_revoked_without_harm_to_this_one() {
    let rome = Fleet::new(Build::Testing);
    let sealed = rome.path("paris.age").to_str().unwrap().to_owned();
    let made = rome.keys(&["cert", "create", "--realm", "paris", "--for", &sealed]).ok().json();
    let listed = rome.keys(&["cert", "list"]).ok().json();
    let (ours, theirs) = (listed[0]["key_id"].as_str().unwrap(), listed[1]["key_id"].as_str().unwrap());
    assert_eq!((&made["signing_key_id"], &made["backup"]), (&ours.into(), &sealed.as_str().into()));
    let _roman = rome.agent("roman");
    let revoked = rome.keys(&["cert", "revoke", theirs]).ok().json();
    assert_eq!(revoked["signing_key_id"], ours);
    rome.server().wait_for("trust bundle in force", |said| said["bundle.version"] == 3);
    assert_eq!(rome.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    assert_eq!(
        rome.keys(&["cert", "list"]).ok().json().as_array().unwrap().len(),
        2,
        "none was made for it here"
    );
    assert_eq!(rome.keys(&["doctor"]).ok().json()["verdict"], "nothing is wrong");
    // Its agents get another server of theirs.
    let again = rome.path("again.age").to_str().unwrap().to_owned();
    let _made = rome.keys(&["cert", "create", "--realm", "paris", "--for", &again]).ok();
    // The file proves nothing about this server.
    let not_ours = rome.keys(&["cert", "prove-backup", &again]);
    assert!(not_ours.code == 1 && not_ours.stderr.contains("by which this server signs"), "{not_ours:?}");
}

#[test]
fn a_server_that_moves_carries_its_new_name_before_agents_look_there() {
    let fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    let here = fleet.endpoint();
    let moved = ["authority", "endpoints", "--endpoint", &here, "--endpoint", "127.0.0.2:7443"];
    let _made = fleet.keys(&moved).ok();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    fleet.server().wait_for("TLS leaf replaced", |_| true);
    assert_eq!(fleet.keys(&["doctor"]).ok().json()["verdict"], "nothing is wrong");
    // A name that leads nowhere is warned of; it may lead somewhere tomorrow.
    let lost = [&moved[..5], &["nobody.invalid:7443"]].concat();
    let said = fleet.keys(&lost).ok();
    assert!(said.stderr.contains("nobody.invalid:7443: from here, now, it leads nowhere"), "{said:?}");
    let nonsense = fleet.keys(&["authority", "endpoints", "--endpoint", "https://new.example"]);
    assert!(nonsense.code == 64 && nonsense.stderr.contains("is not host:port"), "{nonsense:?}");
}

/// The port of the server itself.
fn rome_port(fleet: &Fleet) -> u16 {
    let serving = fleet.server().wait_for("serving", |_| true);
    serving["agents"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn a_thief_of_the_signing_key_who_sends_agents_elsewhere_does_not_keep_them() {
    let mut fleet = Fleet::new(Build::Testing);
    fleet.link_config = "rendezvous_every = \"1s\"\n".to_owned();
    let rome = fleet.agent("rome");
    let id: AgentId = fleet.agent_id("rome").parse().unwrap();
    // The thief has a copy of everything on the server's disk, and a server of that.
    let thief = fleet.further_server(&fleet.backup());
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    villain.wait_for_session(id);
    let stolen = Stolen::from(&fleet, "rome");
    let send = |revision: u64| {
        let settings = proto::ApplySettings {
            revision,
            endpoints: vec![thief.endpoint()],
            ..proto::ApplySettings::default()
        };
        let (command, tree) = stolen.order(&[id], Action::ApplySettings(settings));
        let envelope = integration_tests::forge::sealed("command", &command, &stolen.signing);
        villain.deliver(id, integration_tests::stolen::delivery(envelope, &tree, 0));
    };
    // Settings that nothing sent later could replace are refused.
    send(u64::MAX);
    rome.wait_for("command refused", |said| said["code"] == "invalid_parameters");
    send(now().as_millis());
    rome.wait_for("settings kept", |_| true);
    drop(villain);
    fleet.kill_server();
    rome.wait_for("session began", |said| said["endpoint"] == thief.endpoint());
    fleet.start_server(None);
    fleet.add_context();

    let leaked = fleet.json(&["server"])["signing_key_id"].as_str().unwrap().to_owned();
    let _revoked = fleet.keys(&["cert", "revoke", &leaked[..16]]).ok();
    rome.wait_for("a rendezvous endpoint has a newer trust bundle", |_| true);
    rome.wait_for("session began", |said| said["endpoint"] == fleet.endpoint());
    assert_eq!(fleet.json(&["send", "settings", "--as-installed", "--all", "--wait"])["done"], 1);
    let refused = rome.lines("no session");
    assert!(
        refused.iter().any(|said| said["error"].as_str().unwrap().contains("certificate_revoked")),
        "{refused:?}"
    );
}
