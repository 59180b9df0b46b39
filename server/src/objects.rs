//! What acts of all suspicious objects, as a component that agents hold ([`crate::updates`]).

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use writ_common::admin::AdminBackend as _;
use writ_objects::service::{ObjectHolder, ObjectStore as _, excepted};
use writ_objects::{List, Standing, acting};
use writ_protocol::component::SUSPICIOUS_OBJECTS;
use writ_updates::{Name, Version};

use crate::context::Server;

/// How often it is looked whether the time of some is over.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// However often they are changed: each look reads all of them.
const LOOKS_APART: Duration = Duration::from_millis(500);

impl ObjectHolder for Server {
    fn objects_changed(&self) {
        self.updates.objects.notify_one();
    }
}

/// Until the server ends: what acts is what agents are told to hold.
pub(crate) async fn run(server: Arc<Server>) {
    loop {
        if let Err(why) = look(&server).await {
            warn!(why, "agents hold the suspicious objects of before");
        }
        let woken = async {
            tokio::time::sleep(LOOKS_APART).await;
            let _ = tokio::time::timeout(LOOK_EVERY, server.updates.objects.notified()).await;
        };
        if server.shutdown.unless_requested(woken).await.is_none() {
            return;
        }
    }
}

async fn look(server: &Server) -> Result<(), String> {
    let (rows, exceptions) = server.store().all_objects().await.map_err(|error| error.to_string())?;
    let objects: Vec<_> = rows.into_iter().map(|row| row.object).collect();
    let now = server.clock.wall();
    let acts = acting(&objects, excepted(&exceptions), now)
        .into_iter()
        .filter(|(_, standing)| *standing == Standing::Acts)
        .map(|(object, _)| object.clone())
        .collect();
    let list = List::of(acts).map_err(|error| error.to_string())?;
    let name: Name = SUSPICIOUS_OBJECTS.parse().map_err(|_| "no name".to_owned())?;
    let folder = server.updates.folder.clone();
    // Agents that hold none need none.
    let is_held = folder.active(&name).map_err(|error| error.to_string())?.is_some();
    if list.objects().is_empty() && !is_held {
        return Ok(());
    }
    // A time, for people: what is newer is the later one.
    let version: Version = now.to_string().replace(':', "-").parse().map_err(|_| "no version".to_owned())?;
    let (count, content) = (list.objects().len(), list.encode());
    let placed = tokio::task::spawn_blocking(move || folder.place(&name, version, &content, now)).await;
    let is_new = placed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    if is_new {
        info!(objects = count, "other suspicious objects act");
        server.updates.new.notify_one();
    }
    Ok(())
}
