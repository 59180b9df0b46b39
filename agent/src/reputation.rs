//! What lists say about values. The filter that this agent holds decides most of them by itself; about the
//! rest it asks the server, many at a time, and goes by the signed answer for as long as that says.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use writ_lists::{Filter, Key};
use writ_protocol::id::Digest;
use writ_protocol::limits::MAX_QUESTION_VALUES;
use writ_protocol::reputation::{Question, Reputation};

use crate::components::ComponentStore;

/// How long an answer may take before the question is asked anew: the session may have ended with it.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a server may have this agent wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Answers about so many values are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 65_536;

/// What is known of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is on no list.
    Unlisted,
    /// It is on the list, in this version of it.
    Listed(String),
    /// It may be: nobody said that it is not.
    Unanswered,
}

/// What comes of one question.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The server's word, believed.
    Said(Reputation),
    /// It has no such list.
    NoList,
    /// It has no time: ask again after so long.
    Later(Duration),
    /// What it said is not believed.
    NotBelieved,
}

/// What an agent compares with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// What it holds.
    pub components: &'a ComponentStore,
    /// What it is told.
    pub reputations: &'a Reputations,
    /// The version of the trust bundle by which it believes that.
    pub bundle: u64,
}

/// The agent's way to ask, and what it was told.
#[derive(Debug)]
pub struct Reputations {
    /// What the session shall ask.
    asked: watch::Sender<Option<Bytes>>,
    /// Who waits for the answer to which question.
    waiting: Mutex<Option<(Digest, mpsc::Sender<Answer>)>>,
    /// One question is asked at a time.
    remembered: tokio::sync::Mutex<Remembered>,
}

/// What was said of values: by the list whose filter could not decide, and the value.
#[derive(Debug, Default)]
struct Remembered {
    /// The trust bundle by which it was believed.
    bundle: u64,
    said: HashMap<About, (Verdict, Instant)>,
    order: VecDeque<About>,
}

type About = ([u8; 32], Key);

impl Remembered {
    fn get(&self, about: &About) -> Option<Verdict> {
        let (verdict, until) = self.said.get(about)?;
        (Instant::now() < *until).then(|| verdict.clone())
    }

    fn put(&mut self, about: About, verdict: Verdict, until: Instant) {
        if self.said.insert(about, (verdict, until)).is_none() {
            self.order.push_back(about);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.said.remove(&oldest);
            }
        }
    }
}

impl Default for Reputations {
    fn default() -> Self {
        let (asked, waiting) = (watch::Sender::new(None), Mutex::default());
        Self { asked, waiting, remembered: tokio::sync::Mutex::default() }
    }
}

impl Reputations {
    /// Hears what the server shall be asked; also what it was asked in an earlier session.
    #[must_use]
    pub(crate) fn asked(&self) -> watch::Receiver<Option<Bytes>> {
        let mut asked = self.asked.subscribe();
        asked.mark_changed();
        asked
    }

