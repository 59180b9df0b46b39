//! What was refused in silence: counted by code, reported the first time at once and then seldom, and
//! forgotten only when the server has signed that it knows.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tracing::warn;
use writ_proto::v1 as proto;
use writ_protocol::envelope::{RefusalsPurpose, Sealed, Tag as _, claimed_keyid, digest, sign};
use writ_protocol::id::Digest;
use writ_protocol::receipt::{RefusalAcknowledgement, RefusalRecord, RefusalReport};
use writ_protocol::refusal::{Refusal, RefusalCode};
use writ_protocol::time::Timestamp;

use crate::identity::Identity;
use crate::replay::{Journal, JournalError};

const DOCUMENT: &str = "refusals";

/// As it is kept in the journal.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    /// Counted, not yet reported.
    #[prost(message, repeated, tag = "1")]
    waiting: Vec<proto::RefusalRecord>,
    /// Envelope of a report that is not acknowledged.
    #[prost(bytes = "bytes", tag = "2")]
    reported: Bytes,
    #[prost(uint64, tag = "3")]
    sequence: u64,
}

/// The records of one agent.
#[derive(Debug)]
pub(crate) struct Refusals {
    waiting: BTreeMap<RefusalCode, RefusalRecord>,
    reported: Option<Bytes>,
    sequence: u64,
    interval: Duration,
    /// When a code was last put into a report, on the monotonic clock.
    last_reported: BTreeMap<RefusalCode, Duration>,
    is_dirty: bool,
}

impl Refusals {
    /// What the journal holds; at most one report of a code in each interval after the first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) fn load(journal: &Journal, interval: Duration) -> Result<Self, JournalError> {
        let stored = match journal.document(DOCUMENT)? {
            Some(bytes) => Stored::decode(bytes).map_err(|_| JournalError::Damaged)?,
            None => Stored::default(),
        };
        let waiting = stored
            .waiting
            .into_iter()
            .filter_map(|record| RefusalRecord::try_from(record).ok())
            .map(|record| (record.code, record))
            .collect();
        Ok(Self {
            waiting,
            reported: (!stored.reported.is_empty()).then_some(stored.reported),
            sequence: stored.sequence,
            interval,
            last_reported: BTreeMap::new(),
            is_dirty: false,
        })
    }

    /// Counts a refusal. Nothing is written here: a flood of forged frames must not become a flood of syncs.
    pub(crate) fn count(&mut self, refusal: &Refusal, frame: &[u8], now: Timestamp) {
        warn!(code = %refusal.code, detail = %refusal.detail, "refused in silence");
        self.is_dirty = true;
        let record = self.waiting.entry(refusal.code).or_insert_with(|| RefusalRecord {
            code: refusal.code,
            count: 0,
            first_at: now,
            last_at: now,
            sample_digest: Digest::of(frame),
            sample_keyid: claimed_keyid(frame)
                .filter(|id| !id.contains(char::is_control))
                .unwrap_or_default(),
        });
        record.count = record.count.saturating_add(1);
        record.last_at = now;
    }

    /// Writes what was counted since the last write.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(crate) fn keep(&mut self, journal: &Journal) -> Result<(), JournalError> {
        if !self.is_dirty {
            return Ok(());
        }
        let stored = Stored {
            waiting: self.waiting.values().map(Into::into).collect(),
            reported: self.reported.clone().unwrap_or_default(),
            sequence: self.sequence,
        };
        journal.keep_document(DOCUMENT, &stored.encode_to_vec())?;
        self.is_dirty = false;
        Ok(())
    }

    /// The report to send now, if one is due. It is on disk before it is returned.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(crate) fn report(
        &mut self,
        identity: &Identity,
        journal: &Journal,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<Option<Bytes>, JournalError> {
        let is_due = self.waiting.keys().any(|code| {
            self.last_reported.get(code).is_none_or(|last| monotonic.saturating_sub(*last) >= self.interval)
        });
        if self.reported.is_some() || !is_due {
            return Ok(None);
        }
        // Nothing is taken for reported that is not on disk.
        let before = (self.waiting.clone(), self.last_reported.clone(), self.sequence);
        let records: Vec<_> = std::mem::take(&mut self.waiting).into_values().collect();
        for record in &records {
            self.last_reported.insert(record.code, monotonic);
        }
        self.sequence += 1;
        let report = RefusalReport {
            fleet: identity.record.fleet,
            agent: identity.record.agent,
            sequence: self.sequence,
            records,
            reported_at: now,
        };
        let sealed: Sealed<RefusalsPurpose> = sign(&[&identity.key.for_purpose()], &report);
        self.reported = Some(sealed.bytes().clone());
        self.is_dirty = true;
        if let Err(failed) = self.keep(journal) {
            (self.waiting, self.last_reported, self.sequence) = before;
            self.reported = None;
            return Err(failed);
        }
        Ok(self.reported.clone())
    }

    /// A report that was sent on an earlier session and not acknowledged.
    #[must_use]
    pub(crate) fn unacknowledged(&self) -> Option<Bytes> {
        self.reported.clone()
    }

    /// Forgets the report a verified acknowledgement names.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(crate) fn acknowledge(
        &mut self,
        ack: &RefusalAcknowledgement,
        journal: &Journal,
    ) -> Result<(), JournalError> {
        let is_ours = ack.sequence == self.sequence
            && self.reported.as_ref().and_then(report_digest) == Some(ack.report_digest);
        if is_ours {
            let reported = self.reported.take();
            self.is_dirty = true;
            if let Err(failed) = self.keep(journal) {
                self.reported = reported;
                return Err(failed);
            }
        }
        Ok(())
    }
}

fn report_digest(envelope: &Bytes) -> Option<Digest> {
    let envelope = proto::Envelope::decode(envelope.clone()).ok()?;
    Some(digest(RefusalsPurpose::PAYLOAD_TYPE, &envelope.payload))
}
