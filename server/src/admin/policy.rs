//! Who may call what: one table, and a method that is not in it is refused.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{info, warn};
use writ_common::id::Digest;
use writ_common::wire::status::Failure;
use zeroize::Zeroizing;

use crate::context::Server;

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
    fn from_stored(role: u8) -> Option<Self> {
        match role {
            1 => Some(Self::Viewer),
            2 => Some(Self::Operator),
            3 => Some(Self::KeyAdmin),
            4 => Some(Self::Admin),
            _ => None,
        }
    }
}

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Anybody: probes have no token.
    Open,
    /// A token of at least this role.
    AtLeast(Role),
}

/// Every method of the admin port. A test compares it with the descriptors.
const POLICY: &[(&str, Rule)] = &[
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Rule::AtLeast(Role::Viewer)),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.AgentService/Get", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.AgentService/List", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.AlertService/List", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Get", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.CommandService/List", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.CommandService/ListTargets", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.CommandService/Submit", Rule::AtLeast(Role::Operator)),
    ("/writ.admin.v1.CommandService/Watch", Rule::AtLeast(Role::Viewer)),
    ("/writ.admin.v1.EnrollmentService/CreateToken", Rule::AtLeast(Role::Operator)),
    ("/writ.admin.v1.SystemService/Get", Rule::AtLeast(Role::Viewer)),
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let server = Arc::clone(&self.server);
        // The clone was never polled ready; the ready one must serve this call.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let method = request.uri().path().to_owned();
        let token = bearer_token(&request);
        Box::pin(async move {
            match admit(&server, &method, token.as_deref()).await {
                Ok(actor) => {
                    if let Some(actor) = actor {
                        request.extensions_mut().insert(actor);
                    }
                    inner.call(request).await
                }
                Err(failure) => Ok(Status::from(failure).into_http()),
            }
        })
    }
}

fn bearer_token(request: &Request<Body>) -> Option<Zeroizing<String>> {
    let value = request.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Zeroizing::new(token.trim().to_owned()))
}

async fn admit(server: &Server, method: &str, token: Option<&String>) -> Result<Option<Actor>, Failure> {
    let rule = POLICY.iter().find(|(listed, _)| *listed == method).map(|(_, rule)| *rule);
    let needed = match rule {
        Some(Rule::Open) => return Ok(None),
        Some(Rule::AtLeast(role)) => Some(role),
        None => None,
    };
    let token = token.ok_or_else(Failure::unauthenticated)?;
    let known = server.store.admin(Digest::of(token.as_bytes())).await.map_err(crate::store::unavailable)?;
    let Some(actor) = known.and_then(|(name, role)| Some(Actor { name, role: Role::from_stored(role)? }))
    else {
        warn!(target: "audit", method, "unknown token");
        return Err(Failure::unauthenticated());
    };
    match needed {
        Some(needed) if actor.role >= needed => {
            info!(target: "audit", method, actor = actor.name, "admitted");
            Ok(Some(actor))
        }
        Some(needed) => {
            warn!(target: "audit", method, actor = actor.name, role = ?actor.role, "denied");
            let text = format!("{method} needs the role {needed:?}, `{}` is {:?}", actor.name, actor.role);
            Err(Failure::denied("role", text))
        }
        None => {
            warn!(target: "audit", method, actor = actor.name, "not in the policy");
            Err(Failure::denied(
                "no_policy",
                format!("{method} is not in the policy table, so nobody may call it"),
            ))
        }
    }
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
