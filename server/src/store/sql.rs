//! The statements, written once for every database, and the handle's methods beside those they run.

mod agents;
mod alerts;
mod bundles;
mod commands;
mod contacts;
mod fleet;
mod manager;
mod queue;
mod receipts;
mod rollouts;
mod selectors;
mod tokens;

pub(super) use commands::record_all as record_commands;
pub(super) use contacts::{note_contacts, note_signs_of_life};
pub(super) use fleet::find_fleet;
pub(super) use receipts::record_all as record_receipts;

pub(crate) use agents::MAX_LABELS;
pub(crate) use bundles::MAX_FORKS;
pub(crate) use selectors::MAX_SAVED_SELECTORS;
