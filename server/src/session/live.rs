//! A proven session: bundles and commands down, answers and refusals up.

mod answers;
mod asked;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tracing::{debug, warn};
use writ_common::backoff::jitter;
use writ_common::status::Failure;
use writ_database::Pending;
use writ_proto::v1::{self as proto, agent_frame, server_frame::Frame};
use writ_protocol::hello::Nonce;
use writ_protocol::id::{CommandId, Digest, KeyId, SessionMark};
use writ_protocol::limits::{MAX_BUNDLE_BATCH_BYTES, MAX_BUNDLES_PER_CALL, MAX_COUNTED_DELIVERIES};
use writ_protocol::refusal::Refusal;
use writ_protocol::time::Timestamp;

use super::budget::Budget;
use super::greeting::Proven;
use super::report::read_report;
use super::{End, Outbound, identity_record, unreadable};
use crate::context::Server;
use crate::dispatch::{Admission, Applicant, Next, Outgoing, SessionEnding, SessionSlot, Turn};
use crate::receipts::record_refusals;
use crate::store::unavailable;
use crate::store::{Alarm, AlertKind, KnownAgent, ReceiptFate, Report, SignOfLife};
use crate::traces::Moment;
use crate::updates::pieces::Share;

/// Two processes with one identity would otherwise take the slot from each other without end.
const REPLACED_BACKOFF: Duration = Duration::from_secs(30);
/// Commands under way to one agent without an answer; more wait in the store, so that both sides always get
/// to read.
const MAX_UNANSWERED: usize = 1024;
/// Reports of an agent that are written at once: at the start, and after what was changed. Then the latest of
/// each heartbeat.
const REPORTS: u32 = 8;
/// Refusal reports that are written at once: of each code one. Then one each heartbeat; the agent keeps the
/// rest.
const REFUSAL_REPORTS: u32 = 64;
/// What no honest agent says, before the session ends. Each of it is an alert, and perhaps evidence.
const NOISE: u32 = 64;
/// Questions about lists that are answered at once, then one each time: 10,240 values a second. A question
/// costs a signature and half a thousand reads, so an agent that asks without end takes a fiftieth of a core.
const QUESTIONS: u32 = 64;
const QUESTION_EVERY: Duration = Duration::from_millis(50);
/// So long after it expired a command that was not answered does not run any more: no action has a longer
/// time-out.
const MAX_RUN: Duration = Duration::from_secs(86_400);
/// Commands read from the store at a time while catching up.
const CATCH_UP_PAGE: u32 = 64;

/// The command that was answered. Copied: the bytes of a frame keep all of it.
type Answered = (CommandId, Digest);

pub(super) struct Live<'a> {
    server: &'a Arc<Server>,
    agent: KnownAgent,
    server_nonce: Nonce,
    mark: SessionMark,
    /// The number of its latest report.
    reports: u64,
    /// The latest that is not written yet.
    pending: Option<Report>,
    report_budget: Budget,
    refusals_budget: Budget,
    noise_budget: Budget,
    question_budget: Budget,
    /// It used that up: nothing more of it is heard.
    is_noisy: bool,
    outbound: Outbound,
    slot: SessionSlot,
    /// How often each command was handed to this stream. An agent that saw more deliveries was sent some by
    /// somebody else (protocol.md §7.4).
    deliveries: HashMap<CommandId, u32>,
    /// Those of them that are not answered yet, with this agent's place and, of those that are traced, the
    /// moment.
    unanswered: HashMap<CommandId, (u32, Option<Moment>)>,
    /// The turns of those that have one, and when each command expires.
    turns: HashMap<CommandId, (Timestamp, Turn)>,
    /// How it gets them.
    applicant: Applicant,
    /// A command had to wait for a turn since it last looked: later ones do not overtake it.
    waits_for_turn: bool,
    /// Receipts that are recorded, or about to be, and not acknowledged yet; the oldest first.
    unacknowledged: VecDeque<(Answered, Pending<ReceiptFate>)>,
    /// Whether commands wait in the store until some are answered.
    is_held_back: bool,
    reconciled: tokio::time::Instant,
    /// The greatest number of admissions it announced, by its greeting at first.
    admissions: u64,
    /// What its greeting said.
    admissions_before: u64,
    /// The newest bundle it has or was sent.
    bundle_version: u64,
    /// The key its identity record claims to be signed by.
    record_signed_by: Option<KeyId>,
    /// While it fetches a component.
    share: Share,
}

