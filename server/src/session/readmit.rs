//! A server that was made anew from its backup does not know the agents. Each brings the record by which an
//! earlier server of the fleet vouched for its key.

use std::net::IpAddr;

use bytes::Bytes;
use prost::Message as _;
use tracing::info;
use writ_common::status::Failure;
use writ_common::warn_of_stranger;
use writ_proto::v1 as proto;
use writ_protocol::envelope::{AgentProofPurpose, Candidate, IdentityRecordPurpose, verify};
use writ_protocol::evidence::Ledger;
use writ_protocol::id::AgentId;

use crate::context::Server;
use crate::store::rules::restore::Readmission;
use crate::store::{KnownAgent, unavailable};

/// Knows an agent again, if this server was restored since it was enrolled and a key that was never revoked
/// vouched for it.
///
/// # Errors
/// When the store fails.
pub(super) async fn readmit(
    server: &Server,
    address: IpAddr,
    claimed: AgentId,
    proof: &Bytes,
) -> Result<Option<KnownAgent>, Failure> {
    let returning = server.store.returning(claimed).await.map_err(unavailable)?;
    match returning.decide() {
        Readmission::Possible => {}
        Readmission::NotRestored => return Ok(None),
        Readmission::Removed => {
            warn_of_stranger!(server.hush, address, { agent.id = %claimed, }, "removed before the backup was made");
            return Ok(None);
        }
    }
    // The record is in the proof, and the proof's key in the record. Read first, believed after.
    let offered = proto::Envelope::decode(proof.clone())
        .ok()
        .and_then(|envelope| proto::AgentProof::decode(envelope.payload).ok())
        .map(|proof| proof.identity_record);
    let Some(envelope) = offered else { return Ok(None) };
    let ledger = Ledger::of(&server.chain());
    let (verified, signers) =
        match ledger.verify::<IdentityRecordPurpose>(&envelope, |record| record.recorded_at) {
            Ok(verified) => verified,
            Err(refusal) => {
                warn_of_stranger!(
                    server.hush,
                    address,
                    { agent.id = %claimed, %refusal, },
                    "identity record not believed"
                );
                return Ok(None);
            }
        };
    let record = verified.into_document();
    // Agents of another realm obey another server, and are none of this one's.
    let is_ours = server.signer.entry().is_some_and(|entry| entry.realms.contains(&record.realm));
    let is_believed = is_ours
        && record.agent == claimed
        && record.fleet == server.fleet
        && returning.covers(record.recorded_at)
        && signers.iter().any(|key| {
            !ledger.is_revoked(*key)
                && ledger.counted(*key, record.recorded_at, |entry| entry.realms.contains(&record.realm))
        })
        && verify::<AgentProofPurpose>(proof, &[Candidate::accepted(&record.public_key)], 1).is_ok();
    if !is_believed {
        return Ok(None);
    }
    let name = record.name.clone();
    server.store.readmit(record, envelope, server.clock.wall()).await.map_err(unavailable)?;
    info!(agent.id = %claimed, name, "known again by its identity record");
    server.store.known_agent(claimed).await.map_err(unavailable)
}
