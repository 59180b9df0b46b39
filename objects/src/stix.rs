//! STIX 2.1 (OASIS, 2021): which of its indicators are objects, and why others are none.
//!
//! An indicator's pattern says what has to be seen. Only what is bad by itself becomes an object: each value
//! of an OR, and the SHA-256 of a file however much more is said about it. What is bad only together with
//! something else would accuse the innocent.

mod pattern;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use crate::{Object, ObjectType, Source};
use pattern::Pattern;

/// STIX objects in one bundle or envelope.
const MAX_STIX_OBJECTS: usize = 200_000;

/// Bytes of one of them: a pattern has at most a quarter of that.
const MAX_THING: usize = 1 << 20;
/// Values that the indicators of one name together: more would not be kept.
const MAX_VALUES: usize = 2 * crate::MAX_OBJECTS;

/// Text that holds no STIX objects.
#[derive(Debug, thiserror::Error)]
pub enum NotStix {
    /// It is no JSON, or none of STIX.
    #[error("it is no STIX: {0}")]
    Json(#[from] serde_json::Error),
    /// More than is taken of one.
    #[error("its indicators name more than {MAX_VALUES} values; divide it")]
    TooMany,
    /// It is something else.
    #[error("it is no STIX: neither a bundle, nor one of its objects, nor an envelope of TAXII")]
    None,
}

/// What is wanted of indicators.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What is done where a file is met.
    pub of_files: Remedy,
    /// What is done where anything else is met; quarantine is block.
    pub of_others: Remedy,
    /// The least confidence, 0 to 100. What says none is taken.
    pub confidence: u8,
    /// The present.
    pub now: Timestamp,
}

/// What became of one STIX object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Its id, or where it stands if it has none.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Objects that it names.
    pub objects: Vec<Object>,
    /// Values that it named and that it takes back: it was revoked.
    pub revoked: Vec<(ObjectType, String)>,
    /// What of it is not taken, and why.
    pub left: Vec<String>,
}

#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    objects: Option<Things>,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    more: Option<bool>,
}

/// Objects, of which no more are kept than are read.
struct Things(Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Things {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = Things;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Things, A::Error> {
                let mut things = Vec::new();
                while let Some(thing) = all.next_element()? {
                    if things.len() == MAX_STIX_OBJECTS {
                        let text = format!("it has more than {MAX_STIX_OBJECTS} objects; divide it");
                        return Err(A::Error::custom(text));
                    }
                    things.push(thing);
                }
                Ok(Things(things))
            }
        }
        from.deserialize_seq(Reads)
    }
}

#[derive(Deserialize)]
struct Indicator {
    id: String,
    #[serde(default)]
    name: String,
    pattern: String,
    /// Of STIX 2.0 there was one language.
    #[serde(default = "stix")]
    pattern_type: String,
    #[serde(default)]
    revoked: bool,
    #[serde(default)]
    confidence: Option<u8>,
    #[serde(default)]
    valid_from: Option<String>,
    #[serde(default)]
    valid_until: Option<String>,
    #[serde(default)]
    modified: Option<String>,
    #[serde(default)]
    indicator_types: Vec<String>,
    /// Where STIX 2.0 has that.
    #[serde(default)]
    labels: Vec<String>,
}

fn stix() -> String {
    "stix".to_owned()
}

