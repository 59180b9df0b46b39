//! Looking for listed files, and what is done with them.
//!
//! [`walk`] finds files without following links, [`hash`] makes their digests, the filter decides about most
//! of them and the server about the rest ([`crate::reputation`]). What is listed is opened and hashed anew,
//! and [`remedy`] acts on what it opened, unless [`guard`] holds it. [`quarantine`] keeps what was moved
//! away. [`findings`] is what the scan says.

mod findings;
mod guard;
mod hash;
mod place;
mod quarantine;
mod remedy;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use writ_common::files;
use writ_common::text::plain;
use writ_lists::{Filter, Key};
use writ_protocol::command::{Remedy, Scan};
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_QUESTION_VALUES;
use writ_protocol::receipt::Ending;
use writ_protocol::time::Timestamp;

use crate::components::ComponentStore;
use crate::execute::Ended;
use crate::reputation::{Reputations, Verdict};
use findings::{Finding, Findings};
use guard::Guard;
use hash::{CHUNK, Hasher, hash};
use place::{has_changed, open_file};
pub(crate) use quarantine::Kept;
use quarantine::Quarantine;
use remedy::{Remedied, Remedies};
use walk::{Skip, Visitor, walk};

/// The list that files are compared with.
const LIST: &str = "file-reputation";
/// What this agent holds of it.
const FILTER: &str = "file-reputation-filter";
/// Files that wait for the server's word; the walk waits for it when there are more.
const MAX_WAITING: usize = 4096;
/// Files that nobody said anything about and that are asked about once more at the end; more are only
/// counted.
const MAX_UNANSWERED: usize = 65_536;
/// How long values are gathered for one question.
const GATHER: Duration = Duration::from_secs(2);
/// How long the server may take for an answer while the walk goes on.
const PATIENCE: Duration = Duration::from_secs(30);
/// And for those that are asked about once more.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// The lowest priority: whoever else wants the processor or the disk has it first.
const NICENESS: i32 = 19;
/// How long a pause may be while reading is slowed down: a scan that is stopped ends within so much.
const PAUSE: Duration = Duration::from_millis(100);

/// What scans need, and how the one that runs stands.
#[derive(Debug)]
pub(crate) struct Scans {
    quarantine: Arc<Quarantine>,
    guard: Guard,
    /// Scans whose commands were issued before this are ended.
    stopped: Mutex<Timestamp>,
    running: Mutex<Option<Arc<Running>>>,
    /// Where it is written how the one that runs stands.
    told: PathBuf,
}

/// A scan that runs.
#[derive(Debug)]
struct Running {
    issued_at: Timestamp,
    is_stopped: AtomicBool,
    files: AtomicU64,
    bytes: AtomicU64,
    /// The folder in which it looks.
    at: Mutex<PathBuf>,
}

/// How a scan stands, for `status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Files that were looked at.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Where it looks.
    pub at: String,
}

/// So many files further, where it looks is told anew.
const TOLD_FILES: u64 = 64;
/// How often it is written how a scan stands.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// Says to the walk that nobody waits for it any more, however that came.
struct StopsWalk(Arc<Running>);

impl Drop for StopsWalk {
    fn drop(&mut self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }
}

impl Scans {
    /// Of an agent with these folders, the first of which has its quarantine.
    pub(crate) fn new(data: &Path, others: &[PathBuf]) -> Self {
        let quarantine = Arc::new(Quarantine::new(&data.join("quarantine")));
        let folders = std::iter::once(data.to_owned()).chain(others.iter().cloned()).collect();
        let (stopped, running) = (Mutex::new(Timestamp::from_millis(0)), Mutex::default());
        Self { quarantine, guard: Guard::new(folders), stopped, running, told: progress_file(data) }
    }

    /// Ends what was begun when the agent was killed.
    pub(crate) fn recover(&self) {
        let _ = std::fs::remove_file(&self.told);
        self.quarantine.recover();
    }

    /// Ends scans whose commands were issued before this moment; whether one ran.
    pub(crate) fn stop(&self, issued_at: Timestamp) -> bool {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        *stopped = (*stopped).max(issued_at);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.as_ref().filter(|running| running.issued_at < issued_at);
        running.inspect(|running| running.is_stopped.store(true, Ordering::Relaxed)).is_some()
    }

