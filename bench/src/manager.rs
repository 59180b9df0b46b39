//! One Control Manager over simulated entities: each with a key, a TLS connection and, in two-way mode, a
//! port of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use writ_common::keys::pem;
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::{Anchors, Room, ServerTls, TlsAuthority, connect, incoming, spki_digest};
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_link_client::EntityLinkClient;
use writ_proto::manager::v1::entity_notify_server::{EntityNotify, EntityNotifyServer};
use writ_proto::manager::v1::registry_client::RegistryClient;
use writ_protocol::envelope::{Candidate, EntityCallPurpose, ManagerReplyPurpose, sign, verify};
use writ_protocol::id::ManagerId;
use writ_protocol::keys::{Algorithm, Entity, PrivateKey, SigningCertificate};
use writ_protocol::manager::{
    CallBody, EntityCall, Mode, Outcome, Poll, Registration, RegistrationToken, ReplyBody, TaskState,
};

use crate::figures::{count, float, median, now, percentile, progress};
use crate::process::{cpu, rss_kb};
use crate::table::{Figure, Goal};

/// Polls each entity makes one after the other, all entities at once.
const POLLS: usize = 50;
/// Instructions to one entity, one after the other.
const NOTIFIED: usize = 100;

/// What an entity tells the measurement.
struct Got {
    at: Instant,
}

struct One {
    channel: Channel,
    key: PrivateKey<Entity>,
    epoch: u64,
    counter: u64,
    after: u64,
    poke: Arc<Notify>,
    manager: ManagerId,
}

impl One {
    async fn call(&mut self, body: CallBody) -> ReplyBody {
        self.counter += 1;
        let sent_at = SystemClock::new().wall();
        let (key, epoch, counter) = (self.key.public().clone(), self.epoch, self.counter);
        let call = EntityCall { key, epoch, counter, sent_at, manager: self.manager, body };
        let envelope = sign::<EntityCallPurpose>(&[&self.key.for_purpose()], &call).bytes().clone();
        let request = proto::SignedCall { envelope };
        let reply = match &call.body {
            CallBody::Register(_) => RegistryClient::new(self.channel.clone()).register(request).await,
            _ => EntityLinkClient::new(self.channel.clone()).poll(request).await,
        };
        let reply = reply.unwrap().into_inner();
        let signer = SigningCertificate::from_der(&reply.certificate).unwrap();
        let read = verify::<ManagerReplyPurpose>(&reply.envelope, &[Candidate::accepted(signer.key())], 1);
        read.unwrap().into_document().body
    }

    /// Polls; `after` is then the newest instruction it has.
    async fn poll(&mut self, outcomes: Vec<Outcome>) {
        match self.call(CallBody::Poll(Poll { after: self.after, outcomes })).await {
            ReplyBody::Work(work) => {
                self.after += u64::try_from(work.instructions.len()).unwrap();
            }
            other => panic!("no work: {other:?}"),
        }
    }

    /// Polls when it is called until nothing more waits, and says what it has. The poll that reports an
    /// outcome may bring the next instruction.
    async fn listen(mut self, got: mpsc::Sender<Got>) {
        loop {
            self.poke.notified().await;
            let mut outcomes = Vec::new();
            loop {
                let before = self.after;
                self.poll(outcomes).await;
                if self.after == before {
                    break;
                }
                outcomes = (before + 1..=self.after).map(done).collect();
                for _ in &outcomes {
                    let _ = got.send(Got { at: now() }).await;
                }
            }
        }
    }
}

fn done(sequence: u64) -> Outcome {
    let (detail, command) = (String::new(), None);
    Outcome { sequence, state: TaskState::Successful, detail, command, total: 0, done: 0, failed: 0 }
}

#[derive(Debug)]
struct Ear(Arc<Notify>);

#[tonic::async_trait]
impl EntityNotify for Ear {
    async fn notify(
        &self,
        _: Request<proto::NotifyRequest>,
    ) -> Result<Response<proto::NotifyResponse>, Status> {
        self.0.notify_one();
        Ok(Response::new(proto::NotifyResponse {}))
    }
}

