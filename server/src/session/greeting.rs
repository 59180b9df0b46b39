//! The first words: the server proves itself by its signing key, the agent by its identity key, both to this
//! connection (protocol.md §6.1 to §6.4).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{debug, warn};
use writ_common::status::Failure;
use writ_common::tls::Peer;
use writ_common::warn_of_stranger;
use writ_proto::v1::{self as proto, agent_frame, server_frame::Frame};
use writ_protocol::envelope::{AgentProofPurpose, Candidate, verify};
use writ_protocol::hello::{AgentProof, Nonce, ServerHello, Welcome};
use writ_protocol::id::{AgentId, KeyId, SessionMark, random_bytes};
use writ_protocol::limits::PROTOCOL;
use writ_protocol::refusal::RefusalCode;
use writ_protocol::time::Timestamp;

use super::readmit::readmit;
use super::{End, Outbound, identity_record, unreadable};
use crate::context::Server;
use crate::dispatch::SessionSlot;
use crate::store::unavailable;
use crate::store::{Alarm, AlertKind, Beginning, Contact, KnownAgent};

/// How long each of an agent's first two frames may take.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// An agent that proved itself on this stream. Made only by [`greet`], from what its proof said.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) agent: KnownAgent,
    pub(super) bundle_version: u64,
    /// Names the session.
    pub(super) server_nonce: Nonce,
    /// What it wrote to the agent's journal.
    pub(super) mark: SessionMark,
    /// How many admissions that journal counts.
    pub(super) admissions: u64,
    /// Where it hears of what was decided since, and of commands.
    pub(super) slot: SessionSlot,
    /// The key its identity record claims to be signed by.
    pub(super) record_signed_by: Option<KeyId>,
}

/// What both sides said of this connection before the agent proves itself: the proof must repeat it.
struct Hellos {
    /// Who the agent says it is; not believed yet.
    claimed: AgentId,
    agent_nonce: Nonce,
    server_nonce: Nonce,
    server_key: KeyId,
}

pub(super) async fn greet(
    server: &Arc<Server>,
    from: Option<&Peer>,
    inbound: &mut tonic::Streaming<proto::AgentFrame>,
    outbound: &Outbound,
) -> Result<Proven, End> {
    let agent_frame::Frame::Hello(hello) = next(inbound).await? else {
        return Err(Failure::protocol("the first frame must be a hello").into());
    };
    // Taken before the agent proves itself, so that the order of tickets is the order in which agents came.
    let ticket = server.dispatcher.registry().ticket();
    let hellos = exchange(server, hello, outbound).await?;
    let agent_frame::Frame::Proof(proof) = next(inbound).await? else {
        return Err(Failure::protocol("the second frame must be a proof").into());
    };
    // When the proof came: whatever takes long below, no command that was issued meanwhile counts as too old.
    let (address, now) = (Peer::host(from), server.clock.wall());
    let proven = check(server, (address, now), &hellos, &proof).await?;
    establish(server, (address, now), (ticket, hellos), proven, outbound).await
}

/// Answers the agent's hello with the server's, signed over both nonces.
async fn exchange(server: &Server, hello: proto::AgentHello, outbound: &Outbound) -> Result<Hellos, End> {
    let proto::AgentHello { nonce, agent_id, protocol } = hello;
    if protocol != PROTOCOL {
        let text = format!(
            "the agent speaks protocol {protocol}, this server {PROTOCOL}; upgrade the older of the two"
        );
        return Err(Failure::precondition("protocol_version", text).into());
    }
    let agent_nonce: [u8; 32] =
        nonce.as_ref().try_into().map_err(|_| Failure::invalid("nonce", "must have 32 bytes"))?;
    let malformed = |_| Failure::invalid("agent_id", "has the wrong length");
    let claimed = AgentId::try_from(agent_id.as_ref()).map_err(malformed)?;
    let server_nonce = random_bytes();
    let chain = server.chain();
    let head = chain.head();
    let (sealed, server_key) = server
        .signer
        .hello(|time| ServerHello {
            fleet: server.fleet,
            agent_nonce,
            server_nonce,
            time,
            chain_version: head.bundle.version,
            chain_digest: head.digest,
            tls_leaf_spki_digests: server.leaves(),
            protocol: PROTOCOL,
        })
        .map_err(Failure::from)?;
    outbound.send(Frame::Hello(sealed.bytes().clone())).await?;
    Ok(Hellos { claimed, agent_nonce, server_nonce, server_key })
}

