//! What waits: read for delivery, signed anew, cancelled, noted as sent.

use bytes::Bytes;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use writ_common::id::{AgentId, CommandId, Digest};
use writ_common::time::Timestamp;

use super::commands::place;
use super::{Store, StoreError, bytes, id, integer, time, unsigned};

/// A command that waits for one agent.
#[derive(Debug, Clone)]
pub struct WaitingCommand {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// Its id.
    pub id: CommandId,
    /// The agent's place in the audience.
    pub place: u32,
}

/// A command some agent still waits for.
#[derive(Debug)]
pub struct QueuedCommand {
    /// Its place in the log.
    pub sequence: u64,
    /// Its id.
    pub id: CommandId,
    /// Its digest.
    pub digest: Digest,
    /// As signed.
    pub envelope: Bytes,
    /// When it may not be obeyed any more.
    pub expires_at: Timestamp,
}

/// A command as signed.
#[derive(Debug)]
pub struct StoredEnvelope {
    /// The envelope.
    pub envelope: Bytes,
    /// The frozen audience.
    pub targets: Vec<AgentId>,
    /// Whether it was cancelled.
    pub is_cancelled: bool,
}

impl Store {
    /// Unexpired commands that wait for an agent, oldest first, after a place in the order of submission.
    pub async fn waiting(
        &self,
        agent: AgentId,
        after: u64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<WaitingCommand>, StoreError> {
        let rows = sqlx::query(
            "SELECT sequence, command_id, place FROM targets JOIN commands ON sequence = command
             WHERE agent_id = $1 AND state < 2 AND command > $2 AND expires_at > $3 AND cancelled_at = 0 ORDER BY command LIMIT $4",
        )
        .bind(agent.as_bytes().as_slice())
        .bind(integer(after))
        .bind(integer(now.as_millis()))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(WaitingCommand {
                    sequence: unsigned(row, "sequence")?,
                    id: id(row, "command_id", "command id")?,
                    place: place(row)?,
                })
            })
            .collect()
    }

    /// Cancels a command: what was not sent is never sent. Cancelling twice is cancelling once.
    pub async fn cancel(&self, command: CommandId, now: Timestamp) -> Result<(), StoreError> {
        let cancelled = self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE commands SET cancelled_at = $2 WHERE command_id = $1 AND cancelled_at = 0",
                )
                .bind(command.as_bytes().to_vec())
                .bind(integer(now.as_millis()))
                .execute(&mut *connection)
                .await?;
                sqlx::query(
                    "UPDATE targets SET state = 5 WHERE state = 0
                     AND command = (SELECT sequence FROM commands WHERE command_id = $1)",
                )
                .bind(command.as_bytes().to_vec())
                .execute(connection)
                .await?;
                Ok(())
            })
        });
        cancelled.await?;
        let _ = self.changes.send(command);
        Ok(())
    }

    /// A page of commands some agent still waits for, after a sequence.
    pub async fn queued(
        &self,
        after: u64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<QueuedCommand>, StoreError> {
        let rows = sqlx::query(
            "SELECT sequence, command_id, digest, envelope, expires_at FROM commands
             WHERE sequence > $1 AND cancelled_at = 0 AND expires_at > $2
             AND EXISTS (SELECT 1 FROM targets WHERE command = sequence AND state < 2)
             ORDER BY sequence LIMIT $3",
        )
        .bind(integer(after))
        .bind(integer(now.as_millis()))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(QueuedCommand {
                    sequence: unsigned(row, "sequence")?,
                    id: id(row, "command_id", "command id")?,
                    digest: id(row, "digest", "command digest")?,
                    envelope: bytes(row, "envelope")?,
                    expires_at: time(row, "expires_at")?,
                })
            })
            .collect()
    }

    /// A command has another envelope around the same payload.
    pub async fn replace_envelope(
        &self,
        command: CommandId,
        digest: Digest,
        envelope: Bytes,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE commands SET envelope = $3 WHERE command_id = $1 AND digest = $2")
                    .bind(command.as_bytes().to_vec())
                    .bind(digest.as_bytes().to_vec())
                    .bind(envelope.to_vec())
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// A command's envelope and its frozen audience; cancelled ones included.
    pub async fn envelope(&self, command: CommandId) -> Result<Option<StoredEnvelope>, StoreError> {
        let row = sqlx::query("SELECT sequence, envelope, cancelled_at FROM commands WHERE command_id = $1")
            .bind(command.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let targets = sqlx::query("SELECT agent_id FROM targets WHERE command = $1 ORDER BY place")
            .bind(row.try_get::<i64, _>("sequence")?)
            .fetch_all(&self.reader)
            .await?;
        let ids = targets.iter().map(|row| id(row, "agent_id", "agent id")).collect::<Result<_, _>>()?;
        let is_cancelled = time(&row, "cancelled_at")? != Timestamp::ZERO;
        Ok(Some(StoredEnvelope { envelope: bytes(&row, "envelope")?, targets: ids, is_cancelled }))
    }

    /// Records that a command was handed to the streams of the agents at these places. For people: a crash
    /// may lose it.
    pub async fn note_sent(&self, command: CommandId, places: Vec<u32>) -> Result<(), StoreError> {
        let noted = self.write(move |connection| {
            Box::pin(async move {
                for chunk in places.chunks(8192) {
                    let mut update = QueryBuilder::<Sqlite>::new(
                        "UPDATE targets SET state = 1 WHERE state IN (0, 5)
                         AND command = (SELECT sequence FROM commands WHERE command_id = ",
                    );
                    update.push_bind(command.as_bytes().to_vec()).push(") AND place IN (");
                    let mut list = update.separated(", ");
                    chunk.iter().for_each(|place| {
                        list.push_bind(i64::from(*place));
                    });
                    update.push(")");
                    update.build().persistent(false).execute(&mut *connection).await?;
                }
                Ok(())
            })
        });
        noted.await?;
        let _ = self.changes.send(command);
        Ok(())
    }

    /// Whether a command was for an agent, has not expired, and no receipt of it is stored. After that an
    /// agent keeps none either.
    pub async fn is_unanswered(
        &self,
        command: CommandId,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT 1 FROM targets JOIN commands ON sequence = command
             WHERE command_id = $1 AND agent_id = $2 AND state < 2 AND expires_at > $3",
        )
        .bind(command.as_bytes().as_slice())
        .bind(agent.as_bytes().as_slice())
        .bind(integer(now.as_millis()))
        .fetch_optional(&self.reader)
        .await?;
        Ok(row.is_some())
    }
}
