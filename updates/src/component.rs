//! What a component is called, and what is known of one version of it.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use writ_lists::{Filter, Kind, List};
use writ_protocol::component::{SUSPICIOUS_OBJECTS, fact_of, is_component_name, is_component_version};
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_AGENT_COMPONENT_BYTES;

/// Not a name or a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Of a component.
    #[error("`{0}` is no name of a component: 1 to 64 of a to z, digits and hyphens, the first no hyphen")]
    Name(String),
    /// Of a version.
    #[error(
        "`{0}` is no version: 1 to 64 of letters, digits, dots, hyphens, underscores and plus signs, the first a letter or digit"
    )]
    Version(String),
}

/// The name of a component, which is also that of its target in a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Which version of a component a file is. Versions are compared for sameness only: which one is newer is
/// said by the repository's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = is_component_name(text);
        is_name.then(|| Self(text.to_owned())).ok_or_else(|| InvalidName::Name(shown(text)))
    }
}

impl FromStr for Version {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_version = is_component_version(text);
        is_version.then(|| Self(text.to_owned())).ok_or_else(|| InvalidName::Version(shown(text)))
    }
}

/// A text that may be anything, as far as it helps to see it.
fn shown(text: &str) -> String {
    writ_common::text::quoted(text)
}

macro_rules! text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(Name);
text!(Version);

impl Name {
    /// Whether a server makes this component itself, and takes it from no repository.
    #[must_use]
    pub fn is_made_here(&self) -> bool {
        self.0 == SUSPICIOUS_OBJECTS
    }

    /// Of which kinds a list under this name may be; none: it is no list.
    #[must_use]
    pub fn kinds(&self) -> &'static [Kind] {
        match self.0.as_str() {
            "file-reputation" => &[Kind::Sha256, Kind::Sha1, Kind::Md5],
            "web-reputation" => &[Kind::Domain, Kind::Url, Kind::Ip],
            _ => &[],
        }
    }

    /// Whether a file can be used as this component. A component that this version does not know is taken as
    /// it is: whoever uses it judges it.
    ///
    /// # Errors
    /// Why it cannot, in words.
    pub fn check(&self, file: &Path) -> Result<(), String> {
        if self.is_made_here() {
            return Err(format!("a server makes {self} itself, and takes it from no repository"));
        }
        if fact_of(&self.0).is_some() {
            return check_filter(file);
        }
        let kinds = self.kinds();
        if kinds.is_empty() {
            return Ok(());
        }
        let list = List::open(file).map_err(|error| error.to_string())?;
        if kinds.contains(&list.kind()) {
            return Ok(());
        }
        let wanted = kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
        Err(format!(
            "{}: it is a list of kind {}, and {self} is one of: {wanted}",
            file.display(),
            list.kind()
        ))
    }
}

/// Agents hold it, so it is no longer than they take.
fn check_filter(file: &Path) -> Result<(), String> {
    let shown = file.display();
    let bytes = fs::metadata(file).map_err(|error| format!("{shown}: {error}"))?.len();
    if bytes > MAX_AGENT_COMPONENT_BYTES {
        return Err(format!(
            "{shown}: it has {bytes} bytes, and agents take {MAX_AGENT_COMPONENT_BYTES} at most"
        ));
    }
    let content = fs::read(file).map_err(|error| format!("{shown}: {error}"))?;
    Filter::from_bytes(content).map(|_| ()).map_err(|error| format!("{shown}: it is no filter: {error}"))
}

/// One version of a component, as the repository's signed metadata describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which version.
    pub version: Version,
    /// SHA-256 of the file.
    #[serde(with = "hex_digest")]
    pub sha256: Digest,
    /// Its length.
    pub bytes: u64,
}

pub(crate) mod hex_digest {
    //! A digest as 64 hex digits.

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use writ_protocol::id::Digest;

    pub(crate) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(|_| D::Error::custom("not 64 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        for good in ["file-reputation", "a", "7zip", &"x".repeat(64)] {
            assert_eq!(good.parse::<Name>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "../a", "a/b", "a.b", "A", "ä", ".", "a b", "a\n", &"x".repeat(65)] {
            assert!(matches!(bad.parse::<Name>(), Err(InvalidName::Name(_))), "{bad}");
        }
        for good in ["2026-11-29", "1.0+b_7", "3", &"9".repeat(64)] {
            assert_eq!(good.parse::<Version>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", ".1", "a/b", "1 2", "ä", "1\0", &"9".repeat(65)] {
            assert!(matches!(bad.parse::<Version>(), Err(InvalidName::Version(_))), "{bad}");
        }
    }
}