/// Checks a proof: it is the agent's own, of this session, over a TLS leaf of this server, and the agent was
/// not removed.
async fn check(
    server: &Arc<Server>,
    (address, now): (IpAddr, Timestamp),
    hellos: &Hellos,
    proof: &Bytes,
) -> Result<(KnownAgent, AgentProof), End> {
    let claimed = hellos.claimed;
    // One answer for an unknown id and for a wrong key: strangers learn nothing about who exists.
    let refused = || {
        Failure::denied(
            "proof_refused",
            "this agent is not enrolled here, or its key is another one; enrol it with a new token",
        )
    };
    let known = match server.store.known_agent(claimed).await.map_err(unavailable)? {
        Some(known) => Some(known),
        None => readmit(server, address, claimed, proof).await?,
    };
    let Some(agent) = known else {
        warn_of_stranger!(server.hush, address, { agent.id = %claimed, }, "session refused: unknown agent");
        return Err(refused().into());
    };
    let verified = match verify::<AgentProofPurpose>(proof, &[Candidate::accepted(&agent.public_key)], 1) {
        Ok(verified) => verified,
        // Signed by the agent's key: nobody else's, and no reason to enrol it anew.
        Err(refusal) if matches!(refusal.code, RefusalCode::MalformedPayload | RefusalCode::NonCanonical) => {
            warn_of_stranger!(
                server.hush,
                address,
                { agent.id = %claimed, %refusal, },
                "session refused: a proof out of bounds"
            );
            return Err(Failure::invalid("proof", refusal.to_string()).into());
        }
        Err(refusal) => {
            warn_of_stranger!(server.hush, address, { agent.id = %claimed, %refusal, }, "session refused: proof");
            let code = refusal.code;
            let detail = format!("Somebody at {address} claimed this agent's id without its key ({code}).");
            raise_impostor(server, claimed, now, detail).await?;
            return Err(refused().into());
        }
    };
    let proof = verified.into_document();
    let is_about_this_session = proof.fleet == server.fleet
        && proof.agent == agent.id
        && proof.agent_nonce == hellos.agent_nonce
        && proof.server_nonce == hellos.server_nonce
        && proof.server_key == hellos.server_key;
    if !is_about_this_session {
        warn_of_stranger!(
            server.hush,
            address,
            { agent.id = %claimed, },
            "session refused: the proof is of another session"
        );
        let detail = format!("Somebody at {address} repeated this agent's proof of another session.");
        raise_impostor(server, claimed, now, detail).await?;
        return Err(refused().into());
    }
    if !server.leaves().contains(&proof.tls_leaf_spki_digest) {
        let leaf = proof.tls_leaf_spki_digest;
        warn_of_stranger!(server.hush, address, { agent.id = %claimed, %leaf, }, "session refused: TLS leaf");
        let text = "the agent saw a TLS certificate this server does not answer for; list the proxy's in tls.proxy_leaves";
        return Err(Failure::denied("unknown_tls_leaf", text).into());
    }
    if agent.is_removed {
        warn_of_stranger!(server.hush, address, { agent.id = %claimed, }, "session refused: removed agent");
        return Err(removed().into());
    }
    Ok((agent, proof))
}

fn removed() -> Failure {
    let text = "this agent was removed by an operator; to let the host in again, remove its data directory and enrol it with a new token";
    Failure::denied("agent_removed", text)
}

