//! Who may call what: one table, and a method that is not in it is refused. Every call that passes is audited.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{error, info, warn};
use writ_common::id::Digest;
use writ_common::tls::Peer;
use writ_common::wire::status::Failure;
use zeroize::Zeroizing;

use super::MAX_REQUEST_BYTES;
use crate::context::Server;
use crate::store::{AuditLog, NewAudit, Pending, StoreError, unavailable};

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

/// What a method asks of its caller, and how it is audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Anybody, unaudited: probes have no token.
    Open,
    /// A token of at least this role; audited with its outcome.
    Look(Role),
    /// The same, audited before it begins too: nothing takes effect without a line in the log.
    Change(Role),
}

/// Every method of the admin port. A test compares it with the descriptors.
const POLICY: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::Look(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Approve", Rule::Change(Role::Operator)),
    ("/writ.admin.v1.AgentService/Get", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Label", Rule::Change(Role::Operator)),
    ("/writ.admin.v1.AgentService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Remove", Rule::Change(Role::Operator)),
    ("/writ.admin.v1.AgentService/Why", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AlertService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.AuditService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Cancel", Rule::Change(Role::Operator)),
    ("/writ.admin.v1.CommandService/Evidence", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Get", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/List", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/ListTargets", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Preview", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Submit", Rule::Change(Role::Operator)),
    ("/writ.admin.v1.CommandService/Watch", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.EnrollmentService/CreateToken", Rule::Change(Role::Operator)),
    ("/writ.admin.v1.EnrollmentService/ListTokens", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.EnrollmentService/RevokeToken", Rule::Change(Role::Operator)),
    ("/writ.admin.v1.OperatorService/Create", Rule::Change(Role::Admin)),
    ("/writ.admin.v1.OperatorService/List", Rule::Look(Role::Admin)),
    ("/writ.admin.v1.OperatorService/Revoke", Rule::Change(Role::Admin)),
    ("/writ.admin.v1.SystemService/Get", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/GetConvergence", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBehind", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListBundles", Rule::Look(Role::Viewer)),
    ("/writ.admin.v1.TrustService/ListCertificates", Rule::Look(Role::Viewer)),
];

/// Who is calling. In the extensions of every request that passed the policy.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The name of the token.
    pub name: String,
    /// Its role.
    pub role: Role,
}

/// The caller of a request.
///
/// # Errors
/// When the request did not pass the policy, which cannot happen behind [`PolicyLayer`].
pub fn actor<T>(request: &tonic::Request<T>) -> Result<Actor, Failure> {
    request.extensions().get::<Actor>().cloned().ok_or_else(Failure::unauthenticated)
}

/// Puts the policy before every service of a port.
#[derive(Debug, Clone)]
pub struct PolicyLayer(pub Arc<Server>);

/// A service behind the policy.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    server: Arc<Server>,
    inner: S,
}

impl<S> Layer<S> for PolicyLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { server: Arc::clone(&self.0), inner }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = Arc::clone(&self.server);
        // The clone was never polled ready; the ready one must serve this call.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        Box::pin(async move {
            let method = request.uri().path().to_owned();
            let listed = POLICY.iter().find(|(listed, _)| *listed == method).copied();
            let rule = listed.map(|(_, rule)| rule);
            if rule == Some(Rule::Open) {
                return inner.call(request).await;
            }
            let method = listed.map_or(UNLISTED, |(method, _)| method);
            let called = match Call::identify(&server, method, request).await {
                Ok(called) => called,
                Err(failure) => return Ok(Status::from(failure).into_http()),
            };
            let (call, mut request) = called;
            if let Err(failure) = call.check(rule) {
                call.note(&server, AuditLog::Looks, "PERMISSION_DENIED").await;
                return Ok(Status::from(failure).into_http());
            }
            request.extensions_mut().insert(call.actor.clone());
            // On disk before it begins: nothing takes effect that the log does not have.
            let log = match rule {
                Some(Rule::Change(_)) => AuditLog::Changes,
                _ => AuditLog::Looks,
            };
            if log == AuditLog::Changes
                && let Err(error) = call.write(&server, log, "asked").await
            {
                return Ok(Status::from(unavailable(error)).into_http());
            }
            let response = inner.call(request).await?;
            call.note(&server, log, outcome(&response)).await;
            Ok(response)
        })
    }
}

/// A call of somebody known.
#[derive(Debug)]
struct Call {
    actor: Actor,
    method: &'static str,
    request: Option<Digest>,
}

