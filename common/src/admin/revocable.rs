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

use super::AdminBackend;
use super::operators::OperatorStore as _;
use crate::status::Failure;
use crate::tls::InSession;
use writ_protocol::id::Digest;

/// How long a revoked token may still hear.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// An answer of one message has a frame for it and one for its end. What has more is a stream.
const FRAMES_OF_AN_ANSWER: u32 = 2;

/// Who hears an answer.
pub(super) struct Listener {
    pub(super) token: Digest,
    pub(super) _call: Option<InSession>,
}

/// An answer under way.
struct Revocable {
    body: Body,
    /// Ready when the token counts no more.
    revoked: BoxFuture<'static, ()>,
    frames: u32,
    is_over: bool,
    /// Its connection is held as long as it is.
    _listener: Listener,
}

impl Listener {
    /// The same answer; one that goes on ends when the token is revoked.
    pub(super) fn hear<H: AdminBackend>(self, backend: Arc<H>, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let token = self.token;
        let revoked = Box::pin(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                // A store that fails revokes nothing.
                match backend.store().operator(token).await {
                    Ok(None) => return,
                    Ok(Some(caller)) if caller.is_over(backend.now()) => return,
                    Ok(Some(_)) | Err(_) => {}
                }
            }
        });
        Body::new(Revocable { body, revoked, frames: 0, is_over: false, _listener: self })
    }
}

impl Revocable {
    fn end(&mut self) -> Frame<Bytes> {
        self.is_over = true;
        let mut trailers = http::HeaderMap::new();
        // It has no word that is no header.
        let _ = Status::from(Failure::unauthenticated()).add_header(&mut trailers);
        Frame::trailers(trailers)
    }
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
        // First, for a stream that always has something to say; an answer at once needs no clock.
        if self.frames >= FRAMES_OF_AN_ANSWER && self.revoked.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Ok(self.end())));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.frames = self.frames.saturating_add(1);
            return Poll::Ready(frame);
        }
        if self.revoked.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(self.end())))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
