//! What entities call. A call that is not signed by its own key is no call.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Response, Status};
use writ_common::listener::{MAX_QUESTION_BYTES, PerMethod};
use writ_common::status::Failure;
use writ_common::tls::Peer;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_link_server::{EntityLink, EntityLinkServer};
use writ_proto::manager::v1::registry_server::{Registry, RegistryServer};
use writ_proto::v1::Envelope;
use writ_protocol::envelope::{Candidate, EntityCallPurpose, Verified, verify};
use writ_protocol::id::Digest;
use writ_protocol::keys::PublicKey;
use writ_protocol::limits::{MAX_ENDPOINT_BYTES, MAX_ENTITY_CALL_BYTES, MAX_FRAME_BYTES};
use writ_protocol::manager::{self, CallBody, ObjectsCall, ProbeAnswer, ReplyBody};
use writ_protocol::place::server_name;

use crate::context::Manager;
use crate::feed::{self, ObjectsPieces};
use crate::mirror::Pieces;
use crate::registry::{Answered, Decided};
use crate::{notify, registry};

/// Both services of the link port.
#[derive(Debug, Clone)]
pub(crate) struct EntityPort(Arc<Manager>);

/// What entities call. Anybody may call all of it, so that a message is as large as its method needs.
#[must_use]
pub(crate) fn services(
    manager: &Arc<Manager>,
) -> (PerMethod<RegistryServer<EntityPort>>, PerMethod<EntityLinkServer<EntityPort>>) {
    let link = Arc::new(EntityPort(Arc::clone(manager)));
    let registry = |bytes| {
        RegistryServer::from_arc(Arc::clone(&link))
            .max_decoding_message_size(bytes)
            .max_encoding_message_size(MAX_FRAME_BYTES)
    };
    let probe = ("/writ.manager.v1.Registry/Probe", registry(MAX_QUESTION_BYTES));
    let entity_link = |bytes| {
        EntityLinkServer::from_arc(Arc::clone(&link))
            .max_decoding_message_size(bytes)
            .max_encoding_message_size(MAX_FRAME_BYTES)
    };
    let fetch = ("/writ.manager.v1.EntityLink/FetchUpdate", entity_link(MAX_QUESTION_BYTES));
    (
        PerMethod::new(vec![probe], registry(MAX_CALL_BYTES)),
        PerMethod::new(vec![fetch], entity_link(MAX_CALL_BYTES)),
    )
}

/// A signed call: its envelope in one field.
const MAX_CALL_BYTES: usize = MAX_ENTITY_CALL_BYTES + 16;

#[tonic::async_trait]
impl Registry for EntityPort {
    async fn probe(
        &self,
        request: Request<proto::ProbeRequest>,
    ) -> Result<Response<proto::ManagerReply>, Status> {
        let from = Peer::host(request.extensions().get());
        let proto::ProbeRequest { nonce, protocol: _, callback_address, callback_nonce } =
            request.into_inner();
        let wrong = |field| Failure::invalid(field, "must be 32 random bytes");
        let nonce = Digest::try_from(nonce.as_ref()).map_err(|_| wrong("nonce"))?;
        let callback = if callback_address.is_empty() {
            None
        } else {
            if callback_nonce.len() != 32 {
                return Err(wrong("callback_nonce").into());
            }
            if callback_address.len() > MAX_ENDPOINT_BYTES || server_name(&callback_address).is_err() {
                return Err(Failure::invalid("callback_address", "must be host:port").into());
            }
            Some(notify::try_callback(&self.0, from, &callback_address, callback_nonce).await)
        };
        let answer = ProbeAnswer {
            manager: self.0.id,
            version: self.0.version,
            protocol: manager::PROTOCOL,
            sandbox_connected: self.0.is_sandbox_connected,
            callback,
        };
        Ok(Response::new(self.0.reply(nonce, ReplyBody::Probe(answer))))
    }

    async fn register(
        &self,
        request: Request<proto::SignedCall>,
    ) -> Result<Response<proto::ManagerReply>, Status> {
        self.answer(request, |body| matches!(body, CallBody::Register(_))).await
    }

