//! The signed messages of `gateway.proto` and of enrolment.

use writ_proto::v1 as proto;

use super::field;
use crate::envelope::InvalidDocument;
use crate::hello::{AgentProof, ServerHello};
use crate::id::KeyId;
use crate::identity::{Enrolment, IdentityRecord};
use crate::limits::MAX_KEYS;

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
        } = message;
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            agent_nonce: field::nonce("agent_nonce", &agent_nonce)?,
            server_nonce: field::nonce("server_nonce", &server_nonce)?,
            server_key: server_keyid
                .parse::<KeyId>()
                .map_err(|e| field::invalid("server_keyid", e.to_string()))?,
            tls_leaf_spki_digest: field::digest("tls_leaf_spki_digest", &tls_leaf_spki_digest)?,
        })
    }
}

impl From<&AgentProof> for proto::AgentProof {
    fn from(proof: &AgentProof) -> Self {
        let AgentProof { fleet, agent, agent_nonce, server_nonce, server_key, tls_leaf_spki_digest } = proof;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            agent_nonce: agent_nonce.to_vec().into(),
            server_nonce: server_nonce.to_vec().into(),
            server_keyid: server_key.to_string(),
            tls_leaf_spki_digest: tls_leaf_spki_digest.as_bytes().to_vec().into(),
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
