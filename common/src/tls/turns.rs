//! Turns: who has proven nothing is worked for a few at a time, so that who has is not kept waiting.
//!
//! After a restart a whole fleet comes back. Each of its agents costs several handshakes' worth of work, and
//! a runtime serves what is ready in the order in which it became so: a command to an agent that is back
//! already would wait, at each of its steps, behind hundreds of those who are not.
//!
//! A turn is used up when it is given: no peer can hold one, or lose one, and keep others waiting by that.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::shutdown::Shutdown;

/// Turns that are given at once. Each is a tenth of a millisecond of work, on any core.
const AT_ONCE: usize = 8;

/// The turns of one port. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    /// Few turns are left, or somebody waits.
    wanted: Notify,
}

/// Who waits: each source has a line of its own, and one after the other has a turn.
#[derive(Debug, Default)]
struct Lines {
    /// Turns that may be taken at once.
    left: usize,
    waiting: HashMap<IpAddr, VecDeque<Arc<Place>>>,
    /// The sources that have somebody waiting; the next one first.
    next: VecDeque<IpAddr>,
    is_over: bool,
}

/// Where one connection waits.
#[derive(Debug, Default)]
struct Place {
    has_turn: AtomicBool,
    waker: AtomicWaker,
}

impl Turns {
    /// Gives turns: some, and more when whatever was ready before has been served. Ends when the end is asked
    /// for and nobody waits.
    pub(super) fn give(tasks: &Shutdown) -> Self {
        let turns = Self::default();
        turns.lines().left = AT_ONCE;
        let (given, ending) = (turns.clone(), tasks.clone());
        tasks.spawn(async move {
            while ending.unless_requested(given.0.wanted.notified()).await.is_some() {
                tokio::task::yield_now().await;
                while given.lines().give(AT_ONCE) {
                    tokio::task::yield_now().await;
                }
            }
            // Whoever comes is served to the end.
            let mut lines = given.lines();
            lines.is_over = true;
            lines.give(usize::MAX);
        });
        turns
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Gives so many turns; those that nobody waits for are left to be taken. Whether somebody still waits.
    fn give(&mut self, mut turns: usize) -> bool {
        while turns > 0
            && let Some(source) = self.next.pop_front()
        {
            let Some(line) = self.waiting.get_mut(&source) else { continue };
            // One whose connection has gone needs no turn.
            while let Some(place) = line.pop_front() {
                if Arc::strong_count(&place) > 1 {
                    place.has_turn.store(true, Ordering::Release);
                    place.waker.wake();
                    turns -= 1;
                    break;
                }
            }
            match line.is_empty() {
                true => drop(self.waiting.remove(&source)),
                false => self.next.push_back(source),
            }
        }
        self.left = turns;
        !self.next.is_empty()
    }

    fn wait(&mut self, source: IpAddr) -> Arc<Place> {
        let (place, line) = (Arc::<Place>::default(), self.waiting.entry(source).or_default());
        if line.is_empty() {
            self.next.push_back(source);
        }
        line.push_back(Arc::clone(&place));
        place
    }
}

/// One connection, which waits or does not.
#[derive(Debug)]
pub(super) struct Line {
    turns: Turns,
    source: IpAddr,
    place: Option<Arc<Place>>,
}

impl Line {
    pub(super) fn new(turns: &Turns, source: IpAddr) -> Self {
        Self { turns: turns.clone(), source, place: None }
    }

    /// Takes a turn, or waits for one behind those of its source that came before.
    pub(super) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.place.is_none() {
            let mut lines = self.turns.lines();
            // Where few come, nobody is woken for each of them.
            if lines.left <= AT_ONCE / 2 {
                self.turns.0.wanted.notify_one();
            }
            if lines.is_over {
                return Poll::Ready(());
            }
            if lines.left > 0 {
                lines.left -= 1;
                return Poll::Ready(());
            }
            self.place = Some(lines.wait(self.source));
        }
        let Some(place) = &self.place else { return Poll::Ready(()) };
        place.waker.register(context.waker());
        if !place.has_turn.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.place = None;
        Poll::Ready(())
    }

    /// It needs none any more.
    pub(super) fn leave(&mut self) {
        self.place = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use futures_util::task::noop_waker;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    #[tokio::test]
    async fn who_is_in_a_session_waits_for_a_few_of_those_who_come_and_they_all_get_their_turn() {
        const COME: usize = 1000;
        let tasks = Shutdown::new();
        let turns = Turns::give(&tasks);
        let served = Arc::new(AtomicUsize::new(0));
        for _ in 0..COME {
            let (mut line, served) = (Line::new(&turns, HERE), Arc::clone(&served));
            tasks.spawn(async move {
                poll_fn(|context| line.poll_turn(context)).await;
                served.fetch_add(1, Ordering::Relaxed);
            });
        }
        // All have come, and stand in line.
        tokio::task::yield_now().await;
        let (mut before, mut most) = (served.load(Ordering::Relaxed), 0);
        while before < COME {
            tokio::task::yield_now().await;
            let now = served.load(Ordering::Relaxed);
            most = most.max(now - before);
            before = now;
        }
        assert!(most <= 2 * AT_ONCE, "{most}");
        assert!(tasks.drain(Duration::from_secs(5)).await);
        assert!(turns.lines().waiting.is_empty());
    }

    #[tokio::test]
    async fn who_leaves_the_line_with_or_without_a_turn_keeps_nobody_from_theirs() {
        let tasks = Shutdown::new();
        let turns = Turns::give(&tasks);
        let waker = noop_waker();
        let mut nobody = Context::from_waker(&waker);
        let mut lines: Vec<_> = (0..4 * AT_ONCE).map(|_| Line::new(&turns, HERE)).collect();
        let waiting =
            lines.iter_mut().map(|line| line.poll_turn(&mut nobody)).filter(Poll::is_pending).count();
        assert_eq!(waiting, 3 * AT_ONCE);
        // Some leave before they are asked, some are given a turn and never come for it, some are gone.
        lines.iter_mut().skip(AT_ONCE).take(AT_ONCE).for_each(Line::leave);
        lines.truncate(3 * AT_ONCE);
        for _ in 0..4 * AT_ONCE {
            let mut honest = Line::new(&turns, HERE);
            let turn = poll_fn(|context| honest.poll_turn(context));
            tokio::time::timeout(Duration::from_secs(5), turn).await.unwrap();
        }
        drop(lines);
    }

    #[tokio::test]
    async fn a_source_with_many_waiting_keeps_one_of_another_waiting_for_a_round_only() {
        let turns = Turns::default();
        let waker = noop_waker();
        let mut nobody = Context::from_waker(&waker);
        let mut many: Vec<_> = (0..1000).map(|_| Line::new(&turns, HERE)).collect();
        assert!(many.iter_mut().all(|line| line.poll_turn(&mut nobody).is_pending()));
        let mut other = Line::new(&turns, THERE);
        assert!(other.poll_turn(&mut nobody).is_pending());
        assert!(turns.lines().give(2));
        assert!(other.poll_turn(&mut nobody).is_ready());
        assert_eq!(many.iter_mut().map(|line| line.poll_turn(&mut nobody)).filter(Poll::is_ready).count(), 1);
    }

    #[tokio::test]
    async fn at_the_end_nobody_waits() {
        let tasks = Shutdown::new();
        let mut line = Line::new(&Turns::give(&tasks), HERE);
        assert!(tasks.drain(Duration::from_secs(5)).await);
        for _ in 0..2 * AT_ONCE {
            poll_fn(|context| line.poll_turn(context)).await;
        }
    }
}
