//! What a manager says counts under the authority that was uploaded, once, in order, for this server and this
//! registration. What does not count changes nothing and is told.

use std::time::Duration;

use bytes::Bytes;
use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::forged_manager::ForgedManager;
use integration_tests::manager::failed;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::envelope::{InstructionPurpose, sign};
use writ_protocol::id::{EntityId, ManagerId};
use writ_protocol::keys::{Algorithm, Manager as Holder, PrivateKey};
use writ_protocol::manager::{Order, Task};

/// A server registered with a manager the story speaks for.
fn registered(more: &[&str]) -> (Fleet, ForgedManager, EntityId) {
    let fleet = Fleet::new(Build::Shipped);
    let forged = ForgedManager::new();
    let ca = fleet.write_secret("forged-ca.pem", &forged.ca);
    let port = forged.port.to_string();
    let to = ["--address", "localhost", "--port", &port, "--heartbeat", "1s", "--abnormal-after", "3s"];
    let authority: &[&str] = if more.is_empty() { &["--ca", ca.to_str().unwrap()] } else { more };
    let _set = fleet.settings(&[to.as_slice(), authority].concat()).ok();
    let status = fleet.json(&["manager", "register", "--update-source", "default"]);
    let entity = status["entity_id"].as_str().unwrap().parse().unwrap();
    (fleet, forged, entity)
}

fn ping() -> Task {
    Task::Dispatch { selector: String::new(), order: Order::Ping, lifetime: Duration::from_secs(60) }
}

fn refused_as(fleet: &Fleet, code: &str) {
    let line = fleet.server().wait_for("instruction refused", |said| said["code"] == code);
    assert!(line["claimed"].as_str().is_some(), "{line}");
    // The alert is stored after the line is logged, and the next poll follows both.
    let alerts = fleet.alerts("instruction_refused", code);
    assert!(alerts.len() <= 1, "{alerts:?}");
}

