//! Instructions, and what became of them at each entity.

use std::time::Duration;

use writ_database::{Connection, Record, ToValue as _, Value, values};
use writ_protocol::id::{Digest, EntityId, InstructionId};
use writ_protocol::manager::{Outcome, TaskState};
use writ_protocol::time::Timestamp;

use super::super::rows::{
    DeliveryRow, DeliveryState, EntityRow, FIRST_ENDED, InstructionRow, Issued, NewInstruction,
    WaitingInstruction,
};
use super::super::{Change, Store, StoreError};

/// How long an instruction is shown after its end.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

const WAITING: i64 = DeliveryState::Waiting.stored();
const TAKEN: i64 = DeliveryState::Taken.stored();
const SUCCESSFUL: i64 = DeliveryState::Successful.stored();
const UNSUCCESSFUL: i64 = DeliveryState::Unsuccessful.stored();
const TIMED_OUT: i64 = DeliveryState::TimedOut.stored();

/// Whole instructions: `which` is the condition.
fn fetch(
    connection: &mut Connection,
    which: &str,
    values: &[Value<'_>],
) -> Result<Vec<InstructionRow>, StoreError> {
    let sql = format!(
        "SELECT instructions.*,
             (SELECT count(*) FROM deliveries WHERE instruction = instructions.sequence) AS total,
             (SELECT count(*) FROM deliveries WHERE instruction = instructions.sequence
              AND state = {SUCCESSFUL}) AS successful,
             (SELECT count(*) FROM deliveries WHERE instruction = instructions.sequence
              AND state IN ({UNSUCCESSFUL}, {TIMED_OUT})) AS unsuccessful
         FROM instructions WHERE {which}"
    );
    connection.fetch(&sql, values, |record| {
        Ok(InstructionRow {
            sequence: record.get("sequence")?,
            id: record.get("instruction_id")?,
            kind: record.get("kind")?,
            issued_by: record.get("issued_by")?,
            issued_at: record.get("issued_at")?,
            expires_at: record.get("expires_at")?,
            ends_at: record.get("ends_at")?,
            total: record.get("total")?,
            successful: record.get("successful")?,
            unsuccessful: record.get("unsuccessful")?,
        })
    })
}

fn read_delivery(record: &Record<'_>) -> Result<DeliveryRow, StoreError> {
    let state: DeliveryState = record.get("state")?;
    Ok(DeliveryRow {
        entity: record.get("entity_id")?,
        display_name: record.get("display_name")?,
        state: state.task(),
        is_timed_out: state == DeliveryState::TimedOut,
        detail: record.get("detail")?,
        command: record.get("command_id")?,
        agents: record.get("agents")?,
        agents_done: record.get("agents_done")?,
        agents_failed: record.get("agents_failed")?,
        updated_at: record.get("updated_at")?,
    })
}

fn find_request(
    connection: &mut Connection,
    instruction: InstructionId,
) -> Result<Option<Digest>, StoreError> {
    let sql = "SELECT request_digest FROM instructions WHERE instruction_id = ?1";
    connection.first(sql, &values![instruction], |record| record.get("request_digest"))
}

impl Change<'_> {
    /// Records an instruction for entities, which get the next number of theirs.
    pub(crate) fn issue(
        &mut self,
        new: &NewInstruction,
        entities: &[EntityRow],
    ) -> Result<Issued, StoreError> {
        if let Some(known) = find_request(self.0, new.id)? {
            return Ok(if known == new.request { Issued::Known } else { Issued::Taken });
        }
        let NewInstruction { id, request, kind, task, issued_by, issued_at, expires_at, ends_at } = new;
        let sql = "INSERT INTO instructions
                       (instruction_id, request_digest, kind, task, issued_by, issued_at, expires_at, ends_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING sequence";
        let values = values![id, request, kind, task, issued_by, issued_at, expires_at, ends_at];
        let number: u64 = self.0.only(sql, &values, |record| record.get("sequence"))?;
        self.forget_ended(*issued_at - KEPT)?;
        let sql = "UPDATE entities SET sequence = sequence + 1 WHERE entity_id = ?1";
        self.0.execute_each(sql, entities.iter().map(|entity| values![entity.id]))?;
        let sql = "INSERT INTO deliveries (instruction, entity_id, display_name, epoch, sequence, state, updated_at)
                   SELECT ?1, entity_id, display_name, epoch, sequence, ?4, ?3 FROM entities WHERE entity_id = ?2";
        let rows =
            entities.iter().map(|entity| values![number, entity.id, issued_at, DeliveryState::Waiting]);
        self.0.execute_each(sql, rows)?;
        Ok(Issued::New)
    }

    /// Ends what was not taken or not reported in time: it is open no more.
    pub(crate) fn time_out(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE deliveries SET state = {TIMED_OUT} WHERE state < {FIRST_ENDED} AND EXISTS (
                 SELECT 1 FROM instructions WHERE instructions.sequence = instruction
                 AND CASE deliveries.state WHEN {WAITING} THEN expires_at ELSE ends_at END <= ?1)"
        );
        self.0.execute(&sql, &values![now]).map(drop)
    }

    /// Forgets instructions whose end was before a time.
    fn forget_ended(&mut self, before: Timestamp) -> Result<(), StoreError> {
        // Deliveries first: each belongs to an instruction that is there.
        for sql in [
            "DELETE FROM deliveries WHERE instruction IN (SELECT sequence FROM instructions WHERE ends_at < ?1)",
            "DELETE FROM instructions WHERE ends_at < ?1",
        ] {
            self.0.execute(sql, &values![before])?;
        }
        Ok(())
    }

    /// Notes what an entity says became of earlier instructions; returns those that ended by it. What has
    /// ended does not change any more.
    pub(crate) fn note_outcomes(
        &mut self,
        entity: &EntityRow,
        outcomes: &[Outcome],
        now: Timestamp,
    ) -> Result<Vec<InstructionId>, StoreError> {
        let sql = format!(
            "UPDATE deliveries SET state = ?4, detail = ?5, command_id = ?6, agents = ?7, agents_done = ?8,
                 agents_failed = ?9, updated_at = ?10
             WHERE entity_id = ?1 AND epoch = ?2 AND sequence = ?3 AND state IN ({WAITING}, {TAKEN}, {TIMED_OUT})
             RETURNING (SELECT instruction_id FROM instructions WHERE instructions.sequence = instruction) AS instruction_id"
        );
        let states: Vec<_> = outcomes.iter().map(|outcome| DeliveryState::of(outcome.state)).collect();
        let rows = outcomes.iter().zip(&states).map(|(outcome, state)| {
            let [id, epoch, sequence, state] = values![entity.id, entity.epoch, outcome.sequence, state];
            let [detail, command, total] = values![outcome.detail, outcome.command, outcome.total];
            let [done, failed, now] = values![outcome.done, outcome.failed, now];
            [id, epoch, sequence, state, detail, command, total, done, failed, now]
        });
        let changed = self.0.first_of_each(&sql, rows, |record| record.get("instruction_id"))?;
        let ended =
            outcomes.iter().zip(changed).filter(|(outcome, _)| outcome.state != TaskState::InProgress);
        Ok(ended.filter_map(|(_, instruction)| instruction).collect())
    }

    /// What waits for an entity after a number, oldest first. What is handed over is marked so.
    pub(crate) fn take_waiting(
        &mut self,
        entity: &EntityRow,
        after: u64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<WaitingInstruction>, StoreError> {
        let sql = format!(
            "SELECT deliveries.sequence AS number, task FROM deliveries
             JOIN instructions ON instructions.sequence = instruction
             WHERE entity_id = ?1 AND epoch = ?2 AND deliveries.sequence > ?3 AND expires_at > ?4
             AND state < {FIRST_ENDED} ORDER BY number LIMIT ?5"
        );
        let values = values![entity.id, entity.epoch, after, now, limit];
        let waiting = self.0.fetch(&sql, &values, |record| {
            Ok(WaitingInstruction { sequence: record.get("number")?, task: record.get("task")? })
        })?;
        if let (Some(first), Some(last)) = (waiting.first(), waiting.last()) {
            let sql = format!(
                "UPDATE deliveries SET state = {TAKEN}, updated_at = ?5
                 WHERE entity_id = ?1 AND epoch = ?2 AND sequence BETWEEN ?3 AND ?4 AND state = {WAITING}"
            );
            let values = values![entity.id, entity.epoch, first.sequence, last.sequence, now];
            self.0.execute(&sql, &values)?;
        }
        Ok(waiting)
    }

    /// Carries what still waits over into another epoch, numbered from 1; what was taken in the old one is
    /// given up, for nobody will hear of it. Returns the last number.
    pub(crate) fn begin_epoch(
        &mut self,
        entity: EntityId,
        epoch: u64,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let sql = format!(
            "UPDATE deliveries SET state = {UNSUCCESSFUL}, updated_at = ?2,
                 detail = 'the entity registered anew before it said what became of it'
             WHERE entity_id = ?1 AND state = {TAKEN}"
        );
        self.0.execute(&sql, &values![entity, now])?;
        let sql = format!(
            "SELECT instruction FROM deliveries WHERE entity_id = ?1 AND state = {WAITING} ORDER BY instruction"
        );
        let waiting = self.0.fetch(&sql, &values![entity], |record| record.get::<u64>("instruction"))?;
        let numbered: Vec<_> = (1_u64..).zip(waiting).collect();
        let sql = "UPDATE deliveries SET epoch = ?3, sequence = ?4 WHERE entity_id = ?1 AND instruction = ?2";
        let rows = numbered.iter().map(|(number, instruction)| values![entity, instruction, epoch, number]);
        self.0.execute_each(sql, rows)?;
        Ok(numbered.last().map_or(0, |(number, _)| *number))
    }

    /// Ends what an entity has not ended: it registered anew, left, or was shown the door.
    pub(crate) fn give_up(&mut self, entity: EntityId, why: &str, now: Timestamp) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE deliveries SET state = {UNSUCCESSFUL}, detail = ?2, updated_at = ?3
             WHERE entity_id = ?1 AND state < {FIRST_ENDED}"
        );
        self.0.execute(&sql, &values![entity, why, now]).map(drop)
    }
}

