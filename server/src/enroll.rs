//! Letting a new agent in: a token nobody else has, and a key it proves to hold.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tracing::info;
use writ_common::status::Failure;
use writ_common::warn_of_stranger;
use writ_proto::v1 as proto;
use writ_protocol::envelope::{Candidate, EnrolmentPurpose, verify};
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::identity::IdentityRecord;
use writ_protocol::keys::PublicKey;

use crate::context::Server;
use crate::store::{AgentAdmission, TokenUse, unavailable};

/// Spends a token. The same token and key always give the same answer, counted once. Where an address failed
/// too often, nothing is verified for tokens nobody made; a good one is let in, for a whole site
/// may share an address.
///
/// # Errors
/// What the agent may know: strangers are not told whether a token exists.
pub(crate) async fn enroll(
    server: &Arc<Server>,
    from: IpAddr,
    request: proto::EnrollRequest,
) -> Result<Bytes, Failure> {
    if let Err(wait) = server.failed_enrolments.check(from)
        && !is_token_good(server, &request.token_secret).await?
    {
        let text =
            format!("too many enrolments from this address failed; wait {wait:?} and use a valid token");
        return Err(Failure::exhausted(text));
    }
    let enrolled = spend(server, from, request).await;
    // What the server or a proxy lacks is no guess.
    if enrolled.as_ref().is_err_and(Failure::is_the_callers) {
        server.failed_enrolments.failed(from);
    }
    enrolled
}

/// Few at a time: guesses must not keep sessions from the database.
async fn is_token_good(server: &Server, secret: &[u8]) -> Result<bool, Failure> {
    let Ok(_turn) = server.token_checks.try_acquire() else { return Ok(false) };
    let realm = server.store.enrolment_realm(Digest::of(secret), server.clock.wall()).await;
    Ok(realm.map_err(unavailable)?.is_some())
}

async fn spend(server: &Arc<Server>, from: IpAddr, request: proto::EnrollRequest) -> Result<Bytes, Failure> {
    let proto::EnrollRequest { token_secret, enrolment } = request;
    // The key is in the signed payload; it proves itself. Read first, believed after.
    let offered = proto::Envelope::decode(enrolment.clone())
        .ok()
        .and_then(|envelope| proto::Enrolment::decode(envelope.payload).ok())
        .and_then(|payload| PublicKey::from_spki(&payload.public_key).ok())
        .ok_or_else(|| Failure::invalid("enrolment", "is not a signed enrolment"))?;
    let verified = verify::<EnrolmentPurpose>(&enrolment, &[Candidate::accepted(&offered)], 1)
        .map_err(|refusal| Failure::invalid("enrolment", refusal.to_string()))?;
    let enrolment = verified.into_document();

    let token = Digest::of(&token_secret);
    let refused = || {
        warn_of_stranger!(server.hush, from, { key.id = %offered.id(), }, "enrolment refused: token");
        Failure::denied(
            "token_refused",
            "the enrolment token is unknown, spent or expired; create a new one: writ enroll token create",
        )
    };
    let now = server.clock.wall();
    let is_about_this_token = enrolment.token_digest == token && enrolment.fleet == server.fleet;
    let realm = server.store.enrolment_realm(token, now).await.map_err(unavailable)?;
    let (true, Some(realm)) = (is_about_this_token, realm) else {
        return Err(refused());
    };
    if !server.leaves().contains(&enrolment.tls_leaf_spki_digest) {
        warn_of_stranger!(
            server.hush,
            from,
            { key.id = %offered.id(), },
            "enrolment refused: it came through a TLS leaf that is not ours"
        );
        return Err(Failure::denied(
            "unknown_tls_leaf",
            "the agent saw a TLS certificate this server does not answer for; list the proxy's in tls.proxy_leaves",
        ));
    }
    let (record, sealed) = server.signer.identity_record(|now| IdentityRecord {
        fleet: server.fleet,
        agent: AgentId::generate(now),
        public_key: enrolment.public_key.clone(),
        name: enrolment.host_name.clone(),
        realm,
        recorded_at: now,
    })?;
    let admission = AgentAdmission {
        agent: record.agent,
        name: record.name,
        public_key: record.public_key,
        identity_record: sealed.bytes().clone(),
        token,
        agent_version: enrolment.agent_version,
        now,
    };
    let fate = server.store.admit(admission).await.map_err(unavailable)?;
    writ_common::checkpoint!("agent_admitted");
    match fate {
        TokenUse::Admitted(identity_record) => {
            info!(key.id = %offered.id(), name = enrolment.host_name, "agent enrolled");
            Ok(identity_record)
        }
        TokenUse::Refused => Err(refused()),
    }
}
