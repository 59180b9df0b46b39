//! What entities fetch of suspicious objects: what acts here, with a version, and what has changed since an
//! earlier one.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{info, warn};
use writ_common::admin::AdminBackend as _;
use writ_common::status::Failure;
use writ_objects::service::{ObjectHolder, ObjectStore as _, excepted};
use writ_objects::{Object, ObjectsChange, Standing, acting, fitting};
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::objects_piece::Piece;
use writ_protocol::id::{Digest, EntityId};
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_protocol::manager::{ObjectsOffer, OfferedChange, ReplyBody};
use writ_protocol::time::Timestamp;

use crate::context::Manager;
use crate::store::{FeedState, unavailable};

/// How often it is looked whether another object acts: time passes.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long changes are gathered: an import makes many.
const GATHER: Duration = Duration::from_secs(1);
/// Entities that are sent objects at a time. Each is sent one change at a time.
const MAX_FETCHES: usize = 64;
/// Objects of a change; more are sent as the whole list, which is kept once for all.
const MAX_CHANGED: usize = 20_000;
/// Messages that wait for one reader.
const WAITING: usize = 4;
/// How long a reader may take for one message, and for all of them.
const PATIENCE: Duration = Duration::from_secs(30);
const SEND_FOR: Duration = Duration::from_secs(600);

/// What a running manager keeps of it.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    changed: Notify,
    /// To whom something is being sent.
    fetches: Arc<Mutex<HashSet<EntityId>>>,
    /// What is sent of the newest version, by the version that it is a change of; zero: the whole list. Nothing:
    /// it is too much.
    kept: Mutex<(u64, BTreeMap<u64, Option<Bytes>>)>,
    /// One at a time makes what is sent; the others find it made.
    making: tokio::sync::Mutex<()>,
}

/// Changes that are kept at a time beside the whole list.
const MAX_KEPT: usize = 8;

/// While something is sent to an entity.
struct Place(Arc<Mutex<HashSet<EntityId>>>, EntityId);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Feed {
    fn take_place(&self, entity: EntityId) -> Result<Place, Failure> {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if fetches.len() >= MAX_FETCHES {
            let text = "the manager sends objects to as many as it may already; try again";
            return Err(Failure::exhausted(text));
        }
        if !fetches.insert(entity) {
            return Err(Failure::exhausted("objects are being sent to this entity already; try again"));
        }
        Ok(Place(Arc::clone(&self.fetches), entity))
    }

    fn kept(&self, version: u64, base: u64) -> Option<Option<Bytes>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.1.get(&base).filter(|_| kept.0 == version).cloned()
    }

    fn keep(&self, version: u64, base: u64, bytes: Option<Bytes>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 < version {
            *kept = (version, BTreeMap::new());
        }
        if kept.0 == version && (base == 0 || bytes.is_none() || kept.1.len() < MAX_KEPT) {
            kept.1.insert(base, bytes);
        }
    }
}

impl ObjectHolder for Manager {
    fn objects_changed(&self) {
        self.feed.changed.notify_one();
    }
}

/// Until the manager ends: what acts is what entities fetch.
pub(crate) async fn run(manager: Arc<Manager>) {
    loop {
        if let Err(why) = look(&manager).await {
            warn!(why, "entities fetch the suspicious objects of before");
        }
        let woken = async {
            if tokio::time::timeout(LOOK_EVERY, manager.feed.changed.notified()).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
        };
        if manager.shutdown.unless_requested(woken).await.is_none() {
            return;
        }
    }
}

/// Makes a new version if other objects act. Nobody else writes what entities fetch, so what is read here is
/// still so when it is written.
async fn look(manager: &Manager) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| error.to_string();
    let (rows, exceptions) = manager.store().all_objects().await.map_err(|error| failed(&error))?;
    let held = manager.store.feed_since(0).await.map_err(|error| failed(&error))?;
    let now = manager.now();
    let compared = tokio::task::spawn_blocking(move || {
        let objects: Vec<_> = rows.into_iter().map(|row| row.object).collect();
        let acts = acting(&objects, excepted(&exceptions), now).into_iter();
        let acts = acts.filter(|(_, standing)| *standing == Standing::Acts).map(|(object, _)| object.clone());
        let is_first = held.is_none();
        let held = held.map(|(_, list)| list.put).unwrap_or_default();
        let (acts, left) = fitting(acts.collect());
        if left > 0 {
            warn!(
                left,
                "not all suspicious objects that act have room: those of the least source are left out"
            );
        }
        let (change, list) = difference(held, acts);
        (is_first || change != ObjectsChange::default()).then_some((change, list))
    });
    let Some((change, list)) = compared.await.map_err(|error| failed(&error))? else { return Ok(()) };
    let (put, gone) = (change.put.len(), change.gone.len());
    let version = manager.store.change_feed(change, list, now).await.map_err(|error| failed(&error))?;
    writ_common::checkpoint!("feed_changed");
    info!(version, put, gone, "other suspicious objects act");
    Ok(())
}

/// What makes one list another, and what that is known by.
fn difference(held: Vec<Object>, acts: Vec<Object>) -> (ObjectsChange, Digest) {
    let name = |object: &Object| (object.kind(), object.value().to_owned());
    let whole = ObjectsChange { put: acts, gone: Vec::new() };
    let mut before: std::collections::HashMap<_, _> =
        held.into_iter().map(|object| (name(&object), about(&object))).collect();
    let mut change = ObjectsChange::default();
    for object in &whole.put {
        if before.remove(&name(object)) != Some(about(object)) {
            change.put.push(object.clone());
        }
    }
    change.gone = before.into_keys().collect();
    (change, whole.digest())
}

