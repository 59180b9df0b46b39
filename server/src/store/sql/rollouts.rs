//! Rollouts and how far they are.

use std::time::Duration;

use bytes::Bytes;
use writ_database::{Connection, Record, ToValue as _, values};
use writ_protocol::id::CommandId;
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use super::super::rows::{Answers, FIRST_ENDED, FIRST_OVER, OpenTarget, RolloutRow, TargetState, millis};
use super::super::rules::rollout::{Plan, Standing};
use super::super::{Store, StoreError};

const ROLLOUTS: &str = "SELECT sequence, command_id, digest, expires_at, cancelled_at, rollouts.*,
    (SELECT count(*) FROM targets WHERE targets.command = sequence) AS targets
    FROM rollouts JOIN commands ON sequence = rollouts.command";

impl Store {
    /// The rollout of a command, if it has one.
    pub(crate) async fn rollout(&self, command: CommandId) -> Result<Option<RolloutRow>, StoreError> {
        let sql = format!("{ROLLOUTS} WHERE command_id = ?1");
        self.database.read(move |connection| connection.first(&sql, &values![command], read)).await
    }

    /// Rollouts before a place in the order of submission, newest first.
    pub(crate) async fn rollouts(&self, before: u64, limit: u32) -> Result<Vec<RolloutRow>, StoreError> {
        let sql = format!("{ROLLOUTS} WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2");
        self.database.read(move |connection| connection.fetch(&sql, &values![before, limit], read)).await
    }

    /// Rollouts that are not over, and those whose command can still be delivered.
    pub(crate) async fn live_rollouts(&self, now: Timestamp) -> Result<Vec<RolloutRow>, StoreError> {
        let sql = format!("{ROLLOUTS} WHERE state < {FIRST_OVER} OR expires_at > ?1 ORDER BY sequence");
        self.database.read(move |connection| connection.fetch(&sql, &values![now], read)).await
    }

    /// Writes how far a rollout is.
    pub(crate) async fn keep_rollout(&self, row: &RolloutRow) -> Result<(), StoreError> {
        let (told, row) = (row.command, row.clone());
        let sql = "UPDATE rollouts SET state = ?2, reason = ?3, wave = ?4, released = ?5, wave_ended_at = ?6,
                       forgiven = ?7, envelope = ?8
                   WHERE command = (SELECT sequence FROM commands WHERE command_id = ?1)";
        let write = move |connection: &mut Connection| {
            let RolloutRow { command, standing, reason, wave_ended_at, release, .. } = row;
            let Standing { state, wave, released, forgiven } = standing;
            let values = values![command, state, reason, wave, released, wave_ended_at, forgiven, release];
            connection.execute(sql, &values).map(drop)
        };
        self.database.write(write).await?;
        self.announce(told);
        Ok(())
    }

    /// What became of the agents of a command that may obey: those at the first places. The present wave
    /// begins at a place.
    pub(crate) async fn answers(
        &self,
        command: CommandId,
        released: u32,
        wave: u32,
    ) -> Result<Answers, StoreError> {
        let read = move |connection: &mut Connection| {
            let sql = "SELECT state, count(*) AS targets, sum(place >= ?3) AS present FROM targets
                       WHERE command = (SELECT sequence FROM commands WHERE command_id = ?1) AND place < ?2
                       GROUP BY state";
            let counted = connection.fetch(sql, &values![command, released, wave], |record| {
                let state = record.get::<TargetState>("state")?;
                Ok((state, record.get::<u32>("targets")?, record.get::<u32>("present")?))
            })?;
            let mut answers = Answers::default();
            for (state, targets, present) in counted {
                match state {
                    TargetState::Done => answers.done += targets,
                    TargetState::Failed | TargetState::Refused => answers.failed += targets,
                    TargetState::Waiting | TargetState::Delivered | TargetState::Cancelled => continue,
                }
                answers.tried += present;
            }
            let sql = format!(
                "SELECT place, targets.agent_id, state, last_contact FROM targets
                 JOIN agents ON agents.agent_id = targets.agent_id
                 WHERE command = (SELECT sequence FROM commands WHERE command_id = ?1)
                 AND place < ?2 AND state < {FIRST_ENDED}"
            );
            answers.open = connection.fetch(&sql, &values![command, released], |record| {
                Ok(OpenTarget {
                    place: record.get("place")?,
                    agent: record.get("agent_id")?,
                    is_sent: record.get::<TargetState>("state")? == TargetState::Delivered,
                    last_contact: record.get("last_contact")?,
                })
            })?;
            Ok(answers)
        };
        self.database.read(read).await
    }
}

/// Records the rollout of a command that was just recorded.
pub(super) fn record(
    connection: &mut Connection,
    sequence: u64,
    (seed, plan): &(Seed, Plan),
) -> Result<(), StoreError> {
    let Plan { canary, batch, pause, max_failures, rate, window, start_at, patience } = plan;
    let sql =
        "INSERT INTO rollouts (command, seed, canary, batch, pause_ms, max_failures, rate, window, start_at,
                   patience_ms, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0)";
    let window = window.map(|window| window.to_string()).unwrap_or_default();
    let (seed, pause, patience) = (seed.get(), millis(*pause), millis(*patience));
    let values =
        values![sequence, seed, canary, batch, pause, max_failures, rate, window, start_at, patience];
    connection.execute(sql, &values).map(drop)
}

fn read(record: &Record<'_>) -> Result<RolloutRow, StoreError> {
    let damaged = || StoreError::Damaged("rollout");
    let window: String = record.get("window")?;
    let window = (!window.is_empty()).then(|| window.parse()).transpose().map_err(|_| damaged())?;
    let time = |name| Ok::<_, StoreError>(Duration::from_millis(record.get(name)?));
    Ok(RolloutRow {
        sequence: record.get("sequence")?,
        command: record.get("command_id")?,
        digest: record.get("digest")?,
        expires_at: record.get("expires_at")?,
        cancelled_at: record.get("cancelled_at")?,
        seed: Seed::new(record.get("seed")?).ok_or_else(damaged)?,
        targets: record.get("targets")?,
        plan: Plan {
            canary: record.get("canary")?,
            batch: record.get("batch")?,
            pause: time("pause_ms")?,
            max_failures: record.get("max_failures")?,
            rate: record.get("rate")?,
            window,
            start_at: record.get("start_at")?,
            patience: time("patience_ms")?,
        },
        standing: Standing {
            state: record.get("state")?,
            wave: record.get("wave")?,
            released: record.get("released")?,
            forgiven: record.get("forgiven")?,
        },
        reason: record.get("reason")?,
        wave_ended_at: record.get("wave_ended_at")?,
        release: record.get::<Bytes>("envelope")?,
    })
}
