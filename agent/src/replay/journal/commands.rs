//! A command in the journal, from its admission until it is forgotten.

use bytes::Bytes;
use prost::Message as _;
use redb::{ReadableTable as _, ReadableTableMetadata as _, WriteTransaction};
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::limits::SKEW;
use writ_protocol::time::Timestamp;

use super::entry::{Admission, Durable, Entry, State};
use super::kept;
use super::{COMMANDS, EXPIRY, Journal, JournalError, META, OPEN, reserve_error};

/// Finished and expired commands removed in one transaction, so that admission stays quick.
const PRUNE_BATCH: usize = 64;

/// Refusals that are remembered when there is no place for an admission. A command refused beyond that hears
/// nothing.
const MAX_REFUSED_BEYOND: u64 = 1024;

impl Journal {
    /// Admits a command: check 12. It is on disk when this returns.
    ///
    /// # Errors
    /// When the journal is full or cannot be written; then nothing is remembered.
    pub fn accept(
        &self,
        command: CommandId,
        digest: Digest,
        expires_at: Timestamp,
        delivery: Bytes,
        now: Timestamp,
    ) -> Result<Admission, JournalError> {
        let entry = Entry {
            digest: digest.as_bytes().to_vec().into(),
            expires_at_ms: expires_at.as_millis(),
            delivery,
            ..Entry::default()
        };
        self.admit(command, entry, now)
    }

    /// Admits a command that is about to start: both are on disk when this returns, by one sync.
    ///
    /// # Errors
    /// As of [`Self::accept`].
    pub fn accept_and_start(
        &self,
        command: CommandId,
        (digest, expires_at): (Digest, Timestamp),
        delivery: Bytes,
        now: Timestamp,
        boot: &str,
    ) -> Result<Admission, JournalError> {
        let mut entry = Entry {
            digest: digest.as_bytes().to_vec().into(),
            expires_at_ms: expires_at.as_millis(),
            delivery,
            ..Entry::default()
        };
        entry.start(now, boot);
        self.admit(command, entry, now)
    }

    fn admit(&self, command: CommandId, entry: Entry, now: Timestamp) -> Result<Admission, JournalError> {
        let max_entries = self.max_entries;
        // What is set aside is for the receipts of what was admitted.
        self.reserve.keep().map_err(reserve_error)?;
        // A transaction of its own: a journal found full must not undo it.
        if self.has_forgettable(now)? {
            self.write_once(|write| prune(write, now))?;
        }
        let admitted = self.write_once(|write| {
            insert(write, command, &entry, max_entries)?;
            let mut meta = write.open_table(META)?;
            let admissions = meta.get("admissions")?.map_or(0, |held| held.value()) + 1;
            meta.insert("admissions", admissions)?;
            Ok(Admission { durable: Durable { command }, admissions })
        });
        // A full disk may fail a commit late: it counts as refused only if it is not there.
        match admitted {
            Err(JournalError::NoRoom(error)) if self.entry(command).ok() != Some(None) => {
                Err(JournalError::Unknown(error.into()))
            }
            admitted => admitted,
        }
    }

    /// Remembers that a command was refused, and the receipt that says so: it is not admitted later, when
    /// what it was refused for is mended. On disk when this returns.
    ///
    /// # Errors
    /// When there is no place for it, or it cannot be written; then nothing is remembered, and it must not be
    /// answered.
    pub fn refuse(
        &self,
        command: CommandId,
        (digest, expires_at): (Digest, Timestamp),
        receipt: Bytes,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let mut entry = Entry {
            digest: digest.as_bytes().to_vec().into(),
            expires_at_ms: expires_at.as_millis(),
            receipt,
            ..Entry::default()
        };
        entry.set_state(State::Finished);
        // What is set aside is for the receipts of what was admitted.
        if self.has_forgettable(now)? {
            self.write_once(|write| prune(write, now))?;
        }
        // Also that the journal is full is said to some.
        let most = self.max_entries + MAX_REFUSED_BEYOND;
        self.write_once(|write| insert(write, command, &entry, most))
    }

    /// A command that was accepted before a crash is as good as one admitted now.
    ///
    /// # Errors
    /// When it cannot be read, or is not in the state `accepted`.
    pub fn accepted_before(&self, command: CommandId) -> Result<Durable, JournalError> {
        let entry = self.entry(command)?.filter(|entry| entry.state() == State::Accepted);
        entry.map(|_| Durable { command }).ok_or(JournalError::Damaged)
    }

    /// About to start: on disk when this returns. Returns the number of the attempt.
    ///
    /// # Errors
    /// When it cannot be written; then it must not be started.
    pub fn start(&self, admitted: &Durable, now: Timestamp, boot: &str) -> Result<u32, JournalError> {
        self.write(|write| {
            let mut attempt = Err(JournalError::NotAccepted(admitted.command));
            change(write, admitted.command, |entry| {
                // In the same transaction: whatever else goes wrong, `accepted` becomes `started` once.
                if entry.state() == State::Accepted {
                    entry.start(now, boot);
                    attempt = Ok(entry.attempt);
                }
            })?;
            attempt
        })
    }