    async fn update(
        &self,
        request: Request<proto::SignedCall>,
    ) -> Result<Response<proto::ManagerReply>, Status> {
        self.answer(request, |body| matches!(body, CallBody::Update(_))).await
    }

    async fn unregister(
        &self,
        request: Request<proto::SignedCall>,
    ) -> Result<Response<proto::ManagerReply>, Status> {
        self.answer(request, |body| matches!(body, CallBody::Unregister)).await
    }
}

#[tonic::async_trait]
impl EntityLink for EntityPort {
    async fn poll(
        &self,
        request: Request<proto::SignedCall>,
    ) -> Result<Response<proto::ManagerReply>, Status> {
        self.answer(request, |body| matches!(body, CallBody::Poll(_))).await
    }

    async fn subscribe(
        &self,
        request: Request<proto::SignedCall>,
    ) -> Result<Response<proto::ManagerReply>, Status> {
        self.answer(request, |body| {
            matches!(body, CallBody::Objects(ObjectsCall::Subscribe(_) | ObjectsCall::Unsubscribe))
        })
        .await
    }

    type FetchObjectsStream = ObjectsPieces;

    async fn fetch_objects(
        &self,
        request: Request<proto::SignedCall>,
    ) -> Result<Response<Self::FetchObjectsStream>, Status> {
        let (digest, decided) =
            self.decide(request, |body| matches!(body, CallBody::Objects(ObjectsCall::Fetch(_)))).await?;
        let pieces = match decided {
            Decided::Objects(entity, held) => feed::send(&self.0, entity, digest, held).await?,
            Decided::Reply(body) => feed::only(self.0.reply(digest, body)),
        };
        Ok(Response::new(pieces))
    }

    type FetchUpdateStream = Pieces;

    async fn fetch_update(
        &self,
        request: Request<proto::FetchUpdateRequest>,
    ) -> Result<Response<Self::FetchUpdateStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let proto::FetchUpdateRequest { path } = request.into_inner();
        let pieces = self.0.mirror.send(&path, peer.as_ref(), &self.0.shutdown)?;
        Ok(Response::new(pieces))
    }
}

impl EntityPort {
    async fn answer(
        &self,
        request: Request<proto::SignedCall>,
        fits: fn(&CallBody) -> bool,
    ) -> Result<Response<proto::ManagerReply>, Status> {
        match self.decide(request, fits).await? {
            (digest, Decided::Reply(body)) => Ok(Response::new(self.0.reply(digest, body))),
            (_, Decided::Objects(..)) => Err(other_call().into()),
        }
    }

    /// The digest of a call, and what is decided about it.
    async fn decide(
        &self,
        request: Request<proto::SignedCall>,
        fits: fn(&CallBody) -> bool,
    ) -> Result<(Digest, Decided), Failure> {
        let peer = request.extensions().get::<Peer>().cloned();
        let verified = verified(&request.into_inner().envelope)?;
        let digest = verified.digest();
        let call = verified.into_document();
        if !fits(&call.body) {
            return Err(other_call());
        }
        let from = Peer::host(peer.as_ref());
        let key = Digest::of(&call.key.spki());
        let Answered { decided, is_in } = registry::answer(&self.0, from, call).await?;
        if let Some(peer) = peer
            && is_in
        {
            peer.proven(key);
        }
        Ok((digest, decided))
    }
}

fn other_call() -> Failure {
    Failure::invalid("envelope", "holds another call than this method's")
}

/// The key is in the signed payload; it proves itself. Read first, believed after.
fn verified(envelope: &Bytes) -> Result<Verified<EntityCallPurpose>, Failure> {
    let offered = Envelope::decode(envelope.clone())
        .ok()
        .and_then(|envelope| proto::EntityCall::decode(envelope.payload).ok())
        .and_then(|call| PublicKey::from_spki(&call.entity_key).ok())
        .ok_or_else(|| Failure::invalid("envelope", "is not a signed call of an entity"))?;
    verify::<EntityCallPurpose>(envelope, &[Candidate::accepted(&offered)], 1)
        .map_err(|refusal| Failure::invalid("envelope", refusal.to_string()))
}
