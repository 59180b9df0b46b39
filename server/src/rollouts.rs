//! Commands that reach their agents in waves.
//!
//! [`decide`] is the rule and the store keeps how far each rollout is; here is what carries it out. A release
//! is signed and on disk before anybody is sent the command under it, so a server that crashed goes on where
//! it was. Agents check it (protocol.md §3.6): who has no signing key cannot widen a rollout.

mod change;
mod look;
mod staging;

pub(crate) use change::{Change, change, end_with_command};
pub(crate) use look::stands;
pub(crate) use staging::{Staging, agents, words};

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tracing::{error, info, warn};
use writ_common::status::Failure;
use writ_protocol::envelope::claimed_keyid;
use writ_protocol::id::{AgentId, CommandId};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use look::{look, vouched};

use crate::context::Server;
use crate::store::rules::rollout::{Counted, Step, Wait, decide};
use crate::store::{Alarm, AlertKind, RolloutRow, RolloutState, SERVER, Store, StoreError, unavailable};

/// Rollouts that are not over, at most: each is looked at once a second.
const MAX_UNDER_WAY: usize = 64;
/// How often each is looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Moments that are remembered of one rollout, to know how long each agent has had.
const MAX_RELEASES: usize = 4096;
/// Answers that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(50);

/// What sessions ask before they deliver, and what is under way.
#[derive(Debug)]
pub(crate) struct Rollouts {
    released: RwLock<HashMap<CommandId, Released>>,
    /// Places of those that are under way, and of those that are about to be.
    places: Arc<Semaphore>,
    /// One change at a time, by operators and by time.
    under_way: Mutex<HashMap<CommandId, UnderWay>>,
    news: Notify,
}

#[derive(Debug)]
struct Released {
    agents: u32,
    envelope: Bytes,
    expires_at: Timestamp,
}

/// That one more rollout may be under way, for as long as this is held.
#[derive(Debug)]
pub(crate) struct RolloutPlace {
    _held: OwnedSemaphorePermit,
}

/// A rollout that is not over. Times are of a clock that nobody sets.
#[derive(Debug)]
struct UnderWay {
    row: RolloutRow,
    _place: Option<RolloutPlace>,
    targets: Option<Arc<[AgentId]>>,
    wave_ended: Option<Duration>,
    /// When agents were let obey, from which place on; the earliest first.
    releases: Vec<(u32, Duration)>,
    /// Whether it was said that nothing can be signed.
    is_unsigned_said: bool,
}

impl UnderWay {
    fn new(row: RolloutRow, place: Option<RolloutPlace>) -> Self {
        let (targets, wave_ended) = (None, None);
        Self { row, _place: place, targets, wave_ended, releases: Vec::new(), is_unsigned_said: false }
    }

    /// What is needed to look at it.
    fn clock(&self) -> RolloutClock {
        let (row, wave_ended) = (self.row.clone(), self.wave_ended);
        RolloutClock { row, wave_ended, releases: self.releases.clone() }
    }

    fn note_release(&mut self, first: u32, now: Duration) {
        self.releases.push((first, now));
        if self.releases.len() > MAX_RELEASES {
            // Those of the second share the first one's time: they are a little less waited for.
            self.releases.remove(1);
        }
    }
}

/// A rollout and its times.
#[derive(Debug)]
struct RolloutClock {
    row: RolloutRow,
    wave_ended: Option<Duration>,
    releases: Vec<(u32, Duration)>,
}

impl RolloutClock {
    /// When the agent at a place was let obey.
    fn released_at(&self, place: u32) -> Option<Duration> {
        let later = self.releases.partition_point(|(first, _)| *first <= place);
        later.checked_sub(1).and_then(|at| self.releases.get(at)).map(|(_, at)| *at)
    }
}

/// How a rollout stands, for people.
#[derive(Debug)]
pub(crate) struct Stands {
    /// As stored.
    pub row: RolloutRow,
    /// What became of those that may obey.
    pub counted: Counted,
    /// What it waits for.
    pub wait: Option<Wait>,
}

