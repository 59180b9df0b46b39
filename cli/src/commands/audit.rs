//! `writ audit`.

mod check;
mod export;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use prost::Message as _;
use serde::Serialize;
use writ_common::time::{Clock as _, SystemClock};
use writ_proto::admin::v1::{AuditEntry, AuditLink, ListAuditRequest};
use writ_protocol::id::Digest;

use crate::args::{Audit, Format, Log};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};

/// Links read at a time.
const PAGE: u32 = 1000;

#[derive(Serialize)]
struct Row {
    sequence: u64,
    at: String,
    actor: String,
    role: String,
    method: String,
    subject: String,
    request_digest: String,
    outcome: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    action: String,
    #[serde(skip_serializing_if = "is_zero")]
    agents: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    chosen_by: String,
    hash: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Row {
    /// What it was about: of a command what, for how many, and how they were chosen.
    fn about(&self) -> String {
        let Self { action, agents, chosen_by, subject, .. } = self;
        if action.is_empty() {
            return output::plain(subject);
        }
        match agents {
            // It was refused before anybody was chosen.
            0 => output::plain(&format!("{action}: {chosen_by}")),
            _ => output::plain(&format!("{action} for {agents}: {chosen_by}")),
        }
    }
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["AT", "ACTOR", "METHOD", "ABOUT", "OUTCOME"];
    const WIDE: &'static [&'static str] =
        &["AT", "ACTOR", "METHOD", "ABOUT", "OUTCOME", "SUBJECT", "ROLE", "SEQ", "REQUEST", "HASH"];

    fn cells(&self) -> Vec<String> {
        let known = ["/writ.admin.v1.", "/writ.manager.v1."];
        let method = known.iter().find_map(|prefix| self.method.strip_prefix(prefix)).unwrap_or(&self.method);
        vec![self.at.clone(), self.actor.clone(), output::plain(method), self.about(), self.outcome.clone()]
    }

    fn wide(&self) -> Vec<String> {
        let Self { sequence, role, request_digest, hash, subject, .. } = self;
        let more = [
            output::plain(subject),
            role.clone(),
            sequence.to_string(),
            request_digest.clone(),
            hash.clone(),
        ];
        self.cells().into_iter().chain(more).collect()
    }
}

#[derive(Serialize)]
struct Verdict {
    holds: bool,
    first: u64,
    entries: u64,
    head: String,
    problem: String,
}

pub(super) async fn run(format: Format, client: &Client, verb: Audit) -> Result<ExitCode, Failure> {
    match verb {
        Audit::List { log, by, method, subject, action, since, until, limit } => {
            let now = SystemClock::new().wall();
            let ago = |time: Option<Duration>| time.map_or(0, |time| (now - time).as_millis());
            let request = ListAuditRequest {
                page_size: limit.min(PAGE),
                newest_first: true,
                actor: by,
                method,
                subject,
                action,
                since_ms: ago(since),
                until_ms: ago(until),
                ..of(log)
            };
            list(format, client, request, limit).await?;
            Ok(ExitCode::SUCCESS)
        }
        Audit::Export { file, log, known } => {
            let mut file = export::NewFile::create(&file)?;
            let place =
                known.map_or_else(String::new, |(sequence, _)| sequence.saturating_sub(1).to_string());
            let first = ListAuditRequest { page_size: PAGE, page_token: place, ..of(log) };
            let take = |row: &Row, encoded: &[u8]| {
                if known.is_some_and(|(sequence, _)| row.sequence <= sequence) {
                    Ok(())
                } else {
                    file.write(row, encoded)
                }
            };
            let verdict = walk(client, first, known, take).await?;
            let new = verdict.entries.saturating_sub(u64::from(known.is_some()));
            let written = if verdict.holds { Some(format!("{}, {new} entries", file.keep()?)) } else { None };
            show(format, client, log, (verdict, written))
        }
        Audit::Check { file, known } => check(format, &file, known),
        Audit::Verify { log, known } => {
            let first = ListAuditRequest { page_size: PAGE, ..of(log) };
            let verdict = walk(client, first, known, |_, _| Ok(())).await?;
            show(format, client, log, (verdict, None))
        }
    }
}

