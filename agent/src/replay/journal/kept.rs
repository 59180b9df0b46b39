//! Receipts that were acknowledged and are kept all the same: an acknowledgement is under no seal, and a
//! server that has no receipt delivers its command again. They stay until the command is forgotten, and are
//! the first to go.

use bytes::Bytes;
use prost::Message as _;
use redb::{ReadableTable as _, TableDefinition, WriteTransaction};
use writ_protocol::id::CommandId;

use super::entry::Entry;
use super::{COMMANDS, JournalError, META};

/// What they may take together; past it the one that was acknowledged first goes. Thousands of small ones, 12
/// of the largest.
const MAX_BYTES: u64 = 4 << 20;

/// By the order of their acknowledgements: whose they are, and their bytes.
pub(super) const KEPT: TableDefinition<'_, u64, ([u8; 16], u64)> = TableDefinition::new("kept");
/// How many bytes they take, in the table of numbers.
const TAKEN: &str = "kept_bytes";

/// Counts a receipt among those that are kept; the entry says its place from now on. It is not written yet.
pub(super) fn keep(
    write: &WriteTransaction,
    command: CommandId,
    entry: &mut Entry,
) -> Result<(), JournalError> {
    let mut kept = write.open_table(KEPT)?;
    let mut meta = write.open_table(META)?;
    let place = kept.last()?.map_or(0, |(place, _)| place.value()) + 1;
    let size = u64::try_from(entry.receipt.len()).unwrap_or(u64::MAX);
    kept.insert(place, (*command.as_bytes(), size))?;
    entry.kept_at = place;
    let taken = meta.get(TAKEN)?.map_or(0, |held| held.value()) + size;
    meta.insert(TAKEN, taken)?;
    Ok(())
}

/// Takes the oldest away while they are too many.
pub(super) fn make_room(write: &WriteTransaction) -> Result<(), JournalError> {
    let mut kept = write.open_table(KEPT)?;
    let mut commands = write.open_table(COMMANDS)?;
    let mut meta = write.open_table(META)?;
    let mut taken = meta.get(TAKEN)?.map_or(0, |held| held.value());
    while taken > MAX_BYTES
        && let Some((_, kept)) = kept.pop_first()?
    {
        let (id, size) = kept.value();
        taken = taken.saturating_sub(size);
        // An earlier release forgets commands without looking here.
        let stored = commands.get(&id)?.map(|stored| Entry::decode(stored.value()));
        let Some(Ok(mut entry)) = stored else { continue };
        (entry.receipt, entry.kept_at) = (Bytes::new(), 0);
        commands.insert(&id, entry.encode_to_vec().as_slice())?;
    }
    meta.insert(TAKEN, taken)?;
    Ok(())
}

/// Its command is forgotten.
pub(super) fn forget(write: &WriteTransaction, entry: &Entry) -> Result<(), JournalError> {
    if entry.kept_at == 0 {
        return Ok(());
    }
    let mut kept = write.open_table(KEPT)?;
    let size = kept.remove(entry.kept_at)?.map_or(0, |kept| kept.value().1);
    let mut meta = write.open_table(META)?;
    let taken = meta.get(TAKEN)?.map_or(0, |held| held.value());
    meta.insert(TAKEN, taken.saturating_sub(size))?;
    Ok(())
}
