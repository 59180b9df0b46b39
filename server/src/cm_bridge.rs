//! The line up to the Control Manager (docs/control-manager.md): [`settings`] say how it is met, [`connect`]
//! goes the way, [`client`] talks, [`probe`] tries all of it, [`register`] makes this server one of its
//! entities, [`poll`] keeps it one, [`obey`] does what it says through the operators' door, [`notify`] lets
//! it call, [`update_source`] is the choice it offers, [`subscription`] brings its suspicious objects.

pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod legs;
pub(crate) mod notify;
pub(crate) mod obey;
pub(crate) mod poll;
pub(crate) mod probe;
pub(crate) mod register;
pub(crate) mod settings;
pub(crate) mod subscription;
pub(crate) mod update_source;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedMutexGuard, oneshot, watch};
use tonic::Streaming;
use writ_common::files;
use writ_common::keys::pem;
use writ_common::keys::vault::{Vault, VaultError};
use writ_common::keys::vouched::Named;
use writ_common::text::quoted;
use writ_proto::manager::v1::ObjectsPiece;
use writ_protocol::id::{CommandId, Digest, EntityId, KeyId, ManagerId};
use writ_protocol::keys::{Algorithm, Entity, PrivateKey};
use writ_protocol::manager::CallBody;
use writ_protocol::time::Timestamp;

use crate::authority::{Files, KeyFileError};
use crate::context::Server;
use crate::store::{Store, StoreError};
use client::{ManagerAnswer, ManagerClient};
use legs::{Fault, Leg};
use settings::Settings;
use subscription::Subscribing;

/// What the manager lists this program as.
pub(crate) const PRODUCT: &str = "writ-server";

const SAVED: &str = "settings";
const IN_FORCE: &str = "settings-in-force";
const REGISTRATION: &str = "registration";
const DEPARTURES: &str = "departures";
const SUBSCRIPTION: &str = "subscription";

/// How this server stands with its manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum State {
    /// It has none.
    #[default]
    Unregistered,
    /// It asked, and nobody has answered yet.
    Registering,
    /// The manager's operator has to let it in.
    Waiting,
    /// It is one of its entities.
    Registered,
    /// The manager's operator said no.
    Rejected,
    /// The manager does not know it any more.
    Unknown,
}

/// A registration as this server remembers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    /// How it stands.
    pub state: State,
    /// What the manager calls this server; kept after it ends.
    pub entity: Option<[u8; 16]>,
    /// The manager.
    pub manager: Option<[u8; 16]>,
    /// Its version, as announced.
    pub version: String,
    /// The number of the registration.
    pub epoch: u64,
    /// Whether it was made under an authority that was uploaded.
    pub is_authorized: bool,
    /// Whether a sandbox feeds the manager threats.
    pub is_sandbox_connected: bool,
    /// Where updates come from.
    pub source: UpdateSource,
    /// What was last sent of this server, so that a change is noticed.
    pub sent_leaf: String,
    /// Who answered when it was made. `None`: nobody yet, or it is older than this was noted.
    #[serde(default)]
    pub speaker: Option<Speaker>,
}

impl Registration {
    /// An answer by who answered when the registration was made.
    ///
    /// # Errors
    /// By somebody else.
    pub(crate) fn check_speaker(&self, answer: ManagerAnswer) -> Result<ManagerAnswer, Fault> {
        match &self.speaker {
            Some(pinned) if !pinned.is(&answer.speaker, &answer.newest) => {
                let (subject, before) = (quoted(&answer.speaker.subject), quoted(&pinned.subject));
                Err(Fault::new(
                    Leg::Authorization,
                    format!(
                        "`{subject}` answers for the manager, and `{before}` did when this server registered"
                    ),
                    "find out who answers; if the manager has another name now: writ manager re-register",
                ))
            }
            _ => Ok(answer),
        }
    }
}

