//! All PEM reading and writing. `rustls-pemfile` is in maintenance mode: this is the one file to change.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pemfile::Item;
use zeroize::Zeroizing;

/// What is wrong with a PEM text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPem {
    /// No `-----BEGIN` of the wanted kind.
    #[error("there is no {wanted} in it")]
    Missing {
        /// What was looked for.
        wanted: &'static str,
    },
    /// A private key protected by a passphrase.
    #[error("the private key is encrypted; decrypt it first: openssl pkey -in FILE -out PLAIN")]
    Encrypted,
    /// A key in OpenSSL's older form.
    #[error(
        "the private key is in the SEC1 form; write it as PKCS#8: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW"
    )]
    Sec1,
    /// Broken base64 or a missing end line.
    #[error("it is not valid PEM")]
    Malformed,
}

/// All certificates of a PEM text, DER, in order.
///
/// # Errors
/// When there is none or the text is broken.
pub fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, InvalidPem> {
    let mut reader = text;
    let found = rustls_pemfile::certs(&mut reader)
        .map(|certificate| certificate.map(|der| der.to_vec()).map_err(|_| InvalidPem::Malformed))
        .collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(InvalidPem::Missing { wanted: "certificate" }) } else { Ok(found) }
}

/// The first private key of a PEM text, PKCS#8 DER.
///
/// # Errors
/// When there is none, it is encrypted, or the text is broken.
pub fn private_key(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, InvalidPem> {
    let sec1 = b"-----BEGIN EC PRIVATE KEY-----";
    if text.windows(sec1.len()).any(|window| window == sec1) {
        return Err(InvalidPem::Sec1);
    }
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    if text.windows(encrypted.len()).any(|window| window == encrypted) {
        return Err(InvalidPem::Encrypted);
    }
    let mut reader = text;
    for item in rustls_pemfile::read_all(&mut reader) {
        if let Item::Pkcs8Key(key) = item.map_err(|_| InvalidPem::Malformed)? {
            return Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec()));
        }
    }
    Err(InvalidPem::Missing { wanted: "PKCS#8 private key" })
}

/// The first public key of a PEM text, SubjectPublicKeyInfo DER.
///
/// # Errors
/// When there is none or the text is broken.
pub fn public_key(text: &[u8]) -> Result<Vec<u8>, InvalidPem> {
    let mut reader = text;
    for item in rustls_pemfile::read_all(&mut reader) {
        if let Item::SubjectPublicKeyInfo(spki) = item.map_err(|_| InvalidPem::Malformed)? {
            return Ok(spki.as_ref().to_vec());
        }
    }
    Err(InvalidPem::Missing { wanted: "public key" })
}

/// One PEM block.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_input_has_its_own_message() {
        let key = encode("PRIVATE KEY", &[1; 48]);
        assert_eq!(private_key(key.as_bytes()).unwrap().as_slice(), &[1; 48]);
        assert_eq!(certificates(key.as_bytes()), Err(InvalidPem::Missing { wanted: "certificate" }));
        let older = encode("EC PRIVATE KEY", &[1; 48]);
        assert_eq!(private_key(older.as_bytes()), Err(InvalidPem::Sec1));
        let locked = encode("ENCRYPTED PRIVATE KEY", &[1; 48]);
        assert_eq!(private_key(locked.as_bytes()), Err(InvalidPem::Encrypted));
        assert_eq!(private_key(b""), Err(InvalidPem::Missing { wanted: "PKCS#8 private key" }));
        assert_eq!(
            certificates(b"-----BEGIN CERTIFICATE-----\n***\n-----END CERTIFICATE-----\n"),
            Err(InvalidPem::Malformed)
        );
    }
}
