//! Whether an agent's journal continues. One that went back or lives twice holds the agent: what it obeyed
//! and forgot must not be sent again (protocol.md §6.9).

use writ_protocol::hello::JournalStanding;
use writ_protocol::id::{AgentId, JournalId, SessionMark};
use writ_protocol::time::Timestamp;

use super::super::rows::{Alarm, AlertKind, Noted};

/// Journals of one agent that are told apart; an honest one has a new one after a lost disk.
const MAX_JOURNALS: u64 = 16;

/// What is known of an agent's journals when its session begins.
#[derive(Debug, Clone)]
pub(in crate::store) struct KnownJournals {
    /// The one it showed last; `None`: it never had a session.
    pub last: Option<JournalId>,
    /// How far that one was.
    pub counter: u64,
    /// How many commands that one had admitted.
    pub admissions: u64,
    /// What its last session wrote there.
    pub mark: Option<SessionMark>,
    /// Whether it ever showed the journal it shows now.
    pub is_known: bool,
    /// Journals it showed since an operator last decided.
    pub recent: u64,
    /// What was noted of it.
    pub noted: Noted,
}

/// What becomes of a session's journal.
#[derive(Debug)]
pub(in crate::store) struct JournalDecision {
    /// What is noted of the agent from now on.
    pub noted: Noted,
    /// Whether the journal is known from now on.
    pub is_new: bool,
    /// What an operator should look at.
    pub alarm: Option<Alarm>,
}

/// Decides about the journal that an agent shows at a time.
pub(in crate::store) fn decide(
    known: KnownJournals,
    agent: AgentId,
    shown: &JournalStanding,
    at: Timestamp,
) -> JournalDecision {
    let raise = |kind, detail| Some(Alarm { kind, code: "", agent, count: 1, detail });
    if let Some(wrong) = find_fault(&known, shown) {
        let detail = format!("Nothing is sent to it until an operator decides: {wrong}.");
        // What it may have obeyed and forgotten was issued before now.
        let noted = Noted { held: Some(wrong), commands_from: at };
        return JournalDecision { noted, is_new: false, alarm: raise(AlertKind::Rewound, detail) };
    }
    let (mut noted, mut alarm) = (known.noted, None);
    let is_last = known.last == Some(shown.id);
    let is_new = !is_last && !known.is_known;
    if is_new && known.last.is_some() {
        noted.commands_from = at;
        let detail =
            "It began a new journal. Commands issued before that are refused as `too_old`.".to_owned();
        alarm = raise(AlertKind::JournalReplaced, detail);
    }
    JournalDecision { noted, is_new, alarm }
}

/// What is wrong with the journal, if anything is.
fn find_fault(known: &KnownJournals, shown: &JournalStanding) -> Option<String> {
    let is_last = known.last == Some(shown.id);
    if is_last && !is_continued(known, shown) {
        let KnownJournals { counter, admissions, .. } = known;
        return Some(format!(
            "its journal stands at {} with {} commands admitted, and its last session wrote more there (it stood at {counter} with {admissions}, or later): the host was put back to an earlier state, or two hosts share its identity",
            shown.counter, shown.admissions
        ));
    }
    if !is_last && known.is_known {
        let text = "it came back to a journal it had given up: two hosts share its identity, or the host was put back to an earlier state";
        return Some(text.to_owned());
    }
    // The one it is held for was its last one already when it comes again: that is judged once.
    if !is_last && !known.is_known && known.recent >= MAX_JOURNALS {
        return Some(format!(
            "it began a new journal for the {MAX_JOURNALS}th time: its disk forgets, or somebody makes it"
        ));
    }
    None
}

