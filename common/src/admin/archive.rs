//! Changes leave the audit log for a file before they leave the database: a row that is gone is in the folder
//! `audit`, for an operator to move to where it is kept (docs/operations.md, "The audit log").

use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use serde::Serialize;
use tracing::{error, info};
use writ_proto::admin::v1::AuditEntry;

use super::AuditLog;
use super::audit::{AuditSettings, AuditStore, ChainedEntry};
use crate::files::{self, FileError};
use crate::shutdown::Shutdown;
use crate::time::SharedClock;
use writ_protocol::time::Timestamp;

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Entries of one file.
const MAX_ROWS: u32 = 10_000;
/// So much later than they could, entries go by their age: one file a day.
const A_DAY: Duration = Duration::from_secs(86_400);

/// Why entries stay in the database.
#[derive(Debug, thiserror::Error)]
enum ArchiveError<E> {
    #[error(transparent)]
    Store(E),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the database holds a damaged audit entry")]
    Damaged(#[from] prost::DecodeError),
    #[error("an entry cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// Looks again and again until the program ends.
pub async fn run(
    store: impl AuditStore,
    settings: AuditSettings,
    folder: PathBuf,
    (clock, shutdown): (SharedClock, Shutdown),
) {
    loop {
        match archive(&store, settings, &folder, clock.wall()).await {
            Ok(0) => {}
            Ok(entries) => {
                info!(entries, folder = %folder.display(), "audit log: the oldest changes are in a file now");
            }
            Err(error) => {
                error!(%error, folder = %folder.display(), "audit log: the oldest changes could not be put into a file, and stay in the database");
            }
        }
        if shutdown.unless_requested(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// One line of a file: the entry for people, and as it was written, so that the chain can be checked.
#[derive(Serialize)]
struct Line {
    sequence: u64,
    at_ms: u64,
    actor: String,
    role: String,
    method: String,
    subject: String,
    request_digest: String,
    outcome: String,
    action: String,
    agents: u32,
    chosen_by: String,
    encoded: String,
    hash: String,
}

/// Moves what is due; returns how many entries went.
async fn archive<S: AuditStore>(
    store: &S,
    settings: AuditSettings,
    folder: &Path,
    now: Timestamp,
) -> Result<usize, ArchiveError<S::Error>> {
    let mut gone = 0;
    loop {
        let (oldest, newest) = store.ends(AuditLog::Changes).await.map_err(ArchiveError::Store)?;
        let rows = store.links(AuditLog::Changes, 0, false, MAX_ROWS).await.map_err(ArchiveError::Store)?;
        let rows = decoded(rows)?;
        let held = newest - oldest.saturating_sub(1);
        let (most, slack) = (settings.max_entries, settings.max_entries / 100);
        let beyond = if held > most + slack { newest - most } else { 0 };
        let is_old = |entry: &AuditEntry, age: Duration| Timestamp::from_millis(entry.at_ms) + age < now;
        let by_age = rows.first().is_some_and(|(_, entry)| is_old(entry, settings.keep + A_DAY));
        let is_due = |(link, entry): &&(ChainedEntry, AuditEntry)| {
            // The newest stays: the next one hangs on it.
            link.sequence < newest && (link.sequence <= beyond || (by_age && is_old(entry, settings.keep)))
        };
        let due: Vec<_> = rows.iter().take_while(is_due).collect();
        let (Some((first, _)), Some((last, _))) = (due.first(), due.last()) else { return Ok(gone) };
        let mut text = Vec::new();
        for (link, entry) in &due {
            serde_json::to_writer(&mut text, &line(link, entry))?;
            text.push(b'\n');
        }
        files::private_folder(folder)?;
        // Named by what is in it: none takes the place of another. After a crash entries may stand in two.
        let hash = last.hash.to_string();
        let name = format!("changes-{:012}-{:012}-{}.jsonl", first.sequence, last.sequence, &hash[..16]);
        files::write_secret(&folder.join(name), &text)?;
        store.forget(AuditLog::Changes, last.sequence).await.map_err(ArchiveError::Store)?;
        gone += due.len();
    }
}

fn decoded(rows: Vec<ChainedEntry>) -> Result<Vec<(ChainedEntry, AuditEntry)>, prost::DecodeError> {
    rows.into_iter().map(|link| AuditEntry::decode(link.entry.clone()).map(|entry| (link, entry))).collect()
}

fn line(link: &ChainedEntry, entry: &AuditEntry) -> Line {
    Line {
        sequence: entry.sequence,
        at_ms: entry.at_ms,
        actor: entry.actor.clone(),
        role: entry.role.clone(),
        method: entry.method.clone(),
        subject: entry.subject.clone(),
        request_digest: hex::encode(&entry.request_digest),
        outcome: entry.outcome.clone(),
        action: entry.action.clone(),
        agents: entry.agents,
        chosen_by: entry.chosen_by.clone(),
        encoded: hex::encode(&link.entry),
        hash: link.hash.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use super::super::audit::NewAudit;
    use super::*;

    const SETTINGS: AuditSettings = AuditSettings { max_entries: 100, keep: A_DAY };

    /// A log in memory.
    #[derive(Debug, Default)]
    struct Memory(Mutex<Vec<ChainedEntry>>);

    impl AuditStore for Memory {
        type Error = Infallible;

        async fn append(&self, call: NewAudit) -> Result<(), Infallible> {
            let mut links = self.0.lock().unwrap();
            let next = ChainedEntry::next(links.last(), &call);
            links.push(next);
            Ok(())
        }

        async fn enqueue(&self, call: NewAudit) -> Result<(), Infallible> {
            self.append(call).await
        }

        async fn settle(&self) -> Result<(), Infallible> {
            Ok(())
        }

        async fn ends(&self, _: AuditLog) -> Result<(u64, u64), Infallible> {
            let links = self.0.lock().unwrap();
            let number = |link: Option<&ChainedEntry>| link.map_or(0, |link| link.sequence);
            Ok((number(links.first()), number(links.last())))
        }

        async fn links(
            &self,
            _: AuditLog,
            after: u64,
            _: bool,
            limit: u32,
        ) -> Result<Vec<ChainedEntry>, Infallible> {
            let links = self.0.lock().unwrap();
            let page = links.iter().filter(|link| link.sequence > after);
            Ok(page.take(usize::try_from(limit).unwrap()).cloned().collect())
        }

        async fn forget(&self, _: AuditLog, through: u64) -> Result<(), Infallible> {
            self.0.lock().unwrap().retain(|link| link.sequence > through);
            Ok(())
        }
    }

    async fn changes(store: &Memory, at: Timestamp, count: usize) {
        for _ in 0..count {
            let call = NewAudit {
                log: AuditLog::Changes,
                at,
                actor: "anna".to_owned(),
                role: "admin",
                method: "/a/B",
                request: None,
                subject: String::new(),
                sent: None,
                outcome: "ok",
                max_entries: SETTINGS.max_entries,
            };
            store.append(call).await.unwrap();
        }
    }

    fn lines(folder: &Path) -> Vec<u64> {
        let mut files = files::list(folder).unwrap();
        files.sort();
        let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
        let parsed = texts.flat_map(|text| {
            let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            lines.map(|line| line["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
        });
        parsed.collect()
    }

    /// The program of the operators' page, over one file.
    fn page_finds_whole(before: &str, file: &Path) -> bool {
        let page = include_str!("../../../docs/operations.md");
        let (_, program) = page.split_once("```python\n").unwrap();
        let (program, _) = program.split_once("```").unwrap();
        #[expect(clippy::disallowed_methods, reason = "tests start programs that are not ours")]
        let mut python = std::process::Command::new("python3");
        python.args(["-c", program, before]).arg(file).output().unwrap().status.success()
    }

    #[tokio::test]
    async fn no_change_leaves_the_log_but_into_a_file() {
        let (folder, store) = (tempfile::tempdir().unwrap(), Memory::default());
        let (audit, start) = (folder.path().join("audit"), Timestamp::from_millis(1_790_000_000_000));
        let second = start + A_DAY + Duration::from_secs(3600);
        changes(&store, start, 60).await;
        changes(&store, second, 41).await;
        // One more than it keeps is worth no file.
        assert_eq!(archive(&store, SETTINGS, &audit, start + A_DAY).await.unwrap(), 0);
        changes(&store, second, 4).await;
        assert_eq!(archive(&store, SETTINGS, &audit, start + A_DAY).await.unwrap(), 5);
        assert_eq!(lines(&audit), (1..=5).collect::<Vec<_>>());
        let file = files::list(&audit).unwrap().remove(0);
        assert!(page_finds_whole(&"0".repeat(64), &file));
        assert!(!page_finds_whole(&"1".repeat(64), &file));
        // By age, a day later than it could.
        assert_eq!(archive(&store, SETTINGS, &audit, start + A_DAY * 2).await.unwrap(), 0);
        let later = start + A_DAY * 2 + Duration::from_millis(1);
        assert_eq!(archive(&store, SETTINGS, &audit, later).await.unwrap(), 55);
        assert_eq!(lines(&audit), (1..=60).collect::<Vec<_>>());
        assert_eq!(store.ends(AuditLog::Changes).await.unwrap(), (61, 105));
        // Whatever its age, the newest stays: the next one hangs on it.
        let (idle, last) = (Memory::default(), start + A_DAY * 9);
        changes(&idle, start, 3).await;
        assert_eq!(archive(&idle, SETTINGS, &folder.path().join("idle"), last).await.unwrap(), 2);
        assert_eq!(idle.ends(AuditLog::Changes).await.unwrap(), (3, 3));
        // Where no file can be made, nothing goes.
        let in_the_way = folder.path().join("in the way");
        std::fs::write(&in_the_way, "").unwrap();
        archive(&store, SETTINGS, &in_the_way, start + A_DAY * 9).await.unwrap_err();
        assert_eq!(store.ends(AuditLog::Changes).await.unwrap(), (61, 105));
    }
}
