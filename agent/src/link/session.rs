//! A live session: bundles and commands in, answers and refusals out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tonic::transport::Channel;
use tracing::{info, warn};
use writ_common::backoff::Backoff;
use writ_common::shutdown::Shutdown;
use writ_common::text::quoted;
use writ_proto::v1::agent_gateway_client::AgentGatewayClient;
use writ_proto::v1::{self as proto, agent_frame, server_frame::Frame};
use writ_protocol::envelope::{AgentReportPurpose, RefusalsAckPurpose, Sealed, sign, verify};
use writ_protocol::hello::Nonce;
use writ_protocol::id::{CommandId, Digest};
use writ_protocol::limits::MAX_COUNTED_DELIVERIES;
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::report::AgentReport;
use writ_protocol::reputation::Expected;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Keyring;

use super::greeting::{Established, fetch_chain};
use super::{Done, Link, LinkError};
use crate::execute::AdmittedCommand;
use crate::host;
use crate::obey::{AdoptError, Deliveries, Reaction};
use crate::replay::JournalError;
use crate::reputation::Answer;
use crate::settings::SettingsStore;

/// What a server may ask for at the most.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);
/// Frames that wait to be sent: one for each command that may come on a stream, and then some.
const MAX_QUEUE: usize = MAX_COUNTED_DELIVERIES + 64;

/// Acknowledgements that are written down at once; fewer with the next heartbeat, or when the session ends.
const MAX_ACKNOWLEDGED: usize = 64;

/// Answers of before that are queued at a time.
const MAX_OWED: usize = 1024;

pub(super) async fn hold(
    link: &mut Link,
    greeted: Established,
    endpoint: &str,
    backoff: &mut Backoff,
    shutdown: &Shutdown,
) -> Result<Done, LinkError> {
    let Established { outbound, mut inbound, welcome, client } = greeted;
    let server_nonce = welcome.server_nonce;
    let heartbeat = welcome.heartbeat.clamp(SHORTEST_HEARTBEAT, LONGEST_SILENCE);
    let deadline = welcome.heartbeat_deadline.clamp(heartbeat * 2, LONGEST_SILENCE * 2);
    link.core.settings.session_began(deadline);
    let mut settings = link.core.settings.watch();
    let (mut held, mut wanted) = (link.core.components.watch(), link.core.components.wanted());
    let mut asked = link.core.reputations.asked();
    let learnt = Arc::clone(&link.learnt);
    let pace = |store: &SettingsStore| {
        let mut ticks = interval(store.heartbeat().unwrap_or(heartbeat));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    backoff.reset();
    info!(endpoint, "session began");
    link.status.connected(endpoint);
    let mut session = Session {
        link,
        deliveries: Deliveries::default(),
        queue: VecDeque::new(),
        server_nonce,
        reports: 0,
        client,
        has_asked_for_bundles: false,
        acknowledged: Vec::new(),
    };
    session.begin()?;
    let mut ticks = pace(&session.link.core.settings);
    let mut last_heard = Instant::now();
    loop {
        if session.queue.len() > MAX_QUEUE {
            return Ok(Done::ComeBack(Duration::ZERO));
        }
        tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(Done::ShuttingDown),
            // Before what comes: a long backlog, or a flood, must not keep the agent from saying that it
            // lives.
            _ = ticks.tick() => session.tick()?,
            finished = session.link.answers.recv() => {
                let Some(command) = finished else { return Ok(Done::ShuttingDown) };
                session.queue.push_back(Said::Stored(command));
            }
            // Sending never keeps from reading: two sides that both wait to send would wait for ever.
            permit = outbound.reserve(), if !session.queue.is_empty() => {
                let permit = permit.map_err(|_| LinkError::Ended)?;
                session.send_next(|frame| permit.send(frame))?;
            }
            message = inbound.message() => {
                last_heard = Instant::now();
                if let Some(done) = session.hear(message?).await? {
                    return Ok(done);
                }
            }
            // Perhaps one that revokes this server's key.
            () = learnt.notified() => return Ok(Done::ComeBack(Duration::ZERO)),
            changed = settings.changed() => {
                changed.map_err(|_| LinkError::Ended)?;
                ticks = pace(&session.link.core.settings);
                session.report();
            }
            changed = held.changed() => {
                changed.map_err(|_| LinkError::Ended)?;
                session.report();
            }
            changed = wanted.changed() => {
                changed.map_err(|_| LinkError::Ended)?;
                if let Some(request) = wanted.borrow_and_update().clone() {
                    session.say(agent_frame::Frame::PieceRequest(request));
                }
            }
            changed = asked.changed() => {
                changed.map_err(|_| LinkError::Ended)?;
                if let Some(question) = asked.borrow_and_update().clone() {
                    session.say(agent_frame::Frame::Question(question));
                }
            }
            () = sleep_until(last_heard + deadline) => return Err(LinkError::Silent(deadline)),
        }
    }
}

