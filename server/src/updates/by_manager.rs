//! The way by the Control Manager: the files of the repository that it mirrors.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tonic::Streaming;
use writ_common::text::quoted;
use writ_proto::manager::v1::UpdatePiece;
use writ_updates::{ByteStream, Link, LinkError, Reason, UpdateError};

use super::Surroundings;
use crate::cm_bridge::client::ManagerClient;
use crate::cm_bridge::legs::Legs;

/// A manager that was reached.
#[derive(Debug, Clone)]
pub(super) struct ByManager(ManagerClient);

impl ByManager {
    /// Goes the way that is in force.
    ///
    /// # Errors
    /// The leg that failed.
    pub(super) async fn open(around: &Surroundings<'_>) -> Result<Self, UpdateError> {
        let settings = around.line.in_force.as_ref().ok_or_else(|| {
            UpdateError::new(
                Reason::NoSource,
                "this server is not registered with a manager: writ manager register",
            )
        })?;
        let opened = ManagerClient::open(settings, around.vault, &around.clock, &mut Legs::silent()).await;
        opened.map(Self).map_err(|fault| {
            UpdateError::new(Reason::Unreachable, format!("the manager was not reached: {fault}"))
        })
    }
}

impl Link for ByManager {
    async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
        match self.0.fetch_update(path).await {
            Ok(Some(pieces)) => Ok(Box::pin(Pieces { pieces, path: path.to_owned() })),
            Ok(None) => Err(LinkError::Missing(format!("{path} at the manager"))),
            Err(fault) => Err(LinkError::Refused(fault.to_string())),
        }
    }
}

struct Pieces {
    pieces: Streaming<UpdatePiece>,
    path: String,
}

impl Stream for Pieces {
    type Item = Result<Bytes, LinkError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.pieces).poll_next(context).map(|piece| {
            piece.map(|piece| match piece {
                Ok(piece) => Ok(piece.data),
                Err(status) => {
                    Err(LinkError::Broken { path: self.path.clone(), why: quoted(status.message()) })
                }
            })
        })
    }
}
