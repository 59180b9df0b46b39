//! The operators' door of a program: one table of who may call what, and a method that is not in it is
//! refused. Every call that passes is recorded.

pub mod archive;
pub mod audit;
pub mod operators;
pub mod page;
mod revocable;
mod subject;

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{error, info};
use writ_proto::admin::v1::OperatorRole;
use zeroize::Zeroizing;

use self::audit::{AuditSettings, AuditStore as _, NewAudit, SentCommand};
use self::operators::{Caller, OperatorStore, Scope};
use self::revocable::Listener;
pub use self::subject::{AuditSubject, chosen_by};
use crate::hush::Hush;
use crate::shutdown::Shutdown;
use crate::status::Failure;
use crate::tls::Peer;
use writ_protocol::id::{Digest, random_bytes};
use writ_protocol::limits::MAX_NAME_BYTES;
use writ_protocol::time::Timestamp;

/// A request is never larger: the names of a thousand agents.
pub const MAX_REQUEST_BYTES: usize = 256 << 10;

/// What somebody may do; each role may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Command agents.
    Operator,
    /// Change keys.
    KeyAdmin,
    /// Everything.
    Admin,
}

impl Role {
    /// As stored.
    #[must_use]
    pub const fn stored(self) -> u8 {
        match self {
            Self::Viewer => 1,
            Self::Operator => 2,
            Self::KeyAdmin => 3,
            Self::Admin => 4,
        }
    }

    /// From the store; `None` for what no version ever stored.
    #[must_use]
    pub const fn from_stored(role: u8) -> Option<Self> {
        match role {
            1 => Some(Self::Viewer),
            2 => Some(Self::Operator),
            3 => Some(Self::KeyAdmin),
            4 => Some(Self::Admin),
            _ => None,
        }
    }

    /// As a caller names it.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_wire(role: i32) -> Result<Self, Failure> {
        match OperatorRole::try_from(role) {
            Ok(OperatorRole::Viewer) => Ok(Self::Viewer),
            Ok(OperatorRole::Operator) => Ok(Self::Operator),
            Ok(OperatorRole::KeyAdmin) => Ok(Self::KeyAdmin),
            Ok(OperatorRole::Admin) => Ok(Self::Admin),
            Ok(OperatorRole::Unspecified) | Err(_) => {
                Err(Failure::invalid("role", "must be VIEWER, OPERATOR, KEY_ADMIN or ADMIN"))
            }
        }
    }

    /// A stored role as callers see it.
    #[must_use]
    pub fn wire(stored: u8) -> i32 {
        let role = match Self::from_stored(stored) {
            None => OperatorRole::Unspecified,
            Some(Self::Viewer) => OperatorRole::Viewer,
            Some(Self::Operator) => OperatorRole::Operator,
            Some(Self::KeyAdmin) => OperatorRole::KeyAdmin,
            Some(Self::Admin) => OperatorRole::Admin,
        };
        role.into()
    }

    /// Its name in outputs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::KeyAdmin => "key-admin",
            Self::Admin => "admin",
        }
    }
}

/// What a method asks of its caller, and how it is audited (docs/adr/0007).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Anybody, unaudited: probes have no token.
    Open,
    /// A token of at least this role; audited with its outcome.
    Read(Role),
    /// The same, audited before it begins too, and among the changes if it made one.
    Change(Role, AuditSubject),
    /// The same for a change that is one transaction with its line: nothing is written before it begins.
    ChangeWithLine(Role, AuditSubject),
    /// The same for requests with passwords: no digest of them is kept, by which somebody could try guesses.
    ChangeSecrets(Role),
}

impl Rule {
    /// The least role that may call it; `None`: anybody may.
    const fn role(self) -> Option<Role> {
        match self {
            Self::Open => None,
            Self::Read(role)
            | Self::Change(role, _)
            | Self::ChangeWithLine(role, _)
            | Self::ChangeSecrets(role) => Some(role),
        }
    }
}

/// What a call without a token makes a program keep while it is not finished: its headers unpacked, and its
/// state.
const OPEN_CALL_BYTES: usize = 16 << 10;

