//! The way by the Control Manager: the files of the repository that it mirrors.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tonic::Streaming;
use writ_common::backoff::jitter;
use writ_common::text::quoted;
use writ_proto::manager::v1::UpdatePiece;
use writ_updates::{ByteStream, Link, LinkError, Reason, UpdateError};

use super::Surroundings;
use crate::cm_bridge::client::{ManagerClient, Mirrored};
use crate::cm_bridge::legs::Legs;

/// How long to wait while the manager sends as many files as it may.
const AGAIN: Duration = Duration::from_secs(4);

/// A manager that was reached.
#[derive(Debug, Clone)]
pub(super) struct ByManager(ManagerClient);

impl ByManager {
    /// Goes the way that is in force.
    ///
    /// # Errors
    /// The leg that failed.
    pub(super) async fn open(around: &Surroundings<'_>) -> Result<Self, UpdateError> {
        let line = around.bridge.held();
        let settings = line.in_force.as_ref().ok_or_else(|| {
            UpdateError::new(
                Reason::NoSource,
                "this server is not registered with a manager: writ manager register",
            )
        })?;
        let opened =
            ManagerClient::open(settings, around.bridge.vault(), &around.clock, &mut Legs::silent()).await;
        opened.map(Self).map_err(|fault| {
            UpdateError::new(Reason::Unreachable, format!("the manager was not reached: {fault}"))
        })
    }
}

impl Link for ByManager {
    async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
        loop {
            match self.0.fetch_update(path).await {
                Ok(Mirrored::File(pieces)) => return Ok(Box::pin(Pieces { pieces, path: path.to_owned() })),
                Ok(Mirrored::Missing(why)) => return Err(LinkError::Missing(format!("{path}: {why}"))),
                // Whoever asked gives up at its own bound.
                Ok(Mirrored::Later) => tokio::time::sleep(AGAIN - jitter(AGAIN / 2)).await,
                Err(fault) => return Err(LinkError::Refused(fault.to_string())),
            }
        }
    }
}

struct Pieces {
    pieces: Box<Streaming<UpdatePiece>>,
    path: String,
}

impl Stream for Pieces {
    type Item = Result<Bytes, LinkError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.pieces).poll_next(context).map(|piece| {
            piece.map(|piece| match piece {
                Ok(piece) => Ok(piece.data),
                Err(status) => {
                    Err(LinkError::Broken { path: self.path.clone(), why: quoted(status.message()) })
                }
            })
        })
    }
}