/// What can wait until the disk has room again must not end a session: commands are still to be refused in
/// it.
fn unless_full(done: Result<(), JournalError>) -> Result<(), JournalError> {
    match done {
        Err(error @ JournalError::NoRoom(_)) => {
            warn!(%error, "not noted in the journal");
            Ok(())
        }
        done => done,
    }
}

/// Something to say.
enum Said {
    /// As it is.
    Frame(agent_frame::Frame),
    /// The answer the journal has when its turn comes.
    Stored(CommandId),
    /// That a command is admitted; then it starts.
    Admitted(proto::AgentFrame, Box<AdmittedCommand>),
}

struct Session<'a> {
    link: &'a mut Link,
    deliveries: Deliveries,
    queue: VecDeque<Said>,
    server_nonce: Nonce,
    reports: u64,
    client: AgentGatewayClient<Channel>,
    has_asked_for_bundles: bool,
    /// Commands whose receipts the server acknowledged, which the journal does not know yet.
    acknowledged: Vec<(CommandId, Digest)>,
}

impl Drop for Session<'_> {
    /// What was admitted is obeyed, also when the session ended before it could be announced; and what was
    /// acknowledged is not sent again.
    fn drop(&mut self) {
        for said in self.queue.drain(..) {
            if let Said::Admitted(_, admitted) = said {
                self.link.core.start(*admitted);
            }
        }
        if let Err(error) = self.note_acknowledged() {
            warn!(%error, "acknowledgements could not be written");
        }
    }
}

