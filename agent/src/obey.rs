//! The journey of one delivery through the agent: verified, judged, planned, journalled, run, answered.

mod own;
mod recover;
mod stop;
mod unkept;

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};
use tracing::{error, info, warn};
use writ_common::files::FileError;
use writ_common::net::Proxy;
use writ_common::shutdown::Shutdown;
use writ_proto::v1 as proto;
use writ_protocol::admission::check_approvals;
use writ_protocol::command::{Action, ActionClass};
use writ_protocol::envelope::IdentityRecordPurpose;
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::limits::MAX_COUNTED_DELIVERIES;
use writ_protocol::receipt::Decision;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Keyring;
use writ_protocol::verify::VerifiedCommand;

use crate::components::ComponentStore;
use crate::execute::{self, ActionTable, AdmittedCommand, Queue, Started};
use crate::identity::Identity;
use crate::replay::{Admission, FreshCommand, Journal, JournalError, ReplayCheck, State, evaluate};
use crate::reply::{ReceiptContext, SignedReceipt, announcement, frame, sign_receipt};
use crate::reputation::Reputations;
use crate::scan::Scans;
use crate::session_time::SessionTime;
use crate::settings::SettingsStore;
use crate::trust::{Trust, Walked};
use crate::upgrade::Place;
use crate::upgrade::asked::Upgrades;
use crate::verify::verify;
pub(crate) use recover::Unsettled;
use stop::UnderWay;
use unkept::Unkept;

/// Answers that wait for the session; more are found in the journal.
const MAX_WAITING_ANSWERS: usize = 1024;

/// Commands that end others, at a time: each takes no longer than a look into the journal.
const MAX_STOPPING: usize = 8;

/// How often a receipt that found no room on the disk is tried again.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(5);

