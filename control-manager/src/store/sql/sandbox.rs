//! What the sandbox said.

use std::collections::BTreeSet;

use writ_database::{Connection, KeepOrUndo, Record, ToValue as _, put_objects, too_many_objects, values};
use writ_objects::service::Changed;
use writ_objects::stix::{Read, merge};
use writ_objects::{MAX_OBJECTS, Object, ObjectType, Source};
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use super::super::rows::{SandboxNoteRow, SandboxState};
use super::super::{Store, StoreError};

/// Who added an object that an analysis found.
const BY: &str = "sandbox";
/// Notes that are kept.
const MAX_NOTES: u64 = 1000;
/// Values of all indicators: several may name one.
const MAX_INDICATORS: usize = 3 * MAX_OBJECTS;
/// Values that are forgotten in one change, so that others have their turn between.
const FORGOTTEN_AT_ONCE: u32 = 2000;

/// Whether there is more than may be; then how much may.
fn too_many(connection: &mut Connection) -> Result<Option<usize>, StoreError> {
    let sql = "SELECT count(*) AS there FROM sandbox_indicators";
    let there: u64 = connection.only(sql, &[], |record| record.get("there"))?;
    if usize::try_from(there).is_ok_and(|there| there > MAX_INDICATORS) {
        return Ok(Some(MAX_INDICATORS));
    }
    too_many_objects(connection)
}

impl Store {
    /// What is known of the sandbox.
    pub(crate) async fn sandbox(&self) -> Result<SandboxState, StoreError> {
        let sql = "SELECT * FROM sandbox";
        let read = |record: &Record<'_>| {
            Ok(SandboxState {
                collection: record.get("collection")?,
                added_after: record.get("added_after")?,
                asked_at: record.get("asked_at")?,
                read_at: record.get("read_at")?,
                whole_at: record.get("whole_at")?,
                reading: record.get("reading")?,
                error: record.get("error")?,
            })
        };
        let state = self.database.read(move |connection| connection.first(sql, &[], read)).await?;
        Ok(state.unwrap_or_default())
    }

    /// Notes how the sandbox stands.
    pub(crate) async fn note_sandbox(&self, state: SandboxState) -> Result<(), StoreError> {
        let sql = "INSERT INTO sandbox (only_row, collection, added_after, asked_at, read_at, whole_at, error, reading)
                   VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (only_row) DO UPDATE
                   SET collection = ?1, added_after = ?2, asked_at = ?3, read_at = ?4, whole_at = ?5, error = ?6,
                       reading = ?7";
        let write = move |connection: &mut Connection| {
            let SandboxState { collection, added_after, asked_at, read_at, whole_at, reading, error } =
                &state;
            let values = values![collection, added_after, asked_at, read_at, whole_at, error, reading];
            connection.execute(sql, &values).map(drop)
        };
        self.database.write(write).await
    }

    /// Indicators that name objects.
    pub(crate) async fn count_indicators(&self) -> Result<u64, StoreError> {
        let sql = "SELECT count(DISTINCT indicator) AS there FROM sandbox_indicators";
        self.database.read(|connection| connection.only(sql, &[], |record| record.get("there"))).await
    }

    /// What was not taken, latest first.
    pub(crate) async fn sandbox_notes(&self) -> Result<Vec<SandboxNoteRow>, StoreError> {
        let sql = "SELECT * FROM sandbox_notes ORDER BY sequence DESC LIMIT ?1";
        let read = |record: &Record<'_>| {
            Ok(SandboxNoteRow {
                id: record.get("indicator")?,
                name: record.get("name")?,
                why: record.get("why")?,
                at: record.get("at")?,
            })
        };
        self.database.read(move |connection| connection.fetch(sql, &values![MAX_NOTES], read)).await
    }

    /// Takes what the sandbox says in a reading: each thing in the place of what it said before under the same
    /// id. All of it, or nothing if there would be too much.
    pub(crate) async fn take_indicators(
        &self,
        things: Vec<Read>,
        (now, reading): (Timestamp, u64),
    ) -> Result<Changed, StoreError> {
        self.database
            .decide(move |connection| {
                let mut touched = BTreeSet::new();
                for thing in &things {
                    replace(connection, thing, reading, &mut touched)?;
                    note(connection, thing, now)?;
                }
                let mut changed = 0;
                for about in touched {
                    changed += settle(connection, about, now)?;
                }
                let sql = "DELETE FROM sandbox_notes WHERE sequence <=
                             (SELECT max(sequence) FROM sandbox_notes) - ?1";
                connection.execute(sql, &values![MAX_NOTES])?;
                Ok(match too_many(connection)? {
                    Some(most) => KeepOrUndo::Undo(Changed::TooMany(most)),
                    None => KeepOrUndo::Keep(Changed::Done(changed)),
                })
            })
            .await
    }

    /// Forgets some of what was not there any more in a reading, and how much; none: there is no more of it.
    pub(crate) async fn forget_unseen(&self, reading: u64, now: Timestamp) -> Result<u64, StoreError> {
        let sql = "SELECT indicator, kind, value FROM sandbox_indicators WHERE seen < ?1 LIMIT ?2";
        self.database
            .write(move |connection| {
                let gone = connection.fetch(sql, &values![reading, FORGOTTEN_AT_ONCE], |record| {
                    let text = |name| record.get::<String>(name);
                    Ok((text("indicator")?, (text("kind")?, text("value")?)))
                })?;
                for (indicator, (kind, value)) in &gone {
                    let sql = "DELETE FROM sandbox_indicators
                               WHERE indicator = ?1 AND kind = ?2 AND value = ?3";
                    connection.execute(sql, &values![indicator, kind, value])?;
                }
                let touched: BTreeSet<About> = gone.iter().map(|(_, about)| about.clone()).collect();
                for about in touched {
                    settle(connection, about, now)?;
                }
                Ok(u64::try_from(gone.len()).unwrap_or(u64::MAX))
            })
            .await
    }
}