/// How an operator's token begins.
const OPERATOR_TOKEN: &str = "writ-admin.";

/// Who is calling, and with what. In the extensions of every request that passed the policy.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The name of the token.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// What it called.
    pub method: &'static str,
    /// SHA-256 of the request; a stream has none, nor has one with passwords.
    pub request: Option<Digest>,
    /// Which commands it may send.
    pub scope: Scope,
}

/// What a call for a change came to, in the extensions of its response. Without a word it made one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// All was as it should be already.
    Nothing,
    /// The commit that made the change has recorded it.
    Recorded,
}

impl Effect {
    /// The response of such a call.
    #[must_use]
    pub fn of<T>(self, message: T) -> tonic::Response<T> {
        let mut response = tonic::Response::new(message);
        response.extensions_mut().insert(self);
        response
    }

    /// The response of a call that changed something, or nothing.
    #[must_use]
    pub fn unless<T>(has_changed: bool, message: T) -> tonic::Response<T> {
        if has_changed { tonic::Response::new(message) } else { Self::Nothing.of(message) }
    }
}

/// The caller of a request.
///
/// # Errors
/// When the request did not pass the policy, which cannot happen behind [`PolicyLayer`].
pub fn actor<T>(request: &tonic::Request<T>) -> Result<Actor, Failure> {
    request.extensions().get::<Actor>().cloned().ok_or_else(Failure::unauthenticated)
}

/// A program with an operators' door: its table, its tokens and its records.
pub trait AdminBackend: Send + Sync + 'static {
    /// Every method of the admin port.
    const POLICY: &'static [(&'static str, Rule)];
    /// Changes that a caller with a scope may make, because their services look at it.
    const SCOPED: &'static [&'static str] = &[];

    /// Where operators and the audit logs are kept.
    type Store: OperatorStore;

    /// Where operators and the audit logs are kept.
    fn store(&self) -> &Self::Store;

    /// What runs to its end although its caller hangs up.
    fn tasks(&self) -> &Shutdown;

    /// Time.
    fn now(&self) -> Timestamp;

    /// How much the audit logs keep.
    fn audit_settings(&self) -> AuditSettings;

    /// Whether a scope can be given here.
    ///
    /// # Errors
    /// When it cannot be read, or callers have none here.
    fn check_scope(&self, _scope: &Scope) -> Result<(), Failure> {
        Err(Failure::invalid("selector", "operators have no scope here: it limits who commands which agents"))
    }

    /// The command that a request asks for, as far as it can be told from the request alone.
    #[must_use]
    fn asked_for(_method: &str, _request: &[u8]) -> Option<SentCommand> {
        None
    }

    /// Whether a request holds a secret, so that no digest of it is kept, by which somebody could try
    /// guesses.
    #[must_use]
    fn has_secrets(_method: &str, _request: &[u8]) -> bool {
        false
    }

    /// A call as it is recorded.
    fn audit_entry(&self, entry: AuditedCall) -> NewAudit {
        NewAudit::of(entry, self.now(), self.audit_settings())
    }

    /// Records a call; returns after the record is durable.
    fn write(&self, entry: AuditedCall) -> impl Future<Output = Result<(), Failure>> + Send {
        async move { self.store().append(self.audit_entry(entry)).await.map_err(unavailable) }
    }

    /// Records a call without waiting for the disk: one that is full must not keep operators from looking.
    /// The program's log has the line already.
    fn record(&self, entry: AuditedCall) -> impl Future<Output = ()> + Send {
        async move {
            let method = entry.actor.method;
            if let Err(error) = self.store().enqueue(self.audit_entry(entry)).await {
                error!(target: "audit", %error, method, "the call could not be audited");
            }
        }
    }
}

/// The caller hears that it is not their fault; the log hears why.
pub fn unavailable(error: impl Error) -> Failure {
    error!(%error, "the store failed");
    Failure::unavailable("the program cannot reach its store at the moment; try again, and see its log")
}

/// Which of three bounded records: neither reads nor calls that change nothing may push changes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditLog {
    /// Calls that changed something.
    Changes,
    /// Calls for a change before they began, and how those ended that changed nothing.
    Tries,
    /// Calls that only read, and calls that were refused.
    Reads,
}

