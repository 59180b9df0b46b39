//! Wrong input of every kind: a clear error that says what to do, and nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::hostile_agent::HostileAgent;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use writ_common::keys::pem;
use writ_common::tls::{Anchors, connect};
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_proto::v1::{self as proto, agent_frame::Frame, server_frame};
use writ_protocol::keys::{Algorithm, PrivateKey, Server};

/// Says these frames to the agents' port, keeps the stream open, and returns how the server ended it.
fn said_to(fleet: &Fleet, frames: Vec<Frame>) -> tonic::Status {
    let authorities = pem::certificates(&fs::read(fleet.path("server/admin-ca.pem")).unwrap()).unwrap();
    let endpoint = format!("localhost:{}", fleet.road.port());
    Runtime::new().unwrap().block_on(async {
        let connection = connect(&endpoint, &Anchors::Authorities(authorities)).await.unwrap();
        let mut client = AgentGatewayClient::new(connection.channel).max_encoding_message_size(usize::MAX);
        let (sender, outbound) = mpsc::channel(8);
        for frame in frames {
            sender.send(proto::AgentFrame { frame: Some(frame) }).await.unwrap();
        }
        let mut inbound = match client.connect(ReceiverStream::new(outbound)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status,
        };
        loop {
            match inbound.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::ok("ended"),
                Err(status) => return status,
            }
        }
    })
}

fn hello(change: impl FnOnce(&mut proto::AgentHello)) -> Frame {
    let mut hello =
        proto::AgentHello { nonce: vec![1; 32].into(), agent_id: vec![2; 16].into(), protocol: 1 };
    change(&mut hello);
    Frame::Hello(hello)
}

#[test]
fn malformed_and_out_of_turn_frames_end_the_stream_with_a_reason() {
    let fleet = Fleet::new(Build::Testing);
    let cases: Vec<(Vec<Frame>, Code, &str)> = vec![
        (vec![Frame::Heartbeat(proto::Heartbeat::default())], Code::InvalidArgument, "must be a hello"),
        (vec![hello(|hello| hello.nonce = vec![1; 31].into())], Code::InvalidArgument, "32 bytes"),
        (vec![hello(|hello| hello.agent_id = vec![1; 15].into())], Code::InvalidArgument, "wrong length"),
        (vec![hello(|hello| hello.protocol = 9)], Code::FailedPrecondition, "upgrade the older"),
        (
            vec![hello(|_| {}), Frame::Heartbeat(proto::Heartbeat::default())],
            Code::InvalidArgument,
            "must be a proof",
        ),
        (vec![hello(|_| {}), Frame::Proof(vec![0; 9].into())], Code::PermissionDenied, "not enrolled here"),
        (vec![hello(|hello| hello.nonce = vec![1; 2 << 20].into())], Code::ResourceExhausted, "too large"),
    ];
    for (frames, code, reason) in cases {
        let status = said_to(&fleet, frames);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(reason), "{status:?}");
    }
    // The server is none the worse.
    let _agent = fleet.agent("rome");
    let _obeys = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}

#[test]
fn a_stream_that_says_nothing_is_ended() {
    let fleet = Fleet::new(Build::Testing);
    let status = said_to(&fleet, Vec::new());
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("said nothing"), "{status:?}");
}

#[test]
fn a_proof_by_another_key_is_refused_and_raises_an_alert() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    agent.kill();
    let rome: writ_protocol::id::AgentId = fleet.agent_id("rome").parse().unwrap();
    let forger = integration_tests::forge::Forger::new([6; 32]);
    let proof = integration_tests::forge::sealed("agent-proof", &proto::AgentProof::default(), &forger);
    let status = said_to(
        &fleet,
        vec![hello(|hello| hello.agent_id = rome.as_bytes().to_vec().into()), Frame::Proof(proof)],
    );
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let alerts = fleet.alerts("impostor", "");
    assert_eq!((alerts.len(), &alerts[0]["agent_name"]), (1, &serde_json::json!("rome")));
}

