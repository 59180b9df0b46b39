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
use writ_proto::v1::{Piece, PieceRequest};
use writ_protocol::command::ComponentUpdate;
use writ_protocol::component::{OF_AGENTS, held_as};
use writ_protocol::id::Digest;

/// How long an answer may take before it is asked again: the session may have ended with it.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a server may have this agent wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
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
}

impl HeldComponent {
    fn of(update: &ComponentUpdate) -> Self {
        let ComponentUpdate { version, sha256, bytes, .. } = update;
        Self { version: version.clone(), sha256: sha256.to_string(), bytes: *bytes }
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
                Err(why) => warn!(component = name, why, "not held; it will be sent again"),
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
        self.held.borrow().clone()
    }

    /// What is in force, as facts for the server.
    #[must_use]
    pub fn facts(&self) -> Vec<(String, String)> {
        let held = self.held.borrow();
        let fact = |(name, fact): (&str, &str)| {
            let HeldComponent { version, sha256, .. } = held.get(name)?;
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

    /// Fetches a component and brings it into force, unless it is over before; in words what came of it.
    ///
    /// # Errors
    /// Why what was in force before still is.
    pub(crate) async fn update(
        &self,
        update: &ComponentUpdate,
        is_over: impl Fn() -> bool,
    ) -> Result<String, String> {
        let _alone = self.fetching.lock().await;
        let ComponentUpdate { component, version, .. } = update;
        let wanted = HeldComponent::of(update);
        let is_held = self.held.borrow().get(component) == Some(&wanted);
        if is_held && read(&self.folder, component).is_ok_and(|held| held.as_ref() == Some(&wanted)) {
            return Ok(format!("{component} {version} was in force already"));
        }
        let (sender, mut answers) = mpsc::channel(1);
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let fetched = self.fetch(update, &mut answers, is_over).await;
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.wanted.send_replace(None);
        let incoming = fetched?;
        checkpoint!("component_fetched");
        self.put(update, &incoming).map_err(|error| error.to_string())?;
        self.held.send_modify(|held| {
            held.insert(component.clone(), wanted);
        });
        Ok(format!("{component} {version} is in force"))
    }

    /// Fetches what has not come yet, and looks whether all of it is what the command names.
    async fn fetch(
        &self,
        update: &ComponentUpdate,
        answers: &mut mpsc::Receiver<Piece>,
        is_over: impl Fn() -> bool,
    ) -> Result<PathBuf, String> {
        let incoming = self.folder.join(format!("incoming.{}", update.sha256));
        let failed = |error: io::Error| format!("{}: {error}", incoming.display());
        files::private_folder(&self.folder).map_err(|error| error.to_string())?;
        self.forget_others(&incoming);
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&incoming).map_err(failed)?;
        let mut offset = file.metadata().map_err(failed)?.len();
        if offset > update.bytes {
            file.set_len(0).map_err(failed)?;
            offset = 0;
        }
        while offset < update.bytes {
            let data = self.piece(update.sha256, offset, answers, &is_over).await?;
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            if length > update.bytes - offset {
                let _ = fs::remove_file(&incoming);
                return Err(format!("the server sent more than the {} bytes of the command", update.bytes));
            }
            if let Err(error) = file.write_all(&data) {
                // On a full disk it would be what fills it.
                let _ = fs::remove_file(&incoming);
                return Err(failed(error));
            }
            offset += length;
            checkpoint!("component_piece");
        }
        file.sync_all().map_err(failed)?;
        if digest(&incoming).map_err(failed)? != update.sha256 {
            let _ = fs::remove_file(&incoming);
            return Err("what came is not what the command names: its SHA-256 is another".to_owned());
        }
        Ok(incoming)
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
            let Ok(Some(piece)) = tokio::time::timeout(ANSWER, answers.recv()).await else { continue };
            let Piece { sha256: of, offset: from, data, gone, again_after_ms } = piece;
            // The answer to an earlier question.
            if of.as_ref() != sha256.as_bytes() || from != offset {
                continue;
            }
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

    /// Brings what was fetched into force: its bytes first, then the name that decides.
    fn put(&self, update: &ComponentUpdate, incoming: &Path) -> Result<(), FileError> {
        let ComponentUpdate { component, sha256, .. } = update;
        let place = self.folder.join(format!("{component}.{sha256}"));
        files::rename(incoming, &place)?;
        checkpoint!("component_placed");
        let text = serde_json::to_vec(&HeldComponent::of(update)).unwrap_or_default();
        files::write_secret(&self.folder.join(format!("{component}.json")), &text)?;
        // The one of before, and what a crash left.
        let prefix = format!("{component}.");
        for path in files::list(&self.folder).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_other = name.strip_prefix(&prefix).is_some_and(|rest| rest.len() == 64) && path != place;
            if is_other {
                let _ = fs::remove_file(path);
            }
        }
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

/// A component as it is kept; `None`: none is.
///
/// # Errors
/// In words what is wrong with its files.
pub(crate) fn read(folder: &Path, name: &str) -> Result<Option<HeldComponent>, String> {
    let text = match files::read(&folder.join(format!("{name}.json"))) {
        Err(error) if error.is_missing() => return Ok(None),
        read => read.map_err(|error| error.to_string())?,
    };
    let held: HeldComponent = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let sha256: Digest = held.sha256.parse().map_err(|_| "its digest is none".to_owned())?;
    let place = folder.join(format!("{name}.{sha256}"));
    let found = fs::metadata(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    if found.len() != held.bytes {
        return Err(format!("{}: {} bytes instead of {}", place.display(), found.len(), held.bytes));
    }
    Ok(Some(held))
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