impl Store {
    /// What makes a request the same as the one an instruction was made of; `None`: there is no such
    /// instruction.
    pub(crate) async fn request_of(&self, instruction: InstructionId) -> Result<Option<Digest>, StoreError> {
        self.database.read(move |connection| find_request(connection, instruction)).await
    }

    /// How many instructions to entities nothing final is known of, and may still become known.
    pub(crate) async fn open_deliveries(&self, now: Timestamp) -> Result<u64, StoreError> {
        let sql = format!(
            "SELECT count(*) AS open FROM deliveries JOIN instructions ON instructions.sequence = instruction
             WHERE state < {FIRST_ENDED} AND CASE state WHEN {WAITING} THEN expires_at ELSE ends_at END > ?1"
        );
        let read = move |connection: &mut Connection| {
            connection.only(&sql, &values![now], |record| record.get("open"))
        };
        self.database.read(read).await
    }

    /// Instructions before a place in the order of issue, latest first.
    pub(crate) async fn instructions(
        &self,
        before: u64,
        limit: u32,
    ) -> Result<Vec<InstructionRow>, StoreError> {
        let which = "sequence < ?1 ORDER BY sequence DESC LIMIT ?2";
        self.database.read(move |connection| fetch(connection, which, &values![before, limit])).await
    }

    /// An instruction by id.
    pub(crate) async fn instruction(
        &self,
        instruction: InstructionId,
    ) -> Result<Option<InstructionRow>, StoreError> {
        let read = move |connection: &mut _| fetch(connection, "instruction_id = ?1", &values![instruction]);
        Ok(self.database.read(read).await?.pop())
    }

    /// What became of an instruction, by entity, after one of them.
    pub(crate) async fn deliveries(
        &self,
        instruction: u64,
        after: Option<EntityId>,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let sql =
            "SELECT * FROM deliveries WHERE instruction = ?1 AND entity_id > ?2 ORDER BY entity_id LIMIT ?3";
        let read = move |connection: &mut Connection| {
            let after = after.as_ref().map_or_else(|| [].as_slice(), |entity| entity.as_bytes());
            connection.fetch(sql, &values![instruction, after, limit], read_delivery)
        };
        self.database.read(read).await
    }
}