/// Who speaks for a manager. The authority of an organisation certifies many that sign documents; one of them
/// is the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Speaker {
    /// Its key.
    pub key: String,
    /// Its certificate's subject, for people.
    pub subject: String,
    /// SHA-256 of subject and issuer as encoded: a renewed certificate has the same.
    pub name: String,
    /// SHA-256 of the authority that vouched for it; empty if none was asked.
    pub authority: String,
    /// When its certificate began: one that was replaced does not come back.
    pub since: u64,
}

impl Speaker {
    /// The holder of a certificate; `None` if it is none.
    #[must_use]
    pub(crate) fn of(certificate: &[u8], authority: Option<Digest>) -> Option<Self> {
        let Named { key, subject, name, not_before } = Named::read(certificate)?;
        let authority = authority.map(|digest| digest.to_string()).unwrap_or_default();
        let (key, name, since) = (key.to_string(), name.to_string(), not_before.as_millis());
        Some(Self { key, subject, name, authority, since })
    }

    /// Whether another one is the same manager: by its key, or by a later certificate of the same name by the
    /// same issuer, where many may have none. The authority in force is `newest`: the first that answers
    /// under one that was uploaded since is the manager, and from then on nobody under the one of before.
    #[must_use]
    pub(crate) fn is(&self, other: &Self, newest: &str) -> bool {
        let is_renewed = !self.subject.is_empty() && self.name == other.name && self.since <= other.since;
        let is_uploaded = self.authority != newest && other.authority == newest;
        self.key == other.key || is_renewed || is_uploaded
    }
}

/// Where the integrated reputation server gets its updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum UpdateSource {
    /// The update server that is configured.
    #[default]
    Default,
    /// The manager.
    Manager,
}

/// A registration that ended here, and the manager was not reached yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departure {
    /// How it is met.
    pub settings: Settings,
    /// What ended.
    pub epoch: u64,
    /// With which manager.
    pub manager: Option<[u8; 16]>,
    /// When.
    pub since: u64,
}

/// What is durable of the line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ManagerRecord {
    /// As an operator saved them.
    pub saved: Settings,
    /// As registered.
    pub in_force: Option<Settings>,
    /// The registration.
    pub registration: Registration,
    /// What managers still have to hear.
    pub departures: Vec<Departure>,
}

/// A turn at changing the line, and the line as it stands.
#[derive(Debug)]
pub(crate) struct BridgeGuard {
    held: ManagerRecord,
    _alone: OwnedMutexGuard<()>,
}

impl Deref for BridgeGuard {
    type Target = ManagerRecord;

    fn deref(&self) -> &ManagerRecord {
        &self.held
    }
}

/// What is true only while the program runs.
#[derive(Debug, Default)]
pub(crate) struct LineHealth {
    /// The last answer that counted.
    pub last_contact: Timestamp,
    /// Of the last try, if it failed.
    pub last_error: String,
    /// Why nobody listens for the manager, although somebody should.
    pub listen_error: String,
    /// Instructions that were refused.
    pub refused: u64,
    /// Those refused last: a manager hands over again what was not taken.
    pub refused_lately: VecDeque<Digest>,
    /// The instruction whose progress was told last.
    pub told: u64,
}

/// The line.
#[derive(Debug)]
pub(crate) struct Bridge {
    vault: Vault,
    key: PrivateKey<Entity>,
    turns: Arc<tokio::sync::Mutex<()>>,
    held: RwLock<ManagerRecord>,
    /// Commands that instructions became and that have not ended.
    open: Mutex<HashSet<CommandId>>,
    live: Mutex<LineHealth>,
    /// Calls are made one after the other, so that their numbers come in order.
    calls: tokio::sync::Mutex<()>,
    /// Poll at once.
    poke: Notify,
    /// Tell managers that a registration ended.
    leaving: Notify,
    /// Look whether to listen.
    listening: Notify,
    /// Whether somebody listens; nothing while that is not known. Changes to nothing under the lock of
    /// `awaited`.
    listens: watch::Sender<Option<bool>>,
    /// Nonces of tests under way.
    awaited: Mutex<HashMap<[u8; 32], oneshot::Sender<()>>>,
    /// Where to listen in two-way mode.
    listen: SocketAddr,
    /// To the manager's suspicious objects.
    subscribing: Subscribing,
}

