//! The way to the manager: name, proxy, TCP, TLS. The same for the everyday line and for a test of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_socks::tcp::{Socks4Stream, Socks5Stream};
use tonic::transport::Channel;
use writ_common::keys::vault::Vault;
use writ_common::time::Timestamp;
use writ_common::tls::{Anchors, ConnectError, TlsFault, connect_over, over};
use zeroize::Zeroizing;

use super::legs::{Fault, Leg, Legs};
use super::settings::{Login, Protocol, Proxy, Settings, endpoint};

/// For one leg.
const LEG_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy's answer to CONNECT is never larger.
const MAX_PROXY_HEAD: usize = 16 << 10;

/// Goes the way; an HTTP/2 connection nobody has been asked anything on yet.
///
/// # Errors
/// The leg that failed.
pub async fn connect(
    settings: &Settings,
    vault: &Vault,
    now: Timestamp,
    legs: &mut Legs,
) -> Result<Channel, Fault> {
    let families = Families::of_this_host();
    check_input(settings, &families, now)?;
    legs.passed(Leg::Input, "complete").await;
    let target = settings.endpoint();
    let stream = match &settings.proxy {
        Some(proxy) => by_proxy(proxy, settings, vault, &families, legs).await?,
        None => {
            let addresses = resolve(&settings.address, settings.port, &families).await?;
            say_addresses(&settings.address, &addresses, legs).await;
            legs.skipped(Leg::ProxyConnect, "no proxy is set").await;
            legs.skipped(Leg::ProxyAuthentication, "no proxy is set").await;
            let (stream, address) = dial(&addresses).await.map_err(|error| {
                let advice = advice_on(&error, "start the manager there, or correct address and port");
                Fault::new(Leg::Tcp, format!("cannot connect to {target}: {error}"), advice)
            })?;
            legs.passed(Leg::Tcp, address.to_string()).await;
            stream
        }
    };
    if settings.clear_text {
        for leg in [Leg::Tls, Leg::CertificateTrust, Leg::HostName] {
            legs.skipped(leg, "clear text is set").await;
        }
        return over(stream, &target).await.map_err(|error| not_ours(&error));
    }
    let anchors = if settings.without_authorization {
        Anchors::Unverified
    } else {
        Anchors::Authorities(settings.pinned(now).iter().map(|pinned| pinned.der().to_vec()).collect())
    };
    let connection = match connect_over(stream, &target, &anchors).await {
        Ok(connection) => connection,
        Err(error) => return Err(tls_fault(&error, legs).await),
    };
    legs.passed(Leg::Tls, "TLS 1.3").await;
    if settings.without_authorization {
        legs.skipped(Leg::CertificateTrust, "no CA certificate is set: nobody says who answers").await;
        legs.skipped(Leg::HostName, "no CA certificate is set").await;
    } else {
        legs.passed(Leg::CertificateTrust, "the certificate leads to the CA that was uploaded").await;
        legs.passed(Leg::HostName, settings.address.as_str()).await;
    }
    Ok(connection.channel)
}

fn not_ours(error: &ConnectError) -> Fault {
    Fault::new(
        Leg::ProtocolVersion,
        error.to_string(),
        "what answers there does not speak HTTP/2: correct the port, or let the web server pass gRPC on",
    )
}

async fn tls_fault(error: &ConnectError, legs: &mut Legs) -> Fault {
    let leg = match error.tls_fault() {
        Some(TlsFault::Handshake) => Leg::Tls,
        Some(TlsFault::Trust) => {
            legs.passed(Leg::Tls, "TLS 1.3").await;
            Leg::CertificateTrust
        }
        Some(TlsFault::Name) => {
            legs.passed(Leg::Tls, "TLS 1.3").await;
            legs.passed(Leg::CertificateTrust, "the certificate leads to the CA that was uploaded").await;
            Leg::HostName
        }
        None if matches!(error, ConnectError::Http { .. }) => return not_ours(error),
        None => Leg::Tls,
    };
    let is_about_dates = error.advice().contains("clocks");
    let advice = match leg {
        Leg::CertificateTrust if !is_about_dates => {
            "somebody else answers there, or the CA that was uploaded is not this manager's: look at the address, and compare the SHA-256 (writ manager settings show, and writ --context CM entities manager)"
        }
        Leg::HostName => {
            "the certificate there does not carry this name: set a name it carries, or give the manager one that does (writ-control-manager names), or the web server in front of it"
        }
        _ => error.advice(),
    };
    Fault::new(leg, error.to_string(), advice)
}