impl AuditLog {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Changes, Self::Tries, Self::Reads];
}

/// A call, for the record.
#[derive(Debug, Clone)]
pub struct AuditedCall {
    /// Where it belongs.
    pub log: AuditLog,
    /// Who called, and what.
    pub actor: Actor,
    /// What a change is about, as its caller wrote it; empty: see [`AuditSubject`].
    pub subject: String,
    /// The command that it sent.
    pub sent: Option<Box<SentCommand>>,
    /// `asked`, `ok`, `unchanged`, `failed`, or the status it ended with.
    pub outcome: &'static str,
}

/// Puts the policy before every service of a port.
#[derive(Debug)]
pub struct PolicyLayer<H> {
    backend: Arc<H>,
    hush: Arc<Hush>,
}

impl<H> PolicyLayer<H> {
    /// The policy of this backend.
    #[must_use]
    pub fn new(backend: &Arc<H>) -> Self {
        Self { backend: Arc::clone(backend), hush: Arc::default() }
    }
}

impl<H> Clone for PolicyLayer<H> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), hush: Arc::clone(&self.hush) }
    }
}

/// A service behind the policy.
#[derive(Debug)]
pub struct PolicyService<H, S> {
    policy: PolicyLayer<H>,
    inner: S,
}

impl<H, S: Clone> Clone for PolicyService<H, S> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone(), inner: self.inner.clone() }
    }
}

impl<H, S> Layer<S> for PolicyLayer<H> {
    type Service = PolicyService<H, S>;

    fn layer(&self, inner: S) -> PolicyService<H, S> {
        PolicyService { policy: self.clone(), inner }
    }
}

impl<H, S> Service<Request<Body>> for PolicyService<H, S>
where
    H: AdminBackend,
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let PolicyLayer { backend, hush } = self.policy.clone();
        // The clone was never polled ready; the ready one must serve this call.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        Box::pin(async move {
            let method = request.uri().path().to_owned();
            let listed = H::POLICY.iter().find(|(listed, _)| *listed == method).copied();
            let rule = listed.map(|(_, rule)| rule);
            if rule == Some(Rule::Open) {
                if let Some(peer) = request.extensions().get::<Peer>() {
                    peer.owes(OPEN_CALL_BYTES);
                }
                return inner.call(request).await;
            }
            let method = listed.map_or(UNLISTED, |(method, _)| method);
            let called = match Call::identify(&*backend, &hush, method, rule, request).await {
                Ok(called) => called,
                Err(failure) => return Ok(Status::from(failure).into_http()),
            };
            let (call, listener, mut request) = called;
            if let Err(failure) = call.check(rule, H::SCOPED) {
                backend.record(call.entry(AuditLog::Reads, "PERMISSION_DENIED")).await;
                return Ok(Status::from(failure).into_http());
            }
            request.extensions_mut().insert(call.actor.clone());
            if matches!(rule, Some(Rule::Open | Rule::Read(_)) | None) {
                let response = inner.call(request).await?;
                backend.record(call.entry(AuditLog::Reads, outcome(&response))).await;
                return Ok(response.map(|body| listener.hear(backend, body)));
            }
            // On disk before it begins: nothing takes effect of which there is no line.
            if !matches!(rule, Some(Rule::ChangeWithLine(..)))
                && let Err(failure) = backend.write(call.entry(AuditLog::Tries, "asked")).await
            {
                return Ok(Status::from(failure).into_http());
            }
            // A caller that hangs up must not keep a change from its row.
            let recorder = Arc::clone(&backend);
            let done = backend.tasks().spawn(async move {
                let response = inner.call(request).await?;
                let (ended, effect) = (outcome(&response), response.extensions().get::<Effect>().copied());
                call.record(&*recorder, ended, effect).await;
                Ok(response)
            });
            match done.await {
                Ok(done) => done.map(|response| response.map(|body| listener.hear(backend, body))),
                Err(_) => Ok(Status::from(Failure::unavailable("the program is shutting down")).into_http()),
            }
        })
    }
}

