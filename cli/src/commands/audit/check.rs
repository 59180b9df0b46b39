//! `writ audit check`: a file of entries, without a server.

use std::path::Path;

use prost::Message as _;
use serde::Deserialize;
use writ_common::files;
use writ_proto::admin::v1::{AuditEntry, AuditLink};
use writ_protocol::id::Digest;

use super::{Checked, Verdict};
use crate::failure::Failure;

/// A line of a file that `export` wrote, or that the server moved old changes to. What is for people must be
/// what was hashed.
#[derive(Deserialize)]
struct Line {
    sequence: u64,
    actor: String,
    role: String,
    method: String,
    subject: String,
    outcome: String,
    request_digest: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    agents: u32,
    #[serde(default)]
    chosen_by: String,
    encoded: String,
    hash: String,
}

/// Checks a file's entries, each against the one before.
///
/// # Errors
/// When it cannot be read, or a line is no entry.
pub(super) fn file(path: &Path, known: Option<(u64, Digest)>) -> Result<Verdict, Failure> {
    let text = files::read(path).map_err(|error| Failure::local(error.to_string()))?;
    let text = String::from_utf8_lossy(&text);
    let mut chain = Checked::default();
    let mut problem = None;
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: &str| Failure::usage(format!("{}: line {}: {why}", path.display(), number + 1));
        let line: Line = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let link = link(&line).ok_or_else(|| wrong("what was hashed cannot be read"))?;
        let shown = if is_as_shown(&line, &link) { Ok(()) } else { Err(otherwise(&line)) };
        if let Err(found) = shown.and_then(|()| chain.take(&link, before(&line), known)) {
            problem = Some(found);
            break;
        }
    }
    if chain.entries == 0 && problem.is_none() {
        return Err(Failure::usage(format!("{}: it holds no entry", path.display())));
    }
    Ok(chain.verdict(problem))
}

/// What the first entry of all hangs on; of later ones a file alone does not say it.
fn before(line: &Line) -> &'static [u8] {
    if line.sequence == 1 { &[0; 32] } else { &[] }
}

fn link(line: &Line) -> Option<AuditLink> {
    let (encoded, hash) = (hex::decode(&line.encoded).ok()?, hex::decode(&line.hash).ok()?);
    let entry = AuditEntry::decode(encoded.as_slice()).ok()?;
    Some(AuditLink { entry: Some(entry), hash, encoded })
}

fn is_as_shown(line: &Line, link: &AuditLink) -> bool {
    let Some(entry) = &link.entry else { return false };
    let texts = [
        (&line.actor, &entry.actor),
        (&line.role, &entry.role),
        (&line.method, &entry.method),
        (&line.subject, &entry.subject),
        (&line.outcome, &entry.outcome),
        (&line.action, &entry.action),
        (&line.chosen_by, &entry.chosen_by),
    ];
    let digest = hex::encode(&entry.request_digest);
    texts.iter().all(|(shown, hashed)| shown == hashed)
        && (line.sequence, line.agents) == (entry.sequence, entry.agents)
        && line.request_digest == digest
}

fn otherwise(line: &Line) -> String {
    format!("entry {} is shown otherwise than it was written", line.sequence)
}