/// Nothing is sent before this has passed.
fn check_input(settings: &Settings, families: &Families, now: Timestamp) -> Result<(), Fault> {
    let advice = "correct the settings: writ manager settings set";
    settings.check_complete(now).map_err(|why| Fault::new(Leg::Input, why, advice))?;
    let literals = [Some(&settings.address), settings.proxy.as_ref().map(|proxy| &proxy.address)];
    // With a proxy it is the proxy that reaches the manager.
    let first = if settings.proxy.is_some() { 1 } else { 0 };
    for literal in literals.into_iter().skip(first).flatten() {
        if let Ok(address) = literal.parse::<IpAddr>()
            && !families.reach(address)
        {
            let detail = format!("{address} is an {} address, and this host has none", family(address));
            let advice = format!("set an {} address, or a name", other_family(address));
            return Err(Fault::new(Leg::Input, detail, advice));
        }
    }
    Ok(())
}

/// Which addresses this host can speak to at all.
struct Families {
    has_v4: bool,
    has_v6: bool,
    has_v6_loopback: bool,
}

impl Families {
    fn of_this_host() -> Self {
        let addresses: Vec<_> =
            if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect();
        let is_usable = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        Self {
            has_v4: addresses.iter().any(|address| address.is_ipv4() && is_usable(address)),
            has_v6: addresses.iter().any(|address| address.is_ipv6() && is_usable(address)),
            has_v6_loopback: addresses.iter().any(|address| address.is_ipv6() && address.is_loopback()),
        }
    }

    /// Its own loopback is always within reach.
    const fn reach(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.has_v4 || v4.is_loopback(),
            IpAddr::V6(v6) if v6.is_loopback() => self.has_v6_loopback,
            IpAddr::V6(_) => self.has_v6,
        }
    }
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

const fn other_family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv6" } else { "IPv4" }
}