impl Call {
    /// Who calls, and with what. Strangers are logged, not audited: they could fill the disk.
    async fn identify(
        server: &Server,
        method: &'static str,
        request: Request<Body>,
    ) -> Result<(Self, Request<Body>), Failure> {
        let token = bearer_token(&request).ok_or_else(Failure::unauthenticated)?;
        let known = server.store.admin(Digest::of(token.as_bytes())).await.map_err(unavailable)?;
        let actor = known.and_then(|(name, role)| Some(Actor { name, role: Role::from_stored(role)? }));
        let Some(actor) = actor else {
            warn!(target: "audit", method, "unknown token");
            return Err(Failure::unauthenticated());
        };
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.proven();
        }
        if method.starts_with("/grpc.reflection.") {
            return Ok((Self { actor, method, request: None }, request));
        }
        let (head, body) = request.into_parts();
        let body = Limited::new(body, FRAME_HEAD + MAX_REQUEST_BYTES).collect().await;
        let body = body.map_err(|_| {
            Failure::exhausted(format!("the request is cut short, or larger than {MAX_REQUEST_BYTES} bytes"))
        })?;
        let bytes = body.to_bytes();
        let digest = Digest::of(bytes.get(FRAME_HEAD..).unwrap_or_default());
        Ok((
            Self { actor, method, request: Some(digest) },
            Request::from_parts(head, Body::new(Full::new(bytes))),
        ))
    }

    fn check(&self, rule: Option<Rule>) -> Result<(), Failure> {
        let Self { actor, method, .. } = self;
        match rule {
            Some(Rule::Open) => Ok(()),
            Some(Rule::Look(needed) | Rule::Change(needed)) if actor.role >= needed => Ok(()),
            Some(Rule::Look(needed) | Rule::Change(needed)) => {
                let (needed, role) = (needed.as_str(), actor.role.as_str());
                let text = format!(
                    "{method} needs the role {needed}; `{}` is {role}. An admin gives another token: writ operator create",
                    actor.name
                );
                Err(Failure::denied("role", text))
            }
            None => Err(Failure::denied(
                "no_policy",
                "this method is not in the policy table, so nobody may call it",
            )),
        }
    }

    async fn queue(
        &self,
        server: &Server,
        log: AuditLog,
        outcome: &'static str,
    ) -> Result<Pending<()>, StoreError> {
        let Self { actor, method, request } = self;
        info!(target: "audit", method, actor = actor.name, outcome, "call");
        let entry = NewAudit {
            log,
            at: server.clock.wall(),
            actor: actor.name.clone(),
            role: actor.role.as_str(),
            method,
            request: *request,
            outcome,
            max_entries: server.audit_max_entries,
        };
        server.store.audit(entry).await
    }

    async fn write(&self, server: &Server, log: AuditLog, outcome: &'static str) -> Result<(), StoreError> {
        self.queue(server, log, outcome).await?.committed().await
    }

    /// Without waiting for the disk. A disk that is full must not keep operators from looking; the log has the line.
    async fn note(&self, server: &Server, log: AuditLog, outcome: &'static str) {
        if let Err(error) = self.queue(server, log, outcome).await {
            error!(target: "audit", %error, method = self.method, "the call could not be audited");
        }
    }
}

/// Stands in the log for a method that is not in the table: whatever a caller made up.
const UNLISTED: &str = "(unlisted)";

/// gRPC's five bytes before a message: whether it is compressed, and its length.
const FRAME_HEAD: usize = 5;

/// `ok`, or the status the call ended with; of a stream, the one it began with.
fn outcome(response: &Response<Body>) -> &'static str {
    let status = response.headers().get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()));
    match status {
        None | Some(Code::Ok) => "ok",
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    #[test]
    fn every_admin_method_has_a_row_and_every_row_a_method() {
        let descriptors = prost_types::FileDescriptorSet::decode(writ_proto::DESCRIPTORS).unwrap();
        let mut methods = BTreeSet::new();
        for file in descriptors.file.iter().filter(|file| file.package() == "writ.admin.v1") {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!("/writ.admin.v1.{}/{}", service.name(), method.name()));
                }
            }
        }
        let ours = |listed: &&(&str, Rule)| listed.0.starts_with("/writ.");
        let rows: BTreeSet<_> = POLICY.iter().filter(ours).map(|(method, _)| (*method).to_owned()).collect();
        assert_eq!(rows, methods);
        let is_any_open = POLICY.iter().filter(ours).any(|(_, rule)| *rule == Rule::Open);
        assert!(!is_any_open, "no method of ours is open to everybody");
    }
}
