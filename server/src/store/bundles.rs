//! The chain of trust bundles, and the backups that hold it.

use std::path::Path;

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use writ_common::admin::audit::NewAudit;
use writ_common::id::{AgentId, Digest};
use writ_common::time::Timestamp;

use super::audit;
use super::{Store, StoreError, bytes, id, integer, time, unsigned};

/// Bundles of other chains that are kept. Only the authority can make such ones, so there are few.
pub const MAX_FORKS: u32 = 64;

/// A verified trust bundle that agents hold and that is not of this server's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: Digest,
    /// As it travels.
    pub envelope: Bytes,
    /// How many agents say they hold it.
    pub agents: u64,
}

/// Agents of one realm that said they hold one bundle.
#[derive(Debug, Clone)]
pub struct Holders {
    /// Its version; 0: they have not said.
    pub version: u64,
    /// Its digest.
    pub digest: Option<Digest>,
    /// The realm.
    pub realm: String,
    /// How many they are.
    pub agents: u64,
}

/// An agent that does not hold the newest bundle.
#[derive(Debug, Clone)]
pub struct Behind {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Its realm.
    pub realm: String,
    /// The host's own name for itself.
    pub host_name: String,
    /// Where its last session came from.
    pub address: String,
    /// The bundle it said it holds; 0: it has not said.
    pub version: u64,
    /// That bundle's digest.
    pub digest: Option<Digest>,
    /// When it was last heard.
    pub last_contact: Timestamp,
}

/// A backup that was made or proven.
#[derive(Debug, Clone)]
pub struct BackupRow {
    /// SHA-256 of the sealed file.
    pub digest: Digest,
    /// Where it was written.
    pub path: String,
    /// The newest bundle in it.
    pub bundle_version: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it was read back and found whole; zero: never.
    pub proven_at: Timestamp,
}

