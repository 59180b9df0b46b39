//! Secrets at rest under a key of this host, kept in a file of its own: a copy of the database alone has
//! none of them. The age format (v1, X25519 recipient).

use std::path::Path;
use std::str::FromStr as _;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// Why a secret cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key's file.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds no key.
    #[error(
        "{0} holds no age identity; put the one back that sealed the secrets, or remove it and set them anew"
    )]
    NotAKey(String),
    /// Sealed under another key, or altered.
    #[error(
        "a secret cannot be opened: the file of the key that sealed it was replaced; set the secret anew"
    )]
    NotOurs,
    /// The library's word.
    #[error("a secret cannot be sealed: {0}")]
    Seal(String),
}

/// A key that seals secrets.
pub struct Vault(Identity);

impl Vault {
    /// Reads the key, or makes one where there is none.
    ///
    /// # Errors
    /// When the file is exposed, damaged or cannot be written.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let text = match files::read_secret(path) {
            Ok(text) => text,
            Err(error) if error.is_missing() => {
                let identity = Identity::generate();
                files::write_secret(path, identity.to_string().expose_secret().as_bytes())?;
                return Ok(Self(identity));
            }
            Err(error) => return Err(error.into()),
        };
        let text = std::str::from_utf8(&text).unwrap_or_default().trim();
        Identity::from_str(text).map(Self).map_err(|_| VaultError::NotAKey(path.display().to_string()))
    }

    /// Whether a file's content is such a key.
    #[must_use]
    pub fn is_key(content: &[u8]) -> bool {
        std::str::from_utf8(content).is_ok_and(|text| Identity::from_str(text.trim()).is_ok())
    }

    /// Seals a secret into text.
    ///
    /// # Errors
    /// Never in practice.
    pub fn seal(&self, secret: &[u8]) -> Result<String, VaultError> {
        let sealed = age::encrypt(&self.0.to_public(), secret);
        Ok(STANDARD_NO_PAD.encode(sealed.map_err(|error| VaultError::Seal(error.to_string()))?))
    }

    /// Opens it.
    ///
    /// # Errors
    /// When another key sealed it, or it was altered.
    pub fn unseal(&self, sealed: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let bytes = STANDARD_NO_PAD.decode(sealed).map_err(|_| VaultError::NotOurs)?;
        age::decrypt(&self.0, &bytes).map(Zeroizing::new).map_err(|_| VaultError::NotOurs)
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_under_the_key_that_sealed_it_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(&folder.path().join("one.key")).unwrap();
        let sealed = vault.seal(b"s3cret").unwrap();
        assert!(!sealed.contains("s3cret"));
        let again = Vault::open(&folder.path().join("one.key")).unwrap();
        assert_eq!(again.unseal(&sealed).unwrap().as_slice(), b"s3cret");
        let other = Vault::open(&folder.path().join("two.key")).unwrap();
        assert!(matches!(other.unseal(&sealed), Err(VaultError::NotOurs)));
        std::fs::write(folder.path().join("one.key"), "no").unwrap();
        assert!(matches!(Vault::open(&folder.path().join("one.key")), Err(VaultError::NotAKey(_))));
    }
}
