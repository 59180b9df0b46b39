//! One good vector of each kind, to be changed. Keys come from published seeds, so that the files are the
//! same wherever they are made.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use integration_tests::forge::{Forger, envelope, payload_type, sealed};
use prost::Message as _;
use writ_proto::v1::{self as proto, command::Action};
use writ_protocol::audience::AudienceTree;
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::keys::{Server, SigningCertificate};
use writ_protocol::time::Timestamp;

use super::{Case, DeliveryCase, JournalCase, Vector, agent};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const FLEET: [u8; 16] = [0xf1; 16];
pub(super) const ECHO: &str = "program = \"/bin/echo\"\narguments = [\"{word}\"]\nclass = \"change\"\n\
                    [parameters.word]\ntype = \"text\"\npattern = \"[a-z]+\"\n";

pub(super) fn key(number: u8) -> Forger {
    Forger::new([number; 32])
}

pub(super) fn authority() -> Forger {
    key(0x01)
}

pub(super) fn signing() -> Forger {
    key(0x02)
}

pub(super) fn stranger() -> Forger {
    key(0x66)
}

pub(super) fn role(keys: &[Forger], threshold: u32) -> proto::Role {
    proto::Role { keys: keys.iter().map(|key| key.public().spki().into()).collect(), threshold }
}

pub(super) fn entry(key: &Forger) -> proto::SigningEntry {
    let certificate = SigningCertificate::issue(&key.honest::<Server>(), "vectors", NOW - DAY).unwrap();
    proto::SigningEntry {
        certificate: certificate.der().to_vec().into(),
        sign_from_ms: (NOW - DAY).as_millis(),
        accept_until_ms: (NOW + DAY * 365).as_millis(),
        revoked: false,
        realms: vec!["default".to_owned()],
    }
}

pub(super) fn bundle() -> proto::TrustBundle {
    proto::TrustBundle {
        fleet_id: FLEET.to_vec().into(),
        version: 1,
        prev: Vec::new(),
        authority: Some(role(&[authority()], 1)),
        signing: vec![entry(&signing())],
        class_rules: Vec::new(),
        tls_cas: vec![Bytes::from_static(b"not looked at")],
        endpoints: vec!["localhost:7443".to_owned()],
        floor_reset_ms: 0,
        issued_at_ms: (NOW - DAY).as_millis(),
        fleet_name: "vectors".to_owned(),
    }
}

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A good release of the command beside it, to be spoilt.
pub(super) struct ReleaseDraft {
    pub(super) released: u32,
    pub(super) signer: Forger,
    pub(super) purpose: &'static str,
    /// What becomes of it before it is signed.
    pub(super) change: fn(&mut proto::Release),
    /// What becomes of the envelope after it is signed.
    pub(super) spoil: fn(&mut proto::Envelope),
}

impl Default for ReleaseDraft {
    fn default() -> Self {
        Self { released: 1, signer: signing(), purpose: "release", change: |_| {}, spoil: |_| {} }
    }
}

impl ReleaseDraft {
    fn seal(self, command: Digest) -> Bytes {
        let mut release = proto::Release {
            fleet_id: FLEET.to_vec().into(),
            command_digest: command.as_bytes().to_vec().into(),
            released: self.released,
            released_at_ms: NOW.as_millis(),
        };
        (self.change)(&mut release);
        let mut signed = envelope(&payload_type(self.purpose), &release.encode_to_vec(), &[&self.signer]);
        (self.spoil)(&mut signed);
        signed.encode_to_vec().into()
    }
}

/// A good delivery to agent 1 of 3, to be spoilt.
pub(super) struct Draft {
    pub(super) bundle: proto::TrustBundle,
    pub(super) command: proto::Command,
    pub(super) proof: Option<proto::AudienceProof>,
    pub(super) signer: Forger,
    pub(super) approvals: Vec<Bytes>,
    pub(super) release: Option<ReleaseDraft>,
    pub(super) journal: JournalCase,
    pub(super) realm: &'static str,
    /// What becomes of the payload before it is signed.
    pub(super) payload: fn(Vec<u8>) -> Vec<u8>,
    /// What becomes of the envelope after it is signed.
    pub(super) spoil: fn(&mut proto::Envelope),
    /// What becomes of its bytes.
    pub(super) bytes: fn(Vec<u8>) -> Vec<u8>,
    pub(super) payload_type: String,
}

pub(super) fn ids(count: u8) -> Vec<AgentId> {
    (1..=count).map(agent).collect()
}