impl Rollouts {
    /// Those of a store, when a server starts. A release that is not under a key of the chain, or says
    /// something else than its row, lets nobody obey.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn open(
        store: &Store,
        chain: &Chain,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<Self, StoreError> {
        let mut under_way = HashMap::new();
        let rollouts = Self {
            released: RwLock::default(),
            places: Arc::new(Semaphore::new(MAX_UNDER_WAY)),
            under_way: Mutex::default(),
            news: Notify::new(),
        };
        for mut row in store.live_rollouts(now).await? {
            let said = vouched(chain, &row);
            if said != row.standing.released {
                error!(command.id = %row.command, stored = row.standing.released, signed = said, "the store says more of a rollout than was signed");
                row.standing.released = said;
                row.release = if said == 0 { Bytes::new() } else { row.release };
            }
            rollouts.publish(&row);
            if row.standing.state.is_over() {
                continue;
            }
            // More may have begun before places were taken in advance; they go on.
            let mut found = UnderWay::new(row, rollouts.place());
            // What was left of a pause is left, whatever the clock was set to meanwhile.
            let ended = found.row.wave_ended_at;
            let has_ended = ended != Timestamp::ZERO;
            found.wave_ended = has_ended.then(|| monotonic.saturating_sub(now.since(ended)));
            if found.row.standing.released > 0 {
                // Nobody is connected yet: everybody gets the time to come back.
                found.note_release(0, monotonic);
            }
            under_way.insert(found.row.command, found);
        }
        Ok(Self { under_way: Mutex::new(under_way), ..rollouts })
    }

    /// The release under which the agent at a place of a command's audience may be sent it.
    #[must_use]
    pub(crate) fn release_for(&self, command: CommandId, place: u32) -> Option<Bytes> {
        let released = self.released.read().unwrap_or_else(PoisonError::into_inner);
        released.get(&command).filter(|released| place < released.agents).map(|found| found.envelope.clone())
    }

    fn publish(&self, row: &RolloutRow) {
        if row.release.is_empty() {
            return;
        }
        let released = Released {
            agents: row.standing.released,
            envelope: row.release.clone(),
            expires_at: row.expires_at,
        };
        self.released.write().unwrap_or_else(PoisonError::into_inner).insert(row.command, released);
    }

    fn forget_expired(&self, now: Timestamp) {
        let mut released = self.released.write().unwrap_or_else(PoisonError::into_inner);
        released.retain(|_, released| released.expires_at > now);
    }

    fn place(&self) -> Option<RolloutPlace> {
        let held = Arc::clone(&self.places).try_acquire_owned().ok();
        held.map(|held| RolloutPlace { _held: held })
    }

    /// A place for one more, taken before anything is signed for it.
    ///
    /// # Errors
    /// When as many are under way as may be.
    pub(crate) fn reserve(&self) -> Result<RolloutPlace, Failure> {
        self.place().ok_or_else(|| {
            Failure::exhausted(format!(
                "{MAX_UNDER_WAY} rollouts are under way; wait, or abort one: writ rollouts list"
            ))
        })
    }

    /// A command with a rollout was recorded: its first wave is next.
    pub(crate) async fn begin(&self, row: RolloutRow, place: RolloutPlace, targets: &[AgentId]) {
        let under_way = UnderWay { targets: Some(targets.into()), ..UnderWay::new(row, Some(place)) };
        self.under_way.lock().await.insert(under_way.row.command, under_way);
        self.news.notify_one();
    }
}

/// The alert ends with the last rollout that had stopped.
async fn end_alert(server: &Server, all: &HashMap<CommandId, UnderWay>) -> Result<(), StoreError> {
    match all.values().any(|under_way| under_way.row.standing.state == RolloutState::Stopped) {
        true => Ok(()),
        false => server.store.end_alert(AlertKind::RolloutStopped, SERVER, server.clock.wall()).await,
    }
}

