//! What somebody should look at. One row for each kind, code and agent: a flood raises a count, not a table.

use bytes::Bytes;
use writ_database::{Connection, Record, ToValue as _, values};
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::limits::MAX_REFUSALS_COUNTED;
use writ_protocol::receipt::RefusalReport;
use writ_protocol::time::Timestamp;

use super::super::rows::{Alarm, AlertKind, AlertRow, AlertState, Teller, WantedAlerts};
use super::super::{Store, StoreError};

/// Signed documents kept of one agent and kind, the first and the last so many. An agent that is no longer
/// honest could fill the disk with more.
const MAX_EVIDENCE: u32 = 8;

/// How an alert stands, as [`AlertState`] says it.
const STATE: &str = "CASE WHEN ended_at > 0 THEN 2 WHEN acknowledged_at > 0 THEN 3 ELSE 1 END";

impl Store {
    /// Raises an alert, with the evidence if there is any.
    pub(crate) async fn raise(
        &self,
        alarm: Alarm,
        evidence: Option<(Digest, Bytes)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut _| {
            if let Some((digest, envelope)) = evidence {
                keep_evidence(connection, digest, (alarm.agent, alarm.kind), &envelope, now)?;
            }
            raise(connection, &alarm, now)
        };
        self.database.write(write).await
    }

    /// Keeps a refusal report and raises an alert for each record; a report that is known raises none. Says
    /// whether it was new.
    pub(crate) async fn record_refusals(
        &self,
        report: RefusalReport,
        digest: Digest,
        envelope: Bytes,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let write = move |connection: &mut _| {
            let whose = (report.agent, AlertKind::Refused);
            let is_new = keep_evidence(connection, digest, whose, &envelope, now)?;
            for record in report.records.iter().filter(|_| is_new) {
                let keyid = if record.sample_keyid.is_empty() { "no key" } else { &record.sample_keyid };
                let alarm = Alarm {
                    kind: AlertKind::Refused,
                    code: record.code.as_str(),
                    agent: report.agent,
                    count: record.count,
                    detail: format!("{} It claimed {keyid}. {}", record.code.meaning(), record.code.cure()),
                };
                raise(connection, &alarm, now)?;
            }
            Ok(is_new)
        };
        self.database.write(write).await
    }

    /// How often each kind of alert was raised; an agent's word counts at most a million times.
    pub(crate) async fn alert_counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let sql = "SELECT kind, CAST(sum(CASE WHEN count < 1000000 THEN count ELSE 1000000 END) AS BIGINT) AS raised
                   FROM alerts GROUP BY kind";
        let read = move |connection: &mut Connection| {
            connection.fetch(sql, &[], |record| Ok((record.get("kind")?, record.get("raised")?)))
        };
        self.database.read(read).await
    }

    /// Alerts, latest first, a page of them.
    pub(crate) async fn alerts(
        &self,
        offset: u64,
        limit: u32,
        wanted: WantedAlerts,
    ) -> Result<Vec<AlertRow>, StoreError> {
        let sql = "SELECT alerts.*, coalesce(agents.name, '') AS agent_name
                   FROM alerts LEFT JOIN agents ON agents.agent_id = alerts.agent_id
                   WHERE last_at >= ?3 AND (?4 OR (ended_at = 0 AND acknowledged_at = 0))
                   ORDER BY last_at DESC, alert_id DESC LIMIT ?1 OFFSET ?2";
        let WantedAlerts { all, since } = wanted;
        let read_all = move |connection: &mut Connection| {
            connection.fetch(sql, &values![limit, offset, since, all], read)
        };
        self.database.read(read_all).await
    }

    /// Notes that somebody has seen to an alert; as it is then. It may end or be raised again later.
    pub(crate) async fn acknowledge_alert(
        &self,
        alert: u64,
        by: String,
        note: String,
        now: Timestamp,
    ) -> Result<Option<AlertRow>, StoreError> {
        let write = move |connection: &mut Connection| {
            let sql =
                "UPDATE alerts SET acknowledged_at = ?2, acknowledged_by = ?3, note = ?4 WHERE alert_id = ?1";
            connection.execute(sql, &values![alert, now, by, note])?;
            let sql = "SELECT alerts.*, coalesce(agents.name, '') AS agent_name
                       FROM alerts LEFT JOIN agents ON agents.agent_id = alerts.agent_id WHERE alert_id = ?1";
            connection.first(sql, &values![alert], read)
        };
        self.database.write(write).await
    }

    /// Alerts that stand otherwise than was told last in a way, those of the longest ago first. That an open
    /// one was raised again is nothing to tell; that one was, and is over again, is.
    pub(crate) async fn untold_alerts(
        &self,
        teller: Teller,
        limit: u32,
    ) -> Result<Vec<AlertRow>, StoreError> {
        let (told, told_of) = teller.columns();
        let sql = format!(
            "SELECT alerts.*, coalesce(agents.name, '') AS agent_name
             FROM alerts LEFT JOIN agents ON agents.agent_id = alerts.agent_id
             WHERE kind <> ?3 AND ({told} <> {STATE} OR ({STATE} <> ?2 AND {told_of} <> last_at))
             ORDER BY last_at, alert_id LIMIT ?1"
        );
        let (open, own) = (AlertState::Open.stored(), teller.untold_by_itself());
        self.database.read(move |connection| connection.fetch(&sql, &values![limit, open, own], read)).await
    }

    /// It was told in a way how these stood when they had been raised last.
    pub(crate) async fn note_told(&self, teller: Teller, alerts: &[AlertRow]) -> Result<(), StoreError> {
        let (told, told_of) = teller.columns();
        let sql = format!("UPDATE alerts SET {told} = ?2, {told_of} = ?3 WHERE alert_id = ?1");
        let rows: Vec<_> =
            alerts.iter().map(|alert| (alert.id, alert.state().stored(), alert.last_at)).collect();
        let write = move |connection: &mut Connection| {
            rows.iter().try_for_each(|(alert, state, last_at)| {
                connection.execute(&sql, &values![*alert, *state, *last_at]).map(drop)
            })
        };
        self.database.write(write).await
    }

    /// Nobody is told in a way: who sets it later is told of what is open, and not of what is over.
    pub(crate) async fn forget_untold(&self, teller: Teller) -> Result<(), StoreError> {
        let (told, told_of) = teller.columns();
        let sql = format!("UPDATE alerts SET {told} = {STATE}, {told_of} = last_at WHERE {STATE} <> ?1");
        let open = AlertState::Open.stored();
        let write = move |connection: &mut Connection| connection.execute(&sql, &values![open]).map(drop);
        self.database.write(write).await
    }

    /// The cause of an alert is gone, whatever its code.
    pub(crate) async fn end_alert(
        &self,
        kind: AlertKind,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.database.write(move |connection| end(connection, kind, agent, now)).await
    }

    /// The latest open alerts about one agent.
    pub(crate) async fn alerts_of(&self, agent: AgentId, limit: u32) -> Result<Vec<AlertRow>, StoreError> {
        let sql = "SELECT alerts.*, '' AS agent_name FROM alerts
                   WHERE agent_id = ?1 AND ended_at = 0 AND acknowledged_at = 0 ORDER BY last_at DESC LIMIT ?2";
        self.database.read(move |connection| connection.fetch(sql, &values![agent, limit], read)).await
    }
}

