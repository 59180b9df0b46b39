//! Commands that reach their agents in waves.
//!
//! [`decide`] is the rule and the store keeps how far each rollout is; here is what carries it out. A release
//! is signed and on disk before anybody is sent the command under it, so a server that crashed goes on where
//! it was. Agents check it (protocol.md §3.6): who has no signing key cannot widen a rollout.

mod staging;

pub(crate) use staging::{Staging, words};

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify, broadcast};
use tracing::{error, info, warn};
use writ_common::status::Failure;
use writ_protocol::envelope::claimed_keyid;
use writ_protocol::id::{AgentId, CommandId};
use writ_protocol::time::Timestamp;

use crate::context::Server;
use crate::store::rules::rollout::{Counted, Moment, Step, Wait, decide};
use crate::store::{
    Alarm, AlertKind, Answers, RolloutRow, RolloutState, SERVER, Store, StoreError, unavailable,
};

/// Rollouts that are not over, at most: each is looked at once a second.
const MAX_UNDER_WAY: usize = 64;
/// How often each is looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Answers that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(50);

/// What sessions ask before they deliver, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct Rollouts {
    released: RwLock<HashMap<CommandId, Released>>,
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

/// A rollout that is not over. Times are of a clock that nobody sets.
#[derive(Debug)]
struct UnderWay {
    row: RolloutRow,
    targets: Option<Arc<[AgentId]>>,
    wave_ended: Option<Duration>,
    released_at: Option<Duration>,
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
    /// Those of a store, when a server starts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn open(store: &Store, now: Timestamp, monotonic: Duration) -> Result<Self, StoreError> {
        let mut under_way = HashMap::new();
        let rollouts = Self::default();
        for row in store.live_rollouts(now).await? {
            rollouts.publish(&row);
            if row.standing.state.is_over() {
                continue;
            }
            // What was left of a pause is left, whatever the clock was set to meanwhile.
            let ended = row.wave_ended_at != Timestamp::ZERO;
            let wave_ended = ended.then(|| monotonic.saturating_sub(now.since(row.wave_ended_at)));
            let released_at = (row.standing.released > 0).then_some(monotonic);
            under_way.insert(row.command, UnderWay { row, targets: None, wave_ended, released_at });
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

    /// Whether one more can begin.
    ///
    /// # Errors
    /// When as many are under way as may be.
    pub(crate) async fn check_room(&self) -> Result<(), Failure> {
        if self.under_way.lock().await.len() < MAX_UNDER_WAY {
            return Ok(());
        }
        let text = format!("{MAX_UNDER_WAY} rollouts are under way; wait, or abort one: writ rollouts list");
        Err(Failure::exhausted(text))
    }

    /// A command with a rollout was recorded: its first wave is next.
    pub(crate) async fn begin(&self, row: RolloutRow, targets: &[AgentId]) {
        let under_way = UnderWay { row, targets: Some(targets.into()), wave_ended: None, released_at: None };
        self.under_way.lock().await.insert(under_way.row.command, under_way);
        self.news.notify_one();
    }
}

/// What an operator does to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is held.
    Pause,
    /// It goes on.
    Resume,
    /// It is over.
    Abort,
}

