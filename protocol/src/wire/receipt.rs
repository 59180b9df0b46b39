//! `receipt.proto`.

use writ_proto::v1 as proto;

use super::field::{self, invalid, missing};
use crate::envelope::InvalidDocument;
use crate::limits::{MAX_DETAIL_BYTES, MAX_OUTPUT_BYTES, MAX_REFUSALS_COUNTED};
use crate::receipt::{
    Decision, Ending, Outcome, Receipt, RefusalAcknowledgement, RefusalRecord, RefusalReport,
};
use crate::refusal::{Audible, RefusalCode};
use crate::time::Timestamp;

impl TryFrom<proto::Receipt> for Receipt {
    type Error = InvalidDocument;

    fn try_from(message: proto::Receipt) -> Result<Self, InvalidDocument> {
        let proto::Receipt {
            fleet_id,
            agent_id,
            command_id,
            command_digest,
            decision,
            refusal_code,
            detail,
            outcome,
            decided_at_ms,
            agent_version,
            journal_counter,
            attempt,
        } = message;
        let decision =
            match (proto::Decision::try_from(decision), outcome, RefusalCode::from_proto(refusal_code)) {
                (Ok(proto::Decision::Obeyed), Some(outcome), None) if refusal_code == 0 => {
                    Decision::Obeyed(outcome.try_into()?)
                }
                (Ok(proto::Decision::Refused), None, Some(code)) if code.audible() == Audible::Answered => {
                    Decision::Refused(code)
                }
                _ => {
                    return Err(invalid(
                        "decision",
                        "must be obeyed with an outcome, or refused with a code",
                    ));
                }
            };
        if decided_at_ms > Timestamp::LATEST.as_millis() {
            return Err(invalid("decided_at_ms", "must be before the year 10000"));
        }
        // Each rises from 1.
        if attempt == 0 || journal_counter == 0 {
            return Err(missing(if attempt == 0 { "attempt" } else { "journal_counter" }));
        }
        if detail.len() > MAX_DETAIL_BYTES {
            return Err(invalid("detail", "must have at most 1024 bytes"));
        }
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            command: field::command("command_id", &command_id)?,
            command_digest: field::digest("command_digest", &command_digest)?,
            decision,
            detail,
            decided_at: field::time("decided_at_ms", decided_at_ms)?,
            agent_version: field::name("agent_version", agent_version)?,
            journal_counter,
            attempt,
        })
    }
}

impl From<&Receipt> for proto::Receipt {
    fn from(receipt: &Receipt) -> Self {
        let Receipt {
            fleet,
            agent,
            command,
            command_digest,
            decision,
            detail,
            decided_at,
            agent_version,
            journal_counter,
            attempt,
        } = receipt;
        let (kind, code, outcome) = match decision {
            Decision::Obeyed(outcome) => (proto::Decision::Obeyed, 0, Some(outcome.into())),
            Decision::Refused(code) => (proto::Decision::Refused, code.to_proto().into(), None),
        };
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            command_id: command.as_bytes().to_vec().into(),
            command_digest: command_digest.as_bytes().to_vec().into(),
            decision: kind.into(),
            refusal_code: code,
            detail: detail.clone(),
            outcome,
            decided_at_ms: decided_at.as_millis(),
            agent_version: agent_version.clone(),
            journal_counter: *journal_counter,
            attempt: *attempt,
        }
    }
}

impl TryFrom<proto::Outcome> for Outcome {
    type Error = InvalidDocument;

    fn try_from(message: proto::Outcome) -> Result<Self, InvalidDocument> {
        let proto::Outcome {
            ending,
            exit_status,
            signal,
            started_at_ms,
            finished_at_ms,
            output,
            output_bytes,
            output_digest,
            listed,
        } = message;
        let ending = match (proto::Ending::try_from(ending), exit_status, signal) {
            (Ok(proto::Ending::Done), 0, 0) => Ending::Done,
            (Ok(proto::Ending::Exited), status, 0) => Ending::Exited(status),
            (Ok(proto::Ending::Killed), 0, signal) => Ending::Killed(signal),
            (Ok(proto::Ending::TimedOut), 0, 0) => Ending::TimedOut,
            (Ok(proto::Ending::NotStarted), 0, 0) => Ending::NotStarted,
            (Ok(proto::Ending::Indeterminate), 0, 0) => Ending::Indeterminate,
            (Ok(proto::Ending::Failed), 0, 0) => Ending::Failed,
            (Ok(proto::Ending::Stopped), 0, 0) => Ending::Stopped,
            _ => {
                return Err(invalid(
                    "outcome.ending",
                    "must be known, with a status or a signal only where it has one",
                ));
            }
        };
        if started_at_ms > finished_at_ms || finished_at_ms > Timestamp::LATEST.as_millis() {
            return Err(invalid(
                "outcome.finished_at_ms",
                "must not be before the start, nor after the year 9999",
            ));
        }
        if u64::try_from(output.len()).is_ok_and(|kept| kept > output_bytes) {
            return Err(invalid("outcome.output_bytes", "must count the whole output"));
        }
        if output.len() > MAX_OUTPUT_BYTES {
            return Err(invalid("outcome.output", "must have at most 262144 bytes"));
        }
        Ok(Self {
            ending,
            started_at: Timestamp::from_millis(started_at_ms),
            finished_at: Timestamp::from_millis(finished_at_ms),
            output,
            output_bytes,
            output_digest: field::digest("outcome.output_digest", &output_digest)?,
            listed,
        })
    }
}