/// Reads a bundle of STIX, or an envelope of TAXII 2.1, and says of each object what is taken. Of several
/// versions of one object the latest counts. What this version does not know, such as extensions, is passed
/// over.
///
/// # Errors
/// When the text is none of these, or too long.
pub fn read(text: &[u8], wanted: Wanted) -> Result<Vec<Read>, NotStix> {
    // An array would be read as a bundle's fields in their order.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(NotStix::None);
    }
    let Bundle { objects, kind, more } = serde_json::from_slice(text)?;
    let objects = match objects {
        Some(Things(objects)) => objects,
        // They may have nothing in them.
        None if kind == "bundle" || more.is_some() => Vec::new(),
        None if kind.is_empty() => return Err(NotStix::None),
        None => vec![serde_json::from_slice(text)?],
    };
    let mut values = 0;
    let mut latest: BTreeMap<String, (Timestamp, usize)> = BTreeMap::new();
    let mut indicators = Vec::new();
    let mut told = Vec::new();
    for (place, object) in objects.into_iter().enumerate() {
        // One at a time: as values they take many times as much memory as text.
        if object.get().len() > MAX_THING {
            let why = format!("it has {} bytes, and {MAX_THING} are read", object.get().len());
            let id = format!("object {}", place + 1);
            let (name, objects, revoked) = (String::new(), Vec::new(), Vec::new());
            told.push(Read { id, name, objects, revoked, left: vec![why] });
            continue;
        }
        let object: Value = serde_json::from_str(object.get())?;
        let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (id, kind) = (field("id"), field("type"));
        let id = if id.is_empty() { format!("object {}", place + 1) } else { short(&id) };
        let left = |why: String| Read {
            id: id.clone(),
            name: short(&field("name")),
            objects: Vec::new(),
            revoked: Vec::new(),
            left: vec![why],
        };
        if kind != "indicator" {
            let what = if kind.is_empty() { "nothing".to_owned() } else { format!("`{}`", short(&kind)) };
            told.push(left(format!("it is {what}, and no indicator")));
            continue;
        }
        let read = match Indicator::deserialize(&object) {
            Ok(read) => read,
            Err(error) => {
                told.push(left(format!("it is no indicator of STIX: {}", short(&error.to_string()))));
                continue;
            }
        };
        let modified = read.modified.as_deref().and_then(moment).unwrap_or_default();
        let known = latest.entry(read.id.clone()).or_insert((modified, place));
        if modified >= known.0 {
            *known = (modified, place);
        }
        indicators.push((place, read));
    }
    for (place, indicator) in indicators {
        if latest.get(&indicator.id).is_some_and(|(_, newest)| *newest == place) {
            let read = taken(&indicator, wanted);
            values += read.objects.len() + read.revoked.len();
            if values > MAX_VALUES {
                return Err(NotStix::TooMany);
            }
            told.push(read);
        }
    }
    Ok(told)
}

/// All that was taken, each value once: with the latest end and the strongest remedy that anybody gave it.
/// And all that was revoked, but for what something else in there still names.
#[must_use]
pub fn merged(all: &[Read]) -> (Vec<Object>, Vec<(ObjectType, String)>) {
    let mut named: BTreeMap<(ObjectType, String), Vec<Object>> = BTreeMap::new();
    for object in all.iter().flat_map(|read| &read.objects) {
        named.entry((object.kind(), object.value().to_owned())).or_default().push(object.clone());
    }
    let objects: BTreeMap<_, _> =
        named.into_iter().filter_map(|(about, same)| Some((about, merge(same)?))).collect();
    let mut revoked: Vec<_> = all.iter().flat_map(|read| read.revoked.clone()).collect();
    revoked.retain(|about| !objects.contains_key(about));
    revoked.sort();
    revoked.dedup();
    (objects.into_values().collect(), revoked)
}

/// One object of several of one value: with the latest end and the strongest remedy that any of them has, of
/// equal ones the first.
pub fn merge(same: impl IntoIterator<Item = Object>) -> Option<Object> {
    same.into_iter().reduce(|known, object| {
        let expires_at = known.expires_at.zip(object.expires_at).map(|(one, other)| one.max(other));
        let mut stronger = if object.remedy() > known.remedy() { object } else { known };
        stronger.expires_at = expires_at;
        stronger
    })
}

/// What is taken of an indicator.
fn taken(indicator: &Indicator, wanted: Wanted) -> Read {
    let mut read = Read {
        id: short(&indicator.id),
        name: short(&indicator.name),
        objects: Vec::new(),
        revoked: Vec::new(),
        left: Vec::new(),
    };
    let pattern = match reason_to_leave(indicator, wanted) {
        Some(why) => {
            read.left.push(why);
            return read;
        }
        None => Pattern::parse(&indicator.pattern),
    };
    let found = match pattern {
        Ok(pattern) => pattern.alone(),
        Err(why) => {
            read.left.push(format!("its pattern cannot be read: {why}"));
            return read;
        }
    };
    read.left = found.left;
    let end = indicator.valid_until.as_deref().and_then(moment);
    for (kind, value) in found.values {
        let remedy = if kind.is_file() { wanted.of_files } else { wanted.of_others.min(Remedy::Block) };
        let note = format!("{} {}", read.id, read.name);
        let note: String = note.trim().chars().filter(|c| !c.is_control()).take(120).collect();
        let object = Object::new(kind, &value, remedy, Source::Analysed);
        match object.and_then(|object| object.with_note(&note)) {
            Ok(object) if indicator.revoked => {
                read.revoked.push((object.kind(), object.value().to_owned()));
            }
            Ok(mut object) => {
                object.expires_at = end;
                read.objects.push(object);
            }
            Err(error) => read.left.push(error.to_string()),
        }
    }
    read
}

