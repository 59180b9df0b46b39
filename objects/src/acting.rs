//! Which of all objects act.

use std::collections::HashMap;

use writ_protocol::time::Timestamp;

use crate::{Object, ObjectType, Source};

/// How an object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It acts.
    Acts,
    /// Its time is over.
    Expired,
    /// An operator says that this value is none.
    Excepted,
    /// A greater source has an object of the same value, which counts instead.
    Overruled,
}

impl Standing {
    /// How an object stands: whether its value is excepted, and whether a greater source has an object of this
    /// value whose time is not over.
    #[must_use]
    pub fn of(object: &Object, is_excepted: bool, is_ruled: bool, now: Timestamp) -> Self {
        let is_over = object.expires_at.is_some_and(|end| end <= now);
        match () {
            () if is_excepted => Self::Excepted,
            () if is_over => Self::Expired,
            () if is_ruled => Self::Overruled,
            () => Self::Acts,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acts => "acts",
            Self::Expired => "expired",
            Self::Excepted => "excepted",
            Self::Overruled => "overruled",
        }
    }
}

/// An object and how it stands.
pub type Act<'a> = (&'a Object, Standing);

/// How each object stands at a moment, in their order. An exception is above all, then the object of the
/// greatest source whose time is not over.
pub fn acting<'a>(
    objects: &'a [Object],
    is_excepted: impl Fn(ObjectType, &str) -> bool,
    now: Timestamp,
) -> Vec<Act<'a>> {
    let is_over = |object: &Object| object.expires_at.is_some_and(|end| end <= now);
    let mut greatest: HashMap<(ObjectType, &str), Source> = HashMap::new();
    for object in objects.iter().filter(|object| !is_over(object)) {
        let source = greatest.entry((object.kind(), object.value())).or_insert(object.source);
        *source = object.source.max(*source);
    }
    let standing = |object: &Object| {
        let is_ruled =
            greatest.get(&(object.kind(), object.value())).is_some_and(|source| *source > object.source);
        Standing::of(object, is_excepted(object.kind(), object.value()), is_ruled, now)
    };
    objects.iter().map(|object| (object, standing(object))).collect()
}

#[cfg(test)]
mod tests {
    use writ_protocol::command::Remedy;

    use super::*;

    #[test]
    fn an_exception_wins_then_the_operator_then_time() {
        let now = Timestamp::from_millis(10);
        let object = |value: &str, source, end: Option<u64>| {
            let mut object = Object::new(ObjectType::Domain, value, Remedy::Block, source).unwrap();
            object.expires_at = end.map(Timestamp::from_millis);
            object
        };
        let objects = [
            object("a.example", Source::Analysed, None),
            object("b.example", Source::Analysed, None),
            object("b.example", Source::Operator, None),
            object("c.example", Source::Analysed, Some(10)),
            object("d.example", Source::Analysed, Some(11)),
            object("e.example", Source::Analysed, None),
            object("e.example", Source::Operator, Some(9)),
            object("f.example", Source::Operator, None),
            object("g.example", Source::Analysed, None),
            object("g.example", Source::Manager, None),
            object("h.example", Source::Manager, None),
            object("h.example", Source::Operator, None),
        ];
        let standings: Vec<_> = acting(&objects, |_, value| matches!(value, "a.example" | "f.example"), now)
            .into_iter()
            .map(|(_, standing)| standing)
            .collect();
        use Standing::{Acts, Excepted, Expired, Overruled};
        let of_operators = [Excepted, Overruled, Acts, Expired, Acts, Acts, Expired, Excepted];
        assert_eq!(standings[..8], of_operators);
        assert_eq!(standings[8..], [Overruled, Acts, Overruled, Acts]);
    }
}
