//! What agents say when they come and while they stay: contacts, signs of life, reports.

use std::collections::{BTreeMap, HashSet};

use writ_database::{Connection, Pending, ToValue as _, values};
use writ_protocol::id::{AgentId, Digest, SessionMark};
use writ_protocol::time::Timestamp;

use super::super::lanes::Job;
use super::super::rows::{AttributeSource, Beginning, Contact, FIRST_ENDED, Noted, Report, SignOfLife};
use super::super::rules::journal::{self, KnownJournals};
use super::super::{Store, StoreError};
use super::agents::put_attribute;
use super::alerts::raise;

impl Store {
    /// Records that a session begins, if `gate` queues it; `None` if not. Contacts are recorded in the order
    /// of their gates.
    pub(crate) async fn note_contact(
        &self,
        contact: Contact,
        gate: impl FnOnce(Box<dyn FnOnce() + Send + '_>) -> bool,
    ) -> Result<Option<Beginning>, StoreError> {
        match self.database.queue_through(gate, |answer| Job::Contact(contact, answer)).await? {
            Some(pending) => Ok(Some(pending.committed().await?)),
            None => Ok(None),
        }
    }

    /// Records that an agent was heard, how far its journal is, and its report if it made one.
    pub(crate) async fn note_heard(&self, sign: SignOfLife) -> Result<(), StoreError> {
        self.queue_heard(sign).await?.committed().await
    }

    /// The same with the next batch; whatever is queued later finds it recorded.
    ///
    /// # Errors
    /// When the writer has ended.
    pub(crate) async fn queue_heard(&self, sign: SignOfLife) -> Result<Pending<()>, StoreError> {
        self.database.queue(|answer| Job::SignOfLife(sign, answer)).await
    }
}

/// Records that sessions began.
pub(in crate::store) fn note_contacts(
    connection: &mut Connection,
    new: &[Contact],
) -> Result<Vec<Beginning>, StoreError> {
    let (mut begun, mut rest) = (Vec::with_capacity(new.len()), new);
    while !rest.is_empty() {
        // What is known of an agent is asked before any of a group is recorded: no agent is in it twice.
        let mut seen = HashSet::new();
        let end = rest.iter().position(|contact| !seen.insert(contact.agent)).unwrap_or(rest.len());
        let (group, later) = rest.split_at(end);
        note_group(connection, group, &mut begun)?;
        rest = later;
    }
    Ok(begun)
}

fn note_group(
    connection: &mut Connection,
    group: &[Contact],
    begun: &mut Vec<Beginning>,
) -> Result<(), StoreError> {
    let known = find_agents(connection, group)?;
    let first = begun.len();
    for (contact, known) in group.iter().zip(known) {
        // The session was refused if nobody knew its agent.
        let AgentBefore { journals: known, is_removed, has_waiting } =
            known.ok_or(StoreError::Damaged("agent: it is missing"))?;
        let Contact { agent, at, journal, .. } = contact;
        let decision = journal::decide(known, *agent, journal, *at);
        if let Some(alarm) = &decision.alarm {
            raise(connection, alarm, *at)?;
        }
        if decision.is_new {
            connection
                .execute("INSERT INTO journals VALUES (?1, ?2, ?3)", &values![agent, journal.id, at])?;
        }
        begun.push(Beginning { noted: decision.noted, is_removed, has_waiting });
    }
    let sql =
        "UPDATE agents SET last_contact = ?2, agent_version = ?3, bundle_version = ?4, bundle_digest = ?5,
               journal_id = ?6, journal_counter = ?7, held = ?8, journal_mark = ?9, commands_from = ?10,
               address = ?11, journal_admissions = ?12 WHERE agent_id = ?1";
    let rows = group.iter().zip(&begun[first..]).map(|(contact, Beginning { noted, .. })| {
        let Contact { agent, at, address, agent_version, bundle: (version, digest), journal } = contact;
        let held = noted.held.as_deref().unwrap_or_default();
        let [agent, at, agent_version, version, digest] = values![agent, at, agent_version, version, digest];
        let [id, counter, held, mark] = values![journal.id, journal.counter, held, journal.next_mark];
        let [from, address, admissions] = values![noted.commands_from, address, journal.admissions];
        [agent, at, agent_version, version, digest, id, counter, held, mark, from, address, admissions]
    });
    connection.execute_each(sql, rows)
}

/// What is known of an agent when its session begins.
struct AgentBefore {
    journals: KnownJournals,
    is_removed: bool,
    has_waiting: bool,
}

fn find_agents(
    connection: &mut Connection,
    group: &[Contact],
) -> Result<Vec<Option<AgentBefore>>, StoreError> {
    // The same as of [`Store::waiting`]: a session that begins with nothing to look for does not look.
    let sql = format!("SELECT removed_at,
                   EXISTS (SELECT 1 FROM targets JOIN commands ON sequence = command
                           WHERE targets.agent_id = ?1 AND state < {FIRST_ENDED} AND expires_at > ?3
                           AND cancelled_at = 0) AS has_waiting, journal_id, journal_counter, journal_admissions, journal_mark, held, commands_from,
                   EXISTS (SELECT 1 FROM journals WHERE agent_id = ?1 AND journal_id = ?2) AS is_known,
                   (SELECT count(*) FROM journals WHERE agent_id = ?1 AND first_at > approved_at) AS recent
               FROM agents WHERE agent_id = ?1");
    let rows = group.iter().map(|contact| values![contact.agent, contact.journal.id, contact.at]);
    connection.first_of_each(&sql, rows, |record| {
        let held: String = record.get("held")?;
        let held = Some(held).filter(|why| !why.is_empty());
        let journals = KnownJournals {
            last: record.get("journal_id")?,
            counter: record.get("journal_counter")?,
            admissions: record.get("journal_admissions")?,
            mark: record.get("journal_mark")?,
            is_known: record.get("is_known")?,
            recent: record.get("recent")?,
            noted: Noted { held, commands_from: record.get("commands_from")? },
        };
        let is_removed = record.get::<Timestamp>("removed_at")? != Timestamp::ZERO;
        Ok(AgentBefore { journals, is_removed, has_waiting: record.get("has_waiting")? })
    })
}

/// Records that agents were heard.
pub(in crate::store) fn note_signs_of_life(
    connection: &mut Connection,
    new: &[SignOfLife],
) -> Result<Vec<()>, StoreError> {
    // Of several of one agent the greatest count, and the last report.
    let mut latest = BTreeMap::<(AgentId, SessionMark), (Timestamp, u64)>::new();
    let mut reports = BTreeMap::new();
    for sign in new {
        let (mark, admissions) = sign.admissions;
        let known = latest.entry((sign.agent, mark)).or_default();
        *known = (sign.at.max(known.0), admissions.max(known.1));
        if let Some(report) = &sign.report {
            reports.insert(sign.agent, (sign.at, report));
        }
    }
    // What an older session says is nothing of the journal's present one.
    let sql = "UPDATE agents SET last_contact = CASE WHEN last_contact > ?3 THEN last_contact ELSE ?3 END,
               journal_admissions = CASE WHEN journal_admissions > ?4 THEN journal_admissions ELSE ?4 END
               WHERE agent_id = ?1 AND journal_mark = ?2";
    let rows = latest.iter().map(|((agent, mark), (at, admissions))| values![agent, mark, at, admissions]);
    connection.execute_each(sql, rows)?;
    note_reports(connection, &reports)?;
    Ok(vec![(); new.len()])
}

/// What an agent said the last time, without its facts.
#[derive(PartialEq, Eq)]
struct Said {
    bundle: (u64, Option<Digest>),
    settings_revision: u64,
    actions: String,
}

fn note_reports(
    connection: &mut Connection,
    reports: &BTreeMap<AgentId, (Timestamp, &Report)>,
) -> Result<(), StoreError> {
    let sql =
        "SELECT bundle_version, bundle_digest, settings_revision, actions FROM agents WHERE agent_id = ?1";
    let known = connection.first_of_each(sql, reports.keys().map(|agent| values![agent]), |record| {
        Ok(Said {
            bundle: (record.get("bundle_version")?, record.get("bundle_digest")?),
            settings_revision: record.get("settings_revision")?,
            actions: record.get("actions")?,
        })
    })?;
    // Most say what they said before: then only the time is written, and no list.
    let (mut same, mut changed) = (Vec::new(), Vec::new());
    for ((agent, (at, report)), known) in reports.iter().zip(known) {
        let said = Said {
            bundle: (report.bundle.0, Some(report.bundle.1)),
            settings_revision: report.settings_revision,
            actions: report.action_lines(),
        };
        note_facts(connection, *agent, &report.facts)?;
        if known.as_ref() == Some(&said) { same.push((agent, at)) } else { changed.push((agent, at, said)) }
    }
    let sql = "UPDATE agents SET reported_at = ?2 WHERE agent_id = ?1";
    connection.execute_each(sql, same.iter().map(|(agent, at)| values![agent, at]))?;
    let sql =
        "UPDATE agents SET reported_at = ?2, bundle_version = ?3, bundle_digest = ?4, settings_revision = ?5,
               actions = ?6 WHERE agent_id = ?1";
    let rows =
        changed.iter().map(|(agent, at, Said { bundle: (version, digest), settings_revision, actions })| {
            values![agent, at, version, digest, settings_revision, actions]
        });
    connection.execute_each(sql, rows)
}

fn note_facts(
    connection: &mut Connection,
    agent: AgentId,
    facts: &[(String, String)],
) -> Result<(), StoreError> {
    let sql = "SELECT name, value FROM attributes WHERE agent_id = ?1 AND source = ?2 ORDER BY name";
    let known = connection.fetch(sql, &values![agent, AttributeSource::Fact], |record| {
        Ok((record.get::<String>("name")?, record.get::<String>("value")?))
    })?;
    if known == facts {
        return Ok(());
    }
    let sql = "DELETE FROM attributes WHERE agent_id = ?1 AND source = ?2";
    connection.execute(sql, &values![agent, AttributeSource::Fact])?;
    for (name, value) in facts {
        put_attribute(connection, agent, (name, value), AttributeSource::Fact)?;
    }
    Ok(())
}