/// A call of somebody known.
#[derive(Debug, Clone)]
struct Call {
    actor: Actor,
    subject: String,
    sent: Option<Box<SentCommand>>,
}

impl Call {
    /// Who calls, and with what. Strangers are logged, not audited: they could fill the disk.
    async fn identify<H: AdminBackend>(
        backend: &H,
        hush: &Hush,
        method: &'static str,
        rule: Option<Rule>,
        request: Request<Body>,
    ) -> Result<(Self, Listener, Request<Body>), Failure> {
        let token = bearer_token(&request).ok_or_else(Failure::unauthenticated)?;
        let token = Digest::of(token.as_bytes());
        let known = backend.store().operator(token).await.map_err(unavailable)?;
        let known = known.and_then(|caller| Some((Role::from_stored(caller.role)?, caller)));
        let Some((role, caller)) = known else {
            let address = Peer::host(request.extensions().get());
            crate::warn_of_stranger!(hush, address, { method, }, "unknown token");
            return Err(Failure::unauthenticated());
        };
        if caller.is_over(backend.now()) {
            return Err(Failure::token_expired(caller.expires_at));
        }
        let Caller { name, scope, .. } = caller;
        // For as long as the call lasts: a token that is revoked holds no connection.
        let peer = request.extensions().get::<Peer>();
        let listener = Listener { token, _call: peer.map(|peer| peer.in_call(token)) };
        if method.starts_with("/grpc.reflection.") {
            let actor = Actor { name, role, method, request: None, scope };
            return Ok((Self { actor, subject: String::new(), sent: None }, listener, request));
        }
        let (head, body) = request.into_parts();
        let body = Limited::new(body, FRAME_HEAD + MAX_REQUEST_BYTES).collect().await;
        let body = body.map_err(|_| {
            Failure::exhausted(format!("the request is cut short, or larger than {MAX_REQUEST_BYTES} bytes"))
        })?;
        let bytes = body.to_bytes();
        let message = only_message(&bytes)?;
        let is_secret = matches!(rule, Some(Rule::ChangeSecrets(_))) || H::has_secrets(method, message);
        let digest = (!is_secret).then(|| Digest::of(message));
        let actor = Actor { name, role, method, request: digest, scope };
        let subject = match rule {
            Some(Rule::Change(_, about) | Rule::ChangeWithLine(_, about)) => about.subject(message),
            _ => String::new(),
        };
        let sent = H::asked_for(method, message).map(Box::new);
        let request = Request::from_parts(head, Body::new(Full::new(bytes)));
        Ok((Self { actor, subject, sent }, listener, request))
    }

    /// What a call for a change came to.
    async fn record<H: AdminBackend>(&self, backend: &H, ended: &'static str, effect: Option<Effect>) {
        match (ended, effect) {
            (OK, None) => {
                // Before its caller hears of it. What cannot be written has happened all the same.
                if let Err(failure) = backend.write(self.entry(AuditLog::Changes, OK)).await {
                    let method = self.actor.method;
                    error!(target: "audit", method, ?failure, "the change could not be recorded; that it was asked for is");
                }
            }
            (OK, Some(Effect::Recorded)) => self.say(OK),
            (OK, Some(Effect::Nothing)) => backend.record(self.entry(AuditLog::Tries, "unchanged")).await,
            (failed, _) => backend.record(self.entry(AuditLog::Tries, failed)).await,
        }
    }

    fn check(&self, rule: Option<Rule>, scoped: &[&str]) -> Result<(), Failure> {
        let actor = &self.actor;
        let is_change =
            matches!(rule, Some(Rule::Change(..) | Rule::ChangeWithLine(..) | Rule::ChangeSecrets(_)));
        if is_change && !actor.scope.is_everything() && !scoped.contains(&actor.method) {
            let text = format!(
                "`{}` may command agents within its scope, and change nothing else. An admin gives another token: writ operator create",
                actor.name
            );
            return Err(Failure::denied("scope", text));
        }
        match rule.map(Rule::role) {
            Some(None) => Ok(()),
            Some(Some(needed)) if actor.role >= needed => Ok(()),
            Some(Some(needed)) => {
                let (needed, role) = (needed.as_str(), actor.role.as_str());
                let text = format!(
                    "{} needs the role {needed}; `{}` is {role}. An admin gives another token: writ operator create",
                    actor.method, actor.name
                );
                Err(Failure::denied("role", text))
            }
            None => Err(Failure::denied(
                "no_policy",
                "this method is not in the policy table, so nobody may call it",
            )),
        }
    }

