//! One certificate with its key, as other programs read and write it: PEM, or PKCS#12 (RFC 7292).

use p12_keystore::error::Error as P12Error;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKeyChain};
use zeroize::Zeroizing;

use super::pem::{self, InvalidPem};
use super::sealed::Passphrase;
use super::{PrivateKey, Server, SigningCertificate};

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
    /// A passphrase is needed.
    #[error("it is a PKCS#12 file, which a passphrase opens: name a file with --file-passphrase-file")]
    NeedsPassphrase,
    /// Neither PEM nor PKCS#12, or cut short.
    #[error("it is neither PEM nor a whole PKCS#12 file")]
    Damaged,
    /// A PKCS#12 file sealed by something nobody should use any more.
    #[error("it is encrypted in a way that is not supported; write it again: openssl pkcs12 -export")]
    Unsupported,
    /// No private key.
    #[error("there is no private key in it")]
    NoKey,
    /// More than one.
    #[error("there are {0} private keys in it; export the one that is meant alone")]
    SeveralKeys(usize),
    /// A key of another algorithm.
    #[error("its key is not an Ed25519 or P-256 key")]
    Algorithm,
    /// No certificate of that key.
    #[error("there is no certificate of its key in it")]
    NoCertificate,
}

/// Reads a certificate with its key.
///
/// # Errors
/// What the file is instead.
pub fn read(content: &[u8], passphrase: Option<&str>) -> Result<Pair, InvalidPair> {
    let (keys, certificates) = if content.windows(10).any(|window| window == b"-----BEGIN") {
        let key = match pem::private_key(content) {
            Err(InvalidPem::Missing { .. }) => return Err(InvalidPair::NoKey),
            key => key?,
        };
        (vec![key], pem::certificates(content).unwrap_or_default())
    } else {
        read_pkcs12(content, passphrase)?
    };
    let [key] = keys.as_slice() else {
        return Err(if keys.is_empty() { InvalidPair::NoKey } else { InvalidPair::SeveralKeys(keys.len()) });
    };
    let key = PrivateKey::from_pkcs8(key).map_err(|_| InvalidPair::Algorithm)?;
    let mut parsed = certificates.iter().filter_map(|der| SigningCertificate::from_der(der).ok());
    let certificate = parsed.find(|certificate| certificate.key() == key.public());
    Ok(Pair { key, certificate: certificate.ok_or(InvalidPair::NoCertificate)? })
}

/// Private keys and certificates, DER.
type Bags = (Vec<Zeroizing<Vec<u8>>>, Vec<Vec<u8>>);

fn read_pkcs12(content: &[u8], passphrase: Option<&str>) -> Result<Bags, InvalidPair> {
    // A SEQUENCE, or it is nothing to ask a passphrase for.
    if content.first() != Some(&0x30) {
        return Err(InvalidPair::Damaged);
    }
    let passphrase = passphrase.ok_or(InvalidPair::NeedsPassphrase)?;
    let archive = Pkcs12Archive::from_pkcs12(content, passphrase).map_err(|error| match error {
        P12Error::MacError(_) | P12Error::Pkcs5Error(_) | P12Error::UnpadError => {
            InvalidPair::WrongPassphrase
        }
        P12Error::UnsupportedEncryptionScheme | P12Error::UnsupportedMacAlgorithm => InvalidPair::Unsupported,
        P12Error::InvalidPrivateKey => InvalidPair::Algorithm,
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
    let key = p12_keystore::PrivateKey::from_der(&pair.key.to_pkcs8()).map_err(|_| InvalidPair::Algorithm)?;
    let certificate =
        Certificate::from_der(pair.certificate.der()).map_err(|_| InvalidPair::NoCertificate)?;
    let id = pair.key.public().id().to_string();
    let mut store = KeyStore::new();
    let chain = PrivateKeyChain::new(id.as_bytes(), key, [certificate]);
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
    let written = store.writer(passphrase.expose()).write().map_err(|_| InvalidPair::Unsupported)?;
    Ok(Zeroizing::new(written))
}
