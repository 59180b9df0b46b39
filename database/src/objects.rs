//! Suspicious objects and exceptions, in the tables of `objects.sql`.

use std::collections::HashSet;

use writ_objects::service::{
    After, Change, Changed, ExceptionRow, ListedObject, MAX_EXCEPTIONS, ObjectRow, ObjectStore, Received,
};
use writ_objects::{MAX_OBJECT_BYTES, MAX_OBJECTS, Object, Source};
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use crate::{Connection, Database, DatabaseError, KeepOrUndo, Record, ToValue as _, values};

/// The tables, for a migration.
pub const OBJECT_TABLES: &str = include_str!("objects.sql");

impl<J: Send + 'static> ObjectStore for Database<J> {
    type Error = DatabaseError;

    async fn all_objects(&self) -> Result<(Vec<ObjectRow>, Vec<ExceptionRow>), DatabaseError> {
        self.read(|connection| {
            let objects =
                connection.fetch("SELECT * FROM objects ORDER BY kind, value, source", &[], read_object)?;
            let sql = "SELECT * FROM object_exceptions ORDER BY kind, value";
            Ok((objects, connection.fetch(sql, &[], read_exception)?))
        })
        .await
    }

    async fn listed_objects(
        &self,
        (kind, value, source): After,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<ListedObject>, DatabaseError> {
        // One page, by the primary key, and for each row two look-ups by one.
        // As `Source` orders them.
        let rank = |of: &str| {
            format!(
                "CASE {of}.source WHEN 'operator' THEN 3 WHEN 'manager' THEN 2 WHEN 'analysed' THEN 1 ELSE 0 END"
            )
        };
        let sql = "SELECT *,
                     EXISTS (SELECT 1 FROM object_exceptions AS e
                             WHERE e.kind = o.kind AND e.value = o.value) AS is_excepted,
                     EXISTS (SELECT 1 FROM objects AS r
                             WHERE r.kind = o.kind AND r.value = o.value AND RANK(r) > RANK(o)
                               AND (r.expires_at = 0 OR r.expires_at > ?5)) AS is_ruled
                   FROM objects AS o WHERE (kind, value, source) > (?1, ?2, ?3)
                   ORDER BY kind, value, source LIMIT ?4";
        let sql = sql.replace("RANK(r)", &rank("r")).replace("RANK(o)", &rank("o"));
        self.read(move |connection| {
            connection.fetch(&sql, &values![kind, value, source, limit, now], |record| {
                let row = read_object(record)?;
                let (is_excepted, is_ruled) = (record.get("is_excepted")?, record.get("is_ruled")?);
                Ok(ListedObject { row, is_excepted, is_ruled })
            })
        })
        .await
    }

    async fn listed_exceptions(
        &self,
        (kind, value): (String, String),
        limit: u32,
    ) -> Result<Vec<ExceptionRow>, DatabaseError> {
        let sql =
            "SELECT * FROM object_exceptions WHERE (kind, value) > (?1, ?2) ORDER BY kind, value LIMIT ?3";
        self.read(move |connection| connection.fetch(sql, &values![kind, value, limit], read_exception)).await
    }

    async fn change_objects(
        &self,
        change: Change,
        by: String,
        now: Timestamp,
    ) -> Result<Changed, DatabaseError> {
        self.decide(move |connection| {
            let changed = apply(connection, &change, &by, now)?;
            // Looked at afterwards: of what is added some is there already.
            if let Some(most) = too_many_objects(connection)? {
                return Ok(KeepOrUndo::Undo(Changed::TooMany(most)));
            }
            Ok(KeepOrUndo::Keep(Changed::Done(changed)))
        })
        .await
    }
}

impl<J: Send + 'static> Database<J> {
    /// The objects of one source, by type and value.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn objects_of(&self, source: Source) -> Result<Vec<Object>, DatabaseError> {
        let sql = "SELECT * FROM objects WHERE source = ?1 ORDER BY kind, value";
        let rows = self.read(move |connection| connection.fetch(sql, &values![source.as_str()], read_object));
        Ok(rows.await?.into_iter().map(|row| row.object).collect())
    }

    /// How many objects a source has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_objects_of(&self, source: Source) -> Result<u64, DatabaseError> {
        let sql = "SELECT count(*) AS there FROM objects WHERE source = ?1";
        self.read(move |connection| {
            connection.only(sql, &values![source.as_str()], |record| record.get("there"))
        })
        .await
    }
}

fn apply(
    connection: &mut Connection,
    change: &Change,
    by: &str,
    now: Timestamp,
) -> Result<u64, DatabaseError> {
    match change {
        Change::Add(objects) => put_objects(connection, objects, by, now),
        Change::Remove(kind, value, source) => {
            let sql =
                "DELETE FROM objects WHERE kind = ?1 AND value = ?2 AND source NOT IN ('manager', 'sandbox')
                         AND (?3 = '' OR source = ?3)";
            let source = source.map_or("", Source::as_str);
            connection.execute(sql, &values![kind.as_str(), value, source])
        }
        Change::Expire(kind, value, end) => {
            let sql = "UPDATE objects SET expires_at = ?3 WHERE kind = ?1 AND value = ?2 AND expires_at <> ?3
                   AND source NOT IN ('manager', 'sandbox')";
            connection.execute(sql, &values![kind.as_str(), value, end.unwrap_or_default()])
        }
        Change::Except(kind, value, note) => {
            let sql = "INSERT INTO object_exceptions (kind, value, note, added_by, added_at)
                       VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (kind, value) DO UPDATE SET note = ?3
                       WHERE note <> ?3";
            connection.execute(sql, &values![kind.as_str(), value, note, by, now])
        }
        Change::RemoveException(kind, value) => {
            let sql = "DELETE FROM object_exceptions WHERE kind = ?1 AND value = ?2";
            connection.execute(sql, &values![kind.as_str(), value])
        }
        Change::Received(received) => receive(connection, received, by, now),
    }
}