/// Why the line cannot be opened at the start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BridgeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What seals secrets.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The entity's key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// A document.
    #[error("the database holds a damaged {0} of the line to the Control Manager: {1}")]
    Damaged(&'static str, serde_json::Error),
}

impl Bridge {
    /// Reads what was kept; makes this server's entity key where there is none.
    ///
    /// # Errors
    /// When a file or the database is damaged.
    pub(crate) async fn open(files: &Files, store: &Store, listen: SocketAddr) -> Result<Self, BridgeError> {
        let vault = Vault::open(&files.manager_secrets_key())?;
        let key = entity_key(files)?;
        let held = ManagerRecord {
            saved: document(store, SAVED).await?.unwrap_or_default(),
            in_force: document(store, IN_FORCE).await?,
            registration: document(store, REGISTRATION).await?.unwrap_or_default(),
            departures: document(store, DEPARTURES).await?.unwrap_or_default(),
        };
        Ok(Self {
            vault,
            key,
            turns: Arc::default(),
            held: RwLock::new(held),
            open: Mutex::default(),
            live: Mutex::default(),
            calls: tokio::sync::Mutex::default(),
            poke: Notify::new(),
            leaving: Notify::new(),
            listening: Notify::new(),
            listens: watch::Sender::new(None),
            awaited: Mutex::default(),
            listen,
            subscribing: Subscribing::new(document(store, SUBSCRIPTION).await?.unwrap_or_default()),
        })
    }

    /// What seals secrets.
    #[must_use]
    pub(crate) const fn vault(&self) -> &Vault {
        &self.vault
    }

    fn live(&self) -> std::sync::MutexGuard<'_, LineHealth> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change of the line takes a turn; it may last as long as the manager takes to answer.
    pub(crate) async fn turn(&self) -> BridgeGuard {
        let alone = Arc::clone(&self.turns).lock_owned().await;
        BridgeGuard { held: self.held(), _alone: alone }
    }

