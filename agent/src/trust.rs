//! Whom the agent obeys: its chain of trust bundles, on disk and in memory.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use prost::Message as _;
use tracing::{info, warn};
use writ_common::files::{self, FileError};
use writ_proto::v1 as proto;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::trust::Chain;

use crate::identity::Files;

/// Why the agent does not know whom to obey.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Neither the file nor its copy holds a chain.
    #[error(
        "trust lost: {file}, and {copy}; this agent obeys nobody. Put either file back from a backup of this host, or remove its data directory and enrol it again"
    )]
    Lost {
        /// What is wrong with the file.
        file: String,
        /// What is wrong with the copy.
        copy: String,
    },
    /// A missing copy cannot be made.
    #[error(transparent)]
    Write(#[from] FileError),
}

/// The chain; clones share it.
#[derive(Debug, Clone)]
pub struct Trust {
    files: Files,
    chain: Arc<RwLock<Arc<Chain>>>,
}

impl Trust {
    /// Reads the chain, or its last good copy. Two damaged files are "trust lost", never a reason to believe
    /// the first key seen.
    ///
    /// # Errors
    /// When neither holds a whole chain.
    pub fn load(files: &Files) -> Result<Self, TrustError> {
        let chain = match read(&files.trust()) {
            Ok(chain) => {
                if read(&files.trust_copy()).is_err() {
                    Self::keep(files, &chain)?;
                }
                chain
            }
            Err(file) => {
                let chain = read(&files.trust_copy())
                    .map_err(|copy| TrustError::Lost { file: file.clone(), copy })?;
                warn!(
                    error = file,
                    bundle.version = chain.head().bundle.version,
                    "the trust chain is damaged; its last good copy counts"
                );
                chain
            }
        };
        Ok(Self { files: files.clone(), chain: Arc::new(RwLock::new(Arc::new(chain))) })
    }

    /// Keeps a chain that was verified from a pinned bundle, twice: whatever happens to one file, the other
    /// is whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(files: &Files, chain: &Chain) -> Result<(), FileError> {
        let bundles = chain.links().iter().map(|link| link.envelope.clone()).collect();
        let encoded = proto::Bundles { bundles }.encode_to_vec();
        writ_common::checkpoint!("trust_accepted");
        files::write_public(&files.trust(), &encoded)?;
        writ_common::checkpoint!("trust_written");
        files::write_public(&files.trust_copy(), &encoded)
    }

    /// Where it lies.
    #[must_use]
    pub const fn files(&self) -> &Files {
        &self.files
    }

    /// The chain as it stands.
    #[must_use]
    pub fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.chain.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Walks on along these bundles as far as they lead; bundles already held are passed over. Nothing is
    /// kept yet.
    #[must_use]
    pub fn walk(&self, bundles: Vec<Bytes>) -> Walked {
        let mut walked = Walked { chain: Chain::clone(&self.chain()), added: 0, refused: None };
        for bundle in bundles {
            let is_held = Chain::digest_of(&bundle).is_some_and(|digest| walked.chain.contains(digest));
            if is_held {
                continue;
            }
            match walked.chain.extend(bundle) {
                Ok(_) => {
                    walked.added += 1;
                    walked.refused = None;
                }
                // Of another fork, perhaps; a later one may join them again.
                Err(refusal) if refusal.code == RefusalCode::BundleWrongPrev => {
                    walked.refused = Some(refusal)
                }
                Err(refusal) => {
                    walked.refused = Some(refusal);
                    break;
                }
            }
        }
        walked
    }

    /// Makes a walked chain the one that counts, on disk before in memory.
    ///
    /// # Errors
    /// When it cannot be written; then the old chain counts.
    pub fn adopt(&self, chain: Chain) -> Result<(), FileError> {
        Self::keep(&self.files, &chain)?;
        let before = self.chain().head().bundle.version;
        for link in chain.after(before) {
            info!(bundle.version = link.bundle.version, bundle.digest = %link.digest, "trust bundle accepted");
        }
        *self.chain.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(chain);
        Ok(())
    }
}

/// What a file of bundles holds, or what is wrong with it.
///
/// # Errors
/// In words, the path first.
pub(crate) fn read(path: &Path) -> Result<Chain, String> {
    let damaged = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let stored = files::read(path).map_err(|error| error.to_string())?;
    let bundles = proto::Bundles::decode(stored.as_slice()).map_err(|error| damaged(&error))?.bundles;
    Chain::stored(bundles).map_err(|refusal| damaged(&refusal))
}

/// How far some bundles lead.
#[derive(Debug)]
pub struct Walked {
    /// The chain with the bundles that follow.
    pub chain: Chain,
    /// How many they are.
    pub added: usize,
    /// Why the next one does not.
    pub refused: Option<Refusal>,
}
