//! The chain of trust bundles, and the backups that hold it.

use bytes::Bytes;
use writ_common::admin::audit::NewAudit;
use writ_database::{Connection, KeepOrUndo, ToValue as _, append_audit, values};
use writ_protocol::id::{AgentId, Digest};

use super::super::rows::{BackupRow, Behind, Fork, Holders};
use super::super::{Store, StoreError};

/// Bundles of other chains that are kept. Only the authority can make such ones, so there are few.
pub(crate) const MAX_FORKS: u32 = 64;

impl Store {
    /// The digest of the newest bundle.
    pub(crate) async fn head(&self) -> Result<Option<Digest>, StoreError> {
        self.database.read(find_head).await
    }

    /// Every bundle, oldest first.
    pub(crate) async fn bundles(&self) -> Result<Vec<(Digest, Bytes)>, StoreError> {
        let sql = "SELECT digest, envelope FROM bundles ORDER BY version";
        self.database
            .read(move |connection| {
                connection.fetch(sql, &[], |record| Ok((record.get("digest")?, record.get("envelope")?)))
            })
            .await
    }

    /// Adds bundles to the chain that follow this head, with the call that made them, all or none: from then
    /// on they are in force. `false`: the head is another one by now, and nothing was added.
    pub(crate) async fn publish(
        &self,
        bundles: Vec<(u64, Digest, Bytes)>,
        head: Digest,
        call: Option<NewAudit>,
    ) -> Result<bool, StoreError> {
        let write = move |connection: &mut Connection| {
            if find_head(connection)? != Some(head) {
                return Ok(KeepOrUndo::Undo(false));
            }
            insert(connection, &bundles)?;
            append_audit(connection, &call)?;
            Ok(KeepOrUndo::Keep(true))
        };
        self.database.decide(write).await
    }

    /// The verified bundles of other chains, newest first.
    pub(crate) async fn forks(&self) -> Result<Vec<Fork>, StoreError> {
        let sql = "SELECT version, digest, envelope,
                       (SELECT count(*) FROM agents WHERE removed_at = 0 AND bundle_digest = forks.digest) AS agents
                   FROM forks ORDER BY version DESC";
        let read = move |connection: &mut Connection| {
            connection.fetch(sql, &[], |record| {
                Ok(Fork {
                    version: record.get("version")?,
                    digest: record.get("digest")?,
                    envelope: record.get("envelope")?,
                    agents: record.get("agents")?,
                })
            })
        };
        self.database.read(read).await
    }

    /// Keeps verified bundles of another chain. Past [`MAX_FORKS`] none is added.
    pub(crate) async fn note_forks(&self, bundles: Vec<(u64, Digest, Bytes)>) -> Result<(), StoreError> {
        let sql = "INSERT INTO forks (digest, version, envelope)
                   SELECT ?1, ?2, ?3 WHERE (SELECT count(*) FROM forks) < ?4 ON CONFLICT DO NOTHING";
        let write = move |connection: &mut Connection| {
            let rows = bundles
                .iter()
                .map(|(version, digest, envelope)| values![digest, version, envelope, MAX_FORKS]);
            connection.execute_each(sql, rows)
        };
        self.database.write(write).await
    }

    /// How many present agents hold which bundle, newest first.
    pub(crate) async fn bundle_holders(&self) -> Result<Vec<Holders>, StoreError> {
        let sql =
            "SELECT bundle_version, bundle_digest, realm, count(*) AS agents FROM agents WHERE removed_at = 0
                   GROUP BY bundle_version, bundle_digest, realm ORDER BY bundle_version DESC, realm";
        let read = move |connection: &mut Connection| {
            connection.fetch(sql, &[], |record| {
                Ok(Holders {
                    version: record.get("bundle_version")?,
                    digest: record.get("bundle_digest")?,
                    realm: record.get("realm")?,
                    agents: record.get("agents")?,
                })
            })
        };
        self.database.read(read).await
    }

