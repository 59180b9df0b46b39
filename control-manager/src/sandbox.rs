//! The sandbox that feeds this manager threats: a collection of TAXII 2.1 (OASIS, 2021), of which each
//! indicator becomes suspicious objects.
//!
//! What it says is the least of all sources: what operators say or took from files of the same value wins, and an
//! exception wins over all.

mod taxii;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::{info, warn};
use url::Url;
use writ_common::backoff::jitter;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::shutdown::Shutdown;
use writ_common::text::plain;
use writ_common::web::WebFolder;
use writ_objects::service::{Changed, ObjectHolder as _};
use writ_objects::stix::{self, Read, Wanted};
use writ_protocol::command::Remedy;
use writ_protocol::time::Timestamp;

use crate::context::Manager;
use crate::store::{SandboxState, StoreError};
use taxii::{Collection, Page};

/// How often it is read from its beginning: what was not valid yet may be now.
const WHOLE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Pages of one reading, and how long it may take.
const MAX_PAGES: usize = 10_000;
const READ_FOR: Duration = Duration::from_secs(3600);
/// Things, and values, that are taken in one change of the store.
const TAKEN_AT_ONCE: usize = 2000;
/// A number later than that of any reading.
const ALL_READINGS: u64 = u64::MAX;
/// Characters of an error.
const MAX_ERROR: usize = 500;

/// The sandbox as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxSettings {
    /// The collection: `https://HOST/API-ROOT/collections/ID/`.
    pub collection: String,
    /// Who asks; empty: nobody in particular.
    pub user: String,
    /// The file with the password.
    pub password: PathBuf,
    /// Who vouches for the web server, PEM; `None`: whom this host trusts.
    pub ca: Option<PathBuf>,
    /// How often it is asked.
    pub every: Duration,
    /// What agents do with files that it names.
    pub files: Remedy,
    /// What agents do with anything else.
    pub others: Remedy,
    /// Indicators that are less sure of themselves are left.
    pub confidence: u8,
}

/// What a running manager keeps of it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub settings: SandboxSettings,
    /// One reading at a time; whether there was a whole one since the start.
    turn: Mutex<bool>,
}

impl Sandbox {
    pub(crate) fn new(settings: SandboxSettings) -> Self {
        Self { settings, turn: Mutex::default() }
    }

    pub(crate) fn is_being_read(&self) -> bool {
        self.turn.try_lock().is_err()
    }
}

/// Whether a configured sandbox can be asked.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(settings: &SandboxSettings) -> Result<(), Fatal> {
    collection(settings, &Shutdown::new()).map(drop).map_err(|why| Fatal::usage(format!("`sandbox`: {why}")))
}

fn collection(settings: &SandboxSettings, shutdown: &Shutdown) -> Result<Collection, String> {
    let url = Url::parse(&settings.collection).map_err(|error| error.to_string())?;
    let authorities = settings.ca.as_deref().map(crate::mirror::authorities).transpose()?;
    let login = match settings.user.as_str() {
        "" => None,
        user => {
            let password = files::read_secret(&settings.password).map_err(|error| error.to_string())?;
            Some((user.to_owned(), password))
        }
    };
    Collection::new(WebFolder::new(&url, authorities, None, shutdown.clone())?, login)
}

