//! One row of an answer.

use crate::DatabaseError;
use crate::value::{FromValue, Value};

/// A row, lent for as long as it is read.
#[derive(Debug)]
pub struct Record<'r>(pub(crate) &'r rusqlite::Row<'r>);

impl Record<'_> {
    /// The value of a column.
    ///
    /// # Errors
    /// [`DatabaseError::Damaged`] when it holds something that is no `T`.
    pub fn get<T: FromValue>(&self, column: &'static str) -> Result<T, DatabaseError> {
        self.value(column).and_then(T::from_value).ok_or(DatabaseError::Damaged(column))
    }

    fn value(&self, column: &str) -> Option<Value<'_>> {
        use rusqlite::types::ValueRef;
        match self.0.get_ref(column).ok()? {
            ValueRef::Null => Some(Value::Null),
            ValueRef::Integer(number) => Some(Value::Integer(number)),
            ValueRef::Text(text) => std::str::from_utf8(text).ok().map(Value::Text),
            ValueRef::Blob(bytes) => Some(Value::Blob(bytes)),
            ValueRef::Real(_) => None,
        }
    }
}