    /// Puts files back from quarantine, or removes them from it; `verb` says which.
    pub(crate) async fn dispose(&self, verb: &'static str, sha256: Digest) -> Ended {
        let quarantine = Arc::clone(&self.quarantine);
        let done = tokio::task::spawn_blocking(move || match verb {
            "restored" => quarantine.restore(sha256),
            _ => quarantine.delete(sha256),
        });
        let (done, failed) = done.await.unwrap_or_else(|error| (Vec::new(), vec![error.to_string()]));
        if done.is_empty() && failed.is_empty() {
            let why = format!("no file with SHA-256 {sha256} is in this agent's quarantine");
            return Ended::quiet(Ending::Failed, why);
        }
        let lines = done.iter().map(|path| format!("{verb}: {path}\n"));
        let text: String = lines.chain(failed.iter().map(|why| format!("not {verb}: {why}\n"))).collect();
        let ending = if failed.is_empty() { Ending::Done } else { Ending::Failed };
        let detail = format!("{} {verb}, {} not", done.len(), failed.len());
        Ended { ending, detail, ..Ended::with_output(text.into_bytes()) }
    }

    /// Carries a scan out.
    pub(crate) async fn run(
        &self,
        scan: &Scan,
        (components, reputations): (&ComponentStore, &Reputations),
        issued_at: Timestamp,
        now: impl Fn() -> Timestamp,
    ) -> Ended {
        let filter = match components.filter(FILTER).await {
            Ok(Some(filter)) => Arc::new(filter),
            Ok(None) => {
                let why = format!("this agent holds no {FILTER}, so there is nothing to compare files with");
                return Ended::quiet(Ending::Failed, why);
            }
            Err(why) => return Ended::quiet(Ending::Failed, why),
        };
        if Hasher::of(filter.kind()).is_none() {
            let why =
                format!("the {FILTER} of this agent is of kind {}, which is none of files", filter.kind());
            return Ended::quiet(Ending::Failed, why);
        }
        let running = Arc::new(Running {
            issued_at,
            is_stopped: AtomicBool::new(false),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            at: Mutex::default(),
        });
        if *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) > issued_at {
            return Ended::quiet(Ending::Failed, "it was stopped before it began");
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&running));
        let _stops = StopsWalk(Arc::clone(&running));
        info!(roots = ?scan.roots, remedy = scan.remedy.as_str(), "scan began");
        let begun = Instant::now();
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let walker = Walker {
            scan: scan.clone(),
            filter: Arc::clone(&filter),
            running: Arc::clone(&running),
            until: begun + scan.max_time,
            sender,
        };
        let walked = match std::thread::Builder::new().name("scan".to_owned()).spawn(move || walker.walk()) {
            Ok(walked) => walked,
            Err(error) => return Ended::quiet(Ending::Failed, format!("a thread cannot be begun: {error}")),
        };
        let mut judging = Judging {
            scans: self,
            scan,
            filter: &filter,
            reputations,
            now,
            findings: Findings::default(),
            unanswered: Vec::new(),
            is_answered: true,
            remedied: 0,
        };
        let judged = async {
            judging.judge_all(receiver).await;
            judging.ask_once_more(begun + scan.max_time).await;
        };
        tokio::select! {
            () = judged => {}
            () = self.tell(&running) => {}
        }
        let _ = std::fs::remove_file(&self.told);
        let mut findings = judging.findings;
        match walked.join() {
            Ok(seen) => findings.seen(seen),
            Err(_) => return Ended::quiet(Ending::Failed, "the scan broke off; see the agent's log"),
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        findings.took = begun.elapsed();
        info!(files = findings.files, listed = findings.listed(), "scan ended");
        findings.ended()
    }
}

impl Scans {
    /// Writes down how a scan stands, again and again.
    async fn tell(&self, running: &Running) {
        loop {
            tokio::time::sleep(TOLD_EVERY).await;
            let progress = Progress {
                files: running.files.load(Ordering::Relaxed),
                bytes: running.bytes.load(Ordering::Relaxed),
                at: shown(&running.at.lock().unwrap_or_else(PoisonError::into_inner)),
            };
            if let Err(error) =
                files::write_public(&self.told, &serde_json::to_vec(&progress).unwrap_or_default())
            {
                warn!(%error, "how the scan stands could not be written");
            }
        }
    }
}

fn progress_file(data: &Path) -> PathBuf {
    data.join("scan.json")
}

/// How the scan stands that runs, as the agent with this folder wrote it last.
pub(crate) fn progress(data: &Path) -> Option<Progress> {
    let text = files::read(&progress_file(data)).ok()?;
    let progress: Progress = serde_json::from_slice(&text).ok()?;
    Some(Progress { at: plain(&progress.at), ..progress })
}

/// Files in the quarantine of the agent with this folder, and what is wrong with others.
pub(crate) fn quarantined(data: &Path) -> (Vec<Kept>, Vec<String>) {
    Quarantine::new(&data.join("quarantine")).kept()
}

