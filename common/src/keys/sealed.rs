//! Secrets at rest under a passphrase: the age format (v1, scrypt recipient).

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use age::secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// scrypt's N as a power of two: 128 MiB and about half a second. Fixed, because age would otherwise measure
/// this machine, and a stronger one could then make a file a weaker one refuses.
const WORK_FACTOR: u8 = 17;
/// What a file may ask of us at most: 1 GiB.
const MAX_WORK_FACTOR: u8 = 20;
/// A passphrase shorter than this is refused.
pub const MIN_PASSPHRASE_CHARS: usize = 12;

/// A passphrase of fewer different characters is refused.
pub const MIN_DISTINCT_CHARS: usize = 5;

/// Why sealing or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Too short to be worth a memory-hard hash.
    #[error(
        "the passphrase has {0} characters; use at least {MIN_PASSPHRASE_CHARS}, for example four random words"
    )]
    WeakPassphrase(usize),
    /// Long, and guessed at once.
    #[error(
        "the passphrase has {0} different characters; use at least {MIN_DISTINCT_CHARS}, for example four random words"
    )]
    Monotonous(usize),
    /// The passphrase is wrong, or the file was altered in its header.
    #[error("the passphrase does not open this file")]
    WrongPassphrase,
    /// Truncated, altered, or not an age file at all.
    #[error("the file is not a complete sealed file: {0}")]
    Damaged(String),
}

/// A passphrase that was long enough.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Takes a passphrase, without a trailing line break.
    ///
    /// # Errors
    /// When it is too short.
    pub fn new(text: &str) -> Result<Self, SealError> {
        let text = text.trim_end_matches(['\r', '\n']);
        let length = text.chars().count();
        if length < MIN_PASSPHRASE_CHARS {
            return Err(SealError::WeakPassphrase(length));
        }
        let distinct = text.chars().collect::<BTreeSet<_>>().len();
        if distinct < MIN_DISTINCT_CHARS {
            return Err(SealError::Monotonous(distinct));
        }
        Ok(Self(SecretString::from(text.to_owned())))
    }

    /// One that something is sealed with already, however weak: it opens that, or it does not.
    #[must_use]
    pub fn existing(text: &str) -> Self {
        Self(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// The text, for formats that are not age's.
    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(secret)")
    }
}

/// Seals bytes under a passphrase.
///
/// # Errors
/// Never in practice; the signature keeps a fault of the library from becoming a panic.
pub fn seal(plain: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>, SealError> {
    let damaged = |error: &dyn std::fmt::Display| SealError::Damaged(error.to_string());
    let mut recipient = age::scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(WORK_FACTOR);
    let recipients: [&dyn age::Recipient; 1] = [&recipient];
    let encryptor =
        age::Encryptor::with_recipients(recipients.into_iter()).map_err(|error| damaged(&error))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(|error| damaged(&error))?;
    writer.write_all(plain).map_err(|error| damaged(&error))?;
    writer.finish().map_err(|error| damaged(&error))?;
    Ok(sealed)
}

/// What every sealed file begins with (age-encryption.org/v1).
pub const SEALED: &[u8] = b"age-encryption.org/v1\n";

/// Opens sealed bytes wholly, or not at all.
///
/// # Errors
/// A wrong passphrase and a damaged file are told apart as far as the format can.
pub fn open(sealed: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let damaged = |error: &dyn std::fmt::Display| SealError::Damaged(error.to_string());
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    let decryptor = age::Decryptor::new(sealed).map_err(|error| damaged(&error))?;
    let identities: [&dyn age::Identity; 1] = [&identity];
    let mut reader = decryptor.decrypt(identities.into_iter()).map_err(|error| match error {
        age::DecryptError::DecryptionFailed
        | age::DecryptError::KeyDecryptionFailed
        | age::DecryptError::NoMatchingKeys => SealError::WrongPassphrase,
        other => damaged(&other),
    })?;
    let mut plain = Zeroizing::new(Vec::new());
    reader.read_to_end(&mut plain).map_err(|error| damaged(&error))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_passphrase_and_the_whole_file_open_it() {
        let right = Passphrase::new("correct horse battery staple\n").unwrap();
        let wrong = Passphrase::new("correct horse battery stable").unwrap();
        let sealed = seal(b"secret", &right).unwrap();
        assert_eq!(open(&sealed, &right).unwrap().as_slice(), b"secret");
        assert!(matches!(open(&sealed, &wrong), Err(SealError::WrongPassphrase)));
        assert!(matches!(open(&sealed[..sealed.len() - 1], &right), Err(SealError::Damaged(_))));
        assert!(matches!(Passphrase::new("short"), Err(SealError::WeakPassphrase(5))));
    }
}