/// A bundle could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The trust store failed.
    #[error(transparent)]
    Trust(#[from] FileError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What a delivery came to.
#[derive(Debug)]
pub enum Reaction {
    /// Nothing leaves the agent; the refusal is counted.
    Silence(Refusal),
    /// This frame is the answer.
    Answer(proto::AgentFrame),
    /// The journal has the answer.
    AnswerAgain(CommandId),
    /// It runs; the answer comes later.
    Running,
    /// It is to be started when this frame is on its way (protocol.md §6.15), or when the session is over.
    Announce(proto::AgentFrame, Box<AdmittedCommand>),
    /// More commands on one stream than are counted: the stream must end.
    TooMany,
}

/// Why a verified command was not admitted.
enum NotAdmitted {
    Refused(Refusal),
    Journal(JournalError),
}

/// How often each command came on the present stream (protocol.md §7.4).
#[derive(Debug, Default)]
pub struct Deliveries(HashMap<CommandId, u32>);

impl Deliveries {
    fn count(&mut self, command: CommandId) -> Option<u32> {
        if !self.0.contains_key(&command) && self.0.len() >= MAX_COUNTED_DELIVERIES {
            return None;
        }
        let count = self.0.entry(command).or_default();
        *count = count.saturating_add(1);
        Some(*count)
    }

    /// How often a command came.
    #[must_use]
    pub fn of(&self, command: CommandId) -> u32 {
        self.0.get(&command).copied().unwrap_or(0)
    }
}

/// Tries an endpoint that new settings name; why it cannot be used.
pub(crate) type Probe =
    for<'a> fn(&'a AgentCore, &'a str) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What an agent is given beside its own state.
#[derive(Debug)]
pub struct Surroundings {
    /// What time it is.
    pub time: SessionTime,
    /// Actions that run at a time.
    pub max_running: usize,
    /// On the way to every server.
    pub proxy: Option<Proxy>,
    /// Tries endpoints of settings before they are kept.
    pub probe: Probe,
    /// What root of this host keeps of upgrades.
    pub upgrades: PathBuf,
    /// Folders of the agent beside the one of its state, which no scan changes anything in.
    pub own_folders: Vec<PathBuf>,
    /// What running actions are waited for by.
    pub shutdown: Shutdown,
}

/// Everything an agent needs to obey. Shared by the link and the running actions.
#[derive(Debug)]
pub struct AgentCore {
    /// Who it is.
    pub identity: Identity,
    /// Whom it obeys.
    pub trust: Trust,
    /// What it remembers.
    pub journal: Journal,
    /// What it can do.
    pub table: ActionTable,
    /// What it was told to change about itself.
    pub settings: SettingsStore,
    /// Components it was told to hold.
    pub components: ComponentStore,
    /// Replacing this program.
    pub(crate) upgrades: Upgrades,
    /// What lists say about values.
    pub reputations: Reputations,
    /// Looking for listed files.
    pub(crate) scans: Scans,
    /// What time it is.
    pub time: SessionTime,
    /// On the way to every server.
    pub proxy: Option<Proxy>,
    probe: Probe,
    running: Arc<Semaphore>,
    /// One component is fetched at a time, and takes no place of an action.
    fetching: Arc<Semaphore>,
    upgrading: Arc<Semaphore>,
    stopping: Arc<Semaphore>,
    under_way: UnderWay,
    /// One scan runs at a time.
    scanning: Arc<Semaphore>,
    answers: mpsc::Sender<CommandId>,
    is_behind: AtomicBool,
    /// The server's word about this agent's identity, as it was given last.
    record: Mutex<Bytes>,
    /// One at a time walks along the chain: a shorter walk must not take the place of a longer one.
    following: Mutex<()>,
    unkept: Unkept,
    broken: Shutdown,
    shutdown: Shutdown,
}

impl AgentCore {
    /// Puts the parts together; the receiver is the link's.
    #[must_use]
    pub fn new(
        identity: Identity,
        trust: Trust,
        journal: Journal,
        (table, settings, components): (ActionTable, SettingsStore, ComponentStore),
        surroundings: Surroundings,
    ) -> (Arc<Self>, mpsc::Receiver<CommandId>) {
        let Surroundings { time, max_running, proxy, probe, upgrades, own_folders, shutdown } = surroundings;
        let upgrades = Upgrades::load(Place::new(&upgrades), trust.files());
        let scans = Scans::new(trust.files().folder(), &own_folders);
        let (answers, receiver) = mpsc::channel(MAX_WAITING_ANSWERS);
        let running = Arc::new(Semaphore::new(max_running));
        let is_behind = AtomicBool::new(false);
        let broken = Shutdown::new();
        let record = identity.envelope.clone();
        let this = Self {
            identity,
            trust,
            journal,
            table,
            settings,
            components,
            upgrades,
            reputations: Reputations::default(),
            time,
            proxy,
            probe,
            running,
            fetching: Arc::new(Semaphore::new(1)),
            upgrading: Arc::new(Semaphore::new(1)),
            stopping: Arc::new(Semaphore::new(MAX_STOPPING)),
            under_way: UnderWay::default(),
            scanning: Arc::new(Semaphore::new(1)),
            scans,
            answers,
            is_behind,
            following: Mutex::default(),
            unkept: Unkept::default(),
            record: Mutex::new(record),
            broken,
            shutdown,
        };
        (Arc::new(this), receiver)
    }

    /// The identity record to show.
    #[must_use]
    pub fn record(&self) -> Bytes {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A server gives its word about this agent again, because the key it was given under was revoked. Kept
    /// if it is about this agent, its key and its realm, by a key that counts at the record's own time.
    ///
    /// # Errors
    /// The outer error is the disk's, the inner one says why it is not believed.
    pub fn renew_record(&self, envelope: Bytes) -> Result<Result<(), Refusal>, FileError> {
        let (chain, held) = (self.trust.chain(), &self.identity.record);
        let keyring = Keyring::new(&chain.head().bundle, &held.realm);
        let record = match keyring.verify_at::<IdentityRecordPurpose>(&envelope, |record| record.recorded_at)
        {
            Ok(verified) => verified.into_document(),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let is_mine = record.agent == held.agent
            && record.fleet == held.fleet
            && record.public_key == held.public_key
            && record.realm == held.realm;
        if !is_mine {
            return Ok(Err(Refusal::new(RefusalCode::WrongAgent, "the record is about another")));
        }
        Identity::keep_record(self.trust.files(), &envelope)?;
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = envelope;
        info!("identity record renewed");
        Ok(Ok(()))
    }

    /// Walks on along these bundles as far as they lead; a bundle may set the time floor anew. Returns how
    /// many were new.
    ///
    /// # Errors
    /// The outer error is the disk's, the inner one says why a bundle does not follow; those before it are
    /// kept.
    pub fn follow(&self, bundles: Vec<Bytes>) -> Result<Result<usize, Refusal>, AdoptError> {
        let _following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.trust.chain().head().bundle.version;
        let Walked { chain, added, refused } = self.trust.walk(bundles);
        if added > 0 {
            // The floor first: a crash in between repeats both, the other way round would lose the reset.
            if let Some(floor) = chain.after(before).filter_map(|link| link.bundle.floor_reset).last() {
                self.journal.reset_floor(floor)?;
            }
            match self.trust.adopt(chain.clone()) {
                Err(_) if self.journal.make_room() => self.trust.adopt(chain)?,
                adopted => adopted?,
            }
        }
        Ok(refused.map_or(Ok(added), Err))
    }

    /// Takes a delivery through the checks of protocol.md §4, in their order.
    pub fn receive(
        self: &Arc<Self>,
        message: proto::Delivery,
        now: Timestamp,
        seen: &mut Deliveries,
    ) -> Reaction {
        let chain = self.trust.chain();
        let record = &self.identity.record;
        // §4.1 to §4.7
        let command = match verify(message.clone(), &chain, (record.agent, &record.realm), now) {
            Ok((command, _)) => command,
            Err(refusal) => return Reaction::Silence(refusal),
        };
        let (id, digest) = (command.command().id, command.digest());
        let about = (digest, command.command().window.expires_at);
        let Some(deliveries) = seen.count(id) else { return Reaction::TooMany };
        // §4.8, §4.9
        let judged = evaluate(&self.journal, command, now);
        let admitted = match judged {
            Ok(ReplayCheck::Redelivery(known)) => {
                info!(command.id = %id, state = ?known.state, "command delivered again");
                return match known.state {
                    State::Finished | State::Acknowledged => Reaction::AnswerAgain(id),
                    State::Accepted | State::Started => Reaction::Running,
                };
            }
            Ok(ReplayCheck::Refused(refusal)) => Err(NotAdmitted::Refused(refusal)),
            Ok(ReplayCheck::Fresh(_)) if self.unkept.holds(id) => {
                let detail = "the journal could not keep it when it came first";
                Err(NotAdmitted::Refused(Refusal::new(RefusalCode::JournalFailed, detail)))
            }
            // §4.10 to §4.12
            Ok(ReplayCheck::Fresh(fresh)) => self.admit(*fresh, &message, now),
            // Whether it runs cannot be told now: a refusal might be answered for what is obeyed.
            Err(failed @ JournalError::NoRoom(_)) => {
                warn!(command.id = %id, error = %failed, "not answered");
                return Reaction::Running;
            }
            Err(failed) => Err(NotAdmitted::Journal(failed)),
        };
        let admitted = match admitted {
            Err(NotAdmitted::Refused(refusal)) => Err(refusal),
            Err(NotAdmitted::Journal(failed)) => {
                // A damaged entry is the trouble of one command, a full disk that of all until there is room.
                if failed.is_lasting() {
                    error!(command.id = %id, error = %failed, "the journal failed");
                    self.broken.trigger();
                }
                if matches!(failed, JournalError::Unknown(_)) {
                    // It may be on disk: the next start finds out, and only then is there an answer.
                    return Reaction::Running;
                }
                Err(journal_refusal(&failed))
            }
            Ok(admitted) => Ok(admitted),
        };
        match admitted {
            Ok((admitted, announcement)) => {
                info!(command.id = %id, "command admitted");
                match announcement {
                    Some(frame) => Reaction::Announce(frame, Box::new(admitted)),
                    None => {
                        self.start(admitted);
                        Reaction::Running
                    }
                }
            }
            Err(refusal) => {
                warn!(command.id = %id, code = %refusal.code, detail = %refusal.detail, "command refused");
                self.answer_refusal((id, about), &refusal, deliveries, now)
            }
        }
    }

    /// The answer to a command that is refused. What was answered with "refused" is never obeyed: unless it
    /// is remembered, nothing is answered.
    fn answer_refusal(
        &self,
        (id, about): (CommandId, (Digest, Timestamp)),
        refusal: &Refusal,
        deliveries: u32,
        now: Timestamp,
    ) -> Reaction {
        let (digest, expires_at) = about;
        let receipt = self.refuse(id, digest, refusal, now);
        let answer = Reaction::Answer(frame(id, digest, Some(receipt.bytes().clone()), deliveries));
        match refusal.code {
            // Time makes the first two truer, and the third is about another command.
            RefusalCode::Expired | RefusalCode::TooOld | RefusalCode::IdReused => answer,
            RefusalCode::JournalFailed if self.unkept.remember(id, expires_at, now) => answer,
            RefusalCode::JournalFailed => Reaction::Running,
            _ => match self.journal.refuse(id, about, receipt.bytes().clone(), now) {
                Ok(()) => answer,
                Err(failed) => {
                    warn!(command.id = %id, error = %failed, "not answered");
                    if failed.is_lasting() {
                        self.broken.trigger();
                    }
                    Reaction::Running
                }
            },
        }
    }

    /// Checks 10 to 12: approvals, allow-list, journal. Also what to say before it starts, if it changes
    /// something.
    fn admit(
        &self,
        fresh: FreshCommand,
        message: &proto::Delivery,
        now: Timestamp,
    ) -> Result<(AdmittedCommand, Option<proto::AgentFrame>), NotAdmitted> {
        let command = fresh.verified();
        let plan = self.plan(command).map_err(NotAdmitted::Refused)?;
        let (id, digest, expires_at) =
            (command.command().id, command.digest(), command.command().window.expires_at);
        let changes = self.table.class_of(&command.command().action) > ActionClass::Read;
        let delivery = Bytes::from(message.encode_to_vec());
        let (admission, started) = match self.places(&plan).try_acquire_owned() {
            // It starts at once, so its start is journalled with it: one sync instead of two.
            Ok(place) => {
                let about = (digest, expires_at);
                let admission = self.journal.accept_and_start(id, about, delivery, now, &boot_id());
                (admission, Some(Started { place }))
            }
            Err(_) => (self.journal.accept(id, digest, expires_at, delivery, now), None),
        };
        let Admission { durable, admissions } = admission.map_err(NotAdmitted::Journal)?;
        writ_common::checkpoint!("accepted");
        let announcement = changes.then(|| announcement(id, admissions));
        let issued_at = command.command().window.issued_at;
        let admitted = AdmittedCommand { durable, digest, issued_at, expires_at, plan, started };
        Ok((admitted, announcement))
    }

    /// The places in which a plan is carried out.
    fn places(&self, plan: &execute::Plan) -> Arc<Semaphore> {
        match plan.queue() {
            Queue::Actions => Arc::clone(&self.running),
            Queue::Components => Arc::clone(&self.fetching),
            Queue::Upgrades => Arc::clone(&self.upgrading),
            Queue::Scans => Arc::clone(&self.scanning),
            Queue::Stops => Arc::clone(&self.stopping),
        }
    }

    fn plan(&self, command: &VerifiedCommand) -> Result<execute::Plan, Refusal> {
        let action = &command.command().action;
        let chain = self.trust.chain();
        check_approvals(&chain.head().bundle, self.table.class_of(action), command)?;
        if let Action::ApplySettings(settings) = action {
            self.settings.check(settings, command.command().window.issued_at)?;
        }
        if let Action::UpdateComponent(update) = action {
            self.components.check(update, command.command().window.issued_at)?;
        }
        self.table.plan(action)
    }

    /// Starts an admitted command, once there is a place for it.
    pub fn start(self: &Arc<Self>, admitted: AdmittedCommand) {
        let this = Arc::clone(self);
        self.shutdown.spawn(async move {
            let id = admitted.id();
            if let Err(error) = this.run(admitted).await {
                error!(command.id = %id, %error, "the journal failed while a command ran; it will be settled at the next start");
                this.broken.trigger();
            }
        });
    }

    async fn run(&self, admitted: AdmittedCommand) -> Result<(), JournalError> {
        let id = admitted.id();
        let AdmittedCommand { durable, digest, issued_at, expires_at, plan, started } = admitted;
        let stoppable = self.under_way.enter(id);
        let (_place, started_at, attempt) = match started {
            Some(Started { place }) => {
                // A thief who holds its announcement back does not choose when it starts.
                let now = self.now();
                if now >= expires_at {
                    let refusal =
                        Refusal::new(RefusalCode::Expired, "it expired before its start could be announced");
                    return self.keep(id, &self.refuse(id, digest, &refusal, now)).await;
                }
                (place, now, 1)
            }
            None => {
                // Waiting for a place; when the agent ends meanwhile, the journal still says "accepted".
                let places = self.places(&plan);
                let place = async {
                    tokio::select! {
                        place = places.acquire_owned() => place.ok(),
                        () = stoppable.told() => None,
                    }
                };
                let Some(place) = self.shutdown.unless_requested(place).await else { return Ok(()) };
                let Some(place) = place else { return self.end_stopped(id, digest).await };
                let (now, attempt) = loop {
                    let now = self.now();
                    let done = match now >= expires_at {
                        true => self.end_expired(id, digest, now).map(|()| None),
                        false => self.journal.start(&durable, now, &boot_id()).map(Some),
                    };
                    match done {
                        Err(error @ JournalError::NoRoom(_)) => {
                            warn!(command.id = %id, %error, "the start waits");
                            if self.wait_for_room().await.is_none() {
                                return Ok(());
                            }
                        }
                        done => match done? {
                            Some(attempt) => break (now, attempt),
                            None => return Ok(()),
                        },
                    }
                };
                (place, now, attempt)
            }
        };
        writ_common::checkpoint!("started");
        let note_group = |group| {
            info!(command.id = %id, process.group = group, attempt, "action started");
            if let Err(error) = self.journal.note_process_group(id, group) {
                warn!(command.id = %id, %error, "the process group could not be noted");
            }
            writ_common::checkpoint!("group_noted");
        };
        let ended = match plan.own_work() {
            Some(work) => {
                let (can_wait, work) = self.do_own(work, id, (issued_at, expires_at));
                // When the agent ends meanwhile, the journal says "started", and the next start goes on.
                let done = match can_wait {
                    true => self.shutdown.unless_requested(self.unless_stopped(work, &stoppable)).await,
                    false => Some(work.await),
                };
                let Some(ended) = done else { return Ok(()) };
                ended
            }
            None => execute::run(plan, note_group, stoppable.told()).await,
        };
        info!(command.id = %id, ending = ended.ending.as_str(), "command ended");
        let finished_at = self.now();
        let decision = Decision::Obeyed(ended.outcome(started_at, finished_at));
        let about = self.about(id, digest, finished_at, attempt);
        let receipt = sign_receipt(&self.identity, about, decision, &ended.detail);
        self.keep(id, &receipt).await
    }

    /// Keeps a receipt, as soon as there is room for it.
    async fn keep(&self, id: CommandId, receipt: &SignedReceipt) -> Result<(), JournalError> {
        loop {
            match self.finish(id, receipt) {
                Err(error @ JournalError::NoRoom(_)) => warn!(command.id = %id, %error, "the receipt waits"),
                done => return done,
            }
            // The journal says that it was started; the next start says that nobody knows how it ended.
            if self.wait_for_room().await.is_none() {
                return Ok(());
            }
        }
    }

    async fn wait_for_room(&self) -> Option<()> {
        self.shutdown.unless_requested(tokio::time::sleep(LOOK_FOR_ROOM)).await
    }

    /// It expired while it waited for a place.
    fn end_expired(&self, id: CommandId, digest: Digest, now: Timestamp) -> Result<(), JournalError> {
        let started_before = self.journal.entry(id)?.filter(|entry| entry.attempt > 0);
        if let Some(entry) = started_before {
            return self.finish_indeterminate(id, digest, &entry, now);
        }
        let refusal =
            Refusal::new(RefusalCode::Expired, "it expired while it waited for other actions to end");
        self.finish(id, &self.refuse(id, digest, &refusal, now))
    }

    /// On disk first, then to the session.
    fn finish(&self, command: CommandId, receipt: &SignedReceipt) -> Result<(), JournalError> {
        self.journal.finish(command, receipt.bytes().clone())?;
        writ_common::checkpoint!("finished");
        if self.answers.try_send(command).is_err() {
            self.is_behind.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The journal failed outside of a command.
    pub fn give_up(&self) {
        self.broken.trigger();
    }

    /// Returns when the journal failed in a way only a restart can mend.
    pub async fn broken(&self) {
        self.broken.requested().await;
    }

    /// There is more to answer than was looked at.
    pub fn mark_behind(&self) {
        self.is_behind.store(true, Ordering::Release);
    }

    /// Whether answers found no room and must be read from the journal.
    pub fn take_behind(&self) -> bool {
        self.is_behind.swap(false, Ordering::AcqRel)
    }

    /// Commands whose receipts the server has not acknowledged.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn owed(&self) -> Result<Vec<CommandId>, JournalError> {
        let open = self.journal.open_commands()?;
        Ok(open.into_iter().filter(|(_, entry)| entry.state() == State::Finished).map(|(id, _)| id).collect())
    }

    /// The answer to a command that is finished, as the journal has it now; `None` if there is nothing to
    /// say.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn answer(
        &self,
        command: CommandId,
        deliveries: u32,
    ) -> Result<Option<proto::AgentFrame>, JournalError> {
        let Some(known) = self.journal.find(command)? else { return Ok(None) };
        let is_settled = matches!(known.state, State::Finished | State::Acknowledged);
        Ok(is_settled.then(|| frame(command, known.digest, known.receipt, deliveries)))
    }

    fn refuse(&self, id: CommandId, digest: Digest, refusal: &Refusal, now: Timestamp) -> SignedReceipt {
        let about = self.about(id, digest, now, 1);
        sign_receipt(&self.identity, about, Decision::Refused(refusal.code), &refusal.detail)
    }

    fn about(
        &self,
        command: CommandId,
        digest: Digest,
        decided_at: Timestamp,
        attempt: u32,
    ) -> ReceiptContext {
        // A journal that cannot be read wrote something once.
        let journal_counter = self.journal.facts().map_or(1, |facts| facts.counter);
        ReceiptContext { command, digest, decided_at, journal_counter, attempt }
    }

    fn now(&self) -> Timestamp {
        self.time
            .now()
            .expect("commands are admitted only after a session said the time, and it never forgets")
    }
}

fn journal_refusal(failed: &JournalError) -> Refusal {
    let is_full = matches!(failed, JournalError::Full(_));
    let code = if is_full { RefusalCode::JournalFull } else { RefusalCode::JournalFailed };
    Refusal::new(code, failed.to_string())
}

/// Changes with every boot: after one, no process of before is left.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
