//! The first command, with the binaries users get.
//!
//! * an operator pings and runs an action, waits, and reads the answers
//! * the answers are the agents' own signed words
//! * grpcurl can do the same

use integration_tests::fleet::{Build, Fleet, lines};
use integration_tests::python;
use serde_json::Value;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use writ_common::keys::pem;
use writ_common::tls::{Anchors, connect};

#[test]
fn an_operator_commands_two_agents_and_reads_their_answers() {
    let mut fleet = Fleet::new(Build::Shipped);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"; echo \"noted $1\"", "");
    let _agents = [fleet.agent("rome"), fleet.agent("paris")];

    let agents = fleet.json(&["agents", "list"]);
    assert_eq!(agents.as_array().unwrap().len(), 2);
    assert!(
        agents
            .as_array()
            .unwrap()
            .iter()
            .all(|agent| agent["connected"] == true && agent["bundle_version"] == 1)
    );

    let pinged = fleet.json(&["send", "ping", "--all", "--wait"]);
    assert_eq!((pinged["target_count"].as_u64(), pinged["done"].as_u64()), (Some(2), Some(2)));

    let noted = fleet.json(&["send", "action", "note", "word=hello", "--agent", "rome", "--wait"]);
    let target = &noted["targets"][0];
    assert_eq!((&target["state"], &target["output"]), (&Value::from("done"), &Value::from("noted hello\n")));
    assert_eq!(lines(&notes), ["hello"]);

    let shown = fleet.json(&["commands", "show", noted["command_id"].as_str().unwrap()]);
    assert_eq!(shown["targets"], noted["targets"]);
    let all = fleet.json(&["commands", "list"]);
    assert_eq!(all.as_array().unwrap().len(), 2);
    let actions = &fleet.json(&["agents", "show", "rome"])["actions"];
    let names: Vec<_> = actions.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ping", "inventory", "settings", "note"]);
    assert!(fleet.json(&["alerts"]).as_array().unwrap().is_empty());
}

#[test]
fn a_failing_action_and_a_wrong_parameter_are_told_apart_by_exit_code_and_answer() {
    let mut fleet = Fleet::new(Build::Shipped);
    fleet.allow("fail", "echo \"no $1\" >&2; exit 3", "");
    let _agent = fleet.agent("rome");

    let failed = fleet.writ(&["--output", "json", "send", "action", "fail", "word=luck", "--all", "--wait"]);
    let target = &failed.json()["targets"][0];
    assert_eq!(failed.code, 1);
    assert_eq!((target["exit_status"].as_i64(), target["output"].as_str()), (Some(3), Some("no luck\n")));

    let refused = fleet.writ(&["--output", "json", "send", "action", "fail", "word=NO", "--all", "--wait"]);
    assert_eq!(refused.code, 1);
    assert_eq!(refused.json()["targets"][0]["refusal_code"], "invalid_parameters");

    let unlisted = fleet.writ(&["--output", "json", "send", "action", "reboot", "--all", "--wait"]);
    assert_eq!(unlisted.json()["targets"][0]["refusal_code"], "action_not_allowed");
}

#[test]
fn the_same_id_twice_is_one_command_and_another_request_under_it_is_refused() {
    let fleet = Fleet::new(Build::Shipped);
    let _agent = fleet.agent("rome");
    let id = "0192f1c0-0000-7000-8000-000000000001";
    let first = fleet.json(&["send", "ping", "--all", "--wait", "--id", id]);
    let second = fleet.json(&["send", "ping", "--all", "--wait", "--id", id]);
    assert_eq!(first["digest"], second["digest"]);
    assert_eq!(fleet.json(&["commands", "list"]).as_array().unwrap().len(), 1);
    let other = fleet.writ(&["send", "ping", "--agent", "rome", "--id", id]);
    assert_eq!(other.code, 7, "{other:?}");
    assert!(other.stderr.contains("is a different one"), "{other:?}");
}

