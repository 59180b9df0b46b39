//! Instructions, and what became of them at each entity.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use writ_common::id::{CommandId, Digest, EntityId, InstructionId};
use writ_common::manager::{Outcome, TaskState};
use writ_common::time::Timestamp;

use super::{Change, EntityRow, Store, StoreError, id, integer, time, unsigned};

/// How long an instruction is shown after its end.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// An instruction to be recorded.
#[derive(Debug, Clone)]
pub struct NewInstruction {
    /// Its id.
    pub id: InstructionId,
    /// What makes two requests the same.
    pub request: Digest,
    /// For people.
    pub kind: String,
    /// `writ.manager.v1.Instruction` without what differs from entity to entity.
    pub task: Vec<u8>,
    /// By whom.
    pub issued_by: String,
    /// When.
    pub issued_at: Timestamp,
    /// Entities that did not take it by then never will.
    pub expires_at: Timestamp,
    /// What is not reported by then timed out.
    pub ends_at: Timestamp,
}

/// What came of recording one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issued {
    /// It waits for its entities.
    New,
    /// The same request was recorded under this id before.
    Known,
    /// Another request was.
    Taken,
}

/// An instruction and what became of it.
#[derive(Debug, Clone)]
pub struct InstructionRow {
    /// The order of issue.
    pub sequence: u64,
    /// Its id.
    pub id: InstructionId,
    /// For people.
    pub kind: String,
    /// By whom.
    pub issued_by: String,
    /// When.
    pub issued_at: Timestamp,
    /// The end of waiting.
    pub expires_at: Timestamp,
    /// The end of all.
    pub ends_at: Timestamp,
    /// Entities it is for.
    pub total: u64,
    /// That have done it.
    pub successful: u64,
    /// That have not and will not, by their own word.
    pub unsuccessful: u64,
}

/// What became of an instruction at one entity.
#[derive(Debug, Clone)]
pub struct DeliveryRow {
    /// At which.
    pub entity: EntityId,
    /// What it was called then.
    pub display_name: String,
    /// `None`: it waits, or timed out.
    pub state: Option<TaskState>,
    /// Nobody took it, or said what became of it, in time.
    pub is_timed_out: bool,
    /// For people.
    pub detail: String,
    /// The command it became.
    pub command: Option<CommandId>,
    /// Agents it was for.
    pub agents: u64,
    /// That have done it.
    pub agents_done: u64,
    /// That failed or refused.
    pub agents_failed: u64,
    /// The last change.
    pub updated_at: Timestamp,
}

/// What waits for an entity.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its number in the epoch.
    pub sequence: u64,
    /// As recorded.
    pub task: Bytes,
}

const SELECT: &str = "SELECT *,
    (SELECT count(*) FROM deliveries WHERE instruction = instructions.sequence) AS total,
    (SELECT count(*) FROM deliveries WHERE instruction = instructions.sequence AND state = 3) AS successful,
    (SELECT count(*) FROM deliveries WHERE instruction = instructions.sequence AND state IN (4, 5)) AS unsuccessful
    FROM instructions";

impl InstructionRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            sequence: unsigned(row, "sequence")?,
            id: id(row, "instruction_id", "instruction id")?,
            kind: row.try_get("kind")?,
            issued_by: row.try_get("issued_by")?,
            issued_at: time(row, "issued_at")?,
            expires_at: time(row, "expires_at")?,
            ends_at: time(row, "ends_at")?,
            total: unsigned(row, "total")?,
            successful: unsigned(row, "successful")?,
            unsuccessful: unsigned(row, "unsuccessful")?,
        })
    }
}

impl DeliveryRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let command: Option<&[u8]> = row.try_get("command_id")?;
        Ok(Self {
            entity: id(row, "entity_id", "entity id")?,
            display_name: row.try_get("display_name")?,
            state: match unsigned(row, "state")? {
                1 => None,
                2 => Some(TaskState::InProgress),
                3 => Some(TaskState::Successful),
                4 => Some(TaskState::Unsuccessful),
                5 => None,
                _ => return Err(StoreError::Damaged("delivery")),
            },
            is_timed_out: unsigned(row, "state")? == 5,
            detail: row.try_get("detail")?,
            command: command.and_then(|command| command.try_into().ok()),
            agents: unsigned(row, "agents")?,
            agents_done: unsigned(row, "agents_done")?,
            agents_failed: unsigned(row, "agents_failed")?,
            updated_at: time(row, "updated_at")?,
        })
    }
}

