//! The agents.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _, Sqlite, SqliteConnection};
use writ_common::command::ActionClass;
use writ_common::id::{AgentId, Digest, JournalId};
use writ_common::keys::PublicKey;
use writ_common::time::Timestamp;

use super::alerts::raise;
use super::writer::Job;
use super::{Alarm, AlertKind, Store, StoreError, id, integer, time, unsigned};
use crate::selector::{Requirement, Selector};

/// Journals of one agent that are told apart; an honest one has a new one after a lost disk.
const MAX_JOURNALS: i64 = 16;

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
    const fn stored(self) -> i64 {
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

/// That an agent was heard.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Who.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// The greatest counter its journal has shown.
    pub journal_counter: u64,
    /// What it says of itself, if it does.
    pub report: Option<Report>,
}

/// What it says in a report.
#[derive(Debug, Clone)]
pub struct Report {
    /// The bundle it holds.
    pub bundle: (u64, Digest),
    /// The settings it keeps.
    pub settings_revision: u64,
    /// Its allow-list.
    pub actions: Vec<(String, ActionClass)>,
    /// Facts for selectors.
    pub facts: Vec<(String, String)>,
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
    ///
    /// # Errors
    /// When the database fails.
    pub async fn known_agent(&self, agent: AgentId) -> Result<Option<KnownAgent>, StoreError> {
        let row = sqlx::query("SELECT public_key, held, removed_at FROM agents WHERE agent_id = $1")
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
            })
        })
        .transpose()
    }

    /// One agent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agent(&self, agent: AgentId, now: Timestamp) -> Result<Option<AgentRow>, StoreError> {
        let mut query = whole_rows(now);
        query.push("agent_id = ").push_bind(agent.as_bytes().to_vec());
        let row = query.build().fetch_optional(&self.reader).await?;
        row.map(|row| AgentRow::read(&row)).transpose()
    }

    /// The present agents of a name, at most two: enough to tell one from several.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agents_named(&self, name: &str, now: Timestamp) -> Result<Vec<AgentRow>, StoreError> {
        let mut query = whole_rows(now);
        query
            .push("removed_at = 0 AND name = ")
            .push_bind(name.to_owned())
            .push(" ORDER BY agent_id LIMIT 2");
        query.build().fetch_all(&self.reader).await?.iter().map(AgentRow::read).collect()
    }

    /// A page of agents by id, after a given one.
    ///
    /// # Errors
    /// When the database fails.
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
    ///
    /// # Errors
    /// When the database fails.
    pub async fn agent_ids(&self, selector: Option<&Selector>) -> Result<Vec<AgentId>, StoreError> {
        let mut query = QueryBuilder::new("SELECT agent_id FROM agents WHERE removed_at = 0");
        if let Some(selector) = selector {
            push_selector(&mut query, selector);
        }
        query.push(" ORDER BY agent_id");
        let rows = query.build().fetch_all(&self.reader).await?;
        rows.iter().map(|row| id(row, "agent_id", "agent id")).collect()
    }

    /// The allow-lists of these agents, ascending by id as they are.
    ///
    /// # Errors
    /// When the database fails.
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
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_agents(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT count(*) AS agents FROM agents WHERE removed_at = 0")
            .fetch_one(&self.reader)
            .await?;
        unsigned(&row, "agents")
    }

    /// Records that a session began. Returns why nothing may be sent to the agent, if its journal went back or forked
    /// now or earlier.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_contact(&self, contact: Contact) -> Result<Option<String>, StoreError> {
        self.send(|answer| Job::Contact(contact, answer)).await?.committed().await
    }

    /// Records that an agent was heard, how far its journal is, and its report if it made one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_heard(&self, heard: Heard) -> Result<(), StoreError> {
        self.send(|answer| Job::Heard(heard, answer)).await?.committed().await
    }

    /// Sets and removes labels; returns the name of an attribute that is no label, and changes nothing then.
    ///
    /// # Errors
    /// When the database fails.
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
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_agent(&self, agent: AgentId, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |connection| Box::pin(async move { remove(connection, agent, now).await })).await
    }

    /// An operator decided: what the agent's journal says now is what counts, and if it replaces another, it has that
    /// one's name and labels, and the other is removed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn approve_agent(
        &self,
        agent: AgentId,
        replaces: Option<AgentId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE agents SET held = '', journal_counter = 0 WHERE agent_id = $1")
                    .bind(agent.as_bytes().to_vec())
                    .execute(&mut *connection)
                    .await?;
                // The journal it has now is the only one it ever had, or it could never be approved again.
                sqlx::query(
                    "DELETE FROM journals WHERE agent_id = $1
                     AND journal_id IS NOT (SELECT journal_id FROM agents WHERE agent_id = $1)",
                )
                .bind(agent.as_bytes().to_vec())
                .execute(&mut *connection)
                .await?;
                sqlx::query(
                    "INSERT OR IGNORE INTO journals SELECT agent_id, journal_id FROM agents
                     WHERE agent_id = $1 AND journal_id IS NOT NULL",
                )
                .bind(agent.as_bytes().to_vec())
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

