//! `writ audit`.

use std::process::ExitCode;

use prost::Message as _;
use serde::Serialize;
use writ_proto::admin::v1::{AuditEntry, AuditLink, ListAuditRequest};
use writ_protocol::id::Digest;

use crate::args::{Audit, Format};
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
    hash: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["SEQ", "AT", "ACTOR", "ROLE", "METHOD", "SUBJECT", "OUTCOME"];

    fn cells(&self) -> Vec<String> {
        let known = ["/writ.admin.v1.", "/writ.manager.v1."];
        let method = known.iter().find_map(|prefix| self.method.strip_prefix(prefix)).unwrap_or(&self.method);
        vec![
            self.sequence.to_string(),
            self.at.clone(),
            self.actor.clone(),
            self.role.clone(),
            output::plain(method),
            output::plain(&self.subject),
            self.outcome.clone(),
        ]
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
        Audit::List { looks, tries, limit } => {
            let request =
                ListAuditRequest { page_size: limit, newest_first: true, looks, tries, ..Default::default() };
            let page = client.audit().list(request).await?.into_inner();
            let rows: Vec<_> = page.links.into_iter().map(row).collect();
            output::list(format, &rows, "Nothing yet.")?;
            Ok(ExitCode::SUCCESS)
        }
        Audit::Verify { looks, tries, known } => {
            let first = ListAuditRequest { page_size: PAGE, looks, tries, ..Default::default() };
            verify(format, client, first, known).await
        }
    }
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
        hash: hex::encode(link.hash),
    }
}

async fn verify(
    format: Format,
    client: &Client,
    mut request: ListAuditRequest,
    known: Option<(u64, Digest)>,
) -> Result<ExitCode, Failure> {
    let mut chain = Checked::default();
    let problem = loop {
        let page = client.audit().list(request.clone()).await?.into_inner();
        let walked = page.links.into_iter().try_for_each(|link| chain.take(link, &page.previous_hash, known));
        if let Err(problem) = walked {
            break Some(problem);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break chain.missing(known);
        }
    };
    let head = chain.head.map_or_else(|| "none".to_owned(), |(sequence, hash)| format!("{sequence}:{hash}"));
    let verdict = Verdict {
        holds: problem.is_none(),
        first: chain.first,
        entries: chain.entries,
        head: head.clone(),
        problem: problem.clone().unwrap_or_default(),
    };
    let flag = match (request.looks, request.tries) {
        (true, _) => " --looks",
        (_, true) => " --tries",
        _ => "",
    };
    let fields = match problem {
        // Nothing of a log that does not hold is worth keeping as known.
        Some(problem) => vec![
            ("chain", problem),
            (
                "checked",
                format!("entries {} to {} hold", chain.first, chain.first + chain.entries.saturating_sub(1)),
            ),
            ("next", "compare with the heads you kept, and with copies of the database".to_owned()),
        ],
        None => vec![
            ("chain", "each entry hangs on the one before".to_owned()),
            ("entries", format!("{} from {}", chain.entries, chain.first)),
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
    output::one(format, &verdict, &fields)?;
    Ok(if verdict.holds { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The chain as far as it was read.
#[derive(Default)]
struct Checked {
    first: u64,
    entries: u64,
    head: Option<(u64, Digest)>,
}

impl Checked {
    fn take(&mut self, link: AuditLink, previous: &[u8], known: Option<(u64, Digest)>) -> Result<(), String> {
        let entry = link.entry.unwrap_or_default();
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