async fn find(server: &Server, command: CommandId) -> Result<RolloutRow, Failure> {
    let found = server.store.rollout(command).await.map_err(unavailable)?;
    found.ok_or_else(|| {
        Failure::not_found(format!("command {command} has no rollout; see: writ rollouts list"))
    })
}

async fn keep(server: &Server, under_way: &mut UnderWay, next: RolloutRow) -> Result<(), StoreError> {
    server.store.keep_rollout(&next).await?;
    under_way.row = next;
    Ok(())
}

/// Carries rollouts on until the server ends.
pub(crate) async fn run(server: Arc<Server>) {
    let mut changes = server.store.watch();
    loop {
        let commands = advance_all(&server).await;
        let next = async {
            if commands.is_empty() {
                return server.rollouts.news.notified().await;
            }
            tokio::select! {
                () = server.rollouts.news.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = changed(&commands, &mut changes) => tokio::time::sleep(GATHER).await,
            }
        };
        if server.shutdown.unless_requested(next).await.is_none() {
            return;
        }
    }
}

/// Returns at a change of one of these commands, or when some changes were missed.
pub(crate) async fn changed(commands: &[CommandId], changes: &mut broadcast::Receiver<CommandId>) {
    while let Ok(command) = changes.recv().await {
        if commands.contains(&command) {
            return;
        }
    }
}

/// One look at each; returns those that are still under way.
async fn advance_all(server: &Arc<Server>) -> Vec<CommandId> {
    let mut all = server.rollouts.under_way.lock().await;
    // A clock that is wrong ends nothing and lets nobody obey.
    if let Ok(now) = server.signer.now() {
        server.rollouts.forget_expired(now);
        for under_way in all.values_mut() {
            if let Err(error) = advance(server, under_way).await {
                warn!(command.id = %under_way.row.command, %error, "the rollout cannot go on now; it is tried again");
            }
        }
    }
    let before = all.len();
    all.retain(|_, under_way| !under_way.row.standing.state.is_over());
    if all.len() < before
        && let Err(error) = end_alert(server, &all).await
    {
        warn!(%error, "that no rollout stands still could not be noted");
    }
    all.keys().copied().collect()
}

/// Goes on as far as it may at this moment.
async fn advance(server: &Arc<Server>, under_way: &mut UnderWay) -> Result<(), StoreError> {
    loop {
        let command = under_way.row.command;
        let mut next = under_way.row.clone();
        let is_cancelled = next.cancelled_at != Timestamp::ZERO || server.dispatcher.is_cancelled(command);
        let (counted, moment) = look(server, &under_way.clock()).await?;
        let step = match is_cancelled {
            true => Step::End(RolloutState::Aborted),
            false => decide(&next.plan, next.targets, next.standing, counted, moment),
        };
        match step {
            Step::Wait(_) => return Ok(()),
            Step::Release(agents) => return release(server, under_way, agents).await,
            Step::EndWave => {
                next.standing.wave += 1;
                next.wave_ended_at = moment.now;
                info!(command.id = %command, wave = next.standing.wave, "wave over");
                under_way.wave_ended = Some(server.clock.monotonic());
                keep(server, under_way, next).await?;
            }
            Step::End(state) => {
                next.standing.state = state;
                next.reason = ended(state, &next, counted);
                info!(command.id = %command, state = state.as_str(), "rollout over");
                return keep(server, under_way, next).await;
            }
            Step::Stop => {
                next.standing.state = RolloutState::Stopped;
                next.reason = stopped(&next, counted);
                warn!(command.id = %command, reason = next.reason, "rollout stopped");
                let detail = format!(
                    "The rollout of command {command} stopped: {}. Others that stand still: writ rollouts list.",
                    next.reason
                );
                let alarm =
                    Alarm { kind: AlertKind::RolloutStopped, code: "", agent: SERVER, count: 1, detail };
                server.store.raise(alarm, None, moment.now).await?;
                return keep(server, under_way, next).await;
            }
        }
    }
}

