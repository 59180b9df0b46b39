//! A live session: bundles and commands in, answers and refusals out.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};
use writ_common::backoff::Backoff;
use writ_common::envelope::{RefusalsAckPurpose, verify};
use writ_common::id::{CommandId, Digest};
use writ_common::refusal::{Refusal, RefusalCode};
use writ_common::shutdown::Shutdown;
use writ_common::time::Timestamp;
use writ_common::trust::Keyring;
use writ_proto::v1::{self as proto, agent_frame, server_frame::Frame};

use super::greeting::{Greeted, send};
use super::{Done, Link, LinkError};
use crate::obey::{Deliveries, Reaction};
use crate::reply;

pub(super) async fn hold(
    link: &mut Link,
    greeted: Greeted,
    endpoint: &str,
    backoff: &mut Backoff,
    shutdown: &Shutdown,
) -> Result<Done, LinkError> {
    let Greeted { outbound, mut inbound, welcome } = greeted;
    let heartbeat = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(1000)));
    let deadline = Duration::from_millis(u64::from(welcome.heartbeat_deadline_ms)).max(heartbeat * 2);
    backoff.reset();
    info!(endpoint, "session began");
    link.status.connected(endpoint);
    let mut session = Session { link, outbound, deliveries: Deliveries::default() };
    session.begin().await?;
    let mut ticks = interval(heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_heard = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(Done::ShuttingDown),
            message = inbound.message() => {
                last_heard = Instant::now();
                match message? {
                    Some(proto::ServerFrame { frame: Some(Frame::ComeBack(come_back)) }) => {
                        info!(reason = come_back.reason, "the server asks to come back");
                        return Ok(Done::ComeBack(Duration::from_millis(u64::from(come_back.after_ms))));
                    }
                    Some(proto::ServerFrame { frame: Some(frame) }) => {
                        if let Some(done) = session.receive(frame).await? {
                            return Ok(done);
                        }
                    }
                    // A frame of a newer protocol; nothing in it was asked for.
                    Some(proto::ServerFrame { frame: None }) => {}
                    None => return Err(LinkError::Ended),
                }
            }
            finished = session.link.answers.recv() => {
                let Some(finished) = finished else { return Ok(Done::ShuttingDown) };
                let deliveries = session.deliveries.of(finished.command);
                session.answer(reply::frame(finished.command, finished.digest, Some(finished.receipt), deliveries)).await?;
                if session.link.obedience.take_behind() {
                    session.send_owed().await?;
                }
            }
            _ = ticks.tick() => session.tick().await?,
            () = sleep_until(last_heard + deadline) => return Err(LinkError::Silent(deadline)),
        }
    }
}

struct Session<'a> {
    link: &'a mut Link,
    outbound: tokio::sync::mpsc::Sender<proto::AgentFrame>,
    deliveries: Deliveries,
}

