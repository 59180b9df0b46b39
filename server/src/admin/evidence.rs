//! Evidence: what somebody needs to check a command and its answers without this server.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;
use writ_common::status::Failure;
use writ_proto::admin::v1::{EvidenceCommand, EvidencePart, EvidenceTarget, evidence_part::Part};
use writ_proto::v1 as proto;
use writ_protocol::audience::AudienceTree;
use writ_protocol::id::{AgentId, CommandId};

use crate::context::Server;
use crate::store::{StoreError, StoredEnvelope, unavailable};

/// Targets read at a time: each may bring a receipt of 320 KiB.
const PAGE: u32 = 64;

/// Sends the command with the chain, then each target; stops when nobody listens any more.
pub(super) async fn send(
    server: Arc<Server>,
    id: CommandId,
    stored: StoredEnvelope,
    sender: mpsc::Sender<Result<EvidencePart, Status>>,
) {
    if let Err(failure) = parts(&server, id, stored, &sender).await {
        let _ = sender.send(Err(failure.into())).await;
    }
}

async fn parts(
    server: &Server,
    id: CommandId,
    stored: StoredEnvelope,
    sender: &mpsc::Sender<Result<EvidencePart, Status>>,
) -> Result<(), Failure> {
    let StoredEnvelope { envelope, targets, rollout, .. } = stored;
    let bundles = server.chain().links().iter().map(|link| link.envelope.to_vec()).collect();
    let (seed, release) = rollout.map_or((None, Bytes::new()), |(seed, release)| (Some(seed), release));
    // Who was let obey after this release was read answers in the next file.
    let released = if seed.is_some() { number_of(&release) } else { u32::MAX };
    let command = EvidenceCommand { envelope: envelope.to_vec(), bundles, release: release.to_vec() };
    if sender.send(Ok(EvidencePart { part: Some(Part::Command(command)) })).await.is_err() {
        return Ok(());
    }
    let damaged = || unavailable(StoreError::Damaged("audience"));
    let tree = AudienceTree::of(seed, &targets).map_err(|_| damaged())?;
    let mut from = 0;
    loop {
        let rows = server.store.evidence_targets(id, from, PAGE).await.map_err(unavailable)?;
        let Some(last) = rows.last() else { return Ok(()) };
        from = last.place + 1;
        for row in rows {
            let proof = tree.proof(row.place).ok_or_else(damaged)?;
            let target = EvidenceTarget {
                agent_id: AgentId::to_string(&row.agent),
                proof_index: proof.index,
                proof_path: proof.path.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
                identity_record: row.identity_record.to_vec(),
                receipt: row.receipt.filter(|_| row.place < released).unwrap_or_default().to_vec(),
            };
            if sender.send(Ok(EvidencePart { part: Some(Part::Target(target)) })).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// How many agents a release of this server's own lets obey; 0 without one.
fn number_of(release: &Bytes) -> u32 {
    let envelope = proto::Envelope::decode(release.clone()).unwrap_or_default();
    proto::Release::decode(envelope.payload).map_or(0, |release| release.released)
}