impl Store {
    /// The digest of the newest bundle.
    pub async fn head(&self) -> Result<Option<Digest>, StoreError> {
        let row = sqlx::query("SELECT digest FROM bundles ORDER BY version DESC LIMIT 1")
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| id(&row, "digest", "bundle digest")).transpose()
    }

    /// Every bundle, oldest first.
    pub async fn bundles(&self) -> Result<Vec<(Digest, Bytes)>, StoreError> {
        let rows = sqlx::query("SELECT digest, envelope FROM bundles ORDER BY version")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(|row| Ok((id(row, "digest", "bundle digest")?, bytes(row, "envelope")?))).collect()
    }

    /// Adds bundles to the chain that follow this head, with the call that made them, all or none: from then
    /// on they are in force.
    ///
    /// # Errors
    /// When the database fails, or the head is another one by now.
    pub async fn publish(
        &self,
        bundles: Vec<(u64, Digest, Bytes)>,
        head: Digest,
        call: Option<NewAudit>,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let newest = sqlx::query("SELECT digest FROM bundles ORDER BY version DESC LIMIT 1");
                let newest = newest.fetch_one(&mut *connection).await?;
                if id::<Digest>(&newest, "digest", "bundle digest")? != head {
                    return Err(StoreError::HeadMoved);
                }
                insert(connection, bundles).await?;
                if let Some(call) = call {
                    audit::append(connection, vec![call].into()).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The verified bundles of other chains, newest first.
    pub async fn forks(&self) -> Result<Vec<Fork>, StoreError> {
        let rows = sqlx::query(
            "SELECT version, digest, envelope,
                    (SELECT count(*) FROM agents WHERE removed_at = 0 AND bundle_digest = forks.digest) AS agents
             FROM forks ORDER BY version DESC",
        )
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Fork {
                    version: unsigned(row, "version")?,
                    digest: id(row, "digest", "bundle digest")?,
                    envelope: bytes(row, "envelope")?,
                    agents: unsigned(row, "agents")?,
                })
            })
            .collect()
    }

    /// Keeps verified bundles of another chain. Past [`MAX_FORKS`] none is added.
    pub async fn note_forks(&self, bundles: Vec<(u64, Digest, Bytes)>) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                for (version, digest, envelope) in bundles {
                    sqlx::query(
                        "INSERT INTO forks (digest, version, envelope)
                         SELECT $1, $2, $3 WHERE (SELECT count(*) FROM forks) < $4 ON CONFLICT DO NOTHING",
                    )
                    .bind(digest.as_bytes().to_vec())
                    .bind(integer(version))
                    .bind(envelope.to_vec())
                    .bind(MAX_FORKS)
                    .execute(&mut *connection)
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// How many present agents hold which bundle, newest first.
    pub async fn bundle_holders(&self) -> Result<Vec<Holders>, StoreError> {
        let rows = sqlx::query(
            "SELECT bundle_version, bundle_digest, realm, count(*) AS agents FROM agents WHERE removed_at = 0
             GROUP BY bundle_version, bundle_digest, realm ORDER BY bundle_version DESC, realm",
        )
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Holders {
                    version: unsigned(row, "bundle_version")?,
                    digest: digest_of(row)?,
                    realm: row.try_get("realm")?,
                    agents: unsigned(row, "agents")?,
                })
            })
            .collect()
    }

    /// A page of present agents that do not hold a bundle, by id.
    pub async fn behind(
        &self,
        newest: Digest,
        after: Option<AgentId>,
        limit: u32,
    ) -> Result<Vec<Behind>, StoreError> {
        let rows = sqlx::query(
            "SELECT agent_id, name, realm, address, bundle_version, bundle_digest, last_contact,
                    (SELECT value FROM attributes WHERE attributes.agent_id = agents.agent_id AND name = 'hostname') AS host
             FROM agents WHERE removed_at = 0 AND agent_id > $1 AND bundle_digest IS NOT $2 ORDER BY agent_id LIMIT $3",
        )
        .bind(after.map_or_else(Vec::new, |agent| agent.as_bytes().to_vec()))
        .bind(newest.as_bytes().to_vec())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Behind {
                    id: id(row, "agent_id", "agent id")?,
                    name: row.try_get("name")?,
                    realm: row.try_get("realm")?,
                    host_name: row.try_get::<Option<String>, _>("host")?.unwrap_or_default(),
                    address: row.try_get("address")?,
                    version: unsigned(row, "bundle_version")?,
                    digest: digest_of(row)?,
                    last_contact: time(row, "last_contact")?,
                })
            })
            .collect()
    }

    /// Whether the chain came from a backup and nobody said yet that its head is the fleet's.
    pub async fn is_head_unconfirmed(&self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT head_unconfirmed FROM fleet").fetch_optional(&self.reader).await?;
        row.map_or(Ok(false), |row| Ok(row.try_get("head_unconfirmed")?))
    }

    /// A backup was put back into a fleet that is here: the bundles it lacked, and who was removed, all or
    /// nothing.
    pub async fn record_restore(
        &self,
        bundles: Vec<(u64, Digest, Bytes)>,
        removed: Vec<AgentId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                insert(connection, bundles).await?;
                mark_restored(connection, removed, now).await
            })
        })
        .await
    }

    /// An operator says that the head is the fleet's.
    pub async fn confirm_head(&self) -> Result<(), StoreError> {
        self.write(|connection| {
            Box::pin(async move {
                sqlx::query("UPDATE fleet SET head_unconfirmed = 0").execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    /// Notes a backup.
    pub async fn note_backup(&self, backup: BackupRow) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let sql = "INSERT INTO backups VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO UPDATE
                     SET path = excluded.path, proven_at = max(proven_at, excluded.proven_at)";
                sqlx::query(sql)
                    .bind(backup.digest.as_bytes().to_vec())
                    .bind(backup.path)
                    .bind(integer(backup.bundle_version))
                    .bind(integer(backup.made_at.as_millis()))
                    .bind(integer(backup.proven_at.as_millis()))
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The backups noted, latest first; at most 16.
    pub async fn backups(&self) -> Result<Vec<BackupRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM backups ORDER BY made_at DESC LIMIT 16")
            .fetch_all(&self.reader)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(BackupRow {
                    digest: id(row, "digest", "backup digest")?,
                    path: row.try_get("path")?,
                    bundle_version: unsigned(row, "bundle_version")?,
                    made_at: time(row, "made_at")?,
                    proven_at: time(row, "proven_at")?,
                })
            })
            .collect()
    }
}

fn digest_of(row: &SqliteRow) -> Result<Option<Digest>, StoreError> {
    let stored: Option<Vec<u8>> = row.try_get("bundle_digest")?;
    let digest = stored.map(|stored| Digest::try_from(stored.as_slice()));
    digest.transpose().map_err(|_| StoreError::Damaged("bundle digest"))
}

/// The chain is a backup's from now on: its head is to be confirmed, and agents may show their records.
pub(super) async fn mark_restored(
    connection: &mut SqliteConnection,
    removed: Vec<AgentId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    for agent in removed {
        sqlx::query("INSERT OR IGNORE INTO removed_before VALUES ($1)")
            .bind(agent.as_bytes().to_vec())
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("UPDATE fleet SET head_unconfirmed = 1, restored_at = $1")
        .bind(integer(now.as_millis()))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    bundles: Vec<(u64, Digest, Bytes)>,
) -> Result<(), StoreError> {
    for (version, digest, envelope) in bundles {
        sqlx::query("INSERT INTO bundles VALUES ($1, $2, $3)")
            .bind(integer(version))
            .bind(digest.as_bytes().as_slice())
            .bind(envelope.as_ref())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

impl BackupRow {
    /// A backup whose sealed bytes were just written and read back.
    #[must_use]
    pub fn made(path: &Path, sealed: &[u8], bundle_version: u64, now: Timestamp) -> Self {
        Self {
            digest: Digest::of(sealed),
            path: path.display().to_string(),
            bundle_version,
            made_at: now,
            proven_at: Timestamp::ZERO,
        }
    }
}
