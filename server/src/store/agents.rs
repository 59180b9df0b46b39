//! The agents.

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _, Sqlite, SqliteConnection};
use writ_common::id::AgentId;
use writ_common::keys::PublicKey;
use writ_common::time::Timestamp;

use super::{AlertKind, Store, StoreError, id, integer, time, unsigned};
use crate::selector::{Requirement, Selector};

/// What a session needs to know of an agent.
#[derive(Debug, Clone)]
pub struct KnownAgent {
    /// Its id.
    pub id: AgentId,
    /// Its identity key.
    pub public_key: PublicKey,
    /// Why nothing is sent to it; `None` when nothing is held.
    pub held: Option<String>,
    /// Whether it was removed.
    pub is_removed: bool,
    /// It is told to refuse what was issued earlier; zero: no such rule.
    pub commands_from: Timestamp,
}

/// An agent as stored, with all that is known of it.
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
    /// When it last reported on itself; zero: never.
    pub reported_at: Timestamp,
    /// Its version.
    pub agent_version: String,
    /// The bundle it last said it holds.
    pub bundle_version: u64,
    /// The settings it last said it keeps.
    pub settings_revision: u64,
    /// The counter of its journal.
    pub journal_counter: u64,
    /// Its allow-list: name and class.
    pub actions: Vec<(String, String)>,
    /// Commands that wait for it.
    pub waiting: u64,
    /// Why nothing is sent to it; empty when nothing is held.
    pub held: String,
    /// When it was removed; zero: it was not.
    pub removed_at: Timestamp,
    /// What selectors look at.
    pub attributes: Vec<Attribute>,
}

/// What an agent last said it can do.
#[derive(Debug)]
pub struct AllowList {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Name and class of each action.
    pub actions: Vec<(String, String)>,
}

/// One thing selectors can look at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Who says so.
    pub source: Source,
}

/// Who says something of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "i64")]
pub enum Source {
    /// Its signed identity record.
    Record,
    /// An operator.
    Label,
    /// The agent itself.
    Fact,
}

impl Source {
    pub(super) const fn stored(self) -> i64 {
        match self {
            Self::Record => 0,
            Self::Label => 1,
            Self::Fact => 2,
        }
    }
}

impl From<i64> for Source {
    fn from(stored: i64) -> Self {
        match stored {
            0 => Self::Record,
            1 => Self::Label,
            _ => Self::Fact,
        }
    }
}

/// Which agents are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Those that may be sent commands, held ones included.
    Present,
    /// Those that were removed.
    Removed,
}

const COLUMNS: &str =
    "agent_id, name, realm, public_key, enrolled_at, last_contact, reported_at, agent_version,
    bundle_version, settings_revision, journal_counter, actions, held, removed_at,
    (SELECT json_group_array(json_object('name', name, 'value', value, 'source', source))
     FROM attributes WHERE attributes.agent_id = agents.agent_id) AS attributes,
    (SELECT count(*) FROM targets JOIN commands ON commands.sequence = targets.command
     WHERE targets.agent_id = agents.agent_id AND state < 2 AND cancelled_at = 0 AND expires_at > ";

/// A query over whole rows, up to its WHERE.
fn whole_rows(now: Timestamp) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(AssertSqlSafe(format!("SELECT {COLUMNS}")).0);
    query.push_bind(integer(now.as_millis())).push(") AS waiting FROM agents WHERE ");
    query
}

/// What of a selector the database decides: an index look-up for each requirement.
fn push_selector(query: &mut QueryBuilder<Sqlite>, selector: &Selector) {
    for Requirement { name, values, is_negated } in selector.requirements() {
        let not = if *is_negated { "NOT " } else { "" };
        query.push(format!(" AND agent_id {not}IN (SELECT agent_id FROM attributes WHERE name = "));
        query.push_bind(name.clone());
        if !values.is_empty() {
            query.push(" AND value IN (");
            let mut list = query.separated(", ");
            values.iter().for_each(|value| {
                list.push_bind(value.clone());
            });
            query.push(")");
        }
        query.push(")");
    }
}

impl Store {
    /// What a session needs to know of an agent.
    pub async fn known_agent(&self, agent: AgentId) -> Result<Option<KnownAgent>, StoreError> {
        let row =
            sqlx::query("SELECT public_key, held, removed_at, commands_from FROM agents WHERE agent_id = $1")
                .bind(agent.as_bytes().as_slice())
                .fetch_optional(&self.reader)
                .await?;
        row.map(|row| {
            let held: String = row.try_get("held")?;
            Ok(KnownAgent {
                id: agent,
                public_key: public_key(&row)?,
                held: Some(held).filter(|held| !held.is_empty()),
                is_removed: time(&row, "removed_at")? != Timestamp::ZERO,
                commands_from: time(&row, "commands_from")?,
            })
        })
        .transpose()
    }

