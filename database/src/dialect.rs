//! Where databases differ, and values that statements name. Statements are written once: what is not the same
//! everywhere stands here. Their parameters are `?1`, `?2`, …, by number; a database that writes `$1` gets
//! them so where it prepares a statement.

use writ_protocol::id::Digest;

/// A join that takes the left side first. SQLite has no statistics of a file in use and would guess; another
/// database has them, and `JOIN` is enough there (sqlite.org/optoverview.html, "Manual Control Of Query Plans
/// Using CROSS JOIN").
pub const LEFT_FIRST_JOIN: &str = "CROSS JOIN";

/// Parameters that one statement may have: SQLite takes 32,766, others at least that many
/// (sqlite.org/limits.html).
pub const MAX_PARAMETERS: usize = 32_000;

/// `?1, ?2, …`: so many parameters, from a number on.
#[must_use]
pub fn parameters(first: usize, count: usize) -> String {
    let mut list = String::with_capacity(count * 5);
    for number in first..first + count {
        if number > first {
            list.push_str(", ");
        }
        list.push('?');
        list.push_str(&number.to_string());
    }
    list
}

/// The first and the last digest that begin with these hex digits, of either case; `None` for what begins
/// none.
#[must_use]
pub fn digests_like(prefix: &str) -> Option<(Digest, Digest)> {
    let prefix = prefix.to_ascii_lowercase();
    let padded = |digit: char| {
        let missing = 64_usize.checked_sub(prefix.len())?;
        format!("{prefix}{}", String::from(digit).repeat(missing)).parse().ok()
    };
    Some((padded('0')?, padded('f')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_by_how_they_begin() {
        let digest = Digest::of(b"one");
        let text = digest.to_string();
        let is_like =
            |prefix: &str| digests_like(prefix).is_some_and(|(first, last)| (first..=last).contains(&digest));
        assert!(is_like("") && is_like(&text) && is_like(&text[..7]) && is_like(&text[..8].to_uppercase()));
        assert!(!is_like(&Digest::of(b"two").to_string()[..8]));
        for none in ["not hex", "é", &"0".repeat(65)] {
            assert_eq!(digests_like(none), None, "{none}");
        }
    }

    #[test]
    fn parameters_are_numbered_from_where_they_begin() {
        assert_eq!(parameters(3, 2), "?3, ?4");
        assert_eq!(parameters(1, 1), "?1");
        assert_eq!(parameters(1, 0), "");
    }
}
