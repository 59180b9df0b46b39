//! Entities: one row for each key that ever registered and was not forgotten.

use prost::Message as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _, Sqlite, SqliteConnection, Transaction};
use tokio::sync::MutexGuard;
use writ_common::id::{Digest, EntityId};
use writ_common::keys::PublicKey;
use writ_common::manager::{Registration, TokenProof};
use writ_common::time::Timestamp;
use writ_proto::manager::v1 as proto;

use super::{Store, StoreError, id, integer, time, unsigned};

/// Whether an entity's calls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It registered without a token.
    Waiting,
    /// It was let in.
    Approved,
    /// An operator said no.
    Rejected,
    /// It unregistered; kept for a while, so that its old calls cannot be said again.
    Left,
}

impl Standing {
    const fn stored(self) -> i64 {
        match self {
            Self::Waiting => 1,
            Self::Approved => 2,
            Self::Rejected => 3,
            Self::Left => 4,
        }
    }

    const fn from_stored(stored: u64) -> Option<Self> {
        match stored {
            1 => Some(Self::Waiting),
            2 => Some(Self::Approved),
            3 => Some(Self::Rejected),
            4 => Some(Self::Left),
            _ => None,
        }
    }
}

/// An entity as stored.
#[derive(Debug, Clone)]
pub struct EntityRow {
    /// Its id.
    pub id: EntityId,
    /// Who it is.
    pub key: PublicKey,
    /// What it said of itself, without its token.
    pub registration: Registration,
    /// Whether its calls count.
    pub standing: Standing,
    /// The number of its registration.
    pub epoch: u64,
    /// Of its last call.
    pub counter: u64,
    /// Of the last instruction for it in this epoch.
    pub sequence: u64,
    /// The token it came in with.
    pub token: Option<Digest>,
    /// The first time.
    pub registered_at: Timestamp,
    /// Its last call that counted.
    pub last_contact: Timestamp,
    /// Instructions it has not ended.
    pub open: u64,
}

const SELECT: &str =
    "SELECT *, (SELECT count(*) FROM deliveries WHERE deliveries.entity_id = entities.entity_id
    AND deliveries.state < 3) AS open FROM entities";

impl EntityRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged("registration");
        let stored = proto::Registration::decode(row.try_get::<&[u8], _>("registration")?);
        let token: Option<&[u8]> = row.try_get("token_digest")?;
        Ok(Self {
            id: id(row, "entity_id", "entity id")?,
            key: PublicKey::from_spki(row.try_get("public_key")?)
                .map_err(|_| StoreError::Damaged("entity key"))?,
            registration: stored.ok().and_then(|stored| stored.try_into().ok()).ok_or_else(damaged)?,
            standing: Standing::from_stored(unsigned(row, "standing")?).ok_or_else(damaged)?,
            epoch: unsigned(row, "epoch")?,
            counter: unsigned(row, "counter")?,
            sequence: unsigned(row, "sequence")?,
            token: token.and_then(|token| token.try_into().ok()),
            registered_at: time(row, "registered_at")?,
            last_contact: time(row, "last_contact")?,
            open: unsigned(row, "open")?,
        })
    }
}

/// How many entities there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Listed.
    pub all: u64,
    /// Waiting to be let in.
    pub waiting: u64,
    /// That left a moment ago.
    pub gone: u64,
}

/// A change under way: all of it happens, or nothing.
#[derive(Debug)]
pub struct Change<'a>(pub(super) Transaction<'a, Sqlite>);