impl Drop for Live<'_> {
    /// What runs on an agent that is away, nobody knows.
    fn drop(&mut self) {
        for (command, (place, _)) in &self.unanswered {
            self.server.dispatcher.running().remove(*command, *place);
        }
    }
}

impl<'a> Live<'a> {
    pub(super) async fn begin(
        server: &'a Arc<Server>,
        proven: Proven,
        outbound: Outbound,
    ) -> Result<Self, End> {
        let Proven { agent, bundle_version, server_nonce, mark, admissions, slot, record_signed_by } = proven;
        let (heartbeat, begun) = (server.settings.heartbeat, server.clock.monotonic());
        let applicant = server.dispatcher.governor().applicant(&slot.mailbox);
        let mut live = Self {
            server,
            agent,
            server_nonce,
            mark,
            reports: 0,
            pending: None,
            report_budget: Budget::new(REPORTS, heartbeat, begun),
            refusals_budget: Budget::new(REFUSAL_REPORTS, heartbeat, begun),
            noise_budget: Budget::new(NOISE, heartbeat, begun),
            question_budget: Budget::new(QUESTIONS, QUESTION_EVERY, begun),
            is_noisy: false,
            outbound,
            slot,
            deliveries: HashMap::new(),
            unanswered: HashMap::new(),
            turns: HashMap::new(),
            applicant,
            waits_for_turn: false,
            unacknowledged: VecDeque::new(),
            is_held_back: false,
            reconciled: tokio::time::Instant::now(),
            admissions,
            admissions_before: admissions,
            bundle_version,
            record_signed_by,
            share: Share::default(),
        };
        live.hand_on_bundles().await?;
        live.renew_identity_record().await?;
        Ok(live)
    }

    /// Bundles before commands: a command may be signed by a key only a newer bundle lists.
    async fn hand_on_bundles(&mut self) -> Result<(), End> {
        while self.bundle_version < self.server.chain().head().bundle.version {
            let (bundles, newest, _) = bundles_after(self.server, self.bundle_version);
            self.bundle_version = newest;
            self.say(Frame::Bundles(proto::Bundles { bundles })).await?;
        }
        Ok(())
    }

    /// After the bundles: a record by a key that was revoked is worth nothing to a server made anew.
    async fn renew_identity_record(&mut self) -> Result<(), End> {
        if !identity_record::is_void(self.server, self.record_signed_by) {
            return Ok(());
        }
        // Whatever cannot be signed now is tried again with the next session or bundle.
        match identity_record::renew(self.server, self.agent.id).await {
            Ok(Some(record)) => {
                self.record_signed_by = identity_record::claimed(&record);
                self.say(Frame::IdentityRecord(record)).await
            }
            Ok(None) => Ok(()),
            Err(error) => {
                warn!(agent.id = %self.agent.id, ?error, "the identity record could not be renewed");
                Ok(())
            }
        }
    }

    pub(super) async fn run(mut self, inbound: &mut tonic::Streaming<proto::AgentFrame>) -> Result<(), End> {
        let end = self.serve(inbound).await;
        // However it ended: what had come is heard before a newer session is judged.
        self.take_what_came(inbound).await;
        // What it announced counts when it comes back, as far as the store can be reached.
        let report = self.pending.take();
        self.note_heard(report).await.and(end)
    }

    /// What the agent said before this session had to end. A newer session waits for that: an announcement
    /// that is already here must not be missed because the host that made it was put back.
    async fn take_what_came(&mut self, inbound: &mut tonic::Streaming<proto::AgentFrame>) {
        for _ in 0..MAX_COUNTED_DELIVERIES {
            if self.is_noisy {
                return;
            }
            let Some(Ok(Some(proto::AgentFrame { frame }))) = inbound.message().now_or_never() else {
                return;
            };
            // One of a newer protocol.
            let Some(frame) = frame else { continue };
            // What cannot be said any more is no reason to leave the rest unread.
            if let Err(End::Failed(failure)) = Box::pin(self.receive(frame)).await {
                debug!(agent.id = %self.agent.id, ?failure, "a frame of an ending session failed");
            }
        }
    }

