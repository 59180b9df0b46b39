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
use writ_protocol::envelope::{Candidate, ReleasePurpose, claimed_keyid, verify};
use writ_protocol::id::{AgentId, CommandId};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use crate::context::Server;
use crate::store::rules::rollout::{Counted, Moment, Step, Wait, decide};
use crate::store::{
    Alarm, AlertKind, Answers, OpenTarget, RolloutRow, RolloutState, SERVER, Store, StoreError, unavailable,
};

/// Rollouts that are not over, at most: each is looked at once a second.
const MAX_UNDER_WAY: usize = 64;
/// How often each is looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Moments that are remembered of one rollout, to know how long each agent has had.
const MAX_RELEASES: usize = 4096;
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
    /// When agents were let obey, from which place on; the earliest first.
    releases: Vec<(u32, Duration)>,
    /// Whether it was said that nothing can be signed.
    is_unsigned_said: bool,
}

impl UnderWay {
    fn new(row: RolloutRow) -> Self {
        let (targets, wave_ended) = (None, None);
        Self { row, targets, wave_ended, releases: Vec::new(), is_unsigned_said: false }
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
        let rollouts = Self::default();
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
            let mut found = UnderWay::new(row);
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
        let under_way = UnderWay { targets: Some(targets.into()), ..UnderWay::new(row) };
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
    /// It goes on without those that are away and that it waits for.
    ResumeWithoutAway,
    /// It is over.
    Abort,
}

impl Change {
    /// Whether fewer agents obey because of it.
    pub(crate) const fn is_ending(self) -> bool {
        matches!(self, Self::Pause | Self::Abort)
    }
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
        (Change::Resume, RolloutState::Running) => return Ok(false),
        (Change::ResumeWithoutAway, RolloutState::Running) => {
            let (counted, moment) = look(server, &under_way.clock()).await.map_err(unavailable)?;
            let step = decide(&next.plan, next.targets, next.standing, counted, moment);
            if !matches!(step, Step::Wait(Wait::Away(_))) {
                return Ok(false);
            }
            // An operator says that those who are there have shown enough.
            next.standing.wave += 1;
            next.wave_ended_at = server.clock.wall();
            under_way.wave_ended = Some(server.clock.monotonic());
        }
        (Change::Resume | Change::ResumeWithoutAway, state) => {
            // Only failures that stopped it were seen; those of a pause stop it now.
            if state == RolloutState::Stopped {
                let (counted, _) = look(server, &under_way.clock()).await.map_err(unavailable)?;
                next.standing.forgiven = counted.failures();
            }
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
    end_alert(server, &all).await.map_err(unavailable)?;
    drop(all);
    server.rollouts.news.notify_one();
    Ok(true)
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

/// How the rollout of a command stands.
///
/// # Errors
/// When there is none, or the store fails.
pub(crate) async fn stands(server: &Server, command: CommandId) -> Result<Stands, Failure> {
    // Not held while the store counts: an operator who pauses must not wait behind those who look.
    let clock = server.rollouts.under_way.lock().await.get(&command).map(UnderWay::clock);
    let Some(clock) = clock else {
        let row = find(server, command).await?;
        let Answers { done, failed, open, .. } =
            server.store.answers(command, row.standing.released, 0).await.map_err(unavailable)?;
        let away = u32::try_from(open.len()).unwrap_or(u32::MAX);
        return Ok(Stands { row, counted: Counted { done, failed, away, ..Counted::default() }, wait: None });
    };
    let (counted, moment) = look(server, &clock).await.map_err(unavailable)?;
    let row = clock.row;
    let wait = match decide(&row.plan, row.targets, row.standing, counted, moment) {
        Step::Wait(wait) => Some(wait),
        _ => None,
    };
    Ok(Stands { row, counted, wait })
}

/// What became of those that may obey, and what time it is for this rollout.
async fn look(server: &Server, clock: &RolloutClock) -> Result<(Counted, Moment), StoreError> {
    let RolloutClock { row, wave_ended, releases } = clock;
    let monotonic = server.clock.monotonic();
    let since = |then: Duration| monotonic.saturating_sub(then);
    let now = server.clock.wall();
    let moment = Moment {
        now,
        since_wave: wave_ended.map(since),
        since_release: releases.last().map(|(_, at)| since(*at)),
        expires_at: row.expires_at,
    };
    let wave = row.standing.wave;
    let first = wave.checked_sub(1).map_or(0, |before| row.plan.end_of(before, row.targets));
    let Answers { done, failed, tried, open } =
        server.store.answers(row.command, row.standing.released, first).await?;
    let mut counted = Counted { done, failed, tried, ..Counted::default() };
    let registry = server.dispatcher.registry();
    let patience = row.plan.patience;
    for OpenTarget { place, agent, is_sent, last_contact } in open {
        let had = clock.released_at(place).map(since).unwrap_or_default();
        let here = registry.connected_for(agent);
        // One that was sent it and is gone may have been cut off by it.
        let is_over = match (is_sent, here) {
            (true, _) => had >= patience,
            (false, Some(here)) => had.min(here) >= patience,
            // Away for long already: its wave does not wait for it. Else it may be about to come back.
            (false, None) => {
                had >= patience || now.since(server.last_contact(agent, last_contact)) >= patience
            }
        };
        match (is_over, is_sent) {
            (false, _) => counted.unanswered += 1,
            (true, true) => counted.silent += 1,
            (true, false) => counted.away += 1,
        }
    }
    Ok((counted, moment))
}

/// How many agents the stored release of a rollout lets obey, by the keys that the chain lists.
fn vouched(chain: &Chain, row: &RolloutRow) -> u32 {
    if row.release.is_empty() {
        return 0;
    }
    let bundle = &chain.head().bundle;
    let listed: Vec<_> =
        bundle.signing.iter().map(|entry| Candidate::accepted(entry.certificate.key())).collect();
    match verify::<ReleasePurpose>(&row.release, &listed, 1) {
        Ok(said) if said.document().fleet == bundle.fleet && said.document().command_digest == row.digest => {
            said.document().released
        }
        Ok(_) | Err(_) => 0,
    }
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