/// Records that sessions began: those that are as the last time all together, the others one by one.
pub(super) fn note_contacts(
    connection: &mut SqliteConnection,
    new: Arc<Vec<Contact>>,
) -> BoxFuture<'_, Result<Vec<Option<String>>, StoreError>> {
    Box::pin(async move {
        let known = known_journals(connection, &new).await?;
        let (mut usual, mut rest, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
        let mut held = vec![None; new.len()];
        for (number, (contact, known)) in new.iter().zip(known).enumerate() {
            match known {
                Some((counter, why)) if contact.journal.1 >= counter && taken.insert(contact.agent) => {
                    held[number] = Some(why).filter(|why| !why.is_empty());
                    usual.push(contact);
                }
                _ => rest.push((number, contact)),
            }
        }
        if !usual.is_empty() {
            let mut update = QueryBuilder::<Sqlite>::new(
                "WITH new(agent_id, at, version, bundle_version, bundle_digest, counter) AS (",
            );
            update.push_values(usual, |mut row, contact| {
                row.push_bind(contact.agent.as_bytes().to_vec())
                    .push_bind(integer(contact.at.as_millis()))
                    .push_bind(contact.agent_version.clone())
                    .push_bind(integer(contact.bundle.0))
                    .push_bind(contact.bundle.1.as_bytes().to_vec())
                    .push_bind(integer(contact.journal.1));
            });
            update.push(
                ") UPDATE agents SET last_contact = new.at, agent_version = new.version,
                 bundle_version = new.bundle_version, bundle_digest = new.bundle_digest, journal_counter = new.counter
                 FROM new WHERE agents.agent_id = new.agent_id",
            );
            update.build().persistent(false).execute(&mut *connection).await?;
        }
        for (number, contact) in rest {
            held[number] = note_contact(connection, contact.clone()).await?;
        }
        Ok(held)
    })
}

/// The counter and what is held of each agent that shows the journal it showed last.
async fn known_journals(
    connection: &mut SqliteConnection,
    new: &[Contact],
) -> Result<Vec<Option<(u64, String)>>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("WITH new(number, agent_id, journal_id) AS (");
    query.push_values((0_i64..).zip(new), |mut row, (number, contact)| {
        row.push_bind(number)
            .push_bind(contact.agent.as_bytes().to_vec())
            .push_bind(contact.journal.0.as_bytes().to_vec());
    });
    query.push(
        ") SELECT json_group_array(json_array(number, journal_counter, held)) FROM new
         CROSS JOIN agents ON agents.agent_id = new.agent_id AND agents.journal_id = new.journal_id",
    );
    let rows: String = query.build().persistent(false).fetch_one(connection).await?.try_get(0)?;
    let rows: Vec<(usize, u64, String)> =
        serde_json::from_str(&rows).map_err(|_| StoreError::Damaged("journal"))?;
    let mut known: Vec<_> = new.iter().map(|_| None).collect();
    for (number, counter, held) in rows {
        if let Some(known) = known.get_mut(number) {
            *known = Some((counter, held));
        }
    }
    Ok(known)
}

