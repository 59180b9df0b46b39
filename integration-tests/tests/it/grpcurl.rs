//! The admin port for those who have grpcurl and nothing else.

use std::collections::BTreeSet;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use integration_tests::python;
use integration_tests::repository::TufRepository;
use integration_tests::sandbox::Sandbox;
use prost::Message as _;
use tonic::client::Grpc;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use writ_common::keys::pem;
use writ_common::tls::{Anchors, connect};
use writ_proto::codec::SmallBuffers;

/// The lines of every shell block of a page, in order.
fn shell_lines(page: &str) -> String {
    let text = std::fs::read_to_string(python::root().join(page)).unwrap();
    let mut lines = String::from("set -eu\n");
    let mut is_inside = false;
    for line in text.lines() {
        match line {
            "```sh" => is_inside = true,
            "```" => is_inside = false,
            line if is_inside => lines.extend([line, "\n"]),
            _ => {}
        }
    }
    lines
}

#[test]
fn every_line_of_the_page_works_and_no_operation_is_without_one() {
    let mut fleet = Fleet::new(Build::Shipped);
    let _notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let _agents = [fleet.agent("rome"), fleet.agent("paris"), fleet.agent("oslo"), fleet.agent("lima")];
    let sandbox = Sandbox::start(&fleet);
    let manager = Manager::with(&fleet, "manager", &sandbox.config(""));
    for (from, to) in
        [("control-manager-ca.pem", "control-manager-ca.pem"), ("admin-token", "manager-admin-token")]
    {
        std::fs::copy(manager.path(from), fleet.path("server").join(to)).unwrap();
    }
    let repository = TufRepository::make(fleet.path("server/tuesday"));
    let _monday = repository.copied(&fleet, "monday");
    repository.offer("2", "two");
    let script = shell_lines("docs/grpcurl.md");
    #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
    let mut shell = std::process::Command::new("sh");
    shell.args(["-xc", &script]).current_dir(fleet.path("server"));
    python::with_packages(&mut shell).env("SERVER", format!("localhost:{}", fleet.admin_port()));
    shell.env("MANAGER", format!("localhost:{}", manager.admin_port));
    shell.env("LINK_PORT", manager.link_port.to_string());
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));

    let descriptors = prost_types::FileDescriptorSet::decode(writ_proto::DESCRIPTORS).unwrap();
    // What entities call has no line: it is signed.
    let is_for_people = |service: &str| !["Registry", "EntityLink", "EntityNotify"].contains(&service);
    let mut methods = BTreeSet::new();
    for file in descriptors.file.iter().filter(|file| file.package() != "writ.v1") {
        for service in file.service.iter().filter(|service| is_for_people(service.name())) {
            for method in &service.method {
                methods.insert(format!("{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    let missing: Vec<_> = methods.iter().filter(|method| !script.contains(method.as_str())).collect();
    assert!(missing.is_empty(), "docs/grpcurl.md has no line for {missing:?}");
}

#[test]
fn a_method_without_a_row_in_the_policy_is_refused_whoever_calls() {
    let fleet = Fleet::new(Build::Shipped);
    let token = std::fs::read_to_string(fleet.path("server/admin-token")).unwrap();
    let authorities = pem::certificates(&std::fs::read(fleet.path("server/admin-ca.pem")).unwrap()).unwrap();
    let endpoint = format!("localhost:{}", fleet.admin_port());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let connection = connect(&endpoint, &Anchors::Authorities(authorities)).await.unwrap();
        for path in ["/writ.admin.v1.CommandService/Everything", "/writ.v1.AgentGateway/Enroll"] {
            let mut client = Grpc::new(connection.channel.clone());
            client.ready().await.unwrap();
            let mut request = tonic::Request::new(());
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            let codec = SmallBuffers::<(), ()>::default();
            let refused = client.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
            assert!(refused.message().contains("not in the policy table"), "{refused}");
        }
    });
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
