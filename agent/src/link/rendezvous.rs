//! The question nobody can keep from being asked: whatever settings say and whichever server holds the
//! session, the endpoints of the trust bundle are asked for a successor now and then. So the thief of a
//! signing key who sends agents elsewhere does not keep them (protocol.md §6.13).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, info};
use writ_common::backoff::jitter;

use super::ask_for_bundles;
use crate::obey::AgentCore;

/// Asks until it is dropped, each time after half to all of a period; the session is told when it
/// led to something.
pub(super) async fn run(core: &AgentCore, every: Duration, learnt: &Arc<Notify>) {
    loop {
        tokio::time::sleep(every / 2 + jitter(every / 2)).await;
        for endpoint in &core.trust.chain().head().bundle.endpoints {
            match Box::pin(ask_for_bundles(core, endpoint)).await {
                Ok(true) => {
                    info!(endpoint, "a rendezvous endpoint has a newer trust bundle");
                    learnt.notify_one();
                }
                Ok(false) => debug!(endpoint, "no newer trust bundle"),
                Err(error) => info!(endpoint, %error, "a rendezvous endpoint could not be asked"),
            }
        }
    }
}
