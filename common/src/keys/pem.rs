//! Keys and certificates as people hand them in: PEM as any program writes it, or DER. The one reader for all
//! of them, and the one file that knows `rustls-pemfile`, which is in maintenance mode.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use writ_protocol::keys::der::{self, Kind};

/// What is wrong with a file of keys or certificates. `FILE` stands for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPem {
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// Something else than what is wanted.
    #[error("there is no {wanted} in it, only {found}")]
    Missing {
        /// What was looked for.
        wanted: &'static str,
        /// What is there.
        found: String,
    },
    /// A private key protected by a passphrase.
    #[error("the private key is encrypted; decrypt it first: openssl pkey -in FILE -out PLAIN")]
    Encrypted,
    /// More private keys than one.
    #[error("there are {0} private keys in it; leave the one that is meant")]
    SeveralKeys(usize),
    /// PKCS#12.
    #[error("it is a PKCS#12 file; take out what is wanted: openssl pkcs12 -in FILE -nodes -out NEW")]
    Pkcs12,
    /// PKCS#7.
    #[error("it is a PKCS#7 file{}", if *.der { "; take the certificates out: openssl pkcs7 -inform DER -print_certs -in FILE -out NEW" } else { "; take the certificates out: openssl pkcs7 -print_certs -in FILE -out NEW" })]
    Pkcs7 {
        /// In DER.
        der: bool,
    },
    /// A Java key store.
    #[error(
        "it is a Java key store; write it as PKCS#12: keytool -importkeystore -srckeystore FILE -destkeystore NEW -deststoretype PKCS12"
    )]
    JavaKeyStore,
    /// Of OpenSSH.
    #[error(
        "it is an OpenSSH private key, which has no certificate; make a key with a certificate: openssl req -x509 -newkey ed25519 -nodes -keyout NEW -out NEW.pem -subj /CN=NAME -days 1095 && cat NEW.pem >> NEW"
    )]
    OpenSsh,
    /// As some editors write it.
    #[error("it is UTF-16 text; write it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW")]
    Utf16,
    /// Broken base64 or a missing end line.
    #[error("it is not whole: the block {0} has no end, or something in it that is not base64")]
    Malformed(String),
    /// Bytes of no format known here.
    #[error("it is neither PEM nor DER")]
    Unknown,
}

/// One thing in a file.
#[derive(Debug)]
pub enum Item {
    /// DER.
    Certificate(Vec<u8>),
    /// PKCS#8, DER, whatever form it had.
    Key(Zeroizing<Vec<u8>>),
    /// PKCS#8 under a passphrase, DER.
    EncryptedKey(Vec<u8>),
    /// SubjectPublicKeyInfo, DER.
    PublicKey(Vec<u8>),
    /// A whole PKCS#12 file.
    Pkcs12,
    /// Something nobody asks for, in words.
    Other(String),
}

/// Everything in a file, in order.
///
/// # Errors
/// When it is of another format, or broken.
pub fn items(content: &[u8]) -> Result<Vec<Item>, InvalidPem> {
    let text = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(InvalidPem::Empty);
    }
    if content.starts_with(&[0xff, 0xfe]) || content.starts_with(&[0xfe, 0xff]) {
        return Err(InvalidPem::Utf16);
    }
    if content.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) {
        return Err(InvalidPem::JavaKeyStore);
    }
    if content.first() == Some(&0x30) {
        return of_der(content).map(|item| vec![item]);
    }
    let text = Zeroizing::new(String::from_utf8_lossy(text).into_owned());
    let mut found = Vec::new();
    let (mut rest, mut parameters) = (text.as_str(), None);
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let whole = |label: &str| InvalidPem::Malformed(label.to_owned());
        let (label, after) = after.split_once(DASHES).ok_or_else(|| whole("BEGIN"))?;
        if label.len() > MAX_LABEL || label.contains('\n') {
            return Err(whole("BEGIN"));
        }
        let (body, after) =
            after.split_once(&format!("-----END {label}{DASHES}")).ok_or_else(|| whole(label))?;
        rest = after;
        let item = of_block(label, body, parameters.as_deref())?;
        match item {
            Block::Item(item) => found.push(item),
            Block::Parameters(der) => parameters = Some(der),
        }
    }
    if found.is_empty() { Err(InvalidPem::Unknown) } else { Ok(found) }
}

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
const MAX_LABEL: usize = 64;

enum Block {
    Item(Item),
    Parameters(Vec<u8>),
}

fn of_block(label: &str, body: &str, parameters: Option<&[u8]>) -> Result<Block, InvalidPem> {
    // RFC 1421, section 4.6: what OpenSSL wrote before PKCS#8.
    if body.contains("Proc-Type:") && body.contains("ENCRYPTED") {
        return Err(InvalidPem::Encrypted);
    }
    if label == "OPENSSH PRIVATE KEY" {
        return Err(InvalidPem::OpenSsh);
    }
    let der = Zeroizing::new(decode(body).ok_or_else(|| InvalidPem::Malformed(label.to_owned()))?);
    let item = match label {
        "CERTIFICATE" | "X509 CERTIFICATE" => Item::Certificate(der.to_vec()),
        "TRUSTED CERTIFICATE" => {
            let first = der::first(&der).ok_or_else(|| InvalidPem::Malformed(label.to_owned()))?;
            Item::Certificate(first.to_vec())
        }
        "PRIVATE KEY" => Item::Key(der),
        "EC PRIVATE KEY" => Item::Key(der::from_sec1(&der, parameters)),
        "RSA PRIVATE KEY" => Item::Key(der::from_pkcs1(&der)),
        "ENCRYPTED PRIVATE KEY" => Item::EncryptedKey(der.to_vec()),
        "PUBLIC KEY" => Item::PublicKey(der.to_vec()),
        "EC PARAMETERS" => return Ok(Block::Parameters(der.to_vec())),
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => return Err(InvalidPem::Pkcs7 { der: false }),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Item::Other(REQUEST.to_owned()),
        other => Item::Other(format!("a block `{}`", other.escape_default())),
    };
    Ok(Block::Item(item))
}

