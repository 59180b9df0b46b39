//! What a column holds, lent: nothing is copied on its way into a statement.

use bytes::Bytes;
use writ_protocol::id::{
    AgentId, CommandId, Digest, EntityId, FleetId, InstructionId, JournalId, ManagerId, SessionMark,
};
use writ_protocol::keys::PublicKey;
use writ_protocol::time::Timestamp;

/// One value of a statement or of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// Numbers, times in milliseconds, and yes or no as 1 or 0.
    Integer(i64),
    /// Text.
    Text(&'a str),
    /// Bytes: ids, digests, keys and signed documents.
    Blob(&'a [u8]),
}

impl<'a> Value<'a> {
    const fn blob(self) -> Option<&'a [u8]> {
        match self {
            Value::Blob(bytes) => Some(bytes),
            Value::Null | Value::Integer(_) | Value::Text(_) => None,
        }
    }

    const fn text(self) -> Option<&'a str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Null | Value::Integer(_) | Value::Blob(_) => None,
        }
    }

    const fn integer(self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(number),
            Value::Null | Value::Text(_) | Value::Blob(_) => None,
        }
    }
}

/// What can be a value of a statement.
pub trait ToValue {
    /// Lends it.
    fn to_value(&self) -> Value<'_>;
}

/// What can be read back.
pub trait FromValue: Sized {
    /// `None` when the column holds something else.
    fn from_value(value: Value<'_>) -> Option<Self>;
}

/// Lends values to a statement, in the order of its parameters: `values![agent, now]` for `?1` and `?2`.
/// Needs [`ToValue`] in scope.
#[macro_export]
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($value.to_value()),*] };
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value<'_> {
        (**self).to_value()
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value<'_>) -> Option<Self> {
        if value == Value::Null { Some(None) } else { T::from_value(value).map(Some) }
    }
}

impl ToValue for i64 {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(*self)
    }
}

impl FromValue for i64 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        value.integer()
    }
}

impl ToValue for u64 {
    /// A column's integers are signed. The greatest number stands for what is greater: it is only ever a
    /// bound, for no count or time comes near 2^63.
    fn to_value(&self) -> Value<'_> {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl FromValue for u64 {
    fn from_value(value: Value<'_>) -> Option<Self> {
        Self::try_from(value.integer()?).ok()
    }
}

macro_rules! small_numbers {
    ($($number:ty),*) => { $(
        impl ToValue for $number {
            fn to_value(&self) -> Value<'_> {
                Value::Integer(i64::from(*self))
            }
        }

        impl FromValue for $number {
            fn from_value(value: Value<'_>) -> Option<Self> {
                Self::try_from(value.integer()?).ok()
            }
        }
    )* };
}

small_numbers!(u8, u32);

impl ToValue for bool {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(i64::from(*self))
    }
}

impl FromValue for bool {
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value.integer()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl ToValue for str {
    fn to_value(&self) -> Value<'_> {
        Value::Text(self)
    }
}

impl ToValue for String {
    fn to_value(&self) -> Value<'_> {
        Value::Text(self)
    }
}

impl FromValue for String {
    fn from_value(value: Value<'_>) -> Option<Self> {
        value.text().map(str::to_owned)
    }
}

impl ToValue for [u8] {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self)
    }
}

impl<const N: usize> ToValue for [u8; N] {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self)
    }
}

impl<const N: usize> FromValue for [u8; N] {
    fn from_value(value: Value<'_>) -> Option<Self> {
        value.blob()?.try_into().ok()
    }
}

impl ToValue for Vec<u8> {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self)
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value<'_>) -> Option<Self> {
        value.blob().map(<[u8]>::to_vec)
    }
}

impl ToValue for Bytes {
    fn to_value(&self) -> Value<'_> {
        Value::Blob(self)
    }
}

impl FromValue for Bytes {
    fn from_value(value: Value<'_>) -> Option<Self> {
        value.blob().map(Self::copy_from_slice)
    }
}

impl ToValue for Timestamp {
    fn to_value(&self) -> Value<'_> {
        Value::Integer(i64::try_from(self.as_millis()).unwrap_or(i64::MAX))
    }
}

impl FromValue for Timestamp {
    fn from_value(value: Value<'_>) -> Option<Self> {
        u64::from_value(value).map(Self::from_millis)
    }
}

impl FromValue for PublicKey {
    fn from_value(value: Value<'_>) -> Option<Self> {
        Self::from_spki(value.blob()?).ok()
    }
}

macro_rules! ids {
    ($($id:ty),*) => { $(
        impl ToValue for $id {
            fn to_value(&self) -> Value<'_> {
                Value::Blob(self.as_bytes())
            }
        }

        impl FromValue for $id {
            fn from_value(value: Value<'_>) -> Option<Self> {
                Self::try_from(value.blob()?).ok()
            }
        }
    )* };
}

ids!(AgentId, CommandId, Digest, EntityId, FleetId, InstructionId, JournalId, ManagerId, SessionMark);
