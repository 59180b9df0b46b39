//! A Control Manager that says what a story wants it to say, under keys of the story's choice: the real
//! one's, or a thief's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message as _;
use tokio::runtime::Runtime;
use tokio_stream::Empty;
use tonic::{Request, Response, Status};
use writ_common::keys::pem;
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::{Room, ServerTls, TlsAuthority, incoming};
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_link_server::{EntityLink, EntityLinkServer};
use writ_proto::manager::v1::objects_piece::Piece;
use writ_proto::manager::v1::registry_server::{Registry, RegistryServer};
use writ_protocol::envelope::{
    Candidate, EntityCallPurpose, InstructionPurpose, ManagerReplyPurpose, sign, verify,
};
use writ_protocol::id::{Digest, EntityId, ManagerId};
use writ_protocol::keys::{Algorithm, Manager as Holder, PrivateKey, PublicKey};
use writ_protocol::manager::{
    CallBody, EntityCall, Instruction, Listing, ManagerVersion, ObjectsOffer, PROTOCOL, ProbeAnswer, Reply,
    ReplyBody, Task, Work,
};
use writ_protocol::time::Timestamp;

/// The number of every registration with it.
pub const EPOCH: u64 = 7;

/// It answers until it is dropped.
#[derive(Debug)]
pub struct ForgedManager {
    runtime: Runtime,
    shutdown: Shutdown,
    inner: Arc<Inner>,
    /// Where it listens.
    pub port: u16,
    /// Its authority, PEM.
    pub ca: String,
}

#[derive(Debug)]
struct Inner {
    authority: TlsAuthority,
    key: PrivateKey<Holder>,
    id: ManagerId,
    script: Mutex<Script>,
}

/// What it says.
#[derive(Debug, Default)]
struct Script {
    /// Polls so far.
    calls: Vec<EntityCall>,
    /// Batches of instructions for the next polls.
    batches: VecDeque<Vec<Bytes>>,
    /// What is offered to those who fetch objects next, and what follows.
    objects: VecDeque<(ObjectsOffer, Vec<u8>)>,
    /// Announced instead of the real one.
    protocol: Option<u32>,
    version: Option<ManagerVersion>,
    /// Signs replies instead of its own, certified by nobody it should be.
    strange_key: bool,
    /// Signs by the key of the TLS leaf.
    web_key: bool,
    /// Answers every call with the same old answer.
    stale: bool,
}

fn now() -> Timestamp {
    SystemClock::new().wall()
}