/// Adds objects, or puts them in the place of those of their type, value and source; how many are another
/// now. The same object again changes nothing: neither who added it nor when.
///
/// # Errors
/// When the database fails.
pub fn put_objects(
    connection: &mut Connection,
    objects: &[Object],
    by: &str,
    now: Timestamp,
) -> Result<u64, DatabaseError> {
    let sql = "INSERT INTO objects (kind, value, source, remedy, expires_at, note, added_by, added_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT (kind, value, source) DO UPDATE
               SET remedy = ?4, expires_at = ?5, note = ?6, added_by = ?7, added_at = ?8
               WHERE remedy <> ?4 OR expires_at <> ?5 OR note <> ?6";
    let mut changed = 0;
    for object in objects {
        let end = object.expires_at.unwrap_or_default();
        let (kind, source, remedy) =
            (object.kind().as_str(), object.source.as_str(), object.remedy().as_str());
        let row = values![kind, object.value(), source, remedy, end, object.note(), by, now];
        changed += connection.execute(sql, &row)?;
    }
    Ok(changed)
}

/// Whether there are more objects of a source, or exceptions, than may be; then how many may.
///
/// # Errors
/// When the database fails.
pub fn too_many_objects(connection: &mut Connection) -> Result<Option<usize>, DatabaseError> {
    // Of each source for itself: who fills theirs keeps no other from saying something.
    for (sql, most) in [
        (
            "SELECT coalesce(max(there), 0) AS there
             FROM (SELECT count(*) AS there FROM objects GROUP BY source) AS of_each",
            MAX_OBJECTS,
        ),
        (
            "SELECT coalesce(max(there), 0) AS there
             FROM (SELECT sum(length(value)) AS there FROM objects GROUP BY source) AS of_each",
            MAX_OBJECT_BYTES,
        ),
        ("SELECT count(*) AS there FROM object_exceptions", MAX_EXCEPTIONS),
    ] {
        let there: u64 = connection.only(sql, &[], |record| record.get("there"))?;
        if usize::try_from(there).is_ok_and(|there| there > most) {
            return Ok(Some(most));
        }
    }
    Ok(None)
}

fn receive(
    connection: &mut Connection,
    received: &Received,
    by: &str,
    now: Timestamp,
) -> Result<u64, DatabaseError> {
    let Received { is_whole, put, gone } = received;
    let mut gone = gone.clone();
    if *is_whole {
        let sql = "SELECT * FROM objects WHERE source = 'manager'";
        let held = connection.fetch(sql, &[], read_object)?;
        let stays: HashSet<_> = put.iter().map(|object| (object.kind(), object.value())).collect();
        let held = held.into_iter().map(|row| (row.object.kind(), row.object.value().to_owned()));
        gone.extend(held.filter(|(kind, value)| !stays.contains(&(*kind, value.as_str()))));
    }
    let mut changed = 0;
    for (kind, value) in &gone {
        let sql = "DELETE FROM objects WHERE kind = ?1 AND value = ?2 AND source = 'manager'";
        changed += connection.execute(sql, &values![kind.as_str(), value])?;
    }
    Ok(changed + put_objects(connection, put, by, now)?)
}

fn read_object(record: &Record<'_>) -> Result<ObjectRow, DatabaseError> {
    let damaged = DatabaseError::Damaged("object");
    let text = |name| record.get::<String>(name);
    let (kind, source, remedy) = (text("kind")?.parse().ok(), text("source")?.parse().ok(), text("remedy")?);
    let (Some(kind), Some(source), Some(remedy)) = (kind, source, Remedy::from_name(&remedy)) else {
        return Err(damaged);
    };
    let (value, note) = (text("value")?, text("note")?);
    let object = Object::new(kind, &value, remedy, source).and_then(|object| object.with_note(&note));
    let Ok(mut object) = object else { return Err(damaged) };
    let end: Timestamp = record.get("expires_at")?;
    object.expires_at = (end != Timestamp::ZERO).then_some(end);
    Ok(ObjectRow { object, added_by: text("added_by")?, added_at: record.get("added_at")? })
}

fn read_exception(record: &Record<'_>) -> Result<ExceptionRow, DatabaseError> {
    let kind = record.get::<String>("kind")?.parse();
    Ok(ExceptionRow {
        kind: kind.map_err(|_| DatabaseError::Damaged("exception of an object"))?,
        value: record.get("value")?,
        note: record.get("note")?,
        added_by: record.get("added_by")?,
        added_at: record.get("added_at")?,
    })
}
