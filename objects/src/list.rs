//! What acts, as agents hold it: an encoded `SuspiciousObjects`, believed for its digest.

use std::cmp::Reverse;

use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use writ_proto::v1 as proto;
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use crate::{Object, ObjectType, Source};

/// Objects that act at a time. An agent holds all of them.
pub const MAX_OBJECTS: usize = 100_000;

/// Characters of all their values: a hundred thousand usual ones, most of them digests, are a fifth of that.
/// Each agent holds them, and gets them anew after each change.
pub const MAX_OBJECT_BYTES: usize = 32 << 20;
/// How the list is encoded.
const FORMAT: u32 = 1;

/// Bytes that are no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no list of objects: {0}")]
pub struct InvalidList(String);

/// Objects that act, by type and value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct List {
    objects: Vec<Object>,
}

impl List {
    /// Of objects, of which no two have one type and value.
    ///
    /// # Errors
    /// When there are more than [`MAX_OBJECTS`].
    pub fn of(mut objects: Vec<Object>) -> Result<Self, InvalidList> {
        if objects.len() > MAX_OBJECTS {
            return Err(InvalidList(format!("{} objects act, and {MAX_OBJECTS} may", objects.len())));
        }
        objects.sort_by(|one, next| (one.kind(), one.value()).cmp(&(next.kind(), next.value())));
        objects.dedup_by(|next, one| (one.kind(), one.value()) == (next.kind(), next.value()));
        Ok(Self { objects })
    }

    /// The objects, in order.
    #[must_use]
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// As agents get it: the same objects are the same bytes. Who said so and why stays at home.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let objects = self.objects.iter().map(|object| proto::SuspiciousObject {
            r#type: kind_to_proto(object.kind()).into(),
            value: object.value().to_owned(),
            remedy: object.remedy().to_proto().into(),
            expires_at_ms: object.expires_at.map_or(0, Timestamp::as_millis),
        });
        proto::SuspiciousObjects { format: FORMAT, objects: objects.collect() }.encode_to_vec()
    }

    /// As it came.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidList> {
        if !has_at_most(bytes, MAX_OBJECTS + 1) {
            return Err(InvalidList(format!("it has more than {MAX_OBJECTS} objects")));
        }
        let message =
            proto::SuspiciousObjects::decode(bytes).map_err(|error| InvalidList(error.to_string()))?;
        if message.format != FORMAT {
            let text = format!("its format is {}, and this version knows {FORMAT}", message.format);
            return Err(InvalidList(text));
        }
        if message.objects.len() > MAX_OBJECTS {
            return Err(InvalidList(format!("it has {} objects", message.objects.len())));
        }
        let read = |object: proto::SuspiciousObject| {
            let proto::SuspiciousObject { r#type, value, remedy, expires_at_ms } = object;
            let kind =
                kind_of_proto(r#type).ok_or_else(|| InvalidList(format!("type {} is unknown", r#type)))?;
            let remedy = Remedy::from_proto(remedy)
                .ok_or_else(|| InvalidList(format!("remedy {remedy} is unknown")))?;
            let object = Object::new(kind, &value, remedy, Source::Analysed);
            let mut object = object.map_err(|error| InvalidList(error.to_string()))?;
            object.expires_at = (expires_at_ms > 0).then(|| Timestamp::from_millis(expires_at_ms));
            Ok(object)
        };
        Ok(Self { objects: message.objects.into_iter().map(read).collect::<Result<_, _>>()? })
    }
}

/// Those objects that have room in a list, and how many are left out because there are more than
/// [`MAX_OBJECTS`], or than [`MAX_OBJECT_BYTES`] of their values: of the least source.
#[must_use]
pub fn fitting(mut objects: Vec<Object>) -> (Vec<Object>, usize) {
    objects.sort_by_key(|object| Reverse(object.source));
    let mut bytes = 0;
    let fits = objects.iter().take(MAX_OBJECTS).take_while(|object| {
        bytes += object.value().len();
        bytes <= MAX_OBJECT_BYTES
    });
    let fits = fits.count();
    let left = objects.len() - fits;
    objects.truncate(fits);
    (objects, left)
}