    /// A page of present agents that do not hold a bundle, by id.
    pub(crate) async fn behind(
        &self,
        newest: Digest,
        after: Option<AgentId>,
        limit: u32,
    ) -> Result<Vec<Behind>, StoreError> {
        // Of an agent that never said what it holds the digest is null, and differs from every other.
        let sql = "SELECT agent_id, name, realm, address, bundle_version, bundle_digest, last_contact,
                       coalesce((SELECT value FROM attributes
                                 WHERE attributes.agent_id = agents.agent_id AND name = 'hostname'), '') AS host
                   FROM agents WHERE removed_at = 0 AND agent_id > ?1 AND bundle_digest IS DISTINCT FROM ?2
                   ORDER BY agent_id LIMIT ?3";
        let read = move |connection: &mut Connection| {
            let after = after.as_ref().map_or_else(|| [].as_slice(), |agent| agent.as_bytes());
            connection.fetch(sql, &values![after, newest, limit], |record| {
                Ok(Behind {
                    id: record.get("agent_id")?,
                    name: record.get("name")?,
                    realm: record.get("realm")?,
                    host_name: record.get("host")?,
                    address: record.get("address")?,
                    version: record.get("bundle_version")?,
                    digest: record.get("bundle_digest")?,
                    last_contact: record.get("last_contact")?,
                })
            })
        };
        self.database.read(read).await
    }

    /// Whether the chain came from a backup and nobody said yet that its head is the fleet's.
    pub(crate) async fn is_head_unconfirmed(&self) -> Result<bool, StoreError> {
        let sql = "SELECT head_unconfirmed FROM fleet";
        let read = move |connection: &mut Connection| {
            connection.first(sql, &[], |record| record.get("head_unconfirmed"))
        };
        Ok(self.database.read(read).await?.unwrap_or_default())
    }

    /// An operator says that the head is the fleet's.
    pub(crate) async fn confirm_head(&self) -> Result<(), StoreError> {
        let sql = "UPDATE fleet SET head_unconfirmed = 0";
        self.database.write(move |connection| connection.execute(sql, &[]).map(drop)).await
    }

    /// Notes a backup.
    pub(crate) async fn note_backup(&self, backup: BackupRow) -> Result<(), StoreError> {
        // That a backup was proven once stays, whatever a later note of the same file says.
        let sql = "INSERT INTO backups VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (digest) DO UPDATE
                   SET path = excluded.path, proven_at = CASE WHEN backups.proven_at > excluded.proven_at
                       THEN backups.proven_at ELSE excluded.proven_at END";
        let write = move |connection: &mut Connection| {
            let BackupRow { digest, path, bundle_version, made_at, proven_at } = &backup;
            connection.execute(sql, &values![digest, path, bundle_version, made_at, proven_at]).map(drop)
        };
        self.database.write(write).await
    }

    /// The backups noted, latest first; at most 16.
    pub(crate) async fn backups(&self) -> Result<Vec<BackupRow>, StoreError> {
        let sql = "SELECT * FROM backups ORDER BY made_at DESC LIMIT 16";
        let read = move |connection: &mut Connection| {
            connection.fetch(sql, &[], |record| {
                Ok(BackupRow {
                    digest: record.get("digest")?,
                    path: record.get("path")?,
                    bundle_version: record.get("bundle_version")?,
                    made_at: record.get("made_at")?,
                    proven_at: record.get("proven_at")?,
                })
            })
        };
        self.database.read(read).await
    }
}

fn find_head(connection: &mut Connection) -> Result<Option<Digest>, StoreError> {
    let sql = "SELECT digest FROM bundles ORDER BY version DESC LIMIT 1";
    connection.first(sql, &[], |record| record.get("digest"))
}

pub(super) fn insert(
    connection: &mut Connection,
    bundles: &[(u64, Digest, Bytes)],
) -> Result<(), StoreError> {
    let rows = bundles.iter().map(|(version, digest, envelope)| values![version, digest, envelope]);
    connection.execute_each("INSERT INTO bundles VALUES (?1, ?2, ?3)", rows)
}
