//! What entities fetch of suspicious objects: what acts here, with a version, and what has changed since an
//! earlier one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{info, warn};
use writ_common::admin::AdminBackend as _;
use writ_common::status::Failure;
use writ_objects::service::{ObjectHolder, ObjectStore as _, excepted};
use writ_objects::{MAX_OBJECTS, Object, ObjectsChange, Standing, acting};
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::objects_piece::Piece;
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_protocol::manager::{ObjectsOffer, OfferedChange};
use writ_protocol::time::Timestamp;

use crate::context::Manager;
use crate::store::{FeedState, unavailable};

/// How often it is looked whether another object acts: time passes.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long changes are gathered: an import makes many.
const GATHER: Duration = Duration::from_secs(1);
/// Entities that are sent objects at a time.
const MAX_FETCHES: usize = 32;
/// Messages that wait for one reader.
const WAITING: usize = 4;
/// How long a reader may take for one message.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a running manager keeps of it.
#[derive(Debug)]
pub(crate) struct Feed {
    changed: Notify,
    fetches: Arc<Semaphore>,
    /// The whole list as it is sent, of the version it was last asked for.
    whole: Mutex<Option<(u64, Bytes)>>,
}

impl Default for Feed {
    fn default() -> Self {
        let fetches = Arc::new(Semaphore::new(MAX_FETCHES));
        Self { changed: Notify::new(), fetches, whole: Mutex::default() }
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
        let (change, list) = difference(held, acts.collect())?;
        Ok((is_first || change != ObjectsChange::default()).then_some((change, list)))
    });
    let compared: Result<_, String> = compared.await.map_err(|error| failed(&error))?;
    let Some((change, list)) = compared? else { return Ok(()) };
    let (put, gone) = (change.put.len(), change.gone.len());
    let version = manager.store.change_feed(change, list, now).await.map_err(|error| failed(&error))?;
    writ_common::checkpoint!("feed_changed");
    info!(version, put, gone, "other suspicious objects act");
    Ok(())
}

/// What makes one list another, and what that is known by.
fn difference(held: Vec<Object>, acts: Vec<Object>) -> Result<(ObjectsChange, Digest), String> {
    if acts.len() > MAX_OBJECTS {
        return Err(format!("{} objects act, and {MAX_OBJECTS} may", acts.len()));
    }
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
    Ok((change, whole.digest()))
}

/// What of an object entities are told beside its name.
fn about(object: &Object) -> (&'static str, Option<Timestamp>, String) {
    (object.remedy().as_str(), object.expires_at, object.note().to_owned())
}

/// What an entity that holds a version is offered, and its bytes.
///
/// # Errors
/// When the store fails, or the manager has not looked yet.
pub(crate) async fn offer(manager: &Manager, held: u64) -> Result<(ObjectsOffer, Bytes), Failure> {
    let not_yet =
        || Failure::unavailable("the manager has only just started and knows no objects yet; try again");
    let state = manager.store.feed_state().await.map_err(unavailable)?.ok_or_else(not_yet)?;
    let nothing = |state: FeedState| ObjectsOffer { version: state.version, list: state.list, change: None };
    if held == state.version {
        return Ok((nothing(state), Bytes::new()));
    }
    if held >= state.since && held < state.version {
        let since = manager.store.feed_since(held).await.map_err(unavailable)?;
        let (state, change) = since.ok_or_else(not_yet)?;
        // What was forgotten meanwhile would be missing.
        if held >= state.since {
            let bytes = Bytes::from(change.encode());
            return Ok((offered(state, held, &bytes), bytes));
        }
    }
    let kept = manager.feed.whole.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((version, bytes)) = kept
        && version == state.version
    {
        return Ok((offered(state, 0, &bytes), bytes));
    }
    let (state, list) = manager.store.feed_since(0).await.map_err(unavailable)?.ok_or_else(not_yet)?;
    let bytes = Bytes::from(list.encode());
    let kept = Some((state.version, bytes.clone()));
    *manager.feed.whole.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    Ok((offered(state, 0, &bytes), bytes))
}

fn offered(state: FeedState, base: u64, bytes: &Bytes) -> ObjectsOffer {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let change = OfferedChange { base, bytes: length, digest: Digest::of(bytes) };
    ObjectsOffer { version: state.version, list: state.list, change: Some(change) }
}

/// An answer and what follows it.
pub(crate) type ObjectsPieces = ReceiverStream<Result<proto::ObjectsPiece, Status>>;

/// Sends an answer and what follows it. Whoever reads knows how long that is, so what ends early is seen.
///
/// # Errors
/// When too many are being sent.
pub(crate) fn send(
    manager: &Manager,
    reply: proto::ManagerReply,
    mut content: Bytes,
) -> Result<ObjectsPieces, Failure> {
    let turn = Arc::clone(&manager.feed.fetches).try_acquire_owned().map_err(|_| {
        Failure::exhausted("the manager sends objects to as many as it may already; try again")
    })?;
    let (sender, receiver) = mpsc::channel(WAITING);
    manager.shutdown.spawn(async move {
        let _turn = turn;
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
        let (change, list) = difference(held.clone(), acts).unwrap();
        let values: Vec<_> = change.put.iter().map(Object::value).collect();
        assert_eq!(values, ["b.example", "d.example"]);
        assert_eq!(change.gone, [(ObjectType::Domain, "c.example".to_owned())]);
        assert_eq!(change.after(held.clone()).digest(), list, "who holds the list before gets this one");
        assert_eq!(difference(held.clone(), held).unwrap().0, ObjectsChange::default());
        let many = vec![object("a.example", Remedy::Log); MAX_OBJECTS + 1];
        assert!(difference(Vec::new(), many).unwrap_err().contains("100001 objects act"));
    }
}
