//! One fetch: asked by the key of the subscription, checked against what is held, made true.

use std::time::Duration;

use tonic::Streaming;
use tracing::info;
use writ_common::admin::AdminBackend as _;
use writ_common::text::quoted;
use writ_objects::service::{Change, Changed, ObjectHolder as _, ObjectStore as _};
use writ_objects::{ObjectsChange, Source};
use writ_proto::manager::v1::ObjectsPiece;
use writ_proto::manager::v1::objects_piece::Piece;
use writ_protocol::id::Digest;
use writ_protocol::keys::{Entity, PrivateKey};
use writ_protocol::limits::MAX_PIECE_BYTES;
use writ_protocol::manager::{ObjectsOffer, OfferedChange, Rejection, ReplyBody};

use super::super::client::{ManagerClient, unexpected};
use super::super::legs::{Fault, Leg};
use super::super::{Registration, Uplink, stored};
use super::{BY, Live, Subscription, change};
use crate::store::{Alarm, AlertKind, SERVER};

/// How long the manager may take for one message of a change.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of asking.
pub(super) enum Fetched {
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
pub(super) async fn fetch(
    uplink: &Uplink,
    line: &ManagerClient,
    registration: &Registration,
) -> Result<Fetched, Fault> {
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