impl From<&Outcome> for proto::Outcome {
    fn from(outcome: &Outcome) -> Self {
        let Outcome { ending, started_at, finished_at, output, output_bytes, output_digest, listed } =
            outcome;
        let (kind, exit_status, signal) = match *ending {
            Ending::Done => (proto::Ending::Done, 0, 0),
            Ending::Exited(status) => (proto::Ending::Exited, status, 0),
            Ending::Killed(signal) => (proto::Ending::Killed, 0, signal),
            Ending::TimedOut => (proto::Ending::TimedOut, 0, 0),
            Ending::NotStarted => (proto::Ending::NotStarted, 0, 0),
            Ending::Indeterminate => (proto::Ending::Indeterminate, 0, 0),
            Ending::Failed => (proto::Ending::Failed, 0, 0),
            Ending::Stopped => (proto::Ending::Stopped, 0, 0),
        };
        Self {
            ending: kind.into(),
            exit_status,
            signal,
            started_at_ms: started_at.as_millis(),
            finished_at_ms: finished_at.as_millis(),
            output: output.clone(),
            output_bytes: *output_bytes,
            output_digest: output_digest.as_bytes().to_vec().into(),
            listed: *listed,
        }
    }
}

impl TryFrom<proto::RefusalReport> for RefusalReport {
    type Error = InvalidDocument;

    fn try_from(message: proto::RefusalReport) -> Result<Self, InvalidDocument> {
        let proto::RefusalReport { fleet_id, agent_id, sequence, records, reported_at_ms } = message;
        if records.is_empty() || records.len() > RefusalCode::ALL.len() {
            return Err(invalid("records", "must have one record for each refused code"));
        }
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            sequence,
            records: records.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            reported_at: field::time("reported_at_ms", reported_at_ms)?,
        })
    }
}

impl From<&RefusalReport> for proto::RefusalReport {
    fn from(report: &RefusalReport) -> Self {
        let RefusalReport { fleet, agent, sequence, records, reported_at } = report;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            sequence: *sequence,
            records: records.iter().map(Into::into).collect(),
            reported_at_ms: reported_at.as_millis(),
        }
    }
}

impl TryFrom<proto::RefusalRecord> for RefusalRecord {
    type Error = InvalidDocument;

    fn try_from(message: proto::RefusalRecord) -> Result<Self, InvalidDocument> {
        let proto::RefusalRecord { code, count, first_at_ms, last_at_ms, sample_digest, sample_keyid } =
            message;
        if sample_keyid.len() > 64 || sample_keyid.chars().any(char::is_control) {
            return Err(invalid("records.sample_keyid", "must be at most 64 printable characters"));
        }
        if !(1..=MAX_REFUSALS_COUNTED).contains(&count) {
            return Err(invalid("records.count", "must be 1 to 2^53"));
        }
        Ok(Self {
            code: RefusalCode::from_proto(code).ok_or_else(|| missing("records.code"))?,
            count,
            first_at: Timestamp::from_millis(first_at_ms),
            last_at: Timestamp::from_millis(last_at_ms),
            sample_digest: field::digest("records.sample_digest", &sample_digest)?,
            sample_keyid,
        })
    }
}

impl From<&RefusalRecord> for proto::RefusalRecord {
    fn from(record: &RefusalRecord) -> Self {
        let RefusalRecord { code, count, first_at, last_at, sample_digest, sample_keyid } = record;
        Self {
            code: code.to_proto().into(),
            count: *count,
            first_at_ms: first_at.as_millis(),
            last_at_ms: last_at.as_millis(),
            sample_digest: sample_digest.as_bytes().to_vec().into(),
            sample_keyid: sample_keyid.clone(),
        }
    }
}

impl TryFrom<proto::RefusalAcknowledgement> for RefusalAcknowledgement {
    type Error = InvalidDocument;

    fn try_from(message: proto::RefusalAcknowledgement) -> Result<Self, InvalidDocument> {
        let proto::RefusalAcknowledgement { fleet_id, agent_id, sequence, report_digest } = message;
        Ok(Self {
            fleet: field::fleet("fleet_id", &fleet_id)?,
            agent: field::agent("agent_id", &agent_id)?,
            sequence,
            report_digest: field::digest("report_digest", &report_digest)?,
        })
    }
}

impl From<&RefusalAcknowledgement> for proto::RefusalAcknowledgement {
    fn from(ack: &RefusalAcknowledgement) -> Self {
        let RefusalAcknowledgement { fleet, agent, sequence, report_digest } = ack;
        Self {
            fleet_id: fleet.as_bytes().to_vec().into(),
            agent_id: agent.as_bytes().to_vec().into(),
            sequence: *sequence,
            report_digest: report_digest.as_bytes().to_vec().into(),
        }
    }
}
