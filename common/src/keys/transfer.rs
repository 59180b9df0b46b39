//! One certificate with its key, as other programs read and write it: PEM, or PKCS#12 (RFC 7292).

use p12_keystore::error::Error as P12Error;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKeyChain};
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5;
use pkcs8::pkcs5::pbes2::Kdf;
use zeroize::Zeroizing;

use super::pem::{self, InvalidPem, Item};
use super::sealed::Passphrase;
use writ_protocol::keys::der::algorithm;
use writ_protocol::keys::{PrivateKey, Server, SigningCertificate};

/// A certificate and its key.
#[derive(Debug)]
pub struct Pair {
    /// The key.
    pub key: PrivateKey<Server>,
    /// The certificate.
    pub certificate: SigningCertificate,
}

/// Why a file holds no certificate with its key.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPair {
    /// The PEM is not usable.
    #[error(transparent)]
    Pem(#[from] InvalidPem),
    /// The passphrase is another one.
    #[error("the passphrase does not open it")]
    WrongPassphrase,
    /// A key sealed as before PKCS#8.
    #[error(
        "its key is encrypted in a form older than PKCS#8; decrypt it, and put its certificate behind it: openssl pkey -in FILE -out PLAIN && openssl x509 -in FILE >> PLAIN"
    )]
    OldEncryption,
    /// A passphrase is needed.
    #[error("a passphrase opens it: name a file that holds it with --file-passphrase-file")]
    NeedsPassphrase,
    /// A PKCS#12 file that is cut short or altered.
    #[error("it is not a whole PKCS#12 file")]
    Damaged,
    /// Sealed by something that is not known here.
    #[error(
        "it is encrypted in a way that is not supported ({0}); write it again: openssl pkey -in FILE -out PLAIN, and beside it the certificate; or openssl pkcs12 -in FILE -nodes -out PLAIN"
    )]
    Unsupported(String),
    /// No private key.
    #[error(
        "there is no private key in it; write the key and its certificate into one file: cat KEY CERTIFICATE > NEW"
    )]
    NoKey,
    /// More than one.
    #[error("there are {0} private keys in it; export the one that is meant alone")]
    SeveralKeys(usize),
    /// A key of another algorithm.
    #[error(
        "it holds {0}; Writ signs with Ed25519 or P-256: import such a key, or let Writ make one: writ-server cert create"
    )]
    Algorithm(&'static str),
    /// No certificate of that key.
    #[error(
        "there is no certificate of its key in it; write the key and its certificate into one file: cat KEY CERTIFICATE > NEW"
    )]
    NoCertificate,
}

/// Reads a certificate with its key.
///
/// # Errors
/// What the file is instead.
pub fn read(content: &[u8], passphrase: Option<&str>) -> Result<Pair, InvalidPair> {
    let (mut keys, mut certificates) = (Vec::new(), Vec::new());
    let items = pem::items(content).map_err(|error| match error {
        InvalidPem::Encrypted => InvalidPair::OldEncryption,
        other => other.into(),
    })?;
    for item in items {
        match item {
            Item::Certificate(der) => certificates.push(der),
            Item::Key(der) => keys.push(der),
            Item::EncryptedKey(der) => keys.push(decrypt(&der, passphrase)?),
            Item::Pkcs12 => {
                let (found, named) = read_pkcs12(content, passphrase)?;
                keys.extend(found);
                certificates.extend(named);
            }
            Item::PublicKey(_) | Item::Other(_) => {}
        }
    }
    if keys.is_empty() {
        return Err(InvalidPair::NoKey);
    }
    let certificates: Vec<_> =
        certificates.iter().filter_map(|der| SigningCertificate::from_der(der).ok()).collect();
    let mut pairs = Vec::new();
    let mut unusable = None;
    for der in &keys {
        let Ok(key) = PrivateKey::<Server>::from_pkcs8(der) else {
            unusable = unusable.or_else(|| Some(algorithm(der)));
            continue;
        };
        if let Some(certificate) = certificates.iter().find(|certificate| certificate.key() == key.public()) {
            pairs.push(Pair { key, certificate: certificate.clone() });
        }
    }
    match (pairs.len(), unusable) {
        // Of several keys the one whose certificate is there is meant.
        (1, _) => Ok(pairs.remove(0)),
        (0, Some(what)) => Err(InvalidPair::Algorithm(what)),
        (0, None) => Err(InvalidPair::NoCertificate),
        (several, _) => Err(InvalidPair::SeveralKeys(several)),
    }
}