#[test]
fn an_instruction_that_is_forged_stale_replayed_or_somebody_elses_is_refused_and_changes_nothing() {
    let (fleet, forged, me) = registered(&[]);
    let _agent = fleet.agent("rome");
    let good = |sequence| forged.instruction(me, sequence, ping());
    let thief = PrivateKey::<Holder>::generate(Algorithm::Ed25519);
    let by_thief = sign::<InstructionPurpose>(&[&thief.for_purpose()], &good(1)).bytes().clone();
    let mut altered = forged.sealed(&good(1)).to_vec();
    let middle = altered.len() / 3;
    altered[middle] ^= 1;
    let now = SystemClock::new().wall();
    let hour = Duration::from_secs(3600);
    let later =
        writ_protocol::manager::Instruction { issued_at: now + hour, expires_at: now + hour * 2, ..good(1) };
    let cases: Vec<(Bytes, &str)> = vec![
        (by_thief, "not_signed"),
        (altered.into(), "not_signed"),
        (Bytes::from_static(b"no envelope"), "not_signed"),
        (
            forged.sealed(&writ_protocol::manager::Instruction {
                manager: ManagerId::generate(now),
                ..good(1)
            }),
            "wrong_manager",
        ),
        (
            forged
                .sealed(&writ_protocol::manager::Instruction { entity: EntityId::generate(now), ..good(1) }),
            "wrong_entity",
        ),
        (forged.sealed(&writ_protocol::manager::Instruction { epoch: 6, ..good(1) }), "wrong_registration"),
        (forged.sealed(&later), "not_yet_valid"),
    ];
    let count = cases.len();
    for (envelope, code) in cases {
        forged.hand_over(vec![envelope]);
        refused_as(&fleet, code);
    }
    fleet.server().wait_for_count("instruction refused", count);
    assert_eq!(fleet.json(&["commands", "list"]), serde_json::json!([]), "something was obeyed");

    // Expired: taken, so that the manager hears of it, and not done.
    let expired = writ_protocol::manager::Instruction {
        issued_at: now - hour,
        expires_at: now - Duration::from_secs(1),
        ..good(1)
    };
    forged.hand_over(vec![forged.sealed(&expired)]);
    fleet.server().wait_for("instruction of the Control Manager taken", |said| said["is_late"] == true);
    assert_eq!(fleet.json(&["commands", "list"]), serde_json::json!([]));

    // A good one is obeyed once, also when it is handed over again.
    let second = forged.sealed(&good(2));
    forged.hand_over(vec![second.clone(), second.clone()]);
    fleet.server().wait_for("instruction acted on", |said| said["sequence"] == 2);
    refused_as(&fleet, "replayed");
    // What was refused once is not told again each time it is handed over.
    forged.hand_over(vec![second, forged.sealed(&good(3))]);
    fleet.server().wait_for("instruction acted on", |said| said["sequence"] == 3);
    assert_eq!(fleet.json(&["commands", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(fleet.server().count("instruction refused"), count + 1);
    for code in
        ["not_signed", "wrong_manager", "wrong_entity", "wrong_registration", "not_yet_valid", "replayed"]
    {
        assert_eq!(fleet.alerts("instruction_refused", code).len(), 1, "{code}");
    }
    assert_eq!(fleet.line()["instructions_refused"], count + 1);
}

#[test]
fn an_answer_by_a_strange_key_or_to_another_call_is_no_answer() {
    let (fleet, forged, _) = registered(&[]);
    fleet.server().wait_for_count("registered with the Control Manager", 1);
    forged.sign_strangely(true);
    fleet.server().wait_for("the Control Manager was not reached", |said| said["leg"] == "authorization");
    let (legs, _) = fleet.legs(&[]);
    assert_eq!(failed(&legs)["leg"], "authorization", "{legs:#?}");
    let status = fleet.line();
    assert!(status["last_error"].as_str().unwrap().contains("seal does not hold"), "{status}");
    assert_eq!(status["state"], "registered");
    forged.sign_strangely(false);
    forged.play_old_answers(true);
    fleet.server().wait_for("the Control Manager was not reached", |said| {
        said["error"].as_str().is_some_and(|error| error.contains("plays an old one"))
    });
}

#[test]
fn the_key_of_the_web_server_in_front_signs_nothing_for_the_manager() {
    let (fleet, forged, me) = registered(&[]);
    forged.sign_by_the_web_servers_key();
    forged.hand_over(vec![forged.sealed(&forged.instruction(me, 1, Task::AskStatus))]);
    let said =
        fleet.server().wait_for("the Control Manager was not reached", |said| said["leg"] == "authorization");
    assert!(said["error"].as_str().unwrap().contains("not one for signing documents"), "{said}");
}

#[test]
fn a_manager_of_another_protocol_is_told_apart() {
    let (fleet, forged, _) = registered(&[]);
    forged.announce(0, "5.5");
    let (legs, _) = fleet.legs(&[]);
    let row = failed(&legs);
    assert_eq!(
        (&row["leg"], &row["advice"]),
        (&"protocol_version".into(), &"update the manager".into()),
        "{legs:#?}"
    );
    forged.announce(9, "7.0");
    let (legs, _) = fleet.legs(&[]);
    assert_eq!(failed(&legs)["advice"], "update this server", "{legs:#?}");
}

#[test]
fn without_an_authority_a_registration_obeys_nothing_until_it_is_made_again() {
    let (fleet, forged, me) = registered(&["--without-authorization-i-know-what-i-am-doing", "true"]);
    let status = fleet.line();
    assert_eq!(
        (&status["state"], &status["certificate_authorization"]),
        (&"registered".into(), &false.into()),
        "{status}"
    );
    assert!(status["next"].as_str().unwrap().contains("unregister and register again"), "{status}");
    forged.hand_over(vec![forged.sealed(&forged.instruction(me, 1, ping()))]);
    refused_as(&fleet, "not_authorized");
    let refused = fleet.writ(&["--output", "json", "manager", "update-source", "manager"]).failed(7);
    assert!(refused.stderr.contains("no_certificate_authorization"), "{refused:?}");

    // The authority alone, sent as a change, does not make the registration another one.
    let ca = fleet.path("forged-ca.pem");
    let upload = ["--without-authorization-i-know-what-i-do", "false", "--ca", ca.to_str().unwrap()];
    let _set = fleet.settings(&upload).ok();
    let refused = fleet.writ(&["--output", "json", "manager", "update"]).failed(7);
    assert!(refused.stderr.contains("registration_is_older"), "{refused:?}");
    let status = fleet.json(&["manager", "re-register", "--update-source", "default"]);
    assert_eq!(
        (&status["certificate_authorization"], &status["next"]),
        (&true.into(), &"".into()),
        "{status}"
    );
    assert_eq!(status["entity_id"], me.to_string(), "the id is kept");
    forged.hand_over(vec![forged.sealed(&forged.instruction(me, 1, Task::AskStatus))]);
    fleet.server().wait_for("instruction acted on", |said| said["sequence"] == 1);
}

#[test]
fn what_became_of_an_instruction_is_reported_until_the_manager_has_heard_it() {
    let (fleet, forged, me) = registered(&[]);
    let change = Task::ChangeCommunication {
        heartbeat: Duration::from_secs(2),
        abnormal_after: Duration::from_secs(9),
    };
    forged.hand_over(vec![forged.sealed(&forged.instruction(me, 1, change))]);
    fleet.server().wait_for("instruction acted on", |said| said["sequence"] == 1);
    let settings = fleet.json(&["manager", "settings", "show"]);
    assert_eq!(
        (&settings["heartbeat_ms"], &settings["abnormal_after_ms"], &settings["not_sent"]),
        (&2000.into(), &9000.into(), &false.into())
    );
    // Nobody to ping: said as it is.
    forged.hand_over(vec![forged.sealed(&forged.instruction(me, 2, ping()))]);
    let acted = fleet.server().wait_for("instruction acted on", |said| said["sequence"] == 2);
    assert!(acted["detail"].as_str().unwrap().contains("no agent is enrolled"), "{acted}");
    let heard = || {
        forged.calls().into_iter().find_map(|call| match call.body {
            writ_protocol::manager::CallBody::Poll(poll) => {
                poll.outcomes.into_iter().find(|one| one.sequence == 2 && !one.detail.is_empty())
            }
            _ => None,
        })
    };
    until("the manager never heard of it", || heard().is_some());
    let outcome = heard();
    assert_eq!(outcome.unwrap().state, writ_protocol::manager::TaskState::Unsuccessful);
}