    fn say(&self, outcome: &'static str) {
        let Self { actor, subject, .. } = self;
        info!(target: "audit", method = actor.method, actor = actor.name, subject, outcome, "call");
    }

    fn entry(&self, log: AuditLog, outcome: &'static str) -> AuditedCall {
        self.say(outcome);
        let Self { actor, subject, sent } = self.clone();
        AuditedCall { log, actor, subject, sent, outcome }
    }
}

/// Stands in the log for a method that is not in the table: whatever a caller made up.
const UNLISTED: &str = "(unlisted)";

/// gRPC's five bytes before a message: whether it is compressed, and its length.
const FRAME_HEAD: usize = 5;

/// The message of a body that is one frame. Behind a first one a service would not look, and the record would
/// not tell which it was.
fn only_message(body: &[u8]) -> Result<&[u8], Failure> {
    let frame = body.split_at_checked(FRAME_HEAD).and_then(|(head, message)| {
        let length = u32::from_be_bytes(*head.last_chunk()?);
        (u32::try_from(message.len()) == Ok(length)).then_some(message)
    });
    frame.ok_or_else(|| Failure::invalid("request", "must be one gRPC message, whole"))
}

/// How a call ends that went well.
const OK: &str = "ok";

/// `ok`, or the status the call ended with; of a stream, the one it began with.
fn outcome(response: &Response<Body>) -> &'static str {
    let status = response.headers().get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()));
    match status {
        None | Some(Code::Ok) => OK,
        Some(Code::Cancelled) => "CANCELLED",
        Some(Code::Unknown) => "UNKNOWN",
        Some(Code::InvalidArgument) => "INVALID_ARGUMENT",
        Some(Code::DeadlineExceeded) => "DEADLINE_EXCEEDED",
        Some(Code::NotFound) => "NOT_FOUND",
        Some(Code::AlreadyExists) => "ALREADY_EXISTS",
        Some(Code::PermissionDenied) => "PERMISSION_DENIED",
        Some(Code::ResourceExhausted) => "RESOURCE_EXHAUSTED",
        Some(Code::FailedPrecondition) => "FAILED_PRECONDITION",
        Some(Code::Aborted) => "ABORTED",
        Some(Code::OutOfRange) => "OUT_OF_RANGE",
        Some(Code::Unimplemented) => "UNIMPLEMENTED",
        Some(Code::Internal) => "INTERNAL",
        Some(Code::Unavailable) => "UNAVAILABLE",
        Some(Code::DataLoss) => "DATA_LOSS",
        Some(Code::Unauthenticated) => "UNAUTHENTICATED",
    }
}

fn bearer_token(request: &Request<Body>) -> Option<Zeroizing<String>> {
    let value = request.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Zeroizing::new(token.trim().to_owned()))
}

/// A bearer token: 32 random bytes in a form that scanners of secrets can find.
#[must_use]
pub fn new_token() -> Zeroizing<String> {
    Zeroizing::new(format!("{OPERATOR_TOKEN}{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>())))
}

/// Whether somebody can be called this.
///
/// # Errors
/// When a character or the length is not allowed.
pub fn check_operator_name(name: &str) -> Result<(), Failure> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_allowed) {
        let text = "must have 1 to 128 letters, digits, `-`, `_`, `.` and `@`";
        return Err(Failure::invalid("name", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_message_and_nothing_behind_it() {
        assert_eq!(only_message(b"\0\0\0\0\x02ab").ok(), Some(b"ab".as_slice()));
        assert_eq!(only_message(b"\0\0\0\0\0").ok(), Some(b"".as_slice()));
        for body in [b"".as_slice(), b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x02ab\0\0\0\0\0"] {
            assert!(only_message(body).is_err(), "{body:?}");
        }
    }
}