pub(super) fn audience(count: u8, place: u32) -> (proto::Audience, proto::AudienceProof) {
    let tree = AudienceTree::build(&ids(count)).unwrap();
    let signed = tree.audience();
    let root = signed.root.as_bytes().to_vec().into();
    (proto::Audience { root, count: signed.count }, (&tree.proof(place).unwrap()).into())
}

impl Draft {
    pub(super) fn new() -> Self {
        let (audience, proof) = audience(3, 0);
        Self {
            bundle: bundle(),
            command: proto::Command {
                command_id: vec![0xc1; 16].into(),
                fleet_id: FLEET.to_vec().into(),
                audience: Some(audience),
                issued_at_ms: NOW.as_millis(),
                not_before_ms: NOW.as_millis(),
                expires_at_ms: (NOW + HOUR).as_millis(),
                requested_by: "ann".to_owned(),
                rollout: None,
                action: Some(Action::Ping(proto::Ping {})),
            },
            proof: Some(proof),
            signer: signing(),
            approvals: Vec::new(),
            release: None,
            journal: JournalCase {
                birth_ms: (NOW - DAY).as_millis(),
                max_entries: 64,
                ..JournalCase::default()
            },
            realm: "default",
            payload: |payload| payload,
            spoil: |_| {},
            bytes: |bytes| bytes,
            payload_type: payload_type("command"),
        }
    }

    pub(super) fn run(mut self, name: &str, parameters: &[(&str, &str)]) -> Self {
        let parameter =
            |(name, value): &(&str, &str)| proto::Parameter { name: (*name).into(), value: (*value).into() };
        let parameters = parameters.iter().map(parameter).collect();
        self.command.action = Some(Action::Run(proto::RunAction { name: name.to_owned(), parameters }));
        self
    }

    pub(super) fn payload_bytes(&self) -> Vec<u8> {
        (self.payload)(self.command.encode_to_vec())
    }

    pub(super) fn digest(&self) -> Digest {
        writ_protocol::envelope::digest(&self.payload_type, &self.payload_bytes())
    }

    pub(super) fn approve(mut self, operators: &[&Forger], digest: Digest) -> Self {
        for operator in operators {
            let approval = proto::Approval {
                fleet_id: FLEET.to_vec().into(),
                command_digest: digest.as_bytes().to_vec().into(),
                approved_by: "somebody".to_owned(),
                approved_at_ms: NOW.as_millis(),
            };
            self.approvals.push(sealed("approval", &approval, operator));
        }
        self
    }

    pub(super) fn case(self) -> Case {
        let (payload, digest) = (self.payload_bytes(), self.digest());
        let mut signed = envelope(&self.payload_type, &payload, &[&self.signer]);
        (self.spoil)(&mut signed);
        let delivery = proto::Delivery {
            envelope: (self.bytes)(signed.encode_to_vec()).into(),
            proof: self.proof,
            approvals: self.approvals,
            release: self.release.map(|release| release.seal(digest)).unwrap_or_default(),
        };
        Case::Delivery(Box::new(DeliveryCase {
            agent_id: agent(1).to_string(),
            realm: self.realm.to_owned(),
            now_ms: NOW.as_millis(),
            bundle: base64(&sealed("trust-bundle", &self.bundle, &authority())),
            journal: self.journal,
            actions: BTreeMap::from([("echo.toml".to_owned(), ECHO.to_owned())]),
            delivery: base64(&delivery.encode_to_vec()),
        }))
    }
}

pub(super) struct Made(pub(super) BTreeMap<String, Vector>);

impl Made {
    pub(super) fn add(&mut self, expect: &str, name: &str, clause: &str, says: &str, case: Case) {
        let folder = if matches!(expect, "accept" | "redelivery") {
            "accept".to_owned()
        } else {
            format!("refuse/{expect}")
        };
        let vector =
            Vector { says: says.to_owned(), clause: clause.to_owned(), expect: expect.to_owned(), case };
        let path = format!("{folder}/{name}.json");
        assert!(self.0.insert(path.clone(), vector).is_none(), "{path} is made twice");
    }

    /// A delivery: the good one after a change.
    pub(super) fn delivery(
        &mut self,
        expect: &str,
        name: &str,
        clause: &str,
        says: &str,
        change: impl FnOnce(&mut Draft),
    ) {
        let mut draft = Draft::new();
        change(&mut draft);
        self.add(expect, name, clause, says, draft.case());
    }
}