    /// Notes that a command was told to end, so that no restart begins it anew; how far it is. `None`: it is
    /// not known.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn stop(&self, command: CommandId) -> Result<Option<State>, JournalError> {
        let Some(entry) = self.entry(command)? else { return Ok(None) };
        if !matches!(entry.state(), State::Accepted | State::Started) {
            return Ok(Some(entry.state()));
        }
        self.change(command, |entry| entry.is_stopped = true)?;
        Ok(self.entry(command)?.map(|entry| entry.state()))
    }

    /// The process group of a started command, so that it can be proven gone after a crash.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note_process_group(&self, command: CommandId, group: u32) -> Result<(), JournalError> {
        self.change(command, |entry| entry.process_group = group)
    }

    /// An idempotent command whose process is proven gone may be started once more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn accept_again(&self, command: CommandId) -> Result<Durable, JournalError> {
        self.change(command, |entry| entry.set_state(State::Accepted))?;
        Ok(Durable { command })
    }

    /// The receipt is made: on disk before it is sent.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&self, command: CommandId, receipt: Bytes) -> Result<(), JournalError> {
        self.change(command, |entry| {
            entry.set_state(State::Finished);
            entry.receipt = receipt.clone();
            entry.delivery = Bytes::new();
        })
    }

    /// The server says that it has these receipts, by the ids and digests of their commands. One transaction
    /// for all of them.
    ///
    /// # Errors
    /// When it cannot be written; then they count as not acknowledged.
    pub fn acknowledge(&self, receipts: &[(CommandId, Digest)]) -> Result<(), JournalError> {
        let is_open = |entry: &Entry, digest: Digest| {
            entry.state() == State::Finished && entry.digest.as_ref() == digest.as_bytes().as_slice()
        };
        let mut open = Vec::with_capacity(receipts.len());
        for &(command, digest) in receipts {
            match self.entry(command) {
                Ok(Some(entry)) if is_open(&entry, digest) => open.push((command, digest)),
                // Not every refusal is kept; neither is there anything to mark in a damaged entry, which is
                // refused too.
                Ok(_) | Err(JournalError::Damaged) => {}
                Err(failed) => return Err(failed),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        self.write(|write| {
            for &(command, digest) in &open {
                let mut entry = read(write, command)?;
                // Looked at again: one may be among them twice.
                if !is_open(&entry, digest) {
                    continue;
                }
                entry.set_state(State::Acknowledged);
                kept::keep(write, command, &mut entry)?;
                let encoded = entry.encode_to_vec();
                write.open_table(COMMANDS)?.insert(command.as_bytes(), encoded.as_slice())?;
                write.open_table(OPEN)?.remove(command.as_bytes())?;
            }
            kept::make_room(write)
        })
    }

    fn has_forgettable(&self, now: Timestamp) -> Result<bool, JournalError> {
        self.read(|read| {
            let expiry = read.open_table(EXPIRY)?;
            Ok(expiry.range(..((now - SKEW).as_millis(), [0; 16]))?.next().is_some())
        })
    }

    fn change(&self, command: CommandId, edit: impl Fn(&mut Entry)) -> Result<(), JournalError> {
        self.write(|write| change(write, command, &edit))
    }
}

fn insert(
    write: &WriteTransaction,
    command: CommandId,
    entry: &Entry,
    most: u64,
) -> Result<(), JournalError> {
    let mut commands = write.open_table(COMMANDS)?;
    let entries = commands.len()?;
    if entries >= most {
        return Err(JournalError::Full(entries));
    }
    commands.insert(command.as_bytes(), entry.encode_to_vec().as_slice())?;
    write.open_table(EXPIRY)?.insert((entry.expires_at_ms, *command.as_bytes()), ())?;
    write.open_table(OPEN)?.insert(command.as_bytes(), ())?;
    Ok(())
}

fn change(
    write: &WriteTransaction,
    command: CommandId,
    edit: impl FnOnce(&mut Entry),
) -> Result<(), JournalError> {
    let mut entry = read(write, command)?;
    edit(&mut entry);
    write.open_table(COMMANDS)?.insert(command.as_bytes(), entry.encode_to_vec().as_slice())?;
    Ok(())
}

fn read(write: &WriteTransaction, command: CommandId) -> Result<Entry, JournalError> {
    let commands = write.open_table(COMMANDS)?;
    let stored = commands.get(command.as_bytes())?.ok_or(JournalError::Damaged)?;
    Entry::decode(stored.value()).map_err(|_| JournalError::Damaged)
}

/// Forgets commands that expired longer than the skew ago and are acknowledged; the same transaction
/// remembers up to when. Unacknowledged ones stay: their receipts are owed.
fn prune(write: &WriteTransaction, now: Timestamp) -> Result<(), JournalError> {
    let mut expiry = write.open_table(EXPIRY)?;
    let mut commands = write.open_table(COMMANDS)?;
    let open = write.open_table(OPEN)?;
    let mut gone = Vec::new();
    for item in expiry.range(..((now - SKEW).as_millis(), [0; 16]))? {
        let (expires_at, id) = item?.0.value();
        if open.get(&id)?.is_none() {
            gone.push((expires_at, id));
        }
        if gone.len() == PRUNE_BATCH {
            break;
        }
    }
    let Some((latest, _)) = gone.last().copied() else { return Ok(()) };
    for (expires_at, id) in gone {
        expiry.remove((expires_at, id))?;
        let entry = commands.remove(&id)?.map(|stored| Entry::decode(stored.value()));
        if let Some(Ok(entry)) = entry {
            kept::forget(write, &entry)?;
        }
    }
    let mut meta = write.open_table(META)?;
    let held = meta.get("forgotten_until")?.map_or(0, |held| held.value());
    meta.insert("forgotten_until", latest.max(held))?;
    Ok(())
}
