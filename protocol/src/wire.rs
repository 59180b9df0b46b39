//! The edge: protobuf on one side, domain types on the other, and nothing of protobuf beyond it.
//!
//! Every conversion takes its message apart completely, so that a new field does not compile until
//! somebody decided what it means.

mod command;
mod field;
mod gateway;
mod manager;
mod receipt;
mod reputation;
mod schema;
pub mod token;
mod trust;
