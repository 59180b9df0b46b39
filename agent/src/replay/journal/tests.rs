use writ_protocol::id::Digest;

use super::*;
use crate::replay::look::Question;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const ANYTHING: Question = Question { command: None, now: NOW, max_entries: u64::MAX };

fn journal(max_entries: u64) -> (tempfile::TempDir, Journal) {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("journal.redb"), max_entries).unwrap();
    journal.begin_session(NOW, Timestamp::ZERO).unwrap();
    (folder, journal)
}

fn id(number: u8) -> CommandId {
    CommandId::from_bytes([number; 16])
}

fn accept(
    journal: &Journal,
    number: u8,
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<Durable, JournalError> {
    let accepted =
        journal.accept(id(number), Digest::of(&[number]), expires_at, Bytes::from_static(b"delivery"), now);
    accepted.map(|admission| admission.durable)
}

fn run(journal: &Journal, number: u8, admitted: &Durable) {
    assert_eq!(journal.start(admitted, NOW, "boot").unwrap(), 1);
    journal.finish(id(number), Bytes::from_static(b"receipt")).unwrap();
}

#[test]
fn a_command_is_known_in_every_state_after_reopening() {
    let (folder, journal) = journal(8);
    for number in 1..=4 {
        let admitted = accept(&journal, number, NOW + HOUR, NOW).unwrap();
        match number {
            1 => {}
            2 => assert_eq!(journal.start(&admitted, NOW, "boot").unwrap(), 1),
            3 => run(&journal, number, &admitted),
            _ => {
                run(&journal, number, &admitted);
                journal.acknowledge(&[(id(number), Digest::of(&[number]))]).unwrap();
            }
        }
    }
    drop(journal);
    let journal = Journal::open(&folder.path().join("journal.redb"), 8).unwrap();
    let states: Vec<_> = (1..=4).map(|number| journal.find(id(number)).unwrap().unwrap().state).collect();
    assert_eq!(states, [State::Accepted, State::Started, State::Finished, State::Acknowledged]);
    let open: Vec<_> = journal.open_commands().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(open, [id(1), id(2), id(3)]);
    assert_eq!(journal.find(id(3)).unwrap().unwrap().receipt.unwrap().as_ref(), b"receipt");
    // An acknowledgement may be forged: a server that asks again is answered again.
    assert_eq!(journal.find(id(4)).unwrap().unwrap().receipt.unwrap().as_ref(), b"receipt");
}

#[test]
fn pruning_remembers_what_it_forgot_and_keeps_what_is_owed() {
    let (_folder, journal) = journal(8);
    let owed = accept(&journal, 1, NOW + HOUR, NOW).unwrap();
    run(&journal, 1, &owed);
    let done = accept(&journal, 2, NOW + HOUR, NOW).unwrap();
    run(&journal, 2, &done);
    journal.acknowledge(&[(id(2), Digest::of(&[2]))]).unwrap();

    let later = NOW + HOUR + SKEW + HOUR;
    let _new = accept(&journal, 3, later + HOUR, later).unwrap();
    assert!(journal.find(id(1)).unwrap().is_some(), "its receipt is not acknowledged");
    assert!(journal.find(id(2)).unwrap().is_none());
    assert_eq!(journal.facts().unwrap().forgotten_until, NOW + HOUR);
}

#[test]
fn acknowledged_receipts_are_kept_while_there_is_room_and_the_first_goes_first() {
    let (_folder, journal) = journal(64);
    let large = Bytes::from(vec![7; 1 << 20]);
    let receipt = |number: u8| journal.find(id(number)).unwrap().unwrap().receipt;
    for number in 1..=6 {
        let admitted = accept(&journal, number, NOW + HOUR, NOW).unwrap();
        assert_eq!(journal.start(&admitted, NOW, "boot").unwrap(), 1);
        journal.finish(id(number), large.clone()).unwrap();
        if number <= 5 {
            journal.acknowledge(&[(id(number), Digest::of(&[number]))]).unwrap();
        }
    }
    assert_eq!((receipt(1), receipt(2), receipt(6)), (None, Some(large.clone()), Some(large.clone())));
    assert_eq!(journal.find(id(1)).unwrap().unwrap().state, State::Acknowledged, "it is known all the same");
    // Forgotten ones make room.
    let later = NOW + HOUR + SKEW + HOUR;
    let _new = accept(&journal, 7, later + HOUR, later).unwrap();
    assert!(journal.find(id(2)).unwrap().is_none());
    for number in 10..=13 {
        let admitted = accept(&journal, number, later + HOUR, later).unwrap();
        assert_eq!(journal.start(&admitted, later, "boot").unwrap(), 1);
        journal.finish(id(number), large.clone()).unwrap();
        journal.acknowledge(&[(id(number), Digest::of(&[number]))]).unwrap();
    }
    assert_eq!(receipt(10), Some(large), "all four fit");
}

#[test]
fn a_full_journal_admits_nothing_and_forgets_nothing() {
    let (folder, journal) = journal(1);
    let _held = accept(&journal, 1, NOW + HOUR, NOW).unwrap();
    assert!(matches!(accept(&journal, 2, NOW + HOUR, NOW), Err(JournalError::Full(1))));
    assert!(journal.find(id(1)).unwrap().is_some() && journal.find(id(2)).unwrap().is_none());
    drop(journal);
    let path = folder.path().join("journal.redb");
    let is_full = |max_entries, now| {
        Journal::read_file(&path, Question { command: None, now, max_entries }).unwrap().is_full
    };
    assert!(is_full(1, NOW) && !is_full(2, NOW));
    assert!(is_full(1, NOW + HOUR + SKEW + HOUR), "its receipt is not acknowledged");
}

#[test]
fn the_counter_rises_and_the_floor_never_falls() {
    let (folder, journal) = journal(8);
    let before = journal.facts().unwrap();
    journal.begin_session(NOW - HOUR, Timestamp::ZERO).unwrap();
    let after = journal.facts().unwrap();
    assert!(after.counter > before.counter);
    assert_eq!(after.floor, before.floor);
    assert_eq!(after.birth, NOW);
    drop(journal);
    assert_eq!(Journal::read_file(&folder.path().join("journal.redb"), ANYTHING).unwrap().facts, after);
}

#[test]
fn a_session_keeps_its_mark_and_an_unanswered_offer_stays_the_same() {
    let (_folder, journal) = journal(8);
    let offered = journal.standing().unwrap();
    assert_eq!(journal.standing().unwrap().next_mark, offered.next_mark, "no welcome came");
    journal.begin_session(NOW, Timestamp::ZERO).unwrap();
    let next = journal.standing().unwrap();
    assert_eq!(next.marks, [offered.next_mark]);
    assert_ne!(next.next_mark, offered.next_mark);
    for _ in 0..MAX_MARKS {
        let _offered = journal.standing().unwrap();
        journal.begin_session(NOW, Timestamp::ZERO).unwrap();
    }
    let latest = journal.standing().unwrap();
    assert!(latest.marks.len() == MAX_MARKS && !latest.marks.contains(&offered.next_mark));
}

#[test]
fn what_a_server_says_about_old_commands_moves_the_birth_forward_only_and_not_into_the_future() {
    let (_folder, journal) = journal(8);
    journal.begin_session(NOW + HOUR, NOW + SKEW).unwrap();
    assert_eq!(journal.facts().unwrap().birth, NOW + SKEW);
    journal.begin_session(NOW + HOUR, NOW).unwrap();
    assert_eq!(journal.facts().unwrap().birth, NOW + SKEW);
    journal.begin_session(NOW + HOUR, NOW + HOUR + HOUR).unwrap();
    assert_eq!(journal.facts().unwrap().birth, NOW + HOUR);
}

#[test]
fn an_acknowledgement_of_another_digest_changes_nothing() {
    let (_folder, journal) = journal(8);
    let admitted = accept(&journal, 1, NOW + HOUR, NOW).unwrap();
    run(&journal, 1, &admitted);
    journal.acknowledge(&[(id(1), Digest::of(b"other"))]).unwrap();
    assert_eq!(journal.find(id(1)).unwrap().unwrap().state, State::Finished);
}

#[test]
fn a_command_is_started_once_whatever_asks_again() {
    let (_folder, journal) = journal(8);
    let admitted = accept(&journal, 1, NOW + HOUR, NOW).unwrap();
    assert_eq!(journal.start(&admitted, NOW, "boot").unwrap(), 1);
    assert!(matches!(journal.start(&admitted, NOW, "boot"), Err(JournalError::NotAccepted(_))));
    journal.finish(id(1), Bytes::from_static(b"receipt")).unwrap();
    assert!(matches!(journal.start(&admitted, NOW, "boot"), Err(JournalError::NotAccepted(_))));
}

#[test]
fn a_journal_of_a_later_release_is_left_alone_and_the_error_says_what_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    drop(Journal::open(&path, 16).unwrap());
    let write = Database::open(&path).unwrap().begin_write().unwrap();
    write.open_table(META).unwrap().insert("format", FORMAT + 1).unwrap();
    write.commit().unwrap();
    let error = Journal::open(&path, 16).unwrap_err().to_string();
    assert!(error.contains("format 2") && error.contains("start the release that wrote it"), "{error}");
}

