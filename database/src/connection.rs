//! The functions that every statement goes through: what a database must have.

use std::ops::{Deref, DerefMut};

use rusqlite::{CachedStatement, Statement, params_from_iter};

use crate::sqlite::LONGEST_KEPT;
use crate::{DatabaseError, Record, Value};

/// A connection to the database. Its statements are prepared once, but for very long ones.
#[derive(Debug)]
pub struct Connection {
    pub(crate) inner: rusqlite::Connection,
    /// What to do about a damaged file, as the program says it.
    pub(crate) cure: &'static str,
}

impl Connection {
    /// Runs a statement; returns how many rows it changed.
    ///
    /// # Errors
    /// When the database fails.
    pub fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, DatabaseError> {
        let changed = self.prepare(sql).and_then(|mut statement| statement.execute(params_from_iter(values)));
        changed.map(as_count).map_err(|error| self.failure(&error))
    }

    /// Runs a statement once for each row of values. Another database gets them without waiting between
    /// them.
    ///
    /// # Errors
    /// When the database fails; what ran before stays in the transaction.
    pub fn execute_each<'v, const N: usize>(
        &mut self,
        sql: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<(), DatabaseError> {
        let run = || {
            let mut statement = self.prepare(sql)?;
            for row in rows {
                statement.execute(params_from_iter(row))?;
            }
            Ok(())
        };
        run().map_err(|error| self.failure(&error))
    }

    /// Every row of an answer.
    ///
    /// # Errors
    /// When the database fails, or a row cannot be read.
    pub fn fetch<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        mut read: impl FnMut(&Record<'_>) -> Result<T, DatabaseError>,
    ) -> Result<Vec<T>, DatabaseError> {
        let mut statement = self.prepare(sql).map_err(|error| self.failure(&error))?;
        let mut rows = statement.query(params_from_iter(values)).map_err(|error| self.failure(&error))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.failure(&error))? {
            found.push(read(&Record(row))?);
        }
        Ok(found)
    }

    /// The first row of an answer, if it has one.
    ///
    /// # Errors
    /// When the database fails, or the row cannot be read.
    pub fn first<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnMut(&Record<'_>) -> Result<T, DatabaseError>,
    ) -> Result<Option<T>, DatabaseError> {
        let mut found = self.first_of_each(sql, [values], read)?;
        Ok(found.pop().flatten())
    }

    /// The only row of an answer that always has one.
    ///
    /// # Errors
    /// When the database fails, or the row is missing or cannot be read.
    pub fn only<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnMut(&Record<'_>) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        self.first(sql, values, read)?.ok_or(DatabaseError::Damaged("row: it is missing"))
    }

    /// The first row of each answer, one answer for each row of values, in their order. Another database gets
    /// them without waiting between them.
    ///
    /// # Errors
    /// When the database fails, or a row cannot be read.
    pub fn first_of_each<'v, T, V: AsRef<[Value<'v>]>>(
        &mut self,
        sql: &str,
        rows: impl IntoIterator<Item = V>,
        mut read: impl FnMut(&Record<'_>) -> Result<T, DatabaseError>,
    ) -> Result<Vec<Option<T>>, DatabaseError> {
        let mut statement = self.prepare(sql).map_err(|error| self.failure(&error))?;
        let mut found = Vec::new();
        for values in rows {
            let asked = statement.query(params_from_iter(values.as_ref()));
            let mut answer = asked.map_err(|error| self.failure(&error))?;
            let row = answer.next().map_err(|error| self.failure(&error))?;
            found.push(row.map(|row| read(&Record(row))).transpose()?);
        }
        Ok(found)
    }

    fn prepare(&self, sql: &str) -> rusqlite::Result<Prepared<'_>> {
        if sql.len() > LONGEST_KEPT {
            return self.inner.prepare(sql).map(Prepared::Once);
        }
        self.inner.prepare_cached(sql).map(Prepared::Kept)
    }

    /// Runs statements that have no values.
    pub(crate) fn run(&mut self, sql: &str) -> Result<(), DatabaseError> {
        self.inner.execute_batch(sql).map_err(|error| self.failure(&error))
    }
}

/// A statement that is ready to run.
enum Prepared<'c> {
    /// Stays prepared.
    Kept(CachedStatement<'c>),
    /// Ends with its use.
    Once(Statement<'c>),
}

impl<'c> Deref for Prepared<'c> {
    type Target = Statement<'c>;

    fn deref(&self) -> &Statement<'c> {
        match self {
            Self::Kept(statement) => statement,
            Self::Once(statement) => statement,
        }
    }
}

impl<'c> DerefMut for Prepared<'c> {
    fn deref_mut(&mut self) -> &mut Statement<'c> {
        match self {
            Self::Kept(statement) => statement,
            Self::Once(statement) => statement,
        }
    }
}

fn as_count(changed: usize) -> u64 {
    u64::try_from(changed).unwrap_or(u64::MAX)
}
