//! What a scan looks for: the values of a list, by its filter, and suspicious files.

use std::collections::HashMap;

use writ_lists::{Filter, Key, Kind};
use writ_objects::{List, ObjectType};
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use super::hash::Hasher;

/// What an agent compares files with.
#[derive(Debug)]
pub(super) struct Wanted {
    filter: Option<Filter>,
    sha256: HashMap<Key, Remedy>,
    sha1: HashMap<Key, Remedy>,
}

/// What is known of a file by its digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// It is a suspicious object, of this kind and digest: the one with the strongest remedy.
    pub(super) object: Option<(Kind, Key, Remedy)>,
    /// It may be on the list, by its digest of this kind.
    pub(super) maybe: Option<(Kind, Key)>,
}

impl Wanted {
    /// Of a filter, and of objects whose time is not over.
    pub(super) fn of(filter: Option<Filter>, objects: Option<&List>, now: Timestamp) -> Self {
        let mut wanted = Self { filter, sha256: HashMap::new(), sha1: HashMap::new() };
        for object in objects.map_or(&[][..], List::objects) {
            if object.expires_at.is_some_and(|end| end <= now) {
                continue;
            }
            let (kind, known) = match object.kind() {
                ObjectType::Sha256 => (Kind::Sha256, &mut wanted.sha256),
                ObjectType::Sha1 => (Kind::Sha1, &mut wanted.sha1),
                ObjectType::Domain | ObjectType::Url | ObjectType::Ip | ObjectType::Cidr => continue,
            };
            if let Ok(key) = kind.key(object.value()) {
                known.insert(key, object.remedy());
            }
        }
        wanted
    }

    /// The filter of the list, if one is held.
    pub(super) const fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.filter.is_none() && self.sha256.is_empty() && self.sha1.is_empty()
    }

    /// What makes the digests that are wanted, each once.
    pub(super) fn hashers(&self) -> Vec<(Kind, Hasher)> {
        let of_filter = self.filter.as_ref().map(Filter::kind);
        let is_wanted = |kind| {
            of_filter == Some(kind)
                || (kind == Kind::Sha256 && !self.sha256.is_empty())
                || (kind == Kind::Sha1 && !self.sha1.is_empty())
        };
        let wanted = [Kind::Sha256, Kind::Sha1, Kind::Md5].into_iter().filter(|kind| is_wanted(*kind));
        wanted.filter_map(|kind| Some((kind, Hasher::of(kind)?))).collect()
    }

    /// What is known of a file with these digests; `None`: nothing.
    pub(super) fn look(&self, digests: &[(Kind, Key)]) -> Option<Match> {
        let objects = digests.iter().filter_map(|(kind, key)| {
            let known = match kind {
                Kind::Sha256 => self.sha256.get(key),
                Kind::Sha1 => self.sha1.get(key),
                Kind::Md5 | Kind::Domain | Kind::Url | Kind::Ip => None,
            };
            known.map(|remedy| (*kind, *key, *remedy))
        });
        let object = objects.max_by_key(|(_, _, remedy)| *remedy);
        let filter = self.filter.as_ref();
        let maybe = filter.and_then(|filter| {
            let (kind, key) = digests.iter().find(|(kind, _)| *kind == filter.kind())?;
            filter.may_contain(key).then_some((*kind, *key))
        });
        (object.is_some() || maybe.is_some()).then_some(Match { object, maybe })
    }
}

#[cfg(test)]
mod tests {
    use writ_lists::Builder;
    use writ_objects::{Object, Source};

    use super::*;

    #[test]
    fn an_object_is_known_for_sure_and_what_is_over_is_none() {
        let now = Timestamp::from_millis(10);
        let (listed, both, over) = ([1; 32], [2; 32], [3; 32]);
        let mut builder = Builder::new(Kind::Sha256);
        for key in [listed, both] {
            builder.add(key).unwrap();
        }
        let filter = builder.sort().unwrap().filter().unwrap();
        let object = |kind, value: String, end: Option<u64>| {
            let mut object = Object::new(kind, &value, Remedy::Block, Source::Analysed).unwrap();
            object.expires_at = end.map(Timestamp::from_millis);
            object
        };
        let list = List::of(vec![
            object(ObjectType::Sha256, "02".repeat(32), Some(11)),
            object(ObjectType::Sha256, "03".repeat(32), Some(10)),
            object(ObjectType::Sha1, "04".repeat(20), None),
            object(ObjectType::Ip, "192.0.2.1".to_owned(), None),
        ])
        .unwrap();
        let wanted = Wanted::of(Some(filter), Some(&list), now);
        let kinds: Vec<_> = wanted.hashers().iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [Kind::Sha256, Kind::Sha1]);
        let mut sha1 = [0; 32];
        sha1[..20].fill(4);
        let object = |kind, key| Some((kind, key, Remedy::Block));
        for (digests, object, maybe) in [
            (vec![(Kind::Sha256, listed)], None, Some((Kind::Sha256, listed))),
            (vec![(Kind::Sha256, both)], object(Kind::Sha256, both), Some((Kind::Sha256, both))),
            (
                vec![(Kind::Sha256, listed), (Kind::Sha1, sha1)],
                object(Kind::Sha1, sha1),
                Some((Kind::Sha256, listed)),
            ),
        ] {
            assert_eq!(wanted.look(&digests), Some(Match { object, maybe }), "{digests:?}");
        }
        assert_eq!(wanted.look(&[(Kind::Sha256, over), (Kind::Sha1, over)]), None);
        assert!(Wanted::of(None, None, now).is_empty());
        assert!(!Wanted::of(None, Some(&list), now).is_empty());
    }
}
