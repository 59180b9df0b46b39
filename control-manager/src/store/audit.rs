//! Who asked for what. Calls are few: each is written by a transaction of its own.

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _};
use writ_common::admin::AuditLog;
use writ_common::admin::audit::{AuditStore, Link, NewAudit};

use super::{Store, StoreError, id, integer, unsigned};

impl Store {
    /// Appends a call to its log; returns when it is on disk.
    pub async fn record(&self, call: NewAudit) -> Result<(), StoreError> {
        let mut turn = self.turn().await;
        let mut change = turn.begin().await?;
        let log = call.log.stored();
        let last = sqlx::query("SELECT * FROM audit WHERE log = $1 ORDER BY sequence DESC LIMIT 1")
            .bind(log)
            .fetch_optional(&mut *change)
            .await?;
        let link = Link::next(last.as_ref().map(read).transpose()?.as_ref(), &call);
        sqlx::query("INSERT INTO audit (log, sequence, entry, hash) VALUES ($1, $2, $3, $4)")
            .bind(log)
            .bind(integer(link.sequence))
            .bind(link.entry.to_vec())
            .bind(link.hash.as_bytes().as_slice())
            .execute(&mut *change)
            .await?;
        if call.log != AuditLog::Changes && link.sequence > call.max_entries {
            sqlx::query("DELETE FROM audit WHERE log = $1 AND sequence <= $2")
                .bind(log)
                .bind(integer(link.sequence - call.max_entries))
                .execute(&mut *change)
                .await?;
        }
        Ok(change.commit().await?)
    }
}

impl AuditStore for Store {
    type Error = StoreError;

    /// Each call is stored before the next one is.
    async fn settle(&self) -> Result<(), StoreError> {
        drop(self.turn().await);
        Ok(())
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
        let mut turn = self.turn().await;
        sqlx::query("DELETE FROM audit WHERE log = $1 AND sequence <= $2")
            .bind(log.stored())
            .bind(integer(through))
            .execute(&mut *turn)
            .await?;
        Ok(())
    }
}

fn read(row: &SqliteRow) -> Result<Link, StoreError> {
    Ok(Link {
        sequence: unsigned(row, "sequence")?,
        entry: Bytes::from(row.try_get::<Vec<u8>, _>("entry")?),
        hash: id(row, "hash", "audit hash")?,
    })
}
