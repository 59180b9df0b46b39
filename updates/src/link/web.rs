//! A repository on a web server: one connection for each file, HTTP/1.1, by a proxy if there is one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;
use writ_common::net::{Proxy, reach};
use writ_common::shutdown::Shutdown;
use writ_common::tls::{Anchors, check_authorities, connect_web};
use writ_protocol::place::Place;

use super::{ByteStream, Link, LinkError};

/// How long a web server may take until it begins to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A web server that holds a repository.
#[derive(Debug, Clone)]
pub struct Web {
    base: Url,
    place: Place,
    /// `None`: in clear text, which is all that TUF needs.
    anchors: Option<Anchors>,
    proxy: Option<Proxy>,
    shutdown: Shutdown,
}

impl Web {
    /// A repository below an address that begins with `http://` or `https://`. For the latter `authorities`
    /// (DER) vouch, or those that this host trusts if none are given.
    ///
    /// # Errors
    /// What is wrong with the address, or that nobody vouches.
    pub fn new(
        base: &Url,
        authorities: Option<Vec<Vec<u8>>>,
        proxy: Option<Proxy>,
        shutdown: Shutdown,
    ) -> Result<Self, String> {
        let (usual, is_tls) = match base.scheme() {
            "http" => (80, false),
            "https" => (443, true),
            other => return Err(format!("`{other}` is no way to a repository: http, https or file")),
        };
        if !base.username().is_empty() || base.password().is_some() {
            return Err("the address holds a user or a password: updates have none".to_owned());
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err("the address has a `?` or `#`: it is that of a folder".to_owned());
        }
        let host = base.host_str().unwrap_or_default();
        let place = Place::of(host, base.port().unwrap_or(usual)).map_err(|error| error.to_string())?;
        let anchors = match (is_tls, authorities) {
            (false, _) => None,
            (true, Some(given)) => Some(Anchors::Authorities(given)),
            (true, None) => Some(Anchors::Authorities(of_this_host()?)),
        };
        let mut base = base.clone();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base, place, anchors, proxy, shutdown })
    }

    async fn ask<S>(&self, stream: S, path: &str) -> Result<Incoming, LinkError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |why: String| LinkError::Broken { path: path.to_owned(), why };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(whole(&error)))?;
        // It ends with the body below, whose other end it is.
        self.shutdown.spawn(async move {
            let _ = connection.await;
        });
        let host = self.base.host_str().unwrap_or_default();
        let authority = match self.base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        // What is signed is the file as it is, not as a server packs it.
        let request = Request::get(format!("{}{path}", self.base.path()))
            .header(HOST, authority)
            .header(USER_AGENT, concat!("writ/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| broken(whole(&error)))?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Err(LinkError::Missing(format!("{}{path}", self.base)))
            }
            // Stores of objects say so of what is not there, and most of the time there is no newer root.
            StatusCode::FORBIDDEN if path.ends_with(".root.json") => {
                Err(LinkError::Missing(format!("{}{path}", self.base)))
            }
            other => Err(LinkError::Status { status: other.as_u16(), path: path.to_owned() }),
        }
    }
}

impl Link for Web {
    async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
        let asked = async {
            let connect = |error| LinkError::Connect(Box::new(error));
            match &self.anchors {
                Some(anchors) => {
                    let stream = connect_web(self.proxy.as_ref(), &self.place, anchors);
                    self.ask(Box::pin(stream).await.map_err(connect)?, path).await
                }
                None => {
                    let stream = Box::pin(reach(&self.place, self.proxy.as_ref())).await;
                    self.ask(stream.map_err(|error| connect(error.into()))?, path).await
                }
            }
        };
        let silent = |_| LinkError::Broken {
            path: path.to_owned(),
            why: format!("{} did not answer within {ANSWER_TIMEOUT:?}", self.place),
        };
        let body = tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(silent)??;
        Ok(Box::pin(Pieces { body, path: path.to_owned() }))
    }
}

/// The authorities that this host trusts, without those that the library cannot read.
fn of_this_host() -> Result<Vec<Vec<u8>>, String> {
    let found = rustls_native_certs::load_native_certs().certs.into_iter().map(|der| der.to_vec());
    let usable: Vec<_> = found.filter(|der| check_authorities(std::slice::from_ref(der)).is_ok()).collect();
    if usable.is_empty() {
        let text = "this host trusts no certificate authority (package ca-certificates): name the one that vouches for the web server";
        return Err(text.to_owned());
    }
    Ok(usable)
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
                    let why = whole(&error);
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

/// An error with its cause, which the library leaves out.
fn whole(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
