//! What agents say when they come and while they stay: contacts, signs of life, reports.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};
use writ_common::command::ActionClass;
use writ_common::hello::JournalStanding;
use writ_common::id::{AgentId, Digest, SessionMark};
use writ_common::time::Timestamp;

use super::agents::{Source, put_attribute};
use super::alerts::raise;
use super::writer::Job;
use super::{Alarm, AlertKind, Pending, Store, StoreError, integer, time, unsigned};

/// Journals of one agent that are told apart; an honest one has a new one after a lost disk.
const MAX_JOURNALS: i64 = 16;

/// What an agent says of itself when a session begins.
#[derive(Debug, Clone)]
pub struct Contact {
    /// Who.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// Where it came from.
    pub address: String,
    /// Its version.
    pub agent_version: String,
    /// The bundle it holds.
    pub bundle: (u64, Digest),
    /// How its journal stands.
    pub journal: JournalStanding,
}

/// What the store knows of an agent whose session begins.
#[derive(Debug, Clone)]
pub struct Noted {
    /// Why nothing may be sent to it, if its journal went back or forked now or earlier.
    pub held: Option<String>,
    /// It must refuse what was issued earlier; zero: no such rule.
    pub commands_from: Timestamp,
}

/// That an agent was heard.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Who.
    pub agent: AgentId,
    /// When.
    pub at: Timestamp,
    /// The mark of its session, and how many admissions it has announced in it: the greatest number it said.
    pub admissions: (SessionMark, u64),
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

impl Store {
    /// Records that a session begins, if `gate` queues it; `None` if not. Contacts are recorded in the order
    /// of their gates.
    pub async fn note_contact(
        &self,
        contact: Contact,
        gate: impl FnOnce(Box<dyn FnOnce() + Send + '_>) -> bool,
    ) -> Result<Option<Noted>, StoreError> {
        match self.send_through(gate, |answer| Job::Contact(contact, answer)).await? {
            Some(pending) => Ok(Some(pending.committed().await?)),
            None => Ok(None),
        }
    }

    /// Records that an agent was heard, how far its journal is, and its report if it made one.
    pub async fn note_heard(&self, heard: Heard) -> Result<(), StoreError> {
        self.queue_heard(heard).await?.committed().await
    }

    /// The same with the next batch; whatever is queued later finds it recorded.
    ///
    /// # Errors
    /// When the writer has ended.
    pub async fn queue_heard(&self, heard: Heard) -> Result<Pending<()>, StoreError> {
        self.send(|answer| Job::Heard(heard, answer)).await
    }
}

/// Records that sessions began: those that are as the last time all together, the others one by one.
pub(super) fn note_contacts(
    connection: &mut SqliteConnection,
    new: Arc<Vec<Contact>>,
) -> BoxFuture<'_, Result<Vec<Noted>, StoreError>> {
    Box::pin(async move {
        let known = known_journals(connection, &new).await?;
        let (mut usual, mut rest, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
        let mut noted = vec![Noted { held: None, commands_from: Timestamp::ZERO }; new.len()];
        for (number, (contact, known)) in new.iter().zip(known).enumerate() {
            match known {
                Some(known) if known.is_continued_by(&contact.journal) && taken.insert(contact.agent) => {
                    noted[number] = known.noted();
                    usual.push(contact);
                }
                _ => rest.push((number, contact)),
            }
        }
        if !usual.is_empty() {
            let mut update = QueryBuilder::<Sqlite>::new(
                "WITH new(agent_id, at, version, bundle_version, bundle_digest, counter, admissions, mark, address) AS (",
            );
            update.push_values(usual, |mut row, contact| {
                row.push_bind(contact.agent.as_bytes().to_vec())
                    .push_bind(integer(contact.at.as_millis()))
                    .push_bind(contact.agent_version.clone())
                    .push_bind(integer(contact.bundle.0))
                    .push_bind(contact.bundle.1.as_bytes().to_vec())
                    .push_bind(integer(contact.journal.counter))
                    .push_bind(integer(contact.journal.admissions))
                    .push_bind(contact.journal.next_mark.as_bytes().to_vec())
                    .push_bind(contact.address.clone());
            });
            update.push(
                ") UPDATE agents SET last_contact = new.at, agent_version = new.version,
                 bundle_version = new.bundle_version, bundle_digest = new.bundle_digest, journal_counter = new.counter,
                 journal_admissions = new.admissions, journal_mark = new.mark, address = new.address FROM new WHERE agents.agent_id = new.agent_id",
            );
            update.build().persistent(false).execute(&mut *connection).await?;
        }
        for (number, contact) in rest {
            noted[number] = note_contact(connection, contact.clone()).await?;
        }
        Ok(noted)
    })
}

/// The journal an agent showed last.
struct LastShown {
    counter: u64,
    admissions: u64,
    mark: Option<SessionMark>,
    held: String,
    commands_from: Timestamp,
}

impl LastShown {
    fn noted(&self) -> Noted {
        let held = Some(self.held.clone()).filter(|why| !why.is_empty());
        Noted { held, commands_from: self.commands_from }
    }

