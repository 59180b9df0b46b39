//! What a list is about, and how a value of that kind is written in one way only.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ring::digest;
use url::{Host, Url};

/// What stands in a list for one value: its digest.
pub type Key = [u8; 32];

/// A domain name has at most 253 characters (RFC 1035, section 3.1).
const MAX_DOMAIN: usize = 253;

/// Of URLs that are looked up. Others, such as `hxxp`, are a way of writing that no program follows.
const SCHEMES: [&str; 3] = ["http", "https", "ftp"];

/// What the entries of a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The SHA-256 of a file.
    Sha256,
    /// The SHA-1 of a file.
    Sha1,
    /// The MD5 of a file.
    Md5,
    /// A domain, and all names below it.
    Domain,
    /// One URL.
    Url,
    /// One IP address.
    Ip,
}

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of list; it must be one of {kinds}", kinds = Kind::words())]
pub struct NoSuchKind(String);

/// A value that is not of the list's kind: what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotOfKind(pub(crate) String);

impl Kind {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Sha256, Self::Sha1, Self::Md5, Self::Domain, Self::Url, Self::Ip];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::Domain => "domain",
            Self::Url => "url",
            Self::Ip => "ip",
        }
    }

    /// Its number in files.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha1 => 2,
            Self::Md5 => 3,
            Self::Domain => 4,
            Self::Url => 5,
            Self::Ip => 6,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Bytes of an entry in a list's file. Domains, URLs and addresses stand there as the SHA-256 of their text.
    #[must_use]
    pub const fn width(self) -> u8 {
        match self {
            Self::Sha256 | Self::Domain | Self::Url | Self::Ip => 32,
            Self::Sha1 => 20,
            Self::Md5 => 16,
        }
    }

    fn words() -> String {
        Self::ALL.map(|kind| format!("`{}`", kind.as_str())).join(", ")
    }

    /// The key of a value as somebody wrote it. Two spellings of one value have one key: hex in capitals, a
    /// domain with a dot at its end or in another script, a URL with its scheme's own port.
    ///
    /// # Errors
    /// When the text is no value of this kind.
    pub fn key(self, text: &str) -> Result<Key, NotOfKind> {
        match self {
            Self::Sha256 | Self::Sha1 | Self::Md5 => hash(text, usize::from(self.width())),
            Self::Domain => domain(text).map(|domain| digest_of(&domain)),
            Self::Url => url(text).map(|url| digest_of(&url)),
            Self::Ip => ip(text).map(|ip| digest_of(&ip)),
        }
    }

    /// A value as it is written in one way only.
    ///
    /// # Errors
    /// When the text is no value of this kind.
    pub fn canonical(self, text: &str) -> Result<String, NotOfKind> {
        match self {
            Self::Sha256 | Self::Sha1 | Self::Md5 => {
                self.key(text).map(|key| hex::encode(&key[..usize::from(self.width())]))
            }
            Self::Domain => domain(text),
            Self::Url => url(text),
            Self::Ip => ip(text),
        }
    }

    /// The keys under which a value may be listed: its own, and for a domain those of each domain it is
    /// below.
    ///
    /// # Errors
    /// When the text is no value of this kind.
    pub fn keys(self, text: &str) -> Result<Vec<Key>, NotOfKind> {
        if self != Self::Domain {
            return self.key(text).map(|key| vec![key]);
        }
        let domain = domain(text)?;
        let starts = std::iter::once(0).chain(domain.match_indices('.').map(|(dot, _)| dot + 1));
        // The last word alone is in no list.
        let names = starts.map(|start| &domain[start..]).filter(|name| name.contains('.'));
        Ok(names.map(digest_of).collect())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = NoSuchKind;

    fn from_str(word: &str) -> Result<Self, NoSuchKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| NoSuchKind(word.to_owned()))
    }
}

fn digest_of(text: &str) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    key
}

fn hash(text: &str, width: usize) -> Result<Key, NotOfKind> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key[..width])
        .map_err(|_| NotOfKind(format!("must be {} hex digits, is {}", width * 2, shown(text))))?;
    Ok(key)
}

/// As the URL Standard writes the host of a URL: in lower case, other scripts as `xn--`.
fn domain(text: &str) -> Result<String, NotOfKind> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    // `*.example.com` in a list means what `example.com` means in ours.
    let bare = bare.strip_prefix("*.").or_else(|| bare.strip_prefix('.')).unwrap_or(bare);
    let no_domain = |why: &str| NotOfKind(format!("is {}, which {why}", shown(text)));
    let host = Host::parse(bare).map_err(|_| no_domain("is no domain"))?;
    let Host::Domain(domain) = host else {
        return Err(no_domain("is an address, not a domain"));
    };
    // The URL Standard lets more through, such as quotes and commas: here they are a list that was read
    // wrongly.
    let is_sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let are_labels_sound =
        domain.split('.').all(|label| (1..=63).contains(&label.len()) && label.chars().all(is_sound));
    if domain.len() > MAX_DOMAIN || !are_labels_sound {
        return Err(no_domain("is no domain"));
    }
    // As hosts files begin.
    if domain.ends_with(".localhost") || domain.ends_with(".localdomain") {
        return Err(no_domain("names the host itself"));
    }
    // One word would be a whole top-level domain, or a name of the local network.
    if !domain.contains('.') {
        return Err(no_domain("is one word without a dot"));
    }
    Ok(domain)
}

