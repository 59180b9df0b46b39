//! Who is connected: one slot an agent, the latest proven session has it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use writ_protocol::id::AgentId;
use writ_protocol::time::Timestamp;

use super::Outgoing;

/// Why the dispatcher ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnding {
    /// The same agent proved itself on another stream.
    Replaced,
    /// An operator decided something about the agent: it begins anew under what is true now.
    Decided,
}

/// What a session does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// This command is for the agent at this place of the audience.
    Command(Arc<Outgoing>, u32),
    /// There is a newer trust bundle.
    TrustChanged,
    /// Something waits in the store.
    LookIntoStore,
    /// The session must end.
    End(SessionEnding),
}

/// The dispatcher's and the session's ends of one slot. It holds nothing while nothing waits: ten thousand
/// idle agents cost ten thousand of these.
#[derive(Debug)]
pub(crate) struct Mailbox {
    number: u64,
    began: Instant,
    most: usize,
    waiting: Mutex<Waiter>,
    news: Notify,
    /// Notified when the session is told to end, and again when it has.
    ends: Notify,
    /// Unix milliseconds.
    heard: AtomicU64,
    has_reported: AtomicBool,
}

#[derive(Debug)]
struct Waiter {
    commands: VecDeque<(Arc<Outgoing>, u32)>,
    is_behind: bool,
    has_new_trust: bool,
    end: Option<SessionEnding>,
    has_ended: bool,
}

impl Mailbox {
    fn new(number: u64, most: usize) -> Self {
        let waiting = Waiter {
            commands: VecDeque::new(),
            is_behind: false,
            has_new_trust: false,
            end: None,
            has_ended: false,
        };
        let (news, ends) = (Notify::new(), Notify::new());
        let (began, heard, has_reported) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
        Self { number, began, most, waiting: Mutex::new(waiting), news, ends, heard, has_reported }
    }

    /// Whether it was told to look into the store and has not begun.
    pub(super) fn is_behind(&self) -> bool {
        self.lock().is_behind
    }

