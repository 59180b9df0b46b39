//! The channel: leaves come and go while sessions stay, and strangers take nothing from anybody.

use std::path::Path;
use std::time::Duration;

use integration_tests::fleet::{Build, Fleet};
use prost::Message as _;
use writ_common::keys::pem;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::{Anchors, LeafFacts, TlsAuthority, TlsLeaf, connect};
use writ_proto::v1 as proto;
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_protocol::envelope::{EnrolmentPurpose, sign};
use writ_protocol::identity::{Enrolment, EnrolmentToken};
use writ_protocol::keys::{Agent, Algorithm, PrivateKey};
use writ_protocol::time::Timestamp;

const DAY: Duration = Duration::from_secs(86_400);

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// A leaf of the fleet's own authority, issued so long ago.
fn leaf_issued(fleet: &Fleet, ago: Duration) -> TlsLeaf {
    let certificate = pem::certificates(&read(&fleet.path("server/admin-ca.pem"))).unwrap().remove(0);
    let key = pem::private_key(&read(&fleet.path("server/tls-ca.key"))).unwrap();
    let issued: Timestamp = SystemClock::new().wall() - ago;
    TlsAuthority { certificate, key }
        .issue(&["localhost".to_owned(), "127.0.0.1".to_owned()], issued)
        .unwrap()
}

fn put(fleet: &Fleet, leaf: &TlsLeaf) {
    let chain: String = leaf.chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
    fleet.write_secret("server/tls.key", &pem::encode("PRIVATE KEY", &leaf.key));
    fleet.write_secret("server/tls.pem", &chain);
}

fn leaf_in_place(fleet: &Fleet) -> LeafFacts {
    let chain = pem::certificates(&read(&fleet.path("server/tls.pem"))).unwrap();
    LeafFacts::read(&chain[0]).unwrap()
}

#[test]
fn a_replaced_leaf_is_shown_without_a_restart_and_no_session_ends() {
    let fleet = Fleet::new(Build::Shipped);
    let rome = fleet.agent("rome");
    put(&fleet, &leaf_issued(&fleet, DAY));
    fleet.server().signal("-HUP");
    fleet.server().wait_for("TLS leaf replaced", |_| true);
    let _oslo = fleet.agent("oslo");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
    assert_eq!(rome.count("session began"), 1);

    fleet.write_secret("server/tls.pem", "not a certificate");
    fleet.server().signal("-HUP");
    fleet.server().wait_for("the TLS leaf stays as it is", |said| {
        said["error"].as_str().unwrap().contains("neither PEM nor DER")
    });
    let _lima = fleet.agent("lima");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 3);
}

#[test]
fn a_leaf_renews_itself_when_two_thirds_of_its_life_are_over() {
    let fleet = Fleet::new(Build::Shipped);
    let _rome = fleet.agent("rome");
    let old = leaf_issued(&fleet, DAY * 300);
    put(&fleet, &old);
    fleet.server().signal("-HUP");
    fleet.server().wait_for("TLS leaf renewed", |_| true);
    let renewed = leaf_in_place(&fleet);
    assert!(renewed.not_after > LeafFacts::read(&old.chain[0]).unwrap().not_after);
    assert_eq!(renewed.names, ["localhost", "127.0.0.1"]);
    let _oslo = fleet.agent("oslo");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
}

#[test]
fn an_expired_leaf_is_renewed_at_the_start_and_the_agents_come_back() {
    let mut fleet = Fleet::new(Build::Shipped);
    let rome = fleet.agent("rome");
    fleet.kill_server();
    put(&fleet, &leaf_issued(&fleet, DAY * 400));
    fleet.start_server(None);
    fleet.add_context();
    rome.wait_for_count("session began", 2);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn a_server_killed_in_the_middle_of_a_renewal_has_a_leaf_and_its_key_after_the_restart() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    fleet.kill_server();
    put(&fleet, &leaf_issued(&fleet, DAY * 300));
    let stop = fleet.checkpoint("tls_key_renewed");
    let server = fleet.try_server_at(&stop);
    let held = stop.reached();
    server.kill();
    drop(held);
    fleet.start_server(None);
    fleet.add_context();
    rome.wait_for_count("session began", 2);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}

#[test]
fn ten_thousand_wrong_tokens_cost_little_and_keep_no_honest_agent_out() {
    let fleet = Fleet::new(Build::Shipped);
    let rome = fleet.agent("rome");
    let token = std::fs::read_to_string(fleet.token(1)).unwrap();
    let token = EnrolmentToken::from_text(&token).unwrap();
    let refusals = flood(&format!("localhost:{}", fleet.road.port()), &token);
    let [wrong, throttled] = refusals;
    assert_eq!(wrong + throttled, 10_000);
    assert!((20..200).contains(&wrong), "{wrong} wrong tokens were verified, the rest was not");
    assert_eq!(fleet.server().count("enrolment refused: token"), 1, "a stranger fills no log");
    // A good token lets in, from the same address too; agents that are in are not disturbed.
    let _oslo = fleet.agent("oslo");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 2);
    assert_eq!(rome.count("session began"), 1);
}

/// 10,000 enrolments with tokens nobody made: how many were refused, how many not even verified.
#[tokio::main(flavor = "current_thread")]
async fn flood(endpoint: &str, token: &EnrolmentToken) -> [usize; 2] {
    let anchors = Anchors::SpkiDigests(token.tls_ca_spki_digests.clone());
    let connection = connect(endpoint, &anchors).await.unwrap();
    let mut client = AgentGatewayClient::new(connection.channel);
    let key = PrivateKey::<Agent>::generate(Algorithm::Ed25519);
    let mut refusals = [0; 2];
    for number in 0..10_000_u32 {
        let wrong = EnrolmentToken { secret: [0; 32], ..token.clone() };
        let enrolment = Enrolment {
            fleet: token.fleet,
            token_digest: wrong.digest(),
            public_key: key.public().clone(),
            host_name: format!("thief-{number}"),
            agent_version: "1".to_owned(),
            tls_leaf_spki_digest: connection.leaf_spki_digest,
        };
        let sealed = sign::<EnrolmentPurpose>(&[&key.for_purpose()], &enrolment);
        let request = proto::EnrollRequest {
            token_secret: wrong.secret.to_vec().into(),
            enrolment: sealed.bytes().clone(),
        };
        assert!(request.encoded_len() < 1024);
        let refused = client.enroll(request).await.unwrap_err();
        match refused.code() {
            tonic::Code::PermissionDenied => refusals[0] += 1,
            tonic::Code::ResourceExhausted => refusals[1] += 1,
            other => panic!("{other}: {refused}"),
        }
    }
    refusals
}
