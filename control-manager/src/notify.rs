//! Having an entity call at once: it is dialled, told nothing, and polls. One that cannot be dialled polls
//! when it would have anyway.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, info};
use writ_common::tls::{Anchors, connect};
use writ_common::warn_of_stranger;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_notify_client::EntityNotifyClient;
use writ_protocol::id::Digest;
use writ_protocol::manager::Mode;

use crate::context::Manager;
use crate::store::EntityRow;

/// Entities dialled at a time.
pub(crate) const MAX_DIALS: usize = 32;
/// Tests of callbacks at a time; strangers may ask for them.
pub(crate) const MAX_TRIALS: usize = 8;
/// How long one dial may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Has an entity call, in the background, if it is in two-way mode.
pub(crate) fn call(manager: &Arc<Manager>, entity: &EntityRow) {
    let Mode::TwoWay { forwarding, leaf_spki_digest } = &entity.registration.mode else { return };
    let (manager, forwarding, leaf) = (Arc::clone(manager), forwarding.clone(), *leaf_spki_digest);
    let id = entity.id;
    let tasks = manager.shutdown.clone();
    tasks.spawn(async move {
        let Ok(_turn) = manager.dials.acquire().await else { return };
        match dial(&forwarding, Some(leaf), Bytes::new()).await {
            Ok(()) => debug!(entity.id = %id, forwarding, "entity called"),
            Err(why) => {
                info!(entity.id = %id, forwarding, why, "entity could not be called; it polls by itself")
            }
        }
    });
}

/// Tries a callback before there is an entity. The caller is a stranger: it hears whether the nonce was
/// taken, and nothing else of what the manager can reach.
///
/// # Errors
/// The same for every reason.
pub(crate) async fn try_callback(
    manager: &Manager,
    from: IpAddr,
    forwarding: &str,
    nonce: Bytes,
) -> Result<(), String> {
    let Ok(_turn) = manager.trials.try_acquire() else {
        return Err("the manager tries too many callbacks at the moment; try again".to_owned());
    };
    let until = Instant::now() + DIAL_TIMEOUT;
    let told = dial(forwarding, None, nonce).await;
    if let Err(why) = told {
        warn_of_stranger!(manager.hush, from, { forwarding, why, }, "callback not delivered");
        // Neither words nor time tell a stranger a closed port from a swallowed one.
        tokio::time::sleep_until(until).await;
        return Err("the manager could not hand anything over there; its log says why".to_owned());
    }
    Ok(())
}

/// The leaf is compared, but proves little: nothing secret is said.
async fn dial(forwarding: &str, leaf: Option<Digest>, nonce: Bytes) -> Result<(), String> {
    let said = async {
        let connection =
            connect(forwarding, &Anchors::Unverified).await.map_err(|error| error.to_string())?;
        if leaf.is_some_and(|leaf| leaf != connection.leaf_spki_digest) {
            return Err("somebody else answers there: its TLS key is not the entity's".to_owned());
        }
        let mut client = EntityNotifyClient::new(connection.channel);
        let told = client.notify(proto::NotifyRequest { nonce }).await;
        told.map(|_| ()).map_err(|status| status.message().to_owned())
    };
    tokio::time::timeout(DIAL_TIMEOUT, said).await.map_err(|_| "it took too long".to_owned())?
}
