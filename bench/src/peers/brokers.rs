//! Message brokers, which carry bytes and know nothing of commands: nothing is signed, verified or kept.
//! Their clients are as plain as can be, so that what is measured is the broker: the NATS client protocol
//! and MQTT 3.1.1 with quality of service 0.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{FAN_OUTS, FEW, MANY, ONE_AFTER_THE_OTHER, Peer, one_after_the_other};
use crate::figures::{count, float, median, now, progress};
use crate::process::{cpu, rss_kb};

/// About as much as a ping and its receipt.
const PAYLOAD: [u8; 300] = [b'x'; 300];
/// Where answers go.
const ANSWERS: &str = "answers";
/// Messages to one client, so many of them under way.
const PIPELINED: usize = 50_000;
const UNDER_WAY: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Broker {
    Nats,
    Mosquitto,
}

pub(super) async fn measure(broker: Broker) -> Peer {
    let name = match broker {
        Broker::Nats => "NATS",
        Broker::Mosquitto => "mosquitto",
    };
    let mut peer =
        Peer { name, notes: "clear text; nothing signed, nothing kept".to_owned(), ..Peer::default() };
    peer.fanout_100_ms = answered(broker, FEW, &mut peer).await;
    peer.fanout_1000_ms = answered(broker, MANY, &mut peer).await;
    peer
}

/// One message to so many clients, and what else is asked of them; the last call counts.
async fn answered(broker: Broker, clients: usize, peer: &mut Peer) -> f64 {
    progress(&format!("{}, {clients} clients", peer.name));
    let folder = tempfile::tempdir().unwrap();
    let server = broker.start(folder.path());
    let mut line = Line::connect(broker, server.port, "asks").await;
    line.subscribe(ANSWERS).await;
    let before = rss_kb(server.child.id());
    let _swarm = swarm(broker, server.port, clients);
    peer.kb_per_connection = Some((float(rss_kb(server.child.id())) - float(before)) / count(clients));
    let mut all = Vec::new();
    let spent = cpu(server.child.id());
    for _ in 0..=FAN_OUTS {
        let start = now();
        line.publish("all").await;
        for _ in 0..clients {
            line.hear().await;
        }
        all.push(start.elapsed().as_secs_f64());
    }
    let spent = (cpu(server.child.id()) - spent).as_secs_f64();
    peer.server_us_per_reply = spent * 1e6 / count((FAN_OUTS + 1) * clients);
    let mut ones = Vec::new();
    for _ in 0..ONE_AFTER_THE_OTHER {
        let start = now();
        line.publish("client0").await;
        line.hear().await;
        ones.push(start.elapsed().as_secs_f64());
    }
    (peer.one_p50_ms, peer.one_p99_ms) = one_after_the_other(ones);
    let start = now();
    for number in 0..PIPELINED {
        line.publish("client0").await;
        if number >= UNDER_WAY {
            line.hear().await;
        }
    }
    for _ in 0..UNDER_WAY {
        line.hear().await;
    }
    peer.commands_per_s = count(PIPELINED) / start.elapsed().as_secs_f64();
    // The first one warms it.
    median(all.split_off(1)) * 1e3
}

