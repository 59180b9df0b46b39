//! The judgement of a scan: what the server says of files that may be listed, and what is done with those
//! that are.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;
use writ_lists::{Key, Kind};
use writ_protocol::command::{Remedy, Scan};
use writ_protocol::id::CommandId;
use writ_protocol::limits::MAX_QUESTION_VALUES;
use writ_protocol::time::Timestamp;

use super::findings::{Finding, Findings, Judged};
use super::hash::Limit;
use super::remedy::{Remedied, Remedies};
use super::wanted::Wanted;
use super::{EXAMPLES, Known, LAST_PATIENCE, LIST, Running, Scans, Suspect, shown};
use crate::reputation::Verdict;

/// Bytes of the paths of files that nobody said anything about, and that are asked about once more at the
/// end; more are only counted.
const MAX_UNANSWERED: usize = 4 << 20;
/// So many times the files that may be blocked and quarantined are tried: each costs what it takes to read
/// it, also when it is left alone.
const TRIES: u32 = 16;
/// How long values are gathered for one question.
const GATHER: Duration = Duration::from_secs(2);
/// How long the server may take for an answer while the walk goes on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks about files, and acts on those that are listed.
pub(super) struct Judging<'a, N> {
    pub(super) scans: &'a Scans,
    pub(super) scan: &'a Scan,
    pub(super) command: CommandId,
    pub(super) wanted: &'a Wanted,
    pub(super) known: Known<'a>,
    pub(super) now: N,
    pub(super) running: &'a Arc<Running>,
    pub(super) findings: Findings,
    pub(super) unanswered: Vec<Suspect>,
    pub(super) unanswered_bytes: usize,
    /// Whether the server answered the last time: nobody waits again and again for one that is away.
    pub(super) is_answered: bool,
    pub(super) remedied: u32,
    pub(super) tried: u32,
}