/// Why nothing of an indicator is taken, whatever its pattern says.
fn reason_to_leave(indicator: &Indicator, wanted: Wanted) -> Option<String> {
    if indicator.pattern_type != "stix" {
        return Some(format!("its pattern is of `{}`, and not of STIX", short(&indicator.pattern_type)));
    }
    // What was revoked is taken back, however it stood before.
    if indicator.revoked {
        return None;
    }
    if indicator.indicator_types.iter().chain(&indicator.labels).any(|kind| kind == "benign") {
        return Some("it says that what it names is benign".to_owned());
    }
    if let Some(confidence) = indicator.confidence
        && confidence < wanted.confidence
    {
        return Some(format!("its confidence is {confidence}, and {} is wanted", wanted.confidence));
    }
    for (name, text) in [("valid_from", &indicator.valid_from), ("valid_until", &indicator.valid_until)] {
        if text.as_deref().is_some_and(|text| moment(text).is_none()) {
            return Some(format!("its {name} is no time of RFC 3339"));
        }
    }
    if indicator.valid_from.as_deref().and_then(moment).is_some_and(|from| from > wanted.now) {
        return Some("it is not valid yet".to_owned());
    }
    if indicator.valid_until.as_deref().and_then(moment).is_some_and(|until| until <= wanted.now) {
        return Some("it is not valid any more".to_owned());
    }
    None
}

fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// A text of somebody else, no more of it than helps.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn wanted() -> Wanted {
        Wanted { of_files: Remedy::Quarantine, of_others: Remedy::Quarantine, confidence: 50, now: NOW }
    }

    /// An indicator with more fields after its pattern.
    fn indicator(id: &str, pattern: &str, more: &str) -> String {
        let pattern = serde_json::to_string(pattern).unwrap();
        format!(
            r#"{{"type":"indicator","spec_version":"2.1","id":"indicator--{id}","created":"2026-01-01T00:00:00.000Z",
               "modified":"2026-01-01T00:00:00.000Z","name":"{id}","pattern":{pattern},"pattern_type":"stix",
               "valid_from":"2026-01-01T00:00:00Z"{more}}}"#
        )
    }

    fn bundle(objects: &[String]) -> Vec<Read> {
        let text = format!(r#"{{"type":"bundle","id":"bundle--1","objects":[{}]}}"#, objects.join(","));
        read(text.as_bytes(), wanted()).unwrap()
    }

    fn one(pattern: &str, more: &str) -> Read {
        bundle(&[indicator("1", pattern, more)]).remove(0)
    }

    #[test]
    fn what_an_indicator_names_is_taken_with_its_end_and_a_note_of_it() {
        let file = "ab".repeat(32);
        let pattern = format!("[file:hashes.'SHA-256' = '{file}' OR domain-name:value = 'Evil.example']");
        let more = r#","confidence":80,"valid_until":"2027-01-01T00:00:00.000Z","indicator_types":["malicious-activity"],
            "extensions":{"extension-definition--1":{"extension_type":"property-extension","rank":5}},"labels":["x"],
            "object_marking_refs":["marking-definition--1"],"lang":"en","revoked":false,"kill_chain_phases":[]"#;
        let read = one(&pattern, more);
        assert_eq!((read.revoked.len(), read.left.len()), (0, 0), "{read:?}");
        let said: Vec<_> = read
            .objects
            .iter()
            .map(|object| (object.kind(), object.value(), object.remedy(), object.source, object.note()))
            .collect();
        let note = "indicator--1 1";
        assert_eq!(
            said,
            [
                (ObjectType::Sha256, file.as_str(), Remedy::Quarantine, Source::Analysed, note),
                (ObjectType::Domain, "evil.example", Remedy::Block, Source::Analysed, note),
            ]
        );
        assert!(
            read.objects
                .iter()
                .all(|object| object.expires_at == Some("2027-01-01T00:00:00Z".parse().unwrap()))
        );
    }

    #[test]
    fn what_was_revoked_is_taken_back_and_what_does_not_count_is_told() {
        let pattern = "[ipv4-addr:value = '192.0.2.7']";
        let revoked = one(pattern, r#","revoked":true,"confidence":1,"valid_until":"2026-02-01T00:00:00Z""#);
        assert_eq!(revoked.revoked, [(ObjectType::Ip, "192.0.2.7".to_owned())]);
        assert!(revoked.objects.is_empty());
        for (more, why) in [
            (r#","confidence":49"#, "its confidence is 49, and 50 is wanted"),
            (r#","valid_until":"2026-02-01T00:00:00Z""#, "it is not valid any more"),
            (r#","valid_until":"soon""#, "its valid_until is no time"),
            (r#","indicator_types":["benign"]"#, "benign"),
            (r#","labels":["benign"]"#, "benign"),
        ] {
            let read = one(pattern, more);
            assert!(read.objects.is_empty() && read.left[0].contains(why), "{more}: {read:?}");
        }
        let later = indicator("1", pattern, "").replace("\"valid_from\":\"2026", "\"valid_from\":\"2036");
        assert!(bundle(&[later])[0].left[0].contains("not valid yet"));
        let sigma = indicator("1", "title: x", "").replace("\"stix\"", "\"sigma\"");
        assert!(bundle(&[sigma])[0].left[0].contains("of `sigma`, and not of STIX"));
        let of_2_0 = indicator("1", pattern, "").replace("\"pattern_type\":\"stix\",", "");
        assert_eq!(bundle(&[of_2_0])[0].objects.len(), 1);
        // A value that is none, beside one that is.
        let read = one("[ipv4-addr:value IN ('192.0.2.7', '192.0.2.777')]", "");
        assert_eq!((read.objects.len(), read.left.len()), (1, 1), "{read:?}");
    }

    #[test]
    fn other_things_are_named_and_of_several_versions_the_latest_counts() {
        let newer = indicator("1", "[ipv4-addr:value = '192.0.2.2']", "")
            .replace("\"modified\":\"2026-01", "\"modified\":\"2026-03");
        let older = indicator("1", "[ipv4-addr:value = '192.0.2.1']", "");
        for objects in [[newer.clone(), older.clone()], [older, newer]] {
            let read = bundle(&objects);
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].objects[0].value(), "192.0.2.2");
        }
        let others = [
            r#"{"type":"malware","id":"malware--1","name":"x","is_family":false}"#.to_owned(),
            r#"{"type":"relationship","id":"relationship--1"}"#.to_owned(),
            r#"{"type":"indicator","id":"indicator--1"}"#.to_owned(),
            "{}".to_owned(),
            "7".to_owned(),
        ];
        let read = bundle(&others);
        let why: Vec<_> = read.iter().map(|read| read.left[0].as_str()).collect();
        assert!(why[0].contains("`malware`") && why[1].contains("`relationship`"), "{why:?}");
        assert!(why[2].contains("missing field `pattern`"), "{why:?}");
        assert!(why[3].contains("it is nothing") && why[4].contains("it is nothing"), "{why:?}");
        assert_eq!(read[3].id, "object 4");
    }

    #[test]
    fn a_value_of_several_indicators_is_one_object_and_is_not_revoked_by_one_of_them() {
        let pattern = "[ipv4-addr:value = '192.0.2.7']";
        let ends = r#","valid_until":"2036-01-01T00:00:00Z""#;
        let mut all = bundle(&[indicator("1", pattern, ""), indicator("2", pattern, ends)]);
        all.extend(bundle(&[indicator("3", pattern, r#","revoked":true"#)]));
        let other = "[ipv4-addr:value = '192.0.2.8']";
        all.extend(bundle(&[indicator("4", other, r#","revoked":true"#)]));
        let (objects, revoked) = merged(&all);
        assert_eq!((objects.len(), objects[0].expires_at), (1, None));
        assert_eq!(revoked, [(ObjectType::Ip, "192.0.2.8".to_owned())]);
    }

    #[test]
    fn an_envelope_of_taxii_is_read_and_what_is_none_is_refused() {
        let text = format!(
            r#"{{"more":false,"objects":[{}]}}"#,
            indicator("1", "[url:value = 'http://a.example/']", "")
        );
        assert_eq!(read(text.as_bytes(), wanted()).unwrap()[0].objects.len(), 1);
        assert!(read(b"{\"more\": false}", wanted()).unwrap().is_empty());
        let alone = indicator("1", "[url:value = 'http://a.example/']", "");
        assert_eq!(read(alone.as_bytes(), wanted()).unwrap()[0].objects.len(), 1);
        for text in ["{}", "{\"x\": 7}"] {
            assert!(
                read(text.as_bytes(), wanted()).unwrap_err().to_string().contains("neither a bundle"),
                "{text}"
            );
        }
        let many = format!("{{\"objects\":[{}0]}}", "0,".repeat(MAX_STIX_OBJECTS));
        let said = read(many.as_bytes(), wanted()).unwrap_err().to_string();
        assert!(said.contains("more than 200000 objects"), "{said}");
        for text in ["", "[]", "{\"objects\":7}", "<stix/>"] {
            assert!(
                read(text.as_bytes(), wanted()).unwrap_err().to_string().contains("it is no STIX"),
                "{text}"
            );
        }
    }
}