fn ended(state: RolloutState, row: &RolloutRow, counted: Counted) -> String {
    let left = agents(row.targets - row.standing.released);
    match state {
        RolloutState::Expired => format!("the command expired; {left} never let obey"),
        RolloutState::Aborted => format!("the command was cancelled; {left} never let obey"),
        _ if counted.away > 0 => {
            format!(
                "{} away, which obey when they are back, unless it is aborted before",
                agents(counted.away)
            )
        }
        _ => String::new(),
    }
}

fn stopped(row: &RolloutRow, counted: Counted) -> String {
    let more = match row.standing.forgiven {
        0 => String::new(),
        forgiven => format!(", beside {forgiven} that an operator bears"),
    };
    let most = row.plan.max_failures;
    let Counted { failed, silent, .. } = counted;
    format!("{failed} failed or refused, {silent} without an answer; the plan bears {most}{more}")
}

/// Lets so many agents obey: signed, on disk, then sent.
async fn release(server: &Arc<Server>, under_way: &mut UnderWay, agents: u32) -> Result<(), StoreError> {
    let mut next = under_way.row.clone();
    let (command, before) = (next.command, next.standing.released);
    let sealed = match server.signer.release(next.digest, agents) {
        Ok(sealed) => sealed,
        Err(failed) => {
            // Said once: the text has the time in it.
            if !std::mem::replace(&mut under_way.is_unsigned_said, true) {
                error!(command.id = %command, error = %failed, "the next agents cannot be let obey");
                next.reason = failed.to_string();
                keep(server, under_way, next).await?;
            }
            return Ok(());
        }
    };
    under_way.is_unsigned_said = false;
    next.standing.released = agents;
    next.release = sealed.bytes().clone();
    next.reason.clear();
    keep(server, under_way, next).await?;
    writ_common::checkpoint!("wave_released");
    under_way.note_release(before, server.clock.monotonic());
    server.rollouts.publish(&under_way.row);
    info!(command.id = %command, wave = under_way.row.standing.wave + 1, released = agents, "agents may obey");
    let targets = match &under_way.targets {
        Some(targets) => Arc::clone(targets),
        None => {
            let stored = server.store.envelope(command).await?.ok_or(StoreError::Damaged("rollout"))?;
            let targets: Arc<[AgentId]> = stored.targets.into();
            under_way.targets = Some(Arc::clone(&targets));
            targets
        }
    };
    server.dispatcher.release(&server.store, command, &targets, before..agents).await
}

/// Other keys sign now: what is released is signed anew, so that agents that hold the newest bundle believe
/// it.
///
/// # Errors
/// When the store fails.
pub(crate) async fn sign_anew(server: &Arc<Server>) -> Result<(), StoreError> {
    let mut all = server.rollouts.under_way.lock().await;
    let present = server.signer.check().ok().map(|key| key.to_string());
    let chain = server.chain();
    for row in server.store.live_rollouts(server.clock.wall()).await? {
        let (command, digest) = (row.command, row.digest);
        // What the store says is not signed; only what was signed before is.
        let released = vouched(&chain, &row);
        let is_cancelled = row.cancelled_at != Timestamp::ZERO;
        let is_present = claimed_keyid(&row.release) == present;
        if released == 0 || released != row.standing.released || is_cancelled || is_present {
            continue;
        }
        // What cannot be signed now is signed when a key counts.
        let Ok(sealed) = server.signer.release(digest, released) else { continue };
        let next = RolloutRow { release: sealed.bytes().clone(), ..row.clone() };
        server.store.keep_rollout(&next).await?;
        server.rollouts.publish(&next);
        if let Some(under_way) = all.get_mut(&command) {
            under_way.row.release = next.release;
        }
    }
    Ok(())
}
