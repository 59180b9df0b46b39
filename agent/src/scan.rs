//! Looking for listed files and suspicious objects, and what is done with files.
//!
//! First come those who talk to suspicious addresses ([`crate::connections`]), then files.
//! [`walk`] finds files without following links, [`look`] makes their digests, and what is [`wanted`]
//! decides about most of them. The server decides about the rest ([`crate::reputation`]), which is asked by
//! [`judge`]. What is listed is opened and hashed anew, and [`remedy`] acts on what it opened, unless
//! [`guard`] holds it. [`quarantine`] keeps what was moved away. [`findings`] is what the scan says.

mod findings;
mod guard;
mod hash;
mod judge;
mod look;
mod place;
mod quarantine;
mod remedy;
mod walk;
mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};
use writ_common::files;
use writ_common::text::plain;
use writ_protocol::command::Scan;
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::receipt::Ending;
use writ_protocol::time::Timestamp;

use crate::components::ComponentStore;
use crate::connections::{Looked, Search};
use crate::execute::Ended;
use crate::reputation::Known;
use findings::Findings;
use guard::Guard;
use hash::Hasher;
use judge::Judging;
use look::Walker;
pub(crate) use quarantine::Kept;
use quarantine::Quarantine;
use walk::Skip;
use wanted::{Match, Wanted};

/// The list that files are compared with.
const LIST: &str = "file-reputation";
/// What this agent holds of it.
const FILTER: &str = "file-reputation-filter";
/// Files that wait for the server's word; the walk waits for it when there are more.
const MAX_WAITING: usize = 512;
/// How long a walk may take to notice that the scan is over. One that a disk or another host holds is left to
/// itself.
const GRACE: Duration = Duration::from_secs(10);
/// How long the server may take for files that are asked about once more at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// What scans need, and how the one that runs stands.
#[derive(Debug)]
pub(crate) struct Scans {
    quarantine: Arc<Quarantine>,
    guard: Guard,
    /// Scans whose commands were issued before this are ended.
    stopped: Mutex<Timestamp>,
    running: Mutex<Option<Arc<Running>>>,
    /// Where it is written how the one that runs stands, and which scans were stopped.
    told: PathBuf,
    stops: PathBuf,
}

/// A scan that runs.
#[derive(Debug)]
struct Running {
    command: CommandId,
    issued_at: Timestamp,
    until: Instant,
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

/// How often it is looked whether a scan is over.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it is written how a scan stands.
const TOLD_EVERY: Duration = Duration::from_secs(2);

impl Running {
    fn new(about: &About, until: Instant) -> Self {
        Self {
            command: about.command,
            issued_at: about.issued_at,
            until,
            is_stopped: AtomicBool::new(false),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            at: Mutex::default(),
        }
    }

    /// Why the scan is over, if it is.
    fn is_over(&self) -> Option<&'static str> {
        if self.is_stopped.load(Ordering::Relaxed) {
            return Some("it was stopped");
        }
        (Instant::now() >= self.until).then_some("its time was over")
    }
}

/// Who talks to whom, unless the scan is over before.
async fn look_around(search: Search, known: Known<'_>, resolves: bool, running: &Running) -> Looked {
    tokio::select! {
        looked = search.look(known, resolves) => looked,
        why = over(running) => Looked { without: Some(why.to_owned()), ..Looked::default() },
    }
}

/// Waits until a scan is over; why it is.
async fn over(running: &Running) -> &'static str {
    loop {
        if let Some(why) = running.is_over() {
            return why;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// While a scan runs; then whatever belongs to it hears that nobody waits for it any more, however that came.
struct Runs<'a>(&'a Scans, Arc<Running>);

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.1.is_stopped.store(true, Ordering::Relaxed);
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = std::fs::remove_file(&self.0.told);
    }
}

impl Scans {
    /// Of an agent with these folders, the first of which has its quarantine.
    pub(crate) fn new(data: &Path, others: &[PathBuf]) -> Self {
        let quarantine = Arc::new(Quarantine::new(&data.join("quarantine")));
        let folders = std::iter::once(data.to_owned()).chain(others.iter().cloned()).collect();
        let stops = data.join("scans-stopped");
        let stopped = files::read(&stops).ok().and_then(|text| String::from_utf8(text).ok());
        let stopped = stopped.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let stopped = Mutex::new(Timestamp::from_millis(stopped));
        let (guard, running, told) = (Guard::new(folders), Mutex::default(), progress_file(data));
        Self { quarantine, guard, stopped, running, told, stops }
    }

    /// Ends what was begun when the agent was killed.
    pub(crate) fn recover(&self) {
        let _ = std::fs::remove_file(&self.told);
        self.quarantine.recover();
    }