    /// As it stands, at once.
    #[must_use]
    pub(crate) fn held(&self) -> ManagerRecord {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_open_commands(&self) -> bool {
        !self.open_commands().is_empty()
    }

    fn open_commands(&self) -> std::sync::MutexGuard<'_, HashSet<CommandId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the manager last gave an answer that counted; zero: never since the start, or there is no
    /// registration.
    #[must_use]
    pub(crate) fn last_contact(&self) -> Timestamp {
        let is_in = self.held().registration.state != State::Unregistered;
        if is_in { self.live().last_contact } else { Timestamp::ZERO }
    }

    fn note_contact(&self, now: Timestamp) {
        let mut live = self.live();
        live.last_contact = now;
        live.last_error.clear();
    }

    fn note_error(&self, error: String) {
        self.live().last_error = error;
    }
}

/// A running server and its connection to the Control Manager.
#[derive(Debug)]
pub(crate) struct Uplink {
    /// The server.
    pub server: Arc<Server>,
    /// The connection.
    pub bridge: Bridge,
}

/// How the connection stands, for operators.
#[derive(Debug)]
pub(crate) struct LineStatus {
    /// How this server stands with its manager.
    pub state: State,
    /// What an operator does next; empty: nothing.
    pub next: String,
    /// What the manager calls this server.
    pub entity: Option<EntityId>,
    /// This server's key towards it.
    pub entity_key: KeyId,
    /// The manager.
    pub manager: Option<ManagerId>,
    /// Its version.
    pub version: String,
    /// The number of the registration; zero: there is none.
    pub epoch: u64,
    /// Whether it was made under an authority that was uploaded.
    pub is_authorized: bool,
    /// Whether a sandbox feeds the manager threats.
    pub is_sandbox_connected: bool,
    /// Whether the manager calls.
    pub is_two_way: bool,
    /// Its last answer that counted.
    pub last_contact: Timestamp,
    /// Of the last try, if it failed.
    pub last_error: String,
    /// Where updates come from.
    pub source: UpdateSource,
    /// Whether the manager can be that.
    pub is_source_offered: bool,
    /// Whether there are settings it has not heard of.
    pub is_not_sent: bool,
    /// Whether a manager has still to hear that a registration ended.
    pub has_departures: bool,
    /// Instructions it has not heard the end of.
    pub instructions_open: u64,
    /// Instructions that were refused since the start.
    pub instructions_refused: u64,
}

impl Uplink {
    /// Makes a signed call to a manager.
    pub(crate) async fn call(
        &self,
        line: &ManagerClient,
        (manager, epoch): (Option<[u8; 16]>, u64),
        body: CallBody,
    ) -> Result<ManagerAnswer, Fault> {
        let Self { server, bridge } = self;
        let _one_at_a_time = bridge.calls.lock().await;
        let is_registration = matches!(body, CallBody::Register(_));
        // While it waited for its turn this server may have registered there anew.
        let is_wanted =
            || bridge.held().departures.iter().any(|one| (one.manager, one.epoch) == (manager, epoch));
        if matches!(body, CallBody::Unregister) && !is_wanted() {
            return Err(Fault::new(
                Leg::Input,
                "this server registered there anew",
                "nothing needs to be done",
            ));
        }
        let counter =
            server.store.next_manager_counter(is_registration, server.clock.wall()).await.map_err(stored)?;
        let to = ManagerId::from_bytes(manager.unwrap_or_default());
        let answer = line.call(&bridge.key, (to, epoch, counter), body).await?;
        match bridge.held().registration {
            registration if registration.manager == manager => registration.check_speaker(answer),
            _ => Ok(answer),
        }
    }

    /// Asks for a change of objects by the key of a subscription: the answer, and what follows it.
    async fn fetch_objects(
        &self,
        line: &ManagerClient,
        key: &PrivateKey<Entity>,
        registration: &Registration,
        held: u64,
    ) -> Result<(ManagerAnswer, Box<Streaming<ObjectsPiece>>), Fault> {
        let Self { server, bridge } = self;
        let _one_at_a_time = bridge.calls.lock().await;
        let counter = server.store.next_manager_counter(false, server.clock.wall()).await.map_err(stored)?;
        let to = ManagerId::from_bytes(registration.manager.unwrap_or_default());
        let (answer, pieces) = line.fetch_objects(key, (to, registration.epoch, counter), held).await?;
        Ok((registration.check_speaker(answer)?, pieces))
    }

    /// Makes a change durable, then true.
    pub(crate) async fn keep_line(
        &self,
        turn: &mut BridgeGuard,
        next: ManagerRecord,
    ) -> Result<(), StoreError> {
        let documents = vec![
            (SAVED, Some(json(&next.saved))),
            (IN_FORCE, next.in_force.as_ref().map(json)),
            (REGISTRATION, Some(json(&next.registration))),
            (DEPARTURES, Some(json(&next.departures))),
        ];
        self.server.store.put_manager_documents(documents).await?;
        if next.registration.source != turn.registration.source {
            self.server.updates.poke.notify_one();
        }
        turn.held.clone_from(&next);
        *self.bridge.held.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.bridge.listening.notify_one();
        self.bridge.subscribing.look();
        Ok(())
    }