/// The same journal, later: it stands no earlier and has the mark of the last session this server knows of.
/// There may have been later ones, when the server was put back to an earlier state. The mark of a session
/// whose welcome the agent never heard is its next one (protocol.md §6.9).
fn is_continued(known: &KnownJournals, shown: &JournalStanding) -> bool {
    let has_mark = match known.mark {
        None => shown.marks.is_empty(),
        Some(mark) => mark == shown.next_mark || shown.marks.contains(&mark),
    };
    shown.counter >= known.counter && shown.admissions >= known.admissions && has_mark
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(9000);

    fn mark(byte: u8) -> SessionMark {
        SessionMark::from_bytes([byte; 16])
    }

    fn id(byte: u8) -> JournalId {
        JournalId::from_bytes([byte; 16])
    }

    fn known() -> KnownJournals {
        KnownJournals {
            last: Some(id(1)),
            counter: 9,
            admissions: 4,
            mark: Some(mark(2)),
            is_known: true,
            recent: 1,
            noted: Noted { held: None, commands_from: Timestamp::from_millis(5) },
        }
    }

    fn shown(journal: u8, counter: u64, marks: &[u8], next_mark: u8) -> JournalStanding {
        JournalStanding {
            id: id(journal),
            counter,
            admissions: 4,
            marks: marks.iter().copied().map(mark).collect(),
            next_mark: mark(next_mark),
        }
    }

    fn fault(known: KnownJournals, shown: &JournalStanding) -> Option<String> {
        decide(known, AgentId::from_bytes([7; 16]), shown, NOW).noted.held
    }

    #[test]
    fn a_journal_continues_with_the_mark_of_its_last_session_or_of_one_it_never_heard_the_welcome_of() {
        for (what, shown, is_continued) in [
            ("later", shown(1, 9, &[2, 1], 3), true),
            ("its welcome got lost", shown(1, 9, &[1], 2), true),
            ("the server was put back", shown(1, 9, &[4, 3, 2, 1], 5), true),
            ("the counter went back", shown(1, 8, &[2, 1], 3), false),
            ("the counter caught up, the mark did not", shown(1, 99, &[1], 3), false),
            (
                "it was put back within the session, and finished what ran",
                JournalStanding { admissions: 3, ..shown(1, 99, &[2, 1], 3) },
                false,
            ),
        ] {
            assert_eq!(fault(known(), &shown).is_none(), is_continued, "{what}");
        }
        let fresh = KnownJournals { mark: None, ..known() };
        assert_eq!(fault(fresh.clone(), &shown(1, 9, &[], 3)), None, "no session ever marked it");
        assert!(fault(fresh, &shown(1, 9, &[2], 3)).is_some(), "a session this server knows nothing of did");
    }

    #[test]
    fn what_is_held_stays_held_until_an_operator_decides() {
        let held = Noted { held: Some("it went back".to_owned()), commands_from: Timestamp::from_millis(5) };
        let decision = decide(
            KnownJournals { noted: held, ..known() },
            AgentId::from_bytes([7; 16]),
            &shown(1, 9, &[2], 3),
            NOW,
        );
        assert_eq!(decision.noted.held.as_deref(), Some("it went back"));
        assert_eq!(decision.noted.commands_from, Timestamp::from_millis(5));
        assert!(decision.alarm.is_none());
    }

    #[test]
    fn a_journal_that_went_back_is_told_and_what_was_issued_before_is_too_old() {
        let decision = decide(known(), AgentId::from_bytes([7; 16]), &shown(1, 8, &[2], 3), NOW);
        assert_eq!(decision.noted.commands_from, NOW);
        assert!(decision.noted.held.unwrap().contains("stands at 8 with 4 commands admitted"));
        assert_eq!(decision.alarm.map(|alarm| alarm.kind), Some(AlertKind::Rewound));
        assert!(!decision.is_new);
    }

    #[test]
    fn the_first_journal_is_noted_and_a_later_one_makes_what_was_issued_before_too_old() {
        let first =
            KnownJournals { last: None, mark: None, is_known: false, recent: 0, counter: 0, ..known() };
        let decision = decide(first, AgentId::from_bytes([7; 16]), &shown(1, 0, &[], 3), NOW);
        assert!(decision.is_new && decision.alarm.is_none());
        assert_eq!(decision.noted.commands_from, Timestamp::from_millis(5));
        let second = KnownJournals { is_known: false, ..known() };
        let decision = decide(second, AgentId::from_bytes([7; 16]), &shown(5, 0, &[], 3), NOW);
        assert!(decision.is_new && decision.noted.held.is_none());
        assert_eq!(decision.noted.commands_from, NOW);
        assert_eq!(decision.alarm.map(|alarm| alarm.kind), Some(AlertKind::JournalReplaced));
    }

    #[test]
    fn a_journal_that_an_agent_is_held_for_is_judged_once_however_often_it_comes_back() {
        let noted = Noted { held: Some("too many".to_owned()), commands_from: Timestamp::from_millis(5) };
        let known = KnownJournals { is_known: false, recent: MAX_JOURNALS, noted, ..known() };
        let decision = decide(known, AgentId::from_bytes([7; 16]), &shown(1, 9, &[2], 3), NOW);
        assert_eq!(decision.noted.held.as_deref(), Some("too many"));
        assert_eq!(decision.noted.commands_from, Timestamp::from_millis(5));
        assert!(decision.alarm.is_none() && !decision.is_new);
    }

    #[test]
    fn a_journal_that_was_given_up_never_comes_back_and_there_are_only_so_many() {
        assert!(fault(known(), &shown(5, 99, &[2], 3)).unwrap().contains("given up"));
        let many = |recent| KnownJournals { is_known: false, recent, ..known() };
        assert_eq!(fault(many(MAX_JOURNALS - 1), &shown(5, 0, &[], 3)), None);
        assert!(fault(many(MAX_JOURNALS), &shown(5, 0, &[], 3)).unwrap().contains("16th time"));
    }
}
