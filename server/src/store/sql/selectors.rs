//! Saved selectors.

use writ_database::{Connection, KeepOrUndo, Record, ToValue as _, values};

use super::super::rows::SavedSelector;
use super::super::{Store, StoreError};

/// How many there may be.
pub(crate) const MAX_SAVED_SELECTORS: u32 = 1000;

impl Store {
    /// Saves one, in the place of another of its name; false when there are too many.
    pub(crate) async fn save_selector(&self, saved: SavedSelector) -> Result<bool, StoreError> {
        let write = move |connection: &mut Connection| {
            let SavedSelector { name, selector, saved_by, saved_at } = &saved;
            let sql = "INSERT INTO selectors VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name) DO UPDATE SET
                       selector = excluded.selector, saved_by = excluded.saved_by, saved_at = excluded.saved_at";
            connection.execute(sql, &values![name, selector, saved_by, saved_at])?;
            let sql = "SELECT count(*) AS saved FROM selectors";
            let count: u32 = connection.only(sql, &[], |record| record.get("saved"))?;
            let has_room = count <= MAX_SAVED_SELECTORS;
            Ok(if has_room { KeepOrUndo::Keep(true) } else { KeepOrUndo::Undo(false) })
        };
        self.database.decide(write).await
    }

    /// All of them by name.
    pub(crate) async fn saved_selectors(&self) -> Result<Vec<SavedSelector>, StoreError> {
        let sql = "SELECT * FROM selectors ORDER BY name";
        self.database.read(move |connection| connection.fetch(sql, &[], read)).await
    }

    /// The one of a name.
    pub(crate) async fn saved_selector(&self, name: &str) -> Result<Option<SavedSelector>, StoreError> {
        let name = name.to_owned();
        let sql = "SELECT * FROM selectors WHERE name = ?1";
        self.database.read(move |connection| connection.first(sql, &values![name], read)).await
    }

    /// Forgets one; false when there was none.
    pub(crate) async fn delete_selector(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let sql = "DELETE FROM selectors WHERE name = ?1";
        let write = move |connection: &mut Connection| Ok(connection.execute(sql, &values![name])? > 0);
        self.database.write(write).await
    }
}

fn read(record: &Record<'_>) -> Result<SavedSelector, StoreError> {
    Ok(SavedSelector {
        name: record.get("name")?,
        selector: record.get("selector")?,
        saved_by: record.get("saved_by")?,
        saved_at: record.get("saved_at")?,
    })
}
