//! The receipts that answer commands.

use std::collections::HashMap;

use writ_database::{Connection, Pending, ToValue as _, values};

use super::super::lanes::Job;
use super::super::rows::{NewReceipt, ReceiptFate};
use super::super::rules::receipt::{self, KnownTarget};
use super::super::{Store, StoreError};
use super::alerts::{keep_evidence, raise};

impl Store {
    /// Makes a verified receipt durable with the next batch. The first one counts; others are kept as
    /// evidence with an alert.
    ///
    /// # Errors
    /// When the writer has ended; then nothing is stored and the agent keeps its receipt.
    pub(crate) async fn queue_receipt(
        &self,
        receipt: NewReceipt,
    ) -> Result<Pending<ReceiptFate>, StoreError> {
        self.database.queue(|answer| Job::Receipt(receipt, answer)).await
    }
}

/// Where a receipt belongs.
struct Target {
    command: u64,
    place: u32,
    known: KnownTarget,
}

/// Records verified receipts.
pub(in crate::store) fn record_all(
    connection: &mut Connection,
    new: &[NewReceipt],
) -> Result<Vec<ReceiptFate>, StoreError> {
    let targets = find_targets(connection, new)?;
    // What this batch itself stores is not in what was found before it.
    let mut stored = HashMap::new();
    let (mut fates, mut firsts) = (Vec::with_capacity(new.len()), Vec::new());
    for (receipt, target) in new.iter().zip(targets) {
        let known = target
            .as_ref()
            .map(|target| stored.get(&(target.command, target.place)).copied().unwrap_or(target.known));
        let fate = receipt::decide(known, receipt);
        if let (ReceiptFate::Stored, Some(Target { command, place, .. })) = (fate, target) {
            let known = KnownTarget { state: receipt.state, first: Some(receipt.digest) };
            stored.insert((command, place), known);
            firsts.push((receipt, command, place));
        }
        if let Some(alarm) = receipt::alarm(fate, receipt) {
            if fate != ReceiptFate::Stored {
                let whose = (receipt.agent, alarm.kind);
                keep_evidence(connection, receipt.digest, whose, &receipt.envelope, receipt.now)?;
            }
            raise(connection, &alarm, receipt.now)?;
        }
        fates.push(fate);
    }
    insert(connection, &firsts)?;
    Ok(fates)
}

fn find_targets(connection: &mut Connection, new: &[NewReceipt]) -> Result<Vec<Option<Target>>, StoreError> {
    let sql = "SELECT targets.command, place, state, receipts.digest AS first FROM commands
               JOIN targets ON targets.command = sequence
               LEFT JOIN receipts ON receipts.command = sequence AND receipts.agent_id = targets.agent_id
               WHERE command_id = ?1 AND commands.digest = ?2 AND targets.agent_id = ?3";
    let rows = new.iter().map(|receipt| values![receipt.command, receipt.command_digest, receipt.agent]);
    connection.first_of_each(sql, rows, |record| {
        let known = KnownTarget { state: record.get("state")?, first: record.get("first")? };
        Ok(Target { command: record.get("command")?, place: record.get("place")?, known })
    })
}

fn insert(connection: &mut Connection, firsts: &[(&NewReceipt, u64, u32)]) -> Result<(), StoreError> {
    let rows = firsts.iter().map(|(receipt, command, _)| {
        values![command, receipt.agent, receipt.digest, receipt.envelope, receipt.now]
    });
    connection.execute_each("INSERT INTO receipts VALUES (?1, ?2, ?3, ?4, ?5)", rows)?;
    let rows = firsts.iter().map(|(receipt, command, place)| values![command, place, receipt.state]);
    connection.execute_each("UPDATE targets SET state = ?3 WHERE command = ?1 AND place = ?2", rows)?;
    // How far the journals were, with the receipts that say so: an agent that comes back with less was put
    // back, also when nothing else was heard of the session. What an older session brings says nothing of the
    // journal's present session. Of first receipts alone: one that was played again may be of a journal that
    // counted further.
    let sql = "UPDATE agents SET journal_counter = ?3
               WHERE agent_id = ?1 AND journal_mark = ?2 AND journal_counter < ?3";
    let rows = firsts.iter().map(|(receipt, ..)| {
        let (mark, counter) = &receipt.counter;
        values![receipt.agent, mark, counter]
    });
    connection.execute_each(sql, rows)
}