impl ForgedManager {
    /// A new one with an authority of its own.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn new() -> Self {
        let authority = TlsAuthority::create("forged", now()).unwrap();
        let leaf = authority.issue(&["localhost".to_owned(), "127.0.0.1".to_owned()], now()).unwrap();
        let ca = pem::encode("CERTIFICATE", &authority.certificate).to_string();
        let inner = Arc::new(Inner {
            authority,
            key: PrivateKey::generate(Algorithm::Ed25519),
            id: ManagerId::generate(now()),
            script: Mutex::default(),
        });
        let runtime = Runtime::new().unwrap();
        let shutdown = Shutdown::new();
        let (service, tasks) = (Forged(Arc::clone(&inner)), shutdown.clone());
        let port = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let tls = ServerTls::new(&leaf).unwrap();
            let router = tonic::transport::Server::builder()
                .add_service(RegistryServer::new(service.clone()))
                .add_service(EntityLinkServer::new(service));
            let connections = incoming(listener, Some(&tls), Room::AGENTS, &tasks);
            tasks.spawn(async move { router.serve_with_incoming(connections).await });
            port
        });
        Self { runtime, shutdown, inner, port, ca }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ManagerId {
        self.inner.id
    }

    /// What the next poll but those that wait is answered.
    ///
    /// # Panics
    /// When a story panicked while it looked.
    pub fn hand_over(&self, instructions: Vec<Bytes>) {
        self.inner.script.lock().unwrap().batches.push_back(instructions);
    }

    /// What is offered to who fetches objects next, and what follows.
    ///
    /// # Panics
    /// When a story panicked while it looked.
    pub fn offer(&self, offer: ObjectsOffer, content: &[u8]) {
        self.inner.script.lock().unwrap().objects.push_back((offer, content.to_vec()));
    }

    /// Announces another protocol and version.
    ///
    /// # Panics
    /// When a story panicked while it looked.
    pub fn announce(&self, protocol: u32, version: &str) {
        let mut script = self.inner.script.lock().unwrap();
        (script.protocol, script.version) = (Some(protocol), Some(version.parse().unwrap()));
    }

    /// Signs by a key its authority did not certify, from now on or no more.
    ///
    /// # Panics
    /// When a story panicked while it looked.
    pub fn sign_strangely(&self, strangely: bool) {
        self.inner.script.lock().unwrap().strange_key = strangely;
    }

    /// Signs by the key of the TLS leaf, which the same authority certified, from now on.
    ///
    /// # Panics
    /// When a story panicked while it looked.
    pub fn sign_by_the_web_servers_key(&self) {
        self.inner.script.lock().unwrap().web_key = true;
    }

    /// Plays an old answer again, from now on or no more.
    ///
    /// # Panics
    /// When a story panicked while it looked.
    pub fn play_old_answers(&self, stale: bool) {
        self.inner.script.lock().unwrap().stale = stale;
    }

    /// Every call so far.
    ///
    /// # Panics
    /// When a story panicked while it looked.
    #[must_use]
    pub fn calls(&self) -> Vec<EntityCall> {
        self.inner.script.lock().unwrap().calls.clone()
    }

    /// An instruction as this manager would make it.
    #[must_use]
    pub fn instruction(&self, entity: EntityId, sequence: u64, task: Task) -> Instruction {
        let issued_at = now();
        Instruction {
            manager: self.inner.id,
            entity,
            epoch: EPOCH,
            sequence,
            issued_at,
            expires_at: issued_at + std::time::Duration::from_secs(600),
            requested_by: "thief".to_owned(),
            task,
        }
    }

    /// Signed by the key its authority certified.
    #[must_use]
    pub fn sealed(&self, instruction: &Instruction) -> Bytes {
        sign::<InstructionPurpose>(&[&self.inner.key.for_purpose()], instruction).bytes().clone()
    }
}

impl Default for ForgedManager {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ForgedManager {
    fn drop(&mut self) {
        self.shutdown.trigger();
        let _ended = self.runtime.block_on(self.shutdown.drain(std::time::Duration::from_millis(100)));
    }
}

#[derive(Debug, Clone)]
struct Forged(Arc<Inner>);

type Answer = Result<Response<proto::ManagerReply>, Status>;

impl Forged {
    fn reply(&self, request: Digest, body: ReplyBody) -> Answer {
        let script = self.0.script.lock().unwrap();
        let request = if script.stale { Digest::of(b"an old call") } else { request };
        let reply = Reply { request, time: now(), body };
        let key =
            if script.strange_key { PrivateKey::generate(Algorithm::Ed25519) } else { self.0.key.clone() };
        let (key, certificate) = if script.web_key {
            let leaf = self.0.authority.issue(&["localhost".to_owned()], now()).unwrap();
            (PrivateKey::from_pkcs8(&leaf.key).unwrap(), leaf.chain[0].clone())
        } else {
            (key, self.0.authority.certify(&self.0.key, "forged", now()).unwrap())
        };
        Ok(Response::new(proto::ManagerReply {
            envelope: sign::<ManagerReplyPurpose>(&[&key.for_purpose()], &reply).bytes().clone(),
            certificate: certificate.into(),
            intermediates: Vec::new(),
        }))
    }

