//! What somebody should look at. One row for each kind, code and agent: a flood raises a count, not a table.

mod kind;

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use writ_common::id::{AgentId, Digest};
use writ_common::limits::MAX_REFUSALS_COUNTED;
use writ_common::receipt::RefusalReport;
use writ_common::time::Timestamp;

pub use self::kind::AlertKind;
use super::{Store, StoreError, id, integer, time, unsigned};

/// In an alert's place for an agent: the server itself.
pub const SERVER: AgentId = AgentId::from_bytes([0; 16]);

/// A new occurrence.
#[derive(Debug, Clone)]
pub struct Alarm {
    /// What.
    pub kind: AlertKind,
    /// The refusal's code; empty otherwise.
    pub code: &'static str,
    /// About whom.
    pub agent: AgentId,
    /// How often.
    pub count: u64,
    /// For people; the latest is kept.
    pub detail: String,
}

/// An alert as stored.
#[derive(Debug, Clone)]
pub struct AlertRow {
    /// Its number.
    pub id: u64,
    /// What.
    pub kind: String,
    /// The refusal's code.
    pub code: String,
    /// About whom.
    pub agent: AgentId,
    /// Its name, if it is still known.
    pub agent_name: String,
    /// How often.
    pub count: u64,
    /// The first.
    pub first_at: Timestamp,
    /// The last.
    pub last_at: Timestamp,
    /// For people.
    pub detail: String,
}

impl Store {
    /// Raises an alert, with the evidence if there is any.
    pub async fn raise(
        &self,
        alarm: Alarm,
        evidence: Option<(Digest, Bytes)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                if let Some((digest, envelope)) = evidence {
                    keep_evidence(connection, digest, alarm.agent, alarm.kind, &envelope, now).await?;
                }
                raise(connection, &alarm, now).await
            })
        })
        .await
    }

    /// Keeps a refusal report and raises an alert for each record; a report that is known raises none. Says
    /// whether it was new.
    pub async fn record_refusals(
        &self,
        report: RefusalReport,
        digest: Digest,
        envelope: Bytes,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let is_new =
                    keep_evidence(connection, digest, report.agent, AlertKind::Refused, &envelope, now)
                        .await?;
                for record in report.records.iter().filter(|_| is_new) {
                    let keyid = if record.sample_keyid.is_empty() { "no key" } else { &record.sample_keyid };
                    let alarm = Alarm {
                        kind: AlertKind::Refused,
                        code: record.code.as_str(),
                        agent: report.agent,
                        count: record.count,
                        detail: format!(
                            "{} It claimed {keyid}. {}",
                            record.code.meaning(),
                            record.code.cure()
                        ),
                    };
                    raise(connection, &alarm, now).await?;
                }
                Ok(is_new)
            })
        })
        .await
    }

    /// How often each kind of alert was raised; an agent's word counts at most a million times.
    pub async fn alert_counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT kind, CAST(TOTAL(MIN(count, 1000000)) AS INTEGER) AS raised FROM alerts GROUP BY kind",
        )
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("kind")?, unsigned(row, "raised")?))).collect()
    }

    /// Alerts, latest first, a page of them.
    pub async fn alerts(&self, offset: u64, limit: u32) -> Result<Vec<AlertRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT alerts.*, coalesce(agents.name, '') AS agent_name FROM alerts
             LEFT JOIN agents USING (agent_id) ORDER BY last_at DESC, alert_id DESC LIMIT $1 OFFSET $2",
        )
        .bind(i64::from(limit))
        .bind(integer(offset))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(AlertRow::read).collect()
    }

    /// The latest alerts about one agent.
    pub async fn alerts_of(&self, agent: AgentId, limit: u32) -> Result<Vec<AlertRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT alerts.*, '' AS agent_name FROM alerts WHERE agent_id = $1 ORDER BY last_at DESC LIMIT $2",
        )
        .bind(agent.as_bytes().as_slice())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(AlertRow::read).collect()
    }
}

impl AlertRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: unsigned(row, "alert_id")?,
            kind: row.try_get("kind")?,
            code: row.try_get("code")?,
            agent: id(row, "agent_id", "agent id")?,
            agent_name: row.try_get("agent_name")?,
            count: unsigned(row, "count")?,
            first_at: time(row, "first_at")?,
            last_at: time(row, "last_at")?,
            detail: row.try_get("detail")?,
        })
    }
}

pub(super) async fn raise(
    connection: &mut SqliteConnection,
    alarm: &Alarm,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Alarm { kind, code, agent, count, detail } = alarm;
    sqlx::query(
        "INSERT INTO alerts (kind, code, agent_id, count, first_at, last_at, detail) VALUES ($1, $2, $3, $4, $5, $5, $6)
         ON CONFLICT (kind, code, agent_id) DO UPDATE
         SET count = min(count + excluded.count, $7), last_at = excluded.last_at, detail = excluded.detail",
    )
    .bind(kind.as_str())
    .bind(*code)
    .bind(agent.as_bytes().as_slice())
    .bind(integer(*count))
    .bind(integer(now.as_millis()))
    .bind(detail)
    .bind(integer(MAX_REFUSALS_COUNTED))
    .execute(connection)
    .await?;
    Ok(())
}

/// Signed documents kept of one agent and kind, the first and the last so many. An agent that is no longer
/// honest could fill the disk with more.
const MAX_EVIDENCE: i64 = 8;

/// Keeps a signed document once, the first and last few of each agent and kind; whether it is new.
pub(super) async fn keep_evidence(
    connection: &mut SqliteConnection,
    digest: Digest,
    agent: AgentId,
    kind: AlertKind,
    envelope: &[u8],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT OR IGNORE INTO evidence (digest, agent_id, kind, envelope, received_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(digest.as_bytes().as_slice())
    .bind(agent.as_bytes().as_slice())
    .bind(kind.as_str())
    .bind(envelope)
    .bind(integer(now.as_millis()))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM evidence WHERE agent_id = $1 AND kind = $2
         AND sequence NOT IN (SELECT sequence FROM evidence WHERE agent_id = $1 AND kind = $2 ORDER BY sequence LIMIT $3)
         AND sequence NOT IN (SELECT sequence FROM evidence WHERE agent_id = $1 AND kind = $2
                              ORDER BY sequence DESC LIMIT $3)",
    )
    .bind(agent.as_bytes().as_slice())
    .bind(kind.as_str())
    .bind(MAX_EVIDENCE)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