#[test]
fn a_journal_with_any_page_damaged_or_cut_off_is_an_error_that_names_it_or_serves_as_before() {
    let (folder, journal) = journal(64);
    for number in 1..=20 {
        let admitted = accept(&journal, number, NOW + HOUR, NOW).unwrap();
        run(&journal, number, &admitted);
    }
    drop(journal);
    let whole = std::fs::read(folder.path().join("journal.redb")).unwrap();
    let path = folder.path().join("damaged.redb");
    let mut refused = 0;
    let mut try_out = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let looked = Journal::read_file(&path, ANYTHING);
        match Journal::open(&path, 64) {
            Ok(journal) => {
                // Whatever was not part of it was damaged: all of it is there.
                assert_eq!(journal.open_commands().unwrap().len(), 20);
                assert!(looked.is_ok(), "{looked:?}");
            }
            Err(error) => {
                refused += 1;
                let said = error.to_string();
                assert!(
                    said.contains("damaged.redb: the journal is damaged") && said.contains("mv "),
                    "{said}"
                );
                assert!(looked.is_err(), "who only looks sees it too");
            }
        }
    };
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0xa5);
        try_out(&damaged);
        let mut flipped = whole.clone();
        flipped[page * 4096 + 2048] ^= 1;
        try_out(&flipped);
    }
    for pages in 1..8 {
        try_out(&whole[..pages * 4096]);
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_journal_that_is_open_is_neither_opened_again_nor_called_damaged() {
    let (folder, journal) = journal(8);
    let path = folder.path().join("journal.redb");
    assert!(matches!(Journal::open(&path, 8), Err(JournalError::InUse)));
    // As a page looks that is being written.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 4096], 0).unwrap();
    assert!(matches!(Journal::read_file(&path, ANYTHING), Err(JournalError::InUse)));
    drop(journal);
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 4096], 0).unwrap();
    assert!(matches!(Journal::read_file(&path, ANYTHING), Err(JournalError::DamagedFile { .. })));
}

