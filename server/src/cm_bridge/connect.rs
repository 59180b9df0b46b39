//! The way to the manager: name, proxy, TCP, TLS. The same for the everyday line and for a test of it.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;
use tonic::transport::Channel;
use writ_common::keys::vault::Vault;
use writ_common::net::{
    self, DIAL_TIMEOUT, Families, NameError, ProxyFault, advice_on, dial, family, other_family,
};
use writ_common::tls::{Anchors, ConnectError, TlsFault, connect_over, over};
use writ_protocol::place::{InvalidPlace, Place};
use writ_protocol::time::Timestamp;
use zeroize::Zeroizing;

use super::legs::{Fault, Leg, Legs};
use super::settings::{Login, Proxy, Settings};

/// Goes the way; an HTTP/2 connection nobody has been asked anything on yet.
///
/// # Errors
/// The leg that failed.
pub(crate) async fn connect(
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
            let addresses = resolve(&place_of(&settings.address, settings.port)?, &families).await?;
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
    let is_about_dates = error.is_about_dates();
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

async fn resolve(place: &Place, families: &Families) -> Result<Vec<SocketAddr>, Fault> {
    let fault = |error: NameError| Fault::new(Leg::Dns, error.to_string(), error.advice());
    let found = net::resolve(place).await.map_err(fault)?;
    let first = found.first().map(SocketAddr::ip);
    let usable: Vec<_> = found.into_iter().filter(|address| families.reach(address.ip())).collect();
    match first {
        Some(address) if usable.is_empty() => {
            Err(fault(NameError::OtherFamily { name: place.host().to_owned(), address }))
        }
        _ => Ok(usable),
    }
}

fn place_of(host: &str, port: u16) -> Result<Place, Fault> {
    let wrong = |error: InvalidPlace| {
        Fault::new(Leg::Input, error.to_string(), "correct the settings: writ manager settings set")
    };
    Place::of(host, port).map_err(wrong)
}

async fn say_addresses(name: &str, addresses: &[SocketAddr], legs: &mut Legs) {
    if name.parse::<IpAddr>().is_ok() {
        legs.skipped(Leg::Dns, format!("{name} is an address")).await;
    } else {
        let shown: Vec<_> = addresses.iter().take(4).map(|address| address.ip().to_string()).collect();
        legs.passed(Leg::Dns, format!("{name} is {}", shown.join(", "))).await;
    }
}

async fn by_proxy(
    proxy: &Proxy,
    settings: &Settings,
    vault: &Vault,
    families: &Families,
    legs: &mut Legs,
) -> Result<TcpStream, Fault> {
    let (target, place) =
        (place_of(&settings.address, settings.port)?, place_of(&proxy.address, proxy.port)?);
    let addresses = resolve(&place, families).await?;
    say_addresses(&proxy.address, &addresses, legs).await;
    let (stream, address) = dial(&addresses).await.map_err(|error| {
        let advice = advice_on(&error, "start the proxy there, or correct its address and port");
        Fault::new(Leg::ProxyConnect, format!("cannot connect to the proxy {place}: {error}"), advice)
    })?;
    let password = match &proxy.login {
        Some(login) => Some(open(login, vault, Leg::ProxyAuthentication)?),
        None => None,
    };
    let login = proxy.login.as_ref().zip(password.as_ref());
    let login = login.map(|(login, password)| (login.user.as_str(), password.as_str()));
    let asked = tokio::time::timeout(DIAL_TIMEOUT, net::ask(stream, proxy.protocol, &target, login)).await;
    let asked = asked.unwrap_or_else(|_| Err(ProxyFault::Silent(target.to_string())));
    // A program that is no such proxy was not reached, although it accepted the connection.
    if !matches!(&asked, Err(ProxyFault::Other(_))) {
        legs.passed(Leg::ProxyConnect, address.to_string()).await;
    }
    match asked {
        Ok(stream) => {
            let detail = login.map_or_else(
                || "the proxy asks for nothing".to_owned(),
                |(user, _)| format!("the proxy let `{user}` in"),
            );
            legs.passed(Leg::ProxyAuthentication, detail).await;
            legs.passed(Leg::Tcp, format!("{target} by the proxy")).await;
            Ok(stream)
        }
        Err(fault) => {
            let leg = match fault {
                ProxyFault::Other(_) => Leg::ProxyConnect,
                ProxyFault::AsksForLogin | ProxyFault::RefusesLogin(_) => Leg::ProxyAuthentication,
                ProxyFault::Forbids { .. } | ProxyFault::CannotReach { .. } => {
                    legs.passed(Leg::ProxyAuthentication, "the proxy took the request").await;
                    Leg::Tcp
                }
                ProxyFault::Silent(_) => Leg::Tcp,
            };
            Err(Fault::new(leg, fault.to_string(), fault.advice()))
        }
    }
}

pub(super) fn open(login: &Login, vault: &Vault, leg: Leg) -> Result<Zeroizing<String>, Fault> {
    let opened = vault.unseal(&login.password).map_err(|error| {
        Fault::new(leg, error.to_string(), "set the password anew: writ manager settings set")
    })?;
    Ok(Zeroizing::new(String::from_utf8_lossy(&opened).into_owned()))
}
