//! writ-agent: obeys what carries the server's seal, once, and answers under its own.
//!
//! Modules in the order of a command's journey: [`link`] brings it, [`verify`] believes it or not, [`replay`]
//! admits it once, [`execute`] carries it out, [`reply`] answers; [`obey`] is that journey in
//! one place. [`identity`] and [`trust`] say who the agent is and
//! whom it obeys; [`refusals`] counts what it did not obey; [`settings`] is what it was told
//! to change about itself, [`host`] what it stands on, [`doctor`] what is wrong with it.

pub mod link;
pub mod verify;

pub mod replay;

pub mod execute;

pub mod reply;

pub mod obey;

pub mod doctor;
pub mod host;
pub mod identity;
pub mod refusals;
pub mod session_time;
pub mod settings;
pub mod trust;

pub mod app;
pub mod config;

/// The agent's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
