//! What an agent says of itself: believed as its word, in its session only.

use std::collections::HashSet;

use bytes::Bytes;
use writ_protocol::command::{is_action_name, is_own_action};
use writ_protocol::envelope::{AgentReportPurpose, Candidate, verify};
use writ_protocol::facts::FACTS;
use writ_protocol::hello::Nonce;
use writ_protocol::id::FleetId;
use writ_protocol::limits::MAX_SCHEMA_BYTES;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::report::{AgentReport, ReportedAction, ReportedSchema};

use crate::selector::is_value;
use crate::store::{KnownAgent, ListedAction, Report};

/// Checks a report of this agent in the session a server's nonce names; returns its number too.
///
/// # Errors
/// When it is not this agent's, or of another session.
pub(super) fn read_report(
    envelope: &Bytes,
    known: &KnownAgent,
    session: (FleetId, Nonce),
) -> Result<(u64, Report), Refusal> {
    let verified = verify::<AgentReportPurpose>(envelope, &[Candidate::accepted(&known.public_key)], 1)?;
    let AgentReport { fleet, agent, server_nonce, mut facts, actions, bundle, settings_revision, number } =
        verified.into_document();
    if agent != known.id {
        return Err(Refusal::new(RefusalCode::WrongAgent, format!("report of agent {agent}")));
    }
    if (fleet, server_nonce) != session {
        return Err(Refusal::new(RefusalCode::HelloMismatch, "the report is of another session"));
    }
    // A fact of a newer agent, or one that cannot stand in a selector, is left out.
    facts.retain(|(name, value)| FACTS.contains(&name.as_str()) && is_value(value));
    facts.sort();
    facts.dedup_by(|a, b| a.0 == b.0);
    // Neither is a row that no command could name, nor a second one of a name.
    // What has no room is left out, as its agent should have done.
    let mut room = MAX_SCHEMA_BYTES;
    let mut bounded = |schema: ReportedSchema| match room.checked_sub(schema.to_wire().len()) {
        Some(left) => {
            room = left;
            schema
        }
        None => ReportedSchema::default(),
    };
    let mut seen = HashSet::new();
    let actions = actions
        .into_iter()
        .filter(|action| is_action_name(&action.name) || is_own_action(&action.name))
        .filter(|action| seen.insert(action.name.clone()))
        .map(|ReportedAction { name, class, schema }| ListedAction {
            name,
            class: class.class(),
            schema: bounded(schema),
        })
        .collect();
    Ok((number, Report { bundle, settings_revision, actions, facts }))
}
