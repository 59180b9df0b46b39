//! A running server follows its store: a bundle that `writ-server cert` or another process published there is
//! in force at once, without a restart and without ending a stream.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracing::{error, info, warn};
use writ_common::status::Failure;
use writ_protocol::limits::MAX_BUNDLES_PER_CALL;
use writ_protocol::refusal::Refusal;
use writ_protocol::trust::{Chain, Link};

use super::{Files, KeyFileError, head_marker, read_signing_keys};
use crate::context::Server;
use crate::resign::{ResignError, resign};
use crate::rollouts;
use crate::store::{MAX_FORKS, StoreError, unavailable};

/// How often the head of the chain in the store is looked at: one row by its index.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why the server stays with the trust it has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bundle in the store does not follow.
    #[error("the store holds a bundle that does not follow: {0}")]
    Bundle(Refusal),
    /// A key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Commands that wait could not be signed anew.
    #[error(transparent)]
    Resign(#[from] ResignError),
}

/// Looks until the server ends.
pub(crate) async fn run(server: Arc<Server>, files: Files) {
    let (mut failing, mut resigned) = (String::new(), (None, false));
    loop {
        let work = async {
            refresh(&server, &files).await?;
            // At the start, after a bundle, and when a standby takes over by its date. Again until it
            // succeeds.
            let now = (server.chain().head().digest, server.signer.check().ok());
            let is_new = resigned.0 != Some(now);
            if is_new || !resigned.1 {
                resign(&server).await?;
                rollouts::sign_anew(&server).await.map_err(ResignError::from)?;
                // And once more with the next look: a command may have been signed just before, and recorded
                // just after.
                resigned = (Some(now), !is_new);
            }
            Ok::<_, FollowError>(())
        };
        match work.await {
            Ok(()) => failing.clear(),
            // Said once, not twice a second.
            Err(error) => {
                let text = error.to_string();
                if text != failing {
                    error!(%error, "the trust bundles stay as they are");
                    failing = text;
                }
            }
        }
        let pause = async {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = server.published.notified() => {}
            }
        };
        if server.shutdown.unless_requested(pause).await.is_none() {
            return;
        }
    }
}

/// Takes bundles this server lacks from any agent that has them; returns the version of its newest. What
/// counts is who signed them: each must follow by the authorities this server knows.
///
/// # Errors
/// When they are too many, do not follow, or cannot be stored.
pub(crate) async fn accept_uploaded(server: &Server, bundles: Vec<Bytes>) -> Result<u64, Failure> {
    if bundles.len() > MAX_BUNDLES_PER_CALL {
        return Err(Failure::exhausted(format!("at most {MAX_BUNDLES_PER_CALL} bundles a call")));
    }
    let held = server.chain();
    let is_new = |envelope: &Bytes| Chain::digest_of(envelope).is_none_or(|digest| !held.contains(digest));
    let bundles: Vec<_> = bundles.into_iter().filter(is_new).collect();
    if bundles.is_empty() {
        return Ok(held.head().bundle.version);
    }
    // Anybody may call: a few at a time, and each ends at the first bundle that does not follow.
    let _place =
        server.hand_backs.acquire().await.map_err(|_| Failure::unavailable("the server is shutting down"))?;
    let mut chain = Chain::clone(&held);
    let mut newer = Vec::new();
    for envelope in &bundles {
        match chain.extend(envelope.clone()) {
            Ok(link) => newer.push((link.bundle.version, link.digest, link.envelope.clone())),
            Err(refusal) if newer.is_empty() => {
                note_fork(server, &held, bundles, &refusal).await?;
                return Ok(held.head().bundle.version);
            }
            Err(refusal) => return Err(Failure::invalid("bundles", refusal.to_string())),
        }
    }
    if !newer.is_empty() {
        warn!(
            bundles = newer.len(),
            "an agent handed back trust bundles: this server stood at an earlier state"
        );
        // If the head moved, another agent was quicker, most likely with the same.
        server.store.publish(newer, held.head().digest, None).await.map_err(unavailable)?;
        caught_up(server).await.map_err(unavailable)?;
    }
    Ok(server.chain().head().bundle.version)
}

/// Keeps bundles that do not go on from this chain's head if they go on from an earlier one: then nothing
/// more is minted before somebody joined the two (protocol.md §6.12).
async fn note_fork(
    server: &Server,
    held: &Chain,
    bundles: Vec<Bytes>,
    refusal: &Refusal,
) -> Result<(), Failure> {
    let other = held.fork(bundles).map_err(|_| Failure::invalid("bundles", refusal.to_string()))?;
    let known: Vec<_> = server.store.forks().await.map_err(unavailable)?;
    let is_new =
        |link: &&Link| !held.contains(link.digest) && !known.iter().any(|fork| fork.digest == link.digest);
    let new: Vec<_> = other.links().iter().filter(is_new).collect();
    let Some(newest) = new.last() else { return Ok(()) };
    warn!(
        bundle.version = newest.bundle.version,
        bundle.digest = %newest.digest,
        "an agent handed over trust bundles of another chain of this fleet: two servers minted at the same time"
    );
    if usize::try_from(MAX_FORKS).is_ok_and(|most| known.len() + new.len() > most) {
        warn!(
            most = MAX_FORKS,
            "so many bundles of other chains are kept, and no more: join them by writ-server authority repair"
        );
    }
    let rows = new.iter().map(|link| (link.bundle.version, link.digest, link.envelope.clone())).collect();
    server.store.note_forks(rows).await.map_err(unavailable)
}

/// Waits until this server follows what is published, at most two seconds: an operator who has just published
/// asks about that.
///
/// # Errors
/// When the store fails.
pub(crate) async fn caught_up(server: &Server) -> Result<(), StoreError> {
    let published = server.store.head().await?;
    server.published.notify_one();
    let waiting = async {
        while published.is_some_and(|digest| !server.chain().contains(digest)) {
            tokio::time::sleep(LOOK_EVERY / 20).await;
        }
    };
    // Whatever keeps it from following is in its log; what it has is answered.
    let _ = tokio::time::timeout(LOOK_EVERY * 4, waiting).await;
    Ok(())
}

/// Follows the store once; says whether there was something new.
///
/// # Errors
/// When the store holds something that cannot be followed; then nothing changes.
pub(crate) async fn refresh(server: &Arc<Server>, files: &Files) -> Result<bool, FollowError> {
    let before = server.chain();
    let newest = server.store.head().await?;
    if newest == Some(before.head().digest) {
        return Ok(false);
    }
    let mut chain = Chain::clone(&before);
    for (digest, envelope) in server.store.bundles().await? {
        if !chain.contains(digest) {
            chain.extend(envelope).map_err(FollowError::Bundle)?;
        }
    }
    let head = chain.head().clone();
    server.signer.hold(read_signing_keys(files)?, &head.bundle);
    *server.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(chain);
    match server.signer.check() {
        Ok(key) => {
            info!(bundle.version = head.bundle.version, bundle.digest = %head.digest, %key, "trust bundle in force");
        }
        Err(error) => {
            warn!(bundle.version = head.bundle.version, %error, "trust bundle in force, but nothing can be signed")
        }
    }
    if let Err(error) = head_marker::write(files, &head) {
        warn!(%error, "the newest bundle could not be noted");
    }
    // Sessions hear of it before they hear of commands under its keys.
    server.dispatcher.registry().trust_changed();
    Ok(true)
}
