//! The first words (protocol.md §6): the server is believed by its signing key, not by its TLS certificate.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::info;
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_proto::v1::{self as proto, agent_frame, server_frame::Frame};
use writ_protocol::envelope::{
    AgentProofPurpose, Candidate, HelloPurpose, Sealed, Verified, WelcomePurpose, sign, verify,
};
use writ_protocol::hello::{AgentProof, Expected, Nonce, Welcome};
use writ_protocol::id::{AgentId, Digest, random_bytes};
use writ_protocol::limits::{MAX_BUNDLE_BATCH_BYTES, MAX_BUNDLES_PER_CALL, PROTOCOL};
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use super::LinkError;
use crate::VERSION;
use crate::obey::AgentCore;
use crate::session_time::SessionTime;

/// How long the server may take for each of its first words.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames on their way to the server.
const MAX_FRAMES_UNDER_WAY: usize = 16;
/// Calls of `TrustChain` in one go: 4,096 bundles.
const MAX_CHAIN_CALLS: usize = 16;

/// A stream on which both sides proved themselves.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) outbound: mpsc::Sender<proto::AgentFrame>,
    pub(super) inbound: Streaming<proto::ServerFrame>,
    pub(super) welcome: Welcome,
    /// For further questions on the same connection.
    pub(super) client: AgentGatewayClient<Channel>,
}

/// A stream on which the server proved itself.
#[derive(Debug)]
pub(super) struct HelloVerified {
    outbound: mpsc::Sender<proto::AgentFrame>,
    inbound: Streaming<proto::ServerFrame>,
    nonce: Nonce,
    asked: Duration,
    pub(super) verified: Verified<HelloPurpose>,
}

/// A hello that nobody has judged yet.
pub(super) struct HelloReceived {
    outbound: mpsc::Sender<proto::AgentFrame>,
    inbound: Streaming<proto::ServerFrame>,
    pub(super) nonce: Nonce,
    asked: Duration,
    pub(super) round_trip: Duration,
    pub(super) envelope: Bytes,
}

/// Says an agent's id, and takes the hello that comes.
pub(super) async fn hail(
    agent: AgentId,
    time: &SessionTime,
    client: &mut AgentGatewayClient<Channel>,
) -> Result<HelloReceived, LinkError> {
    let (outbound, frames) = mpsc::channel(MAX_FRAMES_UNDER_WAY);
    let nonce: Nonce = random_bytes();
    let hello = proto::AgentHello {
        nonce: nonce.to_vec().into(),
        agent_id: agent.as_bytes().to_vec().into(),
        protocol: PROTOCOL,
    };
    let asked = time.monotonic();
    send(&outbound, agent_frame::Frame::Hello(hello)).await?;
    let mut inbound = client.connect(ReceiverStream::new(frames)).await?.into_inner();
    let Frame::Hello(envelope) = next(&mut inbound).await? else {
        return Err(LinkError::Protocol("its first frame is not a hello"));
    };
    let round_trip = time.monotonic().saturating_sub(asked);
    Ok(HelloReceived { outbound, inbound, nonce, asked, round_trip, envelope })
}

/// Greets, and believes the server or not.
pub(super) async fn hear(
    core: &AgentCore,
    client: &mut AgentGatewayClient<Channel>,
    leaf: Digest,
) -> Result<HelloVerified, LinkError> {
    let agent = core.identity.record.agent;
    let HelloReceived { outbound, inbound, nonce, asked, round_trip, envelope } =
        match hail(agent, &core.time, client).await {
            // It cannot sign: perhaps it was put back to an earlier state, and this agent has what it lacks.
            Err(LinkError::Refused(status)) => {
                fetch_chain(core, client).await?;
                return Err(LinkError::Refused(status));
            }
            hailed => hailed?,
        };
    let not_obeyed = |refusal| LinkError::NotObeyed { refusal, frame: envelope.clone() };
    let judge = || {
        let chain = core.trust.chain();
        let floor = core.journal.facts().map_or(Timestamp::from_millis(u64::MAX), |facts| facts.floor);
        let expected = Expected {
            bundle: &chain.head().bundle,
            realm: &core.identity.record.realm,
            nonce,
            tls_leaf: leaf,
            floor,
            round_trip,
        };
        expected.verify(&envelope)
    };
    let verified = match judge() {
        // protocol.md §6.3: a newer bundle may list the key, change its dates or reset the floor; ask once,
        // then decide.
        Err(refusal) if may_be_mended_by_a_bundle(refusal.code) => match fetch_chain(core, client).await {
            Ok(()) => judge(),
            Err(error @ (LinkError::Journal(_) | LinkError::Follow(_))) => return Err(error),
            // A false greeting must not stay hidden because no answer follows it.
            Err(error) => {
                info!(%error, "no bundle to be had");
                Err(refusal)
            }
        },
        judged => judged,
    };
    let verified = verified.map_err(not_obeyed)?;
    let (hello, chain) = (verified.document(), core.trust.chain());
    // It stands at an earlier state, or follows another chain.
    if hello.chain_version <= chain.head().bundle.version && hello.chain_digest != chain.head().digest {
        fetch_chain(core, client).await?;
    }
    Ok(HelloVerified { outbound, inbound, nonce, asked, verified })
}

