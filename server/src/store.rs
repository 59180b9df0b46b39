//! What must outlive the server: one database.

mod lanes;
mod rows;
pub(crate) mod rules;
mod sql;
#[cfg(test)]
mod suite;

pub(crate) use lanes::Job;
pub use rows::AlertKind;
pub(crate) use rows::{
    AgentAdmission, AgentRow, Alarm, AlertRow, AlertState, AllowList, Answers, Attribute, AttributeSource,
    BackupRow, Beginning, Behind, CommandRow, Contact, EnrolmentTokenRow, Fork, Holders, KnownAgent,
    LabelChange, ListedAction, Membership, NewCommand, NewReceipt, NewToken, OpenTarget, Progress,
    QueuedCommand, ReceiptFate, RecordedCommand, Report, RolloutRow, RolloutState, SERVER, SavedSelector,
    SignOfLife, StoredEnvelope, TakenRow, TargetRow, TargetState, Teller, TokenUse, Wanted, WantedAlerts,
    WantedState,
};
pub(crate) use sql::{MAX_FORKS, MAX_LABELS, MAX_SAVED_SELECTORS};
pub(crate) use writ_common::admin::unavailable;
pub(crate) use writ_database::DatabaseError as StoreError;

use std::path::Path;

use tokio::sync::broadcast;
use writ_common::shutdown::Shutdown;
use writ_database::file::{self, Found};
use writ_database::{Batch, Database, Migration, OBJECT_TABLES, Schema, TOKEN_LIMITS};
use writ_protocol::id::{CommandId, FleetId};

/// Changes a watcher may fall behind by before it has to look at everything again.
const MAX_WAITING_CHANGES: usize = 1024;

const SCHEMA: Schema = Schema {
    migrations: &[
        Migration { version: 1, name: "initial", sql: include_str!("store/migrations/0001_initial.sql") },
        Migration {
            version: 2,
            name: "operations",
            sql: include_str!("store/migrations/0002_operations.sql"),
        },
        Migration { version: 3, name: "keys", sql: include_str!("store/migrations/0003_keys.sql") },
        Migration { version: 4, name: "manager", sql: include_str!("store/migrations/0004_manager.sql") },
        Migration {
            version: 5,
            name: "admissions",
            sql: include_str!("store/migrations/0005_admissions.sql"),
        },
        Migration { version: 6, name: "forks", sql: include_str!("store/migrations/0006_forks.sql") },
        Migration {
            version: 7,
            name: "token order",
            sql: include_str!("store/migrations/0007_token_order.sql"),
        },
        Migration {
            version: 8,
            name: "targets by agent",
            sql: include_str!("store/migrations/0008_targets_by_agent.sql"),
        },
        Migration { version: 9, name: "objects", sql: OBJECT_TABLES },
        Migration { version: 10, name: "rollouts", sql: include_str!("store/migrations/0010_rollouts.sql") },
        Migration { version: 11, name: "limits of tokens", sql: TOKEN_LIMITS },
        Migration {
            version: 12,
            name: "alerts end",
            sql: include_str!("store/migrations/0012_alerts_end.sql"),
        },
        Migration {
            version: 13,
            name: "selectors",
            sql: include_str!("store/migrations/0013_selectors.sql"),
        },
        Migration {
            version: 14,
            name: "alerts are told",
            sql: include_str!("store/migrations/0014_alerts_are_told.sql"),
        },
        Migration {
            version: 15,
            name: "alerts are mailed",
            sql: include_str!("store/migrations/0015_alerts_are_mailed.sql"),
        },
    ],
    cure: "stop the server, move writ.db and writ.db-wal away, and put a copy back or restore a backup: writ-server cert restore FILE",
};

/// A handle; clones share the file. Every method that returns a [`StoreError`] fails when the database does;
/// what else it fails for, it says.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    database: Database<Job>,
    changes: broadcast::Sender<CommandId>,
}

impl Store {
    /// Makes the file, if it is not there, and opens it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn make(path: &Path, shutdown: &Shutdown) -> Result<Self, StoreError> {
        file::make(path)?;
        Self::open(path, shutdown).await
    }

    /// Opens the file and brings it up to date. Whether it is one is asked of [`Self::find_fleet`] first.
    ///
    /// # Errors
    /// When the disk or the file is not usable.
    pub(crate) async fn open(path: &Path, shutdown: &Shutdown) -> Result<Self, StoreError> {
        let (changes, _) = broadcast::channel(MAX_WAITING_CHANGES);
        let told = changes.clone();
        let write = move |batch: &mut Batch<'_>, jobs| lanes::write(batch, jobs, &told);
        let database = Database::open(path, &SCHEMA, write, shutdown).await?;
        Ok(Self { database, changes })
    }

    /// The fleet whose database a file is, and its name, without bringing the file up to date.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn find_fleet(path: &Path) -> Result<Found<(FleetId, String)>, StoreError> {
        file::find(path, ("fleet", "fleet"), sql::find_fleet).await
    }

    /// What operators and audit logs are asked of.
    pub(crate) const fn database(&self) -> &Database<Job> {
        &self.database
    }

    /// Whether the disk takes what is written: after a batch that was not stored, only once
    /// [`Self::note_time`] wrote.
    #[must_use]
    pub(crate) fn is_writing(&self) -> bool {
        self.database.is_writing()
    }

    /// Hears of every command whose progress changed, with the commit. A failed batch is
    /// told, too: an event says only that something may have changed.
    #[must_use]
    pub(crate) fn watch(&self) -> broadcast::Receiver<CommandId> {
        self.changes.subscribe()
    }

    fn announce(&self, command: CommandId) {
        // Nobody watching is not an error.
        let _ = self.changes.send(command);
    }
}
