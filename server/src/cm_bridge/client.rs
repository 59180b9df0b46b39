//! Talking to the manager: every call is signed, every answer is checked against the authority that was
//! uploaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tower::Service;
use writ_common::keys::vault::Vault;
use writ_common::keys::vouched::NotVouched;
use writ_common::text::quoted;
use writ_common::time::SharedClock;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_link_client::EntityLinkClient;
use writ_proto::manager::v1::objects_piece::Piece;
use writ_proto::manager::v1::registry_client::RegistryClient;
use writ_proto::manager::v1::{ObjectsPiece, UpdatePiece};
use writ_protocol::envelope::{Candidate, EntityCallPurpose, ManagerReplyPurpose, sign, verify};
use writ_protocol::id::{Digest, ManagerId, random_bytes};
use writ_protocol::keys::{Entity, PrivateKey, PublicKey, SigningCertificate};
use writ_protocol::limits::MAX_FRAME_BYTES;
use writ_protocol::manager::{CallBody, EntityCall, ObjectsCall, PROTOCOL, ProbeAnswer, Reply, ReplyBody};
use writ_protocol::time::Timestamp;

use super::Speaker;
use super::connect::{connect, open};
use super::legs::{Fault, Leg, Legs};
use super::settings::Settings;
use writ_common::net::basic;

/// How long an answer may take: less than an operator's call to this server, which waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection to the manager. Calls on it are made one after the other.
#[derive(Debug, Clone)]
pub(crate) struct ManagerClient {
    web: Web,
    /// Which authorities count is a question of the moment, not of when the line was opened.
    settings: Settings,
    clock: SharedClock,
}

/// What a manager does when it is asked for a file of the repository that it mirrors.
#[derive(Debug)]
pub(crate) enum Mirrored {
    /// It sends it.
    File(Box<Streaming<UpdatePiece>>),
    /// It has none; in its words.
    Missing(String),
    /// It sends too many at this moment.
    Later,
}

/// What is asked of the manager.
#[derive(Debug, Clone)]
enum Question {
    Probe(proto::ProbeRequest),
    Register(proto::SignedCall),
    Update(proto::SignedCall),
    Unregister(proto::SignedCall),
    Poll(proto::SignedCall),
    Subscribe(proto::SignedCall),
}

/// An answer that was checked.
#[derive(Debug)]
pub(crate) struct ManagerAnswer {
    /// What it says.
    pub body: ReplyBody,
    /// What time it is there.
    pub time: Timestamp,
    /// The key that said it. Vouched for, unless nothing is pinned.
    pub key: PublicKey,
    /// Whose it is.
    pub speaker: Speaker,
    /// SHA-256 of the authority in force; empty if none is.
    pub newest: String,
}