/// Proves the agent to a server that proved itself, and begins the session.
pub(super) async fn greet(
    core: &AgentCore,
    client: &mut AgentGatewayClient<Channel>,
    leaf: Digest,
) -> Result<Established, LinkError> {
    let HelloVerified { outbound, mut inbound, nonce, asked, verified } = hear(core, client, leaf).await?;
    let hello = verified.document();
    let chain = core.trust.chain();
    let proof = AgentProof {
        fleet: hello.fleet,
        agent: core.identity.record.agent,
        agent_nonce: nonce,
        server_nonce: hello.server_nonce,
        server_key: *verified.signers().first().expect("verify returns at least one signer"),
        tls_leaf_spki_digest: leaf,
        agent_version: VERSION.to_owned(),
        bundle: (chain.head().bundle.version, chain.head().digest),
        journal: core.journal.standing()?,
        identity_record: core.record(),
    };
    core.upgrades.may_greet().map_err(LinkError::Upgrading)?;
    let next_mark = proof.journal.next_mark;
    let sealed: Sealed<AgentProofPurpose> = sign(&[&core.identity.key.for_purpose()], &proof);
    send(&outbound, agent_frame::Frame::Proof(sealed.bytes().clone())).await?;
    let Frame::Welcome(envelope) = next(&mut inbound).await? else {
        return Err(LinkError::Protocol("it does not welcome a proven agent"));
    };
    // By the key of the hello: a server that cannot sign must not be able to say that the proof was noted.
    let keys = chain.head().bundle.signing.iter().map(|entry| entry.certificate.key());
    let keys = keys.filter(|key| verified.signers().contains(&key.id()));
    let candidates: Vec<_> = keys.map(Candidate::accepted).collect();
    let not_obeyed = |refusal| LinkError::NotObeyed { refusal, frame: envelope.clone() };
    let welcome = verify::<WelcomePurpose>(&envelope, &candidates, 1).map_err(not_obeyed)?.into_document();
    let is_of_this_session = welcome.fleet == hello.fleet
        && welcome.agent == core.identity.record.agent
        && (welcome.agent_nonce, welcome.server_nonce) == (nonce, hello.server_nonce)
        && welcome.mark == next_mark;
    if !is_of_this_session {
        return Err(not_obeyed(Refusal::new(
            RefusalCode::HelloMismatch,
            "the welcome is of another session",
        )));
    }
    // Before anything of the session is taken: it could be forgotten with an upgrade that is taken back.
    core.upgrades.greeted().map_err(LinkError::Upgrading)?;
    core.time.set(hello.time, asked);
    core.journal.begin_session(hello.time, welcome.commands_from)?;
    Ok(Established { outbound, inbound, welcome, client: client.clone() })
}

pub(super) const fn may_be_mended_by_a_bundle(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::UnknownKey
            | RefusalCode::NoTrust
            | RefusalCode::CertificateNotYetValid
            | RefusalCode::CertificateExpired
            | RefusalCode::CertificateRevoked
            | RefusalCode::WrongRealm
            | RefusalCode::TimeWentBack
    )
}

/// Asks for the bundles after the one held and walks along them; a server that stands at an earlier state is
/// given what it lacks.
pub(super) async fn fetch_chain(
    core: &AgentCore,
    client: &mut AgentGatewayClient<Channel>,
) -> Result<(), LinkError> {
    let (version, digest) = fetch_successors(core, client).await?;
    hand_back(core, client, version, &digest).await
}

/// Asks for the bundles after the one held and walks along them; returns version and digest of the other
/// side's newest.
pub(super) async fn fetch_successors(
    core: &AgentCore,
    client: &mut AgentGatewayClient<Channel>,
) -> Result<(u64, Bytes), LinkError> {
    for _ in 0..MAX_CHAIN_CALLS {
        let chain = core.trust.chain();
        let head = chain.head();
        let request = proto::TrustChainRequest {
            version: head.bundle.version,
            digest: head.digest.as_bytes().to_vec().into(),
        };
        let answer = tokio::time::timeout(GREETING_TIMEOUT, client.trust_chain(request))
            .await
            .map_err(|_| LinkError::Silent(GREETING_TIMEOUT))??
            .into_inner();
        let sample = answer.bundles.first().cloned().unwrap_or_default();
        let added = core
            .follow(answer.bundles)?
            .map_err(|refusal| LinkError::NotObeyed { refusal, frame: sample })?;
        if added == 0 || !answer.more {
            return Ok((answer.head_version, answer.head_digest));
        }
        info!(added, "walking along the chain of trust bundles");
    }
    Ok((0, Bytes::new()))
}