impl Change<'_> {
    /// Records an instruction for entities, which get the next number of theirs.
    pub async fn issue(
        &mut self,
        instruction: &NewInstruction,
        entities: &[EntityRow],
    ) -> Result<Issued, StoreError> {
        let known = sqlx::query("SELECT request_digest FROM instructions WHERE instruction_id = $1")
            .bind(instruction.id.as_bytes().as_slice())
            .fetch_optional(&mut *self.0)
            .await?;
        if let Some(row) = known {
            let same = id::<Digest>(&row, "request_digest", "request digest")? == instruction.request;
            return Ok(if same { Issued::Known } else { Issued::Taken });
        }
        let row = sqlx::query(
            "INSERT INTO instructions (instruction_id, request_digest, kind, task, issued_by, issued_at, expires_at, ends_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING sequence",
        )
        .bind(instruction.id.as_bytes().as_slice())
        .bind(instruction.request.as_bytes().as_slice())
        .bind(instruction.kind.as_str())
        .bind(instruction.task.as_slice())
        .bind(instruction.issued_by.as_str())
        .bind(integer(instruction.issued_at.as_millis()))
        .bind(integer(instruction.expires_at.as_millis()))
        .bind(integer(instruction.ends_at.as_millis()))
        .fetch_one(&mut *self.0)
        .await?;
        self.forget_ended(instruction.issued_at - KEPT).await?;
        let number: i64 = row.try_get("sequence")?;
        for entity in entities {
            sqlx::query("UPDATE entities SET sequence = sequence + 1 WHERE entity_id = $1")
                .bind(entity.id.as_bytes().as_slice())
                .execute(&mut *self.0)
                .await?;
            sqlx::query(
                "INSERT INTO deliveries (instruction, entity_id, display_name, epoch, sequence, state, updated_at)
                 SELECT $1, entity_id, display_name, epoch, sequence, 1, $3 FROM entities WHERE entity_id = $2",
            )
            .bind(number)
            .bind(entity.id.as_bytes().as_slice())
            .bind(integer(instruction.issued_at.as_millis()))
            .execute(&mut *self.0)
            .await?;
        }
        Ok(Issued::New)
    }

    /// Ends what was not taken or not reported in time: it is open no more.
    pub async fn time_out(&mut self, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deliveries SET state = 5 WHERE state < 3 AND EXISTS (
                 SELECT 1 FROM instructions WHERE instructions.sequence = instruction
                 AND CASE deliveries.state WHEN 1 THEN expires_at ELSE ends_at END <= $1)",
        )
        .bind(integer(now.as_millis()))
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Forgets instructions whose end was before a time.
    async fn forget_ended(&mut self, before: Timestamp) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM deliveries WHERE instruction IN (SELECT sequence FROM instructions WHERE ends_at < $1)",
            "DELETE FROM instructions WHERE ends_at < $1",
        ] {
            sqlx::query(sql).bind(integer(before.as_millis())).execute(&mut *self.0).await?;
        }
        Ok(())
    }

    /// Notes what an entity says became of earlier instructions; returns those that ended by it. What has
    /// ended does not change any more.
    pub async fn note_outcomes(
        &mut self,
        entity: &EntityRow,
        outcomes: &[Outcome],
        now: Timestamp,
    ) -> Result<Vec<InstructionId>, StoreError> {
        let mut ended = Vec::new();
        for outcome in outcomes {
            let state = match outcome.state {
                TaskState::InProgress => 2,
                TaskState::Successful => 3,
                TaskState::Unsuccessful => 4,
            };
            let changed = sqlx::query(
                "UPDATE deliveries SET state = $4, detail = $5, command_id = $6, agents = $7, agents_done = $8,
                     agents_failed = $9, updated_at = $10
                 WHERE entity_id = $1 AND epoch = $2 AND sequence = $3 AND state IN (1, 2, 5)
                 RETURNING (SELECT instruction_id FROM instructions WHERE instructions.sequence = instruction) AS instruction_id",
            )
            .bind(entity.id.as_bytes().as_slice())
            .bind(integer(entity.epoch))
            .bind(integer(outcome.sequence))
            .bind(state)
            .bind(outcome.detail.as_str())
            .bind(outcome.command.map(|command| command.as_bytes().to_vec()))
            .bind(integer(outcome.total))
            .bind(integer(outcome.done))
            .bind(integer(outcome.failed))
            .bind(integer(now.as_millis()))
            .fetch_optional(&mut *self.0)
            .await?;
            if let Some(row) = changed.filter(|_| outcome.state != TaskState::InProgress) {
                ended.push(id(&row, "instruction_id", "instruction id")?);
            }
        }
        Ok(ended)
    }

    /// What waits for an entity after a number, oldest first. What is handed over is marked so.
    pub async fn take_waiting(
        &mut self,
        entity: &EntityRow,
        after: u64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query(
            "SELECT deliveries.sequence AS number, task FROM deliveries JOIN instructions ON instructions.sequence = instruction
             WHERE entity_id = $1 AND epoch = $2 AND deliveries.sequence > $3 AND expires_at > $4 AND state < 3
             ORDER BY number LIMIT $5",
        )
        .bind(entity.id.as_bytes().as_slice())
        .bind(integer(entity.epoch))
        .bind(integer(after))
        .bind(integer(now.as_millis()))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.0)
        .await?;
        let waiting: Vec<_> = rows
            .iter()
            .map(|row| {
                Ok(Waiting {
                    sequence: unsigned(row, "number")?,
                    task: row.try_get::<Vec<u8>, _>("task")?.into(),
                })
            })
            .collect::<Result<_, StoreError>>()?;
        if let (Some(first), Some(last)) = (waiting.first(), waiting.last()) {
            sqlx::query(
                "UPDATE deliveries SET state = 2, updated_at = $5
                 WHERE entity_id = $1 AND epoch = $2 AND sequence BETWEEN $3 AND $4 AND state = 1",
            )
            .bind(entity.id.as_bytes().as_slice())
            .bind(integer(entity.epoch))
            .bind(integer(first.sequence))
            .bind(integer(last.sequence))
            .bind(integer(now.as_millis()))
            .execute(&mut *self.0)
            .await?;
        }
        Ok(waiting)
    }

    /// Carries what still waits over into another epoch, numbered from 1; what was taken in the old one is
    /// given up, for nobody will hear of it. Returns the last number.
    pub async fn begin_epoch(
        &mut self,
        entity: EntityId,
        epoch: u64,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        sqlx::query(
            "UPDATE deliveries SET state = 4, detail = 'the entity registered anew before it said what became of it', updated_at = $2
             WHERE entity_id = $1 AND state = 2",
        )
        .bind(entity.as_bytes().as_slice())
        .bind(integer(now.as_millis()))
        .execute(&mut *self.0)
        .await?;
        let waiting = sqlx::query(
            "SELECT instruction FROM deliveries WHERE entity_id = $1 AND state = 1 ORDER BY instruction",
        )
        .bind(entity.as_bytes().as_slice())
        .fetch_all(&mut *self.0)
        .await?;
        let mut sequence = 0;
        for row in waiting {
            sequence += 1;
            sqlx::query(
                "UPDATE deliveries SET epoch = $3, sequence = $4 WHERE entity_id = $1 AND instruction = $2",
            )
            .bind(entity.as_bytes().as_slice())
            .bind(row.try_get::<i64, _>("instruction")?)
            .bind(integer(epoch))
            .bind(integer(sequence))
            .execute(&mut *self.0)
            .await?;
        }
        Ok(sequence)
    }

    /// Ends what an entity has not ended: it registered anew, left, or was shown the door.
    pub async fn give_up(&mut self, entity: EntityId, why: &str, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query("UPDATE deliveries SET state = 4, detail = $2, updated_at = $3 WHERE entity_id = $1 AND state < 3")
            .bind(entity.as_bytes().as_slice())
            .bind(why.to_owned())
            .bind(integer(now.as_millis()))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }
}