/// What of an object entities are told beside its name.
fn about(object: &Object) -> (&'static str, Option<Timestamp>, String) {
    (object.remedy().as_str(), object.expires_at, object.note().to_owned())
}

/// The state, and the bytes that make the list of a version the newest; of zero the whole list. Without bytes
/// nobody knows any more what has changed since, or it is too much.
async fn change_since(manager: &Manager, base: u64) -> Result<(FeedState, Option<Bytes>), Failure> {
    let found = manager.store.feed_since(base).await.map_err(unavailable)?;
    let Some((state, change)) = found else { return Err(not_yet()) };
    let is_too_much = change.put.len() + change.gone.len() > MAX_CHANGED;
    let bytes = if base > 0 && (base < state.since || is_too_much) {
        None
    } else {
        let encoded = tokio::task::spawn_blocking(move || Bytes::from(change.encode())).await;
        Some(encoded.map_err(|error| Failure::unavailable(error.to_string()))?)
    };
    manager.feed.keep(state.version, base, bytes.clone());
    Ok((state, bytes))
}

fn not_yet() -> Failure {
    Failure::unavailable("the manager has only just started and knows no objects yet; try again")
}

/// What an entity that holds another version than the newest is offered, and its bytes.
async fn offer(manager: &Manager, state: FeedState, held: u64) -> Result<(ObjectsOffer, Bytes), Failure> {
    // One that holds a later version than the newest is told so by a whole list of an earlier one.
    let bases =
        [held, 0].into_iter().filter(|base| *base == 0 || (state.since..state.version).contains(base));
    let _alone = manager.feed.making.lock().await;
    for base in bases {
        let (state, bytes) = match manager.feed.kept(state.version, base) {
            Some(bytes) => (state, bytes),
            None => change_since(manager, base).await?,
        };
        if let Some(bytes) = bytes {
            return Ok((offered(state, base, &bytes), bytes));
        }
    }
    Err(not_yet())
}

fn offered(state: FeedState, base: u64, bytes: &Bytes) -> ObjectsOffer {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let change = OfferedChange { base, bytes: length, digest: Digest::of(bytes) };
    ObjectsOffer { version: state.version, list: state.list, change: Some(change) }
}

/// An answer and what follows it.
pub(crate) type ObjectsPieces = ReceiverStream<Result<proto::ObjectsPiece, Status>>;

/// An answer that nothing follows.
pub(crate) fn only(reply: proto::ManagerReply) -> ObjectsPieces {
    let (sender, receiver) = mpsc::channel(1);
    let _sent = sender.try_send(Ok(proto::ObjectsPiece { piece: Some(Piece::Reply(reply)) }));
    ReceiverStream::new(receiver)
}

/// Answers an entity that holds a version, and sends what follows the answer. Whoever reads knows how long that
/// is, so what ends early is seen.
///
/// # Errors
/// When the store fails, the manager has not looked yet, or too many are being sent something.
pub(crate) async fn send(
    manager: &Manager,
    entity: EntityId,
    request: Digest,
    held: u64,
) -> Result<ObjectsPieces, Failure> {
    let state = manager.store.feed_state().await.map_err(unavailable)?.ok_or_else(not_yet)?;
    if held == state.version {
        let nothing = ObjectsOffer { version: state.version, list: state.list, change: None };
        return Ok(only(manager.reply(request, ReplyBody::Objects(nothing))));
    }
    // Before anything is made for it.
    let place = manager.feed.take_place(entity)?;
    let (offer, mut content) = offer(manager, state, held).await?;
    let reply = manager.reply(request, ReplyBody::Objects(offer));
    let (sender, receiver) = mpsc::channel(WAITING);
    manager.shutdown.spawn(async move {
        let _place = place;
        let send = async {
            let mut next = Some(Piece::Reply(reply));
            while let Some(piece) = next.take() {
                let sent = sender.send(Ok(proto::ObjectsPiece { piece: Some(piece) }));
                // A reader that is this slow would hold its place for hours.
                if !matches!(tokio::time::timeout(PATIENCE, sent).await, Ok(Ok(()))) {
                    return;
                }
                if !content.is_empty() {
                    next = Some(Piece::Data(content.split_to(content.len().min(MAX_PIECE_BYTES))));
                }
            }
        };
        let _in_time = tokio::time::timeout(SEND_FOR, send).await;
    });
    Ok(ReceiverStream::new(receiver))
}

#[cfg(test)]
mod tests {
    use writ_objects::{ObjectType, Source};
    use writ_protocol::command::Remedy;

    use super::*;

    #[test]
    fn what_makes_one_list_another_is_what_differs() {
        let object =
            |value: &str, remedy| Object::new(ObjectType::Domain, value, remedy, Source::Operator).unwrap();
        let of_feed =
            |value: &str| Object::new(ObjectType::Domain, value, Remedy::Log, Source::Manager).unwrap();
        let held = vec![of_feed("a.example"), of_feed("b.example"), of_feed("c.example")];
        let acts = vec![
            object("a.example", Remedy::Log),
            object("b.example", Remedy::Block),
            object("d.example", Remedy::Log),
        ];
        let (change, list) = difference(held.clone(), acts);
        let values: Vec<_> = change.put.iter().map(Object::value).collect();
        assert_eq!(values, ["b.example", "d.example"]);
        assert_eq!(change.gone, [(ObjectType::Domain, "c.example".to_owned())]);
        assert_eq!(change.after(held.clone()).digest(), list, "who holds the list before gets this one");
        assert_eq!(difference(held.clone(), held).0, ObjectsChange::default());
    }
}
