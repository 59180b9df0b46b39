//! `writ objects`.

use std::io::Read as _;
use std::path::Path;

use prost::Message as _;
use serde::Serialize;
use writ_common::say;
use writ_common::time::{Clock as _, SystemClock};
use writ_objects::stix::{self, Wanted};
use writ_objects::{Object, ObjectType, Source};
use writ_proto::admin::v1::{
    AddObjectsRequest, ExpireObjectRequest, GetSubscriptionRequest, ListObjectsRequest, ObjectException,
    ObjectRequest, RotateSubscriptionRequest, SetSubscriptionIntervalRequest, StartSubscriptionRequest,
    StopSubscriptionRequest, SuspiciousObject, SyncSubscriptionRequest,
};
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use super::PAGE;
use crate::args::Format;
use crate::args::objects::{Objects, Subscription};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows, plain, time};
use crate::progress::Progress;

/// Objects of one call, and bytes of them: a server takes no longer requests.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 128 << 10;
/// Bytes of a file of STIX. Reading one takes several times as much memory.
const MAX_FILE: u64 = 64 << 20;
/// Reasons that are shown of a file; the output in JSON has all.
const MAX_SHOWN: usize = 200;

#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    kind: String,
    value: String,
    remedy: String,
    source: String,
    standing: String,
    expires_at: String,
    note: String,
    added_by: String,
    added_at: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] =
        &["TYPE", "VALUE", "REMEDY", "SOURCE", "STANDING", "EXPIRES", "NOTE"];

    fn cells(&self) -> Vec<String> {
        let Self { kind, value, remedy, source, standing, expires_at, note, .. } = self;
        [kind, value, remedy, source, standing, expires_at, note].map(|text| plain(text)).to_vec()
    }
}

#[derive(Serialize)]
struct Excepted {
    #[serde(rename = "type")]
    kind: String,
    value: String,
    note: String,
    added_by: String,
    added_at: String,
}

impl Rows for Excepted {
    const HEAD: &'static [&'static str] = &["TYPE", "VALUE", "NOTE", "BY", "SINCE"];

    fn cells(&self) -> Vec<String> {
        let Self { kind, value, note, added_by, added_at } = self;
        [kind, value, note, added_by, added_at].map(|text| plain(text)).to_vec()
    }
}

#[derive(Serialize)]
struct Changed {
    changed: u64,
}

/// What became of a thing in a file of STIX.
#[derive(Serialize)]
struct Imported {
    id: String,
    name: String,
    taken: Vec<String>,
    revoked: Vec<String>,
    left: Vec<String>,
}

#[derive(Serialize)]
struct Import {
    changed: u64,
    objects: usize,
    revoked: usize,
    left: usize,
    things: Vec<Imported>,
}

#[derive(Serialize)]
struct Standing {
    state: String,
    manager_id: String,
    key_id: String,
    subscribed_at: String,
    version: u64,
    objects: u64,
    synced_at: String,
    last_error: String,
    interval_minutes: u32,
    changed: u64,
    next: String,
}