    /// Which mailbox it is: no two have the same number.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    fn offer(&self, outgoing: &Arc<Outgoing>, place: u32) {
        let mut waiting = self.lock();
        if waiting.commands.len() < self.most {
            waiting.commands.push_back((Arc::clone(outgoing), place));
        } else {
            waiting.is_behind = true;
        }
        drop(waiting);
        self.news.notify_one();
    }

    fn end(&self, ending: SessionEnding) {
        self.lock().end.get_or_insert(ending);
        self.news.notify_one();
        self.ends.notify_waiters();
    }

    /// Returns when the session is told to end.
    pub(crate) async fn told_to_end(&self) {
        self.wait(|waiting| waiting.end.is_some()).await;
    }

    async fn wait(&self, is_so: impl Fn(&Waiter) -> bool) {
        loop {
            // Before the look: what changes after it is heard of.
            let changed = self.ends.notified();
            if is_so(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Why the session is told to end, if it is.
    pub(crate) fn ending(&self) -> Option<SessionEnding> {
        self.lock().end
    }

    /// Whether the session is told to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending().is_some()
    }

    /// The store has what the agent says of itself in this session.
    pub(crate) fn reported(&self) {
        self.has_reported.store(true, Ordering::Relaxed);
    }

    /// The agent said something: the store hears of it with the next heartbeat.
    pub(crate) fn heard(&self, at: Timestamp) {
        self.heard.fetch_max(at.as_millis(), Ordering::Relaxed);
    }

    /// Something may wait in the store.
    pub(crate) fn look_into_store(&self) {
        self.lock().is_behind = true;
        self.news.notify_one();
    }

    /// Waits for what is next; `takes_commands`: whether the session has room for one.
    pub(crate) async fn next(&self, takes_commands: bool) -> Next {
        loop {
            if let Some(next) = self.take(takes_commands) {
                return next;
            }
            self.news.notified().await;
        }
    }

    fn take(&self, takes_commands: bool) -> Option<Next> {
        let mut waiting = self.lock();
        if let Some(ending) = waiting.end {
            return Some(Next::End(ending));
        }
        if std::mem::take(&mut waiting.has_new_trust) {
            return Some(Next::TrustChanged);
        }
        if !takes_commands {
            return None;
        }
        if std::mem::take(&mut waiting.is_behind) {
            return Some(Next::LookIntoStore);
        }
        let (outgoing, place) = waiting.commands.pop_front()?;
        if waiting.commands.is_empty() {
            waiting.commands = VecDeque::new();
        }
        Some(Next::Command(outgoing, place))
    }

    fn lock(&self) -> MutexGuard<'_, Waiter> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Registry {
    outbox: usize,
    next: AtomicU64,
    slots: SlotsByAgent,
    /// The latest greeting whose proof was believed, by agent: as many as are enrolled.
    believed: Mutex<HashMap<AgentId, u64>>,
}

type SlotsByAgent = Arc<Mutex<HashMap<AgentId, Arc<Mailbox>>>>;

/// The session's hold on a slot; giving it up frees it.
#[derive(Debug)]
pub(crate) struct SessionSlot {
    agent: AgentId,
    slots: SlotsByAgent,
    /// What the session reads.
    pub mailbox: Arc<Mailbox>,
}

impl Registry {
    pub(super) fn new(outbox: usize) -> Self {
        Self { outbox, next: AtomicU64::new(0), slots: Arc::default(), believed: Mutex::default() }
    }

    /// A number for a greeting, higher than those of earlier ones.
    pub(crate) fn ticket(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a greeting is newer than the latest one of this agent that was believed; then it is the
    /// latest, and `then` happens before anybody else is believed.
    pub(crate) fn believe(&self, agent: AgentId, ticket: u64, then: impl FnOnce()) -> bool {
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = believed.entry(agent).or_insert(ticket);
        let is_newer = ticket >= *latest;
        *latest = ticket.max(*latest);
        if is_newer {
            then();
        }
        is_newer
    }

    /// Ends the session that has an agent's slot and returns when it has recorded what it heard, unless it is
    /// newer than this greeting: what the agent says of its journal must be judged by all that was heard
    /// before.
    pub(crate) async fn end_older(&self, agent: AgentId, ticket: u64) {
        let older = {
            // Held while the slot is looked up: a newer greeting is believed and has it in one step.
            let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
            let is_newest = believed.get(&agent).is_none_or(|believed| ticket >= *believed);
            self.lock().get(&agent).filter(|_| is_newest).cloned()
        };
        if let Some(older) = older {
            older.end(SessionEnding::Replaced);
            older.wait(|waiting| waiting.has_ended).await;
        }
    }

    /// Gives an agent's slot to a session; an older session of the same agent is told to end.
    #[must_use]
    pub(crate) fn open_slot(&self, agent: AgentId) -> SessionSlot {
        let mailbox = Arc::new(Mailbox::new(self.ticket(), self.outbox));
        if let Some(older) = self.lock().insert(agent, Arc::clone(&mailbox)) {
            older.end(SessionEnding::Replaced);
        }
        SessionSlot { agent, slots: Arc::clone(&self.slots), mailbox }
    }

    /// `first`: the place of the first of these agents.
    pub(super) fn offer(&self, agents: &[AgentId], first: u32, outgoing: &Arc<Outgoing>) {
        for (place, agent) in (first..).zip(agents) {
            let mailbox = self.lock().get(agent).cloned();
            if let Some(mailbox) = mailbox {
                mailbox.offer(outgoing, place);
            }
        }
    }

    /// Ends the session of an agent about which something was decided.
    pub(crate) fn decided(&self, agent: AgentId) {
        let mailbox = self.lock().get(&agent).cloned();
        if let Some(mailbox) = mailbox {
            mailbox.end(SessionEnding::Decided);
        }
    }

    /// There is a newer trust bundle: every session hands it on.
    pub(crate) fn trust_changed(&self) {
        let mailboxes: Vec<_> = self.lock().values().cloned().collect();
        for mailbox in mailboxes {
            mailbox.lock().has_new_trust = true;
            mailbox.news.notify_one();
        }
    }

    /// Whether an agent has a proven session.
    #[must_use]
    pub(crate) fn is_connected(&self, agent: AgentId) -> bool {
        self.lock().contains_key(&agent)
    }

    /// Whether it has one, and has not said yet in it what it can do: what the store knows may be of before.
    #[must_use]
    pub(crate) fn is_about_to_report(&self, agent: AgentId) -> bool {
        self.lock().get(&agent).is_some_and(|mailbox| !mailbox.has_reported.load(Ordering::Relaxed))
    }

    /// How long it has had one.
    #[must_use]
    pub(crate) fn connected_for(&self, agent: AgentId) -> Option<Duration> {
        self.lock().get(&agent).map(|mailbox| mailbox.began.elapsed())
    }

    /// When an agent that has one said anything last.
    #[must_use]
    pub(crate) fn last_heard(&self, agent: AgentId) -> Option<Timestamp> {
        let mailbox = self.lock().get(&agent).cloned()?;
        Some(Timestamp::from_millis(mailbox.heard.load(Ordering::Relaxed)))
    }

    /// How many agents have one.
    #[must_use]
    pub(crate) fn connected(&self) -> u64 {
        u64::try_from(self.lock().len()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Arc<Mailbox>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let is_still_ours =
            slots.get(&self.agent).is_some_and(|mailbox| mailbox.number == self.mailbox.number);
        if is_still_ours {
            slots.remove(&self.agent);
        }
        drop(slots);
        self.mailbox.lock().has_ended = true;
        self.mailbox.ends.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::outgoing;
    use super::*;

    #[test]
    fn the_latest_session_has_the_seat_and_an_older_one_does_not_free_it() {
        let registry = Registry::new(1);
        let agent = AgentId::from_bytes([1; 16]);
        let older = registry.open_slot(agent);
        let newer = registry.open_slot(agent);
        assert!(matches!(older.mailbox.take(false), Some(Next::End(SessionEnding::Replaced))));
        assert!(newer.mailbox.take(false).is_none());
        drop(older);
        assert!(registry.is_connected(agent));
        drop(newer);
        assert!(!registry.is_connected(agent));
    }

    #[tokio::test]
    async fn a_newer_greeting_waits_until_the_older_session_has_ended_and_an_older_one_ends_nothing() {
        let registry = Registry::new(1);
        let agent = AgentId::from_bytes([1; 16]);
        let (late, first, second) = (registry.ticket(), registry.ticket(), registry.ticket());
        registry.believe(agent, first, || ());
        let slot = registry.open_slot(agent);
        registry.end_older(agent, late).await;
        assert!(!slot.mailbox.is_ending(), "a greeting from before does not end it");
        let newer = registry.end_older(agent, second);
        tokio::pin!(newer);
        assert!(futures_util::poll!(newer.as_mut()).is_pending());
        slot.mailbox.told_to_end().await;
        drop(slot);
        newer.await;
        registry.end_older(agent, second).await;
    }

    #[test]
    fn what_finds_no_room_is_looked_up_in_the_store() {
        let registry = Registry::new(1);
        let agent = AgentId::from_bytes([1; 16]);
        let slot = registry.open_slot(agent);
        assert!(slot.mailbox.take(true).is_none());
        let (one, two) = (Arc::new(outgoing(1)), Arc::new(outgoing(2)));
        registry.offer(&[agent], 0, &one);
        registry.offer(&[agent], 0, &two);
        assert!(slot.mailbox.take(false).is_none(), "a session without room takes nothing");
        assert!(matches!(slot.mailbox.take(true), Some(Next::LookIntoStore)));
        assert!(matches!(slot.mailbox.take(true), Some(Next::Command(taken, 0)) if taken.id() == one.id()));
        assert!(slot.mailbox.take(true).is_none());
    }
}