impl Session<'_> {
    /// Takes what came; how the session ends, if it does by that.
    async fn hear(&mut self, message: Option<proto::ServerFrame>) -> Result<Option<Done>, LinkError> {
        match message {
            Some(proto::ServerFrame { frame: Some(Frame::ComeBack(come_back)) }) => {
                info!(reason = quoted(&come_back.reason), "the server asks to come back");
                // It is under no seal: a thief of the channel's key keeps nobody away for longer than a
                // failure does.
                let asked = Duration::from_millis(u64::from(come_back.after_ms));
                Ok(Some(Done::ComeBack(asked.min(self.link.max_backoff))))
            }
            Some(proto::ServerFrame { frame: Some(frame) }) => self.receive(frame).await,
            // A frame of a newer protocol; nothing in it was asked for.
            Some(proto::ServerFrame { frame: None }) => Ok(None),
            None => Err(LinkError::Ended),
        }
    }

    fn begin(&mut self) -> Result<(), LinkError> {
        let core = Arc::clone(&self.link.core);
        self.report();
        // What was ready before is also in the journal, from where all that is owed is sent.
        while self.link.answers.try_recv().is_ok() {}
        core.take_behind();
        self.queue_owed()?;
        if let Some(report) = self.link.refusals.unacknowledged() {
            self.say(agent_frame::Frame::Refusals(report));
        }
        self.settle()?;
        self.report_refusals()
    }

    /// What a crash left behind, as far as the disk has room for it.
    fn settle(&mut self) -> Result<(), LinkError> {
        let now = self.now()?;
        let Link { core, left, .. } = &mut *self.link;
        Ok(unless_full(core.settle(left, now))?)
    }

    /// What the agent is and keeps, for people and selectors.
    fn report(&mut self) {
        let core = Arc::clone(&self.link.core);
        let chain = core.trust.chain();
        self.reports += 1;
        let report = AgentReport {
            fleet: core.identity.record.fleet,
            agent: core.identity.record.agent,
            server_nonce: self.server_nonce,
            facts: host::facts().into_iter().chain(core.components.facts()).collect(),
            actions: core.table.report(),
            bundle: (chain.head().bundle.version, chain.head().digest),
            settings_revision: core.settings.revision(),
            number: self.reports,
        };
        let sealed: Sealed<AgentReportPurpose> = sign(&[&core.identity.key.for_purpose()], &report);
        self.say(agent_frame::Frame::Report(sealed.bytes().clone()));
    }

    fn say(&mut self, frame: agent_frame::Frame) {
        self.queue.push_back(Said::Frame(frame));
    }

    fn queue_owed(&mut self) -> Result<(), LinkError> {
        for command in self.link.core.owed()? {
            // The rest is looked at again with the next heartbeat, when these are under way.
            if self.queue.len() >= MAX_OWED {
                self.link.core.mark_behind();
                break;
            }
            self.queue.push_back(Said::Stored(command));
        }
        Ok(())
    }

    fn send_next(&mut self, send: impl FnOnce(proto::AgentFrame)) -> Result<(), LinkError> {
        match self.queue.pop_front() {
            Some(Said::Frame(frame)) => send(proto::AgentFrame { frame: Some(frame) }),
            Some(Said::Stored(command)) => {
                if let Some(answer) = self.link.core.answer(command, self.deliveries.of(command))? {
                    send(answer);
                }
            }
            // In this order: a host that is put back after the start has said so before.
            Some(Said::Admitted(frame, admitted)) => {
                send(frame);
                self.link.core.start(*admitted);
            }
            None => {}
        }
        Ok(())
    }

    fn now(&self) -> Result<Timestamp, LinkError> {
        self.link.core.time.now().ok_or(LinkError::Protocol("no hello said the time"))
    }

    async fn receive(&mut self, frame: Frame) -> Result<Option<Done>, LinkError> {
        match frame {
            Frame::Delivery(delivery) => return self.deliver(delivery).await,
            Frame::Bundles(proto::Bundles { bundles }) => self.bundles(bundles)?,
            Frame::AnswerAck(proto::AnswerAcknowledgement { command_id, command_digest }) => {
                let (Ok(command), Ok(digest)) =
                    (CommandId::try_from(command_id.as_ref()), Digest::try_from(command_digest.as_ref()))
                else {
                    return Err(LinkError::Protocol("an acknowledgement names no command"));
                };
                self.acknowledged.push((command, digest));
                if self.acknowledged.len() >= MAX_ACKNOWLEDGED {
                    self.note_acknowledged()?;
                }
            }
            Frame::RefusalsAck(envelope) => self.refusals_acknowledged(&envelope)?,
            Frame::Heartbeat(_) => {}
            Frame::Piece(piece) => self.link.core.components.answered(piece),
            Frame::ReputationAnswer(answer) => self.reputation(answer)?,
            Frame::Hello(_) | Frame::Welcome(_) => {
                return Err(LinkError::Protocol("it greets in the middle of a session"));
            }
            Frame::IdentityRecord(envelope) => {
                if let Err(refusal) =
                    self.link.core.renew_record(envelope.clone()).map_err(AdoptError::from)?
                {
                    let now = self.now()?;
                    self.refused(&refusal, &envelope, now)?;
                }
            }
            // Nothing of this is asked of this agent yet, and none of it is obeyed.
            Frame::ComeBack(_) | Frame::Freeze(_) => {}
        }
        Ok(None)
    }

    /// What a list says about the values of a question, if it is believed.
    fn reputation(&mut self, said: proto::ReputationAnswer) -> Result<(), LinkError> {
        let proto::ReputationAnswer { question, reputation, no_list, again_after_ms } = said;
        let core = Arc::clone(&self.link.core);
        let waited_for = core.reputations.waits_for().filter(|digest| digest.as_bytes() == question.as_ref());
        let Some(question) = waited_for else { return Ok(()) };
        if reputation.is_empty() {
            let wait = Duration::from_millis(again_after_ms.into());
            let answer = if no_list { Answer::NoList } else { Answer::Later(wait) };
            core.reputations.answered(question, answer);
            return Ok(());
        }
        let (now, chain, record) = (self.now()?, core.trust.chain(), &core.identity.record);
        let keyring = Keyring::new(&chain.head().bundle, &record.realm);
        let expected = Expected { keyring, fleet: record.fleet, agent: record.agent, question, now };
        match expected.judge(&reputation) {
            Ok(said) => {
                core.reputations.answered(question, Answer::Said(said));
                Ok(())
            }
            Err(refusal) => {
                core.reputations.answered(question, Answer::NotBelieved);
                self.refused(&refusal, &reputation, now)
            }
        }
    }

    async fn deliver(&mut self, delivery: proto::Delivery) -> Result<Option<Done>, LinkError> {
        let envelope = delivery.envelope.clone();
        let now = self.now()?;
        let mut reaction = self.link.core.receive(delivery.clone(), now, &mut self.deliveries);
        // protocol.md §6.7: a newer bundle may list the key. Asked once a session, then decided.
        let is_unknown =
            matches!(&reaction, Reaction::Silence(refusal) if refusal.code == RefusalCode::UnknownKey);
        if is_unknown && !std::mem::replace(&mut self.has_asked_for_bundles, true) {
            info!("a command by an unknown key: asking for newer trust bundles");
            let before = self.link.core.trust.chain().head().bundle.version;
            let asked = fetch_chain(&self.link.core, &mut self.client).await;
            if let Err(error @ (LinkError::Journal(_) | LinkError::Follow(_))) = asked {
                return Err(error);
            }
            if self.link.core.trust.chain().head().bundle.version > before {
                self.report();
                let now = self.now()?;
                reaction = self.link.core.receive(delivery, now, &mut self.deliveries);
            }
        }
        match reaction {
            Reaction::Answer(frame) => self.queue.extend(frame.frame.map(Said::Frame)),
            Reaction::AnswerAgain(command) => self.queue.push_back(Said::Stored(command)),
            Reaction::Running => {}
            Reaction::Announce(frame, admitted) => self.queue.push_back(Said::Admitted(frame, admitted)),
            Reaction::Silence(refusal) => self.refused(&refusal, &envelope, now)?,
            Reaction::TooMany => return Ok(Some(Done::ComeBack(Duration::ZERO))),
        }
        Ok(None)
    }

    fn bundles(&mut self, bundles: Vec<Bytes>) -> Result<(), LinkError> {
        let now = self.now()?;
        let sample = bundles.last().cloned().unwrap_or_default();
        match self.link.core.follow(bundles)? {
            Ok(0) => Ok(()),
            Ok(_) => {
                self.report();
                Ok(())
            }
            Err(refusal) => self.refused(&refusal, &sample, now),
        }
    }

    fn refusals_acknowledged(&mut self, envelope: &Bytes) -> Result<(), LinkError> {
        let core = Arc::clone(&self.link.core);
        let now = self.now()?;
        let chain = core.trust.chain();
        let candidates = Keyring::new(&chain.head().bundle, &core.identity.record.realm).candidates(now);
        let checked = verify::<RefusalsAckPurpose>(envelope, &candidates, 1).and_then(|verified| {
            let ack = verified.into_document();
            let is_mine = ack.agent == core.identity.record.agent && ack.fleet == core.identity.record.fleet;
            if is_mine {
                Ok(ack)
            } else {
                Err(Refusal::new(RefusalCode::WrongAgent, "it acknowledges another's report"))
            }
        });
        match checked {
            Ok(ack) => {
                unless_full(self.link.refusals.acknowledge(&ack, &core.journal))?;
                self.report_refusals()
            }
            Err(refusal) => self.refused(&refusal, envelope, now),
        }
    }

    fn refused(&mut self, refusal: &Refusal, frame: &[u8], now: Timestamp) -> Result<(), LinkError> {
        self.link.refusals.count(refusal, frame, now);
        self.report_refusals()
    }

    fn report_refusals(&mut self) -> Result<(), LinkError> {
        let now = self.now()?;
        let Link { core, refusals, .. } = &mut *self.link;
        let monotonic = core.time.monotonic();
        let mut due = None;
        let made = refusals.report(&core.identity, &core.journal, now, monotonic);
        unless_full(made.map(|report| due = report))?;
        if let Some(report) = due {
            self.say(agent_frame::Frame::Refusals(report));
        }
        Ok(())
    }

    /// Receipts that were acknowledged: written down together, since one that is not is only sent again.
    fn note_acknowledged(&mut self) -> Result<(), LinkError> {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        Ok(unless_full(self.link.core.journal.acknowledge(&acknowledged))?)
    }

    /// The heartbeat's work: say something, keep what was counted, let the floor follow.
    fn tick(&mut self) -> Result<(), LinkError> {
        let now = self.now()?;
        let Link { core, refusals, .. } = &mut *self.link;
        if let Err(error) = refusals.keep(&core.journal) {
            warn!(%error, "refusal records could not be written");
        }
        unless_full(core.journal.raise_floor(now))?;
        self.note_acknowledged()?;
        self.say(agent_frame::Frame::Heartbeat(proto::Heartbeat {}));
        self.settle()?;
        if self.link.core.take_behind() {
            self.queue_owed()?;
        }
        self.report_refusals()
    }
}
