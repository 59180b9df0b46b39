//! Who asked for what: chains in which each entry carries the hash of the one before it.

use writ_common::admin::AuditLog;
use writ_common::admin::audit::{AuditStore, ChainedEntry, NewAudit};

use crate::{Connection, Database, DatabaseError, Record, ToValue as _, values};

impl<J: Send + 'static> AuditStore for Database<J> {
    type Error = DatabaseError;

    async fn append(&self, call: NewAudit) -> Result<(), DatabaseError> {
        self.queue_audit(call).await?.committed().await
    }

    async fn enqueue(&self, call: NewAudit) -> Result<(), DatabaseError> {
        // Nobody waits for it.
        drop(self.queue_audit(call).await?);
        Ok(())
    }

    async fn settle(&self) -> Result<(), DatabaseError> {
        Self::settle(self).await
    }

    async fn ends(&self, log: AuditLog) -> Result<(u64, u64), DatabaseError> {
        let sql = "SELECT coalesce(min(sequence), 0) AS oldest, coalesce(max(sequence), 0) AS newest FROM audit WHERE log = ?1";
        self.read(move |connection| {
            connection.only(sql, &values![log.stored()], |record| {
                Ok((record.get("oldest")?, record.get("newest")?))
            })
        })
        .await
    }

    async fn links(
        &self,
        log: AuditLog,
        place: u64,
        is_newest_first: bool,
        limit: u32,
    ) -> Result<Vec<ChainedEntry>, DatabaseError> {
        let sql = if is_newest_first {
            "SELECT * FROM audit WHERE log = ?3 AND sequence < ?1 ORDER BY sequence DESC LIMIT ?2"
        } else {
            "SELECT * FROM audit WHERE log = ?3 AND sequence > ?1 ORDER BY sequence LIMIT ?2"
        };
        self.read(move |connection| connection.fetch(sql, &values![place, limit, log.stored()], read)).await
    }

    async fn forget(&self, log: AuditLog, through: u64) -> Result<(), DatabaseError> {
        self.write(move |connection| forget(connection, log, through)).await
    }
}

fn read(record: &Record<'_>) -> Result<ChainedEntry, DatabaseError> {
    Ok(ChainedEntry {
        sequence: record.get("sequence")?,
        entry: record.get("entry")?,
        hash: record.get("hash")?,
    })
}

pub(crate) fn append_all(connection: &mut Connection, calls: &[NewAudit]) -> Result<Vec<()>, DatabaseError> {
    append(connection, calls)?;
    Ok(vec![(); calls.len()])
}

/// Appends calls to their logs, in their order.
///
/// # Errors
/// When the database fails.
pub fn append<'c>(
    connection: &mut Connection,
    calls: impl IntoIterator<Item = &'c NewAudit> + Clone,
) -> Result<(), DatabaseError> {
    for log in AuditLog::ALL {
        let mut calls = calls.clone().into_iter().filter(|call| call.log == log).peekable();
        if calls.peek().is_some() {
            append_to(connection, log, calls)?;
        }
    }
    Ok(())
}

fn append_to<'c>(
    connection: &mut Connection,
    log: AuditLog,
    calls: impl Iterator<Item = &'c NewAudit>,
) -> Result<(), DatabaseError> {
    let sql = "SELECT * FROM audit WHERE log = ?1 ORDER BY sequence DESC LIMIT 1";
    let mut last = connection.first(sql, &values![log.stored()], read)?;
    let (mut links, mut most) = (Vec::new(), u64::MAX);
    for call in calls {
        let link = ChainedEntry::next(last.as_ref(), call);
        links.push(link.clone());
        last = Some(link);
        most = most.min(call.max_entries);
    }
    let number = log.stored();
    let rows = links.iter().map(|link| values![number, link.sequence, link.entry, link.hash]);
    connection
        .execute_each("INSERT INTO audit (log, sequence, entry, hash) VALUES (?1, ?2, ?3, ?4)", rows)?;
    let newest = last.map_or(0, |last| last.sequence);
    if log != AuditLog::Changes && newest > most {
        forget(connection, log, newest - most)?;
    }
    Ok(())
}

/// The oldest go; the chain of the rest stands, from the hash of the last one that went.
fn forget(connection: &mut Connection, log: AuditLog, through: u64) -> Result<(), DatabaseError> {
    let sql = "DELETE FROM audit WHERE log = ?1 AND sequence <= ?2";
    connection.execute(sql, &values![log.stored(), through]).map(drop)
}
