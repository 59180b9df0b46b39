//! Commands, their targets and the receipts that answer them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};
use writ_common::admin::audit::NewAudit;
use writ_common::id::{AgentId, CommandId, Digest};
use writ_common::receipt::Decision;
use writ_common::time::Timestamp;

use super::audit;
use super::writer::Job;
use super::{Store, StoreError, bytes, id, integer, time, unsigned};

/// A signed command, ready to be recorded.
#[derive(Debug, Clone)]
pub struct NewCommand {
    /// Its id.
    pub id: CommandId,
    /// Its digest.
    pub digest: Digest,
    /// What was asked for, so that the same request with the same id is one command.
    pub request_digest: Digest,
    /// The envelope.
    pub envelope: Bytes,
    /// For people.
    pub action: String,
    /// For people.
    pub requested_by: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// For whom, strictly ascending.
    pub targets: Vec<AgentId>,
    /// Who asked for it: recorded with it, by one commit.
    pub call: NewAudit,
}

/// A command that is on disk. Made only by [`Store::record_command`]; only such a one is dispatched.
#[derive(Debug)]
#[must_use]
pub struct RecordedCommand {
    id: CommandId,
    is_new: bool,
}

impl RecordedCommand {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> CommandId {
        self.id
    }

    /// Whether this call recorded it, or an earlier one with the same id and request.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }
}

/// A command as stored, without its targets.
#[derive(Debug, Clone)]
pub struct CommandRow {
    /// Its place in the order of submission.
    pub sequence: u64,
    /// Its id.
    pub id: CommandId,
    /// Its digest.
    pub digest: Digest,
    /// For people.
    pub action: String,
    /// For people.
    pub requested_by: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was cancelled; zero: it was not.
    pub cancelled_at: Timestamp,
}

/// Where a command stands with one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Not sent.
    Queued,
    /// Sent, not answered.
    Sent,
    /// Obeyed, ended well.
    Done,
    /// Obeyed, ended badly.
    Failed,
    /// Refused by a signed receipt.
    Refused,
    /// Cancelled before it was sent.
    Cancelled,
}

impl TargetState {
    const ALL: [Self; 6] =
        [Self::Queued, Self::Sent, Self::Done, Self::Failed, Self::Refused, Self::Cancelled];

    /// What a receipt's decision comes to.
    #[must_use]
    pub const fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Obeyed(outcome) if outcome.ending.is_success() => Self::Done,
            Decision::Obeyed(_) => Self::Failed,
            Decision::Refused(_) => Self::Refused,
        }
    }

    pub(super) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let stored =
            usize::try_from(row.try_get::<i64, _>("state")?).map_err(|_| StoreError::Damaged("state"))?;
        Self::ALL.get(stored).copied().ok_or(StoreError::Damaged("state"))
    }

    pub(super) fn stored(self) -> i64 {
        match self {
            Self::Queued => 0,
            Self::Sent => 1,
            Self::Done => 2,
            Self::Failed => 3,
            Self::Refused => 4,
            Self::Cancelled => 5,
        }
    }
}

/// Deliveries counted at most for [`Store::backlog`].
const MAX_BACKLOG: i64 = 100_000;

/// Targets by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// All of them.
    pub targets: u64,
    /// Not sent.
    pub queued: u64,
    /// Sent, not answered.
    pub sent: u64,
    /// Obeyed, ended well.
    pub done: u64,
    /// Obeyed, ended badly.
    pub failed: u64,
    /// Refused.
    pub refused: u64,
    /// Cancelled before they were sent.
    pub cancelled: u64,
}

/// One target with its receipt, if there is one.
#[derive(Debug)]
pub struct TargetRow {
    /// Its place in the audience.
    pub place: u32,
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub agent_name: String,
    /// Its key, to read the receipt with.
    pub public_key: Vec<u8>,
    /// Where the command stands.
    pub state: TargetState,
    /// The receipt's envelope.
    pub receipt: Option<Bytes>,
    /// When it came.
    pub received_at: Timestamp,
}

/// One target as evidence.
#[derive(Debug)]
pub struct EvidenceRow {
    /// Its place in the audience.
    pub place: u32,
    /// The agent.
    pub agent: AgentId,
    /// The server's signed word about its key.
    pub identity_record: Bytes,
    /// The receipt's envelope.
    pub receipt: Option<Bytes>,
}

