//! Many agents in one process: each with its own TLS connection, identity key, trust chain and memory of
//! commands. They verify, admit, plan, sign and answer with the agent's own library code. Their journal is in
//! memory, which is the one thing a real agent does not do.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use writ_agent::{
    ActionTable, Ended, Identity, OwnWork, ReceiptContext, facts, frame, run_own, sign_receipt,
};
use writ_common::backoff::Backoff;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::{Anchors, connect};
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_proto::v1::{self as proto, agent_frame, server_frame::Frame};
use writ_protocol::admission::{JournalView, Novelty};
use writ_protocol::command::{ComponentUpdate, Delivery};
use writ_protocol::envelope::{
    AgentProofPurpose, AgentReportPurpose, Candidate, EnrolmentPurpose, IdentityRecordPurpose, Sealed,
    WelcomePurpose, sign, verify,
};
use writ_protocol::hello::{AgentProof, Expected, JournalStanding, Nonce, Welcome};
use writ_protocol::id::{CommandId, Digest, JournalId, SessionMark, random_bytes};
use writ_protocol::identity::{Enrolment, EnrolmentToken};
use writ_protocol::keys::{Algorithm, PrivateKey};
use writ_protocol::limits::{MAX_FRAME_BYTES, PROTOCOL};
use writ_protocol::receipt::{Decision, Ending};
use writ_protocol::report::AgentReport;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, Keyring};
use writ_protocol::verify::Verifier;

/// Agents that enrol at the same time.
const ENROLLING: usize = 64;
/// Agents that connect at the same time. Each host of a fleet answers at once; here they share two cores, and
/// with more of them the server would see thousands of connections that say nothing, which it closes.
const CONNECTING: usize = 512;
/// As in the agent itself.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

type Client = AgentGatewayClient<Channel>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the swarm has done so far.
#[derive(Debug, Default)]
struct Tally {
    enrolled: AtomicU64,
    connected: AtomicU64,
    /// Attempts, and sessions, that failed.
    failed: AtomicU64,
    started: AtomicU64,
    started_twice: AtomicU64,
}

/// Says how it stands whenever it is asked by a line on standard input; ends with it.
#[expect(clippy::print_stdout, reason = "`run` reads it")]
pub(crate) async fn run(agents: usize, token_file: &Path) {
    let token = EnrolmentToken::from_text(&std::fs::read_to_string(token_file).unwrap()).unwrap();
    let (token, tally) = (Arc::new(token), Arc::new(Tally::default()));
    let (enrolling, connecting) = (Arc::new(Semaphore::new(ENROLLING)), Arc::new(Semaphore::new(CONNECTING)));
    let table = Arc::new(ActionTable::default());
    for number in 0..agents {
        let (token, tally) = (Arc::clone(&token), Arc::clone(&tally));
        let (enrolling, table) = (Arc::clone(&enrolling), Arc::clone(&table));
        let connecting = Arc::clone(&connecting);
        #[expect(clippy::disallowed_methods, reason = "the swarm ends with its process")]
        tokio::spawn(async move {
            let mut agent = {
                let _turn = enrolling.acquire().await.unwrap();
                SwarmAgent::enroll(number, &token, table, Arc::clone(&tally)).await.unwrap()
            };
            tally.enrolled.fetch_add(1, Ordering::Relaxed);
            agent.hold_sessions(&connecting).await;
        });
    }
    tokio::task::spawn_blocking(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let said = serde_json::json!({
                "enrolled": load(&tally.enrolled),
                "connected": load(&tally.connected),
                "failed": load(&tally.failed),
                "started": load(&tally.started),
                "started_twice": load(&tally.started_twice),
            });
            println!("{said}");
        }
    })
    .await
    .unwrap();
    std::process::abort();
}

struct SwarmAgent {
    identity: Identity,
    chain: Chain,
    table: Arc<ActionTable>,
    endpoint: String,
    born: Timestamp,
    journal: JournalStanding,
    known: HashMap<CommandId, Remembered>,
    fetching: Option<Fetching>,
    tally: Arc<Tally>,
}

/// A component that is being fetched, for a command that is not answered yet.
struct Fetching {
    command: CommandId,
    digest: Digest,
    update: ComponentUpdate,
    came: u64,
    hasher: Context,
    /// When to ask again, if the server said so.
    again: Option<Instant>,
}

