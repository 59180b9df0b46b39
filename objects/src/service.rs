//! `ObjectService`: what operators say of objects. The same for every program that has an admin port.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::admin::{AdminBackend, Effect, actor, page, unavailable};
use writ_common::status::Failure;
use writ_proto::admin::v1 as proto;
use writ_proto::admin::v1::object_service_server::ObjectService;
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use crate::{Object, ObjectType, Source, Standing};

/// Objects of one call.
const MAX_ADDED: usize = 1000;
/// Objects of one change that are logged one by one.
const MAX_LOGGED: usize = 1000;
/// Exceptions at a time.
pub const MAX_EXCEPTIONS: usize = 10_000;

/// An object as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    /// The object.
    pub object: Object,
    /// Who added it.
    pub added_by: String,
    /// When.
    pub added_at: Timestamp,
}

/// A value that is never an object that acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionRow {
    /// Its type.
    pub kind: ObjectType,
    /// Its value.
    pub value: String,
    /// For people.
    pub note: String,
    /// Who says so.
    pub added_by: String,
    /// Since when.
    pub added_at: Timestamp,
}

/// What is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These are added, or take the place of those of their type, value and source.
    Add(Vec<Object>),
    /// All of this type and value are removed, or those of one source. What a manager or a sandbox said is
    /// theirs to take back.
    Remove(ObjectType, String, Option<Source>),
    /// All of this type and value end then, but for what a manager or a sandbox said.
    Expire(ObjectType, String, Option<Timestamp>),
    /// This type and value is excepted, with a note.
    Except(ObjectType, String, String),
    /// It is not excepted any more.
    RemoveException(ObjectType, String),
    /// What a manager says from now on.
    Received(Received),
}

/// What came from a manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Whether it is all that the manager says: whatever else it said before is gone.
    pub is_whole: bool,
    /// New, or in the place of what the manager said of this type and value.
    pub put: Vec<Object>,
    /// Not said any more.
    pub gone: Vec<(ObjectType, String)>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// So many are another now.
    Done(u64),
    /// There would be more than so many.
    TooMany(usize),
}

/// After which object, in the order of types, values and sources.
pub type After = (String, String, String);

/// An object as it is kept, and what bears on how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// The object.
    pub row: ObjectRow,
    /// Its value is excepted.
    pub is_excepted: bool,
    /// A greater source has an object of this value whose time is not over.
    pub is_ruled: bool,
}

/// Where objects are kept.
pub trait ObjectStore: Send + Sync {
    /// What may fail.
    type Error: std::error::Error + Send + Sync + 'static;

    /// All objects, by type, value and source, and all exceptions.
    fn all_objects(
        &self,
    ) -> impl Future<Output = Result<(Vec<ObjectRow>, Vec<ExceptionRow>), Self::Error>> + Send;

    /// So many objects after one of them, as they stand at a moment.
    fn listed_objects(
        &self,
        after: After,
        limit: u32,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<ListedObject>, Self::Error>> + Send;

    /// So many exceptions after a type and a value.
    fn listed_exceptions(
        &self,
        after: (String, String),
        limit: u32,
    ) -> impl Future<Output = Result<Vec<ExceptionRow>, Self::Error>> + Send;

    /// Changes them, by whom and when.
    fn change_objects(
        &self,
        change: Change,
        by: String,
        now: Timestamp,
    ) -> impl Future<Output = Result<Changed, Self::Error>> + Send;
}

/// Who keeps objects, and does something with them.
pub trait ObjectHolder: AdminBackend<Store: ObjectStore> {
    /// They were changed.
    fn objects_changed(&self);
}

/// `ObjectService`.
#[derive(Debug)]
pub struct ObjectPages<H>(pub Arc<H>);

#[tonic::async_trait]
impl<H: ObjectHolder> ObjectService for ObjectPages<H> {
    async fn list(
        &self,
        request: Request<proto::ListObjectsRequest>,
    ) -> Result<Response<proto::ListObjectsResponse>, Status> {
        let proto::ListObjectsRequest { page_size, page_token } = request.into_inner();
        let (size, after) = (page::size(page_size, 100, page::MAX_PAGE)?, page::token::<Token>(&page_token)?);
        let (after, now) = (after.unwrap_or_default().three(), self.0.now());
        let rows = self.0.store().listed_objects(after, size, now).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |listed| {
            let object = &listed.row.object;
            Token::of(&[object.kind().as_str(), object.value(), object.source.as_str()])
        });
        let objects = rows.into_iter().map(|listed| show(listed, now)).collect();
        Ok(Response::new(proto::ListObjectsResponse { objects, next_page_token }))
    }

