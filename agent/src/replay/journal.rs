//! The journal: redb, every transaction synced before it returns.
//!
//! ```text
//! accepted ──► started ──► finished(receipt) ──► acknowledged(receipt, while there is room) ──► pruned
//! (raises forgotten_until)
//! ```

mod answer;
mod check;
mod commands;
mod entry;
mod kept;
mod reserve;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use redb::{
    Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, WriteTransaction,
};
use tracing::{error, warn};
use writ_common::files::{self, FileError};
use writ_protocol::hello::JournalStanding;
use writ_protocol::id::{AgentId, CommandId, SessionMark, random_bytes};
use writ_protocol::limits::{MAX_MARKS, SKEW};
use writ_protocol::time::Timestamp;

use check::caught;
use entry::known;
pub(crate) use entry::{Admission, Durable, Entry, Facts, Known, State};
use reserve::Reserve;

/// redb would take 1 GiB; the journal's hot pages fit into this.
const CACHE_BYTES: usize = 256 << 10;

/// How far the floor may lag behind an idle agent's session time.
const FLOOR_STEP: Duration = Duration::from_secs(600);

/// How the journal is laid out; a release that changes it raises this, and reads what is lower.
const FORMAT: u64 = 1;

/// Transactions that a program without a session makes at the most until it is taken back.
const PUT_BACK_STEP: u64 = 1 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
const COMMANDS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("commands");
/// By expiry, for pruning.
const EXPIRY: TableDefinition<'_, (u64, [u8; 16]), ()> = TableDefinition::new("expiry");
/// Commands that are not acknowledged: what must be looked at after a crash or a reconnect.
const OPEN: TableDefinition<'_, [u8; 16], ()> = TableDefinition::new("open");

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// redb's word.
    #[error("the journal failed: {0}")]
    Redb(#[from] redb::Error),
    /// A commit failed: whether it is on disk is known only after the journal is opened again.
    #[error("the journal could not be synced: {0}")]
    Unknown(redb::Error),
    /// The file is damaged.
    #[error(
        "{0}: the journal is damaged: {why}. Look at the disk, then: mv {0} {0}.damaged; the agent begins a new journal, and refuses what was issued before",
        path.display()
    )]
    DamagedFile {
        /// The journal.
        path: PathBuf,
        /// What redb found.
        why: String,
    },
    /// The disk takes no more.
    #[error("the disk has no room for the journal: {0}. Make room; the agent goes on by itself")]
    NoRoom(io::Error),
    /// An entry cannot be read back.
    #[error("the journal holds a damaged entry")]
    Damaged,
    /// A later release wrote it.
    #[error(
        "the journal has format {0}, and this release knows {FORMAT}; start the release that wrote it, or a later one"
    )]
    Newer(u64),
    /// Another process has it.
    #[error("the journal is in use: another writ-agent runs on this data directory")]
    InUse,
    /// An agent has it and does not answer questions, or not yet.
    #[error("the agent on this data directory does not say how its journal stands: {0}")]
    NotAnswered(String),
    /// The agent that has it says why it cannot be read.
    #[error("the agent says of its journal: {0}")]
    Told(String),
    /// An agent began to run, or to end, while it was asked for.
    #[error("an agent is about to start or to end on this data directory")]
    Between,
    /// It belongs to another identity.
    #[error("the journal belongs to agent {0}; move journal.redb away, and this agent begins with a new one")]
    Foreign(String),
    /// A second start was asked for.
    #[error("command {0} is not waiting to be started")]
    NotAccepted(CommandId),
    /// The file cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds as many commands as it may.
    #[error("the journal holds {0} unexpired commands, as many as it may")]
    Full(u64),
}

macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for JournalError {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}
from_redb! { DatabaseError TransactionError TableError StorageError }

impl JournalError {
    /// Whether only a restart can mend it: redb answers nothing more, or nobody knows what is on disk.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        matches!(self, Self::Redb(_) | Self::Unknown(_) | Self::DamagedFile { .. })
    }

    /// The same, as what it is when the disk is full.
    fn named(self) -> Self {
        match self {
            Self::Redb(redb::Error::Io(error)) | Self::Unknown(redb::Error::Io(error))
                if is_no_room(&error) =>
            {
                Self::NoRoom(error)
            }
            other => other,
        }
    }
}

