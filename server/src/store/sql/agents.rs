//! The agents.

use std::collections::BTreeMap;

use bytes::Bytes;
use writ_database::dialect::{MAX_PARAMETERS, parameters};
use writ_database::{Connection, KeepOrUndo, Record, ToValue as _, Value, values};
use writ_protocol::id::AgentId;
use writ_protocol::time::Timestamp;

use super::super::rows::{
    AgentRow, AlertKind, AllowList, Attribute, AttributeSource, FIRST_ENDED, KnownAgent, LabelChange,
    ListedAction, Membership, TargetState,
};
use super::super::{Store, StoreError};
use super::alerts::end;
use crate::selector::{Requirement, Selector, Standing};

/// Labels of one agent.
pub(crate) const MAX_LABELS: usize = 64;

impl Store {
    /// What a session needs to know of an agent.
    pub(crate) async fn known_agent(&self, agent: AgentId) -> Result<Option<KnownAgent>, StoreError> {
        let sql = "SELECT public_key, held, removed_at FROM agents WHERE agent_id = ?1";
        let read = move |connection: &mut Connection| {
            connection.first(sql, &values![agent], |record| {
                Ok(KnownAgent {
                    id: agent,
                    public_key: record.get("public_key")?,
                    held: Some(record.get("held")?).filter(|held: &String| !held.is_empty()),
                    is_removed: record.get::<Timestamp>("removed_at")? != Timestamp::ZERO,
                })
            })
        };
        self.database.read_moment(read).await
    }

    /// One agent.
    pub(crate) async fn agent(&self, agent: AgentId, now: Timestamp) -> Result<Option<AgentRow>, StoreError> {
        let read = move |connection: &mut _| fetch(connection, "agent_id = ?2", &values![now, agent]);
        Ok(self.database.read(read).await?.pop())
    }

    /// The present agents of a name, or where there is none, those that were removed; at most two: enough to
    /// tell one from several.
    pub(crate) async fn agents_named(&self, name: &str, now: Timestamp) -> Result<Vec<AgentRow>, StoreError> {
        let name = name.to_owned();
        let read = move |connection: &mut _| {
            let which = "removed_at = 0 AND name = ?2 ORDER BY agent_id LIMIT 2";
            let present = fetch(connection, which, &values![now, name])?;
            if !present.is_empty() {
                return Ok(present);
            }
            let which = "removed_at > 0 AND name = ?2 ORDER BY agent_id LIMIT 2";
            fetch(connection, which, &values![now, name])
        };
        self.database.read(read).await
    }