    /// One agent.
    pub async fn agent(&self, agent: AgentId, now: Timestamp) -> Result<Option<AgentRow>, StoreError> {
        let mut query = whole_rows(now);
        query.push("agent_id = ").push_bind(agent.as_bytes().to_vec());
        let row = query.build().fetch_optional(&self.reader).await?;
        row.map(|row| AgentRow::read(&row)).transpose()
    }

    /// The present agents of a name, at most two: enough to tell one from several.
    pub async fn agents_named(&self, name: &str, now: Timestamp) -> Result<Vec<AgentRow>, StoreError> {
        let mut query = whole_rows(now);
        query
            .push("removed_at = 0 AND name = ")
            .push_bind(name.to_owned())
            .push(" ORDER BY agent_id LIMIT 2");
        query.build().fetch_all(&self.reader).await?.iter().map(AgentRow::read).collect()
    }

    /// A page of agents by id, after a given one.
    pub async fn agents(
        &self,
        selection: (Standing, Option<&Selector>),
        after: Option<AgentId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<AgentRow>, StoreError> {
        let mut query = whole_rows(now);
        query.push("agent_id > ").push_bind(after.map_or_else(Vec::new, |agent| agent.as_bytes().to_vec()));
        query.push(match selection.0 {
            Standing::Present => " AND removed_at = 0",
            Standing::Removed => " AND removed_at > 0",
        });
        if let Some(selector) = selection.1 {
            push_selector(&mut query, selector);
        }
        query.push(" ORDER BY agent_id LIMIT ").push_bind(i64::from(limit));
        query.build().fetch_all(&self.reader).await?.iter().map(AgentRow::read).collect()
    }

    /// The ids of all present agents, or of those a selector chooses, ascending.
    pub async fn agent_ids(&self, selector: Option<&Selector>) -> Result<Vec<AgentId>, StoreError> {
        let mut query = QueryBuilder::new("SELECT agent_id FROM agents WHERE removed_at = 0");
        if let Some(selector) = selector {
            push_selector(&mut query, selector);
        }
        query.push(" ORDER BY agent_id");
        let rows = query.build().fetch_all(&self.reader).await?;
        rows.iter().map(|row| id(row, "agent_id", "agent id")).collect()
    }

    /// A name that a selector asks for and several of those it chooses have.
    pub async fn shared_name(&self, selector: &Selector) -> Result<Option<String>, StoreError> {
        if selector.names().next().is_none() {
            return Ok(None);
        }
        let mut query = QueryBuilder::new("SELECT name FROM agents WHERE removed_at = 0 AND name IN (");
        let mut list = query.separated(", ");
        selector.names().for_each(|name| {
            list.push_bind(name.to_owned());
        });
        query.push(")");
        push_selector(&mut query, selector);
        query.push(" GROUP BY name HAVING COUNT(*) > 1 ORDER BY name LIMIT 1");
        let row = query.build().fetch_optional(&self.reader).await?;
        row.map(|row| row.try_get("name").map_err(StoreError::from)).transpose()
    }

    /// The allow-lists of these agents, ascending by id as they are.
    pub async fn action_tables(&self, agents: &[AgentId]) -> Result<Vec<AllowList>, StoreError> {
        let mut tables = Vec::with_capacity(agents.len());
        for chunk in agents.chunks(8192) {
            let mut query =
                QueryBuilder::new("SELECT agent_id, name, actions FROM agents WHERE agent_id IN (");
            let mut list = query.separated(", ");
            chunk.iter().for_each(|agent| {
                list.push_bind(agent.as_bytes().to_vec());
            });
            query.push(") ORDER BY agent_id");
            for row in &query.build().fetch_all(&self.reader).await? {
                let actions = actions(row)?;
                tables.push(AllowList {
                    id: id(row, "agent_id", "agent id")?,
                    name: row.try_get("name")?,
                    actions,
                });
            }
        }
        Ok(tables)
    }

    /// How many agents are enrolled and not removed.
    pub async fn count_agents(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT count(*) AS agents FROM agents WHERE removed_at = 0")
            .fetch_one(&self.reader)
            .await?;
        unsigned(&row, "agents")
    }

    /// Sets and removes labels, in one transaction.
    pub async fn label(
        &self,
        agent: AgentId,
        set: Vec<(String, String)>,
        remove: Vec<String>,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                for name in remove {
                    sqlx::query("DELETE FROM attributes WHERE agent_id = $1 AND name = $2 AND source = 1")
                        .bind(agent.as_bytes().to_vec())
                        .bind(name)
                        .execute(&mut *connection)
                        .await?;
                }
                for (name, value) in set {
                    put_attribute(connection, agent, name, value, Source::Label).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The agent gets nothing any more; its queue is cancelled. Removing twice is removing once.
    pub async fn remove_agent(&self, agent: AgentId, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |connection| Box::pin(async move { remove(connection, agent, now).await })).await
    }

    /// An operator decided: what the agent's journal says now is what counts. What it may have obeyed and
    /// forgotten it refuses from then on: everything issued before it was noticed. If it replaces
    /// another, it has that one's name and labels, and the other is removed.
    pub async fn approve_agent(
        &self,
        agent: AgentId,
        replaces: Option<AgentId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                // Journals it showed before stay known, and those it shows from now on are counted anew.
                sqlx::query("UPDATE agents SET held = '', approved_at = $2 WHERE agent_id = $1")
                    .bind(agent.as_bytes().to_vec())
                    .bind(integer(now.as_millis()))
                    .execute(&mut *connection)
                    .await?;
                sqlx::query(
                    "INSERT OR IGNORE INTO journals SELECT agent_id, journal_id, $2 FROM agents
                     WHERE agent_id = $1 AND journal_id IS NOT NULL",
                )
                .bind(agent.as_bytes().to_vec())
                .bind(integer(now.as_millis()))
                .execute(&mut *connection)
                .await?;
                sqlx::query(
                    "UPDATE alerts SET detail = 'Its journal went back; an operator has decided since.'
                     WHERE agent_id = $1 AND kind = $2",
                )
                .bind(agent.as_bytes().to_vec())
                .bind(AlertKind::Rewound.as_str())
                .execute(&mut *connection)
                .await?;
                let Some(older) = replaces else { return Ok(()) };
                for sql in [
                    "UPDATE agents SET name = (SELECT name FROM agents WHERE agent_id = $2) WHERE agent_id = $1",
                    "DELETE FROM attributes WHERE agent_id = $1 AND source = 1 AND $2 IS NOT NULL",
                    "INSERT OR REPLACE INTO attributes SELECT $1, name, value, source FROM attributes
                     WHERE agent_id = $2 AND (source = 1 OR name = 'name')",
                ] {
                    sqlx::query(sql)
                        .bind(agent.as_bytes().to_vec())
                        .bind(older.as_bytes().to_vec())
                        .execute(&mut *connection)
                        .await?;
                }
                remove(connection, older, now).await
            })
        })
        .await
    }
}

