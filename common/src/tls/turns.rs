//! Turns: who has proven nothing is worked for a few at a time, so that who has is not kept waiting.
//!
//! After a restart a whole fleet comes back. Each of its agents costs several handshakes' worth of work, and a
//! runtime serves what is ready in the order in which it became so: a command to an agent that is back
//! already would wait, at each of its steps, behind hundreds of those who are not.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use crate::shutdown::Shutdown;

/// Turns that are given at once. Each is a tenth of a millisecond of work, on any core.
const AT_ONCE: usize = 8;

/// The turns of one port. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    left: Arc<Semaphore>,
    taken: Arc<Notify>,
}

impl Turns {
    /// Nobody holds a turn: it is used up when it is taken, and a peer that does nothing keeps none from
    /// others. New ones are given when whatever was ready before has been served.
    pub(super) fn give(tasks: &Shutdown) -> Self {
        let turns = Self { left: Arc::new(Semaphore::new(AT_ONCE)), taken: Arc::default() };
        let (given, ending) = (turns.clone(), tasks.clone());
        tasks.spawn(async move {
            while ending.unless_requested(given.taken.notified()).await.is_some() {
                tokio::task::yield_now().await;
                given.left.add_permits(AT_ONCE.saturating_sub(given.left.available_permits()));
            }
            // Whoever comes is served to the end.
            given.left.close();
        });
        turns
    }

    /// Where one connection waits, behind those that came before it.
    pub(super) fn line(&self) -> Line {
        Line { turns: self.clone(), waiting: PollSemaphore::new(Arc::clone(&self.left)) }
    }
}

/// One connection's place among those that wait for a turn.
#[derive(Debug)]
pub(super) struct Line {
    turns: Turns,
    waiting: PollSemaphore,
}

impl Line {
    /// Takes a turn, when there is one.
    pub(super) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let turn = ready!(self.waiting.poll_acquire(context));
        turn.into_iter().for_each(OwnedSemaphorePermit::forget);
        // Where few come, nobody is woken for each of them.
        if self.turns.left.available_permits() < AT_ONCE / 2 {
            self.turns.taken.notify_one();
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn who_is_in_a_session_waits_for_a_few_of_those_who_come_and_they_all_get_their_turn() {
        const COME: usize = 1000;
        let tasks = Shutdown::new();
        let turns = Turns::give(&tasks);
        let served = Arc::new(AtomicUsize::new(0));
        for _ in 0..COME {
            let (mut line, served) = (turns.line(), Arc::clone(&served));
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
        assert!(tasks.drain(std::time::Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn at_the_end_nobody_waits() {
        let tasks = Shutdown::new();
        let mut line = Turns::give(&tasks).line();
        assert!(tasks.drain(std::time::Duration::from_secs(5)).await);
        for _ in 0..2 * AT_ONCE {
            poll_fn(|context| line.poll_turn(context)).await;
        }
    }
}