const REQUEST: &str = "a certificate signing request, which an authority must sign first";

/// The base64 of one block. It is given to the library under a label it knows.
fn decode(body: &str) -> Option<Vec<u8>> {
    let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
    let plain = Zeroizing::new(lines.collect::<Vec<_>>().join("\n"));
    let block =
        Zeroizing::new(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", plain.as_str()));
    match rustls_pemfile::read_one(&mut block.as_bytes()) {
        Ok(Some(rustls_pemfile::Item::SubjectPublicKeyInfo(der))) => Some(der.as_ref().to_vec()),
        _ => None,
    }
}

fn of_der(content: &[u8]) -> Result<Item, InvalidPem> {
    Ok(match der::kind(content) {
        Kind::Certificate => Item::Certificate(content.to_vec()),
        Kind::Pkcs8 => Item::Key(Zeroizing::new(content.to_vec())),
        Kind::Sec1 => Item::Key(der::from_sec1(content, None)),
        Kind::Pkcs1 => Item::Key(der::from_pkcs1(content)),
        Kind::EncryptedPkcs8 => Item::EncryptedKey(content.to_vec()),
        Kind::PublicKey => Item::PublicKey(content.to_vec()),
        Kind::Pkcs12 => Item::Pkcs12,
        Kind::Request => Item::Other(REQUEST.to_owned()),
        Kind::Pkcs7 => return Err(InvalidPem::Pkcs7 { der: true }),
        Kind::Unknown => return Err(InvalidPem::Unknown),
    })
}

fn missing(wanted: &'static str, items: &[Item]) -> InvalidPem {
    if items.iter().any(|item| matches!(item, Item::Pkcs12)) {
        return InvalidPem::Pkcs12;
    }
    let mut found: Vec<Cow<'_, str>> = items
        .iter()
        .map(|item| match item {
            Item::Certificate(_) => Cow::Borrowed("a certificate"),
            Item::Key(_) => Cow::Borrowed("a private key"),
            Item::EncryptedKey(_) => Cow::Borrowed("an encrypted private key"),
            Item::PublicKey(_) => Cow::Borrowed("a public key"),
            Item::Pkcs12 => Cow::Borrowed("a PKCS#12 file"),
            Item::Other(text) => Cow::Borrowed(text.as_str()),
        })
        .collect();
    found.dedup();
    InvalidPem::Missing { wanted, found: found.join(" and ") }
}

/// All certificates of a file, DER, in order.
///
/// # Errors
/// When there is none or the file is broken.
pub fn certificates(content: &[u8]) -> Result<Vec<Vec<u8>>, InvalidPem> {
    let items = items(content)?;
    let certificates = items.iter().filter_map(|item| match item {
        Item::Certificate(der) => Some(der.clone()),
        _ => None,
    });
    let found: Vec<_> = certificates.collect();
    if found.is_empty() { Err(missing("certificate", &items)) } else { Ok(found) }
}

/// The private key of a file, PKCS#8 DER.
///
/// # Errors
/// When there is none or more than one, it is encrypted, or the file is broken.
pub fn private_key(content: &[u8]) -> Result<Zeroizing<Vec<u8>>, InvalidPem> {
    let items = items(content)?;
    let is_encrypted = items.iter().any(|item| matches!(item, Item::EncryptedKey(_)));
    let mut keys: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            Item::Key(der) => Some(der),
            _ => None,
        })
        .collect();
    match (keys.len(), is_encrypted) {
        (1, _) => Ok(keys.remove(0).clone()),
        (0, true) => Err(InvalidPem::Encrypted),
        (0, false) => Err(missing("private key", &items)),
        (several, _) => Err(InvalidPem::SeveralKeys(several)),
    }
}

/// The first public key of a file, SubjectPublicKeyInfo DER.
///
/// # Errors
/// When there is none or the file is broken.
pub fn public_key(content: &[u8]) -> Result<Vec<u8>, InvalidPem> {
    let items = items(content)?;
    let key = items.iter().find_map(|item| match item {
        Item::PublicKey(der) => Some(der.clone()),
        _ => None,
    });
    key.ok_or_else(|| missing("public key", &items))
}

/// Whether somebody put a private key into a file of which a certificate is wanted.
#[must_use]
pub fn holds_private_key(content: &[u8]) -> bool {
    let is_key = |item: &Item| match item {
        Item::Key(_) | Item::EncryptedKey(_) | Item::Pkcs12 => true,
        // Of a kind that is not read here, and a key all the same.
        Item::Other(block) => block.contains("PRIVATE KEY"),
        Item::Certificate(_) | Item::PublicKey(_) => false,
    };
    match items(content) {
        Ok(items) => items.iter().any(is_key),
        // Whatever it is: nothing with such a line goes anywhere.
        Err(_) => content.windows(12).any(|part| part == b"PRIVATE KEY-"),
    }
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
mod tests;