async fn resolve(name: &str, port: u16, families: &Families) -> Result<Vec<SocketAddr>, Fault> {
    let looked_up = tokio::time::timeout(LEG_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    let advice = "look at the name and at this host's DNS";
    let found: Vec<_> = match looked_up {
        Err(_) => {
            let detail = format!("no name server answered for {name} within {LEG_TIMEOUT:?}");
            return Err(Fault::new(Leg::Dns, detail, advice));
        }
        Ok(Err(error)) => return Err(Fault::new(Leg::Dns, format!("{name}: {error}"), advice)),
        Ok(Ok(found)) => found.collect(),
    };
    let Some(first) = found.first().map(SocketAddr::ip) else {
        return Err(Fault::new(Leg::Dns, format!("{name} has no address"), advice));
    };
    let usable: Vec<_> = found.into_iter().filter(|address| families.reach(address.ip())).collect();
    if usable.is_empty() {
        let family = family(first);
        let detail = format!("{name} has only {family} addresses, such as {first}, and this host has none");
        let advice =
            format!("give the name an {} address, or this host an {family} one", other_family(first));
        return Err(Fault::new(Leg::Dns, detail, advice));
    }
    Ok(usable)
}

async fn say_addresses(name: &str, addresses: &[SocketAddr], legs: &mut Legs) {
    if name.parse::<IpAddr>().is_ok() {
        legs.skipped(Leg::Dns, format!("{name} is an address")).await;
    } else {
        let shown: Vec<_> = addresses.iter().take(4).map(|address| address.ip().to_string()).collect();
        legs.passed(Leg::Dns, format!("{name} is {}", shown.join(", "))).await;
    }
}

/// One address after the other, within the time of a leg.
async fn dial(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let silent =
        || io::Error::new(io::ErrorKind::TimedOut, format!("nothing answers within {LEG_TIMEOUT:?}"));
    let share = LEG_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
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

fn advice_on(error: &io::Error, refused: &'static str) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => refused,
        io::ErrorKind::TimedOut => "look at the firewalls in between: something swallows what is sent",
        _ => "look at the route and the firewalls in between",
    }
}

async fn by_proxy(
    proxy: &Proxy,
    settings: &Settings,
    vault: &Vault,
    families: &Families,
    legs: &mut Legs,
) -> Result<TcpStream, Fault> {
    let addresses = resolve(&proxy.address, proxy.port, families).await?;
    say_addresses(&proxy.address, &addresses, legs).await;
    let (stream, address) = dial(&addresses).await.map_err(|error| {
        let place = endpoint(&proxy.address, proxy.port);
        let advice = advice_on(&error, "start the proxy there, or correct its address and port");
        Fault::new(Leg::ProxyConnect, format!("cannot connect to the proxy {place}: {error}"), advice)
    })?;
    let password = match &proxy.login {
        Some(login) => Some(open(login, vault, Leg::ProxyAuthentication)?),
        None => None,
    };
    let login = proxy.login.as_ref().zip(password.as_ref());
    let login = login.map(|(login, password)| (login.user.as_str(), password.as_str()));
    let asked = async {
        match proxy.protocol {
            Protocol::HttpConnect => http_connect(stream, settings, login).await,
            Protocol::Socks4 => socks4(stream, settings).await,
            Protocol::Socks5 => socks5(stream, settings, login).await,
        }
    };
    let asked = tokio::time::timeout(LEG_TIMEOUT, asked).await;
    // What is no such proxy was not reached, whoever accepted the connection.
    if !matches!(&asked, Ok(Err(fault)) if fault.leg == Leg::ProxyConnect) {
        legs.passed(Leg::ProxyConnect, address.to_string()).await;
    }
    let stream = asked.map_err(|_| {
        Fault::new(
            Leg::Tcp,
            format!(
                "the proxy did not connect to {} within {LEG_TIMEOUT:?}, nor said no",
                settings.endpoint()
            ),
            "look at the way from the proxy to the manager, and at the proxy's protocol",
        )
    })?;
    match stream {
        Ok(stream) => {
            let detail = login.map_or_else(
                || "the proxy asks for nothing".to_owned(),
                |(user, _)| format!("the proxy let `{user}` in"),
            );
            legs.passed(Leg::ProxyAuthentication, detail).await;
            legs.passed(Leg::Tcp, format!("{} by the proxy", settings.endpoint())).await;
            Ok(stream)
        }
        Err(fault) => {
            if fault.leg == Leg::Tcp {
                legs.passed(Leg::ProxyAuthentication, "the proxy took the request").await;
            }
            Err(fault)
        }
    }
}

pub(super) fn open(login: &Login, vault: &Vault, leg: Leg) -> Result<Zeroizing<String>, Fault> {
    let opened = vault.unseal(&login.password).map_err(|error| {
        Fault::new(leg, error.to_string(), "set the password anew: writ manager settings set")
    })?;
    Ok(Zeroizing::new(String::from_utf8_lossy(&opened).into_owned()))
}

fn refused_login(user: Option<&str>) -> Fault {
    let (detail, advice) = match user {
        Some(user) => (format!("the proxy refuses user `{user}`"), "correct user and password of the proxy"),
        None => ("the proxy asks for a user and a password".to_owned(), "set user and password of the proxy"),
    };
    Fault::new(Leg::ProxyAuthentication, detail, advice)
}

/// A connector of our own: what proxies answer besides 200 and 407 is what an operator needs to see.
async fn http_connect(
    mut stream: TcpStream,
    settings: &Settings,
    login: Option<(&str, &str)>,
) -> Result<TcpStream, Fault> {
    let broken = |error: io::Error| {
        let advice = "what answers there is no HTTP proxy: correct the proxy's protocol, address and port";
        Fault::new(Leg::ProxyConnect, format!("the proxy hung up: {error}"), advice)
    };
    let target = settings.endpoint();
    let authorization = login.map_or_else(Zeroizing::default, |(user, password)| {
        Zeroizing::new(format!("Proxy-Authorization: {}\r\n", basic(user, password).as_str()))
    });
    let head = Zeroizing::new(format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n",
        authorization.as_str()
    ));
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head is the manager's.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_PROXY_HEAD {
            return Err(broken(io::Error::other("its answer has no end")));
        }
        answer.push(stream.read_u8().await.map_err(broken)?);
    }
    let line =
        String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=299) => Ok(stream),
        Some(407) => Err(refused_login(login.map(|(user, _)| user))),
        Some(403) => Err(Fault::new(
            Leg::Tcp,
            format!("the proxy forbids {target} ({line})"),
            "have the proxy's administrator allow this address and port",
        )),
        Some(_) => Err(Fault::new(
            Leg::Tcp,
            format!("the proxy cannot reach {target} ({line})"),
            "look at the manager's address and port, and at the way from the proxy to it",
        )),
        None => Err(broken(io::Error::other(format!("it answered `{line}`")))),
    }
}

