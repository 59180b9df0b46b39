//! writ-control-manager: one above many servers. It lists them as its *entities*, sees how they stand, and
//! tells them what to do; it never holds a key that agents obey.
//!
//! Modules in the order of a call: [`service`] takes it in and signs the answer, [`registry`] decides whether
//! it counts, [`instructions`] is what waits for the caller and what became of it, [`notify`] has an entity
//! call at once, [`presence`] is how it stands between calls. [`admin`] is the operators' door.

pub mod service;

pub mod instructions;
pub mod metrics;
pub mod notify;
pub mod presence;
pub mod registry;
pub mod store;

pub mod admin;
pub mod authority;

pub mod app;
pub mod config;
pub mod context;
pub mod folder;

/// The program's version; what it announces to entities is in [`config`].
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
