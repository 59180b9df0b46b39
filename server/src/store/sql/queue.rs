//! What waits: read for delivery, signed anew, cancelled, noted as sent.

use bytes::Bytes;
use writ_database::{Connection, ToValue as _, values};
use writ_protocol::id::{AgentId, CommandId, Digest};
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use super::super::rows::{FIRST_ENDED, QueuedCommand, StoredEnvelope, TargetState, WaitingCommand};
use super::super::{Store, StoreError};
use crate::dispatch::needs_turn;

impl Store {
    /// Unexpired commands that wait for an agent, oldest first, after a place in the order of submission.
    pub(crate) async fn waiting(
        &self,
        agent: AgentId,
        after: u64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<WaitingCommand>, StoreError> {
        let sql = format!(
            "SELECT sequence, command_id, place, substr(action, 1, 32) AS action
             FROM targets JOIN commands ON sequence = command
             WHERE agent_id = ?1 AND state < {FIRST_ENDED} AND command > ?2 AND expires_at > ?3
             AND cancelled_at = 0 ORDER BY command LIMIT ?4"
        );
        let read = move |connection: &mut Connection| {
            connection.fetch(&sql, &values![agent, after, now, limit], |record| {
                Ok(WaitingCommand {
                    sequence: record.get("sequence")?,
                    id: record.get("command_id")?,
                    place: record.get("place")?,
                    needs_turn: needs_turn(&record.get::<String>("action")?),
                })
            })
        };
        // No moment: of commands that expired without an answer all are looked at.
        self.database.read(read).await
    }

    /// Cancels a command: what was not sent is never sent. Cancelling twice is cancelling once.
    pub(crate) async fn cancel(&self, command: CommandId, now: Timestamp) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| {
            let sql = "UPDATE commands SET cancelled_at = ?2 WHERE command_id = ?1 AND cancelled_at = 0";
            connection.execute(sql, &values![command, now])?;
            let sql = "UPDATE targets SET state = ?2 WHERE state = ?3
                       AND command = (SELECT sequence FROM commands WHERE command_id = ?1)";
            let states = (TargetState::Cancelled, TargetState::Waiting);
            connection.execute(sql, &values![command, states.0, states.1]).map(drop)
        };
        self.database.write(write).await?;
        self.announce(command);
        Ok(())
    }

    /// A page of commands some agent still waits for, after a sequence.
    pub(crate) async fn queued(
        &self,
        after: u64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<QueuedCommand>, StoreError> {
        let sql = format!(
            "SELECT sequence, command_id, digest, envelope, expires_at FROM commands
             WHERE sequence > ?1 AND cancelled_at = 0 AND expires_at > ?2
             AND EXISTS (SELECT 1 FROM targets WHERE command = sequence AND state < {FIRST_ENDED})
             ORDER BY sequence LIMIT ?3"
        );
        let read = move |connection: &mut Connection| {
            connection.fetch(&sql, &values![after, now, limit], |record| {
                Ok(QueuedCommand {
                    sequence: record.get("sequence")?,
                    id: record.get("command_id")?,
                    digest: record.get("digest")?,
                    envelope: record.get("envelope")?,
                    expires_at: record.get("expires_at")?,
                })
            })
        };
        self.database.read(read).await
    }

    /// A command has another envelope around the same payload.
    pub(crate) async fn replace_envelope(
        &self,
        command: CommandId,
        digest: Digest,
        envelope: Bytes,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE commands SET envelope = ?3 WHERE command_id = ?1 AND digest = ?2";
        let write = move |connection: &mut Connection| {
            connection.execute(sql, &values![command, digest, envelope]).map(drop)
        };
        self.database.write(write).await
    }

    /// A command's envelope and its frozen audience; cancelled ones included.
    pub(crate) async fn envelope(&self, command: CommandId) -> Result<Option<StoredEnvelope>, StoreError> {
        let read = move |connection: &mut Connection| {
            let sql = "SELECT sequence, commands.envelope, cancelled_at, action, expires_at, seed,
                        rollouts.envelope AS released_by
                       FROM commands LEFT JOIN rollouts ON rollouts.command = sequence WHERE command_id = ?1";
            let found = connection.first(sql, &values![command], |record| {
                let cancelled_at: Timestamp = record.get("cancelled_at")?;
                let seed = record.get::<Option<u64>>("seed")?.and_then(Seed::new);
                let release = record.get::<Option<Bytes>>("released_by")?.unwrap_or_default();
                let rollout = seed.map(|seed| (seed, release));
                let stored = StoredEnvelope {
                    envelope: record.get("envelope")?,
                    targets: Vec::new(),
                    rollout,
                    is_cancelled: cancelled_at != Timestamp::ZERO,
                    action: record.get("action")?,
                    expires_at: record.get("expires_at")?,
                };
                Ok((record.get::<u64>("sequence")?, stored))
            })?;
            let Some((sequence, stored)) = found else { return Ok(None) };
            let sql = "SELECT agent_id FROM targets WHERE command = ?1 ORDER BY place";
            let targets = connection.fetch(sql, &values![sequence], |record| record.get("agent_id"))?;
            Ok(Some(StoredEnvelope { targets, ..stored }))
        };
        self.database.read(read).await
    }

    /// Records that a command was handed to the streams of the agents at these places. For people: a crash
    /// may lose it.
    pub(crate) async fn note_sent(&self, command: CommandId, places: Vec<u32>) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| {
            let sql = "SELECT sequence FROM commands WHERE command_id = ?1";
            let sequence =
                connection.first(sql, &values![command], |record| record.get::<u64>("sequence"))?;
            // One that was cancelled meanwhile was sent all the same.
            let sql = "UPDATE targets SET state = ?3 WHERE command = ?1 AND place = ?2 AND state IN (?4, ?5)";
            let [sent, queued, cancelled] =
                [TargetState::Delivered, TargetState::Waiting, TargetState::Cancelled];
            let rows = places.iter().map(|place| values![sequence, place, sent, queued, cancelled]);
            connection.execute_each(sql, rows)
        };
        self.database.write(write).await?;
        self.announce(command);
        Ok(())
    }

    /// Whether a command was for an agent, has not expired, and no receipt of it is stored. After that an
    /// agent keeps none either.
    pub(crate) async fn is_unanswered(
        &self,
        command: CommandId,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT 1 FROM targets JOIN commands ON sequence = command
             WHERE command_id = ?1 AND agent_id = ?2 AND state < {FIRST_ENDED} AND expires_at > ?3"
        );
        let read = move |connection: &mut Connection| {
            Ok(connection.first(&sql, &values![command, agent, now], |_| Ok(()))?.is_some())
        };
        self.database.read(read).await
    }
}
