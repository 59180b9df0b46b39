//! What is stored, as types.

mod agents;
mod alert_kind;
mod alerts;
mod bundles;
mod commands;
mod contacts;
mod manager;
mod receipts;
mod tokens;

pub use agents::{AgentRow, AllowList, Attribute, KnownAgent, Membership, Source};
pub use alert_kind::AlertKind;
pub use alerts::{Alarm, AlertRow, SERVER};
pub use bundles::{BackupRow, Behind, Fork, Holders};
pub use commands::{
    CommandRow, EvidenceRow, NewCommand, Progress, QueuedCommand, RecordedCommand, StoredEnvelope, TargetRow,
    TargetState, WaitingCommand,
};
pub use contacts::{Contact, Noted, Report, SignOfLife};
pub use manager::TakenRow;
pub use receipts::{NewReceipt, ReceiptFate};
pub use tokens::{Admission, EnrolmentTokenRow, NewToken, TokenUse};

pub(in crate::store) use commands::FIRST_ENDED;
pub(in crate::store) use manager::{state_of, stored};
