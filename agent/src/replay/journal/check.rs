//! Whether a journal's file is whole, before anything is done with it: redb gives up in the middle of a call,
//! by a panic, on a page it cannot read. What it would mend is mended in memory; the file stays as it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use redb::{Builder, Database, StorageBackend};
use writ_common::files::FileError;
use writ_common::text::plain;

use super::{CACHE_BYTES, JournalError};

const PAGE: u64 = 4096;

std::thread_local! {
    /// Whether what redb says when it gives up is kept from standard error: the caller is told in words.
    static IS_QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// What it said.
    static SAID: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Runs something that reads or writes a journal. A panic of redb's becomes an error that names the file.
pub(super) fn caught<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, JournalError>,
) -> Result<T, JournalError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| match IS_QUIET.get() {
            true => SAID.set(plain(&info.to_string())),
            false => usual(info),
        }));
    });
    let was_quiet = IS_QUIET.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(was_quiet);
    let damaged = |why: String| Err(JournalError::DamagedFile { path: path.to_owned(), why });
    match done {
        Ok(Err(JournalError::Redb(redb::Error::Corrupted(why)))) => damaged(why),
        Ok(Err(JournalError::Redb(redb::Error::Io(error)))) if is_content(&error) => {
            damaged(error.to_string())
        }
        Ok(done) => done,
        Err(_) => damaged(format!("a page of it cannot be read ({})", SAID.take())),
    }
}

/// Whether it speaks of what is in the file, not of the disk.
fn is_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Checks every page of a journal that nobody has open, and calls `read` with it; `None` where there is no
/// journal.
///
/// # Errors
/// When it is damaged, or cannot be read at all.
pub(super) fn whole<T>(
    path: &Path,
    open: impl FnOnce(&Path) -> Result<File, FileError>,
    read: impl FnOnce(&Database) -> Result<T, JournalError>,
) -> Result<Option<T>, JournalError> {
    let file = match open(path) {
        Err(error) if error.is_missing() => return Ok(None),
        opened => opened?,
    };
    let length = file.metadata().map_err(redb::Error::from)?.len();
    if length == 0 {
        return Ok(None);
    }
    let copy = Copy { file, state: Mutex::new(State { length, pages: BTreeMap::new() }) };
    // To its end, which writes to the copy.
    caught(path, move || {
        let mut database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(copy)?;
        match database.check_integrity()? {
            true => read(&database).map(Some),
            false => Err(JournalError::DamagedFile {
                path: path.to_owned(),
                why: "a page of it is not what was written".to_owned(),
            }),
        }
    })
}

/// The file, with everything that is written to it kept in memory.
#[derive(Debug)]
struct Copy {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Copy {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut page = vec![0; index(PAGE)?];
        let (mut at, mut filled) = (number * PAGE, 0);
        // The last page may end early.
        while filled < page.len() {
            match self.file.read_at(&mut page[filled..], at)? {
                0 => break,
                read => {
                    filled += read;
                    at += u64::try_from(read).map_err(io::Error::other)?;
                }
            }
        }
        Ok(page)
    }

    /// Calls `each` with every part of a range: the page, where it begins there, how long it is, and where it
    /// stands in the range.
    fn parts(
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, usize, usize, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset + u64::try_from(done).map_err(io::Error::other)?;
            let within = index(at % PAGE)?;
            let part = (index(PAGE)? - within).min(length - done);
            each(at / PAGE, within, part, done)?;
            done += part;
        }
        Ok(())
    }
}

fn index(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(io::Error::other)
}

impl StorageBackend for Copy {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        let end = offset.checked_add(u64::try_from(out.len()).map_err(io::Error::other)?);
        if end.is_none_or(|end| end > state.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::parts(offset, out.len(), |number, within, length, at| {
            let page = match state.pages.get(&number) {
                Some(page) => page.clone(),
                None => self.page(number)?,
            };
            out[at..at + length].copy_from_slice(&page[within..within + length]);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.lock().length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        Self::parts(offset, data.len(), |number, within, length, at| {
            let page = match state.pages.remove(&number) {
                Some(page) => page,
                None => self.page(number)?,
            };
            let page = state.pages.entry(number).or_insert(page);
            page[within..within + length].copy_from_slice(&data[at..at + length]);
            Ok(())
        })
    }
}
