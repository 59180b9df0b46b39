//! The receipts that answer commands.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};
use writ_common::id::{AgentId, CommandId, Digest, SessionMark};
use writ_common::time::Timestamp;

use super::alerts::{keep_evidence, raise};
use super::commands::TargetState;
use super::writer::Job;
use super::{Alarm, AlertKind, Store, StoreError, id, integer};

/// What became of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptFate {
    /// It is the one that counts.
    Stored,
    /// It was stored before.
    Known,
    /// Another one was stored before; this one is evidence.
    Contradicts,
    /// The agent was never sent such a command; this one is evidence.
    Unsolicited,
}

/// A verified receipt, ready to be recorded.
#[derive(Debug, Clone)]
pub struct NewReceipt {
    /// The command's id.
    pub command: CommandId,
    /// The command's digest.
    pub command_digest: Digest,
    /// The agent.
    pub agent: AgentId,
    /// The mark of the session it came in, and the journal's counter it shows.
    pub counter: (SessionMark, u64),
    /// The receipt's own digest.
    pub digest: Digest,
    /// The receipt's envelope.
    pub envelope: Bytes,
    /// What it says.
    pub state: TargetState,
    /// Whether it answers a delivery this server did not make.
    pub is_replay: bool,
    /// When it came.
    pub now: Timestamp,
}

impl Store {
    /// Makes a verified receipt durable. The first one counts; others are kept as evidence with an alert.
    ///
    /// # Errors
    /// When the database fails; then nothing is stored and the agent keeps its receipt.
    pub async fn record_receipt(&self, receipt: NewReceipt) -> Result<ReceiptFate, StoreError> {
        self.send(|answer| Job::Receipt(receipt, answer)).await?.committed().await
    }
}

/// Where a receipt belongs.
struct Place {
    sequence: i64,
    place: i64,
    is_answered: bool,
}

/// Records verified receipts: those that are the first of their command and agent all together, the rest one
/// by one.
pub(super) fn record_receipts(
    connection: &mut SqliteConnection,
    new: Arc<Vec<NewReceipt>>,
) -> BoxFuture<'_, Result<Vec<ReceiptFate>, StoreError>> {
    Box::pin(async move {
        let places = find_places(connection, &new).await?;
        let (mut firsts, mut rest) = (Vec::new(), Vec::new());
        let mut taken = HashSet::with_capacity(new.len());
        for (number, (receipt, found)) in new.iter().zip(&places).enumerate() {
            match found {
                Some(at) if !at.is_answered && taken.insert((at.sequence, at.place)) => {
                    firsts.push((receipt, at));
                }
                _ => rest.push((number, receipt)),
            }
        }
        insert_receipts(connection, &firsts).await?;
        note_counters(connection, &firsts).await?;
        let mut fates = vec![ReceiptFate::Stored; new.len()];
        for (number, receipt) in rest {
            fates[number] = record_receipt(connection, receipt.clone()).await?;
        }
        Ok(fates)
    })
}

async fn find_places(
    connection: &mut SqliteConnection,
    new: &[NewReceipt],
) -> Result<Vec<Option<Place>>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("WITH new(number, command_id, digest, agent_id) AS (");
    query.push_values((0_i64..).zip(new), |mut row, (number, receipt)| {
        row.push_bind(number)
            .push_bind(receipt.command.as_bytes().to_vec())
            .push_bind(receipt.command_digest.as_bytes().to_vec())
            .push_bind(receipt.agent.as_bytes().to_vec());
    });
    // CROSS JOIN: from the few new ones to the many stored ones, never the other way round.
    query.push(
        ") SELECT json_group_array(json_array(number, sequence, place, receipts.command IS NOT NULL)) FROM new
         CROSS JOIN commands ON commands.command_id = new.command_id AND commands.digest = new.digest
         CROSS JOIN targets ON targets.command = sequence AND targets.agent_id = new.agent_id
         LEFT JOIN receipts ON receipts.command = sequence AND receipts.agent_id = new.agent_id",
    );
    let mut places: Vec<_> = new.iter().map(|_| None).collect();
    // One row: each one costs a change of threads.
    let rows: String = query.build().persistent(false).fetch_one(connection).await?.try_get(0)?;
    let rows: Vec<(usize, i64, i64, u8)> =
        serde_json::from_str(&rows).map_err(|_| StoreError::Damaged("place"))?;
    for (number, sequence, place, is_answered) in rows {
        if let Some(found) = places.get_mut(number) {
            *found = Some(Place { sequence, place, is_answered: is_answered != 0 });
        }
    }
    Ok(places)
}

