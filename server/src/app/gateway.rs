//! `AgentGateway`: what agents call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use writ_common::listener::{MAX_QUESTION_BYTES, PerMethod};
use writ_common::tls::Peer;
use writ_proto::v1::agent_gateway_server::{AgentGateway, AgentGatewayServer};
use writ_proto::v1::{
    AgentFrame, EnrollRequest, EnrollResponse, HandBackRequest, HandBackResponse, ServerFrame,
    TrustChainRequest, TrustChainResponse,
};
use writ_protocol::id::Digest;
use writ_protocol::limits::{MAX_ENROLMENT_BYTES, MAX_FRAME_BYTES};

use crate::authority::follow::accept_uploaded;
use crate::context::Server;
use crate::{enroll, session};

#[derive(Debug)]
pub(super) struct Gateway(Arc<Server>);

/// What agents call. Anybody may call all of it, so that a message is as large as its method needs
/// (protocol.md §4.5).
pub(super) fn service(server: &Arc<Server>) -> PerMethod<AgentGatewayServer<Gateway>> {
    let gateway = Arc::new(Gateway(Arc::clone(server)));
    let bounded = |bytes| {
        AgentGatewayServer::from_arc(Arc::clone(&gateway))
            .max_decoding_message_size(bytes)
            .max_encoding_message_size(MAX_FRAME_BYTES)
    };
    let methods = vec![
        ("/writ.v1.AgentGateway/TrustChain", bounded(MAX_QUESTION_BYTES)),
        ("/writ.v1.AgentGateway/Enroll", bounded(MAX_ENROLMENT_BYTES)),
    ];
    PerMethod::new(methods, bounded(MAX_FRAME_BYTES))
}

#[tonic::async_trait]
impl AgentGateway for Gateway {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let from = Peer::host(request.extensions().get());
        let identity_record = enroll::enroll(&self.0, from, request.into_inner()).await?;
        Ok(Response::new(EnrollResponse { identity_record }))
    }

    async fn trust_chain(
        &self,
        request: Request<TrustChainRequest>,
    ) -> Result<Response<TrustChainResponse>, Status> {
        let peer = peer(&request);
        let from = Peer::host(peer.as_ref());
        // A fork's bundles do not follow, which the agent finds out.
        let TrustChainRequest { version, digest } = request.into_inner();
        let chain = self.0.chain();
        if let Ok(digest) = Digest::try_from(digest.as_ref())
            && !chain.contains(digest)
        {
            self.0.unknown_fleet.record(from, version, digest, self.0.clock.wall());
        }
        let head = chain.head();
        let (bundles, _, more) = session::live::bundles_after(&self.0, version);
        if let Some(peer) = peer {
            peer.owes(bundles.iter().map(Bytes::len).sum());
        }
        Ok(Response::new(TrustChainResponse {
            bundles,
            more,
            head_version: head.bundle.version,
            head_digest: head.digest.as_bytes().to_vec().into(),
        }))
    }

    async fn hand_back(
        &self,
        request: Request<HandBackRequest>,
    ) -> Result<Response<HandBackResponse>, Status> {
        let head_version = accept_uploaded(&self.0, request.into_inner().bundles).await?;
        Ok(Response::new(HandBackResponse { head_version }))
    }

    type ConnectStream = Frames;

    async fn connect(
        &self,
        request: Request<Streaming<AgentFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = peer(&request);
        let (sender, receiver) = mpsc::channel(session::MAX_FRAMES_UNDER_WAY);
        let server = Arc::clone(&self.0);
        self.0.shutdown.spawn(session::serve(server, peer, request.into_inner(), sender));
        Ok(Response::new(Frames(receiver)))
    }
}

/// Who calls; tonic puts it there for every connection of ours.
fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().cloned()
}

/// Frames on their way to one agent.
#[derive(Debug)]
pub(super) struct Frames(mpsc::Receiver<Box<Result<ServerFrame, Status>>>);

impl Stream for Frames {
    type Item = Result<ServerFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|frame| frame.map(|frame| *frame))
    }
}