/// A full disk, a used up quota, or a file that may not grow.
fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn reserve_error(error: io::Error) -> JournalError {
    if is_no_room(&error) { JournalError::NoRoom(error) } else { JournalError::Redb(error.into()) }
}

/// The journal of a running agent.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// `None` after the disk was full: redb answers nothing more until it is opened again.
    database: Mutex<Option<Database>>,
    reserve: Reserve,
    max_entries: u64,
    /// One process at a time.
    _lock: File,
}

/// Opens the file, if need be with what is set aside: after a failure redb writes before it reads.
fn open_database(path: &Path, reserve: &Reserve) -> Result<Database, JournalError> {
    let open = || {
        let opened = caught(path, || {
            // For one process only, which is redb's own choice: a file that others may read is flushed twice
            // for each transaction.
            Builder::new().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => JournalError::InUse,
                other => other.into(),
            })
        });
        opened.map_err(JournalError::named)
    };
    match open() {
        Err(JournalError::NoRoom(_)) if reserve.release() => open(),
        opened => opened,
    }
}

impl Journal {
    /// Opens or makes the journal, for this process alone: others ask it ([`super::look`]).
    ///
    /// # Errors
    /// When the file cannot be opened or another agent has it.
    pub fn open(path: &Path, max_entries: u64) -> Result<Self, JournalError> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        // Before anything is read: the file of an agent that runs changes meanwhile, and would look damaged.
        let lock = files::lock_folder(folder).map_err(|error| match error {
            FileError::InUse { .. } => JournalError::InUse,
            other => other.into(),
        })?;
        // The owner of the folder may have put it elsewhere, by a link.
        let _whole = check::whole(path, |path| File::open(path).map_err(FileError::io(path)), |_| Ok(()))?;
        if path.exists() && Self::is_to_be_made(path) {
            warn!(journal = %path.display(), "the journal is empty: a new one begins, and what was issued before is refused");
        }
        // Receipts hold what actions printed.
        files::touch_private(path)?;
        let reserve = Reserve::beside(path);
        let database = open_database(path, &reserve)?;
        match reserve.keep().map_err(reserve_error) {
            Err(error @ JournalError::NoRoom(_)) => {
                warn!(%error, "nothing can be set aside: commands are refused as `journal_failed` until there is room");
            }
            kept => kept?,
        }
        let journal = Self {
            path: path.to_owned(),
            database: Mutex::new(Some(database)),
            reserve,
            max_entries,
            _lock: lock,
        };
        journal.write(|write| {
            let mut meta = write.open_table(META)?;
            let format = meta.get("format")?.map(|format| format.value());
            match format {
                Some(format) if format > FORMAT => return Err(JournalError::Newer(format)),
                Some(FORMAT) => {}
                _ => drop(meta.insert("format", FORMAT)?),
            }
            let mut documents = write.open_table(DOCUMENTS)?;
            if documents.get("journal_id")?.is_none() {
                let id: [u8; 16] = random_bytes();
                documents.insert("journal_id", id.as_slice())?;
            }
            write.open_table(COMMANDS)?;
            write.open_table(EXPIRY)?;
            write.open_table(OPEN)?;
            write.open_table(kept::KEPT)?;
            Ok(())
        })?;
        Ok(journal)
    }

    /// Whether there is nothing of a journal, so that a start of the agent begins one.
    #[must_use]
    pub fn is_to_be_made(path: &Path) -> bool {
        match std::fs::metadata(path) {
            Ok(file) => file.len() == 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// What is known of a command.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(&self, command: CommandId) -> Result<Option<Known>, JournalError> {
        self.entry(command)?.map(|entry| known(&entry)).transpose()
    }

    /// One entry.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entry(&self, command: CommandId) -> Result<Option<Entry>, JournalError> {
        self.read(|read| entry(&read.open_table(COMMANDS)?, command))
    }

    /// Commands that are not acknowledged. One whose entry is damaged is left out and said: it must not keep
    /// the agent from all others.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_commands(&self) -> Result<Vec<(CommandId, Entry)>, JournalError> {
        self.read(|read| {
            let (open, commands) = (read.open_table(OPEN)?, read.open_table(COMMANDS)?);
            let mut entries = Vec::new();
            for item in open.iter()? {
                let id = item?.0.value();
                let id = CommandId::from_bytes(id);
                let stored = commands.get(id.as_bytes())?;
                match stored.and_then(|stored| Entry::decode(stored.value()).ok()) {
                    Some(entry) => entries.push((id, entry)),
                    None => error!(command.id = %id, "the journal's entry of this command is damaged"),
                }
            }
            Ok(entries)
        })
    }

    /// The identity key was made just now: this journal is as old as the identity, and none was lost before
    /// it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn is_first(&self) -> Result<(), JournalError> {
        self.keep_document("first", b"yes")
    }

    /// The first journal of an identity is born with it: nothing older can be addressed to the agent. A
    /// journal that was lost later is born with a session instead.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn be_born(&self, recorded_at: Timestamp) -> Result<(), JournalError> {
        self.write(|write| {
            let is_first = write.open_table(DOCUMENTS)?.remove("first")?.is_some();
            let mut meta = write.open_table(META)?;
            if is_first && meta.get("birth")?.is_none() {
                meta.insert("birth", recorded_at.as_millis())?;
            }
            Ok(())
        })
    }

    /// Binds the journal to an agent: receipts of another identity would be answered for in its name.
    ///
    /// # Errors
    /// When it is another's already, or cannot be written.
    pub fn bind(&self, agent: AgentId) -> Result<(), JournalError> {
        match self.document("agent_id")? {
            Some(owner) if owner.as_ref() == agent.as_bytes().as_slice() => Ok(()),
            Some(owner) => Err(JournalError::Foreign(hex_of(&owner))),
            None => self.keep_document("agent_id", agent.as_bytes()),
        }
    }

    /// What a session that is about to begin says of the journal (protocol.md §6.9). The mark it will write
    /// is on disk before it is said, and stays the same until a session began: the server may have kept
    /// it although its welcome never came.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn standing(&self) -> Result<JournalStanding, JournalError> {
        // As it was before this contact wrote anything: else one lost transaction would be made up for by the
        // next mark.
        let Facts { id, counter, admissions, .. } = self.facts()?;
        if self.mark("next_mark")?.is_none() {
            self.keep_document("next_mark", &random_bytes::<16>())?;
        }
        let next_mark = self.mark("next_mark")?.ok_or(JournalError::Damaged)?;
        Ok(JournalStanding { id, counter, admissions, marks: self.marks()?, next_mark })
    }

    /// Makes this journal fit to be put back later, after another program went on with it: whichever of the
    /// two begins the next session does so under the same mark, so that a server knows both.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn fix_next_mark(&self) -> Result<(), JournalError> {
        self.standing().map(drop)
    }

    /// This journal was put back: it stands past whatever the other program may have shown of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn was_put_back(&self) -> Result<(), JournalError> {
        self.write(|write| {
            let mut meta = write.open_table(META)?;
            let counter = meta.get("counter")?.map_or(0, |held| held.value());
            meta.insert("counter", counter + PUT_BACK_STEP)?;
            Ok(())
        })
    }

    fn mark(&self, name: &str) -> Result<Option<SessionMark>, JournalError> {
        let stored = self.document(name)?;
        let mark = stored.map(|bytes| SessionMark::try_from(bytes.as_ref()));
        mark.transpose().map_err(|_| JournalError::Damaged)
    }

    /// What the latest sessions wrote, newest first.
    fn marks(&self) -> Result<Vec<SessionMark>, JournalError> {
        let stored = self.document("marks")?.unwrap_or_default();
        let marks = stored.chunks(16).map(SessionMark::try_from).collect::<Result<_, _>>();
        marks.map_err(|_| JournalError::Damaged)
    }

    /// A session began at this time: a journal without a birth is born, the floor rises, the session's mark
    /// is kept. Nothing issued before `commands_from` is obeyed from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin_session(&self, now: Timestamp, commands_from: Timestamp) -> Result<(), JournalError> {
        self.write(|write| {
            let mut meta = write.open_table(META)?;
            let birth = meta.get("birth")?.map_or(now.as_millis(), |held| held.value());
            meta.insert("birth", birth.max(commands_from.min(now).as_millis()))?;
            drop(meta);
            let mut documents = write.open_table(DOCUMENTS)?;
            let next = documents.remove("next_mark")?.map(|mark| mark.value().to_vec());
            if let Some(mut marks) = next {
                marks.extend_from_slice(documents.get("marks")?.as_ref().map_or(&[], |marks| marks.value()));
                marks.truncate(16 * MAX_MARKS);
                documents.insert("marks", marks.as_slice())?;
            }
            drop(documents);
            raise_floor(write, now)
        })
    }

    /// Lets the floor follow session time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn raise_floor(&self, now: Timestamp) -> Result<(), JournalError> {
        // An idle agent writes nothing more often than the floor is worth.
        if (now - SKEW).since(self.facts()?.floor) < FLOOR_STEP {
            return Ok(());
        }
        self.write(|write| raise_floor(write, now))
    }

    /// A trust bundle sets the floor anew: the only way it falls.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reset_floor(&self, floor: Timestamp) -> Result<(), JournalError> {
        self.write(|write| {
            write.open_table(META)?.insert("floor", floor.as_millis())?;
            Ok(())
        })
    }

    /// A small document of the agent's that must survive, such as its refusal records.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn document(&self, name: &str) -> Result<Option<Bytes>, JournalError> {
        self.read(|read| {
            let documents = read.open_table(DOCUMENTS)?;
            Ok(documents.get(name)?.map(|stored| Bytes::copy_from_slice(stored.value())))
        })
    }

    /// Keeps such a document.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_document(&self, name: &str, content: &[u8]) -> Result<(), JournalError> {
        self.write(|write| {
            write.open_table(DOCUMENTS)?.insert(name, content)?;
            Ok(())
        })
    }

    /// Gives what is set aside to other files of the agent's that must be written; whether there was
    /// anything.
    #[must_use]
    pub fn make_room(&self) -> bool {
        self.reserve.release()
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        self.with_database(|database| work(&database.begin_read()?))
    }

    /// One transaction: the counter rises with it, and it is synced when this returns. On a full disk it
    /// takes what is set aside.
    fn write<T>(
        &self,
        work: impl Fn(&WriteTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        match self.write_once(&work) {
            Err(JournalError::NoRoom(_)) if self.reserve.release() => self.write_once(&work),
            done => done,
        }
    }

    /// The same with the room there is.
    fn write_once<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let done = self.with_database(|database| {
            let write = database.begin_write()?;
            let done = work(&write)?;
            {
                let mut meta = write.open_table(META)?;
                let counter = meta.get("counter")?.map_or(0, |held| held.value());
                meta.insert("counter", counter + 1)?;
            }
            write.commit().map_err(|error| JournalError::Unknown(error.into()))?;
            Ok(done)
        });
        let done = done.map_err(JournalError::named);
        if matches!(done, Err(JournalError::NoRoom(_))) {
            *self.lock() = None;
        }
        done
    }

    fn with_database<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut held = self.lock();
        let database = match held.take() {
            Some(database) => database,
            None => open_database(&self.path, &self.reserve)?,
        };
        let database = held.insert(database);
        caught(&self.path, || work(database))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry(
    commands: &ReadOnlyTable<[u8; 16], &[u8]>,
    command: CommandId,
) -> Result<Option<Entry>, JournalError> {
    let stored = commands.get(command.as_bytes())?;
    stored.map(|stored| Entry::decode(stored.value()).map_err(|_| JournalError::Damaged)).transpose()
}

fn raise_floor(write: &WriteTransaction, now: Timestamp) -> Result<(), JournalError> {
    let mut meta = write.open_table(META)?;
    let floor = (now - SKEW).as_millis();
    let held = meta.get("floor")?.map_or(0, |held| held.value());
    meta.insert("floor", floor.max(held))?;
    Ok(())
}

fn hex_of(bytes: &[u8]) -> String {
    AgentId::try_from(bytes).map_or_else(|_| "unknown".to_owned(), |agent| agent.to_string())
}

#[cfg(test)]
mod tests;
