//! What must outlive the manager: one database.

mod rows;
mod sql;

pub(crate) use rows::{
    DeliveryRow, EntityAdmission, EntityRow, FeedState, InstructionRow, Issued, NewInstruction,
    SandboxNoteRow, SandboxState, TokenRow, WaitingInstruction,
};
pub(crate) use writ_common::admin::unavailable;
pub(crate) use writ_database::{DatabaseError as StoreError, KeepOrUndo};

use std::convert::Infallible;
use std::path::Path;

use writ_common::admin::Role;
use writ_common::shutdown::Shutdown;
use writ_database::file::{self, Found};
use writ_database::{
    Connection, Database, Migration, OBJECT_TABLES, Schema, TOKEN_LIMITS, ToValue as _, insert_operator,
    values,
};
use writ_protocol::id::{Digest, ManagerId};
use writ_protocol::time::Timestamp;

const SCHEMA: Schema = Schema {
    migrations: &[
        Migration { version: 1, name: "initial", sql: include_str!("store/migrations/0001_initial.sql") },
        Migration { version: 2, name: "audit", sql: include_str!("store/migrations/0002_audit.sql") },
        Migration { version: 3, name: "objects", sql: OBJECT_TABLES },
        Migration { version: 4, name: "feed", sql: include_str!("store/migrations/0004_feed.sql") },
        Migration { version: 5, name: "limits of tokens", sql: TOKEN_LIMITS },
    ],
    cure: "stop the manager and put a copy of control-manager.db back, or move it away and go on with a new one: writ-control-manager init --keep-keys",
};

/// A handle; clones share the file. Every method that returns a [`StoreError`] fails when the database does;
/// what else it fails for, it says.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    database: Database<Infallible>,
}

/// A change under way: all of it happens, or nothing.
#[derive(Debug)]
pub(crate) struct Change<'c>(&'c mut Connection);

impl Store {
    /// Makes the file, if it is not there, and opens it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn make(path: &Path, shutdown: &Shutdown) -> Result<Self, StoreError> {
        file::make(path)?;
        Self::open(path, shutdown).await
    }

    /// Opens the file and brings it up to date. Whether it is one is asked of [`Self::find_manager`] first.
    ///
    /// # Errors
    /// When the disk or the file is not usable.
    pub(crate) async fn open(path: &Path, shutdown: &Shutdown) -> Result<Self, StoreError> {
        Ok(Self { database: Database::open(path, &SCHEMA, |_, _| {}, shutdown).await? })
    }

    /// The manager whose database a file is, and its name, without bringing the file up to date.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn find_manager(path: &Path) -> Result<Found<(ManagerId, String)>, StoreError> {
        file::find(path, ("manager", "manager"), read_manager).await
    }

    /// What operators and audit logs are asked of.
    pub(crate) const fn database(&self) -> &Database<Infallible> {
        &self.database
    }

    /// Who this manager is; `None` before `init` has finished.
    pub(crate) async fn manager(&self) -> Result<Option<(ManagerId, String)>, StoreError> {
        self.database.read(read_manager).await
    }

    /// Records the manager and its first administrator: the last step of `init`.
    ///
    /// # Errors
    /// When the database fails; then nothing is recorded.
    pub(crate) async fn create(
        &self,
        manager: ManagerId,
        name: String,
        admin_token: Digest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut Connection| {
            connection.execute("INSERT INTO manager VALUES (1, ?1, ?2)", &values![manager, name])?;
            insert_operator(connection, admin_token, "admin", Role::Admin.stored(), now)
        };
        self.database.write(write).await
    }

    /// Runs a change, which decides whether it is kept; returns after it is durable.
    pub(crate) async fn change<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Change<'_>) -> Result<KeepOrUndo<T>, StoreError> + Send + 'static,
    {
        self.database.decide(move |connection| work(&mut Change(connection))).await
    }

    /// Closes what reads, for all clones; what writes ends with the shutdown it was opened under.
    pub(crate) async fn close(self) {
        self.database.close().await;
    }
}

fn read_manager(connection: &mut Connection) -> Result<Option<(ManagerId, String)>, StoreError> {
    let sql = "SELECT manager_id, name FROM manager";
    connection.first(sql, &[], |record| Ok((record.get("manager_id")?, record.get("name")?)))
}