#[test]
fn grpcurl_lists_services_and_submits() {
    let fleet = Fleet::new(Build::Shipped);
    let agent = fleet.agent("rome");
    let grpcurl = python::root().join("target/python/bin/grpcurl");
    let token = std::fs::read_to_string(fleet.path("server/admin-token")).unwrap();
    let call = |rest: &[&str]| {
        let header = format!("authorization: Bearer {token}");
        let address = format!("localhost:{}", fleet.admin_port());
        let ca = fleet.path("server/admin-ca.pem");
        let mut arguments = vec!["-cacert", ca.to_str().unwrap(), "-H", &header];
        let (flags, call) = rest
            .split_at(rest.iter().take_while(|word| word.starts_with('-') || word.starts_with('{')).count());
        arguments.extend(flags);
        arguments.push(&address);
        arguments.extend(call);
        #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
        let mut command = std::process::Command::new(&grpcurl);
        let output = command.args(arguments).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (listed, services) = call(&["list"]);
    assert!(listed && services.contains("writ.admin.v1.CommandService"), "{services}");
    let (submitted, command) =
        call(&["-d", r#"{"all": true, "ping": {}}"#, "writ.admin.v1.CommandService/Submit"]);
    assert!(submitted, "{command}");
    agent.wait_for("command ended", |_| true);
    let (refused, said) = call(&["-d", r#"{"ping": {}}"#, "writ.admin.v1.CommandService/Submit"]);
    assert!(
        !refused
            && said.contains("InvalidArgument")
            && said.contains("name agents, give a selector, or set all"),
        "{said}"
    );
    let (healthy, said) = call(&["-d", "{}", "grpc.health.v1.Health/Check"]);
    assert!(healthy && said.contains("SERVING"), "{said}");
}

#[test]
fn reflection_answers_in_its_newer_version_too_and_only_to_those_with_a_token() {
    let fleet = Fleet::new(Build::Shipped);
    let token = std::fs::read_to_string(fleet.path("server/admin-token")).unwrap();
    let authorities = pem::certificates(&std::fs::read(fleet.path("server/admin-ca.pem")).unwrap()).unwrap();
    let endpoint = format!("localhost:{}", fleet.admin_port());
    let ask = async |token: Option<&str>| {
        let connection = connect(&endpoint, &Anchors::Authorities(authorities.clone())).await.unwrap();
        let question = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut request = tonic::Request::new(tokio_stream::iter([question]));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = ServerReflectionClient::new(connection.channel);
        client.server_reflection_info(request).await?.into_inner().message().await
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let answer = format!("{:?}", ask(Some(&token)).await.unwrap());
        assert!(answer.contains("writ.admin.v1.CommandService"), "{answer}");
        assert_eq!(ask(None).await.unwrap_err().code(), tonic::Code::Unauthenticated);
        assert_eq!(ask(Some("writ-admin.guess")).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    });
}

#[test]
fn a_fleet_on_p256_keys_obeys_and_answers_like_any_other_and_mixes_with_ed25519() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    fleet.init_with(&["--key-algorithm", "ecdsa-p256"]).ok();
    fleet.start_server(None);
    fleet.add_context();
    let token = fleet.token(2);
    let p256 = fleet.enroll_with("rome", &token, &["--key-algorithm", "ecdsa-p256"]).ok();
    let ed25519 = fleet.enroll("oslo", &token).ok();
    assert_ne!(p256.json()["key_id"], ed25519.json()["key_id"]);
    let (_rome, _oslo) = (fleet.start_agent("rome", None), fleet.start_agent("oslo", None));
    let answered = fleet.json(&["send", "ping", "--all", "--wait"]);
    assert_eq!(answered["done"], 2);
    let wrong = fleet.enroll_with("lima", &fleet.token(1), &["--key-algorithm", "rsa"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("ed25519 or ecdsa-p256"), "{}", wrong.stderr);
}
