//! An agent's identity record is a server's word under a signing key. When that key was revoked, the word is
//! given again under the key that signs now: a server made anew from a backup believes no revoked one
//! (docs/adr/0010).

use bytes::Bytes;
use tracing::info;
use writ_common::status::Failure;
use writ_protocol::envelope::claimed_keyid;
use writ_protocol::id::{AgentId, KeyId};
use writ_protocol::identity::IdentityRecord;

use crate::context::Server;
use crate::store::unavailable;

/// Whether the key that a record claims to be signed by was revoked. A claim is enough: the worst a wrong one
/// does is that a good record is written once more, or not.
pub(super) fn is_void(server: &Server, claimed: Option<KeyId>) -> bool {
    let chain = server.chain();
    let mut entries = chain.links().iter().flat_map(|link| &link.bundle.signing);
    entries.any(|entry| entry.revoked && Some(entry.certificate.key().id()) == claimed)
}

/// The key a record claims to be signed by.
pub(super) fn claimed(record: &Bytes) -> Option<KeyId> {
    claimed_keyid(record)?.parse().ok()
}

/// Signs an agent's record anew, and stores it before the agent hears of it; `None` if the agent is not known
/// any more.
///
/// # Errors
/// When nothing can be signed or stored.
pub(super) async fn renew(server: &Server, agent: AgentId) -> Result<Option<Bytes>, Failure> {
    let Some(row) = server.store.agent(agent, server.clock.wall()).await.map_err(unavailable)? else {
        return Ok(None);
    };
    let (_, sealed) = server.signer.identity_record(|now| IdentityRecord {
        fleet: server.fleet,
        agent,
        public_key: row.public_key.clone(),
        name: row.name.clone(),
        realm: row.realm.clone(),
        recorded_at: now,
    })?;
    server.store.renew_record(agent, sealed.bytes().clone()).await.map_err(unavailable)?;
    info!(agent.id = %agent, "identity record renewed: the key that signed it was revoked");
    Ok(Some(sealed.bytes().clone()))
}