fn read(record: &Record<'_>) -> Result<AlertRow, StoreError> {
    Ok(AlertRow {
        id: record.get("alert_id")?,
        kind: record.get("kind")?,
        code: record.get("code")?,
        agent: record.get("agent_id")?,
        agent_name: record.get("agent_name")?,
        count: record.get("count")?,
        first_at: record.get("first_at")?,
        last_at: record.get("last_at")?,
        detail: record.get("detail")?,
        ended_at: record.get("ended_at")?,
        acknowledged_at: record.get("acknowledged_at")?,
        acknowledged_by: record.get("acknowledged_by")?,
        note: record.get("note")?,
    })
}

pub(super) fn raise(connection: &mut Connection, alarm: &Alarm, now: Timestamp) -> Result<(), StoreError> {
    let Alarm { kind, code, agent, count, detail } = alarm;
    // The count stops at its bound; the latest detail is kept.
    let sql = "INSERT INTO alerts (kind, code, agent_id, count, first_at, last_at, detail)
               VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6) ON CONFLICT (kind, code, agent_id) DO UPDATE
               SET count = CASE WHEN alerts.count + excluded.count < ?7 THEN alerts.count + excluded.count ELSE ?7 END,
                   last_at = excluded.last_at, detail = excluded.detail,
                   ended_at = 0, acknowledged_at = 0, acknowledged_by = '', note = ''";
    let values = values![kind.as_str(), code, agent, count, now, detail, MAX_REFUSALS_COUNTED];
    connection.execute(sql, &values).map(drop)
}

/// The cause of an agent's alerts of a kind is gone.
pub(super) fn end(
    connection: &mut Connection,
    kind: AlertKind,
    agent: AgentId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "UPDATE alerts SET ended_at = ?3 WHERE kind = ?1 AND agent_id = ?2 AND ended_at = 0";
    connection.execute(sql, &values![kind.as_str(), agent, now]).map(drop)
}

/// Keeps a signed document once, the first and last few of each agent and kind; whether it is new.
pub(super) fn keep_evidence(
    connection: &mut Connection,
    digest: Digest,
    (agent, kind): (AgentId, AlertKind),
    envelope: &[u8],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let kind = kind.as_str();
    let sql =
        "INSERT INTO evidence (digest, agent_id, kind, envelope, received_at) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT DO NOTHING";
    let kept = connection.execute(sql, &values![digest, agent, kind, envelope, now])?;
    // What is neither among the first nor among the last goes: how it began, and how it is now.
    let sql = "DELETE FROM evidence WHERE agent_id = ?1 AND kind = ?2
               AND sequence NOT IN (SELECT sequence FROM evidence WHERE agent_id = ?1 AND kind = ?2
                                    ORDER BY sequence LIMIT ?3)
               AND sequence NOT IN (SELECT sequence FROM evidence WHERE agent_id = ?1 AND kind = ?2
                                    ORDER BY sequence DESC LIMIT ?3)";
    connection.execute(sql, &values![agent, kind, MAX_EVIDENCE])?;
    Ok(kept == 1)
}