    fn listed(&self, request: &proto::SignedCall) -> Answer {
        let (digest, call) = read(request);
        let (CallBody::Register(registration) | CallBody::Update(registration)) = &call.body else {
            return Err(Status::invalid_argument("no registration"));
        };
        let version = self.0.script.lock().unwrap().version;
        let standing = Listing {
            entity: registration.entity.unwrap_or_else(|| EntityId::generate(now())),
            epoch: EPOCH,
            is_approved: true,
            manager: self.0.id,
            version: version.unwrap_or_else(|| "7.0".parse().unwrap()),
            sandbox_connected: false,
        };
        self.0.script.lock().unwrap().calls.push(call);
        self.reply(digest, ReplyBody::Registered(standing))
    }
}

fn read(request: &proto::SignedCall) -> (Digest, EntityCall) {
    let envelope = writ_proto::v1::Envelope::decode(request.envelope.clone()).unwrap();
    let call = proto::EntityCall::decode(envelope.payload).unwrap();
    let key = PublicKey::from_spki(&call.entity_key).unwrap();
    let verified = verify::<EntityCallPurpose>(&request.envelope, &[Candidate::accepted(&key)], 1).unwrap();
    (verified.digest(), verified.into_document())
}

#[tonic::async_trait]
impl Registry for Forged {
    async fn probe(&self, request: Request<proto::ProbeRequest>) -> Answer {
        let nonce = Digest::try_from(request.into_inner().nonce.as_ref()).unwrap();
        let (protocol, version) = {
            let script = self.0.script.lock().unwrap();
            (script.protocol.unwrap_or(PROTOCOL), script.version)
        };
        let answer = ProbeAnswer {
            manager: self.0.id,
            version: version.unwrap_or_else(|| "7.0".parse().unwrap()),
            protocol,
            sandbox_connected: false,
            callback: None,
        };
        self.reply(nonce, ReplyBody::Probe(answer))
    }

    async fn register(&self, request: Request<proto::SignedCall>) -> Answer {
        self.listed(request.get_ref())
    }

    async fn update(&self, request: Request<proto::SignedCall>) -> Answer {
        self.listed(request.get_ref())
    }

    async fn unregister(&self, request: Request<proto::SignedCall>) -> Answer {
        let (digest, call) = read(request.get_ref());
        self.0.script.lock().unwrap().calls.push(call);
        self.reply(digest, ReplyBody::Left)
    }
}

#[tonic::async_trait]
impl EntityLink for Forged {
    async fn poll(&self, request: Request<proto::SignedCall>) -> Answer {
        let (digest, call) = read(request.get_ref());
        let instructions = {
            let mut script = self.0.script.lock().unwrap();
            script.calls.push(call);
            script.batches.pop_front().unwrap_or_default()
        };
        self.reply(digest, ReplyBody::Work(Work { instructions, has_more: false, sandbox_connected: false }))
    }

    async fn subscribe(&self, request: Request<proto::SignedCall>) -> Answer {
        let (digest, call) = read(request.get_ref());
        self.0.script.lock().unwrap().calls.push(call);
        self.reply(digest, ReplyBody::Subscribed)
    }

    type FetchObjectsStream = tokio_stream::Iter<std::vec::IntoIter<Result<proto::ObjectsPiece, Status>>>;

    async fn fetch_objects(
        &self,
        request: Request<proto::SignedCall>,
    ) -> Result<Response<Self::FetchObjectsStream>, Status> {
        let (digest, call) = read(request.get_ref());
        let (offer, data) = {
            let mut script = self.0.script.lock().unwrap();
            script.calls.push(call);
            let nothing = || Status::unavailable("the story has no objects");
            script.objects.pop_front().ok_or_else(nothing)?
        };
        let reply = self.reply(digest, ReplyBody::Objects(offer))?.into_inner();
        let piece = |piece| Ok(proto::ObjectsPiece { piece: Some(piece) });
        let mut pieces = vec![piece(Piece::Reply(reply))];
        pieces.extend(data.chunks(1000).map(|data| piece(Piece::Data(Bytes::copy_from_slice(data)))));
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    type FetchUpdateStream = Empty<Result<proto::UpdatePiece, Status>>;

    async fn fetch_update(
        &self,
        _: Request<proto::FetchUpdateRequest>,
    ) -> Result<Response<Self::FetchUpdateStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}
