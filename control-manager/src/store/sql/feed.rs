//! What entities fetch of suspicious objects, and which key fetches for whom.

use writ_database::{Connection, Record, ToValue as _, values};
use writ_objects::{Object, ObjectType, ObjectsChange, Source};
use writ_protocol::command::Remedy;
use writ_protocol::id::{Digest, EntityId};
use writ_protocol::keys::PublicKey;
use writ_protocol::time::Timestamp;

use super::super::rows::{EntityRow, FeedState};
use super::super::{Change, Store, StoreError};

/// What acts no more and is still told of.
const MAX_GONE: u64 = 50_000;

fn state(connection: &mut Connection) -> Result<Option<FeedState>, StoreError> {
    connection.first("SELECT * FROM object_feed_state", &[], |record| {
        Ok(FeedState {
            version: record.get("version")?,
            since: record.get("since")?,
            list: record.get("list")?,
        })
    })
}

impl Store {
    /// What entities fetch; nothing before the manager has looked for the first time.
    pub(crate) async fn feed_state(&self) -> Result<Option<FeedState>, StoreError> {
        self.database.read(state).await
    }

    /// The version and what has changed since an earlier one; zero: the whole list. One statement, so that
    /// both are of one moment.
    pub(crate) async fn feed_since(
        &self,
        base: u64,
    ) -> Result<Option<(FeedState, ObjectsChange)>, StoreError> {
        let sql = "SELECT s.version AS now, s.since, s.list, f.kind, f.value, f.remedy, f.expires_at, f.note, f.is_gone
                   FROM object_feed_state AS s
                   LEFT JOIN object_feed AS f ON f.version > ?1 AND (?1 > 0 OR f.is_gone = 0)";
        let rows = self.database.read(move |connection| {
            connection.fetch(sql, &values![base], |record| {
                let state = FeedState {
                    version: record.get("now")?,
                    since: record.get("since")?,
                    list: record.get("list")?,
                };
                let is_gone: Option<bool> = record.get("is_gone")?;
                Ok((
                    state,
                    is_gone.map(|is_gone| Ok::<_, StoreError>((is_gone, object(record)?))).transpose()?,
                ))
            })
        });
        let (mut change, mut of) = (ObjectsChange::default(), None);
        for (state, row) in rows.await? {
            of = Some(state);
            match row {
                Some((false, object)) => change.put.push(object),
                Some((true, object)) => change.gone.push((object.kind(), object.value().to_owned())),
                None => {}
            }
        }
        Ok(of.map(|state| (state, change)))
    }

    /// Makes a change the newest version.
    pub(crate) async fn change_feed(
        &self,
        change: ObjectsChange,
        list: Digest,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.database.write(move |connection| write(connection, &change, list, now)).await
    }
}

fn write(
    connection: &mut Connection,
    change: &ObjectsChange,
    list: Digest,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let before = state(connection)?;
    // Greater than any before, also after the database was lost.
    let version = now.as_millis().max(before.as_ref().map_or(0, |state| state.version) + 1);
    let since = before.map_or(version, |state| state.since);
    let sql = "INSERT INTO object_feed (kind, value, remedy, expires_at, note, version, is_gone)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0) ON CONFLICT (kind, value) DO UPDATE
               SET remedy = ?3, expires_at = ?4, note = ?5, version = ?6, is_gone = 0";
    for object in &change.put {
        let end = object.expires_at.unwrap_or_default();
        let (kind, remedy) = (object.kind().as_str(), object.remedy().as_str());
        connection.execute(sql, &values![kind, object.value(), remedy, end, object.note(), version])?;
    }
    let sql = "UPDATE object_feed SET is_gone = 1, version = ?3 WHERE kind = ?1 AND value = ?2";
    for (kind, value) in &change.gone {
        connection.execute(sql, &values![kind.as_str(), value, version])?;
    }
    let since = forget_gone(connection)?.map_or(since, |forgotten| forgotten.max(since));
    let sql = "INSERT INTO object_feed_state (only_row, version, since, list) VALUES (1, ?1, ?2, ?3)
               ON CONFLICT (only_row) DO UPDATE SET version = ?1, since = ?2, list = ?3";
    connection.execute(sql, &values![version, since, list])?;
    Ok(version)
}