/// As the URL Standard writes it, without what only the browser sees or what names a user.
fn url(text: &str) -> Result<String, NotOfKind> {
    let no_url = |why: &str| NotOfKind(format!("is {}, which {why}", shown(text)));
    // The parser would take white space as a part of the path.
    if text.contains(char::is_whitespace) {
        return Err(no_url("holds a space"));
    }
    let mut url = Url::parse(text).map_err(|error| no_url(&format!("is no URL: {error}")))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err(no_url("begins with none of http, https and ftp"));
    }
    let host = url.host_str().filter(|host| host.ends_with('.'));
    let host = host.map(|host| host.trim_end_matches('.').to_owned());
    // These schemes have a host, so nothing of this fails.
    let is_changed = host.is_none_or(|host| url.set_host(Some(&host)).is_ok())
        && url.set_username("").is_ok()
        && url.set_password(None).is_ok();
    if !is_changed {
        return Err(no_url("names no host"));
    }
    url.set_fragment(None);
    Ok(url.into())
}

/// As RFC 5952 writes it, without a zone. One of IPv4 that is written as IPv6 is one of IPv4.
fn ip(text: &str) -> Result<String, NotOfKind> {
    let no_address = |why: &str| NotOfKind(format!("is {}, which {why}", shown(text)));
    let address: IpAddr = text.parse().map_err(|_| no_address("is no IP address"))?;
    let address = address.to_canonical();
    if address.is_loopback() || address.is_unspecified() {
        return Err(no_address("is an address of every host itself"));
    }
    Ok(address.to_string())
}

/// A value in a message: what may be long or unprintable, short and printable.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 80;
    if text.is_empty() {
        return "empty".to_owned();
    }
    let short: String = text.chars().take(MOST).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", short.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_one_value_have_one_key() {
        let ones = "aB".repeat(32);
        for (kind, one, other) in [
            (Kind::Sha256, ones.as_str(), &*ones.to_lowercase()),
            (Kind::Domain, "Evil.Example.", "evil.example"),
            (Kind::Domain, "*.evil.example", "evil.example"),
            (Kind::Domain, "bücher.example", "xn--bcher-kva.example"),
            (Kind::Url, "HTTP://Evil.example:80/A?b#c", "http://evil.example/A?b"),
            (Kind::Url, "https://user:word@evil.example/a/../b", "https://evil.example/b"),
            (Kind::Url, "http://evil.example./a", "http://evil.example/a"),
            (Kind::Ip, "2001:DB8:0::1", "2001:db8::1"),
            (Kind::Ip, "::ffff:192.0.2.7", "192.0.2.7"),
        ] {
            assert_eq!(kind.key(one).unwrap(), kind.key(other).unwrap(), "{one} and {other}");
        }
        let key = |text| Kind::Url.key(text).unwrap();
        assert_ne!(key("http://evil.example/A"), key("http://evil.example/a"));
    }

    #[test]
    fn what_is_not_of_the_kind_is_told_with_the_reason() {
        for (kind, text, reason) in [
            (Kind::Sha256, "abc", "must be 64 hex digits, is `abc`"),
            (Kind::Sha256, "", "must be 64 hex digits, is empty"),
            (Kind::Md5, &"a".repeat(40), "must be 32 hex digits"),
            (Kind::Sha1, &"ä".repeat(20), "must be 40 hex digits"),
            (Kind::Domain, "com", "one word without a dot"),
            (Kind::Domain, "a..example", "no domain"),
            (Kind::Domain, "192.0.2.7", "is an address, not a domain"),
            (Kind::Domain, "0x7f.1", "is an address, not a domain"),
            (Kind::Domain, "evil example.com", "no domain"),
            (Kind::Domain, &format!("{}.example", "a".repeat(64)), "no domain"),
            (Kind::Url, "evil.example/a", "is no URL"),
            (Kind::Domain, "\"quoted.example\"", "no domain"),
            (Kind::Domain, "comma.example,malware", "no domain"),
            (Kind::Domain, "*.*.example", "no domain"),
            (Kind::Domain, "localhost.localdomain", "names the host itself"),
            (Kind::Url, "mailto:a@b.example", "begins with none of http, https and ftp"),
            (Kind::Url, "hxxp://evil.example/a", "begins with none of http, https and ftp"),
            (Kind::Url, "http://evil.example/ malware", "holds a space"),
            (Kind::Ip, "192.0.2.256", "is no IP address"),
            (Kind::Ip, "192.0.2.0/24", "is no IP address"),
            (Kind::Ip, "fe80::1%eth0", "is no IP address"),
            (Kind::Ip, "127.0.0.1", "an address of every host itself"),
            (Kind::Ip, "::", "an address of every host itself"),
        ] {
            let said = kind.key(text).unwrap_err().to_string();
            assert!(said.contains(reason), "{kind} {text}: {said}");
        }
        assert!("sha3".parse::<Kind>().unwrap_err().to_string().contains("`sha256`, `sha1`"));
    }

    #[test]
    fn a_domain_is_looked_for_under_each_domain_it_is_below() {
        let keys = Kind::Domain.keys("a.b.evil.example").unwrap();
        let expected = ["a.b.evil.example", "b.evil.example", "evil.example"].map(digest_of);
        assert_eq!(keys, expected);
    }
}
