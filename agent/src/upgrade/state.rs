//! What of the agent's state an upgrade copies, and puts back when it is taken back. It is done as the
//! agent's user: in that user's folder a link leads anywhere.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::say;

use crate::identity::Files;
use crate::replay::{Journal, JournalError};

/// What of an agent's state a later version may write in a way that an earlier one does not read. Who the
/// agent is and whom it obeys are documents of the protocol, and are never taken back.
fn versioned(files: &Files) -> [PathBuf; 2] {
    [files.journal(), files.settings()]
}

/// Where the copies of those are while an upgrade is under way.
fn kept(files: &Files) -> PathBuf {
    files.folder().join("upgrade-kept")
}

/// What is done with the copies of an agent's state, as the agent's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StateStep {
    /// Copy what other versions may write differently.
    Keep,
    /// Put the copies back.
    PutBack,
    /// Remove the copies.
    Forget,
}

/// Carries that out; each can be done again.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn handle(files: &Files, step: StateStep) -> Result<(), Fatal> {
    // It runs beside the agent, with the agent's rights and none of what bounds it.
    rustix::thread::set_no_new_privs(true).map_err(Fatal::failure)?;
    let (kept, complete) = (kept(files), kept(files).join("complete"));
    let copy_of = |file: &Path| kept.join(file.file_name().unwrap_or_default());
    match step {
        StateStep::Keep => {
            // Copies of an earlier try are of before the agent ran on.
            forget(&kept)?;
            with_journal(files, Journal::fix_next_mark)?;
            let _alone = files::lock_folder(files.folder()).map_err(Fatal::failure)?;
            files::private_folder(&kept).map_err(Fatal::failure)?;
            let copied = versioned(files).iter().try_for_each(|file| copy(file, &copy_of(file)));
            let kept_all = copied.and_then(|()| files::write_public(&complete, b"")).map_err(Fatal::failure);
            // What a full disk took of it is nobody's.
            kept_all.or_else(|why| forget(&kept).and(Err(why)))
        }
        // The agent goes on with what there is, and its server judges that.
        StateStep::PutBack if !complete.exists() => {
            say::aside(format_args!("{}: the agent's state of before is not there", kept.display()));
            Ok(())
        }
        StateStep::PutBack => {
            let alone = files::lock_folder(files.folder()).map_err(Fatal::failure)?;
            let put_back = versioned(files).iter().try_for_each(|file| {
                // What it takes the place of is worth nothing now, and a full disk needs its room.
                remove_file(file)?;
                copy(&copy_of(file), file)
            });
            put_back.map_err(Fatal::failure)?;
            drop(alone);
            with_journal(files, Journal::was_put_back)
        }
        StateStep::Forget => forget(&kept),
    }
}

fn forget(kept: &Path) -> Result<(), Fatal> {
    match fs::remove_dir_all(kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Fatal::failure(files::FileError::io(kept)(error)))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Does something with the journal of an agent that is stopped, if it has one.
fn with_journal(files: &Files, work: impl FnOnce(&Journal) -> Result<(), JournalError>) -> Result<(), Fatal> {
    if !files.journal().exists() {
        return Ok(());
    }
    let journal = Journal::open(&files.journal(), u64::MAX);
    journal.and_then(|journal| work(&journal)).map_err(Fatal::failure)
}

fn remove_file(file: &Path) -> Result<(), files::FileError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(files::FileError::io(file)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Copies a file to where none is; one that is not there leaves none.
fn copy(from: &Path, to: &Path) -> Result<(), files::FileError> {
    let mut content = match files::open_plain(from) {
        Err(error) if error.is_missing() => return Ok(()),
        opened => opened?,
    };
    let copied = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to).and_then(
        |mut copy| {
            io::copy(&mut content, &mut copy)?;
            copy.sync_all()
        },
    );
    copied.map_err(files::FileError::io(to))
}
