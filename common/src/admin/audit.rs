//! The audit log of a program: three chains in which each entry carries the hash of the one before it, each
//! kept by the program's store (docs/adr/0007). Here is what is the same for all: the links, the settings,
//! and the service that shows them.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Response, Status};
use writ_proto::admin::v1::audit_service_server::AuditService;
use writ_proto::admin::v1::{AuditEntry, AuditLink, ListAuditRequest, ListAuditResponse};

use super::{Actor, AdminBackend, AuditLog, AuditedCall, page, unavailable};
use crate::config::Reader;
use crate::status::Failure;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

/// How much the logs keep.
#[derive(Debug, Clone, Copy)]
pub struct AuditSettings {
    /// Entries of each.
    pub max_entries: u64,
    /// How long changes stay in the database; then they go to a file.
    pub keep: Duration,
}

impl AuditSettings {
    /// `audit.max_entries` and `audit.keep`.
    pub fn read(reader: &mut Reader) -> Self {
        let day = Duration::from_secs(86_400);
        Self {
            max_entries: reader.number("audit.max_entries", 1_000_000, 1000..=1_000_000_000),
            keep: reader.duration("audit.keep", day * 400, day..=day * 3660),
        }
    }
}

/// A call, ready to be recorded.
#[derive(Debug, Clone)]
pub struct NewAudit {
    /// Where.
    pub log: AuditLog,
    /// When.
    pub at: Timestamp,
    /// Whose token.
    pub actor: String,
    /// Its role.
    pub role: &'static str,
    /// The method's path.
    pub method: &'static str,
    /// SHA-256 of the request; `None` for streams, and where it has passwords.
    pub request: Option<Digest>,
    /// What it was about; empty: nothing that has a name.
    pub subject: String,
    /// The command that it sent.
    pub sent: Option<Box<SentCommand>>,
    /// `asked`, `ok`, `unchanged`, `failed`, or a gRPC status.
    pub outcome: &'static str,
    /// Entries of this log to keep. Past it the oldest go, of changes not before they are in a file
    /// ([`super::archive`]).
    pub max_entries: u64,
}

/// A command, for the record.
#[derive(Debug, Clone)]
pub struct SentCommand {
    /// The action with its parameters, without secret ones.
    pub action: String,
    /// For how many agents.
    pub agents: u32,
    /// How they were chosen.
    pub chosen_by: String,
}

impl NewAudit {
    /// A call that came through the door.
    #[must_use]
    pub fn of(entry: AuditedCall, at: Timestamp, settings: AuditSettings) -> Self {
        let AuditedCall { log, actor, subject, sent, outcome } = entry;
        let Actor { name, role, method, request, scope: _ } = actor;
        let (actor, role, max_entries) = (name, role.as_str(), settings.max_entries);
        Self { log, at, actor, role, method, request, subject, sent, outcome, max_entries }
    }

    fn entry(&self, sequence: u64) -> AuditEntry {
        let (action, agents, chosen_by) = match self.sent.as_deref().cloned() {
            Some(SentCommand { action, agents, chosen_by }) => (action, agents, chosen_by),
            None => Default::default(),
        };
        AuditEntry {
            sequence,
            at_ms: self.at.as_millis(),
            actor: self.actor.clone(),
            role: self.role.to_owned(),
            method: self.method.to_owned(),
            request_digest: self.request.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec()),
            outcome: self.outcome.to_owned(),
            subject: self.subject.clone(),
            action,
            agents,
            chosen_by,
        }
    }
}

/// An entry with its hash.
#[derive(Debug, Clone)]
pub struct ChainedEntry {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// As encoded: what is hashed.
    pub entry: Bytes,
    /// SHA-256 of the hash before it and the entry.
    pub hash: Digest,
}

impl ChainedEntry {
    /// What hangs on this one, or is the first.
    #[must_use]
    pub fn next(last: Option<&Self>, call: &NewAudit) -> Self {
        let (sequence, before) =
            last.map_or((1, Digest::from_bytes([0; 32])), |last| (last.sequence + 1, last.hash));
        let entry = Bytes::from(call.entry(sequence).encode_to_vec());
        let hash = Digest::of(&[before.as_bytes().as_slice(), &entry].concat());
        Self { sequence, entry, hash }
    }
}

impl AuditLog {
    /// As stored.
    #[must_use]
    pub const fn stored(self) -> i64 {
        match self {
            Self::Changes => 0,
            Self::Reads => 1,
            Self::Tries => 2,
        }
    }
}

/// Where the logs are kept.
pub trait AuditStore: Send + Sync {
    /// Why it cannot be reached.
    type Error: Error + Send + Sync + 'static;