    /// Ends scans whose commands were issued before this moment, also those that wait; what came of it.
    pub(crate) fn stop(&self, issued_at: Timestamp) -> Ended {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        *stopped = (*stopped).max(issued_at);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.as_ref().filter(|running| running.issued_at < issued_at);
        let said = match running.inspect(|running| running.is_stopped.store(true, Ordering::Relaxed)) {
            Some(_) => "a scan was stopped",
            None => "no scan ran",
        };
        // A scan that a restart would begin anew is ended, too.
        match files::write_public(&self.stops, stopped.as_millis().to_string().as_bytes()) {
            Ok(()) => Ended::quiet(Ending::Done, said),
            Err(error) => {
                let why = format!("{said}, but a restart of the agent would begin it anew: {error}");
                Ended::quiet(Ending::Failed, why)
            }
        }
    }

    /// Ends the scan of a command; whether it runs.
    pub(crate) fn end(&self, command: CommandId) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.as_ref().filter(|running| running.command == command);
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
        known: Known<'_>,
        about: About,
        now: impl Fn() -> Timestamp,
    ) -> Ended {
        let (wanted, without) = match look_for(known.components, now()).await {
            Ok((wanted, without)) => (Arc::new(wanted), without),
            Err(why) => return Ended::quiet(Ending::Failed, why),
        };
        let search = Search::of(known.components, now()).await;
        if wanted.is_empty() && search.is_empty() {
            let why = "this agent holds neither a filter of a list nor suspicious objects, so there is nothing to look for";
            return Ended::quiet(Ending::Failed, why);
        }
        let begun = Instant::now();
        let running = Arc::new(Running::new(&about, begun + scan.max_time));
        if *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) > about.issued_at {
            return Ended::quiet(Ending::Failed, "it was stopped before it began");
        }
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&running));
        let _runs = Runs(self, Arc::clone(&running));
        info!(roots = ?scan.roots, remedy = scan.remedy.as_str(), "scan began");
        // Who talks to whom is over sooner than the files are read.
        let looked = look_around(search, known, scan.resolves_names, &running).await;
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        // Without anything to compare files with, none is read.
        let roots = if wanted.is_empty() { Vec::new() } else { scan.roots.clone() };
        let walker = Walker {
            scan: Scan { roots, ..scan.clone() },
            wanted: Arc::clone(&wanted),
            running: Arc::clone(&running),
            sender,
        };
        let (seen, walked) = oneshot::channel();
        let walk = move || drop(seen.send(walker.walk()));
        if let Err(error) = std::thread::Builder::new().name("scan".to_owned()).spawn(walk) {
            return Ended::quiet(Ending::Failed, format!("a thread cannot be begun: {error}"));
        }
        let mut judging = Judging {
            scans: self,
            scan,
            command: about.command,
            wanted: &wanted,
            known,
            now,
            running: &running,
            findings: Findings::default(),
            unanswered: Vec::new(),
            unanswered_bytes: 0,
            is_answered: true,
            remedied: 0,
            tried: 0,
        };
        judging.recall();
        judging.findings.without = without;
        judging.findings.reads_no_file = wanted.is_empty();
        judging.findings.looked = looked;
        let judged = async {
            judging.judge_all(receiver).await;
            judging.ask_once_more().await;
        };
        let is_judged = tokio::select! {
            () = judged => true,
            () = self.tell(&running) => false,
            () = tokio::time::sleep_until(running.until + LAST_PATIENCE + GRACE) => false,
        };
        let mut findings = judging.findings;
        if !is_judged {
            findings.cut_short = Some("what was found could not be acted on in time");
        }
        match tokio::time::timeout(GRACE, walked).await {
            Ok(Ok(seen)) => findings.seen(seen),
            Ok(Err(_)) => findings.cut_short = Some("it broke off; see the agent's log"),
            Err(_) => findings.cut_short = Some("a file system does not answer"),
        }
        findings.took = begun.elapsed();
        info!(files = findings.files, listed = findings.listed(), met = findings.looked.count, "scan ended");
        findings.ended()
    }
}

/// What there is to look for now.
///
/// Also why it has to do without suspicious objects, if it has: the list is looked for all the same.
async fn look_for(components: &ComponentStore, now: Timestamp) -> Result<(Wanted, Option<String>), String> {
    let filter = components.filter(FILTER).await?;
    if let Some(filter) = filter.as_ref().filter(|filter| Hasher::of(filter.kind()).is_none()) {
        return Err(format!(
            "the {FILTER} of this agent is of kind {}, which is none of files",
            filter.kind()
        ));
    }
    let (objects, without) = match components.objects().await {
        Ok(objects) => (objects, None),
        Err(why) if filter.is_some() => (None, Some(why)),
        Err(why) => return Err(why),
    };
    Ok((Wanted::of(filter, objects.as_ref(), now), without))
}

/// A scan's command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    /// Which.
    pub command: CommandId,
    /// When it was issued.
    pub issued_at: Timestamp,
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

/// A file that is a suspicious object, or may be listed.
struct Suspect {
    path: PathBuf,
    known: Match,
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
