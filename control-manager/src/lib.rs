//! writ-control-manager: one above many servers. It lists them as its *entities*, sees how they stand, and
//! tells them what to do; it never holds a key that agents obey.
//!
//! Modules in the order of a call: [`service`] takes it in and signs the answer, [`registry`] decides whether
//! it counts, [`instructions`] is what waits for the caller and what became of it, [`notify`] has an entity
//! call at once, [`presence`] is how it stands between calls. [`sandbox`] brings suspicious objects, and [`feed`] is
//! what entities fetch of them. [`admin`] is the operators' door.

mod service;

mod feed;
mod instructions;
mod metrics;
mod mirror;
mod notify;
mod presence;
mod registry;
mod sandbox;
mod store;

mod admin;
mod authority;

mod app;
mod config;
mod context;
mod folder;

pub use admin::POLICY;
pub use app::{command_line, main};

/// The program's version; what it announces to entities is in [`config`].
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
