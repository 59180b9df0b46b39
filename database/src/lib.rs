//! What the stores of the server and of the Control Manager stand on: one database file, one thread that
//! writes, a few connections that read. Here is what both need and nothing that only one of them knows:
//! opening and migrating, values and records, the transaction that many writes share, operators, audit logs.
//!
//! Why SQLite is spoken through `rusqlite`, and what assumes that one process has the file: docs/adr/0012.

mod connection;
mod record;
mod value;

pub mod dialect;
mod error;
pub mod file;
mod migrate;
mod sqlite;

mod database;
mod readers;
mod writer;

mod audit;
mod objects;
mod operators;

pub use connection::Connection;
pub use database::{Database, Pending, Schema};
pub use error::DatabaseError;
pub use migrate::Migration;
pub use objects::{OBJECT_TABLES, put_objects, too_many_objects};
pub use operators::{TOKEN_LIMITS, insert_operator};
pub use record::Record;
pub use value::{FromValue, ToValue, Value};
pub use writer::{Batch, KeepOrUndo, Waiter};

pub use audit::append as append_audit;
