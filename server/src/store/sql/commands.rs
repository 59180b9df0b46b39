//! Commands, their targets and what became of them.

use writ_database::dialect::LEFT_FIRST_JOIN;
use writ_database::{Connection, Record, ToValue as _, append_audit, values};
use writ_protocol::id::{AgentId, CommandId, Digest};
use writ_protocol::time::Timestamp;

use super::super::lanes::Job;
use super::super::rows::{
    CommandRow, EvidenceRow, FIRST_ENDED, NewCommand, Progress, RecordedCommand, TargetRow, TargetState,
    Wanted, WantedState,
};
use super::super::{Store, StoreError};
use super::rollouts;

/// Commands looked at for one page, whatever is asked of them: each may have many targets.
const LOOKED_AT: u64 = 1000;
/// Deliveries counted at most for [`Store::backlog`].
const MAX_BACKLOG: u32 = 100_000;

impl Store {
    /// How many deliveries of unexpired commands are open, and when the oldest of these was issued; at most
    /// 100,000 are looked at.
    pub(crate) async fn backlog(&self, now: Timestamp) -> Result<(u64, Timestamp), StoreError> {
        // From the few commands that have not expired to their targets: every target ever left open would be
        // read the other way round.
        let sql = format!(
            "SELECT count(*) AS open, coalesce(min(issued_at), 0) AS oldest FROM (
                 SELECT issued_at FROM commands {LEFT_FIRST_JOIN} targets ON command = sequence
                 WHERE expires_at > ?1 AND state < {FIRST_ENDED} LIMIT ?2) AS backlog"
        );
        let read = move |connection: &mut Connection| {
            let read = |record: &Record<'_>| Ok((record.get("open")?, record.get("oldest")?));
            connection.only(&sql, &values![now, MAX_BACKLOG], read)
        };
        self.database.read(read).await
    }

    /// Makes a command durable; `None` when the id is taken by a different request.
    ///
    /// # Errors
    /// When the database fails; then nothing is stored.
    pub(crate) async fn record_command(
        &self,
        command: NewCommand,
    ) -> Result<Option<RecordedCommand>, StoreError> {
        self.database.queue(|answer| Job::Command(command, answer)).await?.committed().await
    }

    /// The request an id was used for.
    pub(crate) async fn request_of(&self, command: CommandId) -> Result<Option<Digest>, StoreError> {
        self.database.read_moment(move |connection| find_request(connection, command)).await
    }

    /// One command.
    pub(crate) async fn command(&self, command: CommandId) -> Result<Option<CommandRow>, StoreError> {
        let sql = "SELECT * FROM commands WHERE command_id = ?1";
        self.database.read_moment(move |connection| connection.first(sql, &values![command], read)).await
    }

    /// Commands before a place in the order of submission, newest first, and before which place to go on; at
    /// most a thousand are looked at.
    pub(crate) async fn commands(
        &self,
        before: u64,
        limit: u32,
        wanted: Wanted,
    ) -> Result<(Vec<CommandRow>, Option<u64>), StoreError> {
        let (open, done) = (format!("state < {FIRST_ENDED}"), TargetState::Done.stored());
        let [failed, refused] = [TargetState::Failed, TargetState::Refused].map(TargetState::stored);
        let some =
            |which: &str| format!("EXISTS (SELECT 1 FROM targets WHERE command = sequence AND {which})");
        let (some_open, all_done) = (some(&open), format!("NOT {}", some(&format!("state <> {done}"))));
        let some_failed = some(&format!("state IN ({failed}, {refused})"));
        let of_agent = some("agent_id = ?6");
        let sql = format!(
            "SELECT * FROM commands WHERE sequence < ?1 AND sequence >= ?9 AND issued_at >= ?3
             AND (?4 = '' OR requested_by = ?4)
             AND (?5 = '' OR action = ?5 OR substr(action, 1, length(?5) + 1) = ?5 || ' ')
             AND (?6 IS NULL OR {of_agent})
             AND (?7 IS NULL OR (?7 = 'open' AND expires_at > ?8 AND {some_open})
                 OR (?7 = 'expired' AND expires_at <= ?8 AND {some_open})
                 OR (?7 = 'done' AND {all_done}) OR (?7 = 'failed' AND {some_failed})
                 OR (?7 = 'cancelled' AND cancelled_at <> 0))
             ORDER BY sequence DESC LIMIT ?2"
        );
        let read_all = move |connection: &mut Connection| {
            let Wanted { requested_by, action, state, since, agent, now } = wanted;
            let state = state.map(WantedState::as_str);
            let newest = "SELECT coalesce(max(sequence), 0) AS newest FROM commands";
            let newest: u64 = connection.only(newest, &[], |record| record.get("newest"))?;
            let before = before.min(newest + 1);
            let floor = before.saturating_sub(LOOKED_AT);
            let values = values![before, limit, since, requested_by, action, agent, state, now, floor];
            let rows = connection.fetch(&sql, &values, read)?;
            let is_full = u32::try_from(rows.len()).is_ok_and(|rows| rows >= limit);
            let next = if is_full { rows.last().map_or(floor, |row| row.sequence) } else { floor };
            Ok((rows, (next > 1).then_some(next)))
        };
        self.database.read(read_all).await
    }

    /// Commands whose ids end in these four bytes; at most 16.
    pub(crate) async fn commands_ending(&self, tail: Vec<u8>) -> Result<Vec<CommandId>, StoreError> {
        let sql = "SELECT command_id FROM commands WHERE substr(command_id, 13) = ?1 LIMIT 16";
        let read = move |connection: &mut Connection| {
            connection.fetch(sql, &values![tail], |record| record.get("command_id"))
        };
        self.database.read(read).await
    }

    /// Agents that were sent a command and have not answered.
    pub(crate) async fn sent(&self, command: CommandId) -> Result<Vec<AgentId>, StoreError> {
        let sql = "SELECT agent_id FROM targets WHERE state = ?2
                   AND command = (SELECT sequence FROM commands WHERE command_id = ?1)";
        let read = move |connection: &mut Connection| {
            connection.fetch(sql, &values![command, TargetState::Delivered], |record| record.get("agent_id"))
        };
        self.database.read(read).await
    }

    /// How a command stands.
    pub(crate) async fn progress(&self, command: CommandId) -> Result<Progress, StoreError> {
        let sql = "SELECT state, count(*) AS targets FROM targets
                   WHERE command = (SELECT sequence FROM commands WHERE command_id = ?1) GROUP BY state";
        let read = move |connection: &mut Connection| {
            connection
                .fetch(sql, &values![command], |record| Ok((record.get("state")?, record.get("targets")?)))
        };
        let mut progress = Progress::default();
        for (state, targets) in self.database.read(read).await? {
            progress.targets += targets;
            let counter = match state {
                TargetState::Waiting => &mut progress.waiting,
                TargetState::Delivered => &mut progress.delivered,
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
    pub(crate) async fn targets(
        &self,
        command: CommandId,
        from: u32,
        limit: u32,
    ) -> Result<Vec<TargetRow>, StoreError> {
        let sql =
            targets_with("state, coalesce(received_at, 0) AS received_at, agents.name, agents.public_key");
        let read = move |connection: &mut Connection| {
            connection.fetch(&sql, &values![command, from, limit], |record| {
                Ok(TargetRow {
                    place: record.get("place")?,
                    agent: record.get("agent_id")?,
                    agent_name: record.get("name")?,
                    public_key: record.get("public_key")?,
                    state: record.get("state")?,
                    receipt: record.get("envelope")?,
                    received_at: record.get("received_at")?,
                })
            })
        };
        self.database.read(read).await
    }

    /// A page of what evidence needs of a command's targets.
    pub(crate) async fn evidence_targets(
        &self,
        command: CommandId,
        from: u32,
        limit: u32,
    ) -> Result<Vec<EvidenceRow>, StoreError> {
        let sql = targets_with("agents.identity_record");
        let read = move |connection: &mut Connection| {
            connection.fetch(&sql, &values![command, from, limit], |record| {
                Ok(EvidenceRow {
                    place: record.get("place")?,
                    agent: record.get("agent_id")?,
                    identity_record: record.get("identity_record")?,
                    receipt: record.get("envelope")?,
                })
            })
        };
        self.database.read(read).await
    }
}

/// A page of targets with their receipts, and these columns.
fn targets_with(columns: &str) -> String {
    format!(
        "SELECT place, targets.agent_id, receipts.envelope, {columns}
         FROM targets JOIN agents ON agents.agent_id = targets.agent_id
         LEFT JOIN receipts ON receipts.command = targets.command AND receipts.agent_id = targets.agent_id
         WHERE targets.command = (SELECT sequence FROM commands WHERE command_id = ?1) AND place >= ?2
         ORDER BY place LIMIT ?3"
    )
}

fn find_request(connection: &mut Connection, command: CommandId) -> Result<Option<Digest>, StoreError> {
    let sql = "SELECT request_digest FROM commands WHERE command_id = ?1";
    connection.first(sql, &values![command], |record| record.get("request_digest"))
}

/// Records commands, with the calls that asked for them; `None` for one whose id is taken by a different
/// request.
pub(in crate::store) fn record_all(
    connection: &mut Connection,
    new: &[NewCommand],
) -> Result<Vec<Option<RecordedCommand>>, StoreError> {
    let sql = "INSERT INTO commands
                   (command_id, digest, request_digest, envelope, action, requested_by, issued_at, expires_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (command_id) DO NOTHING RETURNING sequence";
    let rows = new.iter().map(|new| {
        let NewCommand { id, digest, request_digest, envelope, action, requested_by, .. } = new;
        values![id, digest, request_digest, envelope, action, requested_by, new.issued_at, new.expires_at]
    });
    // The first of two with one id in one batch is the one that is inserted.
    let sequences = connection.first_of_each(sql, rows, |record| record.get::<u64>("sequence"))?;
    let mut recorded = Vec::with_capacity(new.len());
    let mut calls = Vec::with_capacity(new.len());
    for (command, sequence) in new.iter().zip(sequences) {
        let Some(sequence) = sequence else {
            let is_same = find_request(connection, command.id)? == Some(command.request_digest);
            recorded.push(is_same.then(|| RecordedCommand::new(command.id, false)));
            continue;
        };
        let rows = (0_u32..).zip(&command.targets).collect::<Vec<_>>();
        let rows = rows.iter().map(|(place, agent)| values![sequence, place, agent]);
        connection
            .execute_each("INSERT INTO targets (command, place, agent_id) VALUES (?1, ?2, ?3)", rows)?;
        if let Some(rollout) = &command.rollout {
            rollouts::record(connection, sequence, rollout)?;
        }
        calls.push(&command.call);
        recorded.push(Some(RecordedCommand::new(command.id, true)));
    }
    append_audit(connection, calls.iter().copied())?;
    Ok(recorded)
}

fn read(record: &Record<'_>) -> Result<CommandRow, StoreError> {
    Ok(CommandRow {
        sequence: record.get("sequence")?,
        id: record.get("command_id")?,
        digest: record.get("digest")?,
        action: record.get("action")?,
        requested_by: record.get("requested_by")?,
        issued_at: record.get("issued_at")?,
        expires_at: record.get("expires_at")?,
        cancelled_at: record.get("cancelled_at")?,
    })
}
