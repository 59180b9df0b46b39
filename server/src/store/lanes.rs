//! Writes that come in thousands: all of a kind that wait are written together.

use std::collections::HashSet;

use tokio::sync::broadcast;
use writ_database::{Batch, Waiter};
use writ_protocol::id::CommandId;

use super::rows::{Beginning, Contact, NewCommand, NewReceipt, ReceiptFate, RecordedCommand, SignOfLife};
use super::sql;

/// One such write, and where its outcome is awaited.
#[derive(Debug)]
pub(crate) enum Job {
    /// A command is recorded.
    Command(NewCommand, Waiter<Option<RecordedCommand>>),
    /// A receipt is recorded.
    Receipt(NewReceipt, Waiter<ReceiptFate>),
    /// A session begins.
    Contact(Contact, Waiter<Beginning>),
    /// An agent was heard.
    SignOfLife(SignOfLife, Waiter<()>),
}

/// Writes the jobs of a batch, and tells afterwards which commands have changed.
pub(super) fn write(batch: &mut Batch<'_>, jobs: Vec<Job>, changes: &broadcast::Sender<CommandId>) {
    let (mut commands, mut receipts, mut contacts, mut signs) = (vec![], vec![], vec![], vec![]);
    for job in jobs {
        match job {
            Job::Command(command, answer) => commands.push((command, answer)),
            Job::Receipt(receipt, answer) => receipts.push((receipt, answer)),
            Job::Contact(contact, answer) => contacts.push((contact, answer)),
            Job::SignOfLife(sign, answer) => signs.push((sign, answer)),
        }
    }
    let changed: HashSet<_> = receipts.iter().map(|(receipt, _): &(NewReceipt, _)| receipt.command).collect();
    // Before the answers: a caller who looks at once finds the change announced. A batch that failed is
    // announced, too: an announcement says only that something may have changed.
    if !changed.is_empty() {
        let changes = changes.clone();
        batch.afterwards(move || {
            for command in changed {
                // Nobody watching is not an error.
                let _ = changes.send(command);
            }
        });
    }
    batch.lane(commands, sql::record_commands);
    batch.lane_and_tell(receipts, sql::record_receipts, |receipt, fate| (receipt.tell)(receipt, fate));
    // Before the contacts: what an older session heard is known when a newer one is judged.
    batch.lane(signs, sql::note_signs_of_life);
    batch.lane(contacts, sql::note_contacts);
}