    /// A page of agents by id, after a given one.
    pub(crate) async fn agents(
        &self,
        selection: (Membership, Option<&Selector>),
        after: Option<AgentId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<AgentRow>, StoreError> {
        let (membership, selector) = (selection.0, selection.1.cloned());
        let read = move |connection: &mut _| {
            let after = after.as_ref().map_or_else(|| [].as_slice(), |agent| agent.as_bytes());
            let mut values = values![now, after, limit].to_vec();
            let members = match membership {
                Membership::Present => "removed_at = 0",
                Membership::Removed => "removed_at > 0",
            };
            let chosen = selector.as_ref().map_or_else(String::new, |selector| choose(selector, &mut values));
            let which = format!("agent_id > ?2 AND {members}{chosen} ORDER BY agent_id LIMIT ?3");
            fetch(connection, &which, &values)
        };
        self.database.read(read).await
    }

    /// The ids of all present agents, or of those a selector chooses, ascending.
    pub(crate) async fn agent_ids(&self, selector: Option<&Selector>) -> Result<Vec<AgentId>, StoreError> {
        let selector = selector.cloned();
        let read = move |connection: &mut Connection| {
            let mut values = Vec::new();
            let chosen = selector.as_ref().map_or_else(String::new, |selector| choose(selector, &mut values));
            let sql = format!("SELECT agent_id FROM agents WHERE removed_at = 0{chosen} ORDER BY agent_id");
            connection.fetch(&sql, &values, |record| record.get("agent_id"))
        };
        self.database.read(read).await
    }

    /// The same with when each was last heard; one that never was, when it was enrolled.
    pub(crate) async fn last_contacts(
        &self,
        selector: &Selector,
    ) -> Result<Vec<(AgentId, Timestamp)>, StoreError> {
        let selector = selector.clone();
        let read = move |connection: &mut Connection| {
            let mut values = Vec::new();
            let chosen = choose(&selector, &mut values);
            let sql = format!(
                "SELECT agent_id, CASE WHEN last_contact > enrolled_at THEN last_contact ELSE enrolled_at END
                 AS heard FROM agents WHERE removed_at = 0{chosen} ORDER BY agent_id"
            );
            connection.fetch(&sql, &values, |record| Ok((record.get("agent_id")?, record.get("heard")?)))
        };
        self.database.read(read).await
    }

    /// These agents, ascending by id.
    pub(crate) async fn agents_of(
        &self,
        ids: &[AgentId],
        now: Timestamp,
    ) -> Result<Vec<AgentRow>, StoreError> {
        let ids = ids.to_vec();
        let read = move |connection: &mut _| {
            let mut values = values![now].to_vec();
            values.extend(ids.iter().map(|agent| agent.to_value()));
            let which = format!("agent_id IN ({}) ORDER BY agent_id", parameters(2, ids.len()));
            fetch(connection, &which, &values)
        };
        self.database.read(read).await
    }

    /// A name that a selector asks for and several of those it chooses have.
    pub(crate) async fn shared_name(&self, selector: &Selector) -> Result<Option<String>, StoreError> {
        if !selector.asks_for_names() {
            return Ok(None);
        }
        let selector = selector.clone();
        let read = move |connection: &mut Connection| {
            let mut values = Vec::new();
            let chosen = choose(&selector, &mut values);
            let sql = format!(
                "SELECT name FROM agents WHERE removed_at = 0{chosen}
                 GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 1"
            );
            connection.first(&sql, &values, |record| record.get("name"))
        };
        self.database.read(read).await
    }

    /// The allow-lists of these agents, ascending by id as they are; of one action alone, if it is named.
    pub(crate) async fn action_tables(
        &self,
        agents: &[AgentId],
        action: Option<&str>,
    ) -> Result<Vec<AllowList>, StoreError> {
        let (agents, action) = (agents.to_vec(), action.map(str::to_owned));
        let read = move |connection: &mut Connection| {
            let mut tables = Vec::with_capacity(agents.len());
            for some in agents.chunks(MAX_PARAMETERS) {
                let values: Vec<_> = some.iter().map(|agent| agent.to_value()).collect();
                let sql = format!(
                    "SELECT agent_id, name, actions, last_contact FROM agents WHERE agent_id IN ({}) ORDER BY agent_id",
                    parameters(1, values.len())
                );
                tables.extend(connection.fetch(&sql, &values, |record| {
                    let (id, name) = (record.get("agent_id")?, record.get("name")?);
                    let stored: String = record.get("actions")?;
                    let is_wanted = |line: &&str| {
                        action.as_ref().is_none_or(|name| line.split('\t').next() == Some(name))
                    };
                    let actions = stored.lines().filter(is_wanted).map(ListedAction::from_line).collect();
                    let (has_reported, last_contact) = (!stored.is_empty(), record.get("last_contact")?);
                    Ok(AllowList { id, name, actions, has_reported, last_contact })
                })?);
            }
            Ok(tables)
        };
        self.database.read(read).await
    }

    /// Whether any agent has a label or fact of this name.
    pub(crate) async fn is_attribute(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let sql = "SELECT name FROM attributes WHERE name = ?1 LIMIT 1";
        let read = move |connection: &mut Connection| {
            Ok(connection.first(sql, &values![name], |record| record.get::<String>("name"))?.is_some())
        };
        self.database.read(read).await
    }

    /// How many agents are enrolled and not removed.
    pub(crate) async fn count_agents(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) AS agents FROM agents WHERE removed_at = 0";
        self.database.read(move |connection| connection.only(sql, &[], |record| record.get("agents"))).await
    }

    /// Sets and removes labels, of all these agents or of none. Returns how many have other labels than
    /// before, or the first that would have too many.
    pub(crate) async fn label(&self, changes: Vec<LabelChange>) -> Result<Result<u32, AgentId>, StoreError> {
        let write = move |connection: &mut Connection| {
            let mut changed = 0;
            let of_each =
                changes.iter().flat_map(|change| change.agents.iter().map(move |agent| (agent, change)));
            for (agent, LabelChange { set, remove, .. }) in of_each {
                let before = labels(connection, *agent)?;
                let sql = "DELETE FROM attributes WHERE agent_id = ?1 AND name = ?2 AND source = ?3";
                let label = AttributeSource::Label;
                connection.execute_each(sql, remove.iter().map(|name| values![agent, name, label]))?;
                for (name, value) in set {
                    put_attribute(connection, *agent, (name, value), AttributeSource::Label)?;
                }
                let after = labels(connection, *agent)?;
                if after.len() > MAX_LABELS {
                    return Ok(KeepOrUndo::Undo(Err(*agent)));
                }
                changed += u32::from(before != after);
            }
            Ok(KeepOrUndo::Keep(Ok(changed)))
        };
        self.database.decide(write).await
    }

