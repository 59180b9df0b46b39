//! Answers come home: verified before they are stored, acknowledged after they are.

use bytes::Bytes;
use tracing::{info, warn};
use writ_database::Pending;
use writ_protocol::envelope::{Candidate, ReceiptPurpose, RefusalsPurpose, Verified, verify};
use writ_protocol::id::{FleetId, SessionMark};
use writ_protocol::receipt::{Decision, Receipt, RefusalAcknowledgement, RefusalReport};
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;

use crate::metrics;
use crate::store::{KnownAgent, NewReceipt, ReceiptFate, Store, StoreError, TargetState};

/// A receipt whose signature is the agent's and which speaks of that agent. Made only by
/// [`VerifiedReceipt::verify`].
#[derive(Debug)]
#[must_use]
pub(crate) struct VerifiedReceipt {
    verified: Verified<ReceiptPurpose>,
    envelope: Bytes,
}

impl VerifiedReceipt {
    /// Checks a receipt from an agent's stream.
    ///
    /// # Errors
    /// When it is not this agent's.
    pub(crate) fn verify(envelope: Bytes, agent: &KnownAgent, fleet: FleetId) -> Result<Self, Refusal> {
        let verified = verify::<ReceiptPurpose>(&envelope, &[Candidate::accepted(&agent.public_key)], 1)?;
        let receipt = verified.document();
        if receipt.fleet != fleet {
            return Err(Refusal::new(RefusalCode::WrongFleet, format!("receipt of fleet {}", receipt.fleet)));
        }
        if receipt.agent != agent.id {
            return Err(Refusal::new(RefusalCode::WrongAgent, format!("receipt of agent {}", receipt.agent)));
        }
        Ok(Self { verified, envelope })
    }

    /// What it says.
    #[must_use]
    pub(crate) const fn receipt(&self) -> &Receipt {
        self.verified.document()
    }

    /// Stores it with the next batch, as of the session with this mark. `is_replay`: it answers a delivery
    /// this server did not make.
    ///
    /// # Errors
    /// When the store fails; the agent then keeps its receipt.
    pub(crate) async fn record(
        self,
        store: &Store,
        session: SessionMark,
        is_replay: bool,
        now: Timestamp,
    ) -> Result<Pending<ReceiptFate>, StoreError> {
        let receipt = self.verified.document();
        let refused = match &receipt.decision {
            Decision::Refused(code) => Some(*code),
            Decision::Obeyed(_) => None,
        };
        let listed = match &receipt.decision {
            Decision::Obeyed(outcome) if outcome.listed > 0 => Some(receipt.detail.clone()),
            Decision::Obeyed(_) | Decision::Refused(_) => None,
        };
        let new = NewReceipt {
            command: receipt.command,
            command_digest: receipt.command_digest,
            agent: receipt.agent,
            counter: (session, receipt.journal_counter),
            digest: self.verified.digest(),
            envelope: self.envelope,
            state: TargetState::of(&receipt.decision),
            refused,
            listed,
            is_replay,
            now,
            tell,
        };
        store.queue_receipt(new).await
    }
}

/// What is said and counted of a receipt that was recorded.
fn tell(receipt: &NewReceipt, fate: ReceiptFate) {
    let &NewReceipt { command, agent, state, refused, .. } = receipt;
    match fate {
        ReceiptFate::Stored => {
            info!(command.id = %command, agent.id = %agent, ?state, "receipt stored");
            metrics::count_receipt(state);
            if let Some(code) = refused {
                metrics::count_refusals(code, 1);
            }
        }
        ReceiptFate::Known => {}
        ReceiptFate::Contradicts | ReceiptFate::Unsolicited => {
            warn!(command.id = %command, agent.id = %agent, ?fate, "receipt kept as evidence");
        }
    }
    writ_common::checkpoint!("receipt_stored");
}

/// Checks and stores a refusal report; returns the acknowledgement to sign.
///
/// # Errors
/// The outer error is the store's; the inner one says why the report is not this agent's.
pub(crate) async fn record_refusals(
    store: &Store,
    envelope: Bytes,
    agent: &KnownAgent,
    fleet: FleetId,
    now: Timestamp,
) -> Result<Result<RefusalAcknowledgement, Refusal>, StoreError> {
    let verified = match verify::<RefusalsPurpose>(&envelope, &[Candidate::accepted(&agent.public_key)], 1) {
        Ok(verified) => verified,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let RefusalReport { fleet: said_fleet, agent: said_agent, sequence, ref records, .. } =
        *verified.document();
    if said_fleet != fleet || said_agent != agent.id {
        return Ok(Err(Refusal::new(RefusalCode::WrongAgent, "refusal report of another agent")));
    }
    let said: Vec<_> = records.iter().map(|record| (record.code, record.count)).collect();
    let report_digest = verified.digest();
    let is_new = store.record_refusals(verified.into_document(), report_digest, envelope, now).await?;
    for (code, count) in said {
        warn!(agent.id = %agent.id, %code, count, "agent refused");
        if is_new {
            metrics::count_refusals(code, count);
        }
    }
    Ok(Ok(RefusalAcknowledgement { fleet, agent: agent.id, sequence, report_digest }))
}
