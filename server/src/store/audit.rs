//! Who asked for what: chains in which each entry carries the hash of the one before it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use writ_common::admin::AuditLog;
use writ_common::admin::audit::{AuditStore, Link, NewAudit};

use super::writer::Job;
use super::{Pending, Store, StoreError, bytes, id, integer, unsigned};

impl Store {
    /// Queues a call for the log, in the order of the calls.
    ///
    /// # Errors
    /// When the server is shutting down.
    pub async fn audit(&self, call: NewAudit) -> Result<Pending<()>, StoreError> {
        self.send(|answer| Job::Audit(call, answer)).await
    }
}

impl AuditStore for Store {
    type Error = StoreError;

    async fn settle(&self) -> Result<(), StoreError> {
        Self::settle(self).await
    }

    async fn ends(&self, log: AuditLog) -> Result<(u64, u64), StoreError> {
        let sql = "SELECT COALESCE(MIN(sequence), 0) AS oldest, COALESCE(MAX(sequence), 0) AS newest FROM audit WHERE log = $1";
        let row = sqlx::query(sql).bind(log.stored()).fetch_one(&self.reader).await?;
        Ok((unsigned(&row, "oldest")?, unsigned(&row, "newest")?))
    }

    async fn links(
        &self,
        log: AuditLog,
        place: u64,
        is_newest_first: bool,
        limit: u32,
    ) -> Result<Vec<Link>, StoreError> {
        let sql = if is_newest_first {
            "SELECT * FROM audit WHERE log = $3 AND sequence < $1 ORDER BY sequence DESC LIMIT $2"
        } else {
            "SELECT * FROM audit WHERE log = $3 AND sequence > $1 ORDER BY sequence LIMIT $2"
        };
        let rows = sqlx::query(sql)
            .bind(integer(place))
            .bind(i64::from(limit))
            .bind(log.stored())
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(read).collect()
    }

    async fn forget(&self, log: AuditLog, through: u64) -> Result<(), StoreError> {
        self.write(move |connection| Box::pin(forget(connection, log, through))).await
    }
}

fn read(row: &SqliteRow) -> Result<Link, StoreError> {
    Ok(Link {
        sequence: unsigned(row, "sequence")?,
        entry: bytes(row, "entry")?,
        hash: id(row, "hash", "audit hash")?,
    })
}

/// Appends calls in their order.
pub(super) fn append(
    connection: &mut SqliteConnection,
    calls: Arc<Vec<NewAudit>>,
) -> BoxFuture<'_, Result<Vec<()>, StoreError>> {
    Box::pin(async move {
        for log in AuditLog::ALL {
            let calls: Vec<_> = calls.iter().filter(|call| call.log == log).collect();
            if !calls.is_empty() {
                append_to(connection, log, &calls).await?;
            }
        }
        Ok(vec![(); calls.len()])
    })
}

async fn append_to(
    connection: &mut SqliteConnection,
    log: AuditLog,
    calls: &[&NewAudit],
) -> Result<(), StoreError> {
    let last = sqlx::query("SELECT * FROM audit WHERE log = $1 ORDER BY sequence DESC LIMIT 1")
        .bind(log.stored())
        .fetch_optional(&mut *connection)
        .await?;
    let mut last = last.as_ref().map(read).transpose()?;
    let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO audit (log, sequence, entry, hash) ");
    insert.push_values(calls, |mut row, call| {
        let link = Link::next(last.as_ref(), call);
        row.push_bind(log.stored())
            .push_bind(integer(link.sequence))
            .push_bind(link.entry.to_vec())
            .push_bind(link.hash.as_bytes().to_vec());
        last = Some(link);
    });
    insert.build().persistent(false).execute(&mut *connection).await?;
    let most = calls.iter().map(|call| call.max_entries).min().unwrap_or(u64::MAX);
    let newest = last.map_or(0, |last| last.sequence);
    if log != AuditLog::Changes && newest > most {
        forget(connection, log, newest - most).await?;
    }
    Ok(())
}

/// The oldest go; the chain of the rest stands, from the hash of the last one that went.
async fn forget(connection: &mut SqliteConnection, log: AuditLog, through: u64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM audit WHERE log = $1 AND sequence <= $2")
        .bind(log.stored())
        .bind(integer(through))
        .execute(connection)
        .await?;
    Ok(())
}