pub(super) async fn run(format: Format, client: &Client, verb: Objects) -> Result<(), Failure> {
    match verb {
        Objects::List => list(format, client).await,
        Objects::Exceptions => exceptions(format, client).await,
        Objects::Add { kind, values, remedy, expires, note } => {
            if expires.is_some_and(|end| end <= SystemClock::new().wall()) {
                return Err(Failure::usage("--expires: that time has passed"));
            }
            let object = |value: &String| SuspiciousObject {
                r#type: kind.clone(),
                value: value.clone(),
                remedy: remedy.word().to_owned(),
                expires_at_ms: expires.map_or(0, Timestamp::as_millis),
                note: note.clone(),
                ..SuspiciousObject::default()
            };
            let changed = add(client, values.iter().map(object).collect()).await?;
            told(format, changed)
        }
        Objects::Remove { kind, value } => {
            let request = ObjectRequest { value, r#type: kind, ..ObjectRequest::default() };
            told(format, client.objects().remove(request).await?.into_inner().changed)
        }
        Objects::Expire { kind, value, at } => {
            let expires_at_ms = at.map_or(0, Timestamp::as_millis);
            let request = ExpireObjectRequest { value, r#type: kind, expires_at_ms };
            told(format, client.objects().expire(request).await?.into_inner().changed)
        }
        Objects::Except { kind, value, note, undo } => {
            let request = ObjectRequest { value, r#type: kind, note, ..ObjectRequest::default() };
            let changed = match undo {
                true => client.objects().remove_exception(request).await?,
                false => client.objects().except(request).await?,
            };
            told(format, changed.into_inner().changed)
        }
        Objects::Subscription(verb) => subscription(format, client, verb).await,
        Objects::Import { file, remedy, confidence, dry_run } => {
            let remedy = Remedy::from_name(remedy.word()).unwrap_or(Remedy::Log);
            import(format, client, &file, (remedy, confidence), dry_run).await
        }
    }
}

async fn subscription(format: Format, client: &Client, verb: Subscription) -> Result<(), Failure> {
    let mut line = client.subscription();
    let shown = match verb {
        Subscription::Show => line.get(GetSubscriptionRequest {}).await?,
        Subscription::Start => line.start(StartSubscriptionRequest {}).await?,
        Subscription::Stop { delete } => {
            line.stop(StopSubscriptionRequest { delete_objects: delete }).await?
        }
        Subscription::Sync => line.sync(SyncSubscriptionRequest {}).await?,
        Subscription::Interval { minutes } => {
            line.set_interval(SetSubscriptionIntervalRequest { minutes }).await?
        }
        Subscription::Rotate => line.rotate(RotateSubscriptionRequest {}).await?,
    };
    let shown = shown.into_inner();
    let standing = Standing {
        state: shown.state,
        manager_id: shown.manager_id,
        key_id: shown.key_id,
        subscribed_at: time(shown.subscribed_at_ms),
        version: shown.version,
        objects: shown.objects,
        synced_at: time(shown.synced_at_ms),
        last_error: shown.last_error,
        interval_minutes: shown.interval_minutes,
        changed: shown.changed,
        next: shown.next,
    };
    let mut fields = vec![
        ("subscription", standing.state.clone()),
        ("manager", standing.manager_id.clone()),
        ("key", standing.key_id.clone()),
        ("since", standing.subscribed_at.clone()),
        ("objects", format!("{}, {} of them changed last", standing.objects, standing.changed)),
        ("version", standing.version.to_string()),
        ("asked", format!("{}, each {} min", standing.synced_at, standing.interval_minutes)),
    ];
    if !standing.last_error.is_empty() {
        fields.push(("last error", plain(&standing.last_error)));
    }
    if !standing.next.is_empty() {
        fields.push(("next", plain(&standing.next)));
    }
    output::one(format, &standing, &fields)
}

fn told(format: Format, changed: u64) -> Result<(), Failure> {
    let next = match changed {
        0 => {
            "nothing is changed: no such object, or it is of a manager or a sandbox: writ objects list; writ objects except"
        }
        _ => "agents hold it soon: writ updates coverage, in the context of their server",
    };
    let fields = [("changed", changed.to_string()), ("next", next.to_owned())];
    output::one(format, &Changed { changed }, &fields)
}

async fn list(format: Format, client: &Client) -> Result<(), Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListObjectsRequest { page_size: PAGE, page_token };
        let page = client.objects().list(request).await?.into_inner();
        rows.extend(page.objects.into_iter().map(row));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return output::list(format, &rows, "There are none. Add some: writ objects add TYPE VALUE");
        }
    }
}

async fn exceptions(format: Format, client: &Client) -> Result<(), Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListObjectsRequest { page_size: PAGE, page_token };
        let page = client.objects().list_exceptions(request).await?.into_inner();
        rows.extend(page.exceptions.into_iter().map(excepted));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return output::list(format, &rows, "There are none.");
        }
    }
}

