//! One suspicious object.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use writ_lists::Kind;
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

/// Bytes of a value: what browsers take of a URL. All objects are sent to all agents.
const MAX_VALUE: usize = 2048;
/// Bytes of a note: a sentence or two.
pub(crate) const MAX_NOTE: usize = 512;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectType {
    /// A file with this SHA-256.
    Sha256,
    /// A file with this SHA-1.
    Sha1,
    /// A domain, and all names below it.
    Domain,
    /// One URL.
    Url,
    /// One IP address.
    Ip,
    /// A network of IP addresses, as CIDR (RFC 4632) writes it.
    Cidr,
}

/// A word that names no type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no type of object; it must be sha256, sha1, domain, url, ip or cidr")]
pub struct NoSuchType(String);

impl ObjectType {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Sha256, Self::Sha1, Self::Domain, Self::Url, Self::Ip, Self::Cidr];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
            Self::Domain => "domain",
            Self::Url => "url",
            Self::Ip => "ip",
            Self::Cidr => "cidr",
        }
    }

    /// Whether it is about files.
    #[must_use]
    pub const fn is_file(self) -> bool {
        matches!(self, Self::Sha256 | Self::Sha1)
    }

    /// A value as it is written in one way only.
    ///
    /// # Errors
    /// When it is no value of this type.
    pub fn canonical(self, value: &str) -> Result<String, InvalidObject> {
        if value.len() > MAX_VALUE {
            let text = format!("the {self} has {} bytes, and {MAX_VALUE} are taken", value.len());
            return Err(InvalidObject(text));
        }
        let value = self.written(value)?;
        // Escaping may have made it longer.
        if value.len() > MAX_VALUE {
            return Err(InvalidObject(format!(
                "the {self} is longer than {MAX_VALUE} bytes when it is escaped"
            )));
        }
        Ok(value)
    }

    fn written(self, value: &str) -> Result<String, InvalidObject> {
        let kind = match self {
            Self::Sha256 => Kind::Sha256,
            Self::Sha1 => Kind::Sha1,
            Self::Domain => Kind::Domain,
            Self::Url => Kind::Url,
            Self::Ip => Kind::Ip,
            Self::Cidr => return network(value),
        };
        kind.canonical(value).map_err(|error| InvalidObject(format!("the {self} {error}")))
    }
}

impl fmt::Display for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ObjectType {
    type Err = NoSuchType;

    fn from_str(word: &str) -> Result<Self, NoSuchType> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| NoSuchType(word.to_owned()))
    }
}

/// Who says that an object is suspicious. Of several the greatest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The sandbox that a Control Manager reads.
    Sandbox,
    /// An analysis that an operator took from a file.
    Analysed,
    /// The Control Manager above this server.
    Manager,
    /// An operator.
    Operator,
}

impl Source {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Sandbox, Self::Analysed, Self::Manager, Self::Operator];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Analysed => "analysed",
            Self::Manager => "manager",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Source {
    type Err = InvalidObject;

    fn from_str(word: &str) -> Result<Self, InvalidObject> {
        let is_it = |source: &Self| source.as_str() == word;
        Self::ALL.into_iter().find(is_it).ok_or_else(|| {
            InvalidObject(format!("`{word}` is no source; it must be operator, manager, analysed or sandbox"))
        })
    }
}

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidObject(pub(crate) String);

/// A suspicious object. Its value is canonical, and a remedy that its type does not bear cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    kind: ObjectType,
    value: String,
    remedy: Remedy,
    /// Who says so.
    pub source: Source,
    /// From when on it does not act any more.
    pub expires_at: Option<Timestamp>,
    note: String,
}

impl Object {
    /// An object without a note that never expires.
    ///
    /// # Errors
    /// When the value is none of that type, or the remedy is quarantine and the object no file.
    pub fn new(kind: ObjectType, value: &str, remedy: Remedy, source: Source) -> Result<Self, InvalidObject> {
        if remedy == Remedy::Quarantine && !kind.is_file() {
            let text = format!("only files can be quarantined: of a {kind} it must be log or block");
            return Err(InvalidObject(text));
        }
        let value = kind.canonical(value)?;
        Ok(Self { kind, value, remedy, source, expires_at: None, note: String::new() })
    }

