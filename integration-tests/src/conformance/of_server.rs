//! A server of somebody: the kit comes as an agent does, with a token it was given, and says what agents say
//! and what none says.

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use writ_common::tls::{Anchors, connect};
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_proto::v1::{self as proto, agent_frame, server_frame};
use writ_protocol::envelope::{EnrolmentPurpose, RefusalsAckPurpose, WelcomePurpose, sign};
use writ_protocol::hello::Expected;
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::identity::{Enrolment, EnrolmentToken};
use writ_protocol::keys::{Agent, Algorithm, PrivateKey};
use writ_protocol::trust::{Chain, Keyring};

use super::Report;
use crate::forge::{Forger, sealed};
use crate::stolen::now;

/// How long a server may take for an answer.
const SOON: Duration = Duration::from_secs(20);

type Seen<T> = Result<T, String>;

/// An agent that was let in.
struct Enrolled {
    token: EnrolmentToken,
    chain: Chain,
    key: Forger,
    id: AgentId,
    record: Bytes,
}

/// A stream, and what was said on it.
struct Stream {
    to_server: mpsc::Sender<proto::AgentFrame>,
    from_server: Streaming<proto::ServerFrame>,
    leaf: Digest,
}

/// Judges the server that a token leads to. The token must be good for two agents.
///
/// # Panics
/// When no runtime can be made.
pub fn judge(token: &str, report: &mut Report) {
    let token = match EnrolmentToken::from_text(token) {
        Ok(token) => token,
        Err(error) => {
            report.case("8.1", "the token can be read", Err(error.to_string()));
            return;
        }
    };
    report.case("8.1", "the token can be read", Ok(()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(walk(token, report));
}

async fn walk(token: EnrolmentToken, report: &mut Report) {
    let chain = match fetch(&token).await {
        Ok(chain) => chain,
        Err(seen) => {
            report.case("8.2", "it gives the chain from the bundle the token names", Err(seen));
            return;
        }
    };
    report.case("8.2", "it gives the chain from the bundle the token names", Ok(()));
    let (key, wrong) = (
        PrivateKey::<Agent>::generate(Algorithm::Ed25519),
        EnrolmentToken { secret: [0; 32], ..token.clone() },
    );
    let refused = is_code(enroll(&wrong, &key).await.map(drop), Code::PermissionDenied);
    report.case("8.3", "a token nobody made is refused (PERMISSION_DENIED)", refused);
    let first = enroll(&token, &key).await;
    let record = match first
        .map_err(|status| said(&status))
        .and_then(|record| believed(&chain, &token, &record, &key))
    {
        Ok(record) => record,
        Err(seen) => {
            report.case("8.4", "it enrols, by a record of a certificate that counts", Err(seen));
            return;
        }
    };
    report.case("8.4", "it enrols, by a record of a certificate that counts", Ok(()));
    let again = enroll(&token, &key).await.map_err(|status| said(&status));
    let again = again.and_then(|record| believed(&chain, &token, &record, &key));
    let seen =
        again.and_then(|(id, _)| if id == record.0 { Ok(()) } else { Err("it is another agent".to_owned()) });
    report.case("8.3", "the same token and key are the same agent", seen);
    let agent = Enrolled { key: Forger::stolen(&key), id: record.0, record: record.1, token, chain };
    agent.first_words(report).await;
    agent.proofs(report).await;
    agent.session(report).await;
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn is_code(outcome: Result<(), Status>, code: Code) -> Seen<()> {
    match outcome {
        Err(status) if status.code() == code => Ok(()),
        Err(status) => Err(said(&status)),
        Ok(()) => Err("it went well".to_owned()),
    }
}

async fn client(token: &EnrolmentToken) -> Seen<(AgentGatewayClient<Channel>, Digest)> {
    let endpoint = token.endpoints.first().ok_or("the token has no endpoint")?;
    let anchors = Anchors::SpkiDigests(token.tls_ca_spki_digests.clone());
    let connection = connect(endpoint, &anchors).await.map_err(|error| format!("{endpoint}: {error}"))?;
    Ok((AgentGatewayClient::new(connection.channel), connection.leaf_spki_digest))
}

async fn fetch(token: &EnrolmentToken) -> Seen<Chain> {
    let (mut client, _) = client(token).await?;
    let request = proto::TrustChainRequest { version: token.bundle_version - 1, digest: Bytes::new() };
    let answered = timeout(SOON, client.trust_chain(request)).await.map_err(|_| "it said nothing")?;
    let mut bundles = answered.map_err(|status| said(&status))?.into_inner().bundles.into_iter();
    let first = bundles.next().ok_or("it gave none")?;
    let mut chain = Chain::pinned(first, token.bundle_digest).map_err(|refusal| refusal.to_string())?;
    for bundle in bundles {
        chain.extend(bundle).map_err(|refusal| refusal.to_string())?;
    }
    Ok(chain)
}

async fn enroll(token: &EnrolmentToken, key: &PrivateKey<Agent>) -> Result<Bytes, Status> {
    let (mut client, leaf) = client(token).await.map_err(Status::unavailable)?;
    let enrolment = Enrolment {
        fleet: token.fleet,
        token_digest: token.digest(),
        public_key: key.public().clone(),
        // Each run is an agent of its own.
        host_name: format!("conformance-{:.8}", key.public().id()),
        agent_version: "conformance".to_owned(),
        tls_leaf_spki_digest: leaf,
    };
    let sealed = sign::<EnrolmentPurpose>(&[&key.for_purpose()], &enrolment);
    let request = proto::EnrollRequest {
        token_secret: token.secret.to_vec().into(),
        enrolment: sealed.bytes().clone(),
    };
    Ok(client.enroll(request).await?.into_inner().identity_record)
}

fn believed(
    chain: &Chain,
    token: &EnrolmentToken,
    record: &Bytes,
    key: &PrivateKey<Agent>,
) -> Seen<(AgentId, Bytes)> {
    let keyring = Keyring::new(&chain.head().bundle, &token.realm);
    let verified = keyring
        .verify_at::<writ_protocol::envelope::IdentityRecordPurpose>(record, |record| record.recorded_at);
    let said = verified.map_err(|refusal| refusal.to_string())?.into_document();
    let is_about_us =
        said.public_key == *key.public() && said.fleet == token.fleet && said.realm == token.realm;
    if is_about_us {
        Ok((said.agent, record.clone()))
    } else {
        Err("its record is about somebody else".to_owned())
    }
}

const NONCE: [u8; 32] = [1; 32];

impl Enrolled {
    fn hello(&self) -> proto::AgentHello {
        let agent_id = Bytes::copy_from_slice(self.id.as_bytes());
        proto::AgentHello { nonce: Bytes::from_static(&NONCE), agent_id, protocol: 1 }
    }

    async fn open(&self, first: agent_frame::Frame) -> Result<Stream, Status> {
        let (mut client, leaf) = client(&self.token).await.map_err(Status::unavailable)?;
        let (to_server, frames) = mpsc::channel(64);
        let _ = to_server.send(proto::AgentFrame { frame: Some(first) }).await;
        let from_server = client.connect(ReceiverStream::new(frames)).await?.into_inner();
        Ok(Stream { to_server, from_server, leaf })
    }

    /// Says one thing as its first word.
    async fn says_first(&self, frame: agent_frame::Frame) -> Result<(), Status> {
        self.open(frame).await?.hear().await.map(drop)
    }

    async fn first_words(&self, report: &mut Report) {
        let heartbeat = agent_frame::Frame::Heartbeat(proto::Heartbeat::default());
        let seen = is_code(self.says_first(heartbeat).await, Code::InvalidArgument);
        report.case("6.1", "a stream that does not begin with a hello ends (INVALID_ARGUMENT)", seen);
        let short = proto::AgentHello { nonce: Bytes::from_static(&[1; 31]), ..self.hello() };
        let seen = is_code(self.says_first(agent_frame::Frame::Hello(short)).await, Code::InvalidArgument);
        report.case("6.1", "a nonce of 31 bytes ends it (INVALID_ARGUMENT)", seen);
        let newer = proto::AgentHello { protocol: 9, ..self.hello() };
        let seen = is_code(self.says_first(agent_frame::Frame::Hello(newer)).await, Code::FailedPrecondition);
        report.case("10.3", "another protocol ends it (FAILED_PRECONDITION)", seen);
    }

    /// A stream on which the server has proven itself.
    async fn greeted(&self) -> Seen<(Stream, proto::ServerHello, String)> {
        let asked = tokio::time::Instant::now();
        let mut stream =
            self.open(agent_frame::Frame::Hello(self.hello())).await.map_err(|status| said(&status))?;
        let frame = stream.hear().await.map_err(|status| said(&status))?;
        let Some(server_frame::Frame::Hello(envelope)) = frame else {
            return Err(format!("it said {frame:?}"));
        };
        let expected = Expected {
            bundle: &self.chain.head().bundle,
            realm: &self.token.realm,
            nonce: NONCE,
            tls_leaf: stream.leaf,
            floor: writ_protocol::time::Timestamp::ZERO,
            round_trip: asked.elapsed(),
        };
        let _verified = expected.verify(&envelope).map_err(|refusal| refusal.to_string())?;
        let envelope = proto::Envelope::decode(envelope).map_err(|error| error.to_string())?;
        let keyid = envelope.signatures.first().map(|signature| signature.keyid.clone()).unwrap_or_default();
        let hello = proto::ServerHello::decode(envelope.payload).map_err(|error| error.to_string())?;
        Ok((stream, hello, keyid))
    }

    fn proof(&self, leaf: Digest, hello: &proto::ServerHello, keyid: &str) -> proto::AgentProof {
        let head = self.chain.head();
        proto::AgentProof {
            fleet_id: hello.fleet_id.clone(),
            agent_id: Bytes::copy_from_slice(self.id.as_bytes()),
            agent_nonce: Bytes::from_static(&NONCE),
            server_nonce: hello.server_nonce.clone(),
            server_keyid: keyid.to_owned(),
            tls_leaf_spki_digest: Bytes::copy_from_slice(leaf.as_bytes()),
            agent_version: "conformance".to_owned(),
            bundle_version: head.bundle.version,
            bundle_digest: Bytes::copy_from_slice(head.digest.as_bytes()),
            journal_id: Bytes::from_static(&[2; 16]),
            journal_counter: 1,
            marks: Vec::new(),
            next_mark: Bytes::from_static(&[3; 16]),
            identity_record: self.record.clone(),
            journal_admissions: 0,
        }
    }

    /// What the server says to a proof after `change`, by this key.
    async fn prove(
        &self,
        key: &Forger,
        change: impl FnOnce(&mut proto::AgentProof),
    ) -> Seen<(Stream, proto::ServerHello, Result<Option<server_frame::Frame>, Status>)> {
        let (mut stream, hello, keyid) = self.greeted().await?;
        let mut proof = self.proof(stream.leaf, &hello, &keyid);
        change(&mut proof);
        stream.say(agent_frame::Frame::Proof(sealed("agent-proof", &proof, key))).await;
        let said = stream.hear().await;
        Ok((stream, hello, said))
    }

    async fn proofs(&self, report: &mut Report) {
        let greeted = self.greeted().await.map(drop);
        if !report.case("6.2", "it proves itself by a hello that is about this connection", greeted) {
            return;
        }
        let thief = Forger::new([0x66; 32]);
        let said = self
            .prove(&thief, |_| {})
            .await
            .map(|(_, _, said)| is_code(said.map(drop), Code::PermissionDenied));
        report.case(
            "6.4",
            "a proof by another key is refused (PERMISSION_DENIED)",
            said.and_then(|seen| seen),
        );
        let said = self.prove(&self.key, |proof| proof.server_nonce = Bytes::from_static(&[9; 32])).await;
        let said = said.map(|(_, _, said)| is_code(said.map(drop), Code::PermissionDenied));
        report.case(
            "6.4",
            "a proof of another session is refused (PERMISSION_DENIED)",
            said.and_then(|seen| seen),
        );
        let said =
            self.prove(&self.key, |proof| proof.tls_leaf_spki_digest = Bytes::from_static(&[9; 32])).await;
        let said = said.map(|(_, _, said)| is_code(said.map(drop), Code::PermissionDenied));
        report.case(
            "6.4",
            "a proof under another TLS leaf is refused (PERMISSION_DENIED)",
            said.and_then(|seen| seen),
        );
    }

    async fn session(&self, report: &mut Report) {
        let begun = self.prove(&self.key, |_| {}).await;
        let (mut stream, hello) = match begun {
            Ok((stream, hello, Ok(Some(server_frame::Frame::Welcome(envelope))))) => {
                let verified = self.vouched::<WelcomePurpose>(&envelope);
                let seen = verified.and_then(|welcome| {
                    match welcome.agent_nonce == NONCE && welcome.agent == self.id {
                        true => Ok(()),
                        false => Err("it welcomes another session".to_owned()),
                    }
                });
                report.case("6.4", "it welcomes a good proof, under the key of its hello", seen);
                (stream, hello)
            }
            Ok((_, _, said)) => {
                report.case("6.4", "it welcomes a good proof", Err(format!("it said {said:?}")));
                return;
            }
            Err(seen) => {
                report.case("6.4", "it welcomes a good proof", Err(seen));
                return;
            }
        };
        // A receipt by somebody else is not acknowledged; a report of refusals is, so that the session is
        // known to go on.
        let forged = proto::Receipt { fleet_id: hello.fleet_id.clone(), ..proto::Receipt::default() };
        let answer = proto::Answer {
            command_id: Bytes::from_static(&[4; 16]),
            command_digest: Bytes::from_static(&[5; 32]),
            receipt: sealed("receipt", &forged, &Forger::new([0x66; 32])),
            deliveries: 1,
        };
        stream.say(agent_frame::Frame::Answer(answer)).await;
        let at = now().as_millis();
        let record = proto::RefusalRecord {
            code: proto::RefusalCode::UnknownKey.into(),
            count: 1,
            first_at_ms: at,
            last_at_ms: at,
            sample_digest: Bytes::copy_from_slice(Digest::of(b"").as_bytes()),
            sample_keyid: String::new(),
        };
        let refusals = proto::RefusalReport {
            fleet_id: hello.fleet_id.clone(),
            agent_id: Bytes::copy_from_slice(self.id.as_bytes()),
            sequence: 1,
            records: vec![record],
            reported_at_ms: at,
        };
        let sealed_report = sealed("refusals", &refusals, &self.key);
        let digest = Chain::digest_of(&sealed_report);
        stream.say(agent_frame::Frame::Refusals(sealed_report)).await;
        // A server may wait with its acknowledgements until it answers a heartbeat.
        stream.say(agent_frame::Frame::Heartbeat(proto::Heartbeat::default())).await;
        let (mut is_acknowledged, mut is_answered, mut reported) = (false, false, None);
        let seen = loop {
            if is_answered && let Some(reported) = reported.take() {
                break reported;
            }
            match stream.hear().await {
                Ok(Some(server_frame::Frame::RefusalsAck(envelope))) => {
                    let said = self.vouched::<RefusalsAckPurpose>(&envelope);
                    reported = Some(said.and_then(|ack| {
                        match digest.as_ref().is_some_and(|digest| ack.report_digest == *digest) {
                            true => Ok(()),
                            false => Err("it names another report".to_owned()),
                        }
                    }));
                }
                Ok(Some(server_frame::Frame::Heartbeat(_))) => is_answered = true,
                Ok(Some(server_frame::Frame::AnswerAck(_))) => is_acknowledged = true,
                Ok(Some(_)) => {}
                Ok(None) => break Err("the session ended".to_owned()),
                Err(status) => break Err(said(&status)),
            }
        };
        report.case("7.5", "it acknowledges a report of refusals under its seal, naming its digest", seen);
        let seen = if is_acknowledged { Err("it did".to_owned()) } else { Ok(()) };
        report.case("7.2", "it does not acknowledge a receipt by somebody else", seen);
    }

    fn vouched<P: writ_protocol::envelope::Purpose>(&self, envelope: &Bytes) -> Seen<P::Document> {
        let keyring = Keyring::new(&self.chain.head().bundle, &self.token.realm);
        let candidates = keyring.candidates(now());
        let verified = writ_protocol::envelope::verify::<P>(envelope, &candidates, 1);
        verified.map(writ_protocol::envelope::Verified::into_document).map_err(|refusal| refusal.to_string())
    }
}

impl Stream {
    async fn say(&self, frame: agent_frame::Frame) {
        let _ = self.to_server.send(proto::AgentFrame { frame: Some(frame) }).await;
    }

    async fn hear(&mut self) -> Result<Option<server_frame::Frame>, Status> {
        let heard = timeout(SOON, self.from_server.message()).await;
        let heard = heard.map_err(|_| Status::deadline_exceeded("it said nothing"))?;
        Ok(heard?.and_then(|message| message.frame))
    }
}