/// A process that ends with this.
struct Running {
    child: Child,
    port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the peers are processes of their own")]
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

impl Broker {
    fn start(self, folder: &Path) -> Running {
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let peers = PathBuf::from("target/peers");
        let mut command = match self {
            Self::Nats => {
                let mut command = command(peers.join("python/bin/nats-server"));
                command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
                command
            }
            Self::Mosquitto => {
                let config = folder.join("mosquitto.conf");
                // Whoever started it owns its files.
                let text = format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n"
                );
                std::fs::write(&config, text).unwrap();
                let mut command = command(peers.join("mosquitto/bin/mosquitto"));
                command.arg("-c").arg(config);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Running { child, port };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        running
    }
}

/// Starts the clients, and returns when all have subscribed.
fn swarm(broker: Broker, port: u16, clients: usize) -> Running {
    use std::io::BufRead as _;
    let broker = clap::ValueEnum::to_possible_value(&broker).unwrap();
    let mut command = command(std::env::current_exe().unwrap());
    command.args(["clients", broker.get_name(), &port.to_string(), &clients.to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let stdout = child.stdout.take().unwrap();
    std::io::BufReader::new(stdout).read_line(&mut said).unwrap();
    assert_eq!(said, "connected\n");
    Running { child, port }
}

/// So many clients that answer whatever they hear, until the process is killed.
#[expect(clippy::print_stdout, reason = "who started it waits for that")]
pub(crate) async fn clients(broker: Broker, port: u16, clients: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let name = format!("client{number}");
        let mut line = Line::connect(broker, port, &name).await;
        line.subscribe("all").await;
        line.subscribe(&name).await;
        tasks.spawn(async move {
            loop {
                line.hear().await;
                line.publish(ANSWERS).await;
            }
        });
    }
    println!("connected");
    tasks.join_all().await;
}

/// A client's connection.
struct Line {
    broker: Broker,
    stream: TcpStream,
    heard: Vec<u8>,
    /// How many subscriptions it has.
    subscriptions: u16,
}

impl Line {
    #[expect(clippy::disallowed_methods, reason = "a broker of this measurement, on this machine")]
    async fn connect(broker: Broker, port: u16, name: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut line = Self { broker, stream, heard: Vec::new(), subscriptions: 0 };
        match broker {
            Broker::Nats => {
                line.text().await;
                line.stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n").await.unwrap();
            }
            Broker::Mosquitto => {
                // Protocol level 4, a clean session, no keep-alive.
                let mut packet = b"\0\x04MQTT\x04\x02\0\0".to_vec();
                packet.extend(text_of(name));
                line.send(0x10, &packet).await;
                assert_eq!(line.packet().await, (0x20, vec![0, 0]), "CONNACK");
            }
        }
        line
    }

    async fn subscribe(&mut self, subject: &str) {
        self.subscriptions += 1;
        match self.broker {
            Broker::Nats => {
                let text = format!("SUB {subject} {}\r\nPING\r\n", self.subscriptions);
                self.stream.write_all(text.as_bytes()).await.unwrap();
                assert_eq!(self.text().await, "PONG");
            }
            Broker::Mosquitto => {
                let mut packet = self.subscriptions.to_be_bytes().to_vec();
                packet.extend(text_of(subject));
                packet.push(0);
                self.send(0x82, &packet).await;
                assert_eq!(self.packet().await.0, 0x90, "SUBACK");
            }
        }
    }

    async fn publish(&mut self, subject: &str) {
        match self.broker {
            Broker::Nats => {
                let mut message = format!("PUB {subject} {}\r\n", PAYLOAD.len()).into_bytes();
                message.extend(PAYLOAD);
                message.extend(b"\r\n");
                self.stream.write_all(&message).await.unwrap();
            }
            Broker::Mosquitto => {
                let mut packet = text_of(subject);
                packet.extend(PAYLOAD);
                self.send(0x30, &packet).await;
            }
        }
    }

    /// The next message.
    async fn hear(&mut self) {
        match self.broker {
            Broker::Nats => loop {
                let said = self.text().await;
                if said == "PING" {
                    self.stream.write_all(b"PONG\r\n").await.unwrap();
                    continue;
                }
                assert!(said.starts_with("MSG "), "{said}");
                let bytes: usize = said.rsplit(' ').next().unwrap().parse().unwrap();
                self.take(bytes + 2).await;
                return;
            },
            Broker::Mosquitto => assert_eq!(self.packet().await.0 & 0xf0, 0x30, "PUBLISH"),
        }
    }

    /// A line of text, without its end.
    async fn text(&mut self) -> String {
        loop {
            if let Some(end) = self.heard.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2).await;
                return String::from_utf8(line[..end].to_vec()).unwrap();
            }
            self.more().await;
        }
    }

    /// A packet of MQTT: its first byte, and what follows its length.
    async fn packet(&mut self) -> (u8, Vec<u8>) {
        let first = self.take(1).await[0];
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.take(1).await[0];
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        (first, self.take(length).await)
    }

    async fn send(&mut self, first: u8, content: &[u8]) {
        let mut packet = vec![first];
        let mut left = content.len();
        loop {
            let part = u8::try_from(left % 128).unwrap();
            left /= 128;
            packet.push(if left > 0 { part | 0x80 } else { part });
            if left == 0 {
                break;
            }
        }
        packet.extend(content);
        self.stream.write_all(&packet).await.unwrap();
    }

    async fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.heard.len() < bytes {
            self.more().await;
        }
        let rest = self.heard.split_off(bytes);
        std::mem::replace(&mut self.heard, rest)
    }

    async fn more(&mut self) {
        assert_ne!(self.stream.read_buf(&mut self.heard).await.unwrap(), 0, "the broker hung up");
    }
}

/// A text as MQTT writes it.
fn text_of(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}