#[test]
fn room_that_cannot_be_set_aside_for_another_reason_is_no_full_disk() {
    let (folder, journal) = journal(8);
    let reserve = folder.path().join("journal.reserve");
    std::fs::remove_file(&reserve).unwrap();
    std::fs::create_dir(&reserve).unwrap();
    let refused = accept(&journal, 1, NOW + HOUR, NOW).unwrap_err();
    assert!(matches!(refused, JournalError::Redb(_)), "{refused}");
}

#[test]
fn a_journal_that_is_put_back_goes_on_with_the_mark_of_the_one_it_replaces() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("journal.redb");
    let journal = Journal::open(&path, 9).unwrap();
    journal.fix_next_mark().unwrap();
    drop(journal);
    let kept = std::fs::read(&path).unwrap();
    // Another program goes on with it, shows it to a server, and is taken back.
    let journal = Journal::open(&path, 9).unwrap();
    journal.keep_document("more", b"written").unwrap();
    let shown = journal.standing().unwrap();
    drop(journal);
    std::fs::write(&path, kept).unwrap();
    let journal = Journal::open(&path, 9).unwrap();
    journal.was_put_back().unwrap();
    let now = journal.standing().unwrap();
    assert_eq!((now.id, now.next_mark), (shown.id, shown.next_mark));
    assert!(now.counter > shown.counter, "{now:?} {shown:?}");
}
