//! Getting in: once for each use of a token, and never without one.

use std::os::unix::fs::PermissionsExt as _;

use integration_tests::fleet::{Build, Fleet};

#[test]
fn a_spent_token_lets_nobody_else_in_and_says_what_to_do() {
    let fleet = Fleet::new(Build::Testing);
    let token = fleet.token(1);
    let first = fleet.enroll("rome", &token).ok().json();
    let second = fleet.enroll("paris", &token);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains("unknown, spent or expired; create a new one"), "{second:?}");
    let agents = fleet.json(&["agents", "list"]);
    assert_eq!(agents.as_array().unwrap().len(), 1);
    assert_eq!(agents[0]["agent_id"], first["agent_id"]);
}

#[test]
fn a_token_for_two_lets_two_in_and_not_three() {
    let fleet = Fleet::new(Build::Testing);
    let token = fleet.token(2);
    let (one, two) = (fleet.enroll("rome", &token).ok().json(), fleet.enroll("paris", &token).ok().json());
    assert_ne!(one["agent_id"], two["agent_id"]);
    assert_eq!(fleet.enroll("oslo", &token).code, 1);
}

#[test]
fn damaged_foreign_and_readable_tokens_are_refused_each_in_its_own_words() {
    let fleet = Fleet::new(Build::Testing);
    let token = fleet.token(1);
    let text = std::fs::read_to_string(&token).unwrap();

    let cut = fleet.write_secret("cut", &text[..text.len() - 9]);
    let said = fleet.enroll("rome", &cut);
    assert!(said.code == 64 && said.stderr.contains("damaged or incomplete"), "{said:?}");

    let other = fleet.write_secret("other", "hunter2");
    let said = fleet.enroll("rome", &other);
    assert!(said.code == 64 && said.stderr.contains("must begin with `writ1.`"), "{said:?}");

    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = fleet.enroll("rome", &token);
    assert!(said.code == 64 && said.stderr.contains("chmod 600"), "{said:?}");

    // A token of another fleet leads to another TLS authority: it is not even sent.
    let stranger = Fleet::new(Build::Testing);
    let foreign = stranger.token(1);
    stranger.road.lead_to(fleet.road.destination());
    let said = fleet.enroll("rome", &foreign);
    assert!(said.code == 1 && said.stderr.contains("cannot verify"), "{said:?}");
    assert!(fleet.json(&["agents", "list"]).as_array().unwrap().is_empty());
}

#[test]
fn an_enrolled_host_is_not_enrolled_again_by_mistake() {
    let fleet = Fleet::new(Build::Testing);
    let token = fleet.token(2);
    let _first = fleet.enroll("rome", &token).ok();
    let again = fleet.enroll("rome", &token);
    assert!(again.code == 1 && again.stderr.contains("this agent is rome"), "{again:?}");
}

#[test]
fn an_enrolment_whose_answer_was_lost_goes_on_with_the_same_id() {
    let fleet = Fleet::new(Build::Testing);
    let token = fleet.token(1);
    let first = fleet.enroll("rome", &token).ok().json();
    // The answer never reached the disk: what is left is the key.
    for lost in ["identity.dsse", "trust.chain"] {
        std::fs::remove_file(fleet.path("rome").join(lost)).unwrap();
    }
    let again = fleet.enroll("rome", &token).ok().json();
    assert_eq!(first["agent_id"], again["agent_id"]);
    assert_eq!(fleet.json(&["agents", "list"]).as_array().unwrap().len(), 1);
    let _agent = fleet.start_agent("rome", None);
}

#[test]
fn a_realm_nobody_may_command_gets_no_token() {
    let fleet = Fleet::new(Build::Testing);
    let said = fleet.writ(&["enroll", "token", "create", "--realm", "plant-2"]);
    assert!(said.code == 7 && said.stderr.contains("would obey nobody"), "{said:?}");
}

#[test]
fn an_enrolment_killed_at_any_step_goes_on_with_the_same_key_and_id_and_one_use_of_the_token() {
    let fleet = Fleet::new(Build::Testing);
    for (name, step) in [("rome", "identity_key_made"), ("oslo", "trust_kept")] {
        let token = fleet.token(1);
        let stop = fleet.checkpoint(step);
        let (config, file) = (fleet.agent_config(name), token.to_str().unwrap().to_owned());
        let enroll = ["enroll", "--config", config.to_str().unwrap(), "--token-file", &file, "--name", name];
        let enrolling = fleet.spawn("writ-agent-testing", &enroll, &stop);
        let held = stop.reached();
        enrolling.kill();
        drop(held);
        let key = std::fs::read(fleet.path(name).join("identity.key")).unwrap();
        let _enrolled = fleet.enroll(name, &token).ok();
        assert_eq!(std::fs::read(fleet.path(name).join("identity.key")).unwrap(), key);
        let _agent = fleet.start_agent(name, None);
        let _obeys = fleet.writ(&["send", "ping", "--agent", name, "--wait"]).ok();
    }
    assert_eq!(fleet.json(&["agents", "list"]).as_array().unwrap().len(), 2);
    assert!(
        fleet.json(&["enroll", "token", "list"]).as_array().unwrap().iter().all(|token| token["used"] == 1)
    );
}

#[test]
fn a_server_killed_between_admitting_an_agent_and_answering_it_admits_it_once() {
    let mut fleet = Fleet::new(Build::Testing);
    let token = fleet.token(1);
    let stop = fleet.checkpoint("agent_admitted");
    fleet.kill_server();
    fleet.start_server(Some(&stop));
    fleet.add_context();
    std::thread::scope(|scope| {
        let fleet = &fleet;
        let enrolling = scope.spawn(|| fleet.enroll("rome", &token));
        let held = stop.reached();
        fleet.server().kill_in_place();
        drop(held);
        assert_ne!(enrolling.join().unwrap().code, 0);
    });
    fleet.server = None;
    fleet.start_server(None);
    fleet.add_context();
    let _enrolled = fleet.enroll("rome", &token).ok();
    let _agent = fleet.start_agent("rome", None);
    assert_eq!(fleet.json(&["agents", "list"]).as_array().unwrap().len(), 1);
}