/// Reads the sandbox until the manager ends. One that is configured no more says nothing any more.
pub(crate) async fn run(manager: Arc<Manager>) {
    let Some(every) = manager.sandbox.as_ref().map(|sandbox| sandbox.settings.every) else {
        match forget_unseen(&manager, ALL_READINGS).await {
            Ok(0) => {}
            Ok(forgotten) => info!(forgotten, "no sandbox is configured: what it said is forgotten"),
            Err(error) => warn!(%error, "what the sandbox said could not be forgotten"),
        }
        return;
    };
    loop {
        match manager.shutdown.unless_requested(Box::pin(sync(&manager))).await {
            None => return,
            Some(Err(error)) => warn!(%error, "what the sandbox says could not be noted"),
            Some(Ok(_)) => {}
        }
        let wait = every - jitter(every / 10);
        if manager.shutdown.unless_requested(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Reads what is new, or all of it if that is due. What went wrong is in the state that comes of it. Who asks
/// while it is being read is told so.
///
/// # Errors
/// When the store fails.
pub(crate) async fn sync(manager: &Manager) -> Result<SandboxState, StoreError> {
    let Some(sandbox) = &manager.sandbox else { return Ok(SandboxState::default()) };
    let settings = &sandbox.settings;
    let mut state = manager.store.sandbox().await?;
    let Ok(mut was_whole) = sandbox.turn.try_lock() else { return Ok(state) };
    // A reading that ended while this one waited for the store counts.
    state = manager.store.sandbox().await?;
    let now = manager.now();
    // Another remedy may be configured since the last start; and a clock may have been ahead.
    let is_whole = !*was_whole
        || state.collection != settings.collection
        || state.whole_at + WHOLE_EVERY <= now
        || state.whole_at > now;
    if state.collection != settings.collection {
        let reading = state.reading;
        state = SandboxState { collection: settings.collection.clone(), reading, ..SandboxState::default() };
    }
    (state.asked_at, state.reading) = (now, state.reading + 1);
    manager.store.note_sandbox(state.clone()).await?;
    let from = if is_whole { String::new() } else { state.added_after.clone() };
    let at = (now, state.reading);
    let read = tokio::time::timeout(READ_FOR, Box::pin(read(manager, settings, from, at))).await;
    let too_long = |_| Err(Stopped::Sandbox(format!("it takes longer than {READ_FOR:?} to read")));
    match read.unwrap_or_else(too_long) {
        Ok(ReadToEnd { added_after, left }) => {
            state.error.clear();
            state.read_at = now;
            // What the collection has no more, the sandbox says no more.
            let forgotten = if is_whole { forget_unseen(manager, state.reading).await? } else { 0 };
            if left > 0 {
                state.error = format!(
                    "{left} indicators were not taken: there would be more objects, or characters of their values, than may be; raise sandbox.confidence"
                );
            }
            // What had no room may have it now, and is read once more then.
            if is_whole && (left == 0 || forgotten == 0) {
                (state.whole_at, *was_whole) = (now, true);
            }
            if !added_after.is_empty() {
                state.added_after = added_after;
            }
        }
        Err(Stopped::Store(error)) => return Err(error),
        Err(Stopped::Sandbox(why)) => {
            let why = plain(&why.chars().take(MAX_ERROR).collect::<String>());
            warn!(why, "the sandbox could not be read");
            state.error = why;
        }
    }
    manager.store.note_sandbox(state.clone()).await?;
    Ok(state)
}

/// Waits until nobody reads it.
pub(crate) async fn idle(manager: &Manager) {
    if let Some(sandbox) = &manager.sandbox {
        drop(sandbox.turn.lock().await);
    }
}

/// Forgets what was not there in a reading of all, little by little; how much.
async fn forget_unseen(manager: &Manager, reading: u64) -> Result<u64, StoreError> {
    let mut all = 0;
    loop {
        match manager.store.forget_unseen(reading, manager.now()).await? {
            0 => break,
            some => all += some,
        }
    }
    if all > 0 {
        manager.objects_changed();
    }
    Ok(all)
}

/// Why a reading did not come to its end.
enum Stopped {
    Store(StoreError),
    Sandbox(String),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What came of reading to the end.
struct ReadToEnd {
    /// Until when all that was added has been read, in the sandbox's words.
    added_after: String,
    /// Indicators for which there was no room.
    left: u64,
}

/// Takes page after page. Each page counts at once, and a reading
/// that stops is begun again where this one began: taking something twice changes nothing.
async fn read(
    manager: &Manager,
    settings: &SandboxSettings,
    from: String,
    (now, reading): (Timestamp, u64),
) -> Result<ReadToEnd, Stopped> {
    let collection = collection(settings, &manager.shutdown).map_err(Stopped::Sandbox)?;
    let wanted =
        Wanted { of_files: settings.files, of_others: settings.others, confidence: settings.confidence, now };
    let (mut latest, mut after, mut next) = (from.clone(), from, String::new());
    let (mut changed, mut left) = (0, 0);
    for _ in 0..MAX_PAGES {
        let page = collection.page(&after, &next).await.map_err(Stopped::Sandbox)?;
        let Page { text, added_last, more, next: following } = page;
        let read = tokio::task::spawn_blocking(move || {
            text.map(|text| stix::read(&text, wanted)).transpose().map(Option::unwrap_or_default)
        });
        let read = read.await;
        let things = read.map_err(|error| Stopped::Sandbox(error.to_string()))?;
        let things = things.map_err(|error| Stopped::Sandbox(error.to_string()))?;
        let taken = take(manager, things, (now, reading)).await?;
        writ_common::checkpoint!("sandbox_page_taken");
        (changed, left) = (changed + taken.changed, left + taken.left);
        if taken.changed > 0 {
            manager.objects_changed();
        }
        if !added_last.is_empty() {
            latest = added_last;
        }
        if !more {
            if changed > 0 {
                info!(changed, latest, "the sandbox was read");
            }
            return Ok(ReadToEnd { added_after: latest, left });
        }
        // A server that gives a word for the rest wants the same question again beside it.
        if following.is_empty() {
            if latest == after {
                let why = "the sandbox says that there is more, and not how it is asked for".to_owned();
                return Err(Stopped::Sandbox(why));
            }
            after.clone_from(&latest);
        }
        next = following;
    }
    Err(Stopped::Sandbox(format!("the sandbox has more than {MAX_PAGES} pages")))
}

/// What came of taking a page.
#[derive(Default)]
struct Taken {
    changed: u64,
    /// Indicators for which there is no room.
    left: u64,
}

/// Takes a page little by little, so that others write between. What has no room is left, and what it named
/// before is taken back all the same: a full list must not keep a good value on it.
async fn take(manager: &Manager, things: Vec<Read>, at: (Timestamp, u64)) -> Result<Taken, StoreError> {
    let mut taken = Taken::default();
    // The next is at the end.
    let mut batches = in_batches(things);
    batches.reverse();
    while let Some(mut batch) = batches.pop() {
        match manager.store.take_indicators(batch.clone(), at).await? {
            Changed::Done(changed) => taken.changed += changed,
            // Whichever has no room is found by halves.
            Changed::TooMany(_) if batch.len() > 1 => {
                let later = batch.split_off(batch.len() / 2);
                batches.extend([later, batch]);
            }
            Changed::TooMany(_) => {
                let Some(thing) = batch.first_mut() else { continue };
                // Without objects it cannot be too much.
                if thing.objects.is_empty() {
                    continue;
                }
                thing.objects.clear();
                thing.left.push("there is no room for it".to_owned());
                taken.left += 1;
                batches.push(batch);
            }
        }
    }
    Ok(taken)
}

fn in_batches(things: Vec<Read>) -> Vec<Vec<Read>> {
    let (mut batches, mut values) = (vec![Vec::new()], 0);
    for thing in things {
        values += 1 + thing.objects.len();
        if values > TAKEN_AT_ONCE {
            (values, _) = (1 + thing.objects.len(), batches.push(Vec::new()));
        }
        if let Some(last) = batches.last_mut() {
            last.push(thing);
        }
    }
    batches
}