impl Change<'_> {
    /// Makes it durable.
    ///
    /// # Errors
    /// When it could not be; then nothing happened.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.0.commit().await?)
    }

    /// The entity of a key.
    pub async fn entity_of(&mut self, key: &PublicKey) -> Result<Option<EntityRow>, StoreError> {
        let sql = format!("{SELECT} WHERE public_key = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(key.spki()).fetch_optional(&mut *self.0).await?;
        row.map(|row| EntityRow::read(&row)).transpose()
    }

    /// Whether an id is a key's.
    pub async fn is_taken(&mut self, entity: EntityId) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM entities WHERE entity_id = $1")
            .bind(entity.as_bytes().as_slice())
            .fetch_optional(&mut *self.0)
            .await?;
        Ok(row.is_some())
    }

    /// Writes an entity.
    pub async fn put(&mut self, entity: &EntityRow) -> Result<(), StoreError> {
        let registration = Registration { token: None, ..entity.registration.clone() };
        sqlx::query(
            "INSERT INTO entities (entity_id, public_key, registration, display_name, standing, epoch, counter, sequence,
                                   token_digest, registered_at, last_contact)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (entity_id) DO UPDATE SET registration = $3, display_name = $4, standing = $5, epoch = $6,
                 counter = $7, sequence = $8, token_digest = $9, registered_at = $10, last_contact = $11",
        )
        .bind(entity.id.as_bytes().as_slice())
        .bind(entity.key.spki())
        .bind(proto::Registration::from(&registration).encode_to_vec())
        .bind(registration.display_name)
        .bind(entity.standing.stored())
        .bind(integer(entity.epoch))
        .bind(integer(entity.counter))
        .bind(integer(entity.sequence))
        .bind(entity.token.map(|token| token.as_bytes().to_vec()))
        .bind(integer(entity.registered_at.as_millis()))
        .bind(integer(entity.last_contact.as_millis()))
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Forgets those that left before a time.
    pub async fn forget_left(&mut self, before: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM entities WHERE standing = 4 AND last_contact < $1")
            .bind(integer(before.as_millis()))
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Forgets one.
    pub async fn forget(&mut self, entity: EntityId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM entities WHERE entity_id = $1")
            .bind(entity.as_bytes().as_slice())
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// How many there are.
    pub async fn counts(&mut self) -> Result<Counts, StoreError> {
        counts(&mut self.0).await
    }

    /// Spends one use of a token; whether there was one.
    pub async fn spend(
        &mut self,
        shown: &TokenProof,
        key: &PublicKey,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        super::tokens::spend(&mut self.0, shown, key, now).await
    }
}

async fn counts(connection: &mut SqliteConnection) -> Result<Counts, StoreError> {
    let sql = "SELECT count(*) AS entities, coalesce(sum(standing = 1), 0) AS waiting,
                      (SELECT count(*) FROM entities WHERE standing = 4) AS gone FROM entities WHERE standing < 4";
    let row = sqlx::query(sql).fetch_one(connection).await?;
    Ok(Counts {
        all: unsigned(&row, "entities")?,
        waiting: unsigned(&row, "waiting")?,
        gone: unsigned(&row, "gone")?,
    })
}

impl Store {
    /// Whoever changes something takes a turn.
    pub async fn turn(&self) -> MutexGuard<'_, SqliteConnection> {
        self.writer.lock().await
    }

    /// Begins a change in one's turn; dropped without [`Change::commit`], nothing happened.
    pub async fn begin<'a>(turn: &'a mut MutexGuard<'_, SqliteConnection>) -> Result<Change<'a>, StoreError> {
        Ok(Change(turn.begin().await?))
    }

    /// How many entities there are.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        counts(&mut *self.reader.acquire().await?).await
    }

    /// Entities by name and id, after one of them.
    pub async fn entities(
        &self,
        after: Option<(String, EntityId)>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, StoreError> {
        let (name, entity) = after
            .map_or_else(|| (String::new(), Vec::new()), |(name, entity)| (name, entity.as_bytes().to_vec()));
        let sql = format!(
            "{SELECT} WHERE standing < 4 AND (display_name, entity_id) > ($1, $2) ORDER BY display_name, entity_id LIMIT $3"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(name)
            .bind(entity)
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(EntityRow::read).collect()
    }

    /// All of them: there are never more than ten thousand.
    pub async fn all_entities(&self) -> Result<Vec<EntityRow>, StoreError> {
        let sql = format!("{SELECT} WHERE standing < 4");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&self.reader).await?;
        rows.iter().map(EntityRow::read).collect()
    }

    /// An entity by id.
    pub async fn entity(&self, entity: EntityId) -> Result<Option<EntityRow>, StoreError> {
        let sql = format!("{SELECT} WHERE standing < 4 AND entity_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(entity.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| EntityRow::read(&row)).transpose()
    }

    /// Entities of a name, at most two.
    pub async fn entities_named(&self, name: &str) -> Result<Vec<EntityRow>, StoreError> {
        let sql = format!("{SELECT} WHERE standing < 4 AND display_name = $1 LIMIT 2");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name.to_owned()).fetch_all(&self.reader).await?;
        rows.iter().map(EntityRow::read).collect()
    }
}
