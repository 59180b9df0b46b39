//! The subscription to the suspicious objects that act at the manager: begun by itself where a sandbox feeds the
//! manager, kept up to date, and ended.
//!
//! A key of its own fetches them, made here and known to the manager for as long as the subscription lasts. What
//! comes is a version under the manager's seal, and a version never goes back: [`mod@fetch`].
//! [`orders`] is what operators say.

mod fetch;
mod orders;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{info, warn};
use writ_common::admin::AdminBackend as _;
use writ_common::backoff::{Backoff, jitter};
use writ_objects::service::{Change, Changed, ObjectHolder as _, ObjectStore as _, Received};
use writ_protocol::keys::{Algorithm, Entity, PrivateKey};
use writ_protocol::manager::{CallBody, ObjectsCall, Rejection, RejectionCode, ReplyBody};
use writ_protocol::time::Timestamp;

use super::client::{ManagerClient, unexpected};
use super::legs::{Fault, Leg, Legs};
use super::poll::alarm;
use super::{Registration, SUBSCRIPTION, State, Uplink, json, stored};
use fetch::{Fetched, fetch};
pub(crate) use orders::SubscriptionStatus;

/// How often the manager is asked unless told otherwise, in minutes.
const USUAL_INTERVAL: u32 = 5;
/// How often it may be asked, in minutes.
pub(crate) const INTERVALS: std::ops::RangeInclusive<u32> = 1..=60;
/// Until something changes.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between tries that fail; the interval is the longest.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// How long the manager may take for all that is asked of it at a time: who is in between may send a byte now and
/// then for ever.
const SYNC_FOR: Duration = Duration::from_secs(600);
/// Who added an object that came from the manager.
const BY: &str = "control-manager";

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Wish {
    /// Nobody said: it begins where a sandbox feeds the manager.
    #[default]
    Automatic,
    /// An operator started it.
    Started,
    /// An operator stopped it.
    Stopped,
}

/// A subscription as this server remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Subscription {
    wish: Wish,
    /// The key that fetches, sealed, and what it is known by; empty: there is none.
    key: String,
    key_id: String,
    /// Under which registration the manager knows it.
    epoch: u64,
    since: u64,
    /// The manager's operator revoked it.
    is_revoked: bool,
    /// The manager still has to hear that it ended.
    is_leaving: bool,
    /// What came from the manager is still to be deleted.
    is_deleting: bool,
    /// Whose objects are held, and which version of them. Kept after the end: versions never go back.
    manager: Option<[u8; 16]>,
    version: u64,
    /// The last time the manager answered.
    synced_at: u64,
    interval: u32,
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            wish: Wish::default(),
            key: String::new(),
            key_id: String::new(),
            epoch: 0,
            since: 0,
            is_revoked: false,
            is_leaving: false,
            is_deleting: false,
            manager: None,
            version: 0,
            synced_at: 0,
            interval: USUAL_INTERVAL,
        }
    }
}

impl Subscription {
    fn forget_key(&mut self) {
        self.key.clear();
        self.key_id.clear();
    }

    fn is_of(&self, registration: &Registration) -> bool {
        !self.key.is_empty() && self.epoch == registration.epoch
    }

    fn is_wanted(&self, registration: &Registration) -> bool {
        registration.state == State::Registered
            && registration.is_authorized
            && match self.wish {
                Wish::Automatic => registration.is_sandbox_connected || self.is_of(registration),
                Wish::Started => true,
                Wish::Stopped => false,
            }
    }

    fn every(&self) -> Duration {
        Duration::from_secs(60 * u64::from(self.interval))
    }
}

/// What a running server keeps of it.
#[derive(Debug)]
pub(crate) struct Subscribing {
    /// Whoever changes it, or talks to the manager about it, has a turn.
    turns: tokio::sync::Mutex<()>,
    /// What is remembered is changed by one at a time; nobody talks to the manager meanwhile.
    changes: tokio::sync::Mutex<()>,
    held: RwLock<Subscription>,
    live: Mutex<Live>,
    poke: Notify,
    /// What is being fetched is wanted no more.
    cancelled: Notify,
}

#[derive(Debug, Clone, Default)]
struct Live {
    /// Of the last try, if it failed.
    error: String,
    /// What the last answer changed.
    changed: u64,
}

impl Subscribing {
    pub(super) fn new(held: Subscription) -> Self {
        Self {
            turns: tokio::sync::Mutex::default(),
            changes: tokio::sync::Mutex::default(),
            held: RwLock::new(held),
            live: Mutex::default(),
            poke: Notify::new(),
            cancelled: Notify::new(),
        }
    }

    /// The registration may be another.
    pub(super) fn look(&self) {
        self.poke.notify_one();
    }

