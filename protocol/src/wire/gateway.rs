//! The signed messages of `gateway.proto` and of enrolment.

use writ_proto::v1 as proto;

use super::field;
use crate::envelope::InvalidDocument;
use std::time::Duration;

use crate::hello::{AgentProof, JournalStanding, ServerHello, Welcome};
use crate::id::KeyId;
use crate::identity::{Enrolment, IdentityRecord};
use crate::limits::{MAX_KEYS, MAX_MARKS, MAX_REPORT_ROWS};
use crate::report::{AgentReport, ReportedAction, ReportedClass, ReportedSchema};
use crate::time::Timestamp;

impl TryFrom<proto::ServerHello> for ServerHello {
    type Error = InvalidDocument;

    fn try_from(message: proto::ServerHello) -> Result<Self, InvalidDocument> {
        let proto::ServerHello {
            fleet_id,
            agent_nonce,
            server_nonce,
            time_ms,
            chain_version,
            chain_digest,
            tls_leaf_spki_digests,
            protocol,
        } = message;
        if tls_leaf_spki_digests.len() > MAX_KEYS {
            return Err(field::invalid("tls_leaf_spki_digests", "must be at most 16"));
        }
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent_nonce: field::nonce("agent_nonce", &agent_nonce)?,
            server_nonce: field::nonce("server_nonce", &server_nonce)?,
            time: field::time("time_ms", time_ms)?,
            chain_version,
            chain_digest: field::digest("chain_digest", &chain_digest)?,
            tls_leaf_spki_digests: tls_leaf_spki_digests
                .iter()
                .map(|digest| field::digest("tls_leaf_spki_digests", digest))
                .collect::<Result<_, _>>()?,
            protocol,
        })
    }
}

impl From<&ServerHello> for proto::ServerHello {
    fn from(hello: &ServerHello) -> Self {
        let ServerHello {
            fleet,
            agent_nonce,
            server_nonce,
            time,
            chain_version,
            chain_digest,
            tls_leaf_spki_digests,
            protocol,
        } = hello;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_nonce: agent_nonce.to_vec().into(),
            server_nonce: server_nonce.to_vec().into(),
            time_ms: time.as_millis(),
            chain_version: *chain_version,
            chain_digest: chain_digest.as_bytes().to_vec().into(),
            tls_leaf_spki_digests: tls_leaf_spki_digests
                .iter()
                .map(|d| d.as_bytes().to_vec().into())
                .collect(),
            protocol: *protocol,
        }
    }
}

impl TryFrom<proto::AgentProof> for AgentProof {
    type Error = InvalidDocument;

    fn try_from(message: proto::AgentProof) -> Result<Self, InvalidDocument> {
        let proto::AgentProof {
            fleet_id,
            agent_id,
            agent_nonce,
            server_nonce,
            server_keyid,
            tls_leaf_spki_digest,
            agent_version,
            bundle_version,
            bundle_digest,
            journal_id,
            journal_counter,
            marks,
            next_mark,
            identity_record,
            journal_admissions,
        } = message;
        if marks.len() > MAX_MARKS {
            return Err(field::invalid("marks", "must be at most 64"));
        }
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            agent_nonce: field::nonce("agent_nonce", &agent_nonce)?,
            server_nonce: field::nonce("server_nonce", &server_nonce)?,
            server_key: server_keyid
                .parse::<KeyId>()
                .map_err(|e| field::invalid("server_keyid", e.to_string()))?,
            tls_leaf_spki_digest: field::digest("tls_leaf_spki_digest", &tls_leaf_spki_digest)?,
            agent_version: field::name("agent_version", agent_version)?,
            bundle: (bundle_version, field::digest("bundle_digest", &bundle_digest)?),
            journal: JournalStanding {
                id: field::journal("journal_id", &journal_id)?,
                counter: journal_counter,
                admissions: journal_admissions,
                marks: marks.iter().map(|mark| field::mark("marks", mark)).collect::<Result<_, _>>()?,
                next_mark: field::mark("next_mark", &next_mark)?,
            },
            identity_record,
        })
    }
}

impl From<&AgentProof> for proto::AgentProof {
    fn from(proof: &AgentProof) -> Self {
        let AgentProof {
            fleet,
            agent,
            agent_nonce,
            server_nonce,
            server_key,
            tls_leaf_spki_digest,
            agent_version,
            bundle: (bundle_version, bundle_digest),
            journal: JournalStanding { id, counter, admissions, marks, next_mark },
            identity_record,
        } = proof;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            agent_nonce: agent_nonce.to_vec().into(),
            server_nonce: server_nonce.to_vec().into(),
            server_keyid: server_key.to_string(),
            tls_leaf_spki_digest: tls_leaf_spki_digest.as_bytes().to_vec().into(),
            agent_version: agent_version.clone(),
            bundle_version: *bundle_version,
            bundle_digest: bundle_digest.as_bytes().to_vec().into(),
            journal_id: id.as_bytes().to_vec().into(),
            journal_counter: *counter,
            marks: marks.iter().map(|mark| mark.as_bytes().to_vec().into()).collect(),
            next_mark: next_mark.as_bytes().to_vec().into(),
            identity_record: identity_record.clone(),
            journal_admissions: *admissions,
        }
    }
}

impl TryFrom<proto::Welcome> for Welcome {
    type Error = InvalidDocument;