    async fn add(
        &self,
        request: Request<proto::AddObjectsRequest>,
    ) -> Result<Response<proto::ObjectsChanged>, Status> {
        let by = actor(&request)?.name;
        let asked = request.into_inner().objects;
        if asked.is_empty() || asked.len() > MAX_ADDED {
            let text = format!("are {}; they must be 1 to {MAX_ADDED} at a time", asked.len());
            return Err(Failure::invalid("objects", text).into());
        }
        let read = asked.into_iter().enumerate().map(|(place, object)| {
            read(object).map_err(|why| Failure::invalid("objects", format!("number {}: {why}", place + 1)))
        });
        let objects = read.collect::<Result<Vec<_>, _>>()?;
        self.change(Change::Add(objects), by).await
    }

    async fn remove(
        &self,
        request: Request<proto::ObjectRequest>,
    ) -> Result<Response<proto::ObjectsChanged>, Status> {
        let by = actor(&request)?.name;
        let asked = request.into_inner();
        let source = match asked.source.as_str() {
            "" => None,
            word => Some(source(word).map_err(|why| Failure::invalid("source", why))?),
        };
        let (kind, value, _) = named(asked)?;
        self.change(Change::Remove(kind, value, source), by).await
    }

    async fn expire(
        &self,
        request: Request<proto::ExpireObjectRequest>,
    ) -> Result<Response<proto::ObjectsChanged>, Status> {
        let by = actor(&request)?.name;
        let proto::ExpireObjectRequest { value, r#type, expires_at_ms } = request.into_inner();
        let (kind, value, _) = named(proto::ObjectRequest { value, r#type, ..Default::default() })?;
        self.change(Change::Expire(kind, value, end(expires_at_ms)), by).await
    }

    async fn except(
        &self,
        request: Request<proto::ObjectRequest>,
    ) -> Result<Response<proto::ObjectsChanged>, Status> {
        let by = actor(&request)?.name;
        let (kind, value, note) = named(request.into_inner())?;
        self.change(Change::Except(kind, value, note), by).await
    }

    async fn remove_exception(
        &self,
        request: Request<proto::ObjectRequest>,
    ) -> Result<Response<proto::ObjectsChanged>, Status> {
        let by = actor(&request)?.name;
        let (kind, value, _) = named(request.into_inner())?;
        self.change(Change::RemoveException(kind, value), by).await
    }

    async fn list_exceptions(
        &self,
        request: Request<proto::ListObjectsRequest>,
    ) -> Result<Response<proto::ListExceptionsResponse>, Status> {
        let proto::ListObjectsRequest { page_size, page_token } = request.into_inner();
        let (size, after) = (page::size(page_size, 100, page::MAX_PAGE)?, page::token::<Token>(&page_token)?);
        let (kind, value, _) = after.unwrap_or_default().three();
        let rows = self.0.store().listed_exceptions((kind, value), size).await.map_err(unavailable)?;
        let next_page_token = page::next(&rows, size, |row| Token::of(&[row.kind.as_str(), &row.value]));
        let shown = rows.into_iter().map(|row| proto::ObjectException {
            r#type: row.kind.to_string(),
            value: row.value,
            note: row.note,
            added_by: row.added_by,
            added_at_ms: row.added_at.as_millis(),
        });
        Ok(Response::new(proto::ListExceptionsResponse { exceptions: shown.collect(), next_page_token }))
    }
}

/// Where a page begins: words, each on a line. None of them has a line break.
#[derive(Debug, Default)]
struct Token(Vec<String>);

impl Token {
    fn of(words: &[&str]) -> String {
        words.join("\n")
    }

    fn three(self) -> After {
        let mut words = self.0.into_iter();
        let mut next = || words.next().unwrap_or_default();
        (next(), next(), next())
    }
}

impl std::str::FromStr for Token {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.split('\n').map(str::to_owned).collect()))
    }
}

impl<H: ObjectHolder> ObjectPages<H> {
    async fn change(&self, change: Change, by: String) -> Result<Response<proto::ObjectsChanged>, Status> {
        let told = change.clone();
        let changed = self.0.store().change_objects(change, by.clone(), self.0.now()).await;
        match changed.map_err(unavailable)? {
            Changed::Done(changed) => {
                if changed > 0 {
                    told.log(&by);
                    self.0.objects_changed();
                }
                Ok(Effect::unless(changed > 0, proto::ObjectsChanged { changed }))
            }
            Changed::TooMany(most) => {
                let text = format!(
                    "there would be more than {most} objects, exceptions, or characters of values: remove some first, such as those that have expired"
                );
                Err(Failure::precondition("too_many_objects", text).into())
            }
        }
    }
}

