//! writ-server: takes commands in, signs them, keeps them, sends them, and keeps the countersigned answers.
//!
//! Modules in the order of a command's journey: [`admin`] lets it in, [`selector`] chooses the agents,
//! [`sign`] seals it, [`store`] makes it durable, [`dispatch`] finds the agents, [`session`] is the line to
//! one agent, [`receipts`] brings answers home. [`enroll`] lets new agents in; [`cm_bridge`] is the line up
//! to the Control Manager; [`authority`] makes the fleet's keys.

pub mod admin;
pub mod selector;
pub mod sign;
pub mod store;

pub mod context;
pub mod dispatch;
pub mod session;

pub mod cm_bridge;

pub mod doctor;
pub mod enroll;
pub mod expiry;
pub mod metrics;
pub mod receipts;
pub mod resign;
pub mod throttle;
pub mod traces;
pub mod unknown_fleet;

pub mod authority;

pub mod app;
pub mod config;

/// The server's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
