//! The agents.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use writ_common::id::{AgentId, Digest, JournalId};
use writ_common::keys::PublicKey;
use writ_common::time::Timestamp;

use super::{Store, StoreError, id, integer, time, unsigned};

/// An agent as stored.
#[derive(Debug, Clone)]
pub struct AgentRow {
    /// Its id.
    pub id: AgentId,
    /// Its name; not unique.
    pub name: String,
    /// Its realm.
    pub realm: String,
    /// Its identity key.
    pub public_key: PublicKey,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last heard; zero: never.
    pub last_contact: Timestamp,
    /// Its version.
    pub agent_version: String,
    /// The bundle it last said it holds.
    pub bundle_version: u64,
    /// The counter of its journal.
    pub journal_counter: u64,
    /// Its allow-list.
    pub actions: Vec<String>,
    /// Commands that wait for it.
    pub waiting: u64,
}

/// What an agent says of itself when a session begins.
#[derive(Debug, Clone)]
pub struct Contact {
    /// Who.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// Its version.
    pub agent_version: String,
    /// The bundle it holds.
    pub bundle: (u64, Digest),
    /// Its journal and that journal's counter.
    pub journal: (JournalId, u64),
}

const COLUMNS: &str =
    "agent_id, name, realm, public_key, enrolled_at, last_contact, agent_version, bundle_version,
    journal_counter, actions,
    (SELECT count(*) FROM targets JOIN commands ON commands.sequence = targets.command
     WHERE targets.agent_id = agents.agent_id AND state < 2 AND expires_at > $1) AS waiting";

impl Store {
    /// One agent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agent(&self, agent: AgentId, now: Timestamp) -> Result<Option<AgentRow>, StoreError> {
        let row =
            sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM agents WHERE agent_id = $2")))
                .bind(integer(now.as_millis()))
                .bind(agent.as_bytes().as_slice())
                .fetch_optional(&self.reader)
                .await?;
        row.map(|row| AgentRow::read(&row)).transpose()
    }

    /// The agents of a name, at most two: enough to tell one from several.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agents_named(&self, name: &str, now: Timestamp) -> Result<Vec<AgentRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM agents WHERE name = $2 ORDER BY agent_id LIMIT 2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(integer(now.as_millis()))
            .bind(name)
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(AgentRow::read).collect()
    }

    /// A page of agents by id, after a given one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agents(
        &self,
        after: Option<AgentId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<AgentRow>, StoreError> {
        let after = after.map_or_else(Vec::new, |agent| agent.as_bytes().to_vec());
        let sql = format!("SELECT {COLUMNS} FROM agents WHERE agent_id > $2 ORDER BY agent_id LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(integer(now.as_millis()))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(AgentRow::read).collect()
    }

    /// Every agent's id, ascending.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agent_ids(&self) -> Result<Vec<AgentId>, StoreError> {
        let rows =
            sqlx::query("SELECT agent_id FROM agents ORDER BY agent_id").fetch_all(&self.reader).await?;
        rows.iter().map(|row| id(row, "agent_id", "agent id")).collect()
    }

    /// How many agents are enrolled.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_agents(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT count(*) AS agents FROM agents").fetch_one(&self.reader).await?;
        unsigned(&row, "agents")
    }

    /// Records that a session began.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_contact(&self, contact: Contact) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let Contact { agent, at, agent_version, bundle, journal } = contact;
                sqlx::query(
                    "UPDATE agents SET last_contact = $2, agent_version = $3, bundle_version = $4, bundle_digest = $5,
                     journal_id = $6, journal_counter = $7 WHERE agent_id = $1",
                )
                .bind(agent.as_bytes().as_slice())
                .bind(integer(at.as_millis()))
                .bind(agent_version)
                .bind(integer(bundle.0))
                .bind(bundle.1.as_bytes().as_slice())
                .bind(journal.0.as_bytes().as_slice())
                .bind(integer(journal.1))
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Records what an agent last reported, or that it was heard at all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_report(
        &self,
        agent: AgentId,
        at: Timestamp,
        report: Option<(u64, Digest, Vec<String>)>,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let query = match report {
                    None => sqlx::query("UPDATE agents SET last_contact = $2 WHERE agent_id = $1")
                        .bind(agent.as_bytes().as_slice().to_vec())
                        .bind(integer(at.as_millis())),
                    Some((version, digest, actions)) => sqlx::query(
                        "UPDATE agents SET last_contact = $2, bundle_version = $3, bundle_digest = $4, actions = $5
                         WHERE agent_id = $1",
                    )
                    .bind(agent.as_bytes().as_slice().to_vec())
                    .bind(integer(at.as_millis()))
                    .bind(integer(version))
                    .bind(digest.as_bytes().as_slice().to_vec())
                    .bind(actions.join("\n")),
                };
                query.execute(connection).await?;
                Ok(())
            })
        })
        .await
    }
}

impl AgentRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let actions: String = row.try_get("actions")?;
        Ok(Self {
            id: id(row, "agent_id", "agent id")?,
            name: row.try_get("name")?,
            realm: row.try_get("realm")?,
            public_key: PublicKey::from_spki(row.try_get("public_key")?)
                .map_err(|_| StoreError::Damaged("agent key"))?,
            enrolled_at: time(row, "enrolled_at")?,
            last_contact: time(row, "last_contact")?,
            agent_version: row.try_get("agent_version")?,
            bundle_version: unsigned(row, "bundle_version")?,
            journal_counter: unsigned(row, "journal_counter")?,
            actions: actions.lines().map(str::to_owned).collect(),
            waiting: unsigned(row, "waiting")?,
        })
    }
}