/// Forgets what has been gone the longest, if that is too much; the latest version that is forgotten.
fn forget_gone(connection: &mut Connection) -> Result<Option<u64>, StoreError> {
    let sql = "SELECT version FROM object_feed WHERE is_gone = 1 ORDER BY version DESC LIMIT 1 OFFSET ?1";
    let oldest: Option<u64> = connection.first(sql, &values![MAX_GONE], |record| record.get("version"))?;
    if let Some(version) = oldest {
        let sql = "DELETE FROM object_feed WHERE is_gone = 1 AND version <= ?1";
        connection.execute(sql, &values![version])?;
    }
    Ok(oldest)
}

fn object(record: &Record<'_>) -> Result<Object, StoreError> {
    let damaged = || StoreError::Damaged("object that entities fetch");
    let text = |name| record.get::<String>(name);
    let kind: ObjectType = text("kind")?.parse().map_err(|_| damaged())?;
    let remedy = Remedy::from_name(&text("remedy")?).ok_or_else(damaged)?;
    let object = Object::new(kind, &text("value")?, remedy, Source::Manager);
    let mut object = object.and_then(|object| object.with_note(&text("note").unwrap_or_default()));
    if let Ok(object) = &mut object {
        let end: Timestamp = record.get("expires_at")?;
        object.expires_at = (end != Timestamp::ZERO).then_some(end);
    }
    object.map_err(|_| damaged())
}

impl Change<'_> {
    /// Has a key, and no other, fetch for an entity.
    pub(crate) fn subscribe(
        &mut self,
        entity: &EntityRow,
        key: &PublicKey,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO subscriptions (entity_id, public_key, issued_at) VALUES (?1, ?2, ?3)
                   ON CONFLICT (entity_id) DO UPDATE SET public_key = ?2, issued_at = ?3, counter = 0";
        let spki = key.spki();
        self.0.execute(sql, &values![entity.id, spki, now]).map(drop)
    }

    /// Whether a key is another entity's subscription.
    pub(crate) fn is_key_of_another(
        &mut self,
        entity: EntityId,
        key: &PublicKey,
    ) -> Result<bool, StoreError> {
        let spki = key.spki();
        let sql = "SELECT 1 FROM subscriptions WHERE public_key = ?1 AND entity_id <> ?2";
        Ok(self.0.first(sql, &values![spki, entity], |_| Ok(()))?.is_some())
    }

    /// Nobody fetches for an entity; that it was revoked stays.
    pub(crate) fn end_subscription(&mut self, entity: EntityId) -> Result<(), StoreError> {
        self.0.execute("DELETE FROM subscriptions WHERE entity_id = ?1", &values![entity]).map(drop)
    }

    /// Nobody fetches for an entity, and nobody will, whatever it is called next.
    pub(crate) fn revoke_subscription(
        &mut self,
        entity: &EntityRow,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.end_subscription(entity.id)?;
        let sql = "INSERT INTO revoked_subscriptions (entity_key, revoked_at) VALUES (?1, ?2)
                   ON CONFLICT (entity_key) DO NOTHING";
        let spki = entity.key.spki();
        self.0.execute(sql, &values![spki, now]).map(drop)
    }

    /// Somebody may fetch for an entity again.
    pub(crate) fn allow_subscription(&mut self, entity: &EntityRow) -> Result<(), StoreError> {
        let spki = entity.key.spki();
        let sql = "DELETE FROM revoked_subscriptions WHERE entity_key = ?1";
        self.0.execute(sql, &values![spki]).map(drop)
    }

    /// An entity asked, and said what it holds.
    pub(crate) fn note_fetch(
        &mut self,
        entity: EntityId,
        (held, counter): (u64, u64),
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE subscriptions SET held = ?2, fetched_at = ?3, counter = ?4 WHERE entity_id = ?1";
        self.0.execute(sql, &values![entity, held, now, counter]).map(drop)
    }
}