#[test]
fn a_proof_out_of_bounds_is_called_that_and_accuses_nobody() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let status = HostileAgent::with_proof(&fleet, "rome", |proof| {
        proof.marks = vec![vec![1; 16].into(); 65];
    })
    .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(!status.message().contains("enrol"), "{status:?}");
    assert!(fleet.alerts("impostor", "").is_empty());
}

#[test]
fn a_receipt_with_nonsense_in_it_is_not_stored_and_raises_an_alert() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let hostile = HostileAgent::in_place_of(&fleet, "rome");
    let sent = fleet.json(&["send", "ping", "--all"]);
    let outcome = |receipt: &mut proto::Receipt, change: fn(&mut proto::Outcome)| {
        change(receipt.outcome.as_mut().unwrap());
    };
    hostile.answer(&sent, |receipt| receipt.attempt = 0);
    hostile.answer(&sent, |receipt| receipt.journal_counter = 0);
    hostile.answer(&sent, |receipt| receipt.decided_at_ms = u64::MAX);
    hostile.answer(&sent, |receipt| outcome(receipt, |outcome| outcome.finished_at_ms -= 1));
    hostile.answer(&sent, |receipt| outcome(receipt, |outcome| outcome.output = vec![b'x'; 9].into()));
    hostile.answer(&sent, |receipt| {
        receipt.decision = proto::Decision::Refused.into();
        receipt.refusal_code = proto::RefusalCode::UnknownKey.into();
        receipt.outcome = None;
    });
    fleet.server().wait_for_count("receipt not believed", 6);
    let alerts = fleet.alerts("not_believed", "malformed_payload");
    assert_eq!((alerts.len(), &alerts[0]["agent_name"]), (1, &serde_json::json!("rome")));
    assert_eq!(fleet.json(&["commands", "show", sent["command_id"].as_str().unwrap()])["done"], 0);
    // What makes sense counts.
    hostile.answer(&sent, |_| {});
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == sent["command_id"]);
}

#[test]
fn refusals_that_nobody_can_have_counted_are_not_believed_and_sums_stay_numbers() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let hostile = HostileAgent::in_place_of(&fleet, "rome");
    for count in [0, (1 << 53) + 1, u64::MAX] {
        hostile.report_refusals(count);
    }
    fleet.server().wait_for_count("refusal report not believed", 3);
    for count in [(1 << 53) - 1, 1 << 53] {
        hostile.report_refusals(count);
    }
    fleet.server().wait_for_count("agent refused", 2);
    assert_eq!(fleet.alerts("refused", "unknown_key")[0]["count"], 1_u64 << 53);
}

#[test]
fn an_agent_that_reports_without_end_is_written_down_once_a_heartbeat() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let written = || -> u64 {
        let files = fs::read_dir(fleet.path("server")).unwrap().map(Result::unwrap);
        let databases = files.filter(|file| file.file_name().to_string_lossy().starts_with("writ.db"));
        databases.map(|file| file.metadata().unwrap().len()).sum()
    };
    let mut hostile = HostileAgent::in_place_of(&fleet, "rome");
    let before = written();
    (1..=500).for_each(|number| hostile.report_much(number));
    hostile.say(Frame::Heartbeat(proto::Heartbeat {}));
    while !matches!(hostile.hear(), Some(server_frame::Frame::Heartbeat(_))) {}
    let grown = written() - before;
    assert!(grown < 8 << 20, "500 reports of 130 KB cost {grown} bytes");
    // The latest one counts.
    let shown = fleet.json(&["agents", "show", "rome"]).to_string();
    assert!(shown.contains("00000500-") || shown.contains("00000008-"), "{shown:.300}");
}

#[test]
fn an_agent_that_says_what_no_agent_says_loses_its_session() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let mut hostile = HostileAgent::in_place_of(&fleet, "rome");
    let sent = fleet.json(&["send", "ping", "--all"]);
    let mut said = 0;
    while hostile.try_answer(&sent, |receipt| receipt.attempt = 0) && said < 10_000 {
        said += 1;
    }
    while hostile.hear().is_some() {}
    let believed = fleet.server().count("receipt not believed");
    assert!(believed <= 65, "{believed} were looked at of {said}");
}