fn row(object: SuspiciousObject) -> Row {
    let SuspiciousObject {
        r#type,
        value,
        remedy,
        source,
        expires_at_ms,
        note,
        added_by,
        added_at_ms,
        standing,
    } = object;
    let (expires_at, added_at) = (time(expires_at_ms), time(added_at_ms));
    Row { kind: r#type, value, remedy, source, standing, expires_at, note, added_by, added_at }
}

fn excepted(exception: ObjectException) -> Excepted {
    let ObjectException { r#type, value, note, added_by, added_at_ms } = exception;
    Excepted { kind: r#type, value, note, added_by, added_at: time(added_at_ms) }
}

async fn add(client: &Client, objects: Vec<SuspiciousObject>) -> Result<u64, Failure> {
    let all = u64::try_from(objects.len()).unwrap_or(u64::MAX);
    let (mut changed, mut done) = (0, 0);
    let mut progress = Progress::of(all, "objects");
    for some in chunks(&objects) {
        let request = AddObjectsRequest { objects: some.to_vec() };
        let added = client.objects().add(request).await;
        let added = match added {
            Ok(added) => added.into_inner(),
            Err(status) => {
                progress.end();
                let text = format!("{done} of {all} objects are there, {changed} of them new or changed");
                return Err(Failure::from(status).with_next(done > 0, &text));
            }
        };
        changed += added.changed;
        done += u64::try_from(some.len()).unwrap_or(u64::MAX);
        progress.show(done, all, format!("{changed} changed"));
    }
    progress.end();
    Ok(changed)
}

/// As many as go into one call.
fn chunks(objects: &[SuspiciousObject]) -> impl Iterator<Item = &[SuspiciousObject]> {
    let mut rest = objects;
    std::iter::from_fn(move || {
        let (mut bytes, mut count) = (0, 0);
        for object in rest {
            bytes += object.encoded_len() + 8;
            if count == AT_ONCE || (count > 0 && bytes > BYTES_AT_ONCE) {
                break;
            }
            count += 1;
        }
        let (some, later) = rest.split_at(count);
        rest = later;
        (!some.is_empty()).then_some(some)
    })
}

async fn import(
    format: Format,
    client: &Client,
    file: &Path,
    (remedy, confidence): (Remedy, u8),
    is_dry: bool,
) -> Result<(), Failure> {
    let text = read(file)?;
    let now = SystemClock::new().wall();
    let wanted = Wanted { of_files: remedy, of_others: remedy, confidence, now };
    let things =
        stix::read(&text, wanted).map_err(|error| Failure::local(format!("{}: {error}", file.display())))?;
    let (objects, revoked) = stix::merged(&things);
    let objects: Vec<_> = objects.iter().map(asked).collect();
    let mut changed = 0;
    if !is_dry {
        // What was revoked first: it must not be missed because something else is refused. Of what analyses
        // said alone: an operator's object is the operator's.
        for (kind, value) in &revoked {
            let source = Source::Analysed.as_str().to_owned();
            let (value, kind) = (value.clone(), kind.to_string());
            let request = ObjectRequest { value, r#type: kind, source, ..ObjectRequest::default() };
            changed += client.objects().remove(request).await?.into_inner().changed;
        }
        changed += add(client, objects.clone()).await?;
    }
    let name = |(kind, value): &(ObjectType, String)| format!("{kind} {value}");
    let shown: Vec<_> = things
        .into_iter()
        .map(|thing| Imported {
            id: thing.id,
            name: thing.name,
            taken: thing
                .objects
                .iter()
                .map(|object| format!("{} {}", object.kind(), object.value()))
                .collect(),
            revoked: thing.revoked.iter().map(name).collect(),
            left: thing.left,
        })
        .collect();
    let left = shown.iter().filter(|thing| !thing.left.is_empty()).count();
    let all = shown.iter().flat_map(|thing| thing.left.iter().map(|why| (&thing.id, why)));
    for (id, why) in all.clone().take(MAX_SHOWN) {
        say::aside(format_args!("{}: not taken: {}", plain(id), plain(why)));
    }
    let more = all.count().saturating_sub(MAX_SHOWN);
    if more > 0 {
        say::aside(format_args!("and {more} more that are not taken: --output json has all"));
    }
    let import = Import { changed, objects: objects.len(), revoked: revoked.len(), left, things: shown };
    let next = if is_dry { "nothing was changed: leave --dry-run out" } else { "writ objects list" };
    let fields = [
        ("objects", import.objects.to_string()),
        ("revoked", import.revoked.to_string()),
        ("not taken", format!("{left} things, or parts of them")),
        ("changed", changed.to_string()),
        ("next", next.to_owned()),
    ];
    output::one(format, &import, &fields)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::local(format!("{}: {error}", file.display()));
    let mut text = Vec::new();
    let mut limited: Box<dyn std::io::Read> = match file == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).map_err(failed)?),
    };
    limited.by_ref().take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes > MAX_FILE) {
        let text = format!("{}: it is longer than {MAX_FILE} bytes; divide it", file.display());
        return Err(Failure::local(text));
    }
    Ok(text)
}

fn asked(object: &Object) -> SuspiciousObject {
    SuspiciousObject {
        r#type: object.kind().to_string(),
        value: object.value().to_owned(),
        remedy: object.remedy().as_str().to_owned(),
        source: object.source.as_str().to_owned(),
        expires_at_ms: object.expires_at.map_or(0, Timestamp::as_millis),
        note: object.note().to_owned(),
        ..SuspiciousObject::default()
    }
}
