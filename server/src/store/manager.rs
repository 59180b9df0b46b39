//! What the line to the Control Manager must not forget.

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use writ_common::id::CommandId;
use writ_common::manager::TaskState;
use writ_common::time::Timestamp;

use super::{Store, StoreError, bytes, id, integer, unsigned};

/// Instructions kept: those that ended and were reported go first.
const MAX_KEPT: u64 = 4096;

/// An instruction this server took.
#[derive(Debug, Clone)]
pub struct TakenRow {
    /// The registration it belongs to.
    pub epoch: u64,
    /// Its number there.
    pub sequence: u64,
    /// The payload that was verified: `writ.manager.v1.Instruction`.
    pub instruction: Bytes,
    /// The command it becomes, if it becomes one.
    pub command: CommandId,
    /// How it stands.
    pub state: TaskState,
    /// For people.
    pub detail: String,
}

impl TakenRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            epoch: unsigned(row, "epoch")?,
            sequence: unsigned(row, "sequence")?,
            instruction: bytes(row, "instruction")?,
            command: id(row, "command_id", "command id")?,
            state: match unsigned(row, "state")? {
                1 => TaskState::InProgress,
                2 => TaskState::Successful,
                3 => TaskState::Unsuccessful,
                _ => return Err(StoreError::Damaged("instruction")),
            },
            detail: row.try_get("detail")?,
        })
    }
}

const fn stored(state: TaskState) -> i64 {
    match state {
        TaskState::InProgress => 1,
        TaskState::Successful => 2,
        TaskState::Unsuccessful => 3,
    }
}

impl Store {
    /// A document of the line.
    pub async fn manager_document(&self, name: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT content FROM manager_documents WHERE name = $1";
        let row = sqlx::query(sql).bind(name.to_owned()).fetch_optional(&self.reader).await?;
        Ok(row.map(|row| row.try_get("content")).transpose()?)
    }

    /// Writes documents together; `None` removes one.
    ///
    /// # Errors
    /// When the database fails; then none is written.
    pub async fn put_manager_documents(
        &self,
        documents: Vec<(&'static str, Option<String>)>,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                for (name, content) in documents {
                    let query = match content {
                        Some(content) => sqlx::query(
                            "INSERT INTO manager_documents VALUES ($1, $2) ON CONFLICT DO UPDATE SET content = $2",
                        )
                        .bind(name)
                        .bind(content),
                        None => sqlx::query("DELETE FROM manager_documents WHERE name = $1").bind(name),
                    };
                    query.execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The number of the next call: one more than the last, so that a copy of this database is found out. A
    /// registration goes beyond whatever was said before, also when this database is an old one.
    pub async fn next_manager_counter(
        &self,
        is_registration: bool,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "INSERT INTO manager_counter VALUES (1, $1)
                           ON CONFLICT DO UPDATE SET counter = CASE WHEN $2 THEN max(counter + 1, $1) ELSE counter + 1 END
                           RETURNING counter";
                let row = sqlx::query(sql).bind(integer(now.as_millis())).bind(is_registration).fetch_one(connection).await?;
                unsigned(&row, "counter")
            })
        })
        .await
    }

    /// The last instruction taken under a registration; zero if none was.
    pub async fn last_taken(&self, epoch: u64) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(sequence), 0) AS last FROM manager_instructions WHERE epoch = $1";
        unsigned(&sqlx::query(sql).bind(integer(epoch)).fetch_one(&self.reader).await?, "last")
    }

    /// Takes an instruction: from now on it is obeyed once, whatever happens.
    pub async fn take_instruction(&self, taken: TakenRow, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO manager_instructions (epoch, sequence, instruction, command_id, state, detail, recorded_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)",
                )
                .bind(integer(taken.epoch))
                .bind(integer(taken.sequence))
                .bind(taken.instruction.to_vec())
                .bind(taken.command.as_bytes().to_vec())
                .bind(stored(taken.state))
                .bind(taken.detail)
                .bind(integer(now.as_millis()))
                .execute(&mut *connection)
                .await?;
                // The last one of the registration stays: it says what is new.
                sqlx::query(
                    "DELETE FROM manager_instructions WHERE (epoch, sequence) IN (
                         SELECT epoch, sequence FROM manager_instructions WHERE epoch < $1 OR (reported = 1 AND sequence < $2)
                         ORDER BY epoch, sequence
                         LIMIT max(0, (SELECT count(*) FROM manager_instructions) - $3))",
                )
                .bind(integer(taken.epoch))
                .bind(integer(taken.sequence))
                .bind(integer(MAX_KEPT))
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Notes how an instruction stands.
    pub async fn note_taken(
        &self,
        (epoch, sequence): (u64, u64),
        state: TaskState,
        detail: String,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE manager_instructions SET state = $3, detail = $4, acted = 1 WHERE epoch = $1 AND sequence = $2",
                )
                .bind(integer(epoch))
                .bind(integer(sequence))
                .bind(stored(state))
                .bind(detail)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// What has ended and the manager has not heard of, oldest first.
    pub async fn unreported(&self, epoch: u64, limit: u32) -> Result<Vec<TakenRow>, StoreError> {
        self.taken("reported = 0 AND state <> 1", epoch, 0, limit).await
    }

    /// What was taken and not acted on, oldest first.
    pub async fn unacted(&self, epoch: u64, limit: u32) -> Result<Vec<TakenRow>, StoreError> {
        self.taken("reported = 0 AND state = 1 AND acted = 0", epoch, 0, limit).await
    }

    /// What was acted on and goes on, after a number, oldest first.
    pub async fn going_on(&self, epoch: u64, after: u64, limit: u32) -> Result<Vec<TakenRow>, StoreError> {
        self.taken("reported = 0 AND state = 1 AND acted = 1", epoch, after, limit).await
    }

    async fn taken(
        &self,
        which: &'static str,
        epoch: u64,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TakenRow>, StoreError> {
        let sql = format!(
            "SELECT * FROM manager_instructions WHERE epoch = $1 AND sequence > $2 AND {which} ORDER BY sequence LIMIT $3"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(integer(epoch))
            .bind(integer(after))
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(TakenRow::read).collect()
    }

    /// How many the manager has not heard the end of.
    pub async fn count_unreported(&self, epoch: u64) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) AS open FROM manager_instructions WHERE epoch = $1 AND reported = 0";
        unsigned(&sqlx::query(sql).bind(integer(epoch)).fetch_one(&self.reader).await?, "open")
    }

    /// The manager has heard how these ended.
    pub async fn note_reported(&self, epoch: u64, sequences: Vec<u64>) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                for sequence in sequences {
                    sqlx::query(
                        "UPDATE manager_instructions SET reported = 1 WHERE epoch = $1 AND sequence = $2",
                    )
                    .bind(integer(epoch))
                    .bind(integer(sequence))
                    .execute(&mut *connection)
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }
}
