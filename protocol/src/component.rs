//! Components: versioned files that servers and agents use. How they are called, and which agents have a use
//! for.

use crate::id::Digest;

/// Bytes in a name, and in a version.
const MAX_BYTES: usize = 64;

/// The suspicious objects that act. A server makes it itself: no repository has it.
pub const SUSPICIOUS_OBJECTS: &str = "suspicious-objects";

/// What agents of this version hold, and the fact by which each says which version it holds.
pub const OF_AGENTS: [(&str, &str); 3] = [
    ("file-reputation-filter", "file_reputation_filter"),
    (SUSPICIOUS_OBJECTS, "suspicious_objects"),
    ("web-reputation-filter", "web_reputation_filter"),
];

/// What the components are called by which agents are upgraded: this, and a kind of package.
const PACKAGE_PREFIX: &str = "agent-";

/// The component that holds the package of a kind, such as `deb-amd64` or `program-arm64`.
#[must_use]
pub fn package_of(kind: &str) -> String {
    format!("{PACKAGE_PREFIX}{kind}")
}

/// Whether a component is a package of the agent itself.
#[must_use]
pub fn is_package(component: &str) -> bool {
    is_component_name(component)
        && component.strip_prefix(PACKAGE_PREFIX).is_some_and(|kind| !kind.is_empty())
}

/// Whether a text may name a component. It is never a path.
#[must_use]
pub fn is_component_name(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.starts_with('-') && (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(is_fine)
}

/// Whether a text may be a version.
#[must_use]
pub fn is_component_version(text: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    begins_well && (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(is_fine)
}

/// The fact by which an agent says which version of a component it holds; `None`: it has no use for that.
#[must_use]
pub fn fact_of(component: &str) -> Option<&'static str> {
    OF_AGENTS.into_iter().find(|(name, _)| *name == component).map(|(_, fact)| fact)
}

/// The value of that fact: the version for people, and enough of the digest that two files are never taken
/// for one.
#[must_use]
pub fn held_as(version: &str, sha256: Digest) -> String {
    format!("{version}~{}", &sha256.to_string()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::FACTS;

    #[test]
    fn each_component_of_agents_has_a_fact_of_the_closed_list() {
        for (name, fact) in OF_AGENTS {
            assert!(is_component_name(name) && FACTS.contains(&fact), "{name}");
            assert_eq!(fact_of(name), Some(fact));
        }
        assert_eq!(fact_of("tool"), None);
        assert!(FACTS.is_sorted());
    }
}