/// A file of which the filter says that it may be listed.
struct Maybe {
    path: PathBuf,
    key: Key,
}

/// What the walk saw.
#[derive(Debug, Default)]
struct Seen {
    files: u64,
    bytes: u64,
    skipped: BTreeMap<Skip, (u64, Vec<String>)>,
    /// Why it did not come to its end.
    cut_short: Option<&'static str>,
}

/// Examples of what was not looked at, for each reason.
const EXAMPLES: usize = 5;

impl Seen {
    fn skip(&mut self, path: &Path, why: Skip) {
        let (count, examples) = self.skipped.entry(why).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(shown(path));
        }
    }
}

/// Walks in a thread of its own, which has the lowest priority.
struct Walker {
    scan: Scan,
    filter: Arc<Filter>,
    running: Arc<Running>,
    until: Instant,
    sender: mpsc::Sender<Maybe>,
}

impl Walker {
    fn walk(self) -> Seen {
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
        let mut visit = Visit { walker: &self, seen, buffer: vec![0; CHUNK], begun: Instant::now() };
        let mut last: Option<PathBuf> = None;
        for root in roots {
            // Sorted, so that what is above comes first.
            if last.as_ref().is_some_and(|last| root.starts_with(last)) {
                continue;
            }
            walk(&root, &excluded, &mut visit);
            last = Some(root);
        }
        visit.seen
    }
}

struct Visit<'a> {
    walker: &'a Walker,
    seen: Seen,
    buffer: Vec<u8>,
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
        let length = u64::try_from(before.st_size).unwrap_or(u64::MAX);
        if length > walker.scan.max_file_bytes {
            return Err(Skip::TooLong);
        }
        let hasher = Hasher::of(walker.filter.kind()).ok_or(Skip::Failed)?;
        let (begun, bytes, mut read) = (self.begun, self.seen.bytes, 0);
        let key = hash(&mut file, hasher, &mut self.buffer, |chunk| {
            read += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            walker.slow_down(begun, bytes + read);
            match walker.cut_short() {
                // A file that grows as fast as it is read has no end.
                None if read <= walker.scan.max_file_bytes => Ok(()),
                _ => Err(std::io::Error::other("it is read no further")),
            }
        });
        self.seen.bytes += read;
        let key = match key {
            Err(_) if walker.cut_short().is_some() => return Ok(()),
            Err(_) if read > walker.scan.max_file_bytes => return Err(Skip::TooLong),
            key => key.map_err(|error| Skip::of(&error))?,
        };
        self.seen.files += 1;
        walker.running.files.store(self.seen.files, Ordering::Relaxed);
        walker.running.bytes.store(self.seen.bytes, Ordering::Relaxed);
        let after = rustix::fs::fstat(&file).map_err(|error| Skip::of(&error.into()))?;
        if has_changed(&before, &after) {
            self.seen.skip(path, Skip::Changed);
        }
        if walker.filter.may_contain(&key) {
            // Nobody listens when the scan is over.
            let _ = walker.sender.blocking_send(Maybe { path: path.to_owned(), key });
        }
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
        self.seen.cut_short = self.seen.cut_short.or_else(|| self.walker.cut_short());
    }

    fn skipped(&mut self, path: &Path, why: Skip) {
        self.seen.skip(path, why);
    }

    fn goes_on(&self) -> bool {
        self.walker.cut_short().is_none()
    }
}

impl Walker {
    fn cut_short(&self) -> Option<&'static str> {
        if self.running.is_stopped.load(Ordering::Relaxed) {
            return Some("it was stopped");
        }
        (Instant::now() >= self.until).then_some("its time was over")
    }

    /// Waits until so many bytes are due.
    fn slow_down(&self, begun: Instant, bytes: u64) {
        let Some(pace) = self.scan.bytes_per_second else { return };
        let due = Duration::from_millis(bytes.saturating_mul(1000) / pace);
        loop {
            let ahead = due.saturating_sub(begun.elapsed());
            if ahead.is_zero() || self.cut_short().is_some() {
                return;
            }
            std::thread::sleep(ahead.min(PAUSE));
        }
    }
}

/// Asks about files, and acts on those that are listed.
struct Judging<'a, N> {
    scans: &'a Scans,
    scan: &'a Scan,
    filter: &'a Filter,
    reputations: &'a Reputations,
    now: N,
    findings: Findings,
    unanswered: Vec<Maybe>,
    /// Whether the server answered the last time: nobody waits again and again for one that is away.
    is_answered: bool,
    remedied: u32,
}

