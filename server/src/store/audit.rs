//! Who asked for what: a chain in which each entry carries the hash of the one before it.

use bytes::Bytes;
use prost::Message as _;
use sqlx::SqliteConnection;
use writ_common::id::Digest;
use writ_common::time::Timestamp;
use writ_proto::admin::v1::AuditEntry;

use super::{Pending, Store, StoreError, bytes, id, integer, unsigned};

/// A call, ready to be recorded.
#[derive(Debug, Clone)]
pub struct NewAudit {
    /// When.
    pub at: Timestamp,
    /// Whose token.
    pub actor: String,
    /// Its role.
    pub role: &'static str,
    /// The method's path.
    pub method: String,
    /// SHA-256 of the request; `None` for streams.
    pub request: Option<Digest>,
    /// `asked`, `ok`, or a gRPC status.
    pub outcome: String,
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
    /// Queues a call for the log: it is on disk no later than anything queued after it.
    ///
    /// # Errors
    /// When the server is shutting down.
    pub async fn audit(&self, call: NewAudit, max_entries: u64) -> Result<Pending<()>, StoreError> {
        self.queue(move |connection| Box::pin(async move { append(connection, call, max_entries).await }))
            .await
    }

    /// A page of the log: after a number, oldest first; or before one, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit_links(
        &self,
        place: u64,
        is_newest_first: bool,
        limit: u32,
    ) -> Result<Vec<AuditLink>, StoreError> {
        let sql = if is_newest_first {
            "SELECT * FROM audit WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2"
        } else {
            "SELECT * FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2"
        };
        let rows =
            sqlx::query(sql).bind(integer(place)).bind(i64::from(limit)).fetch_all(&self.reader).await?;
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

async fn append(
    connection: &mut SqliteConnection,
    call: NewAudit,
    max_entries: u64,
) -> Result<(), StoreError> {
    let last = sqlx::query("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await?;
    let (last, before) = match last {
        Some(row) => (unsigned(&row, "sequence")?, id(&row, "hash", "audit hash")?),
        None => (0, Digest::from_bytes([0; 32])),
    };
    let NewAudit { at, actor, role, method, request, outcome } = call;
    let sequence = last + 1;
    let entry = AuditEntry {
        sequence,
        at_ms: at.as_millis(),
        actor,
        role: role.to_owned(),
        method,
        request_digest: request.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec()),
        outcome,
    }
    .encode_to_vec();
    let hash = Digest::of(&[before.as_bytes().as_slice(), &entry].concat());
    sqlx::query("INSERT INTO audit VALUES ($1, $2, $3)")
        .bind(integer(sequence))
        .bind(entry)
        .bind(hash.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
    // The oldest go; the chain of the rest stands, from the hash of the last one that went.
    sqlx::query("DELETE FROM audit WHERE sequence <= $1")
        .bind(integer(sequence.saturating_sub(max_entries)))
        .execute(connection)
        .await?;
    Ok(())
}