    /// The same journal, later: it stands no earlier and has the mark of the last session this server knows
    /// of. (There may have been later ones, when the server was put back to an earlier state.) That of a
    /// session whose welcome the agent never heard is its next one (protocol.md §6.9).
    fn is_continued_by(&self, now: &JournalStanding) -> bool {
        let has_mark = match self.mark {
            None => now.marks.is_empty(),
            Some(mark) => mark == now.next_mark || now.marks.contains(&mark),
        };
        now.counter >= self.counter && now.admissions >= self.admissions && has_mark
    }
}

fn mark_of(stored: &[u8]) -> Result<SessionMark, StoreError> {
    SessionMark::try_from(stored).map_err(|_| StoreError::Damaged("journal mark"))
}

/// What is known of each agent that shows the journal it showed last.
async fn known_journals(
    connection: &mut SqliteConnection,
    new: &[Contact],
) -> Result<Vec<Option<LastShown>>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("WITH new(number, agent_id, journal_id) AS (");
    query.push_values((0_i64..).zip(new), |mut row, (number, contact)| {
        row.push_bind(number)
            .push_bind(contact.agent.as_bytes().to_vec())
            .push_bind(contact.journal.id.as_bytes().to_vec());
    });
    query.push(
        ") SELECT json_group_array(json_array(number, journal_counter, journal_admissions, hex(journal_mark), held, commands_from)) FROM new
         CROSS JOIN agents ON agents.agent_id = new.agent_id AND agents.journal_id = new.journal_id",
    );
    let rows: String = query.build().persistent(false).fetch_one(connection).await?.try_get(0)?;
    let rows: Vec<(usize, u64, u64, String, String, u64)> =
        serde_json::from_str(&rows).map_err(|_| StoreError::Damaged("journal"))?;
    let mut known: Vec<_> = new.iter().map(|_| None).collect();
    for (number, counter, admissions, mark, held, from) in rows {
        let mark = hex::decode(mark).map_err(|_| StoreError::Damaged("journal mark"))?;
        let mark = (!mark.is_empty()).then(|| mark_of(&mark)).transpose()?;
        if let Some(known) = known.get_mut(number) {
            let commands_from = Timestamp::from_millis(from);
            *known = Some(LastShown { counter, admissions, mark, held, commands_from });
        }
    }
    Ok(known)
}

