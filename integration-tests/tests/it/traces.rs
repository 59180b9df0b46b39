//! What a collector is told, and what it costs when there is none.

use std::fs;

use integration_tests::collector::{Collector, Manner, attribute};
use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::stolen::now;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use writ_common::keys::pem;
use writ_common::tls::{TlsAuthority, TlsLeaf};

use crate::telemetry::{metrics, value};

/// A fleet whose server sends its traces to a collector; clear text on this machine unless there is an
/// authority.
fn traced(fleet: &mut Fleet, scheme: &str, port: u16) {
    let ca = fleet.path("server/admin-ca.pem");
    let host = if scheme == "https" { "localhost" } else { "127.0.0.1" };
    fleet.server_config =
        format!("[traces]\nendpoint = \"{scheme}://{host}:{port}\"\nca = \"{}\"\n", ca.display());
    fleet.kill_server();
    fleet.start_again();
}

/// The id of a command as its trace has it.
fn trace_id(command: &serde_json::Value) -> Vec<u8> {
    hex::decode(command["command_id"].as_str().unwrap().replace('-', "")).unwrap()
}

fn one<'a>(spans: &'a [Span], trace: &[u8], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.trace_id == trace && span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no span `{name}`: {spans:#?}"));
    assert!(found.next().is_none(), "two spans `{name}`");
    assert!(span.start_time_unix_nano <= span.end_time_unix_nano && span.span_id.len() == 8, "{span:?}");
    span
}

#[test]
fn what_became_of_a_command_is_a_trace_under_its_id() {
    let mut fleet = Fleet::new(Build::Shipped);
    let read = |name: &str| fs::read(fleet.path("server").join(name)).unwrap();
    let leaf = TlsLeaf {
        chain: pem::certificates(&read("tls.pem")).unwrap(),
        key: pem::private_key(&read("tls.key")).unwrap(),
    };
    let collector = Collector::new(Some(&leaf));
    traced(&mut fleet, "https", collector.port);
    fleet.allow("say", "echo \"$1\"", "");
    let _rome = fleet.agent("rome");
    let done = fleet
        .writ(&["--output", "json", "send", "action", "say", "word=hunter2", "--all", "--wait"])
        .ok()
        .json();
    let refused = fleet
        .writ(&["--output", "json", "send", "action", "dance", "--all", "--wait", "--unchecked"])
        .failed(1)
        .json();
    let spans = collector.wait_for(|spans| spans.iter().filter(|span| span.name == "agent").count() == 2);

    let trace = trace_id(&done);
    let (root, agent) = (one(&spans, &trace, "command"), one(&spans, &trace, "agent"));
    assert!(root.parent_span_id.is_empty() && root.links.is_empty(), "{root:?}");
    let id = done["command_id"].as_str();
    for (key, expected) in [
        ("writ.command.id", id),
        ("writ.command.action", Some("say")),
        ("writ.command.requested_by", Some("admin")),
        ("writ.command.targets", Some("1")),
    ] {
        assert_eq!(attribute(&root.attributes, key).as_deref(), expected, "{root:?}");
    }
    for part in ["sign", "record", "agent"] {
        let part = one(&spans, &trace, part);
        assert_eq!(part.parent_span_id, root.span_id);
        assert!(part.start_time_unix_nano >= root.start_time_unix_nano / 1_000_000 * 1_000_000, "{spans:?}");
    }
    assert_eq!(one(&spans, &trace, "run").parent_span_id, agent.span_id);
    assert_eq!(attribute(&agent.attributes, "writ.receipt.outcome").as_deref(), Some("done"));
    assert_eq!(attribute(&agent.attributes, "writ.agent.id"), Some(fleet.agent_id("rome")));
    assert_eq!(agent.status.as_ref().unwrap().code(), StatusCode::Ok);

    let trace = trace_id(&refused);
    let agent = one(&spans, &trace, "agent");
    assert_eq!(attribute(&agent.attributes, "writ.refusal.code").as_deref(), Some("action_not_allowed"));
    assert_eq!(agent.status.as_ref().unwrap().code(), StatusCode::Error);
    assert!(!spans.iter().any(|span| span.trace_id == trace && span.name == "run"));

    let requests = collector.requests();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("writ-server"));
    // Neither parameters nor what was printed.
    assert!(!format!("{requests:?}").contains("hunter2"));
    // What the page promises is all there is.
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/telemetry.md")).unwrap();
    let keys = spans.iter().flat_map(|span| &span.attributes).chain(&resource.attributes);
    for name in keys.map(|attribute| &attribute.key).chain(spans.iter().map(|span| &span.name)) {
        assert!(page.contains(&format!("`{name}`")), "docs/telemetry.md does not tell `{name}`");
    }
}