    /// Appends a call to its log; returns after it is durable.
    fn append(&self, call: NewAudit) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Queues a call for its log, in the order of the calls.
    fn enqueue(&self, call: NewAudit) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Returns when all that was noted before is stored.
    fn settle(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The numbers of the oldest and of the newest entry of a log; zeros for an empty one.
    fn ends(&self, log: AuditLog) -> impl Future<Output = Result<(u64, u64), Self::Error>> + Send;

    /// A page of a log: after a number, oldest first; or before one, newest first.
    fn links(
        &self,
        log: AuditLog,
        place: u64,
        is_newest_first: bool,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<ChainedEntry>, Self::Error>> + Send;

    /// Removes the oldest entries of a log, through this one. The chain of the rest stands, from the hash of
    /// the last one that went.
    fn forget(&self, log: AuditLog, through: u64) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// `AuditService`.
#[derive(Debug)]
pub struct AuditPages<H>(pub Arc<H>);

#[tonic::async_trait]
impl<H: AdminBackend> AuditService for AuditPages<H> {
    async fn list(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        let request = request.into_inner();
        let log = match (request.looks, request.tries) {
            (false, false) => AuditLog::Changes,
            (false, true) => AuditLog::Tries,
            (true, false) => AuditLog::Reads,
            (true, true) => {
                return Err(Failure::invalid("tries", "is another log than `looks`; ask for one").into());
            }
        };
        let newest_first = request.newest_first;
        let size = page::size(request.page_size, 100, page::MAX_PAGE)?;
        let first = if newest_first { u64::MAX } else { 0 };
        let place = page::token::<u64>(&request.page_token)?.unwrap_or(first);
        let store = self.0.store();
        // Whatever was noted before this call is listed by it.
        store.settle().await.map_err(unavailable)?;
        if let Some(filter) = Filter::of(request) {
            return Ok(Response::new(filter.page(store, log, (place, newest_first), size).await?));
        }
        let rows = store.links(log, place, newest_first, size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| row.sequence.to_string());
        let previous_hash = match rows.first().filter(|_| !newest_first) {
            Some(first) if first.sequence == 1 => vec![0; 32],
            // Empty when what came before it was dropped.
            Some(first) => {
                let before = store.links(log, first.sequence, true, 1).await.map_err(unavailable)?;
                before.first().map_or_else(Vec::new, |link| link.hash.as_bytes().to_vec())
            }
            None => Vec::new(),
        };
        let links = rows.into_iter().map(show).collect::<Result<_, _>>()?;
        Ok(Response::new(ListAuditResponse { links, next_page_token, previous_hash }))
    }
}

/// Entries looked at for one page, so that a question nothing answers does not hold a reader for minutes.
const MAX_LOOKED_AT: usize = 20_000;
/// Entries read at a time.
const BATCH: u32 = 1000;

/// Which entries are wanted.
struct Filter {
    wanted: ListAuditRequest,
}

impl Filter {
    fn of(wanted: ListAuditRequest) -> Option<Self> {
        let ListAuditRequest { actor, method, subject, action, since_ms, until_ms, .. } = &wanted;
        let asks = [actor, method, subject, action].iter().any(|text| !text.is_empty());
        (asks || *since_ms > 0 || *until_ms > 0).then_some(Self { wanted })
    }

    async fn page(
        &self,
        store: &impl AuditStore,
        log: AuditLog,
        (mut place, newest_first): (u64, bool),
        size: u32,
    ) -> Result<ListAuditResponse, Failure> {
        let (mut links, mut looked_at) = (Vec::new(), 0);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        loop {
            let rows = store.links(log, place, newest_first, BATCH).await.map_err(unavailable)?;
            let is_last = rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX);
            for row in rows {
                place = row.sequence;
                looked_at += 1;
                let link = show(row)?;
                if link.entry.as_ref().is_some_and(|entry| self.takes(entry)) {
                    links.push(link);
                }
                if links.len() >= size {
                    return Ok(Self::answer(links, place.to_string()));
                }
            }
            if is_last {
                return Ok(Self::answer(links, String::new()));
            }
            if looked_at >= MAX_LOOKED_AT {
                return Ok(Self::answer(links, place.to_string()));
            }
        }
    }

    fn answer(links: Vec<AuditLink>, next_page_token: String) -> ListAuditResponse {
        ListAuditResponse { links, next_page_token, previous_hash: Vec::new() }
    }

    fn takes(&self, entry: &AuditEntry) -> bool {
        let ListAuditRequest { actor, method, subject, action, since_ms, until_ms, .. } = &self.wanted;
        let is_in_time = entry.at_ms >= *since_ms && (*until_ms == 0 || entry.at_ms < *until_ms);
        let is_by = actor.is_empty() || *actor == entry.actor;
        let is_about = entry.subject.contains(subject) || entry.chosen_by.contains(subject);
        let is_action = action.is_empty() || entry.action.split(' ').next() == Some(action);
        is_in_time && is_by && is_about && is_action && ends_with_words(&entry.method, method)
    }
}

/// Whether a method's path ends with these words, in any case: `Submit` is the end of
/// `…CommandService/Submit`, and `mit` is not.
fn ends_with_words(path: &str, words: &str) -> bool {
    let Some(begin) = path.len().checked_sub(words.len()) else { return false };
    let before = path.get(..begin).and_then(|before| before.chars().next_back());
    let is_whole = words.is_empty() || before.is_none_or(|before| matches!(before, '/' | '.'));
    is_whole && path.get(begin..).is_some_and(|end| end.eq_ignore_ascii_case(words))
}

fn show(link: ChainedEntry) -> Result<AuditLink, Failure> {
    let entry = AuditEntry::decode(link.entry.clone())
        .map_err(|_| Failure::unavailable("the store holds a damaged audit entry"))?;
    Ok(AuditLink { entry: Some(entry), hash: link.hash.as_bytes().to_vec(), encoded: link.entry.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_by_its_last_words() {
        let path = "/writ.admin.v1.CommandService/Submit";
        for words in ["", "Submit", "submit", "CommandService/Submit", "/writ.admin.v1.CommandService/Submit"]
        {
            assert!(ends_with_words(path, words), "{words}");
        }
        for words in ["mit", "Service/Submit", "Stop", "x/writ.admin.v1.CommandService/Submit"] {
            assert!(!ends_with_words(path, words), "{words}");
        }
    }
}
