//! What is stored, as types.

mod agents;
mod alert_kind;
mod alerts;
mod bundles;
mod commands;
mod contacts;
mod manager;
mod receipts;
mod rollouts;
mod tokens;

pub(crate) use agents::{
    AgentRow, AllowList, Attribute, AttributeSource, KnownAgent, LabelChange, ListedAction, Membership,
    SavedSelector,
};
pub use alert_kind::AlertKind;
pub(crate) use alerts::{Alarm, AlertRow, AlertState, SERVER, Teller, WantedAlerts};
pub(crate) use bundles::{BackupRow, Behind, Fork, Holders};
pub(crate) use commands::{
    CommandRow, EvidenceRow, NewCommand, Progress, QueuedCommand, RecordedCommand, StoredEnvelope, TargetRow,
    TargetState, WaitingCommand, Wanted, WantedState,
};
pub(crate) use contacts::{Beginning, Contact, Noted, Report, SignOfLife};
pub(crate) use manager::TakenRow;
pub(crate) use receipts::{NewReceipt, ReceiptFate};
pub(crate) use rollouts::{Answers, OpenTarget, RolloutRow, RolloutState};
pub(crate) use tokens::{AgentAdmission, EnrolmentTokenRow, NewToken, TokenUse};

pub(in crate::store) use commands::FIRST_ENDED;
pub(in crate::store) use manager::{state_of, stored};
pub(in crate::store) use rollouts::{FIRST_OVER, millis};