/// RFC 7617.
pub(super) fn basic(user: &str, password: &str) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{user}:{password}"));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

async fn socks5(
    stream: TcpStream,
    settings: &Settings,
    login: Option<(&str, &str)>,
) -> Result<TcpStream, Fault> {
    let target = (settings.address.as_str(), settings.port);
    let connected = match login {
        Some((user, password)) => {
            Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
        }
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    connected.map(Socks5Stream::into_inner).map_err(|error| socks_fault(&error, settings, login))
}

async fn socks4(stream: TcpStream, settings: &Settings) -> Result<TcpStream, Fault> {
    let target = (settings.address.as_str(), settings.port);
    let connected = Socks4Stream::connect_with_socket(stream, target).await;
    connected.map(Socks4Stream::into_inner).map_err(|error| socks_fault(&error, settings, None))
}

fn socks_fault(error: &tokio_socks::Error, settings: &Settings, login: Option<(&str, &str)>) -> Fault {
    use tokio_socks::Error;
    match error {
        Error::PasswordAuthFailure(_)
        | Error::AuthorizationRequired
        | Error::NoAcceptableAuthMethods
        | Error::IdentdAuthFailure
        | Error::InvalidUserIdAuthFailure => refused_login(login.map(|(user, _)| user)),
        Error::InvalidResponseVersion
        | Error::UnknownAuthMethod
        | Error::InvalidReservedByte
        | Error::Io(_) => Fault::new(
            Leg::ProxyConnect,
            format!("what answers there is no such SOCKS proxy: {error}"),
            "correct the proxy's protocol, address and port",
        ),
        Error::ConnectionNotAllowedByRuleset => Fault::new(
            Leg::Tcp,
            format!("the proxy forbids {}", settings.endpoint()),
            "have the proxy's administrator allow this address and port",
        ),
        _ => Fault::new(
            Leg::Tcp,
            format!("the proxy cannot reach {}: {error}", settings.endpoint()),
            "look at the manager's address and port, and at the way from the proxy to it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_reaches_the_families_it_has_and_its_own_loopback() {
        let (v4, v6) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
        let (own4, own6) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        for (has_v4, has_v6) in [(true, false), (false, true), (true, true), (false, false)] {
            let families = Families { has_v4, has_v6, has_v6_loopback: has_v6 };
            assert_eq!((families.reach(v4), families.reach(v6)), (has_v4, has_v6));
            assert_eq!((families.reach(own4), families.reach(own6)), (true, has_v6));
        }
    }
}