/// A file, offline.
pub(super) fn check(format: Format, file: &Path, known: Option<(u64, Digest)>) -> Result<ExitCode, Failure> {
    let verdict = check::file(file, known)?;
    let Verdict { holds, first, entries, head, problem } = &verdict;
    let said = if *holds { "each entry hangs on the one before" } else { problem.as_str() };
    let fields = [
        ("chain", said.to_owned()),
        ("entries", format!("{entries} from {first}")),
        ("head", head.clone()),
        (
            "note",
            "that nothing came before the first, and nothing after the last, no file can show".to_owned(),
        ),
    ];
    output::one(format, &verdict, &fields)?;
    Ok(if *holds { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn of(log: Log) -> ListAuditRequest {
    let Log { looks, tries } = log;
    ListAuditRequest { looks, tries, ..Default::default() }
}

async fn list(
    format: Format,
    client: &Client,
    mut request: ListAuditRequest,
    limit: u32,
) -> Result<(), Failure> {
    let mut rows = Vec::new();
    loop {
        let page = client.audit().list(request.clone()).await?.into_inner();
        rows.extend(page.links.into_iter().map(row));
        request.page_token = page.next_page_token;
        let has_enough = u32::try_from(rows.len()).is_ok_and(|rows| rows >= limit);
        if has_enough || request.page_token.is_empty() {
            break;
        }
    }
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    output::list(format, &rows, "Nothing matches these filters.")
}

fn row(link: AuditLink) -> Row {
    let entry = link.entry.unwrap_or_default();
    Row {
        sequence: entry.sequence,
        at: output::time(entry.at_ms),
        actor: entry.actor,
        role: entry.role,
        method: entry.method,
        subject: entry.subject,
        request_digest: hex::encode(entry.request_digest),
        outcome: entry.outcome,
        action: entry.action,
        agents: entry.agents,
        chosen_by: entry.chosen_by,
        hash: hex::encode(link.hash),
    }
}

/// Reads a log from where a request begins, checks it, and hands each entry on.
async fn walk(
    client: &Client,
    mut request: ListAuditRequest,
    known: Option<(u64, Digest)>,
    mut take: impl FnMut(&Row, &[u8]) -> Result<(), Failure>,
) -> Result<Verdict, Failure> {
    let mut chain = Checked::default();
    let problem = 'read: loop {
        let page = client.audit().list(request.clone()).await?.into_inner();
        for link in page.links {
            if let Err(problem) = chain.take(&link, &page.previous_hash, known) {
                break 'read Some(problem);
            }
            let encoded = link.encoded.clone();
            take(&row(link), &encoded)?;
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break chain.missing(known);
        }
    };
    Ok(chain.verdict(problem))
}

fn show(
    format: Format,
    client: &Client,
    log: Log,
    (verdict, written): (Verdict, Option<String>),
) -> Result<ExitCode, Failure> {
    let flag = match (log.looks, log.tries) {
        (true, _) => " --looks",
        (_, true) => " --tries",
        _ => "",
    };
    let Verdict { holds, first, entries, head, problem } = &verdict;
    let mut fields = match holds {
        // Nothing of a log that does not hold is worth keeping as known.
        false => vec![
            ("chain", problem.clone()),
            ("checked", format!("entries {first} to {} hold", first + entries.saturating_sub(1))),
            ("next", "compare with the heads you kept, and with copies of the database".to_owned()),
        ],
        true => vec![
            ("chain", "each entry hangs on the one before".to_owned()),
            ("entries", format!("{entries} from {first}")),
            ("head", head.clone()),
            (
                "next",
                format!(
                    "keep the head elsewhere, and next time: {}",
                    client.typed(&format!("writ audit verify{flag} --known {head}"))
                ),
            ),
            (
                "note",
                "the chain alone does not stop a server that lies: it can write a whole new one".to_owned(),
            ),
        ],
    };
    if let Some(file) = written {
        fields.insert(0, ("file", file));
    }
    output::one(format, &verdict, &fields)?;
    Ok(if *holds { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The chain as far as it was read.
#[derive(Default)]
struct Checked {
    first: u64,
    entries: u64,
    head: Option<(u64, Digest)>,
}

impl Checked {
    fn verdict(&self, problem: Option<String>) -> Verdict {
        let head =
            self.head.map_or_else(|| "none".to_owned(), |(sequence, hash)| format!("{sequence}:{hash}"));
        let (first, entries) = (self.first, self.entries);
        Verdict { holds: problem.is_none(), first, entries, head, problem: problem.unwrap_or_default() }
    }

    fn take(
        &mut self,
        link: &AuditLink,
        previous: &[u8],
        known: Option<(u64, Digest)>,
    ) -> Result<(), String> {
        let entry = link.entry.clone().unwrap_or_default();
        let sequence = entry.sequence;
        let hash =
            Digest::try_from(link.hash.as_slice()).map_err(|_| format!("entry {sequence} has no hash"))?;
        // What is shown is what is hashed.
        if AuditEntry::decode(link.encoded.as_slice()).ok().as_ref() != Some(&entry) {
            return Err(format!("entry {sequence} is shown otherwise than it is written"));
        }
        let computed = |before: &[u8]| Digest::of(&[before, &link.encoded].concat());
        match self.head {
            Some((last, _)) if sequence != last + 1 => {
                return Err(format!("entry {sequence} follows {last}: entries between them are gone"));
            }
            Some((_, before)) if computed(before.as_bytes()) != hash => {
                return Err(format!("entry {sequence} is not what its hash says: it was changed"));
            }
            // The hash before the oldest entry is the server's word when older ones were dropped.
            None if computed(previous) != hash && !(previous.is_empty() && sequence > 1) => {
                return Err(format!("entry {sequence} is not what its hash says: it was changed"));
            }
            _ => {}
        }
        if known.is_some_and(|(at, expected)| at == sequence && expected != hash) {
            return Err(format!(
                "entry {sequence} is another one than you know: the log was written anew, or the head is mistyped"
            ));
        }
        if self.entries == 0 {
            self.first = sequence;
        }
        self.entries += 1;
        self.head = Some((sequence, hash));
        Ok(())
    }

    /// A known head that was not met.
    fn missing(&self, known: Option<(u64, Digest)>) -> Option<String> {
        let (at, _) = known?;
        let last = self.head.map_or(0, |(last, _)| last);
        if at > last {
            return Some(format!("the log ends at {last}, but you know entry {at}: its end was cut off"));
        }
        (at < self.first).then(|| {
            format!(
                "entry {at} left the log, as the oldest do; it begins at {}: keep a head more often than `audit.keep`. Changes from before are in files on the server",
                self.first
            )
        })
    }
}
