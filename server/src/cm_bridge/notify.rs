//! `EntityNotify`: in two-way mode the manager calls, without a word, and this server polls. In one-way mode
//! nobody listens.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use tracing::{error, info};
use writ_common::listener::{self, FEW_STREAMS, MAX_QUESTION_BYTES};
use writ_common::shutdown::Shutdown;
use writ_common::tls::Room;
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_notify_server::{EntityNotify, EntityNotifyServer};
use writ_protocol::id::random_bytes;

use super::{State, Uplink};

/// A port that could not be taken.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How long a test waits for the port.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// How long calls under way may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Listens as long as there is a reason to, until the server ends.
pub(crate) async fn run(uplink: Arc<Uplink>) {
    let mut open: Option<Shutdown> = None;
    loop {
        let wanted = is_wanted(&uplink);
        match (&open, wanted) {
            (None, true) => {
                open = listen(&uplink).await;
                uplink.bridge.listens.send_replace(Some(open.is_some()));
            }
            (Some(listening), false) => {
                listening.drain(DRAIN).await;
                open = None;
                uplink.bridge.live().listen_error.clear();
                info!("nobody listens for the Control Manager any more");
            }
            (Some(_), true) | (None, false) => {}
        }
        // A port that is taken may become free.
        let wait = if wanted && open.is_none() { TRY_AGAIN } else { Duration::from_secs(3600) };
        let asked = tokio::time::timeout(wait, uplink.bridge.listening.notified());
        if uplink.server.shutdown.unless_requested(asked).await.is_none() {
            if let Some(listening) = open {
                listening.drain(DRAIN).await;
            }
            return;
        }
    }
}

/// Under one lock with the tests that wait: one that begins now finds the port open, or waits for it.
fn is_wanted(uplink: &Uplink) -> bool {
    let awaited = uplink.bridge.awaited.lock().unwrap_or_else(PoisonError::into_inner);
    let held = uplink.bridge.held();
    let is_two_way = held.registration.state != State::Unregistered
        && held.in_force.as_ref().is_some_and(|settings| settings.forwarding.is_some());
    let is_wanted = is_two_way || !awaited.is_empty();
    if !is_wanted {
        uplink.bridge.listens.send_replace(None);
    }
    is_wanted
}

async fn listen(uplink: &Arc<Uplink>) -> Option<Shutdown> {
    let (listener, address) = match listener::bind(uplink.bridge.listen, "listen.notify") {
        Ok(bound) => bound,
        Err(fatal) => {
            error!(error = %fatal, "nobody listens for the Control Manager");
            uplink.bridge.live().listen_error = fatal.to_string();
            return None;
        }
    };
    uplink.bridge.live().listen_error.clear();
    info!(%address, "listening for the Control Manager");
    let service =
        EntityNotifyServer::new(Notified(Arc::clone(uplink))).max_decoding_message_size(MAX_QUESTION_BYTES);
    let tls = uplink.server.tls.clone();
    let (listening, task) = (Shutdown::new(), Shutdown::new());
    let asked = task.clone();
    listening.spawn(async move {
        let router = listener::settings(FEW_STREAMS).add_service(service);
        if let Err(fatal) = listener::serve(router, listener, Some(&tls), Room::OTHERS, &asked).await {
            error!(error = %fatal, "the port for the Control Manager failed");
        }
    });
    let ends = listening.clone();
    listening.spawn(async move {
        ends.requested().await;
        task.drain(DRAIN).await;
    });
    Some(listening)
}

/// A nonce that a test waits for.
#[derive(Debug)]
pub(super) struct Awaited<'a> {
    uplink: &'a Uplink,
    pub(super) nonce: [u8; 32],
    pub(super) came: oneshot::Receiver<()>,
}

impl<'a> Awaited<'a> {
    /// Listens for it as long as this lives: the manager is asked to call only when the port is open, or
    /// cannot be opened.
    pub(super) async fn new(uplink: &'a Uplink) -> Self {
        let (nonce, (told, came)) = (random_bytes(), oneshot::channel());
        uplink.bridge.awaited.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce, told);
        let awaited = Self { uplink, nonce, came };
        uplink.bridge.listening.notify_one();
        let mut listens = uplink.bridge.listens.subscribe();
        let _known = tokio::time::timeout(OPEN_WITHIN, listens.wait_for(Option::is_some)).await;
        awaited
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let bridge = &self.uplink.bridge;
        bridge.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.nonce);
        bridge.listening.notify_one();
    }
}

#[derive(Debug)]
struct Notified(Arc<Uplink>);

#[tonic::async_trait]
impl EntityNotify for Notified {
    async fn notify(
        &self,
        request: Request<proto::NotifyRequest>,
    ) -> Result<Response<proto::NotifyResponse>, Status> {
        let bridge = &self.0.bridge;
        let nonce = <[u8; 32]>::try_from(request.into_inner().nonce.as_ref());
        match nonce {
            Ok(nonce) => {
                let waiting = bridge.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(&nonce);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(());
                }
            }
            // It proves nothing and carries nothing: the poll is what counts.
            Err(_) => bridge.poke.notify_one(),
        }
        Ok(Response::new(proto::NotifyResponse {}))
    }
}
