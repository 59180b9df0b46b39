//! Servers an agent does not begin a session with, and agents a server does not.

use std::fs;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::intruder::Intruder;
use integration_tests::stolen::{Stolen, now};
use writ_proto::v1::{self as proto, server_frame::Frame};

#[test]
fn an_impostor_without_the_signing_key_gets_no_session_and_learns_nothing() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let server = fleet.road.destination();
    let impostor = Intruder::impostor(&fleet.road, &fleet.path("server"));
    let said = impostor.wait_for_hellos(fleet.agent_id("rome").parse().unwrap(), 2);
    assert!(said.is_empty(), "the agent told an impostor {said:?}");
    assert_eq!(agent.count("session began"), 1, "only the honest one");
    fleet.road.lead_to(server);
    agent.wait_for_count("session began", 2);
    fleet.server().wait_for("agent refused", |said| said["code"] == "unknown_key");
}

#[test]
fn a_relay_with_a_leaf_of_its_own_is_noticed_by_the_agent() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let server = fleet.road.destination();
    let relay = Intruder::with_own_leaf(&fleet.road, &fleet.path("server"), now());
    agent.wait_for("refused in silence", |said| said["code"] == "hello_mismatch");
    assert_eq!(agent.count("session began"), 1, "only the honest one");
    drop(relay);
    fleet.road.lead_to(server);
    fleet.server().wait_for("agent refused", |said| said["code"] == "hello_mismatch");
}

#[test]
fn who_holds_the_key_of_the_channel_keeps_no_agent_away_for_longer_than_a_failure_does() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let rome = fleet.agent_id("rome").parse().unwrap();
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    villain.wait_for_session(rome);
    let begun = agent.count("session began");
    let reason = format!("\u{1b}[2J{}", "x".repeat(100_000));
    villain.inject(rome, Frame::ComeBack(proto::ComeBack { after_ms: 3_600_000, reason }));
    let said = agent.wait_for("the server asks to come back", |_| true);
    let reason = said["reason"].as_str().unwrap();
    assert!(reason.len() <= 200 && !reason.contains('\u{1b}'), "{reason}");
    agent.wait_for_count("session began", begun + 1);
}

#[test]
fn a_greeting_held_back_longer_than_the_skew_is_not_believed() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let villain = Intruder::holding_back(&fleet.road, &fleet.path("server"));
    let rome = fleet.agent_id("rome").parse().unwrap();
    let _nothing = villain.wait_for_hellos(rome, 1);
    fs::write(fleet.path("rome-monotonic"), "61").unwrap();
    villain.let_greetings_go();
    agent.wait_for("refused in silence", |said| said["code"] == "round_trip_too_long");
    // The next greeting is quick, and the report goes out with it.
    agent.wait_for_count("session began", 2);
    fleet.server().wait_for("agent refused", |said| said["code"] == "round_trip_too_long");
}

#[test]
fn a_server_whose_clock_went_back_is_not_believed_until_it_is_right_again() {
    let mut fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    // Past the skew, but not before the signing certificate begins: only the floor notices.
    fleet.restart_server_at(3600);
    agent.wait_for_count("session began", 2);
    // The server notices by itself, and goes on only because an operator says so.
    fleet.server_flags = vec!["--accept-clock".to_owned()];
    fleet.restart_server_at(0);
    agent.wait_for("refused in silence", |said| said["code"] == "time_went_back");
    fleet.restart_server_at(3600);
    agent.wait_for_count("session began", 3);
    fleet.server().wait_for("agent refused", |said| said["code"] == "time_went_back");
}

#[test]
fn a_server_whose_clock_went_back_while_it_was_off_signs_nothing_until_an_operator_confirms() {
    let mut fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    fleet.restart_server_at(-3600);
    fleet.add_context();
    fleet
        .server()
        .wait_for("nothing can be signed", |said| said["error"].to_string().contains("--accept-clock"));
    let said = fleet.writ(&["send", "ping", "--all"]);
    assert!(said.code == 7 && said.stderr.contains("set the clock right"), "{said:?}");
    agent.wait_for("no session", |said| said["error"].to_string().contains("set the clock right"));
    fleet.restart_server_at(0);
    agent.wait_for_count("session began", 2);
}

#[test]
fn a_trust_bundle_resets_a_floor_that_one_wrong_clock_raised() {
    let mut fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let stolen = Stolen::from(&fleet, "rome");
    fleet.restart_server_at(7200);
    agent.wait_for_count("session began", 2);
    fleet.server_flags = vec!["--accept-clock".to_owned()];
    fleet.restart_server_at(0);
    agent.wait_for("refused in silence", |said| said["code"] == "time_went_back");
    // The authority mints the cure; it reaches the agent although no session can begin.
    let road = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    let floor = now().as_millis() - 600_000;
    road.offer_chain(vec![stolen.successor(|bundle| bundle.floor_reset_ms = floor)]);
    agent.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    agent.wait_for_count("session began", 3);
}

#[test]
fn an_identity_that_contradicts_its_key_keeps_the_agent_from_starting() {
    let fleet = Fleet::new(Build::Testing);
    let _rome = fleet.agent("rome");
    fleet.agent("paris").kill();
    // paris takes rome's record but has only its own key: its own disk contradicts itself.
    fs::copy(fleet.path("rome/identity.dsse"), fleet.path("paris/identity.dsse")).unwrap();
    let (status, said) = fleet.try_agent("paris", None).wait();
    assert!(!status.success() && said.contains("names another key"), "{said}");
}