    /// With a note for people.
    ///
    /// # Errors
    /// When it is longer than 512 bytes, or steers a terminal.
    pub fn with_note(mut self, note: &str) -> Result<Self, InvalidObject> {
        if note.len() > MAX_NOTE || note.contains(char::is_control) {
            let text = "the note must have at most 512 bytes and no control characters";
            return Err(InvalidObject(text.to_owned()));
        }
        note.clone_into(&mut self.note);
        Ok(self)
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> ObjectType {
        self.kind
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What is done where it is met.
    #[must_use]
    pub const fn remedy(&self) -> Remedy {
        self.remedy
    }

    /// For people.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }
}

/// `ADDRESS/LENGTH`, whose address has nothing beyond its length.
fn network(text: &str) -> Result<String, InvalidObject> {
    let no_network = |why: &str| InvalidObject(format!("{} {why}", shown(text)));
    let is_none = || no_network("is no network: write it as 192.0.2.0/24");
    let (base, length) = text.split_once('/').ok_or_else(is_none)?;
    let written: IpAddr = base.parse().map_err(|_| is_none())?;
    let is_plain = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse::<u32>().ok().filter(|_| is_plain);
    let base = written.to_canonical();
    // A network of IPv4 that is written as IPv6 is one of IPv4.
    let mapped = if base.is_ipv4() && written.is_ipv6() { 96 } else { 0 };
    let bits: u32 = if base.is_ipv4() { 32 } else { 128 };
    let length = length.and_then(|length| length.checked_sub(mapped)).filter(|length| *length <= bits);
    let length = length.ok_or_else(|| no_network("has a length that no such network has"))?;
    // All addresses there are would be nobody's list.
    if length < 8 {
        return Err(no_network(
            "is shorter than /8: that is a part of the internet, and no network of somebody",
        ));
    }
    if length == bits {
        return Err(no_network("is one address: write it as an ip"));
    }
    if base.is_loopback() || base.is_unspecified() {
        return Err(no_network("is a network of every host itself"));
    }
    let rest = match base {
        IpAddr::V4(base) => u128::from(u32::from(base).checked_shl(length).unwrap_or(0)),
        IpAddr::V6(base) => u128::from(base).checked_shl(length).unwrap_or(0),
    };
    if rest != 0 {
        return Err(no_network("has an address beyond its length; write the first address of the network"));
    }
    Ok(format!("{base}/{length}"))
}

/// A value in a message: what may be long or unprintable, short and printable.
fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let short: String = text.chars().take(MOST).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", short.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_in_one_way_only() {
        use ObjectType::{Cidr, Domain, Ip, Sha1, Sha256, Url};
        for (kind, written, canonical) in [
            (Sha256, "AB".repeat(32), "ab".repeat(32)),
            (Sha1, "Ab".repeat(20), "ab".repeat(20)),
            (Domain, "Evil.Example.".to_owned(), "evil.example".to_owned()),
            (Url, "HTTP://Evil.example:80/A#b".to_owned(), "http://evil.example/A".to_owned()),
            (Ip, "2001:DB8:0::1".to_owned(), "2001:db8::1".to_owned()),
            (Ip, "::ffff:192.0.2.7".to_owned(), "192.0.2.7".to_owned()),
            (Cidr, "192.0.2.0/24".to_owned(), "192.0.2.0/24".to_owned()),
            (Cidr, "2001:DB8::/32".to_owned(), "2001:db8::/32".to_owned()),
            (Cidr, "10.0.0.0/8".to_owned(), "10.0.0.0/8".to_owned()),
            (Cidr, "::ffff:192.0.2.0/120".to_owned(), "192.0.2.0/24".to_owned()),
            (Url, "http://evil.example../a".to_owned(), "http://evil.example/a".to_owned()),
        ] {
            assert_eq!(kind.canonical(&written), Ok(canonical.clone()), "{kind} {written}");
            assert_eq!(kind.canonical(&canonical), Ok(canonical));
        }
    }

    #[test]
    fn what_is_none_is_refused_and_only_files_are_quarantined() {
        use ObjectType::{Cidr, Domain, Ip, Sha1, Sha256, Url};
        for (kind, value, why) in [
            (Sha256, "abc", "must be 64 hex digits"),
            (Ip, "192.0.2.256", "is no IP address"),
            (Ip, "fe80::1%eth0", "is no IP address"),
            (Ip, "192.0.2.0/24", "is no IP address"),
            (Cidr, "192.0.2.0", "is no network"),
            (Cidr, "192.0.2.1/24", "has an address beyond its length"),
            (Cidr, "192.0.2.0/33", "has a length that no such network has"),
            (Cidr, "192.0.2.0/+24", "has a length that no such network has"),
            (Cidr, "0.0.0.0/0", "is shorter than /8"),
            (Cidr, "::ffff:0:0/96", "is shorter than /8"),
            (Cidr, "::ffff:0:0/90", "has a length that no such network has"),
            (Cidr, "192.0.2.7/32", "write it as an ip"),
            (Cidr, "127.0.0.0/8", "of every host itself"),
            (Ip, "127.0.0.1", "of every host itself"),
            (Ip, "::", "of every host itself"),
            (Url, &format!("http://evil.example/{}", "a".repeat(2048)), "and 2048 are taken"),
            (Url, &format!("http://evil.example/{}", "\u{e4}".repeat(900)), "when it is escaped"),
            (Domain, "com", "one word without a dot"),
            (Domain, "\u{1b}[2J", "no domain"),
        ] {
            let said = Object::new(kind, value, Remedy::Log, Source::Operator).unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains('\u{1b}'), "{kind} {value}: {said}");
        }
        for kind in ObjectType::ALL {
            let value = match kind {
                Sha256 => &"a".repeat(64),
                Sha1 => &"a".repeat(40),
                Domain => "evil.example",
                Url => "http://evil.example/",
                Ip => "192.0.2.7",
                Cidr => "192.0.2.0/24",
            };
            let quarantined = Object::new(kind, value, Remedy::Quarantine, Source::Operator);
            assert_eq!(quarantined.is_ok(), kind.is_file(), "{kind}");
            let object = Object::new(kind, value, Remedy::Block, Source::Analysed).unwrap();
            object.clone().with_note(&"x".repeat(512)).unwrap();
            object.clone().with_note(&"x".repeat(513)).unwrap_err();
            object.with_note("a\nb").unwrap_err();
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("md5".parse::<ObjectType>().unwrap_err().to_string().contains("sha256, sha1, domain"));
    }
}
