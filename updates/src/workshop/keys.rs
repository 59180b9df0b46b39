//! The keys of a repository: one for each role.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::signature::Ed25519KeyPair;
use serde::{Deserialize, Serialize};
use tough::async_trait;
use tough::key_source::KeySource;
use tough::schema::RoleType;
use tough::schema::key::Key;
use tough::sign::{Sign, parse_keypair};
use writ_common::files;
use writ_common::keys::pem;
use writ_common::keys::sealed::{self, Passphrase};
use zeroize::Zeroizing;

use super::{Workshop, WorkshopError};

/// What a key of a repository is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Says which keys count.
    Root,
    /// Says which components there are.
    Targets,
    /// Says which metadata belongs together.
    Snapshot,
    /// Says which is the newest.
    Timestamp,
}

/// Not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: root, targets, snapshot or timestamp")]
pub struct NoSuchRole(String);

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp];

    /// Its name in metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }

    pub(super) const fn tuf(self) -> RoleType {
        match self {
            Self::Root => RoleType::Root,
            Self::Targets => RoleType::Targets,
            Self::Snapshot => RoleType::Snapshot,
            Self::Timestamp => RoleType::Timestamp,
        }
    }
}

impl FromStr for Role {
    type Err = NoSuchRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| NoSuchRole(writ_common::text::quoted(text)))
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key that was read, PKCS#8.
pub(super) struct SecretKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

impl SecretKey {
    pub(super) fn public(&self) -> Result<Key, String> {
        Ok(parse_keypair(&self.0).map_err(|error| error.to_string())?.tuf_key())
    }
}

#[async_trait]
impl KeySource for SecretKey {
    async fn as_sign(&self) -> Result<Box<dyn Sign>, Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(Box::new(parse_keypair(&self.0)?))
    }

    async fn write(
        &self,
        _: &str,
        _: &str,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Err("keys are written by the workshop".into())
    }
}

impl Workshop {
    fn key_file(&self, role: Role) -> PathBuf {
        self.keys.join(format!("{role}.key"))
    }

    /// Where a key waits until the root that names it is published.
    fn next_key_file(&self, role: Role) -> PathBuf {
        self.keys.join(format!("{role}.key.next"))
    }

    /// Makes a key in its place. That of the root is sealed.
    pub(super) fn new_key(&self, role: Role, passphrase: Option<&Passphrase>) -> Result<(), WorkshopError> {
        write_new(role, &self.key_file(role), passphrase)
    }

    /// Makes a key that waits.
    pub(super) fn next_key(
        &self,
        role: Role,
        passphrase: Option<&Passphrase>,
    ) -> Result<SecretKey, WorkshopError> {
        let path = self.next_key_file(role);
        write_new(role, &path, passphrase)?;
        read(role, &path, passphrase)
    }

    pub(super) fn key(
        &self,
        role: Role,
        passphrase: Option<&Passphrase>,
    ) -> Result<SecretKey, WorkshopError> {
        read(role, &self.key_file(role), passphrase)
    }

    /// The key that waits takes its place.
    pub(super) fn take_next(&self, role: Role) -> Result<(), WorkshopError> {
        let next = self.next_key_file(role);
        if next.exists() {
            files::rename(&next, &self.key_file(role))?;
        }
        Ok(())
    }

    /// The key that waits is of no use any more.
    pub(super) fn drop_next(&self, role: Role) -> Result<(), WorkshopError> {
        let next = self.next_key_file(role);
        match fs::remove_file(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(WorkshopError::io(&next)),
        }
    }
}

fn write_new(role: Role, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), WorkshopError> {
    let bad = |why: String| WorkshopError::Key { path: path.to_owned(), why };
    let pair = Ed25519KeyPair::generate().map_err(|_| bad("no randomness".to_owned()))?;
    let pkcs8 = pair.to_pkcs8v1().map_err(|_| bad("it cannot be written".to_owned()))?;
    let text = pem::encode("PRIVATE KEY", pkcs8.as_ref());
    match (role, passphrase) {
        (Role::Root, Some(passphrase)) => {
            let failed = |source| WorkshopError::Sealed { path: path.to_owned(), source };
            let sealed = sealed::seal(text.as_bytes(), passphrase).map_err(failed)?;
            files::write_secret(path, &sealed)?;
        }
        (Role::Root, None) => return Err(bad("the key of the root is sealed, by a passphrase".to_owned())),
        _ => files::write_secret(path, text.as_bytes())?,
    }
    Ok(())
}

fn read(role: Role, path: &Path, passphrase: Option<&Passphrase>) -> Result<SecretKey, WorkshopError> {
    let bad = |why: String| WorkshopError::Key { path: path.to_owned(), why };
    let held = files::read_secret(path)?;
    let text = match (role, passphrase) {
        (Role::Root, Some(passphrase)) => sealed::open(&held, passphrase)
            .map_err(|source| WorkshopError::Sealed { path: path.to_owned(), source })?,
        (Role::Root, None) => return Err(bad("it is sealed, by a passphrase".to_owned())),
        _ => held,
    };
    let key = SecretKey(pem::private_key(&text).map_err(|error| bad(error.to_string()))?);
    key.public().map_err(bad)?;
    Ok(key)
}