type About = (String, String);

/// What an indicator names now, in the place of what it named.
fn replace(
    connection: &mut Connection,
    thing: &Read,
    reading: u64,
    touched: &mut BTreeSet<About>,
) -> Result<(), StoreError> {
    let sql = "SELECT kind, value FROM sandbox_indicators WHERE indicator = ?1";
    let about = |record: &Record<'_>| Ok((record.get("kind")?, record.get("value")?));
    touched.extend(connection.fetch(sql, &values![thing.id], about)?);
    connection.execute("DELETE FROM sandbox_indicators WHERE indicator = ?1", &values![thing.id])?;
    let sql = "INSERT INTO sandbox_indicators (indicator, kind, value, remedy, expires_at, note, seen)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (indicator, kind, value) DO NOTHING";
    for object in &thing.objects {
        let end = object.expires_at.unwrap_or_default();
        let (kind, remedy) = (object.kind().as_str(), object.remedy().as_str());
        let row = values![thing.id, kind, object.value(), remedy, end, object.note(), reading];
        connection.execute(sql, &row)?;
        touched.insert((kind.to_owned(), object.value().to_owned()));
    }
    Ok(())
}

/// A value is an object as long as an indicator names it, with the strongest remedy and the latest end that
/// any of them gives.
fn settle(connection: &mut Connection, (kind, value): About, now: Timestamp) -> Result<u64, StoreError> {
    let sql = "SELECT * FROM sandbox_indicators WHERE kind = ?1 AND value = ?2 ORDER BY indicator";
    let named = connection.fetch(sql, &values![kind, value], |record| {
        let damaged = || StoreError::Damaged("indicator of the sandbox");
        let text = |name| record.get::<String>(name);
        let kind: ObjectType = text("kind")?.parse().map_err(|_| damaged())?;
        let remedy = Remedy::from_name(&text("remedy")?).ok_or_else(damaged)?;
        let object = Object::new(kind, &text("value")?, remedy, Source::Sandbox).map_err(|_| damaged())?;
        let mut object = object.with_note(&text("note")?).map_err(|_| damaged())?;
        let end: Timestamp = record.get("expires_at")?;
        object.expires_at = (end != Timestamp::ZERO).then_some(end);
        Ok(object)
    })?;
    match merge(named) {
        Some(object) => put_objects(connection, &[object], BY, now),
        None => {
            let sql = "DELETE FROM objects WHERE kind = ?1 AND value = ?2 AND source = 'sandbox'";
            connection.execute(sql, &values![kind, value])
        }
    }
}

fn note(connection: &mut Connection, thing: &Read, now: Timestamp) -> Result<(), StoreError> {
    // Reports and relationships are in every collection; that they are no indicators is no news.
    if !thing.id.starts_with("indicator--") {
        return Ok(());
    }
    connection.execute("DELETE FROM sandbox_notes WHERE indicator = ?1", &values![thing.id])?;
    let sql = "INSERT INTO sandbox_notes (indicator, name, why, at) VALUES (?1, ?2, ?3, ?4)";
    for why in &thing.left {
        connection.execute(sql, &values![thing.id, thing.name, why, now])?;
    }
    Ok(())
}
