//! writ-server: takes commands in, signs them, keeps them, sends them, and keeps the countersigned answers.
//!
//! Modules in the order of a command's journey: [`admin`] lets it in, [`selector`] chooses the agents,
//! [`sign`] seals it, [`store`] makes it durable, [`dispatch`] finds the agents, [`session`] is the line to
//! one agent, [`receipts`] brings answers home. [`enroll`] lets new agents in; [`cm_bridge`] is the line up
//! to the Control Manager; [`authority`] makes the fleet's keys.

mod actions;
mod admin;
mod choose;
mod selector;
mod sign;
mod store;
mod submit;

mod context;
mod dispatch;
mod session;

mod cm_bridge;

mod doctor;
mod enroll;
mod expiry;
mod metrics;
mod notices;
mod objects;
mod quota;
mod receipts;
mod reputation;
mod resign;
mod rollouts;
mod throttle;
mod traces;
mod unknown_fleet;
mod updates;

mod authority;

mod app;
mod config;

pub use admin::POLICY;
pub use app::{command_line, main};
pub use selector::Selector;
pub use store::AlertKind;

/// The server's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