/// Records that agents were heard: reports that say something new one by one, everything else all together.
pub(super) fn note_all_heard(
    connection: &mut SqliteConnection,
    new: Arc<Vec<Heard>>,
) -> BoxFuture<'_, Result<Vec<()>, StoreError>> {
    Box::pin(async move {
        // Of several of one agent the greatest count.
        let mut latest = BTreeMap::<AgentId, (Timestamp, u64)>::new();
        for heard in new.iter() {
            let (at, counter) = latest.entry(heard.agent).or_default();
            *at = heard.at.max(*at);
            *counter = heard.journal_counter.max(*counter);
        }
        let mut update = QueryBuilder::<Sqlite>::new("WITH new(agent_id, at, counter) AS (");
        update.push_values(&latest, |mut row, (agent, (at, counter))| {
            row.push_bind(agent.as_bytes().to_vec())
                .push_bind(integer(at.as_millis()))
                .push_bind(integer(*counter));
        });
        update.push(
            ") UPDATE agents SET last_contact = new.at, journal_counter = max(journal_counter, new.counter)
             FROM new WHERE agents.agent_id = new.agent_id",
        );
        update.build().persistent(false).execute(&mut *connection).await?;
        let reports: Vec<_> =
            new.iter().filter_map(|heard| Some((heard.agent, heard.at, heard.report.as_ref()?))).collect();
        if !reports.is_empty() {
            note_reports(connection, &reports).await?;
        }
        Ok(vec![(); new.len()])
    })
}

async fn note_reports(
    connection: &mut SqliteConnection,
    reports: &[(AgentId, Timestamp, &Report)],
) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("WITH new(number, agent_id) AS (");
    query.push_values((0_i64..).zip(reports), |mut row, (number, (agent, ..))| {
        row.push_bind(number).push_bind(agent.as_bytes().to_vec());
    });
    query.push(
        ") SELECT json_group_array(json_array(number, bundle_version, hex(bundle_digest), settings_revision, actions,
             json((SELECT json_group_array(json_array(name, value)) FROM
              (SELECT name, value FROM attributes WHERE attributes.agent_id = new.agent_id AND source = 2 ORDER BY name)))
         )) FROM new CROSS JOIN agents ON agents.agent_id = new.agent_id",
    );
    let rows: String = query.build().persistent(false).fetch_one(&mut *connection).await?.try_get(0)?;
    // Number, bundle version and digest, settings, actions, facts.
    type Stored = (usize, u64, Option<String>, u64, String, Vec<(String, String)>);
    let rows: Vec<Stored> = serde_json::from_str(&rows).map_err(|_| StoreError::Damaged("report"))?;
    let mut unchanged = Vec::new();
    for (number, version, digest, revision, actions, facts) in rows {
        let Some((agent, at, report)) = reports.get(number) else { continue };
        let is_known = version == report.bundle.0
            && digest.is_some_and(|digest| digest.eq_ignore_ascii_case(&report.bundle.1.to_string()))
            && revision == report.settings_revision
            && actions == report.action_lines()
            && facts == report.facts;
        if is_known {
            unchanged.push((agent, at));
        } else {
            note_report(connection, *agent, *at, Report::clone(report)).await?;
        }
    }
    if unchanged.is_empty() {
        return Ok(());
    }
    let mut update = QueryBuilder::<Sqlite>::new("WITH new(agent_id, at) AS (");
    update.push_values(unchanged, |mut row, (agent, at)| {
        row.push_bind(agent.as_bytes().to_vec()).push_bind(integer(at.as_millis()));
    });
    update.push(") UPDATE agents SET reported_at = new.at FROM new WHERE agents.agent_id = new.agent_id");
    update.build().persistent(false).execute(connection).await?;
    Ok(())
}

