//! What the lists in force here say about values that agents ask about (protocol.md §6.18). Each answer is
//! signed and names the list's version.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::warn;
use writ_common::backoff::jitter;
use writ_lists::{Key, List};
use writ_protocol::id::Digest;
use writ_protocol::reputation::Question;
use writ_updates::{Folder, Name, Release, ShelfState};

/// Questions that are looked up at a time: disks answer several at once. Each agent asks one at a time, and
/// they take turns, so one agent keeps no other waiting for longer than its own question takes.
const AT_A_TIME: usize = 4;
/// How long a question waits for its turn before the agent is asked to come again.
const PATIENCE: Duration = Duration::from_secs(2);
/// After how long, at least half of it.
const AGAIN: Duration = Duration::from_secs(2);

/// The lists that agents have filters of.
#[derive(Debug)]
pub(crate) struct Lists {
    turns: Semaphore,
    counts_for: Duration,
    open: Mutex<Open>,
}

/// Lists in force, open since somebody asked.
#[derive(Debug, Default)]
struct Open {
    state: Option<ShelfState>,
    lists: BTreeMap<Name, Option<Arc<InForce>>>,
}

#[derive(Debug)]
struct InForce {
    release: Release,
    list: List,
}

/// What a list says, before it is signed.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its version.
    pub version: String,
    /// SHA-256 of its values.
    pub list: Digest,
    /// Those of the question's values that are on it, in their order.
    pub listed: Vec<bytes::Bytes>,
    /// How long an agent may go by it.
    pub counts_for: Duration,
}

/// What comes of a question.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The list's word.
    Said(Said),
    /// There is no such list, or none of such values, or it cannot be read.
    NoList,
    /// Too many ask; come again after so long.
    Later(Duration),
}

impl Lists {
    pub(crate) fn new(counts_for: Duration) -> Self {
        Self { turns: Semaphore::new(AT_A_TIME), counts_for, open: Mutex::default() }
    }

    /// What an agent hears for which there is no turn.
    pub(crate) fn later() -> Answer {
        Answer::Later(AGAIN - jitter(AGAIN / 2))
    }

    /// Looks a question's values up. Those who wait have their turn in the order in which they came.
    pub(crate) async fn look(self: &Arc<Self>, folder: &Folder, question: Question) -> Answer {
        let Ok(Ok(_turn)) = tokio::time::timeout(PATIENCE, self.turns.acquire()).await else {
            return Self::later();
        };
        let (lists, folder) = (Arc::clone(self), folder.clone());
        // The list is on disk, and a session must not wait for a disk.
        let looked = tokio::task::spawn_blocking(move || lists.look_now(&folder, &question)).await;
        looked.map_err(|error| error.to_string()).flatten().unwrap_or_else(|why| {
            warn!(why, "a list that an agent asked about cannot be read");
            Answer::NoList
        })
    }

    fn look_now(&self, folder: &Folder, question: &Question) -> Result<Answer, String> {
        let Ok(name) = question.component.parse() else { return Ok(Answer::NoList) };
        let Some(in_force) = self.in_force(folder, name)? else { return Ok(Answer::NoList) };
        let InForce { release, list } = &*in_force;
        let width = list.kind().width();
        let mut listed = Vec::new();
        for value in &question.values {
            if value.len() != usize::from(width) {
                return Ok(Answer::NoList);
            }
            let mut key: Key = [0; 32];
            key[..value.len()].copy_from_slice(value);
            if list.contains(&key).map_err(|error| error.to_string())? {
                listed.push(value.clone());
            }
        }
        let version = release.version.to_string();
        Ok(Answer::Said(Said {
            version,
            list: Digest::from_bytes(list.digest()),
            listed,
            counts_for: self.counts_for,
        }))
    }

    /// The list in force under a name, if there is one.
    fn in_force(&self, folder: &Folder, name: Name) -> Result<Option<Arc<InForce>>, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let state = folder.shelf_state();
        if open.state != state {
            *open = Open { state, ..Open::default() };
        }
        if let Some(known) = open.lists.get(&name) {
            return Ok(known.clone());
        }
        // What agents may ask about is what they can have filters of; anything else is not looked for.
        if name.kinds().is_empty() {
            return Ok(None);
        }
        let active = folder.active(&name).map_err(|error| error.to_string())?;
        let in_force = match active {
            Some((release, path)) => {
                let list = List::open(&path).map_err(|error| error.to_string())?;
                Some(Arc::new(InForce { release, list }))
            }
            None => None,
        };
        open.lists.insert(name, in_force.clone());
        Ok(in_force)
    }
}
