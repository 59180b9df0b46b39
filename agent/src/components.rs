//! Components that came by a signed command: fetched piece by piece in the agent's sessions, kept across a
//! cut, and believed because of the digest that the command names.
//!
//! `components/NAME.json` says which version of a component is in force, and it alone decides; its bytes are
//! in `components/NAME.SHA256`. `components/incoming.SHA256` is what has come so far of one that is fetched.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tracing::warn;
use writ_common::checkpoint;
use writ_common::files::{self, FileError};
use writ_lists::Filter;
use writ_objects::List;
use writ_proto::v1::{Piece, PieceRequest};
use writ_protocol::command::ComponentUpdate;
use writ_protocol::component::{OF_AGENTS, SUSPICIOUS_OBJECTS, held_as};
use writ_protocol::id::Digest;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;

/// How long an answer may take before it is asked again: the session may have ended with it.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a server may have this agent wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of the disk that are left for others, or a twentieth of a small one.
const KEPT_FREE: u64 = 64 << 20;
/// Bytes hashed at once.
const CHUNK: usize = 256 << 10;

/// A component that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldComponent {
    /// Which version, for people.
    pub version: String,
    /// SHA-256 of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// How many there are.
    pub bytes: u64,
    /// When the command was issued that brought it, in milliseconds since 1970. An older one takes nobody
    /// back.
    #[serde(default)]
    pub issued_at_ms: u64,
    /// Its bytes are not these any more: it is not held, and an older command takes nobody back still.
    #[serde(skip)]
    is_damaged: bool,
}

impl HeldComponent {
    fn of(update: &ComponentUpdate, issued_at: Timestamp) -> Self {
        let ComponentUpdate { version, sha256, bytes, .. } = update;
        let issued_at_ms = issued_at.as_millis();
        let (version, sha256) = (version.clone(), sha256.to_string());
        Self { version, sha256, bytes: *bytes, issued_at_ms, is_damaged: false }
    }

    fn has_the_bytes_of(&self, other: &Self) -> bool {
        (&self.sha256, self.bytes) == (&other.sha256, other.bytes)
    }
}

/// The components of this agent.
#[derive(Debug)]
pub struct ComponentStore {
    folder: PathBuf,
    held: watch::Sender<BTreeMap<String, HeldComponent>>,
    /// What the session shall ask for. One is fetched at a time.
    wanted: watch::Sender<Option<PieceRequest>>,
    /// Where the answers go.
    answers: Mutex<Option<mpsc::Sender<Piece>>>,
    fetching: tokio::sync::Mutex<()>,
}

impl ComponentStore {
    /// What was kept. A component whose files are damaged is not held: it is sent again.
    #[must_use]
    pub fn load(folder: &Path) -> Self {
        let mut held = BTreeMap::new();
        for (name, _) in OF_AGENTS {
            match read(folder, name) {
                Ok(Some(component)) => {
                    held.insert(name.to_owned(), component);
                }
                Ok(None) => {}
                Err(why) => {
                    warn!(component = name, why, "not held; it will be sent again");
                    if let Ok(Some(record)) = record(folder, name) {
                        held.insert(name.to_owned(), HeldComponent { is_damaged: true, ..record });
                    }
                }
            }
        }
        Self {
            folder: folder.to_owned(),
            held: watch::Sender::new(held),
            wanted: watch::Sender::new(None),
            answers: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// What is in force, by name.
    #[must_use]
    pub fn held(&self) -> BTreeMap<String, HeldComponent> {
        let mut held = self.held.borrow().clone();
        held.retain(|_, component| !component.is_damaged);
        held
    }

    /// What is in force, as facts for the server.
    #[must_use]
    pub fn facts(&self) -> Vec<(String, String)> {
        let held = self.held.borrow();
        let fact = |(name, fact): (&str, &str)| {
            let held = held.get(name).filter(|held| !held.is_damaged)?;
            let HeldComponent { version, sha256, .. } = held;
            Some((fact.to_owned(), held_as(version, sha256.parse().ok()?)))
        };
        OF_AGENTS.into_iter().filter_map(fact).collect()
    }

    /// Hears when another version is in force.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<String, HeldComponent>> {
        self.held.subscribe()
    }

    /// Hears what the server shall be asked for; also what it was asked for in an earlier session.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Option<PieceRequest>> {
        let mut wanted = self.wanted.subscribe();
        wanted.mark_changed();
        wanted
    }

