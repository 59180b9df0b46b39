//! Which receipt counts: the first of a command and agent. Others are evidence.

use writ_protocol::id::Digest;

use super::super::rows::{Alarm, AlertKind, NewReceipt, ReceiptFate, TargetState};

/// What is known of the command and agent that a receipt names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct KnownTarget {
    pub state: TargetState,
    /// The receipt that counts.
    pub first: Option<Digest>,
}

/// What becomes of a verified receipt; `None`: the agent was never sent such a command.
pub(in crate::store) fn decide(known: Option<KnownTarget>, new: &NewReceipt) -> ReceiptFate {
    let Some(KnownTarget { state, first }) = known else { return ReceiptFate::Unsolicited };
    let Some(first) = first else { return ReceiptFate::Stored };
    // Agents of before kept no receipt of a refusal, and none keeps that of an expired command: one more is
    // no contradiction. Nor is the answer to a delivery that was not ours, which has an alert of its own.
    let is_repeated_refusal = new.state == TargetState::Refused && state == TargetState::Refused;
    if first == new.digest || is_repeated_refusal || new.is_replay {
        return ReceiptFate::Known;
    }
    ReceiptFate::Contradicts
}

/// The alert that a receipt raises. One that does not count is kept as evidence.
pub(in crate::store) fn alarm(fate: ReceiptFate, receipt: &NewReceipt) -> Option<Alarm> {
    let NewReceipt { command, command_digest, agent, .. } = *receipt;
    let (kind, detail) = match fate {
        ReceiptFate::Stored => {
            let found = receipt.listed.as_ref()?;
            (AlertKind::Listed, format!("{found}: writ commands show {command}"))
        }
        ReceiptFate::Known => return None,
        ReceiptFate::Contradicts => {
            let detail =
                format!("It answered command {command} twice, differently; the first answer counts.");
            (AlertKind::Contradicted, detail)
        }
        ReceiptFate::Unsolicited => {
            let detail = format!(
                "It answered command {command} with digest {command_digest}, which it was never sent."
            );
            (AlertKind::Unsolicited, detail)
        }
    };
    Some(Alarm { kind, code: "", agent, count: 1, detail })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use writ_protocol::id::{AgentId, CommandId, SessionMark};
    use writ_protocol::time::Timestamp;

    use super::*;

    fn receipt(digest: u8, state: TargetState, is_replay: bool) -> NewReceipt {
        NewReceipt {
            command: CommandId::from_bytes([1; 16]),
            command_digest: Digest::from_bytes([2; 32]),
            agent: AgentId::from_bytes([3; 16]),
            counter: (SessionMark::from_bytes([4; 16]), 5),
            digest: Digest::from_bytes([digest; 32]),
            envelope: Bytes::new(),
            state,
            refused: None,
            listed: None,
            is_replay,
            now: Timestamp::ZERO,
            tell: |_, _| (),
        }
    }

    #[test]
    fn the_first_receipt_counts_and_others_are_told_apart() {
        use ReceiptFate::{Contradicts, Known, Stored, Unsolicited};
        use TargetState::{Cancelled, Delivered, Done, Failed, Refused, Waiting};
        let known = |state, first: Option<u8>| {
            Some(KnownTarget { state, first: first.map(|byte| Digest::from_bytes([byte; 32])) })
        };
        for (what, known, receipt, fate) in [
            ("never sent", None, receipt(1, Done, false), Unsolicited),
            ("never sent, played again", None, receipt(1, Done, true), Unsolicited),
            ("the first", known(Delivered, None), receipt(1, Done, false), Stored),
            (
                "the first, before it was noted as sent",
                known(Waiting, None),
                receipt(1, Failed, false),
                Stored,
            ),
            (
                "the first, sent before it was cancelled",
                known(Cancelled, None),
                receipt(1, Done, false),
                Stored,
            ),
            ("the first, played again", known(Delivered, None), receipt(1, Done, true), Stored),
            ("the same", known(Done, Some(1)), receipt(1, Done, false), Known),
            ("another", known(Done, Some(1)), receipt(2, Done, false), Contradicts),
            ("another that refuses", known(Done, Some(1)), receipt(2, Refused, false), Contradicts),
            ("another, of a refusal", known(Refused, Some(1)), receipt(2, Done, false), Contradicts),
            ("a refusal again", known(Refused, Some(1)), receipt(2, Refused, false), Known),
            ("another, played again", known(Done, Some(1)), receipt(2, Failed, true), Known),
        ] {
            assert_eq!(decide(known, &receipt), fate, "{what}");
        }
    }

    #[test]
    fn only_listed_files_and_what_no_honest_agent_says_raise_an_alert() {
        let receipt = receipt(1, TargetState::Done, false);
        let kind = |fate| alarm(fate, &receipt).map(|alarm| alarm.kind);
        let found = NewReceipt { listed: Some("1 listed".to_owned()), ..receipt.clone() };
        let raised = alarm(ReceiptFate::Stored, &found).unwrap();
        assert_eq!(raised.kind, AlertKind::Listed);
        assert!(raised.detail.starts_with("1 listed: writ commands show "), "{raised:?}");
        assert_eq!(alarm(ReceiptFate::Known, &found).map(|alarm| alarm.kind), None);
        assert_eq!(kind(ReceiptFate::Stored), None);
        assert_eq!(kind(ReceiptFate::Known), None);
        assert_eq!(kind(ReceiptFate::Contradicts), Some(AlertKind::Contradicted));
        assert_eq!(kind(ReceiptFate::Unsolicited), Some(AlertKind::Unsolicited));
    }
}
