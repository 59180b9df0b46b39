//! How many commands run at a time in the whole fleet (`limits.running`).
//!
//! A command for an agent takes a turn before it is handed over, and gives it back when it is answered, when
//! the session ends, or a day after it expired: no action takes longer. Where no turn is free it stays in the
//! store, and its agent stands in a queue: whoever is first there is told to look into the store when a turn
//! comes back, and has it reserved until it has looked or its session ends. What ends others needs no turn:
//! it must not wait for what it ends.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::registry::Mailbox;

/// Gives turns.
#[derive(Debug)]
pub(crate) struct Governor {
    /// How many there are; `None`: nobody waits for one.
    most: Option<usize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Turns taken or reserved.
    given: usize,
    /// Sessions that wait, each once.
    waiting: VecDeque<Weak<Mailbox>>,
    /// The numbers of their mailboxes.
    queued: HashSet<u64>,
    /// Numbers of the mailboxes of sessions for which a turn is reserved.
    reserved: HashSet<u64>,
    /// Of those that have their share, and for which more waits.
    sated: HashSet<u64>,
}

/// A command that runs, as far as the server knows. It is given back when dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Turn(Arc<Governor>);

/// What becomes of a command that is to be handed over.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It goes: there is no limit.
    Free,
    /// It goes, and has a turn.
    Running(Turn),
    /// It stays in the store: the session is told when a turn comes back.
    Waits,
}

/// A session before the governor: when it ends, what was reserved for it is the next one's.
#[derive(Debug)]
pub(crate) struct Applicant {
    governor: Arc<Governor>,
    session: Arc<Mailbox>,
}

impl Governor {
    /// With so many turns; `None`: without a limit.
    pub(super) fn new(most: Option<usize>) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// A session that may want turns.
    pub(crate) fn applicant(self: &Arc<Self>, session: &Arc<Mailbox>) -> Applicant {
        Applicant { governor: Arc::clone(self), session: Arc::clone(session) }
    }

    fn take(self: &Arc<Self>, session: &Arc<Mailbox>) -> Admission {
        let Some(most) = self.most else { return Admission::Free };
        let mut state = self.lock();
        if state.reserved.remove(&session.number()) {
            return Admission::Running(Turn(Arc::clone(self)));
        }
        // Those that wait are before it, also when a turn is free that nobody has come for yet.
        if state.given < most && state.waiting.is_empty() {
            state.given += 1;
            return Admission::Running(Turn(Arc::clone(self)));
        }
        if state.queued.insert(session.number()) {
            state.waiting.push_back(Arc::downgrade(session));
        }
        Admission::Waits
    }

    fn looked(&self, session: &Arc<Mailbox>) {
        // One that was told while it looked looks again.
        if self.most.is_some() && !session.is_behind() {
            let mut state = self.lock();
            if state.reserved.remove(&session.number()) {
                self.give_back(&mut state);
            }
        }
    }

    /// Somebody else may hold the mailbox of a session that ended: it must not be given a turn.
    fn leave(&self, session: &Arc<Mailbox>) {
        if self.most.is_some() {
            let (mut state, number) = (self.lock(), session.number());
            state.sated.remove(&number);
            if state.queued.remove(&number) {
                state.waiting.retain(|waits| waits.as_ptr() != Arc::as_ptr(session));
            }
            if state.reserved.remove(&number) {
                self.give_back(&mut state);
            }
        }
    }

    /// How many run, and how many agents wait for a turn.
    pub(crate) fn standing(&self) -> (usize, usize) {
        let state = self.lock();
        let waiting = state.waiting.len() + state.reserved.len() + state.sated.len();
        (state.given - state.reserved.len(), waiting)
    }

    /// How many of them one agent may have.
    pub(crate) fn share(&self) -> Option<usize> {
        self.most.map(|most| (most / 4).max(1))
    }

    /// How many may run; `None`: as many as there are.
    pub(crate) const fn most(&self) -> Option<usize> {
        self.most
    }

