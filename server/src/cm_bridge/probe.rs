//! *Test Connection*: all legs, one by one, with the values as typed. Saves nothing and makes no entity.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use writ_protocol::limits::SKEW;
use writ_protocol::manager::{CallBody, NO_INSTRUCTIONS, PROTOCOL, Poll, ReplyBody};

use super::client::ManagerClient;
use super::legs::{Fault, Leg, Legs, TestedLeg};
use super::notify::Awaited;
use super::settings::Settings;
use super::{ManagerRecord, State, Uplink};

/// How long a callback may take after the manager was asked for it.
const CALLBACK_WITHIN: Duration = Duration::from_secs(12);

/// Goes all legs and reports each.
pub(crate) async fn test(uplink: Arc<Uplink>, settings: Settings, listener: mpsc::Sender<TestedLeg>) {
    let mut legs = Legs::to(listener);
    if let Err(fault) = go(&uplink, &settings, &mut legs).await {
        legs.failed(&fault).await;
    }
}

/// A test of what cannot be tried: the first leg fails.
pub(crate) async fn input_failed(why: String, listener: mpsc::Sender<TestedLeg>) {
    let advice = "correct what you typed";
    Legs::to(listener).failed(&Fault::new(Leg::Input, why, advice)).await;
}

async fn go(uplink: &Uplink, settings: &Settings, legs: &mut Legs) -> Result<(), Fault> {
    let line = ManagerClient::open(settings, &uplink.bridge.vault, &uplink.server.clock, legs).await?;
    let asked_at = uplink.server.clock.wall();
    let (about, answer) = match line.probe(None).await {
        Ok(answered) => answered,
        Err(fault) => {
            if fault.leg == Leg::Authorization || fault.leg == Leg::ProtocolVersion {
                say_web(&line, settings, legs).await;
            }
            return Err(fault);
        }
    };
    say_web(&line, settings, legs).await;
    if about.protocol != PROTOCOL {
        let (theirs, newer) = (about.protocol, about.protocol > PROTOCOL);
        let advice = if newer { "update this server" } else { "update the manager" };
        let detail = format!(
            "the manager speaks version {theirs} of the protocol, and this server version {PROTOCOL}"
        );
        return Err(Fault::new(Leg::ProtocolVersion, detail, advice));
    }
    legs.passed(Leg::ProtocolVersion, format!("manager {}, protocol {}", about.version, about.protocol))
        .await;
    // The manager's time lies between the question and the answer.
    let now = uplink.server.clock.wall();
    let apart = asked_at.since(answer.time).max(answer.time.since(now));
    if apart > SKEW {
        let word = if answer.time > now { "ahead of" } else { "behind" };
        let detail = format!(
            "the manager's clock is {} s {word} this server's; {SKEW:?} are allowed",
            apart.as_secs()
        );
        return Err(Fault::new(Leg::Clock, detail, "set the clocks of both hosts right"));
    }
    legs.passed(Leg::Clock, format!("{} ms apart", apart.as_millis())).await;
    let detail = authorization(uplink, settings, &line).await?;
    if settings.without_authorization {
        legs.skipped(Leg::Authorization, "no CA certificate is set: nobody says who answers").await;
    } else {
        legs.passed(Leg::Authorization, detail).await;
    }
    let Some(forwarding) = &settings.forwarding else {
        legs.skipped(Leg::Callback, "one-way: the manager does not call").await;
        return Ok(());
    };
    callback(uplink, &line, forwarding).await?;
    legs.passed(Leg::Callback, format!("the manager reached this server at {forwarding}")).await;
    Ok(())
}

async fn say_web(line: &ManagerClient, settings: &Settings, legs: &mut Legs) {
    match (&settings.web, line.was_asked()) {
        (Some(web), true) => {
            legs.passed(Leg::WebAuthentication, format!("the web server let `{}` in", web.user)).await;
        }
        (Some(_), false) => {
            legs.skipped(Leg::WebAuthentication, "no web server asked; the password was not sent").await;
        }
        (None, _) => legs.skipped(Leg::WebAuthentication, "no web server asked").await,
    }
}

/// The answer was checked against the CA already; here whether the manager takes this server, where it knows
/// it.
async fn authorization(uplink: &Uplink, settings: &Settings, line: &ManagerClient) -> Result<String, Fault> {
    let vouched = "the manager's key is certified by the CA that was uploaded".to_owned();
    let ManagerRecord { registration, in_force, .. } = uplink.bridge.held();
    let is_same = in_force.is_some_and(|held| held.endpoint() == settings.endpoint());
    if !is_same || !matches!(registration.state, State::Registered | State::Waiting | State::Rejected) {
        return Ok(vouched);
    }
    // Asks for nothing: whatever waits goes on waiting.
    let poll = CallBody::Poll(Poll { after: NO_INSTRUCTIONS, outcomes: Vec::new() });
    let answer = uplink.call(line, (registration.manager, registration.epoch), poll).await?;
    match answer.body {
        ReplyBody::Rejected(rejection) => {
            Err(Fault::new(Leg::Authorization, rejection.detail, rejection.code.cure()))
        }
        _ => Ok(format!("{vouched}; it knows this server")),
    }
}

async fn callback(uplink: &Uplink, line: &ManagerClient, forwarding: &str) -> Result<(), Fault> {
    let mut awaited = Awaited::new(uplink).await;
    let (about, _) = line.probe(Some((forwarding.to_owned(), awaited.nonce))).await?;
    let advice = format!(
        "have {forwarding} forwarded to port {} of this server, and let the manager through the firewalls in between",
        uplink.bridge.listen.port()
    );
    match about.callback {
        Some(Ok(())) => {}
        Some(Err(why)) => return Err(Fault::new(Leg::Callback, why, advice)),
        None => return Err(Fault::new(Leg::Callback, "the manager did not call", advice)),
    }
    match tokio::time::timeout(CALLBACK_WITHIN, &mut awaited.came).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Fault::new(
            Leg::Callback,
            format!("the manager handed the nonce to somebody else at {forwarding}: it did not come here"),
            advice,
        )),
    }
}
