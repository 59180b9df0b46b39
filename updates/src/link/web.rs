//! A repository on a web server.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use hyper::body::{Body as _, Incoming};
use url::Url;
use writ_common::net::Proxy;
use writ_common::shutdown::Shutdown;
use writ_common::web::{WebError, WebFolder, with_cause};

use super::{ByteStream, Link, LinkError};

/// A web server that holds a repository.
#[derive(Debug, Clone)]
pub struct Web(WebFolder);

impl Web {
    /// A repository below an address, as [`WebFolder::new`]. Clear text is all that TUF needs.
    ///
    /// # Errors
    /// What is wrong with the address, or that nobody vouches.
    pub fn new(
        base: &Url,
        authorities: Option<Vec<Vec<u8>>>,
        proxy: Option<Proxy>,
        shutdown: Shutdown,
    ) -> Result<Self, String> {
        WebFolder::new(base, authorities, proxy, shutdown).map(Self)
    }
}

impl Link for Web {
    async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
        let answer = self.0.get(path, &[]).await.map_err(|error| match error {
            WebError::Connect(error) => LinkError::Connect(error),
            WebError::Broken(why) => LinkError::Broken { path: path.to_owned(), why },
        })?;
        let missing = || Err(LinkError::Missing(format!("{}{path}", self.0.address())));
        match answer.status() {
            StatusCode::OK => Ok(Box::pin(Pieces { body: answer.into_body(), path: path.to_owned() })),
            StatusCode::NOT_FOUND | StatusCode::GONE => missing(),
            // Stores of objects say so of what is not there, and most of the time there is no newer root.
            StatusCode::FORBIDDEN if path.ends_with(".root.json") => missing(),
            other => Err(LinkError::Status { status: other.as_u16(), path: path.to_owned() }),
        }
    }
}

/// What a web server sends.
struct Pieces {
    body: Incoming,
    path: String,
}

impl Stream for Pieces {
    type Item = Result<Bytes, LinkError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    let why = with_cause(&error);
                    return Poll::Ready(Some(Err(LinkError::Broken { path: self.path.clone(), why })));
                }
                // Trailers say nothing that is signed.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}
