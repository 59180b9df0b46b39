//! An enrolled agent that turned hostile: it proves itself as any agent does, and then says what it likes.

use bytes::Bytes;
use prost::Message as _;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use writ_common::keys::pem;
use writ_common::tls::{Anchors, connect};
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_proto::v1::{self as proto, agent_frame, server_frame};
use writ_protocol::id::{AgentId, CommandId, Digest};
use writ_protocol::keys::{Agent, PrivateKey};
use writ_protocol::trust::Chain;

use crate::fleet::Fleet;
use crate::forge::{Forger, sealed};
use crate::stolen::now;

/// In the place of an agent that does not run.
#[derive(Debug)]
pub struct HostileAgent {
    runtime: Runtime,
    to_server: mpsc::Sender<proto::AgentFrame>,
    from_server: Streaming<proto::ServerFrame>,
    id: AgentId,
    key: Forger,
    hello: proto::ServerHello,
}

impl HostileAgent {
    /// Begins a session in the name of an agent whose folder is here.
    ///
    /// # Panics
    /// When it is not welcomed.
    #[must_use]
    pub fn in_place_of(fleet: &Fleet, agent: &str) -> Self {
        Self::with_proof(fleet, agent, |_| {}).unwrap()
    }

    /// The same, after `change` had its way with the proof.
    ///
    /// # Errors
    /// What the server said instead of a welcome.
    ///
    /// # Panics
    /// When there is no server.
    pub fn with_proof(
        fleet: &Fleet,
        agent: &str,
        change: impl FnOnce(&mut proto::AgentProof),
    ) -> Result<Self, Status> {
        let read = |path: &str| std::fs::read(fleet.path(path)).unwrap();
        let key = pem::private_key(&read(&format!("{agent}/identity.key"))).unwrap();
        let key = Forger::stolen(&PrivateKey::<Agent>::from_pkcs8(&key).unwrap());
        let chain = proto::Bundles::decode(read(&format!("{agent}/trust.chain")).as_slice()).unwrap();
        let id: AgentId = fleet.agent_id(agent).parse().unwrap();
        let authorities = pem::certificates(&read("server/admin-ca.pem")).unwrap();
        let endpoint = format!("localhost:{}", fleet.road.port());
        let runtime = Runtime::new().unwrap();
        let (to_server, frames) = mpsc::channel(64);
        let say = |frame| proto::AgentFrame { frame: Some(frame) };
        let begun = runtime.block_on(async {
            let connection = connect(&endpoint, &Anchors::Authorities(authorities)).await.unwrap();
            let mut client = AgentGatewayClient::new(connection.channel);
            let nonce = Bytes::from(vec![1; 32]);
            let agent_id = Bytes::copy_from_slice(id.as_bytes());
            let greeting =
                proto::AgentHello { nonce: nonce.clone(), agent_id: agent_id.clone(), protocol: 1 };
            to_server.send(say(agent_frame::Frame::Hello(greeting))).await.unwrap();
            let mut from_server = client.connect(ReceiverStream::new(frames)).await.unwrap().into_inner();
            let Some(server_frame::Frame::Hello(hello)) = next(&mut from_server).await? else {
                panic!("the server does not greet")
            };
            let envelope = proto::Envelope::decode(hello).unwrap();
            let hello = proto::ServerHello::decode(envelope.payload).unwrap();
            let head = chain.bundles.last().unwrap();
            let bundle = proto::Envelope::decode(head.clone()).unwrap().payload;
            let mut proof = proto::AgentProof {
                fleet_id: hello.fleet_id.clone(),
                agent_id,
                agent_nonce: nonce,
                server_nonce: hello.server_nonce.clone(),
                server_keyid: envelope.signatures[0].keyid.clone(),
                tls_leaf_spki_digest: connection.leaf_spki_digest.as_bytes().to_vec().into(),
                agent_version: "0.1.0".to_owned(),
                bundle_version: proto::TrustBundle::decode(bundle).unwrap().version,
                bundle_digest: Chain::digest_of(head).unwrap().as_bytes().to_vec().into(),
                journal_id: vec![2; 16].into(),
                journal_counter: 1,
                marks: Vec::new(),
                next_mark: vec![3; 16].into(),
                identity_record: Bytes::new(),
                journal_admissions: 0,
            };
            change(&mut proof);
            let proof = sealed("agent-proof", &proof, &key);
            to_server.send(say(agent_frame::Frame::Proof(proof))).await.unwrap();
            let Some(server_frame::Frame::Welcome(_)) = next(&mut from_server).await? else {
                panic!("the server does not welcome it")
            };
            Ok::<_, Status>((from_server, hello))
        });
        let (from_server, hello) = begun?;
        Ok(Self { runtime, to_server, from_server, id, key, hello })
    }

