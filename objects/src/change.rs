//! How a manager tells a server what acts: a change of the list that the server holds, or the whole list as a
//! change of nothing.

use std::collections::BTreeMap;

use prost::Message as _;
use writ_proto::manager::v1 as proto;
use writ_protocol::command::Remedy;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

use crate::list::has_at_most;
use crate::service::Received;
use crate::{MAX_OBJECTS, Object, ObjectType, Source};

/// How a change is encoded.
const FORMAT: u32 = 1;

/// Bytes that are no change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no change of objects: {0}")]
pub struct InvalidChange(String);

/// A change of the objects that act at a manager.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectsChange {
    /// New, or in the place of what has the same type and value.
    pub put: Vec<Object>,
    /// They act no more.
    pub gone: Vec<(ObjectType, String)>,
}

impl ObjectsChange {
    /// As it is sent. The same change is the same bytes, whatever its order was.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let object = |object: &Object| proto::ManagedObject {
            r#type: object.kind().to_string(),
            value: object.value().to_owned(),
            remedy: object.remedy().as_str().to_owned(),
            expires_at_ms: object.expires_at.map_or(0, Timestamp::as_millis),
            note: object.note().to_owned(),
        };
        let name = |(kind, value): &(ObjectType, String)| proto::ManagedObject {
            r#type: kind.to_string(),
            value: value.clone(),
            ..proto::ManagedObject::default()
        };
        let mut put: Vec<_> = self.put.iter().collect();
        put.sort_by(|one, next| (one.kind(), one.value()).cmp(&(next.kind(), next.value())));
        let mut gone: Vec<_> = self.gone.iter().collect();
        gone.sort();
        let (put, gone) = (put.into_iter().map(object).collect(), gone.into_iter().map(name).collect());
        proto::ObjectsChange { format: FORMAT, put, gone }.encode_to_vec()
    }

    /// As it came.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidChange> {
        let invalid = |error: &dyn std::fmt::Display| InvalidChange(error.to_string());
        if !has_at_most(bytes, 2 * MAX_OBJECTS + 1) {
            return Err(InvalidChange(format!("it has more than {MAX_OBJECTS} objects")));
        }
        let message = proto::ObjectsChange::decode(bytes).map_err(|error| invalid(&error))?;
        let proto::ObjectsChange { format, put, gone } = message;
        if format != FORMAT {
            return Err(InvalidChange(format!("its format is {format}, and this version knows {FORMAT}")));
        }
        if put.len() > MAX_OBJECTS || gone.len() > MAX_OBJECTS {
            return Err(InvalidChange(format!("it has more than {MAX_OBJECTS} objects")));
        }
        let object = |object: proto::ManagedObject| {
            let proto::ManagedObject { r#type, value, remedy, expires_at_ms, note } = object;
            let kind: ObjectType = r#type.parse().map_err(|error| invalid(&error))?;
            let remedy = Remedy::from_name(&remedy)
                .ok_or_else(|| InvalidChange(format!("`{}` is no remedy", remedy.escape_debug())))?;
            let object = Object::new(kind, &value, remedy, Source::Manager);
            let mut object =
                object.and_then(|object| object.with_note(&note)).map_err(|error| invalid(&error))?;
            object.expires_at = (expires_at_ms > 0).then(|| Timestamp::from_millis(expires_at_ms));
            Ok(object)
        };
        let name = |name: proto::ManagedObject| {
            let kind: ObjectType = name.r#type.parse().map_err(|error| invalid(&error))?;
            let value = kind.canonical(&name.value).map_err(|error| invalid(&error))?;
            Ok((kind, value))
        };
        Ok(Self {
            put: put.into_iter().map(object).collect::<Result<_, _>>()?,
            gone: gone.into_iter().map(name).collect::<Result<_, _>>()?,
        })
    }

    /// The list that comes of it, as a change of nothing; its digest is what both sides compare.
    #[must_use]
    pub fn after(&self, held: Vec<Object>) -> Self {
        let name = |object: &Object| (object.kind(), object.value().to_owned());
        let mut all: BTreeMap<_, _> = held.into_iter().map(|object| (name(&object), object)).collect();
        for gone in &self.gone {
            all.remove(gone);
        }
        all.extend(self.put.iter().map(|object| (name(object), object.clone())));
        Self { put: all.into_values().collect(), gone: Vec::new() }
    }

    /// What a list is known by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// As a store takes it.
    #[must_use]
    pub fn received(self, is_whole: bool) -> Received {
        let Self { put, gone } = self;
        Received { is_whole, put, gone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &str, remedy: Remedy) -> Object {
        Object::new(ObjectType::Domain, value, remedy, Source::Manager).unwrap().with_note("why").unwrap()
    }

    fn gone(value: &str) -> (ObjectType, String) {
        (ObjectType::Domain, value.to_owned())
    }

    #[test]
    fn a_change_comes_back_as_it_was_in_one_order() {
        let mut ends = object("a.example", Remedy::Block);
        ends.expires_at = Some(Timestamp::from_millis(7));
        let (first, last) = (object("b.example", Remedy::Log), ends);
        let change = ObjectsChange {
            put: vec![first.clone(), last.clone()],
            gone: vec![gone("d.example"), gone("c.example")],
        };
        let came = ObjectsChange::decode(&change.encode()).unwrap();
        assert_eq!(
            came,
            ObjectsChange { put: vec![last, first], gone: vec![gone("c.example"), gone("d.example")] }
        );
        assert_eq!(came.digest(), change.digest());
        assert!(came.digest() != ObjectsChange::default().digest());
    }

    #[test]
    fn what_is_none_is_refused() {
        let spoil = |change: fn(&mut proto::ObjectsChange)| {
            let whole =
                ObjectsChange { put: vec![object("a.example", Remedy::Log)], gone: vec![gone("b.example")] };
            let mut message = proto::ObjectsChange::decode(whole.encode().as_slice()).unwrap();
            change(&mut message);
            ObjectsChange::decode(&message.encode_to_vec()).unwrap_err().to_string()
        };
        assert!(spoil(|it| it.format = 2).contains("its format is 2"));
        assert!(spoil(|it| it.put[0].r#type = "md5".to_owned()).contains("no type of object"));
        assert!(spoil(|it| it.put[0].remedy = "\u{1b}".to_owned()).contains("no remedy"));
        assert!(spoil(|it| it.put[0].remedy = "quarantine".to_owned()).contains("only files"));
        assert!(spoil(|it| it.put[0].note = "a\nb".to_owned()).contains("no control characters"));
        assert!(spoil(|it| it.gone[0].value = "com".to_owned()).contains("one word"));
        assert!(spoil(|it| it.put = vec![it.put[0].clone(); MAX_OBJECTS + 1]).contains("more than 100000"));
        ObjectsChange::decode(b"\xff").unwrap_err();
        let empty = [0x12, 0].repeat(2 * MAX_OBJECTS + 2);
        assert!(ObjectsChange::decode(&empty).unwrap_err().to_string().contains("more than 100000"));
    }

    #[test]
    fn a_list_after_a_change_is_the_one_that_the_manager_has() {
        let held = vec![object("a.example", Remedy::Log), object("b.example", Remedy::Log)];
        let change = ObjectsChange {
            put: vec![object("b.example", Remedy::Block), object("c.example", Remedy::Log)],
            gone: vec![gone("a.example"), gone("x.example")],
        };
        let after = change.after(held);
        let whole = ObjectsChange {
            put: vec![object("c.example", Remedy::Log), object("b.example", Remedy::Block)],
            gone: Vec::new(),
        };
        assert_eq!(after.digest(), whole.digest());
        assert_eq!(whole.after(Vec::new()).digest(), whole.digest());
    }
}
