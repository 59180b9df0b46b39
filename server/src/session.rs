//! The line to one agent. A session is a state per type:
//!
//! ```text
//! Greeting ──hello, signed hello, proof──► Proven ──slot──► Live ──► ended
//! ```
//!
//! Only `Live` sees commands, and only `Greeting` can become `Proven`, by the agent's signature over both
//! nonces.

mod budget;
mod greeting;
mod identity_record;
pub(crate) mod live;
mod readmit;
mod report;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tonic::{Code, Status};
use tracing::{debug, info};
use writ_common::status::Failure;
use writ_common::tls::Peer;
use writ_proto::v1::{self as proto, server_frame::Frame};

use crate::context::Server;

/// Frames on their way to tonic. Few: what waits for a slow agent waits in the store.
pub(crate) const MAX_FRAMES_UNDER_WAY: usize = 16;

/// Frames on their way to one agent. Boxed, because a channel makes room for 32 of them at once.
pub(crate) type FrameSender = mpsc::Sender<Box<Result<proto::ServerFrame, Status>>>;

/// What a session writes to.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    sender: FrameSender,
    deadline: Duration,
}

/// The stream's other end is gone, or has not read for longer than the heartbeat deadline.
#[derive(Debug)]
pub(crate) struct Gone;

impl Outbound {
    /// Says something if there is room for it.
    pub(crate) fn offer(&self, frame: Frame) {
        let _ = self.sender.try_send(Box::new(Ok(proto::ServerFrame { frame: Some(frame) })));
    }

    /// Whether nothing waits for the agent to read it.
    pub(crate) fn is_idle(&self) -> bool {
        self.sender.capacity() == self.sender.max_capacity()
    }

    pub(crate) async fn send(&self, frame: Frame) -> Result<(), Gone> {
        let frame = Box::new(Ok(proto::ServerFrame { frame: Some(frame) }));
        // A timer only for an agent that does not read.
        let frame = match self.sender.try_send(frame) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(Gone),
            Err(TrySendError::Full(frame)) => frame,
        };
        match tokio::time::timeout(self.deadline, self.sender.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The agent left, or the connection broke.
    Gone,
    /// In good order; the agent was told.
    Drained,
    /// The agent broke a rule, or the server cannot serve it.
    Failed(Failure),
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What to say about a frame that cannot be read; if the connection is what broke, nobody hears it.
fn unreadable(status: &Status) -> End {
    let message = format!("the frame cannot be read: {}", status.message());
    End::Failed(match status.code() {
        Code::OutOfRange => Failure::exhausted(message),
        _ => Failure::protocol(message),
    })
}

/// Serves one stream until it ends.
pub(crate) async fn serve(
    server: Arc<Server>,
    peer: Option<Peer>,
    mut inbound: tonic::Streaming<proto::AgentFrame>,
    sender: FrameSender,
) {
    let outbound = Outbound { sender: sender.clone(), deadline: server.settings.heartbeat_deadline };
    let end = async {
        // Boxed: what a greeting needs is not kept for the life of the session.
        let proven = Box::pin(greeting::greet(&server, peer.as_ref(), &mut inbound, &outbound)).await?;
        let _in_session = peer.as_ref().map(Peer::in_session);
        let agent = proven.agent.id;
        info!(agent.id = %agent, bundle = proven.bundle_version, "session began");
        let end = live::Live::begin(&server, proven, outbound).await?.run(&mut inbound).await;
        info!(agent.id = %agent, "session ended");
        end
    };
    match end.await {
        Ok(()) | Err(End::Drained | End::Gone) => {}
        Err(End::Failed(failure)) => {
            debug!(?failure, "session failed");
            let _ = sender.send(Box::new(Err(failure.into()))).await;
        }
    }
}
