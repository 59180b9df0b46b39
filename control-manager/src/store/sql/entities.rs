//! Entities: one row for each key that ever registered and was not forgotten.

use prost::Message as _;
use writ_database::{Connection, Record, ToValue as _, values};
use writ_proto::manager::v1 as proto;
use writ_protocol::id::EntityId;
use writ_protocol::keys::PublicKey;
use writ_protocol::manager::Registration;
use writ_protocol::time::Timestamp;

use super::super::rows::{Counts, EntityAdmission, EntityRow, FIRST_ENDED, SubscriptionRow};
use super::super::{Change, Store, StoreError};

/// Listed entities: those that left are not.
const LEFT: i64 = EntityAdmission::Left.stored();
const WAITING: i64 = EntityAdmission::Waiting.stored();

/// Whole entities: `which` is the condition.
fn fetch(
    connection: &mut Connection,
    which: &str,
    values: &[writ_database::Value<'_>],
) -> Result<Vec<EntityRow>, StoreError> {
    let sql = format!(
        "SELECT entities.*, (SELECT count(*) FROM deliveries
             WHERE deliveries.entity_id = entities.entity_id AND deliveries.state < {FIRST_ENDED}) AS open,
             subscriptions.public_key AS subscription_key, subscriptions.counter AS subscription_counter,
             subscriptions.issued_at, subscriptions.held, subscriptions.fetched_at,
             EXISTS (SELECT 1 FROM revoked_subscriptions WHERE entity_key = entities.public_key) AS is_revoked
         FROM entities LEFT JOIN subscriptions ON subscriptions.entity_id = entities.entity_id WHERE {which}"
    );
    connection.fetch(&sql, values, read)
}

fn read(record: &Record<'_>) -> Result<EntityRow, StoreError> {
    let stored = proto::Registration::decode(record.get::<Vec<u8>>("registration")?.as_slice()).ok();
    let registration = stored.and_then(|stored| stored.try_into().ok());
    Ok(EntityRow {
        id: record.get("entity_id")?,
        key: record.get("public_key")?,
        registration: registration.ok_or(StoreError::Damaged("registration"))?,
        admission: record.get("standing")?,
        epoch: record.get("epoch")?,
        counter: record.get("counter")?,
        sequence: record.get("sequence")?,
        token: record.get("token_digest")?,
        registered_at: record.get("registered_at")?,
        last_contact: record.get("last_contact")?,
        open: record.get("open")?,
        subscription: subscription(record)?,
        is_subscription_revoked: record.get("is_revoked")?,
    })
}

fn subscription(record: &Record<'_>) -> Result<Option<SubscriptionRow>, StoreError> {
    let Some(issued_at) = record.get("issued_at")? else { return Ok(None) };
    Ok(Some(SubscriptionRow {
        key: record.get("subscription_key")?,
        counter: record.get("subscription_counter")?,
        issued_at,
        held: record.get("held")?,
        fetched_at: record.get("fetched_at")?,
    }))
}

fn counts(connection: &mut Connection) -> Result<Counts, StoreError> {
    let sql = format!(
        "SELECT count(*) AS entities, count(CASE WHEN standing = {WAITING} THEN 1 END) AS waiting,
             (SELECT count(*) FROM entities WHERE standing = {LEFT}) AS gone
         FROM entities WHERE standing <> {LEFT}"
    );
    connection.only(&sql, &[], |record| {
        Ok(Counts {
            all: record.get("entities")?,
            waiting: record.get("waiting")?,
            gone: record.get("gone")?,
        })
    })
}