/// Does what an operator asks; whether that changed anything.
///
/// # Errors
/// When the command has no rollout, it is over, or the store fails.
pub(crate) async fn change(server: &Arc<Server>, command: CommandId, what: Change) -> Result<bool, Failure> {
    let mut all = server.rollouts.under_way.lock().await;
    let Some(under_way) = all.get_mut(&command) else {
        let row = find(server, command).await?;
        let state = row.standing.state.as_str();
        if what == Change::Abort && row.standing.state == RolloutState::Aborted {
            return Ok(false);
        }
        return Err(Failure::precondition(
            "rollout_over",
            format!("this rollout is {state}; nothing changes it"),
        ));
    };
    let mut next = under_way.row.clone();
    match (what, next.standing.state) {
        (Change::Pause, RolloutState::Running) => next.standing.state = RolloutState::Paused,
        (Change::Pause, RolloutState::Paused) | (Change::Abort, RolloutState::Aborted) => return Ok(false),
        (Change::Pause, _) => {
            return Err(Failure::precondition("rollout_stopped", "this rollout has stopped by itself"));
        }
        (Change::Resume, RolloutState::Running) => {
            let (counted, moment) = look(server, under_way).await.map_err(unavailable)?;
            let step = decide(&next.plan, next.targets, next.standing, counted, moment);
            if !matches!(step, Step::Wait(Wait::Canary(_))) {
                return Ok(false);
            }
            // An operator says that those who are there have shown enough.
            next.standing.wave += 1;
            next.wave_ended_at = server.clock.wall();
            under_way.wave_ended = Some(server.clock.monotonic());
        }
        (Change::Resume, _) => {
            let (counted, _) = look(server, under_way).await.map_err(unavailable)?;
            next.standing.forgiven = counted.failures();
            next.standing.state = RolloutState::Running;
            next.reason.clear();
        }
        (Change::Abort, _) => {
            // First, that nothing is sent any more: a crash in between is made up for by the next look.
            let now = server.clock.wall();
            let cancelled = server.dispatcher.cancel(&server.store, command, next.expires_at, now).await;
            cancelled.map_err(unavailable)?;
            next.standing.state = RolloutState::Aborted;
            "aborted by an operator".clone_into(&mut next.reason);
        }
    }
    keep(server, under_way, next).await.map_err(unavailable)?;
    if under_way.row.standing.state.is_over() {
        all.remove(&command);
    }
    if !all.values().any(|under_way| under_way.row.standing.state == RolloutState::Stopped) {
        let ended = server.store.end_alert(AlertKind::RolloutStopped, SERVER, server.clock.wall()).await;
        ended.map_err(unavailable)?;
    }
    drop(all);
    server.rollouts.news.notify_one();
    Ok(true)
}

async fn find(server: &Server, command: CommandId) -> Result<RolloutRow, Failure> {
    let found = server.store.rollout(command).await.map_err(unavailable)?;
    found.ok_or_else(|| {
        Failure::not_found(format!("command {command} has no rollout; see: writ rollouts list"))
    })
}

/// How the rollout of a command stands.
///
/// # Errors
/// When there is none, or the store fails.
pub(crate) async fn stands(server: &Server, command: CommandId) -> Result<Stands, Failure> {
    let row = find(server, command).await?;
    let all = server.rollouts.under_way.lock().await;
    let Some(under_way) = all.get(&command) else {
        let Answers { done, failed, open } =
            server.store.answers(command, row.standing.released).await.map_err(unavailable)?;
        let away = u32::try_from(open.len()).unwrap_or(u32::MAX);
        return Ok(Stands { row, counted: Counted { done, failed, away, ..Counted::default() }, wait: None });
    };
    let (counted, moment) = look(server, under_way).await.map_err(unavailable)?;
    let row = under_way.row.clone();
    let wait = match decide(&row.plan, row.targets, row.standing, counted, moment) {
        Step::Wait(wait) => Some(wait),
        _ => None,
    };
    Ok(Stands { row, counted, wait })
}