    /// The agent gets nothing any more; its queue is cancelled. Removing twice is removing once.
    pub(crate) async fn remove_agent(&self, agent: AgentId, now: Timestamp) -> Result<(), StoreError> {
        self.database.write(move |connection| remove(connection, agent, now)).await
    }

    /// An operator decided: what the agent's journal says now is what counts. What it may have obeyed and
    /// forgotten it refuses from then on: everything issued before it was noticed. If it replaces
    /// another, it has that one's name and labels, and the other is removed.
    pub(crate) async fn approve_agent(
        &self,
        agent: AgentId,
        replaces: Option<AgentId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| {
            // Journals it showed before stay known, and those it shows from now on are counted anew.
            let sql = "UPDATE agents SET held = '', approved_at = ?2 WHERE agent_id = ?1";
            connection.execute(sql, &values![agent, now])?;
            let sql = "INSERT INTO journals SELECT agent_id, journal_id, ?2 FROM agents
                       WHERE agent_id = ?1 AND journal_id IS NOT NULL ON CONFLICT DO NOTHING";
            connection.execute(sql, &values![agent, now])?;
            end(connection, AlertKind::Rewound, agent, now)?;
            match replaces {
                Some(older) => replace(connection, agent, older, now),
                None => Ok(()),
            }
        };
        self.database.write(write).await
    }

    /// Replaces an agent's identity record by one about the same agent and key.
    pub(crate) async fn renew_record(&self, agent: AgentId, envelope: Bytes) -> Result<(), StoreError> {
        let sql = "UPDATE agents SET identity_record = ?2 WHERE agent_id = ?1";
        self.database
            .write(move |connection| connection.execute(sql, &values![agent, envelope]).map(drop))
            .await
    }
}

/// What of a selector the database decides, to go on a condition: an index look-up for each requirement. Its
/// values come behind those that are there.
fn choose<'s>(selector: &'s Selector, values: &mut Vec<Value<'s>>) -> String {
    let mut sql = String::new();
    for Requirement { name, values: wanted, is_negated } in selector.requirements() {
        let not = if *is_negated { "NOT " } else { "" };
        values.push(name.to_value());
        let asked = format!("SELECT agent_id FROM attributes WHERE name = ?{}", values.len());
        let (patterns, plain): (Vec<_>, Vec<_>) = wanted.iter().partition(|value| value.contains('*'));
        let mut one_of = Vec::new();
        if !plain.is_empty() {
            one_of.push(format!("value IN ({})", parameters(values.len() + 1, plain.len())));
            values.extend(plain.into_iter().map(|value| Value::Text(value)));
        }
        for pattern in patterns {
            values.push(Value::Text(pattern));
            one_of.push(like(values.len()));
        }
        let one_of =
            if one_of.is_empty() { String::new() } else { format!(" AND ({})", one_of.join(" OR ")) };
        sql.push_str(&format!(" AND agent_id {not}IN ({asked}{one_of})"));
    }
    for standing in selector.standings() {
        sql.push_str(match standing {
            Standing::Held(true) => " AND held <> ''",
            Standing::Held(false) => " AND held = ''",
            Standing::Connected(_) | Standing::AwayFor(_) => "",
        });
    }
    sql
}

/// That a value is as the pattern says that is so-manieth of the parameters: only its `*` means something.
/// What else means something to `GLOB` is put into brackets (sqlite.org/lang_expr.html#glob).
fn like(parameter: usize) -> String {
    format!("value GLOB replace(replace(?{parameter}, '[', '[[]'), '?', '[?]')")
}

