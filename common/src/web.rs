//! Asking a web server: one connection for each question, HTTP/1.1, by a proxy if there is one.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;
use writ_protocol::place::Place;

use crate::net::{Proxy, reach};
use crate::shutdown::Shutdown;
use crate::tls::{Anchors, ConnectError, check_authorities, connect_web};

/// How long a web server may take until it begins to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A web server.
#[derive(Debug, Clone)]
struct WebServer {
    /// As the header `Host` has it.
    authority: String,
    place: Place,
    /// `None`: in clear text.
    anchors: Option<Anchors>,
    proxy: Option<Proxy>,
    shutdown: Shutdown,
}

/// A folder of a web server.
#[derive(Debug, Clone)]
pub struct WebFolder {
    base: Url,
    server: WebServer,
}

/// Where something is posted to.
#[derive(Debug, Clone)]
pub struct WebHook {
    /// Path and query.
    target: String,
    server: WebServer,
}

/// Why a web server did not begin to answer.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Name, proxy, TCP or TLS.
    #[error("{0}")]
    Connect(#[source] Box<ConnectError>),
    /// It was no HTTP, it hung up, or it took too long.
    #[error("{0}")]
    Broken(String),
}

impl WebServer {
    /// That of an address that begins with `http://` or `https://`. For the latter `authorities` (DER) vouch,
    /// or those that this host trusts if none are given.
    fn of(
        url: &Url,
        authorities: Option<Vec<Vec<u8>>>,
        proxy: Option<Proxy>,
        shutdown: Shutdown,
    ) -> Result<Self, String> {
        let (usual, is_tls) = match url.scheme() {
            "http" => (80, false),
            "https" => (443, true),
            other => return Err(format!("`{other}` is no way to a web server: http or https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address holds a user or a password; they must not stand in it".to_owned());
        }
        let host = url.host_str().unwrap_or_default();
        let place = Place::of(host, url.port().unwrap_or(usual)).map_err(|error| error.to_string())?;
        let anchors = match (is_tls, authorities) {
            (false, _) => None,
            (true, Some(given)) => Some(Anchors::Authorities(given)),
            (true, None) => Some(Anchors::Authorities(of_this_host()?)),
        };
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Self { authority, place, anchors, proxy, shutdown })
    }

    /// Asks, and waits until an answer begins.
    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, WebError> {
        let asked = async {
            let connect = |error| WebError::Connect(Box::new(error));
            match &self.anchors {
                Some(anchors) => {
                    let stream = connect_web(self.proxy.as_ref(), &self.place, anchors);
                    self.ask_over(Box::pin(stream).await.map_err(connect)?, request).await
                }
                None => {
                    let stream = Box::pin(reach(&self.place, self.proxy.as_ref())).await;
                    self.ask_over(stream.map_err(|error| connect(error.into()))?, request).await
                }
            }
        };
        let silent = |_| WebError::Broken(format!("{} did not answer within {ANSWER_TIMEOUT:?}", self.place));
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(silent)?
    }

    async fn ask_over<S>(
        &self,
        stream: S,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, WebError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: &hyper::Error| WebError::Broken(with_cause(error));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // It ends with the body of the answer, whose other end it is.
        self.shutdown.spawn(async move {
            let _ = connection.await;
        });
        let host =
            HeaderValue::from_str(&self.authority).map_err(|error| WebError::Broken(error.to_string()))?;
        request.headers_mut().insert(HOST, host);
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(concat!("writ/", env!("CARGO_PKG_VERSION"))));
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        sender.send_request(request).await.map_err(|error| broken(&error))
    }
}

impl WebFolder {
    /// What is below an address, as [`WebHook::new`].
    ///
    /// # Errors
    /// What is wrong with the address, or that nobody vouches.
    pub fn new(
        base: &Url,
        authorities: Option<Vec<Vec<u8>>>,
        proxy: Option<Proxy>,
        shutdown: Shutdown,
    ) -> Result<Self, String> {
        let server = WebServer::of(base, authorities, proxy, shutdown)?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err("the address has a `?` or `#`: it is that of a folder".to_owned());
        }
        let mut base = base.clone();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base, server })
    }

    /// Its address, with a `/` at the end.
    #[must_use]
    pub const fn address(&self) -> &Url {
        &self.base
    }

    /// Asks for what is below it: a path, and perhaps a query. The answer is as the server sends it, and
    /// never packed.
    ///
    /// # Errors
    /// When no answer begins.
    pub async fn get(
        &self,
        below: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response<Incoming>, WebError> {
        let mut request = Request::get(format!("{}{below}", self.base.path()));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::default());
        self.server.ask(request.map_err(|error| WebError::Broken(error.to_string()))?).await
    }
}

impl WebHook {
    /// What is at an address that begins with `http://` or `https://`. For the latter `authorities` (DER)
    /// vouch, or those that this host trusts if none are given.
    ///
    /// # Errors
    /// What is wrong with the address, or that nobody vouches.
    pub fn new(url: &Url, authorities: Option<Vec<Vec<u8>>>, shutdown: Shutdown) -> Result<Self, String> {
        let server = WebServer::of(url, authorities, None, shutdown)?;
        let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
        Ok(Self { target: format!("{}{query}", url.path()), server })
    }

    /// Posts something. Only how the answer begins is read.
    ///
    /// # Errors
    /// When no answer begins.
    pub async fn post(
        &self,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<StatusCode, WebError> {
        let mut request = Request::post(&self.target);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body));
        let answer = self.server.ask(request.map_err(|error| WebError::Broken(error.to_string()))?).await?;
        Ok(answer.status())
    }
}

/// The authorities that this host trusts, DER, without those that the library cannot read.
///
/// # Errors
/// When there are none.
pub fn of_this_host() -> Result<Vec<Vec<u8>>, String> {
    let found = rustls_native_certs::load_native_certs().certs.into_iter().map(|der| der.to_vec());
    let usable: Vec<_> = found.filter(|der| check_authorities(std::slice::from_ref(der)).is_ok()).collect();
    if usable.is_empty() {
        let text = "this host trusts no certificate authority (package ca-certificates): name the one that vouches for the server";
        return Err(text.to_owned());
    }
    Ok(usable)
}

/// An error with its cause, which the library leaves out.
#[must_use]
pub fn with_cause(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