impl ManagerClient {
    /// Goes the way of the settings.
    ///
    /// # Errors
    /// The leg that failed.
    pub(crate) async fn open(
        settings: &Settings,
        vault: &Vault,
        clock: &SharedClock,
        legs: &mut Legs,
    ) -> Result<Self, Fault> {
        let now = clock.wall();
        let header = match &settings.web {
            Some(login) => {
                let password = open(login, vault, Leg::WebAuthentication)?;
                let value = HeaderValue::try_from(basic(&login.user, &password).as_str());
                let mut value = value.map_err(|_| {
                    let advice = "set user and password of the web server anew";
                    Fault::new(Leg::WebAuthentication, "the password cannot stand in a header", advice)
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let channel = connect(settings, vault, now, legs).await?;
        Ok(Self {
            web: Web {
                channel,
                header,
                is_asked: Arc::new(AtomicBool::new(false)),
                status: Arc::new(AtomicU16::new(0)),
            },
            settings: settings.clone(),
            clock: Arc::clone(clock),
        })
    }

    /// Whether the web server in between asked for a password.
    #[must_use]
    pub(crate) fn was_asked(&self) -> bool {
        self.web.is_asked.load(Ordering::Relaxed)
    }

    /// Asks who is there.
    ///
    /// # Errors
    /// The leg that failed.
    pub(crate) async fn probe(
        &self,
        callback: Option<(String, [u8; 32])>,
    ) -> Result<(ProbeAnswer, ManagerAnswer), Fault> {
        let nonce: [u8; 32] = random_bytes();
        let (callback_address, callback_nonce) =
            callback.map_or_else(Default::default, |(address, nonce)| (address, nonce.to_vec().into()));
        let request = proto::ProbeRequest {
            nonce: nonce.to_vec().into(),
            protocol: PROTOCOL,
            callback_address,
            callback_nonce,
        };
        let reply = self.ask(&Question::Probe(request)).await?;
        let answer = self.check(Digest::from_bytes(nonce), &reply)?;
        match &answer.body {
            ReplyBody::Probe(about) => Ok((about.clone(), answer)),
            _ => Err(unexpected()),
        }
    }

    /// Makes a signed call.
    ///
    /// # Errors
    /// The leg that failed. A rejection is an answer.
    pub(crate) async fn call(
        &self,
        key: &PrivateKey<Entity>,
        (manager, epoch, counter): (ManagerId, u64, u64),
        body: CallBody,
    ) -> Result<ManagerAnswer, Fault> {
        let sent_at = self.clock.wall();
        let call = EntityCall { key: key.public().clone(), epoch, counter, sent_at, manager, body };
        let sealed = sign::<EntityCallPurpose>(&[&key.for_purpose()], &call);
        let signed = proto::SignedCall { envelope: sealed.bytes().clone() };
        let question = match &call.body {
            CallBody::Register(_) => Question::Register(signed),
            CallBody::Update(_) => Question::Update(signed),
            CallBody::Unregister => Question::Unregister(signed),
            CallBody::Poll(_) => Question::Poll(signed),
            CallBody::Objects(ObjectsCall::Subscribe(_) | ObjectsCall::Unsubscribe) => {
                Question::Subscribe(signed)
            }
            // It is answered by a stream: [`Self::fetch_objects`].
            CallBody::Objects(ObjectsCall::Fetch(_)) => return Err(unexpected()),
        };
        let reply = self.ask(&question).await?;
        self.check(sealed.digest(), &reply)
    }

    /// Begins to bring a change of objects, by the key of a subscription: the answer, and what follows it.
    ///
    /// # Errors
    /// The leg that failed. A rejection is an answer.
    pub(crate) async fn fetch_objects(
        &self,
        key: &PrivateKey<Entity>,
        (manager, epoch, counter): (ManagerId, u64, u64),
        held: u64,
    ) -> Result<(ManagerAnswer, Box<Streaming<ObjectsPiece>>), Fault> {
        let (sent_at, body) = (self.clock.wall(), CallBody::Objects(ObjectsCall::Fetch(held)));
        let call = EntityCall { key: key.public().clone(), epoch, counter, sent_at, manager, body };
        let sealed = sign::<EntityCallPurpose>(&[&key.for_purpose()], &call);
        let signed = proto::SignedCall { envelope: sealed.bytes().clone() };
        let mut link = EntityLinkClient::new(self.web.clone()).max_decoding_message_size(MAX_FRAME_BYTES);
        self.web.status.store(0, Ordering::Relaxed);
        let silent = |_| tonic::Status::deadline_exceeded(format!("no answer within {ANSWER_TIMEOUT:?}"));
        let asked = async {
            let mut asked = link.fetch_objects(signed.clone()).await;
            if self.is_asked_for_password() {
                asked = link.fetch_objects(signed).await;
            }
            let mut pieces = asked?.into_inner();
            Ok((pieces.message().await?, pieces))
        };
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(silent).flatten();
        let (first, pieces) = asked.map_err(|status| self.fault(&status))?;
        match first.and_then(|first| first.piece) {
            Some(Piece::Reply(reply)) => Ok((self.check(sealed.digest(), &reply)?, Box::new(pieces))),
            Some(Piece::Data(_)) | None => Err(unexpected()),
        }
    }

    /// Begins to bring a file of the repository that the manager mirrors.
    ///
    /// # Errors
    /// The leg that failed.
    pub(crate) async fn fetch_update(&self, path: &str) -> Result<Mirrored, Fault> {
        let mut link = EntityLinkClient::new(self.web.clone()).max_decoding_message_size(MAX_FRAME_BYTES);
        let mut asked = link.fetch_update(proto::FetchUpdateRequest { path: path.to_owned() }).await;
        if self.is_asked_for_password() {
            asked = link.fetch_update(proto::FetchUpdateRequest { path: path.to_owned() }).await;
        }
        let is_the_managers = self.web.status.load(Ordering::Relaxed) == 200;
        match asked {
            Ok(pieces) => Ok(Mirrored::File(Box::new(pieces.into_inner()))),
            Err(status) if is_the_managers && status.code() == Code::NotFound => {
                Ok(Mirrored::Missing(quoted(status.message())))
            }
            Err(status) if is_the_managers && status.code() == Code::ResourceExhausted => Ok(Mirrored::Later),
            Err(status) => Err(self.fault(&status)),
        }
    }

    /// Whether the web server in between wants a password for the first time, and there is one.
    fn is_asked_for_password(&self) -> bool {
        self.web.status.load(Ordering::Relaxed) == 401
            && self.web.header.is_some()
            && !self.web.is_asked.swap(true, Ordering::Relaxed)
    }

    /// Asks once; and once more with the password when the web server in between wants one, for then nothing
    /// was passed on.
    async fn ask(&self, question: &Question) -> Result<proto::ManagerReply, Fault> {
        let mut answered = self.once(question).await;
        if self.is_asked_for_password() {
            answered = self.once(question).await;
        }
        answered.map_err(|status| self.fault(&status))
    }

    async fn once(&self, question: &Question) -> Result<proto::ManagerReply, tonic::Status> {
        self.web.status.store(0, Ordering::Relaxed);
        let silent = |_| tonic::Status::deadline_exceeded(format!("no answer within {ANSWER_TIMEOUT:?}"));
        let mut registry = RegistryClient::new(self.web.clone()).max_decoding_message_size(MAX_FRAME_BYTES);
        let mut link = EntityLinkClient::new(self.web.clone()).max_decoding_message_size(MAX_FRAME_BYTES);
        let answered = async {
            match question.clone() {
                Question::Probe(request) => registry.probe(request).await,
                Question::Register(signed) => registry.register(signed).await,
                Question::Update(signed) => registry.update(signed).await,
                Question::Unregister(signed) => registry.unregister(signed).await,
                Question::Poll(signed) => link.poll(signed).await,
                Question::Subscribe(signed) => link.subscribe(signed).await,
            }
        };
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, answered).await.map_err(silent)?;
        answered.map(tonic::Response::into_inner)
    }

    fn fault(&self, status: &tonic::Status) -> Fault {
        match self.web.status.load(Ordering::Relaxed) {
            401 => match self.settings.web.as_ref().map(|web| &web.user) {
                Some(user) => Fault::new(
                    Leg::WebAuthentication,
                    format!("the web server in front of the manager refuses user `{user}` (HTTP 401)"),
                    "correct user and password of the web server",
                ),
                None => Fault::new(
                    Leg::WebAuthentication,
                    "the web server in front of the manager asks for a user and a password (HTTP 401)",
                    "set user and password of the web server",
                ),
            },
            403 => Fault::new(
                Leg::WebAuthentication,
                "the web server in front of the manager forbids this (HTTP 403)",
                "have its administrator let this host or user through",
            ),
            200 if status.code() == Code::Unauthenticated => Fault::new(
                Leg::ProtocolVersion,
                "an admin port answers there",
                "set the port where entities come in (listen.link of the manager, 7543 unless set)",
            ),
            200 => Fault::new(
                Leg::ProtocolVersion,
                format!("the manager cannot answer: {}", quoted(status.message())),
                "see the manager's log",
            ),
            0 => Fault::new(
                Leg::ProtocolVersion,
                format!("no answer came: {}", quoted(status.message())),
                "what answers there does not speak gRPC, or it hung up: correct the port, or see its log",
            ),
            other => Fault::new(
                Leg::ProtocolVersion,
                format!("a web server answered, and no manager behind it (HTTP {other})"),
                "start the manager, or have the web server pass gRPC on to it",
            ),
        }
    }

    /// The key is vouched for by a pinned authority, it signed, and it answers this request.
    fn check(&self, request: Digest, reply: &proto::ManagerReply) -> Result<ManagerAnswer, Fault> {
        let no = |why: String| {
            Fault::new(
                Leg::Authorization,
                why,
                "upload the CA certificate of this manager: somebody else answers, or its authority was replaced",
            )
        };
        let (key, authority) = self.vouched(&reply.certificate, &reply.intermediates).map_err(&no)?;
        let verified = verify::<ManagerReplyPurpose>(&reply.envelope, &[Candidate::accepted(&key)], 1)
            .map_err(|refusal| no(format!("the answer's seal does not hold: {refusal}")))?;
        let Reply { request: answered, time, body } = verified.into_document();
        if answered != request {
            return Err(no("the answer is to another request: somebody plays an old one".to_owned()));
        }
        let speaker =
            Speaker::of(&reply.certificate, authority).ok_or_else(|| no(NotVouched::Damaged.to_string()))?;
        let pinned = self.settings.pinned(self.clock.wall());
        let newest = pinned.first().map(|newest| Digest::of(newest.der()).to_string()).unwrap_or_default();
        Ok(ManagerAnswer { body, time, key, speaker, newest })
    }

    /// The key, and the digest of the authority that vouches for it.
    fn vouched(&self, certificate: &[u8], between: &[Bytes]) -> Result<(PublicKey, Option<Digest>), String> {
        if !self.settings.is_authorized() {
            let read = SigningCertificate::from_der(certificate);
            return read.map(|read| (read.key().clone(), None)).map_err(|error| error.to_string());
        }
        let between: Vec<_> = between.iter().map(|der| der.to_vec()).collect();
        let now = self.clock.wall();
        let mut why = "no CA certificate that was uploaded is valid now".to_owned();
        for authority in self.settings.pinned(now) {
            match authority.vouches_for(certificate, &between, now) {
                Ok(key) => return Ok((key, Some(Digest::of(authority.der())))),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }
}

pub(super) fn unexpected() -> Fault {
    Fault::new(
        Leg::ProtocolVersion,
        "the answer is of another kind than the question",
        "update both programs",
    )
}

/// A channel that sees what HTTP says, and shows the password once it was asked for.
#[derive(Debug, Clone)]
struct Web {
    channel: Channel,
    header: Option<HeaderValue>,
    is_asked: Arc<AtomicBool>,
    /// Of the last answer; 0: none came.
    status: Arc<AtomicU16>,
}

impl Service<Request<Body>> for Web {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(header) = self.header.as_ref().filter(|_| self.is_asked.load(Ordering::Relaxed)) {
            request.headers_mut().insert(AUTHORIZATION, header.clone());
        }
        let status = Arc::clone(&self.status);
        let answered = self.channel.call(request);
        Box::pin(async move {
            let response = answered.await?;
            status.store(response.status().as_u16(), Ordering::Relaxed);
            Ok(response)
        })
    }
}