#[test]
fn a_caller_finds_its_own_span_as_a_link_and_only_one_command_in_so_many_is_traced() {
    let mut fleet = Fleet::new(Build::Shipped);
    let collector = Collector::new(None);
    traced(&mut fleet, "http", collector.port);
    let _rome = fleet.agent("rome");
    let token = fs::read_to_string(fleet.path("server/admin-token")).unwrap();
    let ca = fleet.path("server/admin-ca.pem");
    let submit = |traceparent: &str| {
        let said = fleet.run_python_tool(
            "grpcurl",
            &[
                "-cacert",
                ca.to_str().unwrap(),
                "-H",
                &format!("authorization: Bearer {}", token.trim()),
                "-H",
                &format!("traceparent: {traceparent}"),
                "-d",
                r#"{"all": true, "ping": {}}"#,
                &format!("localhost:{}", fleet.admin_port()),
                "writ.admin.v1.CommandService/Submit",
            ],
        );
        let said = said.ok().json();
        hex::decode(said["commandId"].as_str().unwrap().replace('-', "")).unwrap()
    };
    let linked = submit("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let unlinked = submit("nonsense");
    let spans = collector.wait_for(|spans| spans.iter().filter(|span| span.name == "command").count() == 2);
    let link = &one(&spans, &linked, "command").links[0];
    assert_eq!(hex::encode(&link.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex::encode(&link.span_id), "b7ad6b7169203331");
    assert!(one(&spans, &unlinked, "command").links.is_empty());

    // The caller's own id decides: the half of it that is random is a multiple of the number, or not.
    fleet.server_config += "one_in = 4\n";
    fleet.kill_server();
    fleet.start_again();
    for id in ["01234567-89ab-7def-8123-456789abcde5", "01234567-89ab-7def-8123-456789abcde4"] {
        let _sent = fleet.writ(&["send", "ping", "--all", "--wait", "--id", id]).ok();
    }
    let is_traced = |spans: &[Span], last: u8| {
        spans.iter().any(|span| span.trace_id[..2] == [1, 0x23] && span.trace_id[15] == last)
    };
    let spans = collector.wait_for(|spans| is_traced(spans, 0xe4));
    assert!(!is_traced(&spans, 0xe5));
}

/// The value of a counter once it is more than this.
fn beyond(fleet: &Fleet, fate: &str, least: i64) -> i64 {
    let series = format!("writ_trace_spans_total{{fate=\"{fate}\"}}");
    let mut now = 0;
    until("the spans are not counted", || {
        now = value(&metrics(fleet), &series);
        now > least
    });
    now
}

const NOT_TAKEN: &str = "the collector does not take traces; they are lost meanwhile";

#[test]
fn a_collector_that_takes_nothing_costs_spans_and_no_command() {
    let mut fleet = Fleet::new(Build::Shipped);
    let collector = Collector::new(None);
    collector.behave(Manner::Refuses);
    traced(&mut fleet, "http", collector.port);
    let _rome = fleet.agent("rome");
    let _sent = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let said = fleet.server().wait_for(NOT_TAKEN, |_| true);
    assert!(said["reason"].as_str().unwrap().contains("full"), "{said}");
    let lost = beyond(&fleet, "lost", 0);
    let _sent = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    beyond(&fleet, "lost", lost);
    assert_eq!(fleet.server().count(NOT_TAKEN), 1, "once a minute");
    collector.behave(Manner::Takes);
    let _sent = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    beyond(&fleet, "exported", 0);
}

#[test]
fn whoever_is_not_vouched_for_is_told_nothing_and_one_that_hangs_holds_nobody_up() {
    let mut fleet = Fleet::new(Build::Shipped);
    let now = now();
    let stranger =
        TlsAuthority::create("stranger", now).unwrap().issue(&["localhost".to_owned()], now).unwrap();
    let collector = Collector::new(Some(&stranger));
    traced(&mut fleet, "https", collector.port);
    let _rome = fleet.agent("rome");
    let _sent = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let said = fleet.server().wait_for(NOT_TAKEN, |_| true);
    assert!(said["reason"].as_str().unwrap().contains("UnknownIssuer"), "{said}");
    beyond(&fleet, "lost", 0);
    assert!(collector.requests().is_empty());

    // It accepts, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    traced(&mut fleet, "https", silent.local_addr().unwrap().port());
    for _ in 0..3 {
        let _sent = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    }
    fleet.server().wait_for(NOT_TAKEN, |_| true);
    beyond(&fleet, "lost", 0);
    assert!(fleet.server.take().unwrap().stop().success());
}

#[test]
fn what_waits_for_a_slow_collector_when_the_server_ends_still_comes() {
    let mut fleet = Fleet::new(Build::Shipped);
    let collector = Collector::new(None);
    traced(&mut fleet, "http", collector.port);
    let _rome = fleet.agent("rome");
    collector.behave(Manner::Ponders);
    let mut last = Vec::new();
    for _ in 0..2 {
        let sent = fleet.writ(&["--output", "json", "send", "ping", "--all", "--wait"]).ok();
        last = trace_id(&sent.json());
    }
    let server = fleet.server.take().unwrap();
    server.signal("-TERM");
    collector.behave(Manner::Takes);
    let _spans =
        collector.wait_for(|spans| spans.iter().any(|span| span.trace_id == last && span.name == "run"));
    assert!(server.wait().0.success());
}