async fn insert_receipts(
    connection: &mut SqliteConnection,
    firsts: &[(&NewReceipt, &Place)],
) -> Result<(), StoreError> {
    if firsts.is_empty() {
        return Ok(());
    }
    let mut insert = QueryBuilder::<Sqlite>::new(
        "INSERT INTO receipts (command, agent_id, digest, envelope, received_at) ",
    );
    insert.push_values(firsts, |mut row, (receipt, at)| {
        row.push_bind(at.sequence)
            .push_bind(receipt.agent.as_bytes().to_vec())
            .push_bind(receipt.digest.as_bytes().to_vec())
            .push_bind(receipt.envelope.to_vec())
            .push_bind(integer(receipt.now.as_millis()));
    });
    // One call for both statements: each call costs two changes of threads.
    let mut update = insert;
    update.push("; WITH new(command, place, state) AS (");
    update.push_values(firsts, |mut row, (receipt, at)| {
        row.push_bind(at.sequence).push_bind(at.place).push_bind(receipt.state.stored());
    });
    update.push(
        ") UPDATE targets SET state = new.state FROM new
         WHERE targets.command = new.command AND targets.place = new.place",
    );
    update.build().persistent(false).execute(connection).await?;
    Ok(())
}

/// How far the journals were, with the receipts that say so: an agent that comes back with less was put back,
/// also when nothing else was heard of the session. What an older session brings says nothing of the
/// journal's present session. Of first receipts alone: one that was played again may be of a journal that
/// counted further.
async fn note_counters(
    connection: &mut SqliteConnection,
    firsts: &[(&NewReceipt, &Place)],
) -> Result<(), StoreError> {
    if firsts.is_empty() {
        return Ok(());
    }
    let mut latest = BTreeMap::<(AgentId, SessionMark), u64>::new();
    for (NewReceipt { agent, counter: (mark, counter), .. }, _) in firsts {
        let held = latest.entry((*agent, *mark)).or_default();
        *held = (*held).max(*counter);
    }
    let mut update = QueryBuilder::<Sqlite>::new("WITH new(agent_id, mark, counter) AS (");
    update.push_values(latest, |mut row, ((agent, mark), counter)| {
        row.push_bind(agent.as_bytes().to_vec())
            .push_bind(mark.as_bytes().to_vec())
            .push_bind(integer(counter));
    });
    update.push(
        ") UPDATE agents SET journal_counter = max(journal_counter, new.counter)
         FROM new WHERE agents.agent_id = new.agent_id AND journal_mark = new.mark",
    );
    update.build().persistent(false).execute(connection).await?;
    Ok(())
}

async fn record_receipt(
    connection: &mut SqliteConnection,
    receipt: NewReceipt,
) -> Result<ReceiptFate, StoreError> {
    let NewReceipt { command, command_digest, agent, counter: _, digest, envelope, state, is_replay, now } =
        receipt;
    let target = sqlx::query(
        "SELECT sequence, place, state FROM commands JOIN targets ON command = sequence
         WHERE command_id = $1 AND digest = $2 AND agent_id = $3",
    )
    .bind(command.as_bytes().as_slice())
    .bind(command_digest.as_bytes().as_slice())
    .bind(agent.as_bytes().as_slice())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(target) = target else {
        keep_evidence(connection, digest, agent, AlertKind::Unsolicited, &envelope, now).await?;
        let detail =
            format!("It answered command {command} with digest {command_digest}, which it was never sent.");
        let alarm = Alarm { kind: AlertKind::Unsolicited, code: "", agent, count: 1, detail };
        raise(connection, &alarm, now).await?;
        return Ok(ReceiptFate::Unsolicited);
    };
    let sequence: i64 = target.try_get("sequence")?;
    let known = sqlx::query("SELECT digest FROM receipts WHERE command = $1 AND agent_id = $2")
        .bind(sequence)
        .bind(agent.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = known {
        let first: Digest = id(&row, "digest", "receipt digest")?;
        // Agents of before kept no receipt of a refusal, and none keeps that of an expired command: one more
        // is no contradiction. Nor is the answer to a delivery that was not ours, which has an alert
        // of its own.
        let is_repeated_refusal =
            state == TargetState::Refused && TargetState::read(&target)? == TargetState::Refused;
        if first == digest || is_repeated_refusal || is_replay {
            return Ok(ReceiptFate::Known);
        }
        keep_evidence(connection, digest, agent, AlertKind::Contradicted, &envelope, now).await?;
        let detail = format!("It answered command {command} twice, differently; the first answer counts.");
        let alarm = Alarm { kind: AlertKind::Contradicted, code: "", agent, count: 1, detail };
        raise(connection, &alarm, now).await?;
        return Ok(ReceiptFate::Contradicts);
    }
    sqlx::query("INSERT INTO receipts VALUES ($1, $2, $3, $4, $5)")
        .bind(sequence)
        .bind(agent.as_bytes().as_slice())
        .bind(digest.as_bytes().as_slice())
        .bind(envelope.as_ref())
        .bind(integer(now.as_millis()))
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE targets SET state = $3 WHERE command = $1 AND place = $2")
        .bind(sequence)
        .bind(target.try_get::<i64, _>("place")?)
        .bind(state.stored())
        .execute(connection)
        .await?;
    Ok(ReceiptFate::Stored)
}
