//! Evidence: a command, the agents' answers and the chain of trust bundles in one file, checked without any
//! server.
//!
//! The file is JSON; each signed document in it is a DSSE envelope in the JSON form of the DSSE
//! specification, so that any DSSE library can verify it. What is vouched for by whom stands in
//! docs/evidence.md.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use writ_proto::v1 as proto;

use crate::audience::AudienceProof;
use crate::command::Command;
use crate::envelope::{
    Candidate, CommandPurpose, IdentityRecordPurpose, Purpose, ReceiptPurpose, ReleasePurpose, Verified,
    verify,
};
use crate::id::{AgentId, Digest, KeyId};
use crate::identity::IdentityRecord;
use crate::keys::PublicKey;
use crate::receipt::Receipt;
use crate::refusal::{Refusal, RefusalCode};
use crate::rollout::Release;
use crate::time::Timestamp;
use crate::trust::{Chain, SigningEntry};

const FORMAT: &str = "writ-evidence/1";

/// An envelope as the DSSE specification writes it in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dsse {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<DsseSignature>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DsseSignature {
    keyid: String,
    sig: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    command: Dsse,
    bundles: Vec<Dsse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<Dsse>,
    targets: Vec<FileTarget>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTarget {
    agent_id: String,
    proof: FileProof,
    identity_record: Dsse,
    receipt: Option<Dsse>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProof {
    index: u32,
    path: Vec<String>,
}

/// A file that is no evidence, or evidence that does not hold as a whole.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// Not our JSON.
    #[error("not a writ-evidence/1 file: {0}")]
    Format(String),
    /// None of its bundles is the pinned one.
    #[error(
        "no trust bundle in the file has the digest {0}; take the pin from the fleet's set-up, not from the file"
    )]
    NotPinned(Digest),
    /// A bundle does not follow.
    #[error("the chain of trust bundles does not hold: {0}")]
    Chain(Refusal),
    /// The command is not this fleet's, or not signed by it.
    #[error("the command does not hold: {0}")]
    Command(Refusal),
    /// One agent would count as several.
    #[error("agent {0} stands in it twice; the file was not made by a server: export it again")]
    Repeated(AgentId),
}

/// One target of the command.
#[derive(Debug, Clone)]
pub struct Target {
    /// The agent.
    pub agent: AgentId,
    /// Its place in the audience.
    pub proof: AudienceProof,
    /// Envelope of purpose `identity-record`.
    pub identity_record: Bytes,
    /// Envelope of purpose `receipt`, if one came.
    pub receipt: Option<Bytes>,
}

/// Everything somebody needs to check a command and its answers.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Envelope of purpose `command`.
    pub command: Bytes,
    /// Envelopes of purpose `trust-bundle`, ascending.
    pub bundles: Vec<Bytes>,
    /// Envelope of purpose `release`, the latest of a command that has a rollout.
    pub release: Option<Bytes>,
    /// One for each agent of the audience.
    pub targets: Vec<Target>,
}

/// Evidence that holds.
#[derive(Debug)]
pub struct Judged {
    /// The chain, from the pinned bundle on.
    pub chain: Chain,
    /// The command.
    pub command: Command,
    /// What receipts refer to.
    pub digest: Digest,
    /// The key that signed it.
    pub signer: KeyId,
    /// Whether the key was revoked later: then nothing proves that it signed before it leaked.
    pub is_signer_revoked: bool,
    /// Each target by itself.
    pub targets: Vec<(AgentId, Result<Answered, Refusal>)>,
}

/// What one target's documents say.
#[derive(Debug)]
pub struct Answered {
    /// The server's word that the key is the agent's.
    pub record: IdentityRecord,
    /// The agent's answer, if one came.
    pub receipt: Option<Receipt>,
    /// Whether the key under the record was revoked later: then nothing proves that the record is older.
    pub is_record_signer_revoked: bool,
}