    fn try_from(message: proto::Welcome) -> Result<Self, InvalidDocument> {
        let proto::Welcome {
            fleet_id,
            agent_id,
            agent_nonce,
            server_nonce,
            mark,
            commands_from_ms,
            heartbeat_ms,
            heartbeat_deadline_ms,
        } = message;
        let millis = |millis: u32| Duration::from_millis(u64::from(millis));
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            agent_nonce: field::nonce("agent_nonce", &agent_nonce)?,
            server_nonce: field::nonce("server_nonce", &server_nonce)?,
            mark: field::mark("mark", &mark)?,
            commands_from: Timestamp::from_millis(commands_from_ms),
            heartbeat: millis(heartbeat_ms),
            heartbeat_deadline: millis(heartbeat_deadline_ms),
        })
    }
}

impl From<&Welcome> for proto::Welcome {
    fn from(welcome: &Welcome) -> Self {
        let Welcome {
            fleet,
            agent,
            agent_nonce,
            server_nonce,
            mark,
            commands_from,
            heartbeat,
            heartbeat_deadline,
        } = welcome;
        let millis = |duration: &Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            agent_nonce: agent_nonce.to_vec().into(),
            server_nonce: server_nonce.to_vec().into(),
            mark: mark.as_bytes().to_vec().into(),
            commands_from_ms: commands_from.as_millis(),
            heartbeat_ms: millis(heartbeat),
            heartbeat_deadline_ms: millis(heartbeat_deadline),
        }
    }
}

impl TryFrom<proto::AgentReport> for AgentReport {
    type Error = InvalidDocument;

    fn try_from(message: proto::AgentReport) -> Result<Self, InvalidDocument> {
        let proto::AgentReport {
            fleet_id,
            agent_id,
            server_nonce,
            facts,
            actions,
            bundle_version,
            bundle_digest,
            settings_revision,
            number,
        } = message;
        if facts.len() > MAX_REPORT_ROWS || actions.len() > MAX_REPORT_ROWS {
            return Err(field::invalid("actions", "must be at most 1024, as must be facts"));
        }
        let action = |entry: proto::ActionEntry| {
            let proto::ActionEntry { name, class, schema } = entry;
            let schema = ReportedSchema::from_wire(schema);
            ReportedAction { name, class: ReportedClass::from_wire(class), schema }
        };
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            server_nonce: field::nonce("server_nonce", &server_nonce)?,
            facts: facts.into_iter().map(|fact| (fact.name, fact.value)).collect(),
            actions: actions.into_iter().map(action).collect(),
            bundle: (bundle_version, field::digest("bundle_digest", &bundle_digest)?),
            settings_revision,
            number,
        })
    }
}

impl From<&AgentReport> for proto::AgentReport {
    fn from(report: &AgentReport) -> Self {
        let AgentReport {
            fleet,
            agent,
            server_nonce,
            facts,
            actions,
            bundle: (bundle_version, bundle_digest),
            settings_revision,
            number,
        } = report;
        let fact =
            |(name, value): &(String, String)| proto::Fact { name: name.clone(), value: value.clone() };
        let action = |ReportedAction { name, class, schema }: &ReportedAction| proto::ActionEntry {
            name: name.clone(),
            class: class.to_wire(),
            schema: schema.to_wire().clone(),
        };
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            server_nonce: server_nonce.to_vec().into(),
            facts: facts.iter().map(fact).collect(),
            actions: actions.iter().map(action).collect(),
            bundle_version: *bundle_version,
            bundle_digest: bundle_digest.as_bytes().to_vec().into(),
            settings_revision: *settings_revision,
            number: *number,
        }
    }
}

impl TryFrom<proto::Enrolment> for Enrolment {
    type Error = InvalidDocument;

    fn try_from(message: proto::Enrolment) -> Result<Self, InvalidDocument> {
        let proto::Enrolment {
            fleet_id,
            token_digest,
            public_key,
            host_name,
            agent_version,
            tls_leaf_spki_digest,
        } = message;
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            token_digest: field::digest("token_digest", &token_digest)?,
            public_key: field::public_key("public_key", &public_key)?,
            host_name: field::name("host_name", host_name)?,
            agent_version: field::name("agent_version", agent_version)?,
            tls_leaf_spki_digest: field::digest("tls_leaf_spki_digest", &tls_leaf_spki_digest)?,
        })
    }
}

impl From<&Enrolment> for proto::Enrolment {
    fn from(enrolment: &Enrolment) -> Self {
        let Enrolment { fleet, token_digest, public_key, host_name, agent_version, tls_leaf_spki_digest } =
            enrolment;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            token_digest: token_digest.as_bytes().to_vec().into(),
            public_key: public_key.spki().into(),
            host_name: host_name.clone(),
            agent_version: agent_version.clone(),
            tls_leaf_spki_digest: tls_leaf_spki_digest.as_bytes().to_vec().into(),
        }
    }
}

impl TryFrom<proto::IdentityRecord> for IdentityRecord {
    type Error = InvalidDocument;

    fn try_from(message: proto::IdentityRecord) -> Result<Self, InvalidDocument> {
        let proto::IdentityRecord { fleet_id, agent_id, public_key, name, realm, recorded_at_ms } = message;
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            public_key: field::public_key("public_key", &public_key)?,
            name: field::name("name", name)?,
            realm: field::name("realm", realm)?,
            recorded_at: field::time("recorded_at_ms", recorded_at_ms)?,
        })
    }
}

impl From<&IdentityRecord> for proto::IdentityRecord {
    fn from(record: &IdentityRecord) -> Self {
        let IdentityRecord { fleet, agent, public_key, name, realm, recorded_at } = record;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            public_key: public_key.spki().into(),
            name: name.clone(),
            realm: realm.clone(),
            recorded_at_ms: recorded_at.as_millis(),
        }
    }
}