#[test]
fn a_configuration_with_three_mistakes_names_all_three() {
    let fleet = Fleet::new(Build::Testing);
    let path = fleet.path("wrong.toml");
    fs::write(&path, "data_dirr = \"/x\"\n[session]\noutbox = 0\nheartbeat = \"soon\"\n").unwrap();
    let said = fleet.run("writ-server-testing", &["run", "--config", path.to_str().unwrap()]);
    assert_eq!(said.code, 64);
    for part in [
        "3 problems",
        "`data_dirr` is not a known key; did you mean `data_dir`?",
        "`session.outbox` is `0`; it must be a whole number, 1 to 65536",
        "`session.heartbeat` is `soon`",
    ] {
        assert!(said.stderr.contains(part), "{part} is not in {}", said.stderr);
    }
    let path = fleet.path("wrong-agent.toml");
    fs::write(&path, "[link]\nbackoff = \"1s\"\n[journal]\nmax_entries = 1\n").unwrap();
    let said = fleet.run("writ-agent-testing", &["run", "--config", path.to_str().unwrap()]);
    assert!(
        said.code == 64 && said.stderr.contains("2 problems") && said.stderr.contains("link.max_backoff"),
        "{said:?}"
    );
}

#[test]
fn an_exposed_key_keeps_the_server_from_starting_and_without_its_key_it_signs_nothing_and_says_so() {
    let mut fleet = Fleet::new(Build::Testing);
    let _rome = fleet.agent("rome");
    fleet.kill_server();
    let key = fleet.signing_key();
    let kept = fs::read(&key).unwrap();

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let said = fleet.try_server().wait().1;
    assert!(said.contains("mode 640 lets others read it; run: chmod 600"), "{said}");

    let other = PrivateKey::<Server>::generate(Algorithm::Ed25519);
    for strange in [None, Some(pem::encode("PRIVATE KEY", &other.to_pkcs8()))] {
        fs::remove_file(&key).unwrap();
        if let Some(strange) = strange {
            fleet.write_secret(key.to_str().unwrap(), &strange);
        }
        fleet.start_server(None);
        fleet.add_context();
        fleet.server().wait_for("nothing can be signed", |_| true);
        let said = fleet.writ(&["send", "ping", "--all"]).failed(7).stderr;
        assert!(said.contains("holds no signing key that agents obey by trust bundle 1"), "{said}");
        fleet.kill_server();
        fleet.write_secret(key.to_str().unwrap(), std::str::from_utf8(&kept).unwrap());
    }
    fleet.start_server(None);
    fleet.add_context();
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn an_agent_without_identity_trust_or_a_private_key_obeys_nobody_and_says_why() {
    let fleet = Fleet::new(Build::Testing);
    let said = fleet.try_agent("rome", None).wait().1;
    assert!(said.contains("this agent is not enrolled"), "{said}");

    fleet.agent("rome").kill();
    let (trust, copy) = (fleet.path("rome/trust.chain"), fleet.path("rome/trust.chain.last-good"));
    let kept = fs::read(&trust).unwrap();
    fs::remove_file(&copy).unwrap();
    for damaged in [&[][..], &kept[..kept.len() / 2], b"garbage"] {
        fs::write(&trust, damaged).unwrap();
        let said = fleet.try_agent("rome", None).wait().1;
        assert!(said.contains("trust lost") && said.contains("obeys nobody"), "{said}");
    }
    fs::write(&trust, &kept).unwrap();

    let key = fleet.path("rome/identity.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    let said = fleet.try_agent("rome", None).wait().1;
    assert!(said.contains("chmod 600"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    fs::write(fleet.path("actions.d/bad.toml"), "program = \"ls\"\n").unwrap();
    let said = fleet.try_agent("rome", None).wait().1;
    assert!(said.contains("bad.toml") && said.contains("absolute path"), "{said}");
    fs::remove_file(fleet.path("actions.d/bad.toml")).unwrap();
    let _agent = fleet.start_agent("rome", None);
}

#[test]
fn a_second_server_or_agent_on_the_same_folder_does_not_start() {
    let fleet = Fleet::new(Build::Testing);
    let said = fleet.try_server().wait().1;
    assert!(said.contains("another process of the same kind runs on this folder"), "{said}");
    let _agent = fleet.agent("rome");
    let said = fleet.try_agent("rome", None).wait().1;
    assert!(said.contains("another writ-agent runs on this data directory"), "{said}");
}

#[test]
fn operators_are_told_what_is_wrong_and_what_to_do() {
    let fleet = Fleet::new(Build::Testing);
    let said = |arguments: &[&str], code: i32, part: &str| {
        let said = fleet.writ(arguments);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.stderr.contains(part), "{part} is not in {said:?}");
    };
    said(&["send", "ping", "--all"], 7, "no agent is enrolled; create a token");
    said(&["send", "ping"], 2, "--agent");
    said(&["send", "ping", "--all", "--agent", "rome"], 2, "cannot be used with");
    said(&["send", "ping", "--agent", "rome"], 5, "writ agents list");
    said(
        &["send", "ping", "--all", "--expires", "60d"],
        7,
        "--expires: is 5184000; it must be at most 2592000",
    );
    said(&["send", "action", "note", "word", "--all"], 2, "is not KEY=VALUE");
    said(&["send", "action", "note", "word=a", "word=b", "--all"], 7, "`word` is given twice");
    said(&["send", "action", "../note", "--all"], 7, "no action can be called");
    said(&["send", "ping", "--all", "--expires", "0s"], 2, "longer than nothing");
    said(&["enroll", "token", "create", "--uses", "0"], 2, "0 is not in 1..=100000");
    said(&["commands", "show", "12"], 2, "neither a command's id nor its last 8 or more digits");
    said(&["--output", "json", "commands", "list", "--limit", "0"], 2, "\"reason\":\"usage\"");
    said(&["commands", "show", "0192f1c0-0000-7000-8000-000000000009"], 5, "writ commands list");
    said(&["--context", "nowhere", "agents", "list"], 8, "there is no context `nowhere`");
    // What to type next reaches the same server.
    let listed = fleet.writ(&["--context", "acme", "commands", "list"]).ok().stdout;
    assert!(listed.contains("Next: writ --context acme send ping --all --wait"), "{listed}");

    let wrong = fleet.write_secret("wrong-token", "writ-admin.nonsense");
    let ca = fleet.path("server/admin-ca.pem");
    let server = format!("localhost:{}", fleet.admin_port());
    let places = ["--ca", ca.to_str().unwrap(), "--token-file", wrong.to_str().unwrap()];
    let add = [["context", "add", "wrong", "--server", &server].as_slice(), &places].concat();
    said(&add, 4, "not added");
    let _added = fleet.writ(&[add.as_slice(), &["--untried"]].concat()).ok();
    said(&["agents", "list"], 4, "writ context list");
    said(&["--context", "acme", "--output", "json", "send", "ping", "--agent", "x"], 5, "\"exit_code\":5");
}

#[test]
fn init_refuses_weak_passphrases_and_names_it_cannot_use() {
    let fleet = Fleet::unmade(Build::Testing);
    fleet.write_secret("passphrase", "short\n");
    let said = fleet.init();
    assert!(said.code == 64 && said.stderr.contains("at least 12"), "{said:?}");
    assert!(!fleet.path("server/writ.db").exists());

    let passphrase = fleet.write_secret("passphrase", "correct horse battery staple\n");
    let folder = fleet.path("server");
    let arguments = [
        "init",
        "--name",
        "acme",
        "--endpoint",
        "nowhere",
        "--data-dir",
        folder.to_str().unwrap(),
        "--passphrase-file",
        passphrase.to_str().unwrap(),
    ];
    let said = fleet.run("writ-server-testing", &arguments);
    assert!(said.code == 64 && said.stderr.contains("is not host:port"), "{said:?}");
    let url =
        arguments.map(|argument| if argument == "nowhere" { "https://localhost:7443" } else { argument });
    let said = fleet.run("writ-server-testing", &url);
    assert!(said.code == 64 && said.stderr.contains("is not host:port"), "{said:?}");
    assert!(!fleet.path("server").exists(), "nothing was made");

    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o644)).unwrap();
    let said = fleet.init();
    assert!(said.code == 64 && said.stderr.contains("chmod 600"), "{said:?}");
}