    /// How the connection stands.
    pub(crate) async fn status(&self, held: &ManagerRecord) -> Result<LineStatus, StoreError> {
        let ManagerRecord { saved, in_force, registration, departures } = held;
        let (last_contact, last_error, instructions_refused) = {
            let live = self.bridge.live();
            let parts = [live.listen_error.as_str(), live.last_error.as_str()];
            let errors: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            (live.last_contact, errors.join("; "), live.refused)
        };
        let is_in = registration.state != State::Unregistered;
        let next = match held.next_step() {
            "" if !last_error.is_empty() => "writ manager test",
            next => next,
        };
        Ok(LineStatus {
            state: registration.state,
            next: next.to_owned(),
            entity: registration.entity.filter(|_| is_in).map(EntityId::from_bytes),
            entity_key: self.bridge.key.public().id(),
            manager: registration.manager.filter(|_| is_in).map(ManagerId::from_bytes),
            version: if is_in { registration.version.clone() } else { String::new() },
            epoch: if is_in { registration.epoch } else { 0 },
            is_authorized: is_in && registration.is_authorized,
            is_sandbox_connected: is_in && registration.is_sandbox_connected,
            is_two_way: is_in && in_force.as_ref().unwrap_or(saved).forwarding.is_some(),
            last_contact,
            last_error,
            source: registration.source,
            is_source_offered: update_source::is_offered(registration).is_ok(),
            is_not_sent: held.is_not_sent(),
            has_departures: !departures.is_empty(),
            instructions_open: self.server.store.count_unreported(registration.epoch).await?,
            instructions_refused,
        })
    }
}

impl ManagerRecord {
    /// Whether there are settings the manager has not heard of.
    #[must_use]
    pub(crate) fn is_not_sent(&self) -> bool {
        self.registration.state != State::Unregistered
            && self.in_force.as_ref().is_some_and(|in_force| *in_force != self.saved)
    }

    const fn next_step(&self) -> &'static str {
        let registration = &self.registration;
        match registration.state {
            State::Unregistered if !self.departures.is_empty() => {
                "nothing: the manager is told as soon as it can be reached"
            }
            State::Unregistered => "writ manager register",
            State::Registering => "nothing: it is finished as soon as the manager answers",
            State::Waiting => "have the manager's operator approve this entity",
            State::Rejected => {
                "have the manager's operator approve this entity again; it goes on by itself then"
            }
            State::Unknown => "writ manager re-register",
            State::Registered if !registration.is_authorized => {
                "this registration has no certificate authorization: upload the manager's CA, then unregister and register again, or writ manager re-register"
            }
            State::Registered => "",
        }
    }
}

/// The store failed in the middle of talking to the manager.
#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn stored(error: StoreError) -> Fault {
    Fault::new(Leg::Input, error.to_string(), "see this server's log")
}

/// Our own types always have a form in JSON.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

async fn document<T: DeserializeOwned>(store: &Store, name: &'static str) -> Result<Option<T>, BridgeError> {
    let text = store.manager_document(name).await?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| BridgeError::Damaged(name, error)))
        .transpose()
}

fn entity_key(files: &Files) -> Result<PrivateKey<Entity>, BridgeError> {
    let path = files.manager_entity_key();
    let text = match files::read_secret(&path) {
        Ok(text) => text,
        Err(error) if error.is_missing() => {
            let key = PrivateKey::generate(Algorithm::default());
            let text = pem::encode("PRIVATE KEY", &key.to_pkcs8());
            files::write_secret(&path, text.as_bytes()).map_err(KeyFileError::from)?;
            return Ok(key);
        }
        Err(error) => return Err(KeyFileError::from(error).into()),
    };
    let der = pem::private_key(&text).map_err(|source| KeyFileError::Pem { path: path.clone(), source })?;
    Ok(PrivateKey::from_pkcs8(&der).map_err(|source| KeyFileError::Key { path, source })?)
}

/// How long a manager that is gone is told that a registration with it ended.
const DEPART_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// For one attempt to reach the manager from within an operator's call.
const DEPART_WITHIN: Duration = Duration::from_secs(10);