impl Store {
    /// How many deliveries of unexpired commands are open, and when the oldest of these was issued; at most
    /// 100,000 are looked at.
    pub async fn backlog(&self, now: Timestamp) -> Result<(u64, Timestamp), StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS open, COALESCE(MIN(issued_at), 0) AS oldest FROM (
                 SELECT issued_at FROM commands CROSS JOIN targets ON command = sequence
                 WHERE expires_at > $1 AND state < 2 LIMIT $2)",
        )
        .bind(integer(now.as_millis()))
        .bind(MAX_BACKLOG)
        .fetch_one(&self.reader)
        .await?;
        Ok((unsigned(&row, "open")?, time(&row, "oldest")?))
    }

    /// Makes a command durable; `None` when the id is taken by a different request.
    ///
    /// # Errors
    /// When the database fails; then nothing is stored.
    pub async fn record_command(&self, command: NewCommand) -> Result<Option<RecordedCommand>, StoreError> {
        self.send(|answer| Job::Command(command, answer)).await?.committed().await
    }

    /// The request an id was used for.
    pub async fn request_of(&self, command: CommandId) -> Result<Option<Digest>, StoreError> {
        let row = sqlx::query("SELECT request_digest FROM commands WHERE command_id = $1")
            .bind(command.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| id(&row, "request_digest", "request digest")).transpose()
    }

    /// One command.
    pub async fn command(&self, command: CommandId) -> Result<Option<CommandRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM commands WHERE command_id = $1")
            .bind(command.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| CommandRow::read(&row)).transpose()
    }

    /// Commands before a place in the order of submission, newest first.
    pub async fn commands(&self, before: u64, limit: u32) -> Result<Vec<CommandRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM commands WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2")
            .bind(integer(before))
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(CommandRow::read).collect()
    }

    /// Counts a command's targets by state.
    pub async fn progress(&self, command: CommandId) -> Result<Progress, StoreError> {
        let rows = sqlx::query(
            "SELECT state, count(*) AS targets FROM targets
             WHERE command = (SELECT sequence FROM commands WHERE command_id = $1) GROUP BY state",
        )
        .bind(command.as_bytes().as_slice())
        .fetch_all(&self.reader)
        .await?;
        let mut progress = Progress::default();
        for row in &rows {
            let targets = unsigned(row, "targets")?;
            progress.targets += targets;
            let counter = match TargetState::read(row)? {
                TargetState::Queued => &mut progress.queued,
                TargetState::Sent => &mut progress.sent,
                TargetState::Done => &mut progress.done,
                TargetState::Failed => &mut progress.failed,
                TargetState::Refused => &mut progress.refused,
                TargetState::Cancelled => &mut progress.cancelled,
            };
            *counter = targets;
        }
        Ok(progress)
    }

    /// A page of a command's targets, in the order of the audience.
    pub async fn targets(
        &self,
        command: CommandId,
        from: u32,
        limit: u32,
    ) -> Result<Vec<TargetRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT place, targets.agent_id, state, receipts.envelope, coalesce(received_at, 0) AS received_at,
                    agents.name, agents.public_key
             FROM targets JOIN agents USING (agent_id)
             LEFT JOIN receipts ON receipts.command = targets.command AND receipts.agent_id = targets.agent_id
             WHERE targets.command = (SELECT sequence FROM commands WHERE command_id = $1) AND place >= $2
             ORDER BY place LIMIT $3",
        )
        .bind(command.as_bytes().as_slice())
        .bind(i64::from(from))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(TargetRow {
                    place: place(row)?,
                    agent: id(row, "agent_id", "agent id")?,
                    agent_name: row.try_get("name")?,
                    public_key: row.try_get("public_key")?,
                    state: TargetState::read(row)?,
                    receipt: row.try_get::<Option<Vec<u8>>, _>("envelope")?.map(Into::into),
                    received_at: time(row, "received_at")?,
                })
            })
            .collect()
    }

    /// A page of what evidence needs of a command's targets.
    pub async fn evidence_targets(
        &self,
        command: CommandId,
        from: u32,
        limit: u32,
    ) -> Result<Vec<EvidenceRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT place, targets.agent_id, receipts.envelope, agents.identity_record
             FROM targets JOIN agents USING (agent_id)
             LEFT JOIN receipts ON receipts.command = targets.command AND receipts.agent_id = targets.agent_id
             WHERE targets.command = (SELECT sequence FROM commands WHERE command_id = $1) AND place >= $2
             ORDER BY place LIMIT $3",
        )
        .bind(command.as_bytes().as_slice())
        .bind(i64::from(from))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(EvidenceRow {
                    place: place(row)?,
                    agent: id(row, "agent_id", "agent id")?,
                    identity_record: bytes(row, "identity_record")?,
                    receipt: row.try_get::<Option<Vec<u8>>, _>("envelope")?.map(Into::into),
                })
            })
            .collect()
    }
}

