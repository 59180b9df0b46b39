//! What acts of all suspicious objects, as a component that agents hold ([`crate::updates`]).

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use writ_common::admin::AdminBackend as _;
use writ_objects::service::{ObjectHolder, ObjectStore as _, excepted};
use writ_objects::{List, Object, ObjectType, Standing, acting, fitting};
use writ_protocol::command::Remedy;
use writ_protocol::component::SUSPICIOUS_OBJECTS;
use writ_protocol::time::Timestamp;
use writ_updates::{Folder, Name, Version};

use crate::context::Server;
use crate::store::{Alarm, AlertKind, SERVER};

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long changes are gathered: an import makes many.
const GATHER: Duration = Duration::from_secs(1);
/// From one list to the next, at least: agents get each of them whole.
const LISTS_APART: Duration = Duration::from_secs(5);

impl ObjectHolder for Server {
    fn objects_changed(&self) {
        self.updates.objects.notify_one();
    }
}

/// Until the server ends: what acts is what agents are told to hold.
pub(crate) async fn run(server: Arc<Server>) {
    loop {
        let apart = match look(&server).await {
            Ok(apart) => apart,
            Err(why) => {
                warn!(why, "agents hold the suspicious objects of before");
                LOOK_EVERY
            }
        };
        let woken = async {
            tokio::time::sleep(apart).await;
            let changed = server.updates.objects.notified();
            if tokio::time::timeout(LOOK_EVERY, changed).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
        };
        if server.shutdown.unless_requested(woken).await.is_none() {
            return;
        }
    }
}

/// Makes a new list if other objects act; how long the next one has to wait.
async fn look(server: &Server) -> Result<Duration, String> {
    let (rows, exceptions) = server.store().all_objects().await.map_err(|error| error.to_string())?;
    let folder = server.updates.folder.clone();
    let now = server.clock.wall();
    let made = tokio::task::spawn_blocking(move || {
        let objects: Vec<_> = rows.into_iter().map(|row| row.object).collect();
        let acts = acting(&objects, excepted(&exceptions), now).into_iter();
        let acts = acts.filter(|(_, standing)| *standing == Standing::Acts).map(|(object, _)| object.clone());
        let (acts, left) = fitting(acts.collect());
        let list = List::of(acts).map_err(|error| error.to_string())?;
        Ok::<_, String>((left, place(&folder, &list, now)?))
    });
    let (left, placed) = made.await.map_err(|error| error.to_string())??;
    if left > 0 {
        tell_left_out(server, left, now).await?;
    }
    let Some((count, bytes)) = placed else {
        return Ok(Duration::ZERO);
    };
    info!(objects = count, bytes, "other suspicious objects act");
    server.updates.new.notify_one();
    // As long as it takes to have it everywhere: nobody would ever have a whole one otherwise.
    let agents = server.store.agent_ids(None).await.map_err(|error| error.to_string())?.len();
    Ok(server.updates.pieces.time_for(bytes, agents).max(LISTS_APART))
}

async fn tell_left_out(server: &Server, left: usize, now: Timestamp) -> Result<(), String> {
    let detail = format!(
        "{left} of all objects that act are more than agents hold: those of the least source are left out. Next: writ objects list."
    );
    warn!(left, "not all suspicious objects that act have room on agents");
    let alarm = Alarm { kind: AlertKind::ObjectsLeftOut, code: "", agent: SERVER, count: 1, detail };
    server.store.raise(alarm, None, now).await.map_err(|error| error.to_string())
}

/// Brings a list into force, if it is another; how many objects and bytes it has then.
fn place(folder: &Folder, list: &List, now: Timestamp) -> Result<Option<(usize, usize)>, String> {
    let name: Name = SUSPICIOUS_OBJECTS.parse().map_err(|_| "no name".to_owned())?;
    let active = folder.active(&name).map_err(|error| error.to_string())?;
    let held = active.and_then(|(_, file)| List::decode(&std::fs::read(file).ok()?).ok());
    // Agents that hold none need none. And they look at the end of each object themselves: that it has come
    // makes no new list.
    let is_over = |object: &&Object| object.expires_at.is_none_or(|end| end > now);
    let is_held = held.as_ref().is_some_and(|held| {
        held.objects().iter().filter(is_over).map(about).eq(list.objects().iter().map(about))
    });
    if is_held || (held.is_none() && list.objects().is_empty()) {
        return Ok(None);
    }
    // A time, for people: what is newer is the later one.
    let version: Version = now.to_string().replace(':', "-").parse().map_err(|_| "no version".to_owned())?;
    let content = list.encode();
    let is_new = folder.place(&name, version, &content, now).map_err(|error| error.to_string())?;
    Ok(is_new.then_some((list.objects().len(), content.len())))
}

/// What of an object agents know.
fn about(object: &Object) -> (ObjectType, &str, Remedy, Option<Timestamp>) {
    (object.kind(), object.value(), object.remedy(), object.expires_at)
}