    /// The digest of the question that somebody waits for an answer to.
    #[must_use]
    pub(crate) fn waits_for(&self) -> Option<Digest> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(digest, _)| *digest)
    }

    /// An answer came. One that nobody waits for is of no use.
    pub(crate) fn answered(&self, question: Digest, answer: Answer) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((digest, sender)) = &*waiting
            && *digest == question
        {
            let _ = sender.try_send(answer);
        }
    }

    /// What is known of values of which the filter of a list says that they may be on it. Whoever is not
    /// answered in so much time is not answered for all that is left.
    pub(crate) async fn judge(
        &self,
        (component, filter, bundle): (&str, &Filter, u64),
        values: &BTreeSet<Key>,
        patience: Duration,
    ) -> BTreeMap<Key, Verdict> {
        let mut remembered = self.remembered.lock().await;
        // The key that said it may count no more.
        if remembered.bundle != bundle {
            *remembered = Remembered { bundle, ..Remembered::default() };
        }
        let (mut verdicts, mut open) = (BTreeMap::new(), Vec::new());
        for value in values {
            match remembered.get(&(filter.list(), *value)) {
                Some(known) => drop(verdicts.insert(*value, known)),
                None => open.push(*value),
            }
        }
        let (width, until) = (usize::from(filter.kind().width()), Instant::now() + patience);
        for some in open.chunks(MAX_QUESTION_VALUES) {
            let values: Vec<_> = some.iter().map(|value| Bytes::copy_from_slice(&value[..width])).collect();
            let said = self.ask(component, values, until).await;
            for value in some {
                let verdict = match &said {
                    Some(said) if said.listed.iter().any(|listed| listed == &value[..width]) => {
                        Verdict::Listed(said.version.clone())
                    }
                    Some(_) => Verdict::Unlisted,
                    None => Verdict::Unanswered,
                };
                if let Some(said) = &said {
                    let until = Instant::now() + said.counts_for;
                    remembered.put((filter.list(), *value), verdict.clone(), until);
                }
                verdicts.insert(*value, verdict);
            }
        }
        verdicts
    }

    /// Asks, again and again until there is an answer or the time is over.
    async fn ask(&self, component: &str, values: Vec<Bytes>, until: Instant) -> Option<Reputation> {
        while Instant::now() < until {
            let mut nonce = [0; 32];
            SystemRandom::new().fill(&mut nonce).ok()?;
            let question = Question { nonce, component: component.to_owned(), values: values.clone() };
            let question = question.encode();
            let (sender, mut answers) = mpsc::channel(1);
            *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((Digest::of(&question), sender));
            self.asked.send_replace(Some(question));
            let answer = timeout_at(until.min(Instant::now() + ANSWER), answers.recv()).await;
            *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.asked.send_replace(None);
            match answer {
                Ok(Some(Answer::Said(said))) => return Some(said),
                Ok(Some(Answer::Later(wait))) => {
                    sleep_until(until.min(Instant::now() + wait.min(LONGEST_WAIT))).await;
                }
                Ok(Some(Answer::NoList | Answer::NotBelieved)) => return None,
                Ok(None) | Err(_) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use writ_common::shutdown::Shutdown;
    use writ_lists::{Builder, Kind};
    use writ_protocol::id::{AgentId, FleetId};
    use writ_protocol::time::Timestamp;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn key(number: u8) -> Key {
        [number; 32]
    }

    fn filter() -> Filter {
        let mut builder = Builder::new(Kind::Sha256);
        builder.add(key(1)).unwrap();
        builder.sort().unwrap().filter().unwrap()
    }

    /// Answers questions as a server whose list has the first value; how many it was asked.
    async fn serve(reputations: Arc<Reputations>, counts_for: Duration) -> usize {
        let mut asked = reputations.asked();
        let mut count = 0;
        while count < 2 && asked.changed().await.is_ok() {
            let Some(question) = asked.borrow_and_update().clone() else { continue };
            count += 1;
            let (digest, question) = (Digest::of(&question), Question::decode(&question).unwrap());
            let id = |byte: u8| [byte; 16];
            let said = Reputation {
                fleet: FleetId::try_from(id(1).as_slice()).unwrap(),
                agent: AgentId::try_from(id(2).as_slice()).unwrap(),
                question: digest,
                version: "7".to_owned(),
                list: Digest::of(b""),
                listed: question.values.into_iter().filter(|value| value.as_ref() == key(1)).collect(),
                counts_for,
                answered_at: Timestamp::from_millis(1),
            };
            // An answer to another question is nobody's.
            reputations.answered(Digest::of(b"another"), Answer::NoList);
            reputations.answered(digest, Answer::Said(said));
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_counts_for_as_long_as_it_says_and_is_not_asked_again_before() {
        let (reputations, filter) = (Arc::new(Reputations::default()), filter());
        let served = Shutdown::new().spawn(serve(Arc::clone(&reputations), HOUR));
        let list = ("file-reputation", &filter, 1);
        let values = BTreeSet::from([key(1), key(2)]);
        let expected =
            BTreeMap::from([(key(1), Verdict::Listed("7".to_owned())), (key(2), Verdict::Unlisted)]);
        for wait in [Duration::ZERO, HOUR / 2, HOUR] {
            tokio::time::advance(wait).await;
            assert_eq!(reputations.judge(list, &values, HOUR).await, expected);
        }
        assert_eq!(served.await.unwrap(), 2);
        // Nobody serves any more. What is remembered still counts, and what is not has no answer.
        let values = BTreeSet::from([key(1), key(3)]);
        let verdicts = reputations.judge(list, &values, HOUR / 4).await;
        assert_eq!(verdicts[&key(1)], Verdict::Listed("7".to_owned()));
        assert_eq!(verdicts[&key(3)], Verdict::Unanswered);
        // Under another bundle it has to be said anew.
        let verdicts = reputations.judge(("file-reputation", &filter, 2), &values, HOUR / 4).await;
        assert_eq!(verdicts[&key(1)], Verdict::Unanswered);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_believed_is_none_and_one_for_later_is_waited_for() {
        let (reputations, filter) = (Arc::new(Reputations::default()), filter());
        let asks = Arc::clone(&reputations);
        let judged = Shutdown::new().spawn(async move {
            let values = BTreeSet::from([key(1)]);
            asks.judge(("file-reputation", &filter, 1), &values, HOUR).await
        });
        let mut asked = reputations.asked();
        let mut questions = BTreeSet::new();
        let mut answers = [Answer::NotBelieved, Answer::Later(HOUR)];
        while let Some(answer) = answers.last_mut() {
            asked.changed().await.unwrap();
            let Some(question) = asked.borrow_and_update().clone() else { continue };
            let digest = Digest::of(&question);
            assert!(questions.insert(digest), "no question is asked twice");
            let is_last = matches!(answer, Answer::NotBelieved);
            reputations.answered(digest, std::mem::replace(answer, Answer::NotBelieved));
            if is_last {
                break;
            }
        }
        assert_eq!(questions.len(), 2);
        assert_eq!(judged.await.unwrap()[&key(1)], Verdict::Unanswered);
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let (mut remembered, until) = (Remembered::default(), Instant::now() + HOUR);
        let about = |number: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            ([0; 32], key)
        };
        (0..=REMEMBERED).for_each(|number| remembered.put(about(number), Verdict::Unlisted, until));
        assert_eq!(remembered.get(&about(0)), None);
        assert_eq!(remembered.get(&about(1)), Some(Verdict::Unlisted));
        assert_eq!((remembered.said.len(), remembered.order.len()), (REMEMBERED, REMEMBERED));
    }
}