impl Store {
    /// What makes a request the same as the one an instruction was made of; `None`: there is no such
    /// instruction.
    pub async fn request_of(&self, instruction: InstructionId) -> Result<Option<Digest>, StoreError> {
        let row = sqlx::query("SELECT request_digest FROM instructions WHERE instruction_id = $1")
            .bind(instruction.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| id(&row, "request_digest", "request digest")).transpose()
    }

    /// How many instructions to entities nothing final is known of, and may still become known.
    pub async fn open_deliveries(&self, now: Timestamp) -> Result<u64, StoreError> {
        let sql =
            "SELECT count(*) AS open FROM deliveries JOIN instructions ON instructions.sequence = instruction
             WHERE state < 3 AND CASE state WHEN 1 THEN expires_at ELSE ends_at END > $1";
        let row = sqlx::query(sql).bind(integer(now.as_millis())).fetch_one(&self.reader).await?;
        unsigned(&row, "open")
    }

    /// Instructions before a place in the order of issue, latest first.
    pub async fn instructions(&self, before: u64, limit: u32) -> Result<Vec<InstructionRow>, StoreError> {
        let sql =
            format!("{SELECT} WHERE instructions.sequence < $1 ORDER BY instructions.sequence DESC LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(integer(before))
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(InstructionRow::read).collect()
    }

    /// An instruction by id.
    pub async fn instruction(
        &self,
        instruction: InstructionId,
    ) -> Result<Option<InstructionRow>, StoreError> {
        let sql = format!("{SELECT} WHERE instruction_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(instruction.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| InstructionRow::read(&row)).transpose()
    }

    /// What became of an instruction, by entity, after one of them.
    pub async fn deliveries(
        &self,
        instruction: u64,
        after: Option<EntityId>,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let after = after.map_or_else(Vec::new, |entity| entity.as_bytes().to_vec());
        let sql =
            "SELECT * FROM deliveries WHERE instruction = $1 AND entity_id > $2 ORDER BY entity_id LIMIT $3";
        let rows = sqlx::query(sql)
            .bind(integer(instruction))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(DeliveryRow::read).collect()
    }
}
