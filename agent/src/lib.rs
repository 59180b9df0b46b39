//! writ-agent: obeys what carries the server's seal, once, and answers under its own.
//!
//! Modules in the order of a command's journey: [`link`] brings it, [`verify`] believes it or not, [`replay`]
//! admits it once, [`execute`] carries it out, [`reply`] answers; [`obey`] is that journey in
//! one place. [`identity`] and [`trust`] say who the agent is and
//! whom it obeys; [`refusals`] counts what it did not obey; [`settings`] is what it was told
//! to change about itself, [`components`] what it was told to hold, [`upgrade`] how it is replaced, [`host`]
//! what it stands on, [`doctor`] what is wrong with it.

mod link;
mod verify;

mod replay;

mod execute;

mod reply;

mod obey;

mod components;
mod connections;
mod doctor;
mod host;
mod identity;
mod link_state;
mod refusals;
mod reputation;
mod scan;
mod session_time;
mod settings;
mod trust;
mod upgrade;

mod app;
mod config;

pub use app::{command_line, main};
// What simulated agents and the vectors are made of: the agent's own code without its daemon.
pub use components::ComponentStore;
pub use execute::{ActionTable, Ended, OwnWork, run_own};
pub use host::facts;
pub use identity::{Files, Identity};
pub use obey::{AgentCore, Deliveries, Reaction, Surroundings};
pub use replay::Journal;
pub use reply::{ReceiptContext, frame, sign_receipt};
pub use session_time::SessionTime;
pub use settings::SettingsStore;
pub use trust::Trust;

/// The agent's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