impl Fetching {
    fn request(&self) -> agent_frame::Frame {
        let sha256 = Bytes::copy_from_slice(self.update.sha256.as_bytes());
        agent_frame::Frame::PieceRequest(proto::PieceRequest { sha256, offset: self.came })
    }
}

struct Remembered {
    digest: Digest,
    /// Until the server acknowledged it.
    receipt: Option<Bytes>,
}

impl SwarmAgent {
    async fn enroll(
        number: usize,
        token: &EnrolmentToken,
        table: Arc<ActionTable>,
        tally: Arc<Tally>,
    ) -> Result<Self, Failure> {
        let endpoint = token.endpoints.first().ok_or("the token names no endpoint")?.clone();
        let anchors = Anchors::SpkiDigests(token.tls_ca_spki_digests.clone());
        let connection = connect(&endpoint, &anchors).await?;
        let mut client = client(connection.channel);
        let asked = proto::TrustChainRequest { version: token.bundle_version - 1, digest: Bytes::new() };
        let mut bundles = client.trust_chain(asked).await?.into_inner().bundles.into_iter();
        let mut chain = Chain::pinned(bundles.next().ok_or("no chain")?, token.bundle_digest)?;
        for bundle in bundles {
            chain.extend(bundle)?;
        }
        let key = PrivateKey::generate(Algorithm::Ed25519);
        let enrolment = Enrolment {
            fleet: token.fleet,
            token_digest: token.digest(),
            public_key: key.public().clone(),
            host_name: format!("swarm-{number}"),
            agent_version: writ_agent::VERSION.to_owned(),
            tls_leaf_spki_digest: connection.leaf_spki_digest,
        };
        let sealed: Sealed<EnrolmentPurpose> = sign(&[&key.for_purpose()], &enrolment);
        let request = proto::EnrollRequest {
            token_secret: token.secret.to_vec().into(),
            enrolment: sealed.bytes().clone(),
        };
        let answer = client.enroll(request).await?.into_inner();
        let keyring = Keyring::new(&chain.head().bundle, &token.realm);
        let record =
            verify::<IdentityRecordPurpose>(&answer.identity_record, &keyring.undated_candidates(), 1)?;
        let record = record.into_document();
        let born = record.recorded_at;
        Ok(Self {
            identity: Identity { record, envelope: answer.identity_record, key },
            chain,
            table,
            endpoint,
            born,
            journal: JournalStanding {
                id: JournalId::from_bytes(random_bytes()),
                counter: 0,
                admissions: 0,
                marks: Vec::new(),
                next_mark: SessionMark::from_bytes(random_bytes()),
            },
            known: HashMap::new(),
            fetching: None,
            tally,
        })
    }