impl<N: Fn() -> Timestamp> Judging<'_, N> {
    /// What this command had moved away before the agent was restarted.
    pub(super) fn recall(&mut self) {
        for (path, sha256) in self.scans.quarantine.taken_by(self.command) {
            self.remedied += 1;
            let remedied = Some(Remedied::Quarantined(sha256, "before the agent was restarted".to_owned()));
            let digest = format!("sha256:{sha256}");
            self.findings.add(Finding { path, digest, verdict: Judged::Listed(String::new()), remedied });
        }
    }

    /// What comes at a time is asked about together.
    pub(super) async fn judge_all(&mut self, mut receiver: mpsc::Receiver<Suspect>) {
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
            for suspect in unanswered {
                self.unanswered_bytes += suspect.path.as_os_str().len();
                if self.unanswered_bytes <= MAX_UNANSWERED {
                    self.unanswered.push(suspect);
                } else {
                    self.findings.unanswered += 1;
                    self.act_on_object(suspect).await;
                }
            }
        }
    }

    pub(super) async fn ask_once_more(&mut self) {
        let unanswered = std::mem::take(&mut self.unanswered);
        if unanswered.is_empty() {
            return;
        }
        for suspect in self.judge(unanswered, LAST_PATIENCE).await {
            if self.scan.is_strict {
                let Some(of) = suspect.known.maybe else { continue };
                self.act(&suspect.path, of, Judged::Suspected, Remedy::Block).await;
            } else {
                self.findings.unanswered += 1;
                if self.findings.unanswered_examples.len() < EXAMPLES {
                    self.findings.unanswered_examples.push(shown(&suspect.path));
                }
                self.act_on_object(suspect).await;
            }
        }
    }

    /// Acts on objects; asks about other files, and acts on those that are listed. Those about which nobody
    /// said anything.
    async fn judge(&mut self, batch: Vec<Suspect>, patience: Duration) -> Vec<Suspect> {
        let most = self.scan.remedy;
        // What an object says, and no more than the scan asks for. Where that is less than the list would
        // have done, the list is asked, too.
        let is_enough = |suspect: &Suspect| {
            let object = suspect.known.object.map(|(_, _, remedy)| remedy);
            suspect.known.maybe.is_none() || object.is_some_and(|remedy| remedy >= most)
        };
        let (objects, maybe): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_enough);
        for suspect in objects {
            self.act_on_object(suspect).await;
        }
        let Some(filter) = self.wanted.filter().filter(|_| !maybe.is_empty()) else { return Vec::new() };
        let values = maybe.iter().filter_map(|suspect| Some(suspect.known.maybe?.1)).collect();
        let left = self.running.until.saturating_duration_since(Instant::now());
        let patience = if self.running.is_over().is_some() { Duration::ZERO } else { patience.min(left) };
        let verdicts =
            self.known.reputations.judge((LIST, filter, self.known.bundle), &values, patience).await;
        let mut unanswered = Vec::new();
        for suspect in maybe {
            let Some((kind, key)) = suspect.known.maybe else { continue };
            match verdicts.get(&key) {
                Some(Verdict::Listed(version)) => {
                    self.act(&suspect.path, (kind, key), Judged::Listed(version.clone()), most).await;
                }
                // It may be an object still.
                Some(Verdict::Unlisted) => self.act_on_object(suspect).await,
                Some(Verdict::Unanswered) | None => unanswered.push(suspect),
            }
        }
        self.is_answered = unanswered.is_empty();
        unanswered
    }

    /// What is known of a file without the list, if anything is.
    async fn act_on_object(&mut self, suspect: Suspect) {
        let Some((kind, key, remedy)) = suspect.known.object else { return };
        let remedy = remedy.min(self.scan.remedy);
        self.act(&suspect.path, (kind, key), Judged::Object, remedy).await;
    }

    async fn act(&mut self, path: &Path, of: (Kind, Key), verdict: Judged, remedy: Remedy) {
        let remedied = match remedy {
            Remedy::Log => None,
            remedy => Some(self.try_remedy(remedy, path, of).await),
        };
        self.found(path, of, verdict, remedied);
    }

    /// Acts beside the runtime, which has one thread, unless the scan is over or has done enough.
    async fn try_remedy(&mut self, remedy: Remedy, path: &Path, (kind, key): (Kind, Key)) -> Remedied {
        let most = self.scan.max_remedied;
        if let Some(why) = self.running.is_over() {
            self.findings.cut_short = self.findings.cut_short.or(Some(why));
            return Remedied::Left(format!("{why} before it was acted on"));
        }
        if self.remedied >= most {
            return Remedied::Left(format!("{most} files were blocked and quarantined already"));
        }
        if self.tried >= most.saturating_mul(TRIES) {
            return Remedied::Left(format!("{} files were tried already", self.tried));
        }
        self.tried += 1;
        let (guard, quarantine) = (self.scans.guard.clone(), Arc::clone(&self.scans.quarantine));
        let (takes_packaged, path) = (self.scan.takes_packaged, path.to_owned());
        let (command, now_ms) = (self.command, (self.now)().as_millis());
        let (running, bytes) = (Arc::clone(self.running), self.scan.max_file_bytes);
        let acted = tokio::task::spawn_blocking(move || {
            let goes_on = || running.is_over().is_none();
            let limit = Limit { bytes, goes_on: &goes_on };
            let (guard, quarantine) = (&guard, &*quarantine);
            Remedies { guard, quarantine, remedy, takes_packaged, kind, limit, command, now_ms }
                .apply(&path, &key)
        });
        let acted = acted.await.unwrap_or_else(|error| Remedied::Left(error.to_string()));
        if matches!(acted, Remedied::Blocked(_) | Remedied::Quarantined(..)) {
            self.remedied += 1;
        }
        acted
    }

    fn found(&mut self, path: &Path, (kind, key): (Kind, Key), verdict: Judged, remedied: Option<Remedied>) {
        let digest = hex::encode(&key[..usize::from(kind.width())]);
        let path = shown(path);
        warn!(path, %kind, digest, ?verdict, ?remedied, "a listed file");
        self.findings.add(Finding { path, digest: format!("{kind}:{digest}"), verdict, remedied });
    }
}
