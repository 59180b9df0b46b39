//! Who the agent is: a key made here that never leaves, and the server's signed word about it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use writ_common::files::{self, FileError};
use writ_common::keys::pem::{self, InvalidPem};
use writ_proto::v1 as proto;
use writ_protocol::identity::IdentityRecord;
use writ_protocol::keys::private::InvalidPrivateKey;
use writ_protocol::keys::{Agent, Algorithm, PrivateKey};

/// Files of an agent's state.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// The files below a data directory.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The data directory.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The identity key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.folder.join("identity.key")
    }

    /// The identity record; its presence means "enrolled".
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.folder.join("identity.dsse")
    }

    /// The chain of trust bundles.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.folder.join("trust.chain")
    }

    /// The same chain once more, for when that file is damaged.
    #[must_use]
    pub fn trust_copy(&self) -> PathBuf {
        self.folder.join("trust.chain.last-good")
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal.redb")
    }

    /// Where the running agent is asked about its journal.
    #[must_use]
    pub fn questions(&self) -> PathBuf {
        self.folder.join("questions.sock")
    }

    /// Settings that came by a signed command.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.folder.join("settings")
    }

    /// Components that came by a signed command.
    #[must_use]
    pub fn components(&self) -> PathBuf {
        self.folder.join("components")
    }

    /// How the link stands, for `status`.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.folder.join("status.json")
    }
}

/// Why the agent does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no record.
    #[error("{}: this agent is not enrolled; run, with the same --config and --data-dir: writ-agent enroll --token-file FILE", .0.display())]
    NotEnrolled(PathBuf),
    /// A file cannot be read, or others can read it too.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key file holds no PEM key.
    #[error("{}: {source}; the identity is lost; remove the whole data directory and enrol again with a new token", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: InvalidPem,
    },
    /// The key file holds another kind of key.
    #[error("{}: {source}; the identity is lost; remove the whole data directory and enrol again with a new token", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: InvalidPrivateKey,
    },
    /// The record is damaged.
    #[error("{}: not an identity record; remove the whole data directory and enrol again with a new token", .0.display())]
    Record(PathBuf),
    /// The record is about another key.
    #[error("{}: the record names another key than {}; both belong together", record.display(), key.display())]
    Mismatch {
        /// The record's file.
        record: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// An enrolled agent.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What the server said.
    pub record: IdentityRecord,
    /// As it was signed.
    pub envelope: Bytes,
    /// The key.
    pub key: PrivateKey<Agent>,
}

impl Identity {
    /// Reads key and record.
    ///
    /// # Errors
    /// When either is missing, damaged or exposed.
    pub fn load(files: &Files) -> Result<Self, IdentityError> {
        let path = files.record();
        let envelope = match files::read(&path) {
            Err(error) if error.is_missing() => return Err(IdentityError::NotEnrolled(path)),
            read => read?,
        };
        let record = record_in(&envelope).ok_or_else(|| IdentityError::Record(path.clone()))?;
        let key = read_key(files)?;
        if key.public() != &record.public_key {
            return Err(IdentityError::Mismatch { record: path, key: files.key() });
        }
        Ok(Self { record, envelope: envelope.into(), key })
    }

    /// Keeps a verified record: from now on the agent is enrolled.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_record(files: &Files, envelope: &Bytes) -> Result<(), FileError> {
        files::write_public(&files.record(), envelope)
    }
}

/// The identity key, made at the first call and kept before anybody hears of it, so that an enrolment that
/// was interrupted goes on with the same key; and whether it was made now.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn key_or_new(
    files: &Files,
    algorithm: Algorithm,
) -> Result<(PrivateKey<Agent>, bool), IdentityError> {
    match read_key(files) {
        Err(IdentityError::File(error)) if error.is_missing() => {
            let key = PrivateKey::generate(algorithm);
            files::write_secret(&files.key(), pem::encode("PRIVATE KEY", &key.to_pkcs8()).as_bytes())?;
            Ok((key, true))
        }
        read => read.map(|key| (key, false)),
    }
}

/// The record in an envelope, which was verified when it was received: this disk is the agent's own.
pub(crate) fn record_in(envelope: &[u8]) -> Option<IdentityRecord> {
    let envelope = proto::Envelope::decode(envelope).ok()?;
    IdentityRecord::try_from(proto::IdentityRecord::decode(envelope.payload).ok()?).ok()
}

fn read_key(files: &Files) -> Result<PrivateKey<Agent>, IdentityError> {
    let path = files.key();
    let text = files::read_secret(&path)?;
    let der = pem::private_key(&text).map_err(|source| IdentityError::Pem { path: path.clone(), source })?;
    PrivateKey::from_pkcs8(&der).map_err(|source| IdentityError::Key { path, source })
}
