//! `cert list` and `cert show`: the certificates of the newest bundle, or the agents that do not hold it.

use std::path::Path;

use serde::Serialize;
use writ_common::csv;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_protocol::id::KeyId;

use super::super::local::Place;
use crate::authority::certificates::{self, CertificateState};
use crate::authority::mismatch::Mismatch;
use crate::authority::publisher::TrustPublisher;

/// Agents read at a time.
const PAGE: u32 = 1000;

#[derive(Serialize)]
struct Row {
    key_id: String,
    standing: &'static str,
    algorithm: &'static str,
    held_here: bool,
    exportable: bool,
    sign_from: String,
    accept_until: String,
    realms: Vec<String>,
}

/// Every certificate, or one.
pub(super) fn list(place: &Place, publisher: &TrustPublisher, only: Option<KeyId>) -> Result<(), Fatal> {
    let held = certificates::held(publisher).map_err(Fatal::failure)?;
    let bundle = &publisher.chain.head().bundle;
    let entries =
        bundle.signing.iter().filter(|entry| only.is_none_or(|only| entry.certificate.key().id() == only));
    let rows: Vec<_> = entries
        .map(|entry| {
            let key = entry.certificate.key();
            Row {
                key_id: key.id().to_string(),
                standing: CertificateState::of(entry, bundle, publisher.now).as_str(),
                algorithm: key.algorithm().as_str(),
                held_here: held.contains(&key.id()),
                exportable: held.contains(&key.id()) && !publisher.files.stays_here(key.id()),
                sign_from: entry.sign_from.to_string(),
                accept_until: entry.accept_until.to_string(),
                realms: entry.realms.clone(),
            }
        })
        .collect();
    let line = |row: &Row| {
        let here = match (row.held_here, row.exportable) {
            (true, true) => "here",
            (true, false) => "here, not exportable",
            (false, _) => "elsewhere",
        };
        format!(
            "{:9} {}  {} to {}  {}  key {here}, realms {}",
            row.standing,
            if only.is_some() { &row.key_id } else { row.key_id.get(..16).unwrap_or(&row.key_id) },
            row.sign_from,
            row.accept_until,
            row.algorithm,
            row.realms.join(", ")
        )
    };
    let text: Vec<_> = rows.iter().map(line).collect();
    place.say(&rows, &format!("Trust bundle {}\n{}", bundle.version, text.join("\n")))
}

#[derive(Serialize)]
struct MismatchedRow {
    agent_id: String,
    agent_name: String,
    host_name: String,
    address: String,
    bundle_version: String,
    key_id: String,
    expected_key_id: String,
    reason: String,
    last_contact: String,
}

impl MismatchedRow {
    fn of(judged: Mismatch, signing: Option<KeyId>) -> Self {
        let key = |key: Option<KeyId>| key.map_or_else(String::new, |key| key.to_string());
        let reason = judged.reason();
        let Mismatch { agent, obeys, .. } = judged;
        Self {
            agent_id: agent.id.to_string(),
            agent_name: agent.name,
            host_name: agent.host_name,
            address: agent.address,
            bundle_version: agent.version.to_string(),
            key_id: key(obeys),
            expected_key_id: key(signing),
            reason,
            last_contact: agent.last_contact.to_string(),
        }
    }

    fn cells(&self) -> Vec<&str> {
        let Self {
            agent_id,
            agent_name,
            host_name,
            address,
            bundle_version,
            key_id,
            expected_key_id,
            reason,
            last_contact,
        } = self;
        let who = [agent_id, agent_name, host_name, address];
        let what = [bundle_version, key_id, expected_key_id, reason, last_contact];
        who.into_iter().chain(what).map(String::as_str).collect()
    }
}

/// The agents that do not hold the newest bundle.
pub(super) async fn mismatched(
    place: &Place,
    publisher: &TrustPublisher,
    file: Option<&Path>,
) -> Result<(), Fatal> {
    let head = publisher.chain.head().digest;
    let signing = certificates::signing_here(publisher).map(|entry| entry.certificate.key().id());
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = publisher.store.behind(head, after, PAGE).await.map_err(Fatal::failure)?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        let judge =
            |agent| MismatchedRow::of(Mismatch::of(agent, &publisher.chain, signing, publisher.now), signing);
        rows.extend(page.into_iter().map(judge));
    }
    if let Some(file) = file {
        let table = csv::table(&csv::MISMATCHED, rows.iter().map(MismatchedRow::cells));
        files::write_public(file, table.as_bytes()).map_err(Fatal::failure)?;
    }
    let lines: Vec<_> = rows.iter().map(|row| row.cells().join("  ")).collect();
    let text = match lines.len() {
        0 => "Every agent holds the newest trust bundle.".to_owned(),
        some => format!("{some} agents do not hold the newest trust bundle\n{}", lines.join("\n")),
    };
    place.say(&rows, &text)
}