/// Registers an entity in two-way mode with a port of its own.
async fn entity(
    number: usize,
    (endpoint, anchors): (&str, &Anchors),
    (token, manager): (&RegistrationToken, ManagerId),
    (tls, leaf, tasks): (&ServerTls, writ_protocol::id::Digest, &Shutdown),
) -> One {
    let connection = connect(endpoint, anchors).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forwarding = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let poke = Arc::new(Notify::new());
    let service = EntityNotifyServer::new(Ear(Arc::clone(&poke)));
    let router = tonic::transport::Server::builder().add_service(service);
    let connections = incoming(listener, Some(tls), Room::OTHERS, tasks);
    tasks.spawn(async move { router.serve_with_incoming(connections).await });
    let key = PrivateKey::generate(Algorithm::Ed25519);
    let mut one = One { channel: connection.channel, key, epoch: 0, counter: 0, after: 0, poke, manager };
    let wish = Registration {
        display_name: format!("entity {number}"),
        host_name: "bench".to_owned(),
        product: "bench".to_owned(),
        version: "1".to_owned(),
        addresses: Vec::new(),
        mode: Mode::TwoWay { forwarding, leaf_spki_digest: leaf },
        entity: None,
        token: Some(token.prove(one.key.public())),
        heartbeat: Duration::from_secs(30),
        abnormal_after: Duration::from_secs(120),
    };
    match one.call(CallBody::Register(wish)).await {
        ReplyBody::Registered(standing) => one.epoch = standing.epoch,
        other => panic!("not registered: {other:?}"),
    }
    one
}

pub(crate) async fn measure(figures: &mut Vec<Figure>, entities: usize) {
    progress(&format!("one Control Manager over {entities} entities"));
    let (fleet, manager) = tokio::task::spawn_blocking(|| {
        let fleet = Fleet::new(Build::Shipped);
        let manager = Manager::new(&fleet);
        (fleet, manager)
    })
    .await
    .unwrap();
    let pid = manager.daemon().pid();
    let idle = rss_kb(pid);
    let made = fleet.cm(&["entities", "token", "--uses", &entities.to_string()]);
    let token: RegistrationToken = made["token"].as_str().unwrap().parse().unwrap();
    let id = fleet.cm(&["entities", "manager"])["manager_id"].as_str().unwrap().parse().unwrap();
    let anchors = Anchors::Authorities(pem::certificates(&std::fs::read(manager.ca()).unwrap()).unwrap());
    let endpoint = format!("localhost:{}", manager.link_port);
    let time = SystemClock::new().wall();
    let leaf = TlsAuthority::create("bench", time).unwrap().issue(&["127.0.0.1".to_owned()], time).unwrap();
    let (tls, digest) = (ServerTls::new(&leaf).unwrap(), spki_digest(&leaf.chain[0]).unwrap());
    let tasks = Shutdown::new();
    let mut all = Vec::new();
    for number in 0..entities {
        all.push(entity(number, (&endpoint, &anchors), (&token, id), (&tls, digest, &tasks)).await);
    }

    let all = poll_all(figures, all, pid).await;
    notify_all(figures, all, (fleet, manager), (pid, idle)).await;
    tasks.trigger();
}

