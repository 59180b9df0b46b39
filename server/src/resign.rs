//! What waits when keys change: a command under a key that is still listed gets a signature by the present
//! one beside it, over the identical payload; a command that only revoked keys signed is cancelled, and
//! operators submit it again.

use tracing::{info, warn};
use writ_protocol::envelope::{Candidate, CommandPurpose, add_signature, verify};
use writ_protocol::id::KeyId;
use writ_protocol::limits::{MAX_COMMAND_BYTES, MAX_SIGNATURES};

use crate::context::Server;
use crate::store::{QueuedCommand, StoreError};

/// Commands read from the store at a time.
const PAGE: u32 = 256;

/// Why the queue stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResignError {
    /// The store failed.
    #[error("commands that wait could not be signed anew: {0}")]
    Store(#[from] StoreError),
}

/// What becomes of a command that waits.
enum Fate {
    /// It stays as it is.
    Stays,
    /// It gets one more signature.
    SignedAnew(bytes::Bytes),
    /// Nothing but revoked keys vouches for it.
    Cancelled,
}

/// Goes through everything that waits.
///
/// # Errors
/// When the store fails; what was done until then stays done, and the rest is done the next time.
pub(crate) async fn resign(server: &Server) -> Result<(), ResignError> {
    let (mut after, mut signed, mut cancelled) = (0, 0_usize, 0_usize);
    loop {
        let now = server.clock.wall();
        let page = server.store.queued(after, PAGE, now).await?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        for queued in page {
            match decide_fate(server, &queued) {
                Fate::Stays => {}
                Fate::SignedAnew(envelope) => {
                    server.store.replace_envelope(queued.id, queued.digest, envelope.clone()).await?;
                    server.dispatcher.forget(queued.id);
                    signed += 1;
                }
                Fate::Cancelled => {
                    server.dispatcher.cancel(&server.store, queued.id, queued.expires_at, now).await?;
                    warn!(command.id = %queued.id, "command cancelled: the key that signed it was revoked");
                    cancelled += 1;
                }
            }
        }
    }
    if signed + cancelled > 0 {
        info!(signed, cancelled, "commands that wait were gone through");
    }
    Ok(())
}

fn decide_fate(server: &Server, queued: &QueuedCommand) -> Fate {
    let chain = server.chain();
    let listed = &chain.head().bundle.signing;
    let candidates: Vec<_> =
        listed.iter().map(|entry| Candidate::accepted(entry.certificate.key())).collect();
    let verified = match verify::<CommandPurpose>(&queued.envelope, &candidates, 1) {
        // The row in the store is what was audited.
        Ok(verified) if verified.digest() == queued.digest => verified,
        Ok(_) => {
            warn!(command.id = %queued.id, "command not signed anew: it is not the one that was recorded");
            return Fate::Stays;
        }
        Err(refusal) => {
            warn!(command.id = %queued.id, %refusal, "command not signed anew");
            return Fate::Stays;
        }
    };
    let is_revoked =
        |key: &KeyId| listed.iter().any(|entry| entry.revoked && entry.certificate.key().id() == *key);
    if verified.signers().iter().all(is_revoked) {
        return Fate::Cancelled;
    }
    match server.signer.command_key() {
        Ok(key) if !verified.signers().contains(&key.public().id()) => {
            let sealed = add_signature(&verified, &key);
            let is_bounded =
                sealed.bytes().len() <= MAX_COMMAND_BYTES && verified.signatures() < MAX_SIGNATURES;
            if is_bounded { Fate::SignedAnew(sealed.bytes().clone()) } else { Fate::Stays }
        }
        Ok(_) | Err(_) => Fate::Stays,
    }
}