    async fn hold_sessions(&mut self, connecting: &Semaphore) {
        let mut backoff = Backoff::new(FIRST_BACKOFF, MAX_BACKOFF);
        loop {
            if self.hold(&mut backoff, connecting).await.is_err() {
                self.tally.failed.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(backoff.after_failure()).await;
        }
    }

    async fn hold(&mut self, backoff: &mut Backoff, connecting: &Semaphore) -> Result<(), Failure> {
        let anchors = Anchors::Authorities(self.chain.head().bundle.tls_cas.clone());
        let turn = connecting.acquire().await?;
        let connection = Box::pin(connect(&self.endpoint, &anchors)).await?;
        drop(turn);
        let mut client = client(connection.channel);
        let (outbound, frames) = mpsc::channel(4);
        let (nonce, clock): (Nonce, _) = (random_bytes(), SystemClock::new());
        let head = self.chain.head();
        self.journal.counter += 1;
        let hello = proto::AgentHello {
            nonce: nonce.to_vec().into(),
            agent_id: self.identity.record.agent.as_bytes().to_vec().into(),
            protocol: PROTOCOL,
        };
        let asked = clock.monotonic();
        say(&outbound, agent_frame::Frame::Hello(hello)).await?;
        let mut inbound = client.connect(ReceiverStream::new(frames)).await?.into_inner();
        let Frame::Hello(envelope) = next(&mut inbound).await? else { return Err("no hello".into()) };
        let expected = Expected {
            bundle: &head.bundle,
            realm: &self.identity.record.realm,
            nonce,
            tls_leaf: connection.leaf_spki_digest,
            floor: Timestamp::ZERO,
            round_trip: clock.monotonic().saturating_sub(asked),
        };
        let verified = expected.verify(&envelope)?;
        let hello = verified.document();
        let proof = AgentProof {
            fleet: hello.fleet,
            agent: self.identity.record.agent,
            agent_nonce: nonce,
            server_nonce: hello.server_nonce,
            server_key: *verified.signers().first().ok_or("unsigned")?,
            tls_leaf_spki_digest: connection.leaf_spki_digest,
            agent_version: writ_agent::VERSION.to_owned(),
            bundle: (head.bundle.version, head.digest),
            journal: self.journal.clone(),
            identity_record: self.identity.envelope.clone(),
        };
        let sealed: Sealed<AgentProofPurpose> = sign(&[&self.identity.key.for_purpose()], &proof);
        say(&outbound, agent_frame::Frame::Proof(sealed.bytes().clone())).await?;
        let Frame::Welcome(envelope) = next(&mut inbound).await? else { return Err("no welcome".into()) };
        let keys = head.bundle.signing.iter().map(|entry| Candidate::accepted(entry.certificate.key()));
        let welcome = verify::<WelcomePurpose>(&envelope, &keys.collect::<Vec<_>>(), 1)?.into_document();
        let next_mark = SessionMark::from_bytes(random_bytes());
        self.journal.marks = vec![std::mem::replace(&mut self.journal.next_mark, next_mark)];
        let offset = (hello.time, asked);
        backoff.reset();
        self.tally.connected.fetch_add(1, Ordering::Relaxed);
        let ended = self.obey(&outbound, &mut inbound, welcome, offset).await;
        self.tally.connected.fetch_sub(1, Ordering::Relaxed);
        ended
    }

    async fn obey(
        &mut self,
        outbound: &mpsc::Sender<proto::AgentFrame>,
        inbound: &mut Streaming<proto::ServerFrame>,
        welcome: Welcome,
        (time, asked): (Timestamp, Duration),
    ) -> Result<(), Failure> {
        let clock = SystemClock::new();
        let mut reports = 1;
        say(outbound, self.report(welcome.server_nonce, reports)).await?;
        let mut ticks = tokio::time::interval(welcome.heartbeat);
        let owed: Vec<_> =
            self.known.iter().filter(|(_, known)| known.receipt.is_some()).map(|(id, _)| *id).collect();
        for id in owed {
            let known = &self.known[&id];
            outbound.send(frame(id, known.digest, known.receipt.clone(), 0)).await?;
        }
        loop {
            tokio::select! {
                message = inbound.message() => match message?.and_then(|message| message.frame) {
                    Some(Frame::Delivery(delivery)) => {
                        let now = time + clock.monotonic().saturating_sub(asked);
                        if let Some(answer) = self.receive(delivery, now)? {
                            outbound.send(answer).await?;
                        } else if let Some(fetching) = &self.fetching {
                            say(outbound, fetching.request()).await?;
                        }
                    }
                    Some(Frame::Piece(piece)) => {
                        let now = time + clock.monotonic().saturating_sub(asked);
                        if let Some(answer) = self.piece(piece, now)? {
                            outbound.send(answer).await?;
                        } else if let Some(fetching) = self.fetching.as_ref().filter(|one| one.again.is_none()) {
                            say(outbound, fetching.request()).await?;
                        }
                    }
                    Some(Frame::AnswerAck(ack)) => {
                        let id = CommandId::try_from(ack.command_id.as_ref())?;
                        if let Some(known) = self.known.get_mut(&id) {
                            known.receipt = None;
                        }
                    }
                    Some(Frame::Bundles(proto::Bundles { bundles })) => {
                        for bundle in bundles {
                            self.chain.extend(bundle)?;
                        }
                        reports += 1;
                        say(outbound, self.report(welcome.server_nonce, reports)).await?;
                    }
                    Some(Frame::ComeBack(_)) | None => return Ok(()),
                    Some(_) => {}
                },
                () = until(self.fetching.as_ref().and_then(|fetching| fetching.again)) => {
                    if let Some(fetching) = &mut self.fetching {
                        fetching.again = None;
                        say(outbound, fetching.request()).await?;
                    }
                }
                _ = ticks.tick() => {
                    say(outbound, agent_frame::Frame::Heartbeat(proto::Heartbeat {})).await?;
                }
            }
        }
    }

    /// Which bundle it holds now.
    fn report(&self, server_nonce: Nonce, number: u64) -> agent_frame::Frame {
        let head = self.chain.head();
        let report = AgentReport {
            fleet: self.identity.record.fleet,
            agent: self.identity.record.agent,
            server_nonce,
            facts: facts(),
            actions: Vec::new(),
            bundle: (head.bundle.version, head.digest),
            settings_revision: 0,
            number,
        };
        let sealed: Sealed<AgentReportPurpose> = sign(&[&self.identity.key.for_purpose()], &report);
        agent_frame::Frame::Report(sealed.bytes().clone())
    }

    /// Checks 1 to 12 as the agent makes them, but for the disk.
    fn receive(
        &mut self,
        delivery: proto::Delivery,
        now: Timestamp,
    ) -> Result<Option<proto::AgentFrame>, Failure> {
        let delivery = Delivery::try_from(delivery)?;
        let record = &self.identity.record;
        let verifier =
            Verifier { bundle: &self.chain.head().bundle, agent: record.agent, realm: &record.realm, now };
        let command = verifier.verify(&delivery)?;
        let (id, digest) = (command.command().id, command.digest());
        let known = self.known.get(&id);
        let view = JournalView {
            known: known.map(|known| known.digest),
            birth: self.born,
            forgotten_until: Timestamp::ZERO,
        };
        if view.novelty(&command)? == Novelty::Redelivery {
            return Ok(known.map(|known| frame(id, digest, known.receipt.clone(), 2)));
        }
        view.check_window(&command, now)?;
        let plan = self.table.plan(&command.command().action)?;
        self.journal.counter += 3;
        self.tally.started.fetch_add(1, Ordering::Relaxed);
        if let Some(OwnWork::Component(update)) = plan.own_work() {
            let (update, hasher) = (update.clone(), Context::new(&SHA256));
            self.fetching = Some(Fetching { command: id, digest, update, came: 0, hasher, again: None });
            return Ok(None);
        }
        let ended = run_own(&plan).ok_or("the swarm runs no processes")?;
        let journal_counter = self.journal.counter;
        let about = ReceiptContext { command: id, digest, decided_at: now, journal_counter, attempt: 1 };
        let decision = Decision::Obeyed(ended.outcome(now, now));
        let receipt = sign_receipt(&self.identity, about, decision, &ended.detail).bytes().clone();
        let before = self.known.insert(id, Remembered { digest, receipt: Some(receipt.clone()) });
        if before.is_some() {
            self.tally.started_twice.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some(frame(id, digest, Some(receipt), 1)))
    }
}

impl SwarmAgent {
    /// A piece of the component, which is hashed and not kept; the answer to the command when it was the
    /// last.
    fn piece(&mut self, piece: proto::Piece, now: Timestamp) -> Result<Option<proto::AgentFrame>, Failure> {
        let Some(fetching) = &mut self.fetching else { return Ok(None) };
        if piece.offset != fetching.came || piece.gone {
            return Err("not the piece that was asked for".into());
        }
        if piece.data.is_empty() {
            let wait = Duration::from_millis(piece.again_after_ms.into());
            fetching.again = Some(Instant::now() + wait);
            return Ok(None);
        }
        fetching.hasher.update(&piece.data);
        fetching.came += u64::try_from(piece.data.len())?;
        if fetching.came < fetching.update.bytes {
            return Ok(None);
        }
        let Some(Fetching { command, digest, update, hasher, .. }) = self.fetching.take() else {
            return Ok(None);
        };
        if hasher.finish().as_ref() != update.sha256.as_bytes() {
            return Err("other bytes came".into());
        }
        let ended = Ended::quiet(Ending::Done, "");
        let journal_counter = self.journal.counter;
        let about = ReceiptContext { command, digest, decided_at: now, journal_counter, attempt: 1 };
        let decision = Decision::Obeyed(ended.outcome(now, now));
        let receipt = sign_receipt(&self.identity, about, decision, &ended.detail).bytes().clone();
        self.known.insert(command, Remembered { digest, receipt: Some(receipt.clone()) });
        Ok(Some(frame(command, digest, Some(receipt), 1)))
    }
}

/// Until a moment, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn client(channel: Channel) -> Client {
    AgentGatewayClient::new(channel)
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES)
}

async fn say(outbound: &mpsc::Sender<proto::AgentFrame>, frame: agent_frame::Frame) -> Result<(), Failure> {
    Ok(outbound.send(proto::AgentFrame { frame: Some(frame) }).await?)
}

async fn next(inbound: &mut Streaming<proto::ServerFrame>) -> Result<Frame, Failure> {
    inbound.message().await?.and_then(|message| message.frame).ok_or_else(|| "the stream ended".into())
}