    /// Says something, unless the session is told to end: an agent that does not read must not keep a newer
    /// session waiting.
    async fn say(&self, frame: Frame) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = self.outbound.send(frame) => Ok(sent?),
            () = self.slot.mailbox.told_to_end() => Err(End::Drained),
        }
    }

    async fn serve(&mut self, inbound: &mut tonic::Streaming<proto::AgentFrame>) -> Result<(), End> {
        let deadline = self.server.settings.heartbeat_deadline;
        // Made once: each of them costs a lock that all sessions share.
        let shutdown = self.server.shutdown.clone();
        let shutting_down = shutdown.requested();
        let mut last_heard = tokio::time::Instant::now();
        let silence = tokio::time::sleep(deadline);
        // Sessions that began together do not all end together.
        let age = self.server.settings.max_age;
        let (began, greatest_age) = (tokio::time::Instant::now(), age - jitter(age / 10));
        let too_old = tokio::time::sleep(greatest_age);
        tokio::pin!(shutting_down, silence, too_old);
        loop {
            if self.is_held_back && self.unanswered.len() < MAX_UNANSWERED / 2 {
                self.is_held_back = false;
                self.slot.mailbox.look_into_store();
            }
            if self.deliveries.len() >= MAX_COUNTED_DELIVERIES {
                return self.come_back(Duration::ZERO, "too many commands on one stream").await;
            }
            // An agent that never stops speaking must not keep its session from ending.
            let is_late = began.elapsed() >= greatest_age;
            if is_late {
                return self.come_back(Duration::ZERO, "the session is old").await;
            }
            if let Some(ending) = self.slot.mailbox.ending() {
                return self.end(ending).await;
            }
            let takes_commands = self.agent.held.is_none() && self.unanswered.len() < MAX_UNANSWERED;
            tokio::select! {
                biased;
                () = &mut shutting_down => return self.come_back(Duration::ZERO, "the server is shutting down").await,
                frame = inbound.message() => {
                    last_heard = tokio::time::Instant::now();
                    self.slot.mailbox.heard(self.server.clock.wall());
                    match frame {
                        // Boxed: an idle session keeps no room for what it does not do.
                        Ok(Some(proto::AgentFrame { frame: Some(frame) })) => Box::pin(self.receive(frame)).await?,
                        Ok(Some(proto::AgentFrame { frame: None })) => debug!(agent.id = %self.agent.id, "unknown frame"),
                        Ok(None) => return Err(End::Gone),
                        Err(status) => return Err(unreadable(&status)),
                    }
                }
                next = self.slot.mailbox.next(takes_commands) => match next {
                    Next::Command(outgoing, place) => Box::pin(self.deliver(&outgoing, place)).await?,
                    Next::TrustChanged => {
                        Box::pin(self.hand_on_bundles()).await?;
                        Box::pin(self.renew_identity_record()).await?;
                    }
                    Next::LookIntoStore => Box::pin(self.catch_up()).await?,
                    Next::End(ending) => return self.end(ending).await,
                },
                // An agent in a session proves itself again from time to time.
                () = &mut too_old => {}
                () = &mut silence => {
                    // It was set when something was heard last, or earlier.
                    if last_heard.elapsed() >= deadline {
                        return Err(Failure::silent(format!("the agent said nothing for {deadline:?}")).into());
                    }
                    silence.as_mut().reset(last_heard + deadline);
                }
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), End> {
        self.waits_for_turn = false;
        let done = self.hand_over_what_waits().await;
        self.applicant.looked();
        done
    }

    async fn hand_over_what_waits(&mut self) -> Result<(), End> {
        let mut after = 0;
        // An end is dealt with before anything more is sent.
        while !self.slot.mailbox.is_ending() {
            let now = self.server.clock.wall();
            let page = self
                .server
                .store
                .waiting(self.agent.id, after, CATCH_UP_PAGE, now)
                .await
                .map_err(unavailable)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.sequence;
            let is_last = page.len() < usize::try_from(CATCH_UP_PAGE).unwrap_or(usize::MAX);
            for waiting in page {
                let waits = self.waits_for_turn && waiting.needs_turn;
                if waits || self.deliveries.contains_key(&waiting.id) {
                    continue;
                }
                if self.unanswered.len() >= MAX_UNANSWERED || self.deliveries.len() >= MAX_COUNTED_DELIVERIES
                {
                    self.is_held_back = true;
                    return Ok(());
                }
                let loaded = self.server.dispatcher.load(&self.server.store, waiting.id);
                if let Some(outgoing) = loaded.await.map_err(unavailable)? {
                    self.deliver(&outgoing, waiting.place).await?;
                }
            }
            if is_last {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Hands a command to the stream, once a session.
    async fn deliver(&mut self, outgoing: &Outgoing, place: u32) -> Result<(), End> {
        let is_over = self.deliveries.len() >= MAX_COUNTED_DELIVERIES;
        if is_over || self.deliveries.contains_key(&outgoing.id()) {
            return Ok(());
        }
        let Some(proof) = outgoing.proof(place) else { return Ok(()) };
        let release = match outgoing.is_staged() {
            true => self.server.rollouts.release_for(outgoing.id(), place),
            false => Some(Bytes::new()),
        };
        // Its wave has not come: when it does, the command is offered again.
        let Some(release) = release else { return Ok(()) };
        let turn = match self.admission(outgoing) {
            Admission::Free => None,
            Admission::Running(turn) => Some(turn),
            Admission::Waits => {
                self.waits_for_turn = true;
                return Ok(());
            }
        };
        self.hand_on_bundles().await?;
        self.acknowledge_stored().await?;
        // From here on it counts as sent, whether the agent reads it or not.
        if !self.server.dispatcher.hand_over(outgoing.id(), place) {
            return Ok(());
        }
        self.deliveries.insert(outgoing.id(), 1);
        if let Some(turn) = turn {
            self.turns.insert(outgoing.id(), (outgoing.terms().expires_at, turn));
        }
        let server = self.server;
        let sent = server.traces.follow(outgoing.id()).then(|| Moment::now(&*server.clock));
        self.unanswered.insert(outgoing.id(), (place, sent));
        let delivery = proto::Delivery {
            envelope: outgoing.envelope().clone(),
            proof: Some((&proof).into()),
            approvals: Vec::new(),
            release,
        };
        self.say(Frame::Delivery(delivery)).await
    }

    fn admission(&mut self, outgoing: &Outgoing) -> Admission {
        if !outgoing.terms().needs_turn {
            return Admission::Free;
        }
        // Later ones do not overtake one that waits.
        if self.waits_for_turn {
            return Admission::Waits;
        }
        // Told of by its own answers.
        if self.applicant.has_its_share(self.turns.len()) {
            return Admission::Waits;
        }
        self.applicant.take()
    }

    async fn receive(&mut self, frame: agent_frame::Frame) -> Result<(), End> {
        self.share.look(&self.server.updates.pieces, self.outbound.is_idle())?;
        match frame {
            agent_frame::Frame::Answer(answer) => self.answer(answer).await,
            agent_frame::Frame::Refusals(envelope) => {
                if !self.refusals_budget.take(self.server.clock.monotonic()) {
                    return Ok(());
                }
                let now = self.server.clock.wall();
                let recorded =
                    record_refusals(&self.server.store, envelope, &self.agent, self.server.fleet, now);
                match recorded.await.map_err(unavailable)? {
                    Ok(ack) => {
                        let sealed = self.server.signer.refusals_ack(&ack).map_err(Failure::from)?;
                        self.say(Frame::RefusalsAck(sealed.bytes().clone())).await
                    }
                    Err(refusal) => {
                        warn!(agent.id = %self.agent.id, %refusal, "refusal report not believed");
                        self.not_believed("a report of refusals".to_owned(), &refusal).await
                    }
                }
            }
            agent_frame::Frame::Heartbeat(proto::Heartbeat {}) => {
                // Not more often than heartbeats are due, however many come.
                if self.reconciled.elapsed() >= self.server.settings.heartbeat / 2 {
                    self.reconciled = tokio::time::Instant::now();
                    let report = self.pending.take();
                    self.note_heard(report).await?;
                    let now = self.server.clock.wall();
                    self.turns.retain(|_, (expires_at, _)| *expires_at + MAX_RUN > now);
                    // The store is the truth: whatever the dispatcher missed is found at the latest now.
                    self.slot.mailbox.look_into_store();
                }
                self.acknowledge_all().await?;
                self.say(Frame::Heartbeat(proto::Heartbeat {})).await
            }
            agent_frame::Frame::Report(report) => self.report(&report).await,
            agent_frame::Frame::Admitted(admitted) => self.admitted(&admitted).await,
            agent_frame::Frame::PieceRequest(request) => self.piece(request).await,
            agent_frame::Frame::Question(question) => self.question(&question).await,
            agent_frame::Frame::Hello(_) | agent_frame::Frame::Proof(_) => {
                Err(Failure::protocol("the session has begun already").into())
            }
            // Changing an identity is not offered by this server.
            agent_frame::Frame::IdentityChange(_) => Ok(()),
        }
    }

    /// It is about to start what was delivered (protocol.md §6.15). Recorded with the next batch; nobody
    /// waits for that.
    async fn admitted(&mut self, admitted: &proto::Admitted) -> Result<(), End> {
        let proto::Admitted { command_id, journal_admissions } = admitted;
        let malformed = |_| Failure::protocol("an announcement names no command");
        let command = CommandId::try_from(command_id.as_ref()).map_err(malformed)?;
        // Each greater than the one before, and none greater than what was delivered explains: no more of
        // them are written, and nobody on the way can have the journal look put back by more than
        // that.
        let delivered = u64::try_from(self.deliveries.len()).unwrap_or(u64::MAX);
        let most = self.admissions_before.saturating_add(delivered);
        let is_due = *journal_admissions > self.admissions && *journal_admissions <= most;
        let Some((place, _)) = self.unanswered.get(&command).filter(|_| is_due) else { return Ok(()) };
        self.server.dispatcher.running().insert(command, *place);
        self.admissions = *journal_admissions;
        debug!(command.id = %command, agent.id = %self.agent.id, admissions = self.admissions, "start announced");
        let _pending = self.server.store.queue_heard(self.heard(None)).await.map_err(unavailable)?;
        writ_common::checkpoint!("admission_queued");
        Ok(())
    }

    async fn report(&mut self, envelope: &Bytes) -> Result<(), End> {
        match read_report(envelope, &self.agent, (self.server.fleet, self.server_nonce)) {
            // Repeated or out of order: the later one counts.
            Ok((number, _)) if number <= self.reports => Ok(()),
            Ok((number, report)) => {
                self.reports = number;
                if self.report_budget.take(self.server.clock.monotonic()) {
                    self.pending = None;
                    self.note_heard(Some(report)).await?;
                    self.slot.mailbox.reported();
                    // It may lack what agents should hold.
                    self.server.updates.new.notify_one();
                    return Ok(());
                }
                self.pending = Some(report);
                Ok(())
            }
            Err(refusal) => {
                warn!(agent.id = %self.agent.id, %refusal, "report not believed");
                self.not_believed("a report of itself".to_owned(), &refusal).await
            }
        }
    }

    /// Of one kind and code there is one alert, which counts.
    async fn not_believed(&mut self, what: String, refusal: &Refusal) -> Result<(), End> {
        self.bear_noise()?;
        let detail = format!("Its session carried {what} that is not believed: {refusal}");
        let (kind, code, agent) = (AlertKind::NotBelieved, refusal.code.as_str(), self.agent.id);
        let alarm = Alarm { kind, code, agent, count: 1, detail };
        let raised = self.server.store.raise(alarm, None, self.server.clock.wall()).await;
        Ok(raised.map_err(unavailable)?)
    }

    /// One more thing that no honest agent says.
    fn bear_noise(&mut self) -> Result<(), End> {
        self.is_noisy = !self.noise_budget.take(self.server.clock.monotonic());
        match self.is_noisy {
            true => Err(Failure::exhausted("this session said too much that no honest agent says").into()),
            false => Ok(()),
        }
    }

    async fn note_heard(&self, report: Option<Report>) -> Result<(), End> {
        Ok(self.server.store.note_heard(self.heard(report)).await.map_err(unavailable)?)
    }

    fn heard(&self, report: Option<Report>) -> SignOfLife {
        let admissions = (self.mark, self.admissions);
        SignOfLife { agent: self.agent.id, at: self.server.clock.wall(), admissions, report }
    }

    async fn end(&mut self, ending: SessionEnding) -> Result<(), End> {
        match ending {
            SessionEnding::Replaced => {
                self.come_back(REPLACED_BACKOFF, "the agent opened another session").await
            }
            SessionEnding::Decided => {
                self.come_back(Duration::ZERO, "an operator decided about this agent").await
            }
        }
    }

    async fn come_back(&mut self, after: Duration, reason: &str) -> Result<(), End> {
        self.acknowledge_all().await?;
        let frame = proto::ComeBack { after_ms: millis(after), reason: reason.to_owned() };
        self.outbound.offer(Frame::ComeBack(frame));
        Err(End::Drained)
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// The bundles after a version, as many as fit one frame, the version of the last of them, and whether there
/// are more.
pub(crate) fn bundles_after(server: &Server, version: u64) -> (Vec<Bytes>, u64, bool) {
    let (mut bytes, mut newest, mut bundles) = (0, version, Vec::new());
    for link in server.chain().after(version) {
        bytes += link.envelope.len();
        if bytes > MAX_BUNDLE_BATCH_BYTES || bundles.len() == MAX_BUNDLES_PER_CALL {
            return (bundles, newest, true);
        }
        bundles.push(link.envelope.clone());
        newest = link.bundle.version;
    }
    (bundles, newest, false)
}
