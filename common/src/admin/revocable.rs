//! A stream goes on for as long as its caller may: with the token it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::House;
use crate::id::Digest;
use crate::wire::status::Failure;

/// How long a revoked token may still hear.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A stream under way.
struct Revocable {
    body: Body,
    /// Ready when the token counts no more.
    revoked: BoxFuture<'static, ()>,
    is_over: bool,
}

/// The same answer; one that goes on ends when the token is revoked.
pub(super) fn watch<H: House>(house: Arc<H>, token: Option<Digest>, body: Body) -> Body {
    let Some(token) = token.filter(|_| !body.is_end_stream()) else { return body };
    let revoked = Box::pin(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // A store that fails revokes nothing.
            if let Ok(None) = house.known(token).await {
                return;
            }
        }
    });
    Body::new(Revocable { body, revoked, is_over: false })
}

impl HttpBody for Revocable {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        // What has an answer at once needs no clock.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.revoked.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.is_over = true;
        let mut trailers = http::HeaderMap::new();
        let status = Status::from(Failure::unauthenticated());
        Poll::Ready(match status.add_header(&mut trailers) {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(status) => Some(Err(status)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