impl Report {
    /// As stored.
    fn action_lines(&self) -> String {
        let line = |(name, class): &(String, ActionClass)| format!("{name}\t{}", class.as_str());
        self.actions.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

async fn note_contact(
    connection: &mut SqliteConnection,
    contact: Contact,
) -> Result<Option<String>, StoreError> {
    let Contact { agent, at, agent_version, bundle, journal } = contact;
    let key = agent.as_bytes().as_slice();
    let row = sqlx::query(
        "SELECT journal_id, journal_counter, held,
                EXISTS (SELECT 1 FROM journals WHERE agent_id = $1 AND journal_id = $2) AS is_known,
                (SELECT count(*) FROM journals WHERE agent_id = $1) AS journals
         FROM agents WHERE agent_id = $1",
    )
    .bind(key)
    .bind(journal.0.as_bytes().as_slice())
    .fetch_one(&mut *connection)
    .await?;
    let latest: Option<Vec<u8>> = row.try_get("journal_id")?;
    let is_latest = latest.as_deref() == Some(journal.0.as_bytes().as_slice());
    let counter = unsigned(&row, "journal_counter")?;
    let mut held: String = row.try_get("held")?;
    let is_known: bool = row.try_get("is_known")?;
    let wrong = if is_latest && journal.1 < counter {
        Some(format!(
            "its journal stands at {}, but it stood at {counter} before: the host was put back to an earlier state, or two hosts share its identity",
            journal.1
        ))
    } else if !is_latest && is_known {
        Some("it came back to a journal it had given up: two hosts share its identity, or the host was put back to an earlier state".to_owned())
    } else if !is_known && row.try_get::<i64, _>("journals")? >= MAX_JOURNALS {
        Some(format!(
            "it began a new journal for the {MAX_JOURNALS}th time: its disk forgets, or somebody makes it"
        ))
    } else {
        None
    };
    if let Some(wrong) = wrong {
        let alarm = Alarm {
            kind: AlertKind::Rewound,
            code: "",
            agent,
            count: 1,
            detail: format!("Nothing is sent to it until an operator decides: {wrong}."),
        };
        raise(connection, &alarm, at).await?;
        held = wrong;
    } else if !is_known {
        sqlx::query("INSERT INTO journals VALUES ($1, $2)")
            .bind(key)
            .bind(journal.0.as_bytes().as_slice())
            .execute(&mut *connection)
            .await?;
        if latest.is_some() {
            let detail =
                "It began a new journal. Commands issued before that are refused as `too_old`.".to_owned();
            let alarm = Alarm { kind: AlertKind::JournalReplaced, code: "", agent, count: 1, detail };
            raise(connection, &alarm, at).await?;
        }
    }
    sqlx::query(
        "UPDATE agents SET last_contact = $2, agent_version = $3, bundle_version = $4, bundle_digest = $5,
         journal_id = $6, journal_counter = $7, held = $8 WHERE agent_id = $1",
    )
    .bind(key)
    .bind(integer(at.as_millis()))
    .bind(agent_version.clone())
    .bind(integer(bundle.0))
    .bind(bundle.1.as_bytes().as_slice())
    .bind(journal.0.as_bytes().as_slice())
    .bind(integer(journal.1))
    .bind(held.clone())
    .execute(&mut *connection)
    .await?;
    Ok(Some(held).filter(|held| !held.is_empty()))
}

async fn note_report(
    connection: &mut SqliteConnection,
    agent: AgentId,
    at: Timestamp,
    report: Report,
) -> Result<(), StoreError> {
    let lines = report.action_lines();
    let Report { bundle, settings_revision, facts, .. } = report;
    sqlx::query(
        "UPDATE agents SET reported_at = $2, bundle_version = $3, bundle_digest = $4, settings_revision = $5,
         actions = $6 WHERE agent_id = $1",
    )
    .bind(agent.as_bytes().to_vec())
    .bind(integer(at.as_millis()))
    .bind(integer(bundle.0))
    .bind(bundle.1.as_bytes().to_vec())
    .bind(integer(settings_revision))
    .bind(lines)
    .execute(&mut *connection)
    .await?;
    let known =
        sqlx::query("SELECT name, value FROM attributes WHERE agent_id = $1 AND source = 2 ORDER BY name")
            .bind(agent.as_bytes().to_vec())
            .fetch_all(&mut *connection)
            .await?;
    let known: Vec<(String, String)> =
        known.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, sqlx::Error>>()?;
    if known == facts {
        return Ok(());
    }
    sqlx::query("DELETE FROM attributes WHERE agent_id = $1 AND source = 2")
        .bind(agent.as_bytes().to_vec())
        .execute(&mut *connection)
        .await?;
    for (name, value) in facts {
        put_attribute(connection, agent, name, value, Source::Fact).await?;
    }
    Ok(())
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
