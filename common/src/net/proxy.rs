//! Proxies: HTTP CONNECT and SOCKS. What they say besides yes is told apart, so that an operator can mend it.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_socks::tcp::{Socks4Stream, Socks5Stream};
use zeroize::Zeroizing;

use writ_protocol::place::Place;

use super::DIAL_TIMEOUT;
use crate::text::quoted;

/// A proxy's answer to CONNECT is never larger.
const MAX_HEAD: usize = 16 << 10;

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP CONNECT (RFC 9110 §9.3.6), in clear text up to the proxy.
    HttpConnect,
    /// SOCKS4a.
    Socks4,
    /// SOCKS5 (RFC 1928), with RFC 1929 if there is a user.
    Socks5,
}

/// Who is let through.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// By name.
    pub user: String,
    /// Secret.
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A proxy on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it is.
    pub place: Place,
    /// Who it lets through, if it asks.
    pub login: Option<Login>,
}

/// What a proxy that was reached did instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    /// It is no such proxy.
    #[error("what answers there is no such proxy: {0}")]
    Other(String),
    /// It asks who comes.
    #[error("the proxy asks for a user and a password")]
    AsksForLogin,
    /// It knows, and does not let them through.
    #[error("the proxy refuses user `{0}`")]
    RefusesLogin(String),
    /// It does not go there.
    #[error("the proxy forbids {target} ({said})")]
    Forbids {
        /// Where to.
        target: String,
        /// In its words.
        said: String,
    },
    /// It cannot go there.
    #[error("the proxy cannot reach {target} ({said})")]
    CannotReach {
        /// Where to.
        target: String,
        /// In its words.
        said: String,
    },
    /// It says nothing.
    #[error("the proxy did not connect to {0} within {DIAL_TIMEOUT:?}, nor said no")]
    Silent(String),
}

impl ProxyFault {
    /// What to do.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Other(_) => "correct the proxy's protocol, address and port",
            Self::AsksForLogin => "set user and password of the proxy",
            Self::RefusesLogin(_) => "correct user and password of the proxy",
            Self::Forbids { .. } => "have the proxy's administrator allow this address and port",
            Self::CannotReach { .. } => "look at that address and port, and at the way from the proxy to it",
            Self::Silent(_) => "look at the way from the proxy to it, and at the proxy's protocol",
        }
    }

    fn login(user: Option<(&str, &str)>) -> Self {
        user.map_or(Self::AsksForLogin, |(user, _)| Self::RefusesLogin(user.to_owned()))
    }
}

/// Asks a proxy at the other end of a stream to lead it on; the stream then is the target's.
///
/// # Errors
/// What it did instead.
pub async fn ask(
    stream: TcpStream,
    protocol: Protocol,
    target: &Place,
    login: Option<(&str, &str)>,
) -> Result<TcpStream, ProxyFault> {
    let to = (target.host(), target.port());
    match protocol {
        Protocol::HttpConnect => http_connect(stream, target, login).await,
        Protocol::Socks4 => {
            let connected = Socks4Stream::connect_with_socket(stream, to).await;
            connected.map(Socks4Stream::into_inner).map_err(|error| of_socks(&error, target, None))
        }
        Protocol::Socks5 => {
            let connected = match login {
                Some((user, password)) => {
                    Socks5Stream::connect_with_password_and_socket(stream, to, user, password).await
                }
                None => Socks5Stream::connect_with_socket(stream, to).await,
            };
            connected.map(Socks5Stream::into_inner).map_err(|error| of_socks(&error, target, login))
        }
    }
}

/// A connector of our own: what proxies answer besides 200 and 407 is what an operator needs to see.
async fn http_connect(
    mut stream: TcpStream,
    target: &Place,
    login: Option<(&str, &str)>,
) -> Result<TcpStream, ProxyFault> {
    let broken = |error: io::Error| ProxyFault::Other(error.to_string());
    let authorization = login.map_or_else(Zeroizing::default, |(user, password)| {
        Zeroizing::new(format!("Proxy-Authorization: {}\r\n", basic(user, password).as_str()))
    });
    let head = Zeroizing::new(format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n",
        authorization.as_str()
    ));
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head is the target's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_HEAD {
            return Err(ProxyFault::Other("its answer has no end".to_owned()));
        }
        answer.push(stream.read_u8().await.map_err(broken)?);
    }
    let first = answer.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    // The proxy writes it, or a thief on the way: a line of a log, and no more of it.
    let said = quoted(&String::from_utf8_lossy(first));
    let is_http = said.starts_with("HTTP/");
    let status = said.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    let target = target.to_string();
    match status.filter(|_| is_http) {
        Some(200..=299) => Ok(stream),
        Some(407) => Err(ProxyFault::login(login)),
        Some(403) => Err(ProxyFault::Forbids { target, said }),
        // A web server that knows no CONNECT.
        Some(400 | 405 | 501) => Err(ProxyFault::Other(format!("it answered `{said}`"))),
        Some(_) => Err(ProxyFault::CannotReach { target, said }),
        None => Err(ProxyFault::Other(format!("it answered `{said}`"))),
    }
}

/// RFC 7617.
#[must_use]
pub fn basic(user: &str, password: &str) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{user}:{password}"));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

fn of_socks(error: &tokio_socks::Error, target: &Place, login: Option<(&str, &str)>) -> ProxyFault {
    use tokio_socks::Error;
    let (target, said) = (target.to_string(), error.to_string());
    match error {
        Error::PasswordAuthFailure(_)
        | Error::AuthorizationRequired
        | Error::NoAcceptableAuthMethods
        | Error::IdentdAuthFailure
        | Error::InvalidUserIdAuthFailure => ProxyFault::login(login),
        Error::InvalidResponseVersion
        | Error::UnknownAuthMethod
        | Error::InvalidReservedByte
        | Error::Io(_) => ProxyFault::Other(said),
        Error::ConnectionNotAllowedByRuleset => ProxyFault::Forbids { target, said },
        _ => ProxyFault::CannotReach { target, said },
    }
}