impl Session<'_> {
    async fn begin(&mut self) -> Result<(), LinkError> {
        let obedience = std::sync::Arc::clone(&self.link.obedience);
        let chain = obedience.trust.chain();
        let report = proto::AgentReport {
            facts: Vec::new(),
            actions: obedience
                .table
                .rows()
                .map(|(name, class)| proto::ActionEntry {
                    name: name.to_owned(),
                    class: class.to_proto().into(),
                })
                .collect(),
            bundle_version: chain.head().bundle.version,
            bundle_digest: chain.head().digest.as_bytes().to_vec().into(),
            settings_revision: 0,
        };
        send(&self.outbound, agent_frame::Frame::Report(report)).await?;
        // What was ready before is also in the journal, from where all that is owed is sent.
        while self.link.answers.try_recv().is_ok() {}
        obedience.take_behind();
        self.send_owed().await?;
        if let Some(report) = self.link.refusals.unacknowledged() {
            send(&self.outbound, agent_frame::Frame::Refusals(report)).await?;
        }
        if !self.link.is_recovered {
            // Once a process, whatever comes of it: a second time would take running commands for crashed ones.
            self.link.is_recovered = true;
            obedience.recover(self.now()?)?;
        }
        self.report_refusals().await
    }

    fn now(&self) -> Result<Timestamp, LinkError> {
        self.link.obedience.time.now().ok_or(LinkError::Protocol("no hello said the time"))
    }

    async fn receive(&mut self, frame: Frame) -> Result<Option<Done>, LinkError> {
        match frame {
            Frame::Delivery(delivery) => return self.deliver(delivery).await,
            Frame::Bundles(proto::Bundles { bundles }) => self.bundles(bundles).await?,
            Frame::AnswerAck(proto::AnswerAcknowledgement { command_id, command_digest }) => {
                let (Ok(command), Ok(digest)) =
                    (CommandId::try_from(command_id.as_ref()), Digest::try_from(command_digest.as_ref()))
                else {
                    return Err(LinkError::Protocol("an acknowledgement names no command"));
                };
                self.link.obedience.journal.acknowledge(command, digest)?;
            }
            Frame::RefusalsAck(envelope) => self.refusals_acknowledged(&envelope).await?,
            Frame::Heartbeat(_) => {}
            Frame::Hello(_) | Frame::Welcome(_) => {
                return Err(LinkError::Protocol("it greets in the middle of a session"));
            }
            // Nothing of this is asked of this agent yet, and none of it is obeyed.
            Frame::ComeBack(_) | Frame::BundlesWanted(_) | Frame::IdentityRecord(_) | Frame::Freeze(_) => {}
        }
        Ok(None)
    }

    async fn deliver(&mut self, delivery: proto::Delivery) -> Result<Option<Done>, LinkError> {
        let now = self.now()?;
        let envelope = delivery.envelope.clone();
        match self.link.obedience.receive(delivery, now, &mut self.deliveries) {
            Reaction::Answer(frame) => self.answer(frame).await?,
            Reaction::Running => {}
            Reaction::Silence(refusal) => self.refused(&refusal, &envelope, now).await?,
            Reaction::TooMany => return Ok(Some(Done::ComeBack(Duration::ZERO))),
        }
        Ok(None)
    }

    async fn bundles(&mut self, bundles: Vec<Bytes>) -> Result<(), LinkError> {
        let now = self.now()?;
        let sample = bundles.last().cloned().unwrap_or_default();
        match self.link.obedience.follow(bundles)? {
            Ok(_) => Ok(()),
            Err(refusal) => self.refused(&refusal, &sample, now).await,
        }
    }

    async fn refusals_acknowledged(&mut self, envelope: &Bytes) -> Result<(), LinkError> {
        let obedience = std::sync::Arc::clone(&self.link.obedience);
        let now = self.now()?;
        let chain = obedience.trust.chain();
        let candidates = Keyring::new(&chain.head().bundle, &obedience.identity.record.realm).candidates(now);
        let checked = verify::<RefusalsAckPurpose>(envelope, &candidates, 1).and_then(|verified| {
            let ack = verified.into_document();
            let is_mine =
                ack.agent == obedience.identity.record.agent && ack.fleet == obedience.identity.record.fleet;
            if is_mine {
                Ok(ack)
            } else {
                Err(Refusal::new(RefusalCode::WrongAgent, "it acknowledges another's report"))
            }
        });
        match checked {
            Ok(ack) => {
                self.link.refusals.acknowledge(&ack, &obedience.journal)?;
                self.report_refusals().await
            }
            Err(refusal) => self.refused(&refusal, envelope, now).await,
        }
    }

    async fn refused(&mut self, refusal: &Refusal, frame: &[u8], now: Timestamp) -> Result<(), LinkError> {
        self.link.refusals.count(refusal, frame, now);
        self.report_refusals().await
    }

    async fn report_refusals(&mut self) -> Result<(), LinkError> {
        let now = self.now()?;
        let Link { obedience, refusals, .. } = &mut *self.link;
        let monotonic = obedience.time.monotonic();
        match refusals.report(&obedience.identity, &obedience.journal, now, monotonic)? {
            Some(report) => send(&self.outbound, agent_frame::Frame::Refusals(report)).await,
            None => Ok(()),
        }
    }

    async fn send_owed(&mut self) -> Result<(), LinkError> {
        for owed in self.link.obedience.owed()? {
            let deliveries = self.deliveries.of(owed.command);
            self.answer(reply::frame(owed.command, owed.digest, Some(owed.receipt), deliveries)).await?;
        }
        Ok(())
    }

    async fn answer(&self, frame: proto::AgentFrame) -> Result<(), LinkError> {
        self.outbound.send(frame).await.map_err(|_| LinkError::Ended)
    }

    /// The heartbeat's work: say something, keep what was counted, let the floor follow.
    async fn tick(&mut self) -> Result<(), LinkError> {
        let now = self.now()?;
        let Link { obedience, refusals, .. } = &mut *self.link;
        if let Err(error) = refusals.keep(&obedience.journal) {
            warn!(%error, "refusal records could not be written");
        }
        let journal_counter = obedience.journal.facts()?.counter;
        obedience.journal.raise_floor(now)?;
        send(&self.outbound, agent_frame::Frame::Heartbeat(proto::Heartbeat { journal_counter })).await?;
        self.report_refusals().await
    }
}
