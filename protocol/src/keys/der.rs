//! Just enough of DER (X.690) to tell what a file holds and to bring private keys into one form, PKCS#8.

use zeroize::Zeroizing;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];

/// What a file in DER is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An X.509 certificate.
    Certificate,
    /// A request for one (PKCS#10).
    Request,
    /// A private key (RFC 5958).
    Pkcs8,
    /// The same, under a password.
    EncryptedPkcs8,
    /// A bag of keys and certificates (RFC 7292).
    Pkcs12,
    /// Certificates in a signed message (RFC 2315).
    Pkcs7,
    /// A private key on a curve (RFC 5915).
    Sec1,
    /// An RSA private key (RFC 8017).
    Pkcs1,
    /// A SubjectPublicKeyInfo.
    PublicKey,
    /// Nothing that is known here.
    Unknown,
}

/// A tag, its content, and what follows.
type Element<'a> = (u8, &'a [u8], &'a [u8]);

fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn elements(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (tag, content, rest) = element(bytes)?;
        found.push((tag, content));
        bytes = rest;
    }
    Some(found)
}

/// The first element alone: what OpenSSL calls a trusted certificate has its own notes behind it.
pub fn first(bytes: &[u8]) -> Option<&[u8]> {
    let (_, _, rest) = element(bytes)?;
    bytes.get(..bytes.len() - rest.len())
}

/// Tells what it is by its outermost structure.
pub fn kind(bytes: &[u8]) -> Kind {
    let parts = match element(bytes) {
        Some((SEQUENCE, content, [])) => elements(content),
        _ => None,
    };
    let Some(parts) = parts else { return Kind::Unknown };
    match parts.as_slice() {
        [(INTEGER, [3]), (SEQUENCE, inner), ..] if holds(inner, PKCS7) => Kind::Pkcs12,
        [(INTEGER, [0 | 1]), (SEQUENCE, _), (OCTET_STRING, _), ..] => Kind::Pkcs8,
        [(INTEGER, [1]), (OCTET_STRING, _), ..] => Kind::Sec1,
        [(INTEGER, [0]), (INTEGER, _), ..] => Kind::Pkcs1,
        [(OBJECT, name), ..] if name.starts_with(PKCS7) => Kind::Pkcs7,
        [(SEQUENCE, _), (OCTET_STRING, _)] => Kind::EncryptedPkcs8,
        [(SEQUENCE, _), (BIT_STRING, _)] => Kind::PublicKey,
        [(SEQUENCE, signed), (SEQUENCE, _), (BIT_STRING, _)] => match elements(signed).as_deref() {
            Some([(INTEGER, [0]), (SEQUENCE, _), (SEQUENCE, _), ..]) if signed.len() < 1 << 20 => {
                // A request's third part is its key, with a bit string in it; a version 1 certificate's is
                // its issuer.
                let third = elements(signed).and_then(|parts| elements(parts.get(2)?.1));
                let is_key =
                    third.is_some_and(|parts| matches!(parts.as_slice(), [(SEQUENCE, _), (BIT_STRING, _)]));
                if is_key { Kind::Request } else { Kind::Certificate }
            }
            Some(_) => Kind::Certificate,
            None => Kind::Unknown,
        },
        _ => Kind::Unknown,
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What a private key in PKCS#8 is, for people.
pub fn algorithm(pkcs8: &[u8]) -> &'static str {
    let parts = element(pkcs8).and_then(|(_, content, _)| elements(content)).unwrap_or_default();
    let Some((_, names)) = parts.get(1) else { return "a private key of an unknown kind" };
    let named = [
        (&[0x2b, 0x65, 0x70][..], "an Ed25519 key that is damaged"),
        (P256, "a P-256 key without its public half; write it again: openssl pkey -in FILE -out NEW"),
        (RSA, "an RSA key"),
        (&[0x2b, 0x81, 0x04, 0x00, 0x22], "an EC key of curve P-384"),
        (&[0x2b, 0x81, 0x04, 0x00, 0x23], "an EC key of curve P-521"),
        (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "an EC key of curve secp256k1"),
        (EC, "an EC key of another curve than P-256"),
        (&[0x2b, 0x65, 0x71], "an Ed448 key"),
        (&[0x2b, 0x65, 0x6e], "an X25519 key, which signs nothing"),
        (&[0x2b, 0x65, 0x6f], "an X448 key, which signs nothing"),
        (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "a DSA key"),
    ];
    let found = named.into_iter().find(|(name, _)| holds(names, name));
    found.map_or("a private key of an unknown kind", |(_, text)| text)
}

/// RFC 5915 within RFC 5958.
pub fn from_sec1(sec1: &[u8], parameters: Option<&[u8]>) -> Zeroizing<Vec<u8>> {
    // The curve stands in the key, or, from some programs, in a block of its own before it.
    let own = element(sec1)
        .and_then(|(_, content, _)| elements(content))
        .and_then(|parts| parts.into_iter().find(|(tag, _)| *tag == 0xa0))
        .map(|(_, curve)| curve);
    let curve = own.or(parameters).unwrap_or_default();
    let names = wrap(SEQUENCE, &[&wrap(OBJECT, &[EC]), curve]);
    wrap(SEQUENCE, &[&[INTEGER, 1, 0], &names, &wrap(OCTET_STRING, &[sec1])])
}

/// RFC 8017 within RFC 5958.
pub fn from_pkcs1(pkcs1: &[u8]) -> Zeroizing<Vec<u8>> {
    let names = wrap(SEQUENCE, &[&wrap(OBJECT, &[RSA]), &[NULL, 0]]);
    wrap(SEQUENCE, &[&[INTEGER, 1, 0], &names, &wrap(OCTET_STRING, &[pkcs1])])
}

fn wrap(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let content = Zeroizing::new(parts.concat());
    let mut whole = Zeroizing::new(Vec::with_capacity(content.len() + 6));
    whole.push(tag);
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
    match content.len() {
        0..=0x7f => whole.push(length[3]),
        0x80..=0xff => whole.extend([0x81, length[3]]),
        0x100..=0xffff => whole.extend([0x82, length[2], length[3]]),
        _ => whole.extend([&[0x84][..], &length].concat()),
    }
    whole.extend_from_slice(&content);
    whole
}