async fn raise_impostor(
    server: &Server,
    agent: AgentId,
    now: Timestamp,
    detail: String,
) -> Result<(), Failure> {
    let alarm = Alarm { kind: AlertKind::Impostor, code: "", agent, count: 1, detail };
    server.store.raise(alarm, None, now).await.map_err(unavailable)
}

/// Ends the agent's older session, judges its journal, and welcomes it.
async fn establish(
    server: &Arc<Server>,
    (address, now): (IpAddr, Timestamp),
    (ticket, hellos): (u64, Hellos),
    (agent, proof): (KnownAgent, AgentProof),
    outbound: &Outbound,
) -> Result<Proven, End> {
    let Hellos { claimed, agent_nonce, server_nonce, server_key } = hellos;
    let (bundle_version, mark) = (proof.bundle.0, proof.journal.next_mark);
    let admissions = proof.journal.admissions;
    let record_signed_by = identity_record::claimed(&proof.identity_record);
    let contact = Contact {
        agent: agent.id,
        at: now,
        address: address.to_string(),
        agent_version: proof.agent_version,
        bundle: proof.bundle,
        journal: proof.journal,
    };
    let registry = server.dispatcher.registry();
    // A host that was put back to an earlier state says nothing to the session it had: that session knows
    // what it said before.
    if tokio::time::timeout(GREETING_TIMEOUT, registry.end_older(claimed, ticket)).await.is_err() {
        return Err(Failure::protocol("an older session of this agent still ends; come back").into());
    }
    let mut slot = None;
    // The slot is there before the contact is recorded: what was decided or recorded until then is in what
    // comes back, and of everything later the slot hears.
    let noted = server.store.note_contact(contact, |queue| {
        registry.believe(claimed, ticket, || {
            slot = Some(registry.open_slot(claimed));
            queue();
        })
    });
    let (begun, slot) = (noted.await.map_err(unavailable)?, slot);
    let (Some(Beginning { noted, is_removed, has_waiting }), Some(slot)) = (begun, slot) else {
        // Somebody held it back; it says how the journal stood before a later session.
        debug!(agent.id = %claimed, "session refused: a proof later than that of a newer session");
        return Err(Failure::protocol("a newer session of this agent has begun").into());
    };
    if is_removed {
        return Err(removed().into());
    }
    if has_waiting {
        slot.mailbox.look_into_store();
    }
    if let Some(why) = &noted.held {
        warn!(agent.id = %claimed, why, "nothing is sent to this agent until an operator decides");
    }
    let welcome = Welcome {
        fleet: server.fleet,
        agent: agent.id,
        agent_nonce,
        server_nonce,
        mark,
        commands_from: noted.commands_from,
        heartbeat: server.settings.heartbeat,
        heartbeat_deadline: server.settings.heartbeat_deadline,
    };
    let sealed = server.signer.welcome(&welcome, server_key).map_err(Failure::from)?;
    outbound.send(Frame::Welcome(sealed.bytes().clone())).await?;
    Ok(Proven {
        agent: KnownAgent { held: noted.held, ..agent },
        slot,
        bundle_version,
        server_nonce,
        mark,
        admissions,
        record_signed_by,
    })
}

async fn next(inbound: &mut tonic::Streaming<proto::AgentFrame>) -> Result<agent_frame::Frame, End> {
    match tokio::time::timeout(GREETING_TIMEOUT, inbound.message()).await {
        Err(_) => Err(Failure::silent("the agent said nothing for 10 s").into()),
        Ok(Ok(Some(proto::AgentFrame { frame: Some(frame) }))) => Ok(frame),
        Ok(Ok(Some(proto::AgentFrame { frame: None }))) => {
            Err(Failure::protocol("a frame was empty or unknown").into())
        }
        Ok(Ok(None)) => Err(End::Gone),
        Ok(Err(status)) => Err(unreadable(&status)),
    }
}