    /// Reserved for the first that waits and still has its session; then it is told.
    fn give_back(&self, state: &mut State) {
        state.given = state.given.saturating_sub(1);
        while self.most.is_some_and(|most| state.given < most) {
            let Some(first) = state.waiting.pop_front() else { return };
            let Some(session) = first.upgrade() else { continue };
            if !state.queued.remove(&session.number()) {
                continue;
            }
            state.given += 1;
            state.reserved.insert(session.number());
            session.look_into_store();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Applicant {
    /// Asks for a turn.
    pub(crate) fn take(&self) -> Admission {
        self.governor.take(&self.session)
    }

    /// Whether so many turns are its share, so that others get on beside one that never answers.
    pub(crate) fn has_its_share(&self, turns: usize) -> bool {
        let is_sated = self.governor.share().is_some_and(|share| turns >= share);
        if is_sated {
            self.governor.lock().sated.insert(self.session.number());
        }
        is_sated
    }

    /// It gave a turn back; whether more waited for that.
    pub(crate) fn goes_on(&self) -> bool {
        self.governor.most.is_some() && self.governor.lock().sated.remove(&self.session.number())
    }

    /// The session has looked for what waits: a turn that it has not taken is the next one's.
    pub(crate) fn looked(&self) {
        self.governor.looked(&self.session);
    }
}

impl Drop for Applicant {
    fn drop(&mut self) {
        self.governor.leave(&self.session);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.give_back(&mut self.0.lock());
    }
}

#[cfg(test)]
mod tests {
    use writ_protocol::id::AgentId;

    use super::super::registry::{Next, Registry, SessionSlot};
    use super::*;

    fn applicants(governor: &Arc<Governor>, count: u8) -> Vec<(SessionSlot, Applicant)> {
        let registry = Registry::new(1);
        let slots = (0..count).map(|byte| registry.open_slot(AgentId::from_bytes([byte; 16])));
        slots.map(|slot| (governor.applicant(&slot.mailbox), slot)).map(|(one, slot)| (slot, one)).collect()
    }

    fn turn(applicant: &(SessionSlot, Applicant)) -> Option<Turn> {
        match applicant.1.take() {
            Admission::Running(turn) => Some(turn),
            Admission::Waits => None,
            Admission::Free => panic!("there is a limit"),
        }
    }

    #[test]
    fn turns_are_given_up_to_the_limit_and_then_in_the_order_of_those_that_wait() {
        let governor = Governor::new(Some(2));
        let all = applicants(&governor, 5);
        let (first, second) = (turn(&all[0]).unwrap(), turn(&all[1]).unwrap());
        for waits in [2, 3, 2, 4] {
            assert!(turn(&all[waits]).is_none());
        }
        assert_eq!(governor.standing(), (2, 3));
        drop(first);
        // It is the first one's that waited, and nobody else's.
        assert!(turn(&all[4]).is_none());
        let third = turn(&all[2]).unwrap();
        assert_eq!(governor.standing(), (2, 2));
        // One that looked and found nothing hands it on.
        drop(second);
        assert!(matches!(
            futures_util::FutureExt::now_or_never(all[3].0.mailbox.next(true)),
            Some(Next::LookIntoStore)
        ));
        all[3].1.looked();
        let fourth = turn(&all[4]).unwrap();
        assert_eq!(governor.standing(), (2, 0));
        drop((third, fourth));
        assert_eq!(governor.standing(), (0, 0));
    }

    #[test]
    fn a_session_that_ends_while_it_waits_or_has_a_turn_reserved_holds_up_nobody() {
        let governor = Governor::new(Some(1));
        let mut all = applicants(&governor, 4);
        let running = turn(&all[0]).unwrap();
        for waits in &all[1..] {
            assert!(turn(waits).is_none());
        }
        drop(all.remove(1));
        drop(running);
        assert_eq!(governor.standing(), (0, 2), "the turn is reserved for the next that is there");
        // Others still hold its mailbox, as those do who wait for its end.
        let held = Arc::clone(&all[1].0.mailbox);
        drop(all.remove(1));
        let last = turn(&all[1]).unwrap();
        assert_eq!(governor.standing(), (1, 0));
        let waits = applicants(&governor, 2);
        assert!(turn(&waits[0]).is_none() && turn(&waits[1]).is_none());
        let also_held = Arc::clone(&waits[0].0.mailbox);
        let mut waits = waits.into_iter();
        drop(waits.next());
        drop(last);
        let _next = turn(&waits.next().unwrap()).unwrap();
        drop((held, also_held));
    }

    #[test]
    fn a_turn_that_is_reserved_while_its_session_looks_is_kept_for_its_next_look() {
        let governor = Governor::new(Some(1));
        let all = applicants(&governor, 2);
        let running = turn(&all[0]).unwrap();
        assert!(turn(&all[1]).is_none());
        drop(running);
        // It was looking at that moment, and had been refused before.
        all[1].1.looked();
        let _turn = turn(&all[1]).unwrap();
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let governor = Governor::new(None);
        let all = applicants(&governor, 1);
        for _ in 0..1000 {
            assert!(matches!(all[0].1.take(), Admission::Free));
        }
        assert_eq!(governor.standing(), (0, 0));
    }
}