impl Change {
    /// What acted may be asked long after it was removed, so each value is named.
    pub fn log(&self, actor: &str) {
        let one = |what: &str, kind: ObjectType, value: &str, more: &str| {
            info!(target: "audit", actor, what, %kind, value, more, "suspicious objects changed");
        };
        match self {
            Self::Add(objects) => objects
                .iter()
                .for_each(|object| one("added", object.kind(), object.value(), object.remedy().as_str())),
            Self::Remove(kind, value, source) => {
                one("removed", *kind, value, source.map_or("", Source::as_str));
            }
            Self::Expire(kind, value, end) => {
                one("ends", *kind, value, &end.map_or_else(|| "never".to_owned(), |end| end.to_string()));
            }
            Self::Except(kind, value, note) => one("excepted", *kind, value, note),
            Self::RemoveException(kind, value) => one("excepted no more", *kind, value, ""),
            Self::Received(Received { put, gone, .. }) if put.len() + gone.len() > MAX_LOGGED => {
                let (put, gone) = (put.len(), gone.len());
                info!(target: "audit", actor, put, gone, "suspicious objects received");
            }
            Self::Received(Received { put, gone, .. }) => {
                put.iter().for_each(|object| {
                    one("received", object.kind(), object.value(), object.remedy().as_str());
                });
                gone.iter().for_each(|(kind, value)| one("gone", *kind, value, ""));
            }
        }
    }
}

/// Whether a value is excepted.
pub fn excepted(exceptions: &[ExceptionRow]) -> impl Fn(ObjectType, &str) -> bool {
    let all: std::collections::HashSet<(ObjectType, String)> =
        exceptions.iter().map(|row| (row.kind, row.value.clone())).collect();
    move |kind, value| all.contains(&(kind, value.to_owned()))
}

fn end(millis: u64) -> Option<Timestamp> {
    (millis > 0).then(|| Timestamp::from_millis(millis))
}

fn read(object: proto::SuspiciousObject) -> Result<Object, String> {
    let proto::SuspiciousObject { r#type, value, remedy, source, expires_at_ms, note, .. } = object;
    let kind: ObjectType = r#type.parse().map_err(|error: crate::NoSuchType| error.to_string())?;
    let remedy = match remedy.as_str() {
        "" => Remedy::Log,
        word => Remedy::from_name(word).ok_or_else(|| {
            format!("`{}` is no remedy; it must be log, block or quarantine", word.escape_debug())
        })?,
    };
    let source = match source.as_str() {
        "" => Source::Operator,
        word => self::source(word)?,
    };
    let object = Object::new(kind, &value, remedy, source).and_then(|object| object.with_note(&note));
    let mut object = object.map_err(|error| error.to_string())?;
    object.expires_at = end(expires_at_ms);
    Ok(object)
}

/// A source that operators may speak for.
fn source(word: &str) -> Result<Source, String> {
    match word.parse() {
        Ok(source @ (Source::Manager | Source::Sandbox)) => {
            Err(format!("{source}: what the {source} says is changed there; here a value can be excepted"))
        }
        Ok(source) => Ok(source),
        Err(error) => Err(error.to_string()),
    }
}

fn named(asked: proto::ObjectRequest) -> Result<(ObjectType, String, String), Failure> {
    let proto::ObjectRequest { value, r#type, note, source: _ } = asked;
    let kind: ObjectType =
        r#type.parse().map_err(|error: crate::NoSuchType| Failure::invalid("type", error.to_string()))?;
    let value = kind.canonical(&value).map_err(|error| Failure::invalid("value", error.to_string()))?;
    if note.len() > crate::object::MAX_NOTE || note.contains(char::is_control) {
        let text = "must have at most 512 bytes and no control characters";
        return Err(Failure::invalid("note", text));
    }
    Ok((kind, value, note))
}

fn show(listed: ListedObject, now: Timestamp) -> proto::SuspiciousObject {
    let ListedObject { row: ObjectRow { object, added_by, added_at }, is_excepted, is_ruled } = listed;
    let standing = Standing::of(&object, is_excepted, is_ruled, now);
    proto::SuspiciousObject {
        r#type: object.kind().to_string(),
        value: object.value().to_owned(),
        remedy: object.remedy().as_str().to_owned(),
        source: object.source.as_str().to_owned(),
        expires_at_ms: object.expires_at.map_or(0, Timestamp::as_millis),
        note: object.note().to_owned(),
        added_by,
        added_at_ms: added_at.as_millis(),
        standing: standing.as_str().to_owned(),
    }
}
