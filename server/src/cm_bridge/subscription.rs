//! The subscription to the suspicious objects that act at the manager: begun by itself where a sandbox feeds the
//! manager, kept up to date, and ended.
//!
//! A key of its own fetches them, made here and known to the manager for as long as the subscription lasts. What
//! comes is a version under the manager's seal, and a version never goes back.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tonic::Streaming;
use tracing::{info, warn};
use writ_common::admin::{AdminBackend as _, unavailable};
use writ_common::backoff::{Backoff, jitter};
use writ_common::status::Failure;
use writ_common::text::quoted;
use writ_objects::service::{Change, Changed, ObjectHolder as _, ObjectStore as _, Received};
use writ_objects::{ObjectsChange, Source};
use writ_proto::manager::v1::ObjectsPiece;
use writ_proto::manager::v1::objects_piece::Piece;
use writ_protocol::id::{Digest, ManagerId};
use writ_protocol::keys::{Algorithm, Entity, PrivateKey};
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_protocol::manager::{
    CallBody, ObjectsCall, ObjectsOffer, OfferedChange, Rejection, RejectionCode, ReplyBody,
};
use writ_protocol::time::Timestamp;

use super::client::{ManagerClient, unexpected};
use super::legs::{Fault, Leg, Legs};
use super::poll::alarm;
use super::{Registration, SUBSCRIPTION, State, Uplink, json, stored};
use crate::store::{Alarm, AlertKind, SERVER};

/// How often the manager is asked unless told otherwise, in minutes.
const USUAL_INTERVAL: u32 = 5;
/// How often it may be asked, in minutes.
pub(crate) const INTERVALS: std::ops::RangeInclusive<u32> = 1..=60;
/// Until something changes.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between tries that fail; the interval is the longest.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// How long the manager may take for one message of a change, and for all that is asked of it at a time: who is in
/// between may send a byte now and then for ever.
const PATIENCE: Duration = Duration::from_secs(30);
const SYNC_FOR: Duration = Duration::from_secs(600);
/// How long an operator waits for somebody else's turn: less than a call may take.
const TURN_WITHIN: Duration = Duration::from_secs(8);
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

/// How it stands, for operators.
#[derive(Debug)]
pub(crate) struct SubscriptionStatus {
    /// Its stable name.
    pub state: &'static str,
    /// What an operator does next; empty: nothing.
    pub next: String,
    /// Whose objects are held.
    pub manager: Option<ManagerId>,
    /// Of the key that fetches; empty: there is none.
    pub key_id: String,
    /// Since when it does.
    pub since: Timestamp,
    /// The version that is held.
    pub version: u64,
    /// Objects that came from the manager.
    pub objects: u64,
    /// The last time the manager answered.
    pub synced_at: Timestamp,
    /// Of the last try, if it failed.
    pub error: String,
    /// In minutes.
    pub interval: u32,
    /// What the last answer changed.
    pub changed: u64,
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
    let over = |why: &str| Err(Fault::new(Leg::Tcp, why, "writ objects subscription show"));
    tokio::select! {
        synced = tokio::time::timeout(SYNC_FOR, Box::pin(sync_now(uplink, registration))) => {
            let too_long = format!("suspicious objects did not come within {SYNC_FOR:?}");
            synced.unwrap_or_else(|_| over(&too_long))
        }
        () = uplink.bridge.subscribing.cancelled.notified() => over("it was stopped"),
    }
}