impl Evidence {
    /// The file's text.
    ///
    /// # Panics
    /// Never: strings and numbers are always JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let target = |target: &Target| FileTarget {
            agent_id: target.agent.to_string(),
            proof: FileProof {
                index: target.proof.index,
                path: target.proof.path.iter().map(Digest::to_string).collect(),
            },
            identity_record: to_dsse(&target.identity_record),
            receipt: target.receipt.as_ref().map(|receipt| to_dsse(receipt)),
        };
        let file = File {
            format: FORMAT.to_owned(),
            command: to_dsse(&self.command),
            bundles: self.bundles.iter().map(|bundle| to_dsse(bundle)).collect(),
            release: self.release.as_ref().map(|release| to_dsse(release)),
            targets: self.targets.iter().map(target).collect(),
        };
        serde_json::to_string_pretty(&file).expect("strings and numbers are always JSON")
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is not one of ours; nothing of it is believed yet.
    pub fn from_json(text: &[u8]) -> Result<Self, EvidenceError> {
        let wrong = |error: &dyn std::fmt::Display| EvidenceError::Format(error.to_string());
        let file: File = serde_json::from_slice(text).map_err(|error| wrong(&error))?;
        if file.format != FORMAT {
            return Err(EvidenceError::Format(format!("it says `{}`", file.format)));
        }
        let target = |target: FileTarget| {
            let path = target.proof.path.iter().map(|hash| hash.parse()).collect::<Result<_, _>>();
            Ok(Target {
                agent: target.agent_id.parse().map_err(|error| wrong(&error))?,
                proof: AudienceProof {
                    index: target.proof.index,
                    path: path.map_err(|error: crate::id::InvalidId| wrong(&error))?,
                },
                identity_record: from_dsse(target.identity_record)?,
                receipt: target.receipt.map(from_dsse).transpose()?,
            })
        };
        Ok(Self {
            command: from_dsse(file.command)?,
            bundles: file.bundles.into_iter().map(from_dsse).collect::<Result<_, _>>()?,
            release: file.release.map(from_dsse).transpose()?,
            targets: file.targets.into_iter().map(target).collect::<Result<_, EvidenceError>>()?,
        })
    }

    /// Checks everything against one bundle whose digest is known from elsewhere.
    ///
    /// # Errors
    /// When the chain or the command does not hold. Targets are judged one by one.
    pub fn verify(&self, pin: Digest) -> Result<Judged, EvidenceError> {
        let place = self.bundles.iter().position(|bundle| Chain::digest_of(bundle) == Some(pin));
        let mut bundles = self.bundles.iter().skip(place.ok_or(EvidenceError::NotPinned(pin))?).cloned();
        let pinned = bundles.next().ok_or(EvidenceError::NotPinned(pin))?;
        let mut chain = Chain::pinned(pinned, pin).map_err(EvidenceError::Chain)?;
        for bundle in bundles {
            chain.extend(bundle).map_err(EvidenceError::Chain)?;
        }
        let ledger = Ledger::of(&chain);
        let verified = ledger.verify::<CommandPurpose>(&self.command, |command| command.window.issued_at);
        let (verified, signers) = verified.map_err(EvidenceError::Command)?;
        let digest = verified.digest();
        let command = verified.into_document();
        if command.fleet != chain.head().bundle.fleet {
            let refusal =
                Refusal::new(RefusalCode::WrongFleet, format!("command of fleet {}", command.fleet));
            return Err(EvidenceError::Command(refusal));
        }
        let released = self.released(&ledger, &command, digest).map_err(EvidenceError::Command)?;
        // Each has one place in the audience, so there are no more of them than it counts.
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.targets.iter().find(|target| !seen.insert(target.agent)) {
            return Err(EvidenceError::Repeated(twice.agent));
        }
        let targets = self
            .targets
            .iter()
            .map(|target| (target.agent, evaluate(target, &ledger, (&command, digest, &signers), released)))
            .collect();
        let is_signer_revoked = signers.iter().all(|key| ledger.is_revoked(*key));
        let signer = signers[0];
        Ok(Judged { chain, command, digest, signer, is_signer_revoked, targets })
    }

    /// How many agents of the audience were ever let obey.
    fn released(&self, ledger: &Ledger, command: &Command, digest: Digest) -> Result<u32, Refusal> {
        if command.rollout.is_none() {
            return Ok(command.audience.count);
        }
        let Some(release) = &self.release else { return Ok(0) };
        let (verified, _) = ledger.verify::<ReleasePurpose>(release, |release| release.released_at)?;
        let Release { fleet, command_digest, released, .. } = verified.into_document();
        if fleet != command.fleet || command_digest != digest {
            return Err(Refusal::new(RefusalCode::NotReleased, "the release is of another command"));
        }
        Ok(released)
    }
}

