//! How a journal stands: said by the agent that has it open, or read from the file where no agent runs.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use redb::{ReadTransaction, ReadableDatabase as _, ReadableTableMetadata as _};
use writ_common::files::{self, FileError};
use writ_protocol::id::JournalId;
use writ_protocol::limits::SKEW;
use writ_protocol::time::Timestamp;

use super::entry::{Facts, known};
use super::{COMMANDS, DOCUMENTS, EXPIRY, Journal, JournalError, META, OPEN, check, entry};
use crate::replay::look::{Answer, Question};

impl Journal {
    /// What a journal says that no agent has open. Every page is looked at, as a start of the agent does.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or an agent has it.
    pub(in crate::replay) fn read_file(path: &Path, question: Question) -> Result<Answer, JournalError> {
        let read = || {
            let before = changed(path)?;
            let read = check::whole(path, files::open_plain, |copy| answer(&copy.begin_read()?, question))?;
            match read {
                // An agent began to run, and writes.
                Some(_) if changed(path)? != before => Err(JournalError::InUse),
                Some(answer) => Ok(answer),
                None => Err(FileError::io(path)(io::ErrorKind::NotFound.into()).into()),
            }
        };
        match read() {
            Err(error @ (JournalError::DamagedFile { .. } | JournalError::Redb(_))) => {
                match files::share_folder(path.parent().unwrap_or_else(|| Path::new("."))) {
                    // It began to run while the file was read: what was read is no journal then.
                    Err(FileError::InUse { .. }) => Err(JournalError::InUse),
                    // Again, now that nobody writes.
                    Ok(_lock) => read(),
                    Err(_) => Err(error),
                }
            }
            read => read,
        }
    }

    /// The same of this one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn answer(&self, question: Question) -> Result<Answer, JournalError> {
        self.read(|read| answer(read, Question { max_entries: self.max_entries, ..question }))
    }

    /// What is true of the journal as a whole.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn facts(&self) -> Result<Facts, JournalError> {
        self.read(facts)
    }
}

/// When a file was last written to.
fn changed(path: &Path) -> Result<SystemTime, FileError> {
    std::fs::symlink_metadata(path).and_then(|file| file.modified()).map_err(FileError::io(path))
}

fn answer(read: &ReadTransaction, question: Question) -> Result<Answer, JournalError> {
    let commands = read.open_table(COMMANDS)?;
    let asked = question.command.map(|command| entry(&commands, command)).transpose()?.flatten();
    Ok(Answer {
        facts: facts(read)?,
        known: asked.map(|entry| known(&entry).map(|known| known.digest)).transpose()?,
        is_full: is_full(read, &question)?,
    })
}

/// Whether it would take no further command: it holds as many as it may, and none of them can be forgotten.
fn is_full(read: &ReadTransaction, question: &Question) -> Result<bool, JournalError> {
    if read.open_table(COMMANDS)?.len()? < question.max_entries {
        return Ok(false);
    }
    let (expiry, open) = (read.open_table(EXPIRY)?, read.open_table(OPEN)?);
    for item in expiry.range(..((question.now - SKEW).as_millis(), [0; 16]))? {
        if open.get(&item?.0.value().1)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn facts(read: &ReadTransaction) -> Result<Facts, JournalError> {
    let (meta, documents) = (read.open_table(META)?, read.open_table(DOCUMENTS)?);
    let number =
        |name: &str| -> Result<Option<u64>, JournalError> { Ok(meta.get(name)?.map(|held| held.value())) };
    let time = |name: &str| -> Result<Timestamp, JournalError> {
        Ok(number(name)?.map_or(Timestamp::ZERO, Timestamp::from_millis))
    };
    let id = documents.get("journal_id")?.ok_or(JournalError::Damaged)?;
    Ok(Facts {
        id: JournalId::try_from(id.value()).map_err(|_| JournalError::Damaged)?,
        counter: number("counter")?.unwrap_or(0),
        admissions: number("admissions")?.unwrap_or(0),
        // Before its birth a journal admits nothing: the far future is later than any command.
        birth: number("birth")?.map_or(Timestamp::from_millis(u64::MAX), Timestamp::from_millis),
        forgotten_until: time("forgotten_until")?,
        floor: time("floor")?,
        entries: read.open_table(COMMANDS)?.len()?,
    })
}