    /// Says something.
    ///
    /// # Panics
    /// When the server ended the session.
    pub fn say(&self, frame: agent_frame::Frame) {
        assert!(self.try_to_say(frame), "the session is over");
    }

    fn try_to_say(&self, frame: agent_frame::Frame) -> bool {
        self.to_server.blocking_send(proto::AgentFrame { frame: Some(frame) }).is_ok()
    }

    /// What the server says next; `None` when it ended the session.
    pub fn hear(&mut self) -> Option<server_frame::Frame> {
        self.runtime.block_on(next(&mut self.from_server)).ok().flatten()
    }

    /// Answers a command as `writ send` printed it, after `change` had its way with the receipt.
    ///
    /// # Panics
    /// When that is not what was printed.
    pub fn answer(&self, sent: &Value, change: impl FnOnce(&mut proto::Receipt)) {
        assert!(self.try_answer(sent, change), "the session is over");
    }

    /// The same; whether the session was still there.
    ///
    /// # Panics
    /// When that is not what was printed.
    pub fn try_answer(&self, sent: &Value, change: impl FnOnce(&mut proto::Receipt)) -> bool {
        let command: CommandId = sent["command_id"].as_str().unwrap().parse().unwrap();
        let digest: Digest = sent["digest"].as_str().unwrap().parse().unwrap();
        let (command_id, command_digest) =
            (Bytes::copy_from_slice(command.as_bytes()), Bytes::copy_from_slice(digest.as_bytes()));
        let at = now().as_millis();
        let output_digest = Digest::of(b"").as_bytes().to_vec().into();
        let mut receipt = proto::Receipt {
            fleet_id: self.hello.fleet_id.clone(),
            agent_id: Bytes::copy_from_slice(self.id.as_bytes()),
            command_id: command_id.clone(),
            command_digest: command_digest.clone(),
            decision: proto::Decision::Obeyed.into(),
            outcome: Some(proto::Outcome {
                ending: proto::Ending::Done.into(),
                started_at_ms: at,
                finished_at_ms: at,
                output_digest,
                ..proto::Outcome::default()
            }),
            decided_at_ms: at,
            agent_version: "0.1.0".to_owned(),
            journal_counter: 2,
            attempt: 1,
            ..proto::Receipt::default()
        };
        change(&mut receipt);
        let receipt = sealed("receipt", &receipt, &self.key);
        let answer = proto::Answer { command_id, command_digest, receipt, deliveries: 1 };
        self.try_to_say(agent_frame::Frame::Answer(answer))
    }

    /// Reports that it refused something so often.
    pub fn report_refusals(&self, count: u64) {
        let at = now().as_millis();
        let record = proto::RefusalRecord {
            code: proto::RefusalCode::UnknownKey.into(),
            count,
            first_at_ms: at,
            last_at_ms: at,
            sample_digest: Digest::of(b"").as_bytes().to_vec().into(),
            sample_keyid: String::new(),
        };
        let report = proto::RefusalReport {
            fleet_id: self.hello.fleet_id.clone(),
            agent_id: Bytes::copy_from_slice(self.id.as_bytes()),
            sequence: count,
            records: vec![record],
            reported_at_ms: at,
        };
        self.say(agent_frame::Frame::Refusals(sealed("refusals", &report, &self.key)));
    }

    /// Reports what it can do: of the greatest size there may be, and never the same twice.
    pub fn report_much(&self, number: u64) {
        let action = |row| proto::ActionEntry {
            name: format!("{number:08}-{row:0119}"),
            class: proto::ActionClass::Read.into(),
            // Which nobody can read, and of the size there is room for.
            schema: vec![0xff; 64].into(),
        };
        let report = proto::AgentReport {
            fleet_id: self.hello.fleet_id.clone(),
            agent_id: Bytes::copy_from_slice(self.id.as_bytes()),
            server_nonce: self.hello.server_nonce.clone(),
            actions: (0..1024).map(action).collect(),
            bundle_version: 1,
            bundle_digest: self.hello.chain_digest.clone(),
            number,
            ..proto::AgentReport::default()
        };
        self.say(agent_frame::Frame::Report(sealed("agent-report", &report, &self.key)));
    }
}

async fn next(
    from_server: &mut Streaming<proto::ServerFrame>,
) -> Result<Option<server_frame::Frame>, Status> {
    Ok(from_server.message().await?.and_then(|message| message.frame))
}
