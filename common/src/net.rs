//! The way to another host: where it is, what its name means, a proxy in between, TCP.
//!
//! Names are resolved here and nowhere else. The C library's resolver loads what `/etc/nsswitch.conf` names,
//! and a static program cannot load what another C library was built for: it dies. `clippy.toml` forbids
//! every other way to connect by name.

mod families;
mod names;
mod proxy;

pub use families::{Families, family, other_family, source};
pub use names::{NAME_TIMEOUT, NameError, resolve};
pub use proxy::{Login, Protocol, Proxy, ProxyFault, ask, basic};

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use writ_protocol::place::Place;

/// For all addresses of one host together.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why nobody was reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name means nothing.
    #[error(transparent)]
    Name(#[from] NameError),
    /// TCP.
    #[error("cannot connect to {place}: {source}")]
    Tcp {
        /// Where to.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The proxy was reached, and said something else.
    #[error("by the proxy {proxy}: {source}")]
    Proxy {
        /// Which.
        proxy: String,
        /// What.
        source: ProxyFault,
    },
}

impl DialError {
    /// What to do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Name(error) => error.advice(),
            Self::Tcp { source, .. } => {
                advice_on(source, "start what is to answer there, or correct the port")
            }
            Self::Proxy { source, .. } => source.advice(),
        }
    }
}

/// What to do about a connection that did not come about; `refused`: when somebody said no.
#[must_use]
pub fn advice_on(error: &io::Error, refused: &'static str) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => refused,
        io::ErrorKind::TimedOut => "look at the firewalls in between: something swallows what is sent",
        _ => "look at the route and the firewalls in between",
    }
}

/// Goes to a place, by a proxy if there is one. The proxy resolves the name then.
///
/// # Errors
/// What stood in the way.
pub async fn reach(place: &Place, proxy: Option<&Proxy>) -> Result<TcpStream, DialError> {
    let first = proxy.map_or(place, |proxy| &proxy.place);
    let addresses = resolve(first).await?;
    let dialled = dial(&addresses).await;
    let whom = || if proxy.is_some() { format!("the proxy {first}") } else { first.to_string() };
    let (stream, _) = dialled.map_err(|source| DialError::Tcp { place: whom(), source })?;
    let Some(proxy) = proxy else { return Ok(stream) };
    let login = proxy.login.as_ref().map(|login| (login.user.as_str(), login.password.as_str()));
    let asked = tokio::time::timeout(DIAL_TIMEOUT, ask(stream, proxy.protocol, place, login)).await;
    asked
        .unwrap_or_else(|_| Err(ProxyFault::Silent(place.to_string())))
        .map_err(|source| DialError::Proxy { proxy: proxy.place.to_string(), source })
}

/// One address after the other, within [`DIAL_TIMEOUT`]; also which one answered.
///
/// # Errors
/// The last address's.
#[expect(clippy::disallowed_methods, reason = "by address; names are resolved above")]
pub async fn dial(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let silent =
        || io::Error::new(io::ErrorKind::TimedOut, format!("nothing answers within {DIAL_TIMEOUT:?}"));
    let share = DIAL_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = silent();
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, *address));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = silent(),
        }
    }
    Err(last)
}