/// Records commands; `None` for one whose id is taken by a different request.
pub(super) fn record(
    connection: &mut SqliteConnection,
    new: Arc<Vec<NewCommand>>,
) -> BoxFuture<'_, Result<Vec<Option<RecordedCommand>>, StoreError>> {
    Box::pin(async move {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO commands (command_id, digest, request_digest, envelope, action, requested_by, issued_at, expires_at) ",
        );
        insert.push_values(new.iter(), |mut row, command| {
            row.push_bind(command.id.as_bytes().to_vec())
                .push_bind(command.digest.as_bytes().to_vec())
                .push_bind(command.request_digest.as_bytes().to_vec())
                .push_bind(command.envelope.to_vec())
                .push_bind(command.action.clone())
                .push_bind(command.requested_by.clone())
                .push_bind(integer(command.issued_at.as_millis()))
                .push_bind(integer(command.expires_at.as_millis()));
        });
        insert.push(" ON CONFLICT (command_id) DO NOTHING RETURNING command_id, request_digest, sequence");
        let rows = insert.build().persistent(false).fetch_all(&mut *connection).await?;
        let mut sequences = HashMap::with_capacity(rows.len());
        for row in &rows {
            let id: CommandId = id(row, "command_id", "command id")?;
            sequences.insert(id, row.try_get::<i64, _>("sequence")?);
        }
        let mut targets = Vec::new();
        let mut recorded = Vec::with_capacity(new.len());
        for command in new.iter() {
            // The first of two with one id in one batch is the one that was inserted.
            if let Some(sequence) = sequences.remove(&command.id) {
                targets
                    .extend((0_i64..).zip(&command.targets).map(|(place, agent)| (sequence, place, *agent)));
                recorded.push(Some(RecordedCommand { id: command.id, is_new: true }));
                continue;
            }
            let known = sqlx::query("SELECT request_digest FROM commands WHERE command_id = $1")
                .bind(command.id.as_bytes().to_vec())
                .fetch_one(&mut *connection)
                .await?;
            let request: Digest = id(&known, "request_digest", "request digest")?;
            let is_same = request == command.request_digest;
            recorded.push(is_same.then_some(RecordedCommand { id: command.id, is_new: false }));
        }
        // SQLite takes at most 32 766 parameters in one statement; three are used a row.
        for chunk in targets.chunks(8192) {
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO targets (command, place, agent_id) ");
            insert.push_values(chunk, |mut row, (sequence, place, agent)| {
                row.push_bind(*sequence).push_bind(*place).push_bind(agent.as_bytes().to_vec());
            });
            insert.build().persistent(false).execute(&mut *connection).await?;
        }
        let is_new =
            |recorded: &Option<RecordedCommand>| recorded.as_ref().is_some_and(RecordedCommand::is_new);
        let calls = new.iter().zip(&recorded).filter(|(_, recorded)| is_new(recorded));
        let calls: Vec<_> = calls.map(|(command, _)| command.call.clone()).collect();
        audit::append(connection, calls.into()).await?;
        Ok(recorded)
    })
}

pub(super) fn place(row: &SqliteRow) -> Result<u32, StoreError> {
    u32::try_from(row.try_get::<i64, _>("place")?).map_err(|_| StoreError::Damaged("place"))
}

impl CommandRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            sequence: unsigned(row, "sequence")?,
            id: id(row, "command_id", "command id")?,
            digest: id(row, "digest", "command digest")?,
            action: row.try_get("action")?,
            requested_by: row.try_get("requested_by")?,
            issued_at: time(row, "issued_at")?,
            expires_at: time(row, "expires_at")?,
            cancelled_at: time(row, "cancelled_at")?,
        })
    }
}
