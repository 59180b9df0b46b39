//! Strangers: a peer that has proven nothing gets little room, and keeps nobody out.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::StreamBody;
use integration_tests::fleet::{Build, Fleet};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service as _;
use writ_common::keys::pem;
use writ_common::tls::{Anchors, Connection, connect};

/// What a server of today's size would never need for strangers.
const MUCH: u64 = 128 << 20;
/// Longer than anything here takes, shorter than a probation.
const PATIENCE: Duration = Duration::from_secs(40);

/// The most memory a process has taken since [`forget_peak`], in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn forget_peak(pid: u32) -> u64 {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    peak(pid)
}

/// Begins a call whose one message is to have so many bytes, and never ends it.
async fn begin(mut channel: Channel, path: &'static str, bytes: u32) -> Result<Option<Code>, ()> {
    let mut head = BytesMut::from([0_u8].as_slice());
    head.extend_from_slice(&bytes.to_be_bytes());
    let chunks = usize::try_from(bytes / 16_384).unwrap();
    let said =
        std::iter::once(head.freeze()).chain(std::iter::repeat_n(Bytes::from(vec![0; 16_384]), chunks));
    let frames = tokio_stream::iter(said.map(|bytes| Ok::<_, tonic::Status>(Frame::data(bytes))));
    let body = Body::new(StreamBody::new(frames.chain(tokio_stream::pending())));
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(|_| ())?;
    let answer = channel.call(request).await.map_err(|_| ())?;
    Ok(answer.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes())))
}

async fn stranger(fleet: &Fleet, port: u16) -> Connection {
    let authorities = pem::certificates(&fs::read(fleet.path("server/admin-ca.pem")).unwrap()).unwrap();
    connect(&format!("localhost:{port}"), &Anchors::Authorities(authorities)).await.unwrap()
}

#[test]
fn a_message_larger_than_its_method_needs_is_refused_before_it_is_kept() {
    let fleet = Fleet::new(Build::Shipped);
    let pid = fleet.server().pid();
    let before = forget_peak(pid);
    let agents = ["/writ.v1.AgentGateway/Enroll", "/writ.v1.AgentGateway/TrustChain"];
    let ports =
        [(fleet.road.port(), agents.as_slice()), (fleet.admin_port(), &["/grpc.health.v1.Health/Check"])];
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        for (port, paths) in ports {
            for path in paths {
                let mut held = Vec::new();
                for _ in 0..16 {
                    let connection = stranger(&fleet, port).await;
                    // As many as a connection may have open.
                    let begun = (0..4).map(|_| begin(connection.channel.clone(), path, (1 << 20) - 64));
                    let calls: JoinSet<_> = begun.collect();
                    let answers = tokio::time::timeout(PATIENCE, calls.join_all()).await;
                    let answers = answers.expect("the server waits for the rest of what is too large");
                    assert!(
                        answers.iter().all(|code| *code == Ok(Some(Code::OutOfRange))),
                        "{path}: {answers:?}"
                    );
                    held.push(connection);
                }
            }
        }
    });
    let grown = peak(pid).saturating_sub(before);
    assert!(grown < MUCH / 4, "{} KiB for connections that prove nothing", grown >> 10);
}

#[test]
fn what_strangers_send_has_so_much_room_and_the_oldest_go() {
    let fleet = Fleet::new(Build::Shipped);
    let rome = fleet.agent("rome");
    let pid = fleet.server().pid();
    let before = forget_peak(pid);
    let path = "/writ.v1.AgentGateway/HandBack";
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut calls = JoinSet::new();
        for number in 0..40 {
            let connection = stranger(&fleet, fleet.road.port()).await;
            for _ in 0..4 {
                let channel = connection.channel.clone();
                calls.spawn(async move { (number, begin(channel, path, (1 << 20) - 64).await) });
            }
        }
        // Nobody says how it goes on: a call ends only with its connection.
        let first = tokio::time::timeout(PATIENCE, calls.join_next()).await;
        let (number, ended) = first.expect("all of them are kept").unwrap().unwrap();
        assert!(number < 20, "an old one had to go, and number {number} did");
        assert_eq!(ended, Err(()));
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    });
    fleet.server().wait_for(
        "connections that prove nothing take too much room: the oldest of this address go",
        |said| said["source"] == "127.0.0.1",
    );
    assert_eq!(rome.count("session began"), 1, "who has proven itself stays");
    let grown = peak(pid).saturating_sub(before);
    assert!(grown < MUCH, "{} KiB for what strangers send", grown >> 10);
}

async fn silent(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[test]
fn silent_sockets_of_one_address_keep_no_agent_of_another_out() {
    let fleet = Fleet::new(Build::Shipped);
    let server = SocketAddr::from(([127, 0, 0, 1], fleet.road.destination()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let held = runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..2400 {
            held.push(silent("127.0.0.2", server).await);
        }
        held
    });
    let _rome = fleet.agent("rome");
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    fleet.server().wait_for(
        "connections that prove nothing take too much room: the oldest of this address go",
        |said| said["source"] == "127.0.0.2",
    );
    drop(held);
}