pub(super) async fn put_attribute(
    connection: &mut SqliteConnection,
    agent: AgentId,
    name: String,
    value: String,
    source: Source,
) -> Result<(), StoreError> {
    sqlx::query("INSERT OR REPLACE INTO attributes VALUES ($1, $2, $3, $4)")
        .bind(agent.as_bytes().to_vec())
        .bind(name)
        .bind(value)
        .bind(source.stored())
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Replaces an agent's identity record by one about the same agent and key.
    pub async fn renew_record(&self, agent: AgentId, envelope: Bytes) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE agents SET identity_record = $2 WHERE agent_id = $1")
                    .bind(agent.as_bytes().to_vec())
                    .bind(envelope.to_vec())
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }
}

async fn remove(connection: &mut SqliteConnection, agent: AgentId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE agents SET removed_at = $2 WHERE agent_id = $1 AND removed_at = 0")
        .bind(agent.as_bytes().to_vec())
        .bind(integer(now.as_millis()))
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE targets SET state = 5 WHERE agent_id = $1 AND state = 0")
        .bind(agent.as_bytes().to_vec())
        .execute(connection)
        .await?;
    Ok(())
}

fn public_key(row: &SqliteRow) -> Result<PublicKey, StoreError> {
    PublicKey::from_spki(row.try_get("public_key")?).map_err(|_| StoreError::Damaged("agent key"))
}

fn actions(row: &SqliteRow) -> Result<Vec<(String, String)>, StoreError> {
    let stored: String = row.try_get("actions")?;
    let split = |line: &str| {
        let (name, class) = line.split_once('\t').unwrap_or((line, "destructive"));
        (name.to_owned(), class.to_owned())
    };
    Ok(stored.lines().map(split).collect())
}

impl AgentRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let attributes: String = row.try_get("attributes")?;
        Ok(Self {
            id: id(row, "agent_id", "agent id")?,
            name: row.try_get("name")?,
            realm: row.try_get("realm")?,
            public_key: public_key(row)?,
            enrolled_at: time(row, "enrolled_at")?,
            last_contact: time(row, "last_contact")?,
            reported_at: time(row, "reported_at")?,
            agent_version: row.try_get("agent_version")?,
            bundle_version: unsigned(row, "bundle_version")?,
            settings_revision: unsigned(row, "settings_revision")?,
            journal_counter: unsigned(row, "journal_counter")?,
            actions: actions(row)?,
            waiting: unsigned(row, "waiting")?,
            held: row.try_get("held")?,
            removed_at: time(row, "removed_at")?,
            attributes: serde_json::from_str(&attributes).map_err(|_| StoreError::Damaged("attribute"))?,
        })
    }
}