/// A key that the manager does not know any more is replaced once.
async fn sync_now(uplink: &Uplink, registration: &Registration) -> Result<(), Fault> {
    let line = open(uplink).await?;
    let is_known = uplink.bridge.subscribing.held().is_of(registration);
    if !is_known {
        subscribe(uplink, &line, registration).await?;
    }
    let no = match fetch(uplink, &line, registration).await? {
        Fetched::Done => return Ok(()),
        Fetched::Rejected(rejection) => rejection,
    };
    if no.code != RejectionCode::NotSubscribed || !is_known {
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
                (next.key, next.key_id) = (sealed, key.public().id().to_string());
                (next.epoch, next.since) = (registration.epoch, now.as_millis());
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

enum Fetched {
    Done,
    Rejected(Rejection),
}

/// What a change comes to before anything of it counts.
enum Came {
    /// The list that is held is the newest.
    Nothing,
    Change {
        is_whole: bool,
        change: ObjectsChange,
    },
    /// It does not lead from the list that is held to the one of the manager.
    Other,
}

/// Asks for what is new, and makes it true.
async fn fetch(uplink: &Uplink, line: &ManagerClient, registration: &Registration) -> Result<Fetched, Fault> {
    let held = uplink.bridge.subscribing.held();
    let key = open_key(uplink, &held)?;
    let mut asked = held.version;
    let (offer, is_whole, found) = loop {
        let (answer, pieces) = uplink.fetch_objects(line, &key, registration, asked).await?;
        let offer = match answer.body {
            ReplyBody::Objects(offer) => offer,
            ReplyBody::Rejected(rejection) => return Ok(Fetched::Rejected(rejection)),
            ReplyBody::Probe(_)
            | ReplyBody::Registered(_)
            | ReplyBody::Left
            | ReplyBody::Work(_)
            | ReplyBody::Subscribed
            | ReplyBody::Unsubscribed => return Err(unexpected()),
        };
        if offer.version < held.version {
            return Err(went_back(uplink, &offer, &held).await);
        }
        match came(uplink, &offer, asked, pieces).await? {
            Came::Nothing => break (offer, false, ObjectsChange::default()),
            Came::Change { is_whole, change } => break (offer, is_whole, change),
            Came::Other if asked > 0 => asked = 0,
            Came::Other => {
                let why = "the objects that came are not the list that the manager names";
                return Err(Fault::new(Leg::ProtocolVersion, why, "update both programs"));
            }
        }
    };
    // Nothing that a manager says counts once the registration has ended, or an operator stopped it.
    let now_held = uplink.bridge.held().registration;
    let is_same = (now_held.epoch, now_held.manager) == (registration.epoch, registration.manager);
    if !is_same || !uplink.bridge.subscribing.held().is_wanted(&now_held) {
        let why = "the registration or the subscription ended meanwhile";
        return Err(Fault::new(Leg::Input, why, "writ objects subscription show"));
    }
    let changed = take(uplink, is_whole, found).await?;
    writ_common::checkpoint!("objects_taken");
    let now = uplink.server.clock.wall().as_millis();
    change(uplink, |next| {
        (next.version, next.synced_at, next.is_revoked) = (offer.version, now, false);
    })
    .await?;
    *uplink.bridge.subscribing.live() = Live { error: String::new(), changed };
    if changed > 0 {
        info!(version = offer.version, changed, "suspicious objects came from the Control Manager");
        uplink.server.objects_changed();
    }
    Ok(Fetched::Done)
}

fn open_key(uplink: &Uplink, held: &Subscription) -> Result<PrivateKey<Entity>, Fault> {
    let lost = |why: String| {
        Fault::new(
            Leg::Input,
            format!("the key of the subscription: {why}"),
            "writ objects subscription rotate",
        )
    };
    let der = uplink.bridge.vault.unseal(&held.key).map_err(|error| lost(error.to_string()))?;
    PrivateKey::from_pkcs8(&der).map_err(|error| lost(error.to_string()))
}

/// What is offered, checked against the list that is held.
async fn came(
    uplink: &Uplink,
    offer: &ObjectsOffer,
    asked: u64,
    pieces: Box<Streaming<ObjectsPiece>>,
) -> Result<Came, Fault> {
    let Some(change) = offer.change else {
        return Ok(if offer.version == asked { Came::Nothing } else { Came::Other });
    };
    if change.base != 0 && change.base != asked {
        return Ok(Came::Other);
    }
    let bytes = read(change, pieces).await?;
    let held = match change.base {
        0 => Vec::new(),
        _ => uplink.server.store().objects_of(Source::Manager).await.map_err(stored)?,
    };
    let list = offer.list;
    let checked = tokio::task::spawn_blocking(move || {
        let change = ObjectsChange::decode(&bytes)?;
        let is_right = change.after(held).digest() == list;
        Ok::<_, writ_objects::InvalidChange>(is_right.then_some(change))
    });
    let failed = |why: String| Fault::new(Leg::ProtocolVersion, why, "update both programs");
    let checked = checked.await.map_err(|error| failed(error.to_string()))?;
    Ok(match checked.map_err(|error| failed(error.to_string()))? {
        Some(found) => Came::Change { is_whole: change.base == 0, change: found },
        None => Came::Other,
    })
}

/// The bytes of a change: as many as were offered, under the digest that was.
async fn read(change: OfferedChange, mut pieces: Box<Streaming<ObjectsPiece>>) -> Result<Vec<u8>, Fault> {
    let cut = |why: String| {
        Fault::new(
            Leg::Tcp,
            format!("suspicious objects did not come whole: {why}"),
            "it is tried again by itself",
        )
    };
    let length = usize::try_from(change.bytes).map_err(|error| cut(error.to_string()))?;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let piece = tokio::time::timeout(PATIENCE, pieces.message()).await;
        let piece = piece.map_err(|_| cut(format!("nothing for {PATIENCE:?}")))?;
        match piece.map_err(|status| cut(quoted(status.message())))?.and_then(|piece| piece.piece) {
            Some(Piece::Data(data)) if !data.is_empty() && data.len() <= MAX_PIECE_BYTES => {
                bytes.extend_from_slice(&data);
            }
            Some(Piece::Data(_) | Piece::Reply(_)) => return Err(unexpected()),
            None => return Err(cut("it ended early".to_owned())),
        }
    }
    if bytes.len() > length || Digest::of(&bytes) != change.digest {
        return Err(cut("they are others than the manager signed".to_owned()));
    }
    Ok(bytes)
}

/// Makes a change true.
async fn take(uplink: &Uplink, is_whole: bool, change: ObjectsChange) -> Result<u64, Fault> {
    if !is_whole && change == ObjectsChange::default() {
        return Ok(0);
    }
    let change = Change::Received(change.received(is_whole));
    let (store, now) = (uplink.server.store(), uplink.server.clock.wall());
    match store.change_objects(change.clone(), BY.to_owned(), now).await.map_err(stored)? {
        Changed::Done(changed) => {
            if changed > 0 {
                change.log(BY);
            }
            Ok(changed)
        }
        Changed::TooMany(most) => {
            let why = format!("with the manager's objects there would be more than {most} here");
            Err(Fault::new(Leg::Input, why, "remove objects of your own: writ objects list"))
        }
    }
}

/// The manager offers less than it did.
async fn went_back(uplink: &Uplink, offer: &ObjectsOffer, held: &Subscription) -> Fault {
    let detail = format!(
        "the manager offers version {} of its objects, and {} is held: it was put back to an earlier state",
        offer.version, held.version
    );
    let cure = "change any object at the manager, which makes a newer version; or forget what is held: writ objects subscription stop --delete; writ objects subscription start";
    let alarm = Alarm {
        kind: AlertKind::ManagerRejects,
        code: "objects_went_back",
        agent: SERVER,
        count: 1,
        detail: format!("Suspicious objects stay as they were: {detail}. Next: {cure}."),
    };
    if let Err(error) = uplink.server.store.raise(alarm, None, uplink.server.clock.wall()).await {
        return stored(error);
    }
    Fault::new(Leg::Authorization, detail, cure)
}

impl Uplink {
    /// How the subscription stands.
    pub(crate) async fn subscription(&self) -> Result<SubscriptionStatus, Failure> {
        let (registration, held) = (self.bridge.held().registration, self.bridge.subscribing.held());
        let Live { error, changed } = self.bridge.subscribing.live().clone();
        let (state, next) = match () {
            () if held.wish == Wish::Stopped => ("stopped", "writ objects subscription start"),
            () if registration.state == State::Unregistered => ("none", "writ manager register"),
            () if !registration.is_authorized => ("none", "writ manager status"),
            () if held.is_revoked => ("revoked", RejectionCode::SubscriptionRevoked.cure()),
            () if held.is_of(&registration) => ("active", ""),
            () if held.is_wanted(&registration) => ("starting", ""),
            () if registration.state != State::Registered => ("none", "writ manager status"),
            () => (
                "none",
                "no sandbox is connected to the manager; all the same: writ objects subscription start",
            ),
        };
        let next = if error.is_empty() || !next.is_empty() { next } else { "writ manager test" };
        let objects = self.server.store().count_objects_of(Source::Manager).await.map_err(unavailable)?;
        Ok(SubscriptionStatus {
            state,
            next: next.to_owned(),
            manager: held.manager.map(ManagerId::from_bytes),
            key_id: held.key_id,
            since: Timestamp::from_millis(held.since),
            version: held.version,
            objects,
            synced_at: Timestamp::from_millis(held.synced_at),
            error,
            interval: held.interval,
            changed,
        })
    }

    /// Subscribes, and asks for the objects at once.
    ///
    /// # Errors
    /// When there is no registration that could bear it, or the manager was not reached or said no. It goes on
    /// by itself then.
    pub(crate) async fn start_subscription(&self) -> Result<(), Failure> {
        self.check_registered()?;
        change(self, |next| next.wish = Wish::Started).await?;
        let _turn = self.turn().await?;
        self.sync_in_turn().await
    }

    /// Asks for the objects now.
    ///
    /// # Errors
    /// When there is no subscription, or the manager was not reached or said no.
    pub(crate) async fn sync_subscription(&self) -> Result<(), Failure> {
        let _turn = self.turn().await?;
        self.check_wanted()?;
        self.sync_in_turn().await
    }

    /// Has another key fetch. The one of before counts no more.
    ///
    /// # Errors
    /// When there is no subscription, or the manager was not reached or said no; then the key of before stays.
    pub(crate) async fn rotate_subscription(&self) -> Result<(), Failure> {
        let _turn = self.turn().await?;
        let registration = self.check_wanted()?;
        let line = open(self).await?;
        subscribe(self, &line, &registration).await?;
        self.sync_in_turn().await
    }

    /// Ends it; what came stays, or is deleted. Twice is once.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn stop_subscription(&self, is_deleted: bool) -> Result<(), Failure> {
        change(self, |next| {
            next.is_leaving |= !next.key.is_empty();
            next.wish = Wish::Stopped;
            next.forget_key();
            if is_deleted {
                (next.version, next.synced_at, next.is_revoked) = (0, 0, false);
            }
        })
        .await?;
        // What is being fetched ends here, so that the turn comes soon.
        self.bridge.subscribing.cancelled.notify_waiters();
        let _turn = self.turn().await?;
        if is_deleted {
            let nothing = Change::Received(Received { is_whole: true, put: Vec::new(), gone: Vec::new() });
            let now = self.server.clock.wall();
            let deleted = self.server.store().change_objects(nothing, BY.to_owned(), now).await;
            if let Changed::Done(1..) = deleted.map_err(unavailable)? {
                self.server.objects_changed();
            }
        }
        *self.bridge.subscribing.live() = Live::default();
        info!(target: "audit", is_deleted, "the subscription to suspicious objects was stopped");
        self.bridge.subscribing.look();
        Ok(())
    }

    /// Asks so often.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn set_subscription_interval(&self, minutes: u32) -> Result<(), Failure> {
        change(self, |next| next.interval = minutes).await?;
        self.bridge.subscribing.look();
        Ok(())
    }

    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Failure> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.bridge.subscribing.turns.lock()).await;
        turn.map_err(|_| {
            let text = "objects are coming at this moment: writ objects subscription show";
            Failure::precondition("subscription_busy", text)
        })
    }

    async fn sync_in_turn(&self) -> Result<(), Failure> {
        let registration = self.bridge.held().registration;
        if let Err(fault) = sync(self, &registration).await {
            self.bridge.subscribing.live().error = fault.to_string();
            return Err(fault.into());
        }
        Ok(())
    }

    fn check_registered(&self) -> Result<Registration, Failure> {
        let registration = self.bridge.held().registration;
        if registration.state != State::Registered {
            let text = "this server is no entity of a manager: writ manager status";
            return Err(Failure::precondition("manager_not_registered", text));
        }
        if !registration.is_authorized {
            let text = "the registration has no certificate authorization, so nobody can say whose objects come: upload the manager's CA, then writ manager re-register";
            return Err(Failure::precondition("no_certificate_authorization", text));
        }
        Ok(registration)
    }

    fn check_wanted(&self) -> Result<Registration, Failure> {
        let registration = self.check_registered()?;
        if !self.bridge.subscribing.held().is_wanted(&registration) {
            let text = "there is no subscription: writ objects subscription start";
            return Err(Failure::precondition("not_subscribed", text));
        }
        Ok(registration)
    }
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