/// PKCS#8 under a passphrase (RFC 8018).
fn decrypt(der: &[u8], passphrase: Option<&str>) -> Result<Zeroizing<Vec<u8>>, InvalidPair> {
    let passphrase = passphrase.ok_or(InvalidPair::NeedsPassphrase)?;
    let unsupported = |error: &dyn std::fmt::Display| InvalidPair::Unsupported(error.to_string());
    let sealed = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|error| unsupported(&error))?;
    if let Some(parameters) = sealed.encryption_algorithm.pbes2() {
        // Before it is begun: the maker of the file decides what it costs.
        let is_bounded = match &parameters.kdf {
            Kdf::Pbkdf2(kdf) => kdf.iteration_count <= MAX_ITERATIONS,
            Kdf::Scrypt(kdf) => {
                let memory = kdf.cost_parameter.saturating_mul(u64::from(kdf.block_size)).saturating_mul(128);
                memory <= MAX_MEMORY && kdf.parallelization <= 16
            }
            _ => false,
        };
        if !is_bounded {
            return Err(InvalidPair::Unsupported(
                "it costs more than a thousand times the usual to open".to_owned(),
            ));
        }
    }
    match sealed.decrypt(passphrase) {
        Ok(key) => Ok(Zeroizing::new(key.as_bytes().to_vec())),
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | pkcs8::Error::Asn1(_)) => {
            Err(InvalidPair::WrongPassphrase)
        }
        Err(error) => Err(unsupported(&error)),
    }
}

/// Rounds of PBKDF2; OpenSSL takes 2,048 unless told otherwise.
const MAX_ITERATIONS: u32 = 10_000_000;
/// Bytes for scrypt.
const MAX_MEMORY: u64 = 1 << 30;

/// Private keys and certificates, DER.
type Bags = (Vec<Zeroizing<Vec<u8>>>, Vec<Vec<u8>>);

fn read_pkcs12(content: &[u8], passphrase: Option<&str>) -> Result<Bags, InvalidPair> {
    let passphrase = passphrase.ok_or(InvalidPair::NeedsPassphrase)?;
    let archive = Pkcs12Archive::from_pkcs12(content, passphrase).map_err(|error| match error {
        P12Error::MacError(_) | P12Error::UnpadError => InvalidPair::WrongPassphrase,
        P12Error::Pkcs5Error(why) if why.contains("unsupported") => InvalidPair::Unsupported(why),
        P12Error::Pkcs5Error(_) => InvalidPair::WrongPassphrase,
        P12Error::UnsupportedEncryptionScheme | P12Error::UnsupportedMacAlgorithm => {
            InvalidPair::Unsupported(error.to_string())
        }
        P12Error::InvalidPrivateKey => InvalidPair::Algorithm("a private key of an unknown kind"),
        _ => InvalidPair::Damaged,
    })?;
    let keys = archive.keys.iter().map(|bag| Zeroizing::new(bag.key.as_der().to_vec())).collect();
    Ok((keys, archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect()))
}

/// Writes a certificate with its key as PKCS#12 under a passphrase.
///
/// # Errors
/// When the library refuses one of them.
pub fn write_pkcs12(
    pair: &Pair,
    name: &str,
    passphrase: &Passphrase,
) -> Result<Zeroizing<Vec<u8>>, InvalidPair> {
    let key = p12_keystore::PrivateKey::from_der(&pair.key.to_pkcs8())
        .map_err(|_| InvalidPair::Algorithm("a key PKCS#12 does not take"))?;
    let certificate =
        Certificate::from_der(pair.certificate.der()).map_err(|_| InvalidPair::NoCertificate)?;
    let id = pair.key.public().id().to_string();
    let mut store = KeyStore::new();
    let chain = PrivateKeyChain::new(id.as_bytes(), key, [certificate]);
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
    let written = store
        .writer(passphrase.expose())
        .write()
        .map_err(|error| InvalidPair::Unsupported(error.to_string()))?;
    Ok(Zeroizing::new(written))
}
