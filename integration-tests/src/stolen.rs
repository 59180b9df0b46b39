//! What a thief of the server's disk can do, and what an authority can mint: orders and bundles of any shape.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use writ_common::keys::pem;
use writ_common::keys::sealed::{Passphrase, open};
use writ_common::time::{Clock as _, SystemClock};
use writ_proto::v1::{self as proto, command::Action};
use writ_protocol::audience::AudienceTree;
use writ_protocol::id::AgentId;
use writ_protocol::keys::{Authority, PrivateKey, Server, SigningCertificate};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use crate::fleet::Fleet;
use crate::forge::{Forger, sealed};

const HOUR: Duration = Duration::from_secs(3600);

/// The keys of a fleet.
#[derive(Debug)]
pub struct Stolen {
    /// The signing certificate's.
    pub signing: Forger,
    /// The authority's.
    pub authority: Forger,
    /// Bundle 1.
    pub bundle: proto::TrustBundle,
    /// Bundle 1 as it travels.
    pub envelope: Bytes,
}

/// Now, by this machine's clock.
#[must_use]
pub fn now() -> Timestamp {
    SystemClock::new().wall()
}

impl Stolen {
    /// Everything from the server's folder, and bundle 1 from an agent's.
    ///
    /// # Panics
    /// When the fleet is not made or the agent not enrolled.
    #[must_use]
    pub fn from(fleet: &Fleet, agent: &str) -> Self {
        Self::read(fleet, agent, &std::fs::read(fleet.signing_key()).unwrap())
    }

    /// The same with the one of several signing keys that has this id.
    ///
    /// # Panics
    /// When there is no such key.
    #[must_use]
    pub fn with_key(fleet: &Fleet, agent: &str, key: &str) -> Self {
        Self::read(fleet, agent, &std::fs::read(fleet.path(&format!("server/signing/{key}.key"))).unwrap())
    }

    /// The same with bundle 1 as somebody has it already.
    ///
    /// # Panics
    /// When the fleet is not made.
    #[must_use]
    pub fn from_bundle(fleet: &Fleet, envelope: Bytes) -> Self {
        Self::with(fleet, envelope, &std::fs::read(fleet.signing_key()).unwrap())
    }

    fn read(fleet: &Fleet, agent: &str, signing: &[u8]) -> Self {
        let chain = std::fs::read(fleet.path(&format!("{agent}/trust.chain"))).unwrap();
        Self::with(fleet, proto::Bundles::decode(chain.as_slice()).unwrap().bundles.remove(0), signing)
    }

    fn with(fleet: &Fleet, envelope: Bytes, signing: &[u8]) -> Self {
        let read = |path: &str| std::fs::read(fleet.path(path)).unwrap();
        let signing = PrivateKey::<Server>::from_pkcs8(&pem::private_key(signing).unwrap()).unwrap();
        let passphrase = Passphrase::new("correct horse battery staple").unwrap();
        let authority = open(&read("server/authority.key.age"), &passphrase).unwrap();
        let authority = PrivateKey::<Authority>::from_pkcs8(&pem::private_key(&authority).unwrap()).unwrap();
        let payload = proto::Envelope::decode(envelope.clone()).unwrap().payload;
        Self {
            signing: Forger::stolen(&signing),
            authority: Forger::stolen(&authority),
            bundle: proto::TrustBundle::decode(payload).unwrap(),
            envelope,
        }
    }

    /// An order for some agents, as an honest server would make it now.
    #[must_use]
    pub fn order(&self, agents: &[AgentId], action: Action) -> (proto::Command, AudienceTree) {
        let mut ids = agents.to_vec();
        ids.sort_unstable();
        let tree = AudienceTree::build(&ids).unwrap();
        let audience = tree.audience();
        let id = writ_protocol::id::CommandId::generate(now());
        let command = proto::Command {
            command_id: id.as_bytes().to_vec().into(),
            fleet_id: self.bundle.fleet_id.clone(),
            audience: Some(proto::Audience {
                root: audience.root.as_bytes().to_vec().into(),
                count: audience.count,
            }),
            issued_at_ms: now().as_millis(),
            not_before_ms: now().as_millis(),
            expires_at_ms: (now() + HOUR).as_millis(),
            requested_by: "thief".to_owned(),
            rollout: None,
            action: Some(action),
        };
        (command, tree)
    }

    /// A ping for one agent under a key, after a change.
    #[must_use]
    pub fn ping(
        &self,
        agent: AgentId,
        signer: &Forger,
        change: impl FnOnce(&mut proto::Command),
    ) -> proto::Delivery {
        let (mut command, tree) = self.order(&[agent], Action::Ping(proto::Ping {}));
        change(&mut command);
        delivery(sealed("command", &command, signer), &tree, 0)
    }

    /// A bundle that follows bundle 1, after a change, by the real authority.
    #[must_use]
    pub fn successor(&self, change: impl FnOnce(&mut proto::TrustBundle)) -> Bytes {
        let digest = Chain::digest_of(&self.envelope).unwrap();
        let mut bundle = proto::TrustBundle {
            version: self.bundle.version + 1,
            prev: vec![digest.as_bytes().to_vec().into()],
            ..self.bundle.clone()
        };
        change(&mut bundle);
        sealed("trust-bundle", &bundle, &self.authority)
    }

    /// An entry of a bundle for a key.
    #[must_use]
    pub fn entry(&self, key: &Forger) -> proto::SigningEntry {
        let certificate =
            SigningCertificate::issue(&key.honest::<Server>(), "another", now() - HOUR).unwrap();
        proto::SigningEntry {
            certificate: certificate.der().to_vec().into(),
            sign_from_ms: certificate.not_before().as_millis(),
            accept_until_ms: certificate.not_after().as_millis(),
            revoked: false,
            realms: vec!["default".to_owned()],
        }
    }
}

/// An order on its way to the agent at a place.
#[must_use]
pub fn delivery(envelope: Bytes, tree: &AudienceTree, place: u32) -> proto::Delivery {
    let proof = tree.proof(place).map(|proof| (&proof).into());
    proto::Delivery { envelope, proof, ..proto::Delivery::default() }
}
