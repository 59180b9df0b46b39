//! The fleet's keys on this server: made once by `init`, read at every start.

pub(crate) mod backup;
pub(crate) mod certificates;
pub(crate) mod channel;
pub(crate) mod create;
pub(crate) mod follow;
pub(crate) mod head_marker;
pub(crate) mod mismatch;
pub(crate) mod presence;
pub(crate) mod publisher;
pub(crate) mod restore;

use std::path::{Path, PathBuf};

use writ_common::files::{self, FileError};
use writ_common::keys::pem::{self, InvalidPem};
use writ_common::tls::TlsLeaf;
use writ_protocol::id::KeyId;
use writ_protocol::keys::private::InvalidPrivateKey;
use writ_protocol::keys::{PrivateKey, Server};

/// Where everything lies below the data directory.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    folder: PathBuf,
}

macro_rules! files {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        impl Files {
            $(
                $(#[$doc])*
                #[must_use]
                pub(crate) fn $name(&self) -> PathBuf {
                    self.folder.join($file)
                }
            )*
        }
    };
}

files! {
    /// The authority's key, sealed by a passphrase. Meant to be moved offline.
    authority = "authority.key.age";
    /// Keys of signing certificates, and the certificates for people; the bundle's copies are what counts.
    signing = "signing";
    /// The channel's authority.
    tls_ca_key = "tls-ca.key";
    /// What operators give to grpcurl and `writ context`.
    tls_ca = "admin-ca.pem";
    /// The channel's leaf.
    tls_key = "tls.key";
    /// The channel's leaf and its authority.
    tls_certificate = "tls.pem";
    /// The first administrator's bearer token.
    admin_token = "admin-token";
    /// The database.
    database = "writ.db";
    /// Sealed backups.
    backups = "backups";
    /// What has left the audit log.
    audit = "audit";
    /// Who this server is to its Control Manager.
    manager_entity_key = "manager-entity.key";
    /// What seals the passwords of the line to the Control Manager.
    manager_secrets_key = "manager-secrets.key";
    /// The newest bundle that was ever in force here.
    head_marker = "last-head";
}

impl Files {
    /// The files of a data directory.
    #[must_use]
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The data directory.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes the data directory for this process: two servers on one database would each miss half of what
    /// happens.
    ///
    /// # Errors
    /// When another server has it.
    pub(crate) fn lock(&self) -> Result<std::fs::File, FileError> {
        files::lock_folder(&self.folder)
    }
}

/// A key or certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// It cannot be read, or others can read it too.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not PEM.
    #[error("{}: {source}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: InvalidPem,
    },
    /// It is no key of ours.
    #[error("{}: {source}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: InvalidPrivateKey,
    },
}

impl KeyFileError {
    /// What to type. A restore replaces nothing: what is damaged is moved away first.
    #[must_use]
    pub(crate) fn cure(&self) -> String {
        let put_back = "writ-server cert restore FILE";
        let aside = |path: &Path| format!("mv {0} {0}.damaged, then: {put_back}", path.display());
        match self {
            Self::File(error) => match error {
                _ if error.is_missing() => put_back.to_owned(),
                FileError::Io { path, .. } => error.cure().unwrap_or_else(|| aside(path)),
                _ => error.cure().unwrap_or_default(),
            },
            // The error says how to convert it.
            Self::Pem { path, source: InvalidPem::Encrypted | InvalidPem::Pkcs12 } => {
                format!("convert {}, as said", path.display())
            }
            Self::Pem { path, .. } | Self::Key { path, .. } => aside(path),
        }
    }

    /// Whether its content is gone, by which no change of rights mends it.
    #[must_use]
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::File(error) => error.cure().is_none(),
            Self::Pem { .. } | Self::Key { .. } => true,
        }
    }

    /// Whether the file is simply not there.
    #[must_use]
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::File(error) if error.is_missing())
    }
}

impl Files {
    /// Where the key of a signing certificate lies.
    #[must_use]
    pub(crate) fn signing_key(&self, key: KeyId) -> PathBuf {
        self.signing().join(format!("{key}.key"))
    }

    /// Where the certificate lies beside it.
    #[must_use]
    pub(crate) fn signing_certificate(&self, key: KeyId) -> PathBuf {
        self.signing().join(format!("{key}.pem"))
    }
}

impl Files {
    /// Marks a signing key as one that neither leaves this server by an export nor goes into its backups.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub(crate) fn keep_here(&self, key: KeyId) -> Result<(), FileError> {
        files::write_public(&self.stays_here_mark(key), b"")
    }

    /// Whether it is one.
    #[must_use]
    pub(crate) fn stays_here(&self, key: KeyId) -> bool {
        self.stays_here_mark(key).exists()
    }

    fn stays_here_mark(&self, key: KeyId) -> PathBuf {
        self.signing().join(format!("{key}.not-exportable"))
    }
}

/// Reads every signing key, those no bundle lists too.
///
/// # Errors
/// When a file is exposed or no key.
pub(crate) fn read_signing_keys(files: &Files) -> Result<Vec<PrivateKey<Server>>, KeyFileError> {
    let mut keys = Vec::new();
    for path in files::list(&files.signing())? {
        if path.extension().is_some_and(|extension| extension == "key") {
            keys.push(read_signing_key(&path)?);
        }
    }
    Ok(keys)
}

fn read_signing_key(path: &Path) -> Result<PrivateKey<Server>, KeyFileError> {
    let text = files::read_secret(path)?;
    let der =
        pem::private_key(&text).map_err(|source| KeyFileError::Pem { path: path.to_owned(), source })?;
    PrivateKey::from_pkcs8(&der).map_err(|source| KeyFileError::Key { path: path.to_owned(), source })
}

/// Puts a leaf and its key in place. A crash between the two leaves a leaf beside another's key, which
/// [`channel::open`] mends.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write_tls_leaf(files: &Files, leaf: &TlsLeaf) -> Result<(), FileError> {
    let chain: String = leaf.chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
    files::write_secret(&files.tls_key(), pem::encode("PRIVATE KEY", &leaf.key).as_bytes())?;
    writ_common::checkpoint!("tls_key_renewed");
    files::write_public(&files.tls_certificate(), chain.as_bytes())
}

/// Reads the channel's leaf and key.
///
/// # Errors
/// When a file is missing, exposed or not PEM.
pub(crate) fn read_tls_leaf(files: &Files) -> Result<TlsLeaf, KeyFileError> {
    let path = files.tls_certificate();
    let chain =
        pem::certificates(&files::read(&path)?).map_err(|source| KeyFileError::Pem { path, source })?;
    let path = files.tls_key();
    let key =
        pem::private_key(&files::read_secret(&path)?).map_err(|source| KeyFileError::Pem { path, source })?;
    Ok(TlsLeaf { chain, key })
}
