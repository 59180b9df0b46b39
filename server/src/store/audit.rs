//! Who asked for what: chains in which each entry carries the hash of the one before it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message as _;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use writ_common::admin::AuditLog;
use writ_common::id::Digest;
use writ_common::time::Timestamp;
use writ_proto::admin::v1::AuditEntry;

use super::writer::Job;
use super::{Pending, Store, StoreError, bytes, id, integer, unsigned};

const fn stored(log: AuditLog) -> i64 {
    match log {
        AuditLog::Changes => 0,
        AuditLog::Looks => 1,
    }
}

/// A call, ready to be recorded.
#[derive(Debug, Clone)]
pub struct NewAudit {
    /// Where.
    pub log: AuditLog,
    /// When.
    pub at: Timestamp,
    /// Whose token.
    pub actor: String,
    /// Its role.
    pub role: &'static str,
    /// The method's path.
    pub method: &'static str,
    /// SHA-256 of the request; `None` for streams.
    pub request: Option<Digest>,
    /// What it was about; empty: nothing that has a name.
    pub subject: String,
    /// `asked`, `ok`, or a gRPC status.
    pub outcome: &'static str,
    /// Entries of this log to keep; past it the oldest go.
    pub max_entries: u64,
}

/// An entry with its hash.
#[derive(Debug, Clone)]
pub struct AuditLink {
    /// Its number.
    pub sequence: u64,
    /// As encoded: what is hashed.
    pub entry: Bytes,
    /// SHA-256 of the hash before it and the entry.
    pub hash: Digest,
}

impl Store {
    /// Queues a call for the log, in the order of the calls.
    ///
    /// # Errors
    /// When the server is shutting down.
    pub async fn audit(&self, call: NewAudit) -> Result<Pending<()>, StoreError> {
        self.send(|answer| Job::Audit(call, answer)).await
    }

    /// A page of a log: after a number, oldest first; or before one, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit_links(
        &self,
        log: AuditLog,
        place: u64,
        is_newest_first: bool,
        limit: u32,
    ) -> Result<Vec<AuditLink>, StoreError> {
        let sql = if is_newest_first {
            "SELECT * FROM audit WHERE log = $3 AND sequence < $1 ORDER BY sequence DESC LIMIT $2"
        } else {
            "SELECT * FROM audit WHERE log = $3 AND sequence > $1 ORDER BY sequence LIMIT $2"
        };
        let rows = sqlx::query(sql)
            .bind(integer(place))
            .bind(i64::from(limit))
            .bind(stored(log))
            .fetch_all(&self.reader)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(AuditLink {
                    sequence: unsigned(row, "sequence")?,
                    entry: bytes(row, "entry")?,
                    hash: id(row, "hash", "audit hash")?,
                })
            })
            .collect()
    }
}

/// Appends calls in their order.
pub(super) fn append(
    connection: &mut SqliteConnection,
    calls: Arc<Vec<NewAudit>>,
) -> BoxFuture<'_, Result<Vec<()>, StoreError>> {
    Box::pin(async move {
        for log in [AuditLog::Changes, AuditLog::Looks] {
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
    let last = sqlx::query("SELECT sequence, hash FROM audit WHERE log = $1 ORDER BY sequence DESC LIMIT 1")
        .bind(stored(log))
        .fetch_optional(&mut *connection)
        .await?;
    let (mut sequence, mut hash) = match last {
        Some(row) => (unsigned(&row, "sequence")?, id(&row, "hash", "audit hash")?),
        None => (0, Digest::from_bytes([0; 32])),
    };
    let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO audit (log, sequence, entry, hash) ");
    insert.push_values(calls, |mut row, call| {
        sequence += 1;
        let entry = call.entry(sequence).encode_to_vec();
        hash = Digest::of(&[hash.as_bytes().as_slice(), &entry].concat());
        row.push_bind(stored(log))
            .push_bind(integer(sequence))
            .push_bind(entry)
            .push_bind(hash.as_bytes().to_vec());
    });
    insert.build().persistent(false).execute(&mut *connection).await?;
    // The oldest go; the chain of the rest stands, from the hash of the last one that went.
    let most = calls.iter().map(|call| call.max_entries).min().unwrap_or(u64::MAX);
    if sequence > most {
        sqlx::query("DELETE FROM audit WHERE log = $1 AND sequence <= $2")
            .bind(stored(log))
            .bind(integer(sequence - most))
            .execute(connection)
            .await?;
    }
    Ok(())
}

impl NewAudit {
    fn entry(&self, sequence: u64) -> AuditEntry {
        AuditEntry {
            sequence,
            at_ms: self.at.as_millis(),
            actor: self.actor.clone(),
            role: self.role.to_owned(),
            method: self.method.to_owned(),
            request_digest: self.request.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec()),
            outcome: self.outcome.to_owned(),
            subject: self.subject.clone(),
        }
    }
}