impl Change<'_> {
    /// The entity of a key.
    pub(crate) fn entity_of(&mut self, key: &PublicKey) -> Result<Option<EntityRow>, StoreError> {
        let spki = key.spki();
        Ok(fetch(self.0, "entities.public_key = ?1", &values![spki])?.pop())
    }

    /// The entity that a key fetches objects for.
    pub(crate) fn entity_of_subscription(
        &mut self,
        key: &PublicKey,
    ) -> Result<Option<EntityRow>, StoreError> {
        let spki = key.spki();
        Ok(fetch(self.0, "subscriptions.public_key = ?1", &values![spki])?.pop())
    }

    /// Whether an id is a key's.
    pub(crate) fn is_taken(&mut self, entity: EntityId) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM entities WHERE entity_id = ?1";
        Ok(self.0.first(sql, &values![entity], |_| Ok(()))?.is_some())
    }

    /// Writes an entity.
    pub(crate) fn put(&mut self, entity: &EntityRow) -> Result<(), StoreError> {
        let registration = Registration { token: None, ..entity.registration.clone() };
        let (encoded, name) =
            (proto::Registration::from(&registration).encode_to_vec(), registration.display_name);
        let EntityRow {
            id,
            key,
            admission,
            epoch,
            counter,
            sequence,
            token,
            registered_at,
            last_contact,
            ..
        } = entity;
        let sql = "INSERT INTO entities (entity_id, public_key, registration, display_name, standing, epoch, counter,
                                         sequence, token_digest, registered_at, last_contact)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                   ON CONFLICT (entity_id) DO UPDATE SET registration = excluded.registration,
                       display_name = excluded.display_name, standing = excluded.standing, epoch = excluded.epoch,
                       counter = excluded.counter, sequence = excluded.sequence,
                       token_digest = excluded.token_digest, registered_at = excluded.registered_at,
                       last_contact = excluded.last_contact";
        let spki = key.spki();
        let [id, key, encoded, name, admission] = values![id, spki, encoded, name, admission];
        let [epoch, counter, sequence] = values![epoch, counter, sequence];
        let [token, registered_at, last_contact] = values![token, registered_at, last_contact];
        let values =
            [id, key, encoded, name, admission, epoch, counter, sequence, token, registered_at, last_contact];
        self.0.execute(sql, &values).map(drop)
    }

    /// Forgets those that left before a time.
    pub(crate) fn forget_left(&mut self, before: Timestamp) -> Result<(), StoreError> {
        let sql = "DELETE FROM entities WHERE standing = ?2 AND last_contact < ?1";
        self.0.execute(sql, &values![before, EntityAdmission::Left]).map(drop)
    }

    /// Forgets one.
    pub(crate) fn forget(&mut self, entity: EntityId) -> Result<(), StoreError> {
        let sql = "DELETE FROM revoked_subscriptions
                   WHERE entity_key = (SELECT public_key FROM entities WHERE entity_id = ?1)";
        self.0.execute(sql, &values![entity])?;
        self.end_subscription(entity)?;
        self.0.execute("DELETE FROM entities WHERE entity_id = ?1", &values![entity]).map(drop)
    }

    /// How many there are.
    pub(crate) fn counts(&mut self) -> Result<Counts, StoreError> {
        counts(self.0)
    }
}

impl Store {
    /// How many entities there are.
    pub(crate) async fn counts(&self) -> Result<Counts, StoreError> {
        self.database.read(counts).await
    }

    /// Entities by name and id, after one of them.
    pub(crate) async fn entities(
        &self,
        after: Option<(String, EntityId)>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, StoreError> {
        let which = format!(
            "standing <> {LEFT} AND (display_name, entities.entity_id) > (?1, ?2)
             ORDER BY display_name, entities.entity_id LIMIT ?3"
        );
        let read = move |connection: &mut _| {
            let (name, entity) = match &after {
                Some((name, entity)) => (name.as_str(), entity.as_bytes().as_slice()),
                None => ("", [].as_slice()),
            };
            fetch(connection, &which, &values![name, entity, limit])
        };
        self.database.read(read).await
    }

    /// All of them: there are never more than ten thousand.
    pub(crate) async fn all_entities(&self) -> Result<Vec<EntityRow>, StoreError> {
        self.database.read(|connection| fetch(connection, &format!("standing <> {LEFT}"), &[])).await
    }

    /// An entity by id.
    pub(crate) async fn entity(&self, entity: EntityId) -> Result<Option<EntityRow>, StoreError> {
        let which = format!("standing <> {LEFT} AND entities.entity_id = ?1");
        Ok(self.database.read(move |connection| fetch(connection, &which, &values![entity])).await?.pop())
    }

    /// Entities of a name, at most two.
    pub(crate) async fn entities_named(&self, name: &str) -> Result<Vec<EntityRow>, StoreError> {
        let (which, name) = (format!("standing <> {LEFT} AND display_name = ?1 LIMIT 2"), name.to_owned());
        self.database.read(move |connection| fetch(connection, &which, &values![name])).await
    }
}