impl<N: Fn() -> Timestamp> Judging<'_, N> {
    /// What comes at a time is asked about together.
    async fn judge_all(&mut self, mut receiver: mpsc::Receiver<Maybe>) {
        let mut batch = Vec::with_capacity(MAX_QUESTION_VALUES);
        while receiver.recv_many(&mut batch, MAX_QUESTION_VALUES).await > 0 {
            // A question of few values costs the server as much as one of many. But what is listed should not
            // wait for long.
            let more = async {
                while let Some(room) = MAX_QUESTION_VALUES.checked_sub(batch.len() + 1)
                    && receiver.recv_many(&mut batch, room + 1).await > 0
                {}
            };
            let _ = tokio::time::timeout(GATHER, more).await;
            let patience = if self.is_answered { PATIENCE } else { Duration::ZERO };
            let unanswered = self.judge(std::mem::take(&mut batch), patience).await;
            self.is_answered = unanswered.is_empty();
            for maybe in unanswered {
                if self.unanswered.len() < MAX_UNANSWERED {
                    self.unanswered.push(maybe);
                } else {
                    self.findings.unanswered += 1;
                }
            }
        }
    }

    async fn ask_once_more(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let unanswered = std::mem::take(&mut self.unanswered);
        if unanswered.is_empty() {
            return;
        }
        for maybe in self.judge(unanswered, left.min(LAST_PATIENCE)).await {
            self.findings.unanswered += 1;
            if self.scan.is_strict && self.has_more() {
                let remedied = self.remedy(Remedy::Block, maybe.path.clone(), maybe.key).await;
                let verdict = "may be listed, and the server does not say".to_owned();
                self.found(maybe, verdict, remedied);
            } else if self.findings.unanswered_examples.len() < EXAMPLES {
                self.findings.unanswered_examples.push(shown(&maybe.path));
            }
        }
    }

    /// Asks about files, and acts on those that are listed; those about which nobody said anything.
    async fn judge(&mut self, batch: Vec<Maybe>, patience: Duration) -> Vec<Maybe> {
        let values = batch.iter().map(|maybe| maybe.key).collect();
        let verdicts = self.reputations.judge((LIST, self.filter), &values, patience).await;
        let mut unanswered = Vec::new();
        for maybe in batch {
            match verdicts.get(&maybe.key) {
                Some(Verdict::Unlisted) => {}
                Some(Verdict::Listed(version)) => {
                    let verdict = format!("listed in {LIST} {version}");
                    let remedied = match self.scan.remedy {
                        Remedy::Log => None,
                        _ if !self.has_more() => {
                            let most = self.scan.max_remedied;
                            Some(Remedied::Left(format!("{most} files were blocked and quarantined already")))
                        }
                        remedy => self.remedy(remedy, maybe.path.clone(), maybe.key).await,
                    };
                    self.found(maybe, verdict, remedied);
                }
                Some(Verdict::Unanswered) | None => unanswered.push(maybe),
            }
        }
        unanswered
    }

    const fn has_more(&self) -> bool {
        self.remedied < self.scan.max_remedied
    }

    /// Acts beside the runtime, which has one thread.
    async fn remedy(&mut self, remedy: Remedy, path: PathBuf, key: Key) -> Option<Remedied> {
        let (guard, quarantine) = (self.scans.guard.clone(), Arc::clone(&self.scans.quarantine));
        let (takes_packaged, kind) = (self.scan.takes_packaged, self.filter.kind());
        let now_ms = (self.now)().as_millis();
        let acted = tokio::task::spawn_blocking(move || {
            let (guard, quarantine) = (&guard, &*quarantine);
            Remedies { guard, quarantine, remedy, takes_packaged, kind, now_ms }.apply(&path, &key)
        });
        let acted = acted.await.unwrap_or_else(|error| Remedied::Left(error.to_string()));
        if !matches!(acted, Remedied::Left(_)) {
            self.remedied += 1;
        }
        Some(acted)
    }

    fn found(&mut self, maybe: Maybe, verdict: String, remedied: Option<Remedied>) {
        let Maybe { path, key } = maybe;
        let kind = self.filter.kind();
        let digest = hex::encode(&key[..usize::from(kind.width())]);
        let path = shown(&path);
        warn!(path, %kind, digest, verdict, ?remedied, "a listed file");
        self.findings.add(Finding { path, digest: format!("{kind}:{digest}"), verdict, remedied });
    }
}

/// A path on one line, and no more of it than helps: it may be no text, or one that steers a terminal.
pub(crate) fn shown(path: &Path) -> String {
    const MOST: usize = 512;
    let text = plain(&path.to_string_lossy());
    if text.chars().count() <= MOST {
        return text;
    }
    let short: String = text.chars().take(MOST).collect();
    format!("{short}…")
}
