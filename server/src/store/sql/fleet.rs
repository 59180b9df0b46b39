//! The fleet a store belongs to, and the time it signed with last.

use bytes::Bytes;
use writ_database::{Connection, ToValue as _, insert_operator, values};
use writ_protocol::id::{AgentId, Digest, FleetId};
use writ_protocol::time::Timestamp;

use super::super::rules::clock::latest_time;
use super::super::rules::restore::Return;
use super::super::{Store, StoreError};
use super::bundles;

impl Store {
    /// The fleet this store belongs to, and its name; `None` before `init` has finished.
    pub(crate) async fn fleet(&self) -> Result<Option<(FleetId, String)>, StoreError> {
        self.database.read(find_fleet).await
    }

    /// Records the fleet, its first bundle and its first administrator: the last step of `init`.
    ///
    /// # Errors
    /// When the database fails; then nothing is recorded.
    pub(crate) async fn create_fleet(
        &self,
        fleet: FleetId,
        name: String,
        bundles: Vec<(u64, Digest, Bytes)>,
        admin_token: Digest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut _| insert(connection, (fleet, &name), &bundles, admin_token, now);
        self.database.write(write).await
    }

    /// Makes a fleet from a backup: as [`Self::create_fleet`], but its head is not confirmed, and agents it
    /// enrolled earlier may show their identity records.
    ///
    /// # Errors
    /// When the database fails; then nothing is recorded.
    pub(crate) async fn restore_fleet(
        &self,
        (fleet, name): (FleetId, String),
        bundles: Vec<(u64, Digest, Bytes)>,
        removed: Vec<AgentId>,
        admin_token: Digest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut _| {
            insert(connection, (fleet, &name), &bundles, admin_token, now)?;
            mark_restored(connection, &removed, now)
        };
        self.database.write(write).await
    }

    /// A backup was put back into a fleet that is here: the bundles it lacked, and who was removed, all or
    /// nothing.
    pub(crate) async fn record_restore(
        &self,
        bundles: Vec<(u64, Digest, Bytes)>,
        removed: Vec<AgentId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut _| {
            bundles::insert(connection, &bundles)?;
            mark_restored(connection, &removed, now)
        };
        self.database.write(write).await
    }

    /// What decides whether an agent that is not here is known again.
    pub(crate) async fn returning(&self, agent: AgentId) -> Result<Return, StoreError> {
        let read = move |connection: &mut Connection| {
            let sql = "SELECT restored_at FROM fleet";
            let restored_at = connection.first(sql, &[], |record| record.get("restored_at"))?;
            let sql = "SELECT 1 FROM removed_before WHERE agent_id = ?1";
            let removed = connection.first(sql, &values![agent], |_| Ok(()))?;
            let restored_at = restored_at.unwrap_or(Timestamp::ZERO);
            Ok(Return { restored_at, was_removed: removed.is_some() })
        };
        self.database.read(read).await
    }

    /// Agents that were removed, here or on an earlier server.
    pub(crate) async fn removed_agents(&self) -> Result<Vec<AgentId>, StoreError> {
        let sql =
            "SELECT agent_id FROM agents WHERE removed_at > 0 UNION SELECT agent_id FROM removed_before";
        self.database
            .read(move |connection| connection.fetch(sql, &[], |record| record.get("agent_id")))
            .await
    }

    /// The latest time noted by [`Self::note_time`]; zero if none was.
    pub(crate) async fn latest_time(&self) -> Result<Timestamp, StoreError> {
        self.database.read(find_latest_time).await
    }

    /// Notes a time that is signed with; an earlier one only if it is `accepted` by an operator.
    pub(crate) async fn note_time(&self, now: Timestamp, accepted: bool) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| {
            let latest = latest_time(find_latest_time(connection)?, now, accepted);
            // Written even when it stays the same: that it was shows that the disk takes what is written.
            let sql = "INSERT INTO clock VALUES (1, ?1) ON CONFLICT (only_row) DO UPDATE SET signed_at = excluded.signed_at";
            connection.execute(sql, &values![latest]).map(drop)
        };
        self.database.write(write).await?;
        self.database.wrote();
        Ok(())
    }
}

pub(in crate::store) fn find_fleet(
    connection: &mut Connection,
) -> Result<Option<(FleetId, String)>, StoreError> {
    let sql = "SELECT fleet_id, name FROM fleet";
    connection.first(sql, &[], |record| Ok((record.get("fleet_id")?, record.get("name")?)))
}

fn find_latest_time(connection: &mut Connection) -> Result<Timestamp, StoreError> {
    let noted = connection.first("SELECT signed_at FROM clock", &[], |record| record.get("signed_at"))?;
    Ok(noted.unwrap_or(Timestamp::ZERO))
}

fn insert(
    connection: &mut Connection,
    (fleet, name): (FleetId, &str),
    bundles: &[(u64, Digest, Bytes)],
    admin_token: Digest,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO fleet (only_row, fleet_id, name) VALUES (1, ?1, ?2)";
    connection.execute(sql, &values![fleet, name])?;
    bundles::insert(connection, bundles)?;
    insert_operator(connection, admin_token, "admin", writ_common::admin::Role::Admin.stored(), now)
}

/// The chain is a backup's from now on: its head is to be confirmed, and agents may show their records.
fn mark_restored(connection: &mut Connection, removed: &[AgentId], now: Timestamp) -> Result<(), StoreError> {
    let sql = "INSERT INTO removed_before VALUES (?1) ON CONFLICT DO NOTHING";
    connection.execute_each(sql, removed.iter().map(|agent| values![agent]))?;
    let sql = "UPDATE fleet SET head_unconfirmed = 1, restored_at = ?1";
    connection.execute(sql, &values![now]).map(drop)
}