/// Records that agents were heard: facts that changed one by one, everything else all together.
pub(super) fn note_all_heard(
    connection: &mut SqliteConnection,
    new: Arc<Vec<Heard>>,
) -> BoxFuture<'_, Result<Vec<()>, StoreError>> {
    Box::pin(async move {
        // Of several of one agent the greatest count.
        let mut latest = BTreeMap::<(AgentId, SessionMark), (Timestamp, u64)>::new();
        for heard in new.iter() {
            let (at, admissions) = latest.entry((heard.agent, heard.admissions.0)).or_default();
            *at = heard.at.max(*at);
            *admissions = heard.admissions.1.max(*admissions);
        }
        let mut update = QueryBuilder::<Sqlite>::new("WITH new(agent_id, mark, at, admissions) AS (");
        update.push_values(&latest, |mut row, ((agent, mark), (at, admissions))| {
            row.push_bind(agent.as_bytes().to_vec())
                .push_bind(mark.as_bytes().to_vec())
                .push_bind(integer(at.as_millis()))
                .push_bind(integer(*admissions));
        });
        update.push(
            ") UPDATE agents SET last_contact = max(last_contact, new.at),
             journal_admissions = max(journal_admissions, new.admissions)
             FROM new WHERE agents.agent_id = new.agent_id AND journal_mark = new.mark",
        );
        update.build().persistent(false).execute(&mut *connection).await?;
        // Of several of one agent the last.
        let reports: BTreeMap<_, _> =
            new.iter().filter_map(|heard| Some((heard.agent, (heard.at, heard.report.as_ref()?)))).collect();
        let reports: Vec<_> = reports.into_iter().map(|(agent, (at, report))| (agent, at, report)).collect();
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
    let (mut unchanged, mut changed) = (Vec::new(), Vec::new());
    for (number, version, digest, revision, actions, facts) in rows {
        let Some((agent, at, report)) = reports.get(number) else { continue };
        let is_known = version == report.bundle.0
            && digest.is_some_and(|digest| digest.eq_ignore_ascii_case(&report.bundle.1.to_string()))
            && revision == report.settings_revision
            && actions == report.action_lines();
        if is_known {
            unchanged.push((agent, at));
        } else {
            changed.push((agent, at, report));
        }
        if facts != report.facts {
            note_facts(connection, *agent, &report.facts).await?;
        }
    }
    if !changed.is_empty() {
        let mut update =
            QueryBuilder::<Sqlite>::new("WITH new(agent_id, at, version, digest, revision, actions) AS (");
        update.push_values(changed, |mut row, (agent, at, report)| {
            row.push_bind(agent.as_bytes().to_vec())
                .push_bind(integer(at.as_millis()))
                .push_bind(integer(report.bundle.0))
                .push_bind(report.bundle.1.as_bytes().to_vec())
                .push_bind(integer(report.settings_revision))
                .push_bind(report.action_lines());
        });
        update.push(
            ") UPDATE agents SET reported_at = new.at, bundle_version = new.version, bundle_digest = new.digest,
             settings_revision = new.revision, actions = new.actions FROM new WHERE agents.agent_id = new.agent_id",
        );
        update.build().persistent(false).execute(&mut *connection).await?;
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

async fn note_contact(connection: &mut SqliteConnection, contact: Contact) -> Result<Noted, StoreError> {
    let Contact { agent, at, address, agent_version, bundle, journal } = contact;
    let key = agent.as_bytes().as_slice();
    let row = sqlx::query(
        "SELECT journal_id, journal_counter, journal_admissions, journal_mark, held, commands_from,
                EXISTS (SELECT 1 FROM journals WHERE agent_id = $1 AND journal_id = $2) AS is_known,
                (SELECT count(*) FROM journals WHERE agent_id = $1 AND first_at > approved_at) AS journals
         FROM agents WHERE agent_id = $1",
    )
    .bind(key)
    .bind(journal.id.as_bytes().as_slice())
    .fetch_one(&mut *connection)
    .await?;
    let latest: Option<Vec<u8>> = row.try_get("journal_id")?;
    let is_latest = latest.as_deref() == Some(journal.id.as_bytes().as_slice());
    let mark: Option<Vec<u8>> = row.try_get("journal_mark")?;
    let mark = mark.as_deref().map(mark_of).transpose()?;
    let counter = unsigned(&row, "journal_counter")?;
    let admissions = unsigned(&row, "journal_admissions")?;
    let held = row.try_get("held")?;
    let last = LastShown { counter, admissions, mark, held, commands_from: time(&row, "commands_from")? };
    let is_known: bool = row.try_get("is_known")?;
    let wrong = if is_latest && !last.is_continued_by(&journal) {
        Some(format!(
            "its journal stands at {} with {} commands admitted, and its last session wrote more there (it stood at {counter} with {admissions}, or later): the host was put back to an earlier state, or two hosts share its identity",
            journal.counter, journal.admissions
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
    let mut noted = last.noted();
    if let Some(wrong) = wrong {
        let alarm = Alarm {
            kind: AlertKind::Rewound,
            code: "",
            agent,
            count: 1,
            detail: format!("Nothing is sent to it until an operator decides: {wrong}."),
        };
        raise(connection, &alarm, at).await?;
        // What it may have obeyed and forgotten was issued before now.
        noted = Noted { held: Some(wrong), commands_from: at };
    } else if !is_known {
        sqlx::query("INSERT INTO journals VALUES ($1, $2, $3)")
            .bind(key)
            .bind(journal.id.as_bytes().as_slice())
            .bind(integer(at.as_millis()))
            .execute(&mut *connection)
            .await?;
        if latest.is_some() {
            noted.commands_from = at;
            let detail =
                "It began a new journal. Commands issued before that are refused as `too_old`.".to_owned();
            let alarm = Alarm { kind: AlertKind::JournalReplaced, code: "", agent, count: 1, detail };
            raise(connection, &alarm, at).await?;
        }
    }
    sqlx::query(
        "UPDATE agents SET last_contact = $2, agent_version = $3, bundle_version = $4, bundle_digest = $5,
         journal_id = $6, journal_counter = $7, held = $8, journal_mark = $9,
         commands_from = $10, address = $11, journal_admissions = $12 WHERE agent_id = $1",
    )
    .bind(key)
    .bind(integer(at.as_millis()))
    .bind(agent_version.clone())
    .bind(integer(bundle.0))
    .bind(bundle.1.as_bytes().as_slice())
    .bind(journal.id.as_bytes().as_slice())
    .bind(integer(journal.counter))
    .bind(noted.held.clone().unwrap_or_default())
    .bind(journal.next_mark.as_bytes().as_slice())
    .bind(integer(noted.commands_from.as_millis()))
    .bind(address)
    .bind(integer(journal.admissions))
    .execute(&mut *connection)
    .await?;
    Ok(noted)
}

async fn note_facts(
    connection: &mut SqliteConnection,
    agent: AgentId,
    facts: &[(String, String)],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM attributes WHERE agent_id = $1 AND source = 2")
        .bind(agent.as_bytes().to_vec())
        .execute(&mut *connection)
        .await?;
    for (name, value) in facts {
        put_attribute(connection, agent, name.clone(), value.clone(), Source::Fact).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use writ_common::id::JournalId;

    #[test]
    fn a_journal_continues_with_the_mark_of_its_last_session_or_of_one_it_never_heard_the_welcome_of() {
        let mark = |byte| SessionMark::from_bytes([byte; 16]);
        let (held, commands_from) = (String::new(), Timestamp::ZERO);
        let last = LastShown { counter: 9, admissions: 4, mark: Some(mark(2)), held, commands_from };
        let journal = |counter, marks: &[u8], next_mark| JournalStanding {
            id: JournalId::from_bytes([0; 16]),
            counter,
            admissions: 4,
            marks: marks.iter().copied().map(mark).collect(),
            next_mark: mark(next_mark),
        };
        assert!(last.is_continued_by(&journal(9, &[2, 1], 3)));
        assert!(last.is_continued_by(&journal(9, &[1], 2)), "its welcome got lost");
        assert!(last.is_continued_by(&journal(9, &[4, 3, 2, 1], 5)), "the server was put back");
        assert!(!last.is_continued_by(&journal(8, &[2, 1], 3)), "the counter went back");
        assert!(!last.is_continued_by(&journal(99, &[1], 3)), "the counter caught up, the mark did not");
        let fewer = JournalStanding { admissions: 3, ..journal(99, &[2, 1], 3) };
        assert!(!last.is_continued_by(&fewer), "it was put back within the session, and finished what ran");
    }
}