/// Walks along the bundles there are after a chain's head, as far as they lead.
pub(super) async fn learn(
    chain: &mut Chain,
    client: &mut AgentGatewayClient<Channel>,
) -> Result<(), LinkError> {
    for _ in 0..MAX_CHAIN_CALLS {
        let head = chain.head();
        let request = proto::TrustChainRequest {
            version: head.bundle.version,
            digest: head.digest.as_bytes().to_vec().into(),
        };
        let answer = client.trust_chain(request).await?.into_inner();
        for bundle in answer.bundles {
            let frame = bundle.clone();
            chain.extend(bundle).map_err(|refusal| LinkError::NotObeyed { refusal, frame })?;
        }
        if !answer.more {
            break;
        }
    }
    Ok(())
}

/// A server that stands at an earlier state than this agent is given what it lacks. One that follows another
/// chain is given the newest of this one, so that it mints nothing before somebody joined the two.
async fn hand_back(
    core: &AgentCore,
    client: &mut AgentGatewayClient<Channel>,
    version: u64,
    digest: &[u8],
) -> Result<(), LinkError> {
    let chain = core.trust.chain();
    let is_behind = Digest::try_from(digest).is_ok_and(|digest| chain.contains(digest));
    let mut bytes = 0;
    let has_room = |envelope: &Bytes| {
        bytes += envelope.len();
        bytes <= MAX_BUNDLE_BATCH_BYTES
    };
    if !is_behind {
        let newest = chain.links().iter().rev().take(MAX_BUNDLES_PER_CALL);
        let mut bundles: Vec<_> = newest.map(|link| link.envelope.clone()).take_while(has_room).collect();
        bundles.reverse();
        let handed = client.hand_back(proto::HandBackRequest { bundles });
        // Whatever it thinks of them: it is obeyed or not by what this agent holds.
        if let Ok(Err(error)) = tokio::time::timeout(GREETING_TIMEOUT, handed).await {
            info!(%error, "the server follows another chain, and does not take this one's bundles");
        }
        return Ok(());
    }
    let lacking = chain.after(version).take(MAX_BUNDLES_PER_CALL).map(|link| link.envelope.clone());
    let bundles: Vec<_> = lacking.take_while(has_room).collect();
    if bundles.is_empty() {
        return Ok(());
    }
    info!(bundles = bundles.len(), after = version, "the server lacks trust bundles; handing them back");
    let request = proto::HandBackRequest { bundles };
    let handed = tokio::time::timeout(GREETING_TIMEOUT, client.hand_back(request)).await;
    let head = handed.map_err(|_| LinkError::Silent(GREETING_TIMEOUT))??.into_inner().head_version;
    info!(head, "handed back");
    Ok(())
}

/// Asks for the chain from a pinned bundle on: the whole of what a new agent is told about trust.
pub(super) async fn fetch_pinned(
    client: &mut AgentGatewayClient<Channel>,
    version: u64,
    pinned: Digest,
) -> Result<Chain, LinkError> {
    let mut chain: Option<Chain> = None;
    let mut after = version.saturating_sub(1);
    for _ in 0..MAX_CHAIN_CALLS {
        let request = proto::TrustChainRequest { version: after, digest: Bytes::new() };
        let answer = tokio::time::timeout(GREETING_TIMEOUT, client.trust_chain(request))
            .await
            .map_err(|_| LinkError::Silent(GREETING_TIMEOUT))??
            .into_inner();
        for bundle in answer.bundles {
            let frame = bundle.clone();
            let walked = match chain.as_mut() {
                None => Chain::pinned(bundle, pinned).map(|pinned| chain = Some(pinned)),
                Some(chain) => chain.extend(bundle).map(|_| ()),
            };
            walked.map_err(|refusal| LinkError::NotObeyed { refusal, frame })?;
        }
        let Some(chain) = chain.as_ref().filter(|_| answer.more) else { break };
        after = chain.head().bundle.version;
    }
    chain.ok_or(LinkError::Protocol("it does not hold the bundle the token names"))
}

pub(super) async fn send(
    outbound: &mpsc::Sender<proto::AgentFrame>,
    frame: agent_frame::Frame,
) -> Result<(), LinkError> {
    outbound.send(proto::AgentFrame { frame: Some(frame) }).await.map_err(|_| LinkError::Ended)
}

async fn next(inbound: &mut Streaming<proto::ServerFrame>) -> Result<Frame, LinkError> {
    let message = tokio::time::timeout(GREETING_TIMEOUT, inbound.message()).await;
    match message.map_err(|_| LinkError::Silent(GREETING_TIMEOUT))?? {
        Some(proto::ServerFrame { frame: Some(frame) }) => Ok(frame),
        Some(proto::ServerFrame { frame: None }) => Err(LinkError::Protocol("a frame is empty or unknown")),
        None => Err(LinkError::Ended),
    }
}