/// Everybody at once, as fast as the manager answers; then one by one, as a heartbeat finds it.
async fn poll_all(figures: &mut Vec<Figure>, all: Vec<One>, pid: u32) -> Vec<One> {
    let entities = all.len();
    let (busy, start) = (cpu(pid), now());
    let mut polling = JoinSet::new();
    for mut one in all {
        polling.spawn(async move {
            let mut took = Vec::with_capacity(POLLS);
            for _ in 0..POLLS {
                let asked = now();
                one.poll(Vec::new()).await;
                took.push(asked.elapsed().as_secs_f64() * 1000.0);
            }
            (one, took)
        });
    }
    let done = polling.join_all().await;
    let (elapsed, used) = (start.elapsed(), cpu(pid) - busy);
    let polls = count(entities * POLLS);
    let mut all = Vec::new();
    for (one, _) in done {
        all.push(one);
    }
    let mut took = Vec::new();
    for one in &mut all {
        let asked = now();
        one.poll(Vec::new()).await;
        took.push(asked.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    let how = format!("{entities} entities, one durable write each");
    figures.push(Figure {
        name: "manager_poll_p50_ms",
        value: percentile(&took, 50),
        unit: "ms",
        goal: None,
        how: how.clone(),
    });
    figures.push(Figure {
        name: "manager_poll_p99_ms",
        value: percentile(&took, 99),
        unit: "ms",
        goal: None,
        how: how.clone(),
    });
    figures.push(Figure {
        name: "manager_polls_per_s",
        value: polls / elapsed.as_secs_f64(),
        unit: "/s",
        goal: None,
        how,
    });
    figures.push(Figure {
        name: "manager_cpu_us_per_poll",
        value: used.as_secs_f64() * 1e6 / polls,
        unit: "µs",
        goal: None,
        how: "all threads; a verification, a signature, a transaction, TLS".to_owned(),
    });

    all
}

/// Issued, called, polled, in hand.
async fn notify_all(
    figures: &mut Vec<Figure>,
    all: Vec<One>,
    (fleet, manager): (Fleet, Manager),
    (pid, idle): (u32, u64),
) {
    let entities = all.len();
    let (got, mut heard) = mpsc::channel(4096);
    let mut listening = JoinSet::new();
    for one in all {
        listening.spawn(one.listen(got.clone()));
    }
    let manager = Arc::new(manager);
    let fleet = Arc::new(fleet);
    let admin = Admin::new(&manager).await;
    let mut single = Vec::new();
    for _ in 0..NOTIFIED {
        let asked = now();
        admin.ask_status(&["entity 7"]).await;
        let Got { at } = heard.recv().await.unwrap();
        single.push((at - asked).as_secs_f64() * 1000.0);
    }
    let asked = now();
    admin.ask_status(&[]).await;
    let mut last = asked;
    for _ in 0..entities {
        last = last.max(heard.recv().await.unwrap().at);
    }
    figures.push(Figure {
        name: "manager_notification_p50_ms",
        value: median(single),
        unit: "ms",
        goal: Some(Goal::AtMost(1000.0)),
        how: format!("issue, call, poll, instruction in hand; two-way, {NOTIFIED} one after the other"),
    });
    figures.push(Figure {
        name: "manager_notification_all_ms",
        value: (last - asked).as_secs_f64() * 1000.0,
        unit: "ms",
        goal: Some(Goal::AtMost(1000.0)),
        how: format!("one instruction to {entities} two-way entities, all have it; 32 dials at a time"),
    });
    figures.push(Figure {
        name: "manager_rss_mb",
        value: float(rss_kb(pid)) / 1024.0,
        unit: "MB",
        goal: None,
        how: format!("{entities} entities connected; {:.1} MB idle", float(idle) / 1024.0),
    });
    listening.abort_all();
    drop(fleet);
}

/// The manager's admin port without a process for each call.
struct Admin {
    client: proto::instruction_service_client::InstructionServiceClient<Channel>,
    token: String,
}

impl Admin {
    async fn new(manager: &Manager) -> Self {
        let authorities = pem::certificates(&std::fs::read(manager.ca()).unwrap()).unwrap();
        let endpoint = format!("localhost:{}", manager.admin_port);
        let connection = connect(&endpoint, &Anchors::Authorities(authorities)).await.unwrap();
        let token = std::fs::read_to_string(manager.path("admin-token")).unwrap();
        let client = proto::instruction_service_client::InstructionServiceClient::new(connection.channel);
        Self { client, token }
    }

    /// To these, or to all.
    async fn ask_status(&self, entities: &[&str]) {
        let task = proto::issue_instruction_request::Task::AskStatus(proto::AskStatus {});
        let mut request = Request::new(proto::IssueInstructionRequest {
            entities: entities.iter().map(|name| (*name).to_owned()).collect(),
            all: entities.is_empty(),
            task: Some(task),
            ..Default::default()
        });
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {}", self.token.trim()).parse().unwrap());
        self.client.clone().issue(request).await.unwrap();
    }
}