fn evaluate(
    target: &Target,
    ledger: &Ledger,
    (command, digest, signers): (&Command, Digest, &[KeyId]),
    released: u32,
) -> Result<Answered, Refusal> {
    let wrong = |what: &'static str| Refusal::new(RefusalCode::WrongAgent, what);
    command.audience.check(target.agent, &target.proof)?;
    let (record, record_signers) =
        ledger.verify::<IdentityRecordPurpose>(&target.identity_record, |record| record.recorded_at)?;
    let record = record.into_document();
    if record.agent != target.agent || record.fleet != command.fleet {
        return Err(wrong("the identity record is about another agent"));
    }
    let is_of_realm = |entry: &SigningEntry| entry.realms.contains(&record.realm);
    if !signers.iter().any(|key| ledger.counted(*key, command.window.issued_at, is_of_realm)) {
        let detail = format!("no trust bundle let the command's key sign for realm {}", record.realm);
        return Err(Refusal::new(RefusalCode::WrongRealm, detail));
    }
    let is_record_signer_revoked = record_signers.iter().all(|key| ledger.is_revoked(*key));
    let Some(receipt) = &target.receipt else {
        return Ok(Answered { record, receipt: None, is_record_signer_revoked });
    };
    let receipt = verify::<ReceiptPurpose>(receipt, &[Candidate::accepted(&record.public_key)], 1)?;
    let receipt = receipt.into_document();
    if receipt.agent != target.agent || receipt.fleet != command.fleet {
        return Err(wrong("the receipt is another agent's"));
    }
    if receipt.command != command.id || receipt.command_digest != digest {
        return Err(wrong("the receipt answers another command"));
    }
    if target.proof.index >= released {
        let detail = "the agent answered, and no release in the file reaches it";
        return Err(Refusal::new(RefusalCode::NotReleased, detail));
    }
    Ok(Answered { record, receipt: Some(receipt), is_record_signer_revoked })
}

/// Every signing key the chain ever listed, with what each bundle said of it.
#[derive(Debug)]
pub struct Ledger {
    entries: BTreeMap<KeyId, Vec<SigningEntry>>,
}

impl Ledger {
    /// That of a chain.
    #[must_use]
    pub fn of(chain: &Chain) -> Self {
        let mut entries = BTreeMap::<_, Vec<_>>::new();
        for entry in chain.links().iter().flat_map(|link| &link.bundle.signing) {
            entries.entry(entry.certificate.key().id()).or_default().push(entry.clone());
        }
        Self { entries }
    }

    /// A document of the server's, and those of its signers that counted at the time the document says: at
    /// least one.
    ///
    /// # Errors
    /// When no listed key signed it, or none that counted then.
    pub fn verify<P: Purpose>(
        &self,
        envelope: &[u8],
        time_of: impl Fn(&P::Document) -> Timestamp,
    ) -> Result<(Verified<P>, Vec<KeyId>), Refusal> {
        let keys: Vec<PublicKey> =
            self.entries.values().filter_map(|said| Some(said.first()?.certificate.key().clone())).collect();
        let candidates: Vec<_> = keys.iter().map(Candidate::accepted).collect();
        let verified = verify::<P>(envelope, &candidates, 1)?;
        let at = time_of(verified.document());
        let signers = verified.signers().iter().copied();
        let counted: Vec<_> = signers.filter(|key| self.counted(*key, at, |_| true)).collect();
        if counted.is_empty() {
            let detail = format!("no trust bundle let its key sign at {at}");
            return Err(Refusal::new(RefusalCode::CertificateExpired, detail));
        }
        Ok((verified, counted))
    }

    /// Whether some bundle let a key sign at a time, and says this of it too.
    pub fn counted(&self, key: KeyId, at: Timestamp, also: impl Fn(&SigningEntry) -> bool) -> bool {
        let said = self.entries.get(&key).map_or(&[][..], Vec::as_slice);
        said.iter().any(|entry| entry.sign_from <= at && at < entry.accept_until && also(entry))
    }

    /// Whether any bundle says that the key leaked.
    #[must_use]
    pub fn is_revoked(&self, key: KeyId) -> bool {
        self.entries.get(&key).is_some_and(|said| said.iter().any(|entry| entry.revoked))
    }
}

/// Envelopes come from a store or a stream of ours, where they were verified; one that is not readable stays
/// visible as an empty one, which nothing verifies.
fn to_dsse(envelope: &[u8]) -> Dsse {
    let proto::Envelope { payload, payload_type, signatures } =
        proto::Envelope::decode(envelope).unwrap_or_default();
    let signatures = signatures
        .into_iter()
        .map(|proto::Signature { sig, keyid }| DsseSignature { keyid, sig: STANDARD.encode(sig) })
        .collect();
    Dsse { payload: STANDARD.encode(payload), payload_type, signatures }
}

fn from_dsse(dsse: Dsse) -> Result<Bytes, EvidenceError> {
    let decode = |text: &str| {
        STANDARD.decode(text).map(Bytes::from).map_err(|error| EvidenceError::Format(error.to_string()))
    };
    let signatures = dsse
        .signatures
        .iter()
        .map(|DsseSignature { keyid, sig }| Ok(proto::Signature { sig: decode(sig)?, keyid: keyid.clone() }));
    let envelope = proto::Envelope {
        payload: decode(&dsse.payload)?,
        payload_type: dsse.payload_type.clone(),
        signatures: signatures.collect::<Result<_, EvidenceError>>()?,
    };
    Ok(envelope.encode_to_vec().into())
}
