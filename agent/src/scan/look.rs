//! The walk of a scan: it makes the digest of every file, and hands on those that may be listed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;
use writ_protocol::command::Scan;

use super::hash::{Limit, read};
use super::place::{has_changed, length, open_file};
use super::walk::{Skip, Visitor, is_left_out, walk};
use super::wanted::Wanted;
use super::{Running, Seen, Suspect};

/// The lowest priority: whoever else wants the processor or the disk has it first.
const NICENESS: i32 = 19;
/// How long a pause may be while reading is slowed down: a scan that is stopped ends within so much.
const PAUSE: Duration = Duration::from_millis(100);
/// So many files further, where it looks is told anew.
const TOLD_FILES: u64 = 64;

/// Walks in a thread of its own, which has the lowest priority.
pub(super) struct Walker {
    pub(super) scan: Scan,
    pub(super) wanted: Arc<Wanted>,
    pub(super) running: Arc<Running>,
    pub(super) sender: mpsc::Sender<Suspect>,
}

impl Walker {
    pub(super) fn walk(self) -> Seen {
        // Of this thread alone, as Linux has it.
        let thread = Some(rustix::thread::gettid());
        if let Err(error) = rustix::process::setpriority_process(thread, NICENESS) {
            warn!(%error, "the scan has the priority of the agent");
        }
        let real = |path: &String| PathBuf::from(path).canonicalize();
        let mut seen = Seen::default();
        let mut roots = BTreeSet::new();
        for root in &self.scan.roots {
            match real(root) {
                Ok(root) => drop(roots.insert(root)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    seen.skip(Path::new(root), Skip::Missing);
                }
                Err(error) => seen.skip(Path::new(root), Skip::of(&error)),
            }
        }
        // As named, and where that leads.
        let named = self.scan.exclude.iter().map(PathBuf::from);
        let excluded: Vec<_> =
            named.chain(self.scan.exclude.iter().filter_map(|path| real(path).ok())).collect();
        let mut visit = Visit { walker: &self, seen, begun: Instant::now() };
        let mut walked: Vec<PathBuf> = Vec::new();
        for root in roots {
            // Sorted, so that what is above comes first. A file system that is left out there is entered
            // because it is named.
            if walked.iter().any(|walked| root.starts_with(walked)) && !is_left_out(&root) {
                continue;
            }
            if !walk(&root, &excluded, &mut visit) {
                visit.seen.cut_short = visit.seen.cut_short.or_else(|| self.running.is_over());
                break;
            }
            walked.push(root);
        }
        visit.seen
    }
}

struct Visit<'a> {
    walker: &'a Walker,
    seen: Seen,
    begun: Instant,
}

impl Visit<'_> {
    fn look(&mut self, folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Skip> {
        let (mut file, before) = match open_file(folder, name) {
            // It went away between two looks.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|error| Skip::of(&error))?,
        };
        let walker = self.walker;
        if length(&before) > walker.scan.max_file_bytes {
            return Err(Skip::TooLong);
        }
        let mut hashers = walker.wanted.hashers();
        let (begun, bytes, mut came) = (self.begun, self.seen.bytes, 0);
        let goes_on = || walker.running.is_over().is_none();
        let limit = Limit { bytes: walker.scan.max_file_bytes, goes_on: &goes_on };
        let read = read(&mut file, limit, |chunk| {
            hashers.iter_mut().for_each(|(_, hasher)| hasher.update(chunk));
            came += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            walker.slow_down(begun, bytes + came);
            Ok(())
        });
        self.seen.bytes += came;
        match read {
            Ok(_) => {}
            // That is told of the whole scan.
            Err(_) if !goes_on() => return Ok(()),
            Err(error) => return Err(Skip::of(&error)),
        }
        let digests: Vec<_> = hashers.into_iter().map(|(kind, hasher)| (kind, hasher.finish())).collect();
        self.seen.files += 1;
        walker.running.files.store(self.seen.files, Ordering::Relaxed);
        walker.running.bytes.store(self.seen.bytes, Ordering::Relaxed);
        let after = rustix::fs::fstat(&file).map_err(|error| Skip::of(&error.into()))?;
        if has_changed(&before, &after) {
            self.seen.skip(path, Skip::Changed);
        }
        let Some(known) = walker.wanted.look(&digests) else { return Ok(()) };
        let suspect = Suspect { path: path.to_owned(), known };
        // Nobody listens when the scan is over.
        let _ = walker.sender.blocking_send(suspect);
        Ok(())
    }
}

impl Visitor for Visit<'_> {
    fn file(&mut self, folder: &OwnedFd, name: &OsStr, path: &Path) {
        if self.seen.files.is_multiple_of(TOLD_FILES) {
            let mut at = self.walker.running.at.lock().unwrap_or_else(PoisonError::into_inner);
            path.parent().unwrap_or(path).clone_into(&mut at);
        }
        if let Err(why) = self.look(folder, name, path) {
            self.seen.skip(path, why);
        }
    }

    fn skipped(&mut self, path: &Path, why: Skip) {
        self.seen.skip(path, why);
    }

    fn goes_on(&self) -> bool {
        self.walker.running.is_over().is_none()
    }
}

impl Walker {
    /// Waits until so many bytes are due.
    fn slow_down(&self, begun: Instant, bytes: u64) {
        let Some(pace) = self.scan.bytes_per_second else { return };
        let due = Duration::from_millis(bytes.saturating_mul(1000) / pace);
        loop {
            let ahead = due.saturating_sub(begun.elapsed());
            if ahead.is_zero() || self.running.is_over().is_some() {
                return;
            }
            std::thread::sleep(ahead.min(PAUSE));
        }
    }
}