    /// An answer came. One that nobody waits for is of no use.
    pub fn answered(&self, piece: Piece) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = &*answers {
            let _ = answers.try_send(piece);
        }
    }

    /// Whether a component of a command may take the place of what is in force: check 11 for it.
    ///
    /// # Errors
    /// `invalid_parameters` for another component by a command that was issued before the one that brought
    /// what is in force: it was held back, or comes late.
    pub fn check(&self, update: &ComponentUpdate, issued_at: Timestamp) -> Result<(), Refusal> {
        let wanted = HeldComponent::of(update, issued_at);
        match self.held.borrow().get(&update.component) {
            Some(held) if held.issued_at_ms >= wanted.issued_at_ms && !held.has_the_bytes_of(&wanted) => {
                let detail = format!(
                    "version {} came by a command that was issued later, at {}",
                    held.version,
                    Timestamp::from_millis(held.issued_at_ms)
                );
                Err(Refusal::new(RefusalCode::InvalidParameters, detail))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Fetches a component and brings it into force, unless it is over before; in words what came of it.
    ///
    /// # Errors
    /// Why what was in force before still is.
    pub(crate) async fn update(
        &self,
        update: &ComponentUpdate,
        issued_at: Timestamp,
        is_over: impl Fn() -> bool,
    ) -> Result<String, String> {
        let _alone = self.fetching.lock().await;
        // Another may have come into force while this one waited.
        self.check(update, issued_at).map_err(|refusal| refusal.detail.to_string())?;
        let ComponentUpdate { component, version, .. } = update;
        let mut wanted = HeldComponent::of(update, issued_at);
        let held = self.held.borrow().get(component).cloned();
        let named = held.filter(|held| held.has_the_bytes_of(&wanted));
        if let Some(held) = &named {
            // The same bytes by an older command are held by the newer one still.
            wanted.issued_at_ms = wanted.issued_at_ms.max(held.issued_at_ms);
        }
        let place = self.folder.join(format!("{component}.{}", update.sha256));
        // Also one that a crash left in its place before it was named.
        let is_here = self.bring_alone(update, &place, is_over).await?;
        self.put(component, &wanted, &place).map_err(|error| error.to_string())?;
        self.held.send_modify(|held| {
            held.insert(component.clone(), wanted);
        });
        let already = if is_here && named.is_some() { " already" } else { "" };
        Ok(format!("{component} {version} is in force{already}"))
    }

    /// Fetches the bytes of a component to a place, unless they are there, and unless it is over before.
    ///
    /// # Errors
    /// Why they are not there.
    pub(crate) async fn bring(
        &self,
        update: &ComponentUpdate,
        place: &Path,
        is_over: impl Fn() -> bool,
    ) -> Result<(), String> {
        let _alone = self.fetching.lock().await;
        self.bring_alone(update, place, is_over).await.map(drop)
    }

    /// The same for whoever fetches now; whether they were there.
    async fn bring_alone(
        &self,
        update: &ComponentUpdate,
        place: &Path,
        is_over: impl Fn() -> bool,
    ) -> Result<bool, String> {
        files::private_folder(&self.folder).map_err(|error| error.to_string())?;
        if self.is(place, update).await {
            return Ok(true);
        }
        let (sender, mut answers) = mpsc::channel(1);
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let fetched = self.fetch(update, &mut answers, is_over).await;
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.wanted.send_replace(None);
        let incoming = fetched?;
        checkpoint!("component_fetched");
        files::rename(&incoming, place).map_err(|error| error.to_string())?;
        checkpoint!("component_placed");
        Ok(false)
    }

    /// The filter that is in force under a name, looked at anew; `None`: none is held.
    ///
    /// # Errors
    /// In words what is wrong with it.
    pub(crate) async fn filter(&self, component: &str) -> Result<Option<Filter>, String> {
        self.content(component, Filter::from_bytes).await
    }

    /// The suspicious objects that act; `None`: none are held.
    ///
    /// # Errors
    /// In words what is wrong with them.
    pub(crate) async fn objects(&self) -> Result<Option<List>, String> {
        self.content(SUSPICIOUS_OBJECTS, |bytes| List::decode(&bytes)).await
    }

    async fn content<T: Send + 'static, E: std::fmt::Display>(
        &self,
        component: &str,
        read: impl FnOnce(Vec<u8>) -> Result<T, E> + Send + 'static,
    ) -> Result<Option<T>, String> {
        let held = self.held.borrow().get(component).filter(|held| !held.is_damaged).cloned();
        let Some(held) = held else { return Ok(None) };
        let place = self.folder.join(format!("{component}.{}", held.sha256));
        let cure = format!("have it sent again: writ send component {component}");
        let content = tokio::task::spawn_blocking(move || {
            let failed = |why: String| format!("{}: {why}; {cure}", place.display());
            let bytes = fs::read(&place).map_err(|error| failed(error.to_string()))?;
            if Digest::of(&bytes).to_string() != held.sha256 {
                return Err(failed("damaged".to_owned()));
            }
            read(bytes).map_err(|error| failed(error.to_string()))
        });
        content.await.map_err(|error| error.to_string())?.map(Some)
    }

    /// Whether a file has the bytes of a command. Its digest is made beside the runtime, which has one
    /// thread.
    async fn is(&self, file: &Path, update: &ComponentUpdate) -> bool {
        let (file, sha256, bytes) = (file.to_owned(), update.sha256, update.bytes);
        let looked = tokio::task::spawn_blocking(move || {
            fs::metadata(&file).is_ok_and(|found| found.len() == bytes)
                && digest(&file).is_ok_and(|found| found == sha256)
        });
        looked.await.unwrap_or(false)
    }

    /// Fetches what has not come yet, and looks whether all of it is what the command names. Once more from
    /// the start if not, when some of it came earlier: that may have been anybody's.
    async fn fetch(
        &self,
        update: &ComponentUpdate,
        answers: &mut mpsc::Receiver<Piece>,
        is_over: impl Fn() -> bool,
    ) -> Result<PathBuf, String> {
        let incoming = self.folder.join(format!("incoming.{}", update.sha256));
        let failed = |error: io::Error| format!("{}: {error}", incoming.display());
        self.forget_others(&incoming);
        let mut came = fs::metadata(&incoming).map_or(0, |found| found.len());
        loop {
            if came > update.bytes {
                let _ = fs::remove_file(&incoming);
                came = 0;
            }
            check_room(&self.folder, update.bytes - came)?;
            let mut file =
                OpenOptions::new().append(true).create(true).mode(0o600).open(&incoming).map_err(failed)?;
            let filled = self.fill(&mut file, came, update, answers, &is_over).await;
            if let Err((why, is_kept)) = filled {
                if !is_kept {
                    let _ = fs::remove_file(&incoming);
                }
                return Err(why);
            }
            let synced = tokio::task::spawn_blocking(move || file.sync_all()).await;
            synced.map_err(io::Error::other).flatten().map_err(failed)?;
            if self.is(&incoming, update).await {
                return Ok(incoming);
            }
            let _ = fs::remove_file(&incoming);
            if came == 0 {
                return Err("what came is not what the command names: its SHA-256 is another".to_owned());
            }
            came = 0;
        }
    }

    /// Writes the pieces that are missing; why not, and whether what has come is kept.
    async fn fill(
        &self,
        file: &mut File,
        mut offset: u64,
        update: &ComponentUpdate,
        answers: &mut mpsc::Receiver<Piece>,
        is_over: &impl Fn() -> bool,
    ) -> Result<(), (String, bool)> {
        while offset < update.bytes {
            let piece = self.piece(update.sha256, offset, answers, is_over).await;
            let data = piece.map_err(|why| (why, true))?;
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            if length > update.bytes - offset {
                let why = format!("the server sent more than the {} bytes of the command", update.bytes);
                return Err((why, false));
            }
            // On a full disk it would be what fills it.
            file.write_all(&data).map_err(|error| (error.to_string(), false))?;
            offset += length;
            checkpoint!("component_piece");
        }
        Ok(())
    }

    /// One piece, asked for as often as it takes.
    async fn piece(
        &self,
        sha256: Digest,
        offset: u64,
        answers: &mut mpsc::Receiver<Piece>,
        is_over: &impl Fn() -> bool,
    ) -> Result<Bytes, String> {
        loop {
            if is_over() {
                return Err("the command expired before all had come".to_owned());
            }
            let wanted = PieceRequest { sha256: Bytes::copy_from_slice(sha256.as_bytes()), offset };
            self.wanted.send_replace(Some(wanted));
            let answer = async {
                loop {
                    let piece = answers.recv().await?;
                    // Anything else answers an earlier question.
                    if piece.sha256.as_ref() == sha256.as_bytes() && piece.offset == offset {
                        return Some(piece);
                    }
                }
            };
            let Ok(Some(piece)) = tokio::time::timeout(ANSWER, answer).await else { continue };
            let Piece { sha256: _, offset: _, data, gone, again_after_ms } = piece;
            if gone {
                return Err("the server does not have it any more".to_owned());
            }
            if data.is_empty() {
                let wait = Duration::from_millis(again_after_ms.into()).min(LONGEST_WAIT);
                tokio::time::sleep(wait).await;
                continue;
            }
            return Ok(data);
        }
    }

    /// Brings what is in its place into force: the name decides.
    fn put(&self, component: &str, held: &HeldComponent, place: &Path) -> Result<(), FileError> {
        let text = serde_json::to_vec(held).unwrap_or_default();
        files::write_secret(&self.folder.join(format!("{component}.json")), &text)?;
        // The one of before, and what a crash left.
        forget_but(&self.folder, component, Some(place));
        Ok(())
    }

    /// Removes what came of others: only one is fetched at a time.
    fn forget_others(&self, incoming: &Path) {
        for path in files::list(&self.folder).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("incoming.") && path != incoming {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Removes the files of a component but for the one that is named.
fn forget_but(folder: &Path, component: &str, named: Option<&Path>) {
    let prefix = format!("{component}.");
    for path in files::list(folder).unwrap_or_default() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_bytes = name.strip_prefix(&prefix).is_some_and(|rest| rest.len() == 64);
        if is_bytes && named != Some(path.as_path()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether so many bytes have room, and leave some for whatever else lives on the host.
pub(crate) fn check_room(folder: &Path, bytes: u64) -> Result<(), String> {
    let found = rustix::fs::statvfs(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (free, all) = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize);
    let kept = (all / 20).min(KEPT_FREE);
    if bytes.saturating_add(kept) <= free {
        return Ok(());
    }
    Err(format!(
        "{}: {bytes} bytes are to come, {free} are free, and {kept} are left for others",
        folder.display()
    ))
}

/// A component as it is kept; `None`: none is.
///
/// # Errors
/// In words what is wrong with its files.
pub(crate) fn read(folder: &Path, name: &str) -> Result<Option<HeldComponent>, String> {
    let Some(held) = record(folder, name)? else { return Ok(None) };
    let sha256: Digest = held.sha256.parse().map_err(|_| "its digest is none".to_owned())?;
    let place = folder.join(format!("{name}.{sha256}"));
    let found = fs::metadata(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    if found.len() != held.bytes {
        return Err(format!("{}: {} bytes instead of {}", place.display(), found.len(), held.bytes));
    }
    if !digest(&place).is_ok_and(|found| found == sha256) {
        return Err(format!("{}: its SHA-256 is not {sha256}", place.display()));
    }
    Ok(Some(held))
}

/// What is noted of a component, whatever became of its bytes.
fn record(folder: &Path, name: &str) -> Result<Option<HeldComponent>, String> {
    match files::read(&folder.join(format!("{name}.json"))) {
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string()),
    }
}

fn digest(path: &Path) -> io::Result<Digest> {
    let (mut file, mut buffer, mut context) = (File::open(path)?, vec![0; CHUNK], Context::new(&SHA256));
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(&buffer[..read]);
    }
    Digest::try_from(context.finish().as_ref()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte, of its own for each version of one digit.
    fn update(version: &str) -> ComponentUpdate {
        ComponentUpdate {
            component: OF_AGENTS[0].0.to_owned(),
            version: version.to_owned(),
            sha256: Digest::of(version.as_bytes()),
            bytes: 1,
        }
    }

    #[test]
    fn a_command_that_is_older_than_what_is_held_brings_no_other_bytes() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = ComponentStore::load(folder.path());
        let at = Timestamp::from_millis;
        store.check(&update("1"), at(1)).unwrap();
        let held = HeldComponent::of(&update("2"), at(5));
        store.held.send_modify(|all| drop(all.insert(OF_AGENTS[0].0.to_owned(), held)));
        for late in [4, 5] {
            let refusal = store.check(&update("1"), at(late)).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::InvalidParameters, "{refusal}");
        }
        store.check(&update("2"), at(4)).unwrap();
        store.check(&update("3"), at(6)).unwrap();
    }

    #[test]
    fn what_is_damaged_is_not_held_and_takes_nobody_back() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = Timestamp::from_millis;
        let place = folder.path().join(format!("{}.{}", OF_AGENTS[0].0, Digest::of(b"2")));
        fs::write(&place, b"2").unwrap();
        let held = HeldComponent::of(&update("2"), at(5));
        let store = ComponentStore::load(folder.path());
        store.put(OF_AGENTS[0].0, &held, &place).unwrap();
        assert_eq!(ComponentStore::load(folder.path()).facts().len(), 1);
        fs::write(&place, b"3").unwrap();
        let store = ComponentStore::load(folder.path());
        assert!(store.facts().is_empty() && store.held().is_empty());
        store.check(&update("1"), at(4)).unwrap_err();
        store.check(&update("2"), at(4)).unwrap();
    }
}