    fn held(&self) -> Subscription {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps it until the server ends.
pub(crate) async fn run(uplink: Arc<Uplink>) {
    let mut backoff = Backoff::new(FIRST_WAIT, Duration::from_secs(3600));
    loop {
        let subscribing = &uplink.bridge.subscribing;
        let every = subscribing.held().every();
        let looked = uplink.server.shutdown.unless_requested(Box::pin(look(&uplink))).await;
        let wait = match looked {
            None => return,
            Some(Ok(wait)) => {
                backoff.reset();
                wait
            }
            Some(Err(fault)) => {
                warn!(error = %fault, "suspicious objects did not come from the Control Manager");
                subscribing.live().error = fault.to_string();
                backoff.after_failure().min(every)
            }
        };
        let woken = tokio::time::timeout(wait, subscribing.poke.notified());
        if uplink.server.shutdown.unless_requested(woken).await.is_none() {
            return;
        }
    }
}

/// Does what is due; how long to wait before the next look.
async fn look(uplink: &Uplink) -> Result<Duration, Fault> {
    let _turn = uplink.bridge.subscribing.turns.lock().await;
    let (registration, held) = (uplink.bridge.held().registration, uplink.bridge.subscribing.held());
    if held.is_deleting {
        delete(uplink).await?;
    }
    if held.is_leaving {
        leave(uplink, &registration).await?;
    }
    if registration.state == State::Unregistered && !held.key.is_empty() {
        // It ended with the registration.
        change(uplink, Subscription::forget_key).await?;
    }
    if !held.is_wanted(&registration) {
        return Ok(NEVER);
    }
    let due = Timestamp::from_millis(held.synced_at) + held.every();
    let now = uplink.server.clock.wall();
    if held.is_of(&registration) && due > now && !held.is_revoked && held.synced_at <= now.as_millis() {
        return Ok(due.since(now));
    }
    sync(uplink, &registration).await?;
    let every = held.every();
    Ok(every - jitter(every / 10))
}

/// Changes what is remembered, and makes it durable: nobody else changes it meanwhile.
async fn change(uplink: &Uplink, change: impl FnOnce(&mut Subscription) + Send) -> Result<(), Fault> {
    let _alone = uplink.bridge.subscribing.changes.lock().await;
    let mut next = uplink.bridge.subscribing.held();
    change(&mut next);
    uplink
        .server
        .store
        .put_manager_documents(vec![(SUBSCRIPTION, Some(json(&next)))])
        .await
        .map_err(stored)?;
    *uplink.bridge.subscribing.held.write().unwrap_or_else(PoisonError::into_inner) = next;
    Ok(())
}

async fn open(uplink: &Uplink) -> Result<ManagerClient, Fault> {
    let Some(settings) = uplink.bridge.held().in_force else {
        return Err(Fault::new(Leg::Input, "this server is not registered", "writ manager register"));
    };
    ManagerClient::open(&settings, &uplink.bridge.vault, &uplink.server.clock, &mut Legs::silent()).await
}

/// Subscribes if that is due, then asks for what is new, unless an operator stops it meanwhile.
async fn sync(uplink: &Uplink, registration: &Registration) -> Result<(), Fault> {
    unless_stopped(uplink, Box::pin(sync_now(uplink, registration))).await
}

/// Talks to the manager, unless an operator stops it meanwhile or it takes too long.
async fn unless_stopped(uplink: &Uplink, talk: impl Future<Output = Result<(), Fault>>) -> Result<(), Fault> {
    let over = |why: &str| Err(Fault::new(Leg::Tcp, why, "writ objects subscription show"));
    tokio::select! {
        talked = tokio::time::timeout(SYNC_FOR, talk) => {
            let too_long = format!("suspicious objects did not come within {SYNC_FOR:?}");
            talked.unwrap_or_else(|_| over(&too_long))
        }
        () = uplink.bridge.subscribing.cancelled.notified() => over("it was stopped"),
    }
}

/// A key that the manager does not know any more is replaced once.
async fn sync_now(uplink: &Uplink, registration: &Registration) -> Result<(), Fault> {
    if !uplink.bridge.subscribing.held().is_wanted(registration) {
        return Err(Fault::new(Leg::Input, "it was stopped", "writ objects subscription start"));
    }
    let line = open(uplink).await?;
    let is_known = uplink.bridge.subscribing.held().is_of(registration);
    if !is_known {
        subscribe(uplink, &line, registration).await?;
    }
    let no = match fetch(uplink, &line, registration).await? {
        Fetched::Done => return Ok(()),
        Fetched::Rejected(rejection) => rejection,
    };
    // Whoever else has the key may have counted this server out: another one begins to count anew.
    let is_of_the_key = matches!(no.code, RejectionCode::NotSubscribed | RejectionCode::Replayed);
    if !is_of_the_key || !is_known {
        return Err(rejected(&no));
    }
    subscribe(uplink, &line, registration).await?;
    match fetch(uplink, &line, registration).await? {
        Fetched::Done => Ok(()),
        Fetched::Rejected(rejection) => Err(rejected(&rejection)),
    }
}

fn rejected(rejection: &Rejection) -> Fault {
    let Rejection { code, detail } = rejection;
    Fault::new(Leg::Authorization, format!("{}: {detail}", code.as_str()), code.cure())
}

/// Has a new key fetch.
async fn subscribe(uplink: &Uplink, line: &ManagerClient, registration: &Registration) -> Result<(), Fault> {
    let key = PrivateKey::<Entity>::generate(Algorithm::default());
    let sealed = uplink
        .bridge
        .vault
        .seal(&key.to_pkcs8())
        .map_err(|error| Fault::new(Leg::Input, error.to_string(), "see this server's log"))?;
    let to = (registration.manager, registration.epoch);
    let answer =
        uplink.call(line, to, CallBody::Objects(ObjectsCall::Subscribe(key.public().clone()))).await?;
    writ_common::checkpoint!("subscribed_at_manager");
    match answer.body {
        ReplyBody::Subscribed => {
            let now = uplink.server.clock.wall();
            change(uplink, |next| {
                if next.manager != registration.manager {
                    // Another manager's versions say nothing of this one's.
                    (next.manager, next.version) = (registration.manager, 0);
                }
                (next.epoch, next.since) = (registration.epoch, now.as_millis());
                if next.wish == Wish::Stopped {
                    // An operator stopped it while the manager answered.
                    next.is_leaving = true;
                    return;
                }
                (next.key, next.key_id) = (sealed, key.public().id().to_string());
                (next.is_revoked, next.is_leaving) = (false, false);
            })
            .await?;
            let key_id = key.public().id();
            info!(target: "audit", { key.id = %key_id }, "subscribed to suspicious objects of the Control Manager");
            Ok(())
        }
        ReplyBody::Rejected(rejection) => {
            let is_known = uplink.bridge.subscribing.held().is_revoked;
            if rejection.code == RejectionCode::SubscriptionRevoked && !is_known {
                change(uplink, |next| {
                    next.is_revoked = true;
                    next.forget_key();
                })
                .await?;
                alarm(uplink, rejection.code, &rejection.detail).await.map_err(stored)?;
            }
            Err(rejected(&rejection))
        }
        ReplyBody::Probe(_)
        | ReplyBody::Registered(_)
        | ReplyBody::Left
        | ReplyBody::Work(_)
        | ReplyBody::Unsubscribed
        | ReplyBody::Objects(_) => Err(unexpected()),
    }
}

/// Deletes what came from the manager, as an operator asked.
async fn delete(uplink: &Uplink) -> Result<(), Fault> {
    let nothing = Change::Received(Received { is_whole: true, put: Vec::new(), gone: Vec::new() });
    let now = uplink.server.clock.wall();
    let deleted = uplink.server.store().change_objects(nothing, BY.to_owned(), now).await.map_err(stored)?;
    change(uplink, |next| {
        (next.version, next.synced_at, next.is_revoked, next.is_deleting) = (0, 0, false, false);
    })
    .await?;
    if let Changed::Done(1..) = deleted {
        uplink.server.objects_changed();
    }
    Ok(())
}

/// Tells the manager that it ended. One that cannot be told, or is another by now, need not be: without this
/// server's key nobody fetches.
async fn leave(uplink: &Uplink, registration: &Registration) -> Result<(), Fault> {
    let epoch = uplink.bridge.subscribing.held().epoch;
    let is_there = registration.state == State::Registered && registration.epoch == epoch;
    if is_there {
        let line = open(uplink).await?;
        let to = (registration.manager, registration.epoch);
        match uplink.call(&line, to, CallBody::Objects(ObjectsCall::Unsubscribe)).await?.body {
            ReplyBody::Unsubscribed => info!("the Control Manager was told that the subscription ended"),
            ReplyBody::Rejected(rejection) => return Err(rejected(&rejection)),
            ReplyBody::Probe(_)
            | ReplyBody::Registered(_)
            | ReplyBody::Left
            | ReplyBody::Work(_)
            | ReplyBody::Subscribed
            | ReplyBody::Objects(_) => return Err(unexpected()),
        }
    }
    change(uplink, |next| next.is_leaving = false).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_wanted_where_a_sandbox_is_unless_an_operator_says_otherwise() {
        let registration = |state, is_authorized, is_sandbox_connected| Registration {
            state,
            is_authorized,
            is_sandbox_connected,
            epoch: 7,
            ..Registration::default()
        };
        let of =
            |wish, key: &str| Subscription { wish, key: key.to_owned(), epoch: 7, ..Subscription::default() };
        for (what, subscription, registration, is_wanted) in [
            ("a sandbox", of(Wish::Automatic, ""), registration(State::Registered, true, true), true),
            ("none", of(Wish::Automatic, ""), registration(State::Registered, true, false), false),
            ("there was one", of(Wish::Automatic, "x"), registration(State::Registered, true, false), true),
            ("started", of(Wish::Started, ""), registration(State::Registered, true, false), true),
            ("stopped", of(Wish::Stopped, ""), registration(State::Registered, true, true), false),
            ("nobody vouches", of(Wish::Started, ""), registration(State::Registered, false, true), false),
            ("waits", of(Wish::Automatic, ""), registration(State::Waiting, true, true), false),
        ] {
            assert_eq!(subscription.is_wanted(&registration), is_wanted, "{what}");
        }
    }
}