/// Whole agents: `which` is the condition, and `?1` is now.
fn fetch(
    connection: &mut Connection,
    which: &str,
    values: &[Value<'_>],
) -> Result<Vec<AgentRow>, StoreError> {
    let [queued, sent] = [TargetState::Waiting, TargetState::Delivered].map(TargetState::stored);
    // The first condition on the state is that of the index of what is open.
    let sql = format!(
        "SELECT agents.*,
             (SELECT count(*) FROM targets JOIN commands ON commands.sequence = targets.command
              WHERE targets.agent_id = agents.agent_id AND state < {FIRST_ENDED} AND state = {queued}
              AND cancelled_at = 0 AND expires_at > ?1) AS waiting,
             (SELECT count(*) FROM targets JOIN commands ON commands.sequence = targets.command
              WHERE targets.agent_id = agents.agent_id AND state < {FIRST_ENDED} AND state = {sent}
              AND expires_at > ?1) AS unanswered
         FROM agents WHERE {which}"
    );
    let mut rows = connection.fetch(&sql, values, read)?;
    add_attributes(connection, &mut rows)?;
    Ok(rows)
}

fn add_attributes(connection: &mut Connection, rows: &mut [AgentRow]) -> Result<(), StoreError> {
    for rows in rows.chunks_mut(MAX_PARAMETERS) {
        let sql = format!(
            "SELECT agent_id, name, value, source FROM attributes WHERE agent_id IN ({}) ORDER BY agent_id, name",
            parameters(1, rows.len())
        );
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let values: Vec<_> = ids.iter().map(|agent| agent.to_value()).collect();
        let found = connection.fetch(&sql, &values, |record| {
            let (name, value) = (record.get("name")?, record.get("value")?);
            Ok((record.get::<AgentId>("agent_id")?, Attribute { name, value, source: record.get("source")? }))
        })?;
        let mut of_agents = BTreeMap::<_, Vec<_>>::new();
        for (agent, attribute) in found {
            of_agents.entry(agent).or_default().push(attribute);
        }
        for row in rows {
            row.attributes = of_agents.remove(&row.id).unwrap_or_default();
        }
    }
    Ok(())
}

fn labels(connection: &mut Connection, agent: AgentId) -> Result<Vec<(String, String)>, StoreError> {
    let sql = "SELECT name, value FROM attributes WHERE agent_id = ?1 AND source = ?2 ORDER BY name";
    connection.fetch(sql, &values![agent, AttributeSource::Label], |record| {
        Ok((record.get("name")?, record.get("value")?))
    })
}

fn read(record: &Record<'_>) -> Result<AgentRow, StoreError> {
    Ok(AgentRow {
        id: record.get("agent_id")?,
        name: record.get("name")?,
        realm: record.get("realm")?,
        public_key: record.get("public_key")?,
        enrolled_at: record.get("enrolled_at")?,
        last_contact: record.get("last_contact")?,
        reported_at: record.get("reported_at")?,
        agent_version: record.get("agent_version")?,
        bundle_version: record.get("bundle_version")?,
        settings_revision: record.get("settings_revision")?,
        journal_counter: record.get("journal_counter")?,
        actions: read_actions(record)?,
        waiting: record.get("waiting")?,
        unanswered: record.get("unanswered")?,
        held: record.get("held")?,
        removed_at: record.get("removed_at")?,
        attributes: Vec::new(),
    })
}

fn read_actions(record: &Record<'_>) -> Result<Vec<ListedAction>, StoreError> {
    let stored: String = record.get("actions")?;
    Ok(stored.lines().map(ListedAction::from_line).collect())
}

pub(super) fn put_attribute(
    connection: &mut Connection,
    agent: AgentId,
    (name, value): (&str, &str),
    source: AttributeSource,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO attributes VALUES (?1, ?2, ?3, ?4) ON CONFLICT (agent_id, name) DO UPDATE
               SET value = excluded.value, source = excluded.source";
    connection.execute(sql, &values![agent, name, value, source]).map(drop)
}

/// An agent has the name and the labels of an older one, which is removed.
fn replace(
    connection: &mut Connection,
    agent: AgentId,
    older: AgentId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "UPDATE agents SET name = (SELECT name FROM agents WHERE agent_id = ?2) WHERE agent_id = ?1";
    connection.execute(sql, &values![agent, older])?;
    let sql = "DELETE FROM attributes WHERE agent_id = ?1 AND source = ?2";
    connection.execute(sql, &values![agent, AttributeSource::Label])?;
    let sql = "INSERT INTO attributes SELECT ?1, name, value, source FROM attributes
               WHERE agent_id = ?2 AND (source = ?3 OR name = 'name') ON CONFLICT (agent_id, name) DO UPDATE
               SET value = excluded.value, source = excluded.source";
    connection.execute(sql, &values![agent, older, AttributeSource::Label])?;
    remove(connection, older, now)
}

fn remove(connection: &mut Connection, agent: AgentId, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE agents SET removed_at = ?2 WHERE agent_id = ?1 AND removed_at = 0";
    connection.execute(sql, &values![agent, now])?;
    end(connection, AlertKind::Rewound, agent, now)?;
    // Of several hosts with its name, one may be left.
    let sql = "UPDATE alerts SET ended_at = ?2 WHERE kind = ?3 AND ended_at = 0 AND agent_id IN (
                   SELECT agent_id FROM agents WHERE name = (SELECT name FROM agents WHERE agent_id = ?1))
               AND (SELECT count(*) FROM agents WHERE removed_at = 0
                    AND name = (SELECT name FROM agents WHERE agent_id = ?1)) < 2";
    connection.execute(sql, &values![agent, now, AlertKind::SameName.as_str()])?;
    // The second condition on the state is that of the index of what waits.
    let sql =
        format!("UPDATE targets SET state = ?2 WHERE agent_id = ?1 AND state = ?3 AND state < {FIRST_ENDED}");
    connection.execute(&sql, &values![agent, TargetState::Cancelled, TargetState::Waiting]).map(drop)
}
