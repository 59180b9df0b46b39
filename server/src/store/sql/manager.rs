//! What the connection to the Control Manager must not forget.

use writ_database::{Connection, Record, ToValue as _, values};
use writ_protocol::manager::TaskState;
use writ_protocol::time::Timestamp;

use super::super::rows::{TakenRow, state_of, stored};
use super::super::rules::clock::next_counter;
use super::super::{Store, StoreError};

/// Instructions kept: those that ended and were reported go first.
const MAX_KEPT: u64 = 4096;

const IN_PROGRESS: i64 = stored(TaskState::InProgress);

impl Store {
    /// A document of the connection.
    pub(crate) async fn manager_document(&self, name: &str) -> Result<Option<String>, StoreError> {
        let (sql, name) = ("SELECT content FROM manager_documents WHERE name = ?1", name.to_owned());
        let read = move |connection: &mut Connection| {
            connection.first(sql, &values![name], |record| record.get("content"))
        };
        self.database.read(read).await
    }

    /// Writes documents together; `None` removes one.
    ///
    /// # Errors
    /// When the database fails; then none is written.
    pub(crate) async fn put_manager_documents(
        &self,
        documents: Vec<(&'static str, Option<String>)>,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| {
            for (name, content) in &documents {
                if let Some(content) = content {
                    let sql = "INSERT INTO manager_documents VALUES (?1, ?2)
                               ON CONFLICT (name) DO UPDATE SET content = excluded.content";
                    connection.execute(sql, &values![*name, content])?;
                } else {
                    connection.execute("DELETE FROM manager_documents WHERE name = ?1", &values![*name])?;
                }
            }
            Ok(())
        };
        self.database.write(write).await
    }

    /// The number of the next call: one more than the last, so that a copy of this database is found out. A
    /// registration goes beyond whatever was said before, also when this database is an old one.
    pub(crate) async fn next_manager_counter(
        &self,
        is_registration: bool,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let write = move |connection: &mut Connection| {
            let sql = "SELECT counter FROM manager_counter";
            let last = connection.first(sql, &[], |record| record.get("counter"))?;
            let next = next_counter(last, is_registration, now);
            let sql = "INSERT INTO manager_counter VALUES (1, ?1)
                       ON CONFLICT (only_row) DO UPDATE SET counter = excluded.counter";
            connection.execute(sql, &values![next])?;
            Ok(next)
        };
        self.database.write(write).await
    }

    /// The last instruction taken under a registration; zero if none was.
    pub(crate) async fn last_taken(&self, epoch: u64) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(sequence), 0) AS last FROM manager_instructions WHERE epoch = ?1";
        let read = move |connection: &mut Connection| {
            connection.only(sql, &values![epoch], |record| record.get("last"))
        };
        self.database.read(read).await
    }

    /// Takes an instruction: from now on it is obeyed once, whatever happens.
    pub(crate) async fn take_instruction(&self, taken: TakenRow, now: Timestamp) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| {
            let TakenRow { epoch, sequence, instruction, command, state, detail } = &taken;
            let sql = "INSERT INTO manager_instructions
                           (epoch, sequence, instruction, command_id, state, detail, recorded_at)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let state = stored(*state);
            connection.execute(sql, &values![epoch, sequence, instruction, command, state, detail, now])?;
            let sql = "SELECT count(*) AS kept FROM manager_instructions";
            let kept: u64 = connection.only(sql, &[], |record| record.get("kept"))?;
            // The last one of the registration stays: it says what is new.
            let sql = "DELETE FROM manager_instructions WHERE (epoch, sequence) IN (
                           SELECT epoch, sequence FROM manager_instructions
                           WHERE epoch < ?1 OR (reported = 1 AND sequence < ?2)
                           ORDER BY epoch, sequence LIMIT ?3)";
            connection.execute(sql, &values![epoch, sequence, kept.saturating_sub(MAX_KEPT)]).map(drop)
        };
        self.database.write(write).await
    }

    /// Notes how an instruction stands.
    pub(crate) async fn note_taken(
        &self,
        (epoch, sequence): (u64, u64),
        state: TaskState,
        detail: String,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE manager_instructions SET state = ?3, detail = ?4, acted = 1
                   WHERE epoch = ?1 AND sequence = ?2";
        let write = move |connection: &mut Connection| {
            connection.execute(sql, &values![epoch, sequence, stored(state), detail]).map(drop)
        };
        self.database.write(write).await
    }

    /// What has ended and the manager has not heard of, oldest first.
    pub(crate) async fn unreported(&self, epoch: u64, limit: u32) -> Result<Vec<TakenRow>, StoreError> {
        self.taken(format!("state <> {IN_PROGRESS}"), epoch, 0, limit).await
    }

    /// What was taken and not acted on, oldest first.
    pub(crate) async fn unacted(&self, epoch: u64, limit: u32) -> Result<Vec<TakenRow>, StoreError> {
        self.taken(format!("state = {IN_PROGRESS} AND acted = 0"), epoch, 0, limit).await
    }

    /// What was acted on and goes on, after a number, oldest first.
    pub(crate) async fn going_on(
        &self,
        epoch: u64,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TakenRow>, StoreError> {
        self.taken(format!("state = {IN_PROGRESS} AND acted = 1"), epoch, after, limit).await
    }

    async fn taken(
        &self,
        which: String,
        epoch: u64,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TakenRow>, StoreError> {
        let sql = format!(
            "SELECT * FROM manager_instructions
             WHERE epoch = ?1 AND sequence > ?2 AND reported = 0 AND {which} ORDER BY sequence LIMIT ?3"
        );
        let read =
            move |connection: &mut Connection| connection.fetch(&sql, &values![epoch, after, limit], read);
        self.database.read(read).await
    }

    /// How many the manager has not heard the end of.
    pub(crate) async fn count_unreported(&self, epoch: u64) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) AS open FROM manager_instructions WHERE epoch = ?1 AND reported = 0";
        let read = move |connection: &mut Connection| {
            connection.only(sql, &values![epoch], |record| record.get("open"))
        };
        self.database.read(read).await
    }

    /// The manager has heard how these ended.
    pub(crate) async fn note_reported(&self, epoch: u64, sequences: Vec<u64>) -> Result<(), StoreError> {
        let sql = "UPDATE manager_instructions SET reported = 1 WHERE epoch = ?1 AND sequence = ?2";
        let write = move |connection: &mut Connection| {
            connection.execute_each(sql, sequences.iter().map(|sequence| values![epoch, sequence]))
        };
        self.database.write(write).await
    }
}

fn read(record: &Record<'_>) -> Result<TakenRow, StoreError> {
    Ok(TakenRow {
        epoch: record.get("epoch")?,
        sequence: record.get("sequence")?,
        instruction: record.get("instruction")?,
        command: record.get("command_id")?,
        state: state_of(record.get("state")?).ok_or(StoreError::Damaged("state"))?,
        detail: record.get("detail")?,
    })
}