/// What became of those that may obey, and what time it is for this rollout.
async fn look(server: &Server, under_way: &UnderWay) -> Result<(Counted, Moment), StoreError> {
    let UnderWay { row, wave_ended, released_at, .. } = under_way;
    let monotonic = server.clock.monotonic();
    let since = |then: Option<Duration>| then.map(|then| monotonic.saturating_sub(then));
    let moment = Moment {
        now: server.clock.wall(),
        since_wave: since(*wave_ended),
        since_release: since(*released_at),
        expires_at: row.expires_at,
    };
    let Answers { done, failed, open } = server.store.answers(row.command, row.standing.released).await?;
    let mut counted = Counted { done, failed, ..Counted::default() };
    let registry = server.dispatcher.registry();
    for (agent, is_sent) in open {
        // Who came back a moment ago has had no time to answer.
        let waited =
            registry.connected_for(agent).map(|here| here.min(moment.since_release.unwrap_or_default()));
        match waited {
            Some(waited) if waited < row.plan.patience => counted.unanswered += 1,
            Some(_) if is_sent => counted.silent += 1,
            // Connected, and nothing is sent to it: it is held until an operator decides.
            Some(_) | None => counted.away += 1,
        }
    }
    Ok((counted, moment))
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

async fn changed(commands: &[CommandId], changes: &mut broadcast::Receiver<CommandId>) {
    while let Ok(command) = changes.recv().await {
        if commands.contains(&command) {
            return;
        }
    }
}

/// One look at each; returns those that are still under way.
async fn advance_all(server: &Arc<Server>) -> Vec<CommandId> {
    let mut all = server.rollouts.under_way.lock().await;
    let now = server.clock.wall();
    server.rollouts.forget_expired(now);
    for under_way in all.values_mut() {
        if let Err(error) = advance(server, under_way).await {
            warn!(command.id = %under_way.row.command, %error, "the rollout cannot go on now; it is tried again");
        }
    }
    all.retain(|_, under_way| !under_way.row.standing.state.is_over());
    all.keys().copied().collect()
}

/// Goes on as far as it may at this moment.
async fn advance(server: &Arc<Server>, under_way: &mut UnderWay) -> Result<(), StoreError> {
    loop {
        let command = under_way.row.command;
        let mut next = under_way.row.clone();
        let is_cancelled = next.cancelled_at != Timestamp::ZERO || server.dispatcher.is_cancelled(command);
        let (counted, moment) = look(server, under_way).await?;
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
                next.reason = ended(state, &next);
                info!(command.id = %command, state = state.as_str(), "rollout over");
                return keep(server, under_way, next).await;
            }
            Step::Stop => {
                next.standing.state = RolloutState::Stopped;
                next.reason = stopped(&next, counted);
                warn!(command.id = %command, reason = next.reason, "rollout stopped");
                let detail = format!("The rollout of command {command} stopped: {}.", next.reason);
                let alarm =
                    Alarm { kind: AlertKind::RolloutStopped, code: "", agent: SERVER, count: 1, detail };
                server.store.raise(alarm, None, moment.now).await?;
                return keep(server, under_way, next).await;
            }
        }
    }
}

fn ended(state: RolloutState, row: &RolloutRow) -> String {
    let left = row.targets - row.standing.released;
    match state {
        RolloutState::Expired => format!("the command expired; {left} agents were never let obey"),
        RolloutState::Aborted => format!("the command was cancelled; {left} agents were never let obey"),
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
    format!("{failed} agents failed or refused and {silent} do not answer; {most} such are borne{more}")
}

/// Lets so many agents obey: signed, on disk, then sent.
async fn release(server: &Arc<Server>, under_way: &mut UnderWay, agents: u32) -> Result<(), StoreError> {
    let mut next = under_way.row.clone();
    let (command, before) = (next.command, next.standing.released);
    let sealed = match server.signer.release(next.digest, agents) {
        Ok(sealed) => sealed,
        Err(failed) => {
            let why = failed.to_string();
            if next.reason != why {
                error!(command.id = %command, error = %failed, "the next agents cannot be let obey");
                next.reason = why;
                keep(server, under_way, next).await?;
            }
            return Ok(());
        }
    };
    next.standing.released = agents;
    next.release = sealed.bytes().clone();
    next.reason.clear();
    keep(server, under_way, next).await?;
    writ_common::checkpoint!("wave_released");
    under_way.released_at = Some(server.clock.monotonic());
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
    for row in server.store.live_rollouts(server.clock.wall()).await? {
        let (RolloutRow { command, digest, .. }, released) = (&row, row.standing.released);
        let is_cancelled = row.cancelled_at != Timestamp::ZERO;
        let is_present = claimed_keyid(&row.release) == present;
        if released == 0 || is_cancelled || is_present {
            continue;
        }
        // What cannot be signed now is signed when a key counts.
        let Ok(sealed) = server.signer.release(*digest, released) else { continue };
        let next = RolloutRow { release: sealed.bytes().clone(), ..row.clone() };
        server.store.keep_rollout(&next).await?;
        server.rollouts.publish(&next);
        if let Some(under_way) = all.get_mut(command) {
            under_way.row.release = next.release;
        }
    }
    Ok(())
}