/// Whether bytes of a message have so many fields at most. An empty one takes two bytes there, and fifty times
/// as many in memory, so it is asked before they are decoded. What is no message has none too many.
pub(crate) fn has_at_most(mut bytes: &[u8], most: usize) -> bool {
    let mut count = 0_usize;
    while !bytes.is_empty() {
        let Ok((tag, wire)) = decode_key(&mut bytes) else { return true };
        if skip_field(wire, tag, &mut bytes, DecodeContext::default()).is_err() {
            return true;
        }
        count += 1;
        if count > most {
            return false;
        }
    }
    true
}

const fn kind_to_proto(kind: ObjectType) -> proto::ObjectType {
    match kind {
        ObjectType::Sha256 => proto::ObjectType::Sha256,
        ObjectType::Sha1 => proto::ObjectType::Sha1,
        ObjectType::Domain => proto::ObjectType::Domain,
        ObjectType::Url => proto::ObjectType::Url,
        ObjectType::Ip => proto::ObjectType::Ip,
        ObjectType::Cidr => proto::ObjectType::Cidr,
    }
}

fn kind_of_proto(kind: i32) -> Option<ObjectType> {
    match proto::ObjectType::try_from(kind).ok()? {
        proto::ObjectType::Unspecified => None,
        proto::ObjectType::Sha256 => Some(ObjectType::Sha256),
        proto::ObjectType::Sha1 => Some(ObjectType::Sha1),
        proto::ObjectType::Domain => Some(ObjectType::Domain),
        proto::ObjectType::Url => Some(ObjectType::Url),
        proto::ObjectType::Ip => Some(ObjectType::Ip),
        proto::ObjectType::Cidr => Some(ObjectType::Cidr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_as_it_was_and_nothing_else_is_one() {
        let object =
            |value: &str| Object::new(ObjectType::Ip, value, Remedy::Block, Source::Analysed).unwrap();
        let mut first = object("192.0.2.1");
        first.expires_at = Some(Timestamp::from_millis(7));
        let list = List::of(vec![object("192.0.2.9"), first, object("192.0.2.9")]).unwrap();
        assert_eq!(list.objects().len(), 2);
        assert_eq!(List::decode(&list.encode()), Ok(list.clone()));
        let spoil = |change: fn(&mut proto::SuspiciousObject)| {
            let mut message = proto::SuspiciousObjects::decode(list.encode().as_slice()).unwrap();
            change(&mut message.objects[0]);
            List::decode(&message.encode_to_vec()).unwrap_err().to_string()
        };
        assert!(spoil(|object| object.r#type = 9).contains("type 9 is unknown"));
        assert!(spoil(|object| object.remedy = 0).contains("remedy 0 is unknown"));
        assert!(spoil(|object| object.remedy = 3).contains("only files can be quarantined"));
        assert!(spoil(|object| object.value.push('x')).contains("is no IP address"));
        List::decode(b"\xff").unwrap_err();
        assert!(List::decode(b"").unwrap_err().to_string().contains("its format is 0"));
        let many = vec![object("192.0.2.1"); MAX_OBJECTS + 1];
        assert!(List::of(many).unwrap_err().to_string().contains("100001 objects act"));
        // Empty ones, two bytes each, are refused before they take memory.
        let empty = [0x12, 0].repeat(MAX_OBJECTS + 2);
        assert!(List::decode(&empty).unwrap_err().to_string().contains("more than 100000 objects"));
    }

    #[test]
    fn of_too_many_those_of_the_least_source_are_left_out() {
        let of = |source, number: u32| {
            let value = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
            Object::new(ObjectType::Ip, &value, Remedy::Block, source).unwrap()
        };
        let most = u32::try_from(MAX_OBJECTS).unwrap();
        let mut objects: Vec<_> = (0..most).map(|number| of(Source::Manager, number)).collect();
        objects.extend((most..most + 3).map(|number| of(Source::Operator, number)));
        let (fits, left) = fitting(objects);
        assert_eq!((fits.len(), left), (MAX_OBJECTS, 3));
        let of_operators = fits.iter().filter(|object| object.source == Source::Operator);
        assert_eq!(of_operators.count(), 3);
    }
}
