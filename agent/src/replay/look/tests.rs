use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const ANYTHING: Question = Question { command: None, now: NOW, max_entries: 8 };

/// A data directory whose path no address of a socket can hold.
fn folder() -> (tempfile::TempDir, Files) {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("a".repeat(200));
    fs::create_dir(&folder).unwrap();
    (top, Files::new(&folder))
}

fn journal(files: &Files) -> Journal {
    Journal::open(&files.journal(), 8).unwrap()
}

async fn asked(files: &Files, question: Question) -> Result<Answer, JournalError> {
    let files = files.clone();
    tokio::task::spawn_blocking(move || ask(&files, question)).await.unwrap()
}

#[tokio::test]
async fn the_agent_that_runs_says_what_is_read_from_the_file_when_none_runs() {
    let (_top, files) = folder();
    let journal = journal(&files);
    let command = CommandId::from_bytes([1; 16]);
    let digest = Digest::of(b"command");
    journal.begin_session(NOW, Timestamp::ZERO).unwrap();
    let _admitted = journal.accept(command, digest, NOW, Bytes::new(), NOW).unwrap();
    let question = Question { command: Some(command), ..ANYTHING };
    let listener = open(&files).unwrap();
    let told = tokio::select! {
        told = asked(&files, question) => told.unwrap(),
        () = answer_all(listener, |question| journal.answer(question)) => unreachable!(),
    };
    assert_eq!((told.known, told.facts.entries, told.is_full), (Some(digest), 1, false));
    drop(journal);
    // Its socket is still there, and nobody behind it.
    assert_eq!(asked(&files, question).await.unwrap(), told);
    let other = Question { command: Some(CommandId::from_bytes([2; 16])), ..ANYTHING };
    assert_eq!(asked(&files, other).await.unwrap().known, None);
}

#[tokio::test]
async fn one_that_says_nothing_and_one_that_says_nonsense_do_not_keep_others_from_asking() {
    let (_top, files) = folder();
    let journal = journal(&files);
    let listener = open(&files).unwrap();
    let silent = connect(&files.questions()).unwrap();
    let mut wrong = connect(&files.questions()).unwrap();
    wrong.write_all(&[0xff; 64]).unwrap();
    wrong.shutdown(Shutdown::Write).unwrap();
    let told = tokio::select! {
        told = asked(&files, ANYTHING) => told.unwrap(),
        () = answer_all(listener, |question| journal.answer(question)) => unreachable!(),
    };
    assert_eq!(told, journal.answer(ANYTHING).unwrap());
    drop(silent);
}

#[tokio::test]
async fn that_the_journal_cannot_be_read_is_told_by_the_agent_in_its_own_words() {
    let (_top, files) = folder();
    let listener = open(&files).unwrap();
    let told = tokio::select! {
        told = asked(&files, ANYTHING) => told.unwrap_err().to_string(),
        () = answer_all(listener, |_| Err(JournalError::Damaged)) => unreachable!(),
    };
    assert!(told.ends_with(&JournalError::Damaged.to_string()), "{told}");
}

#[test]
fn an_agent_that_has_begun_and_does_not_answer_yet_is_not_a_damaged_journal() {
    let (_top, files) = folder();
    let journal = journal(&files);
    fs::write(files.journal(), [0xff; 8192]).unwrap();
    let said = ask(&files, ANYTHING).unwrap_err();
    assert!(matches!(&said, JournalError::Between), "{said}");
    drop(journal);
    assert!(matches!(ask(&files, ANYTHING), Err(JournalError::DamagedFile { .. })));
}

#[tokio::test]
async fn what_is_no_socket_is_told_nothing() {
    let (_top, files) = folder();
    drop(journal(&files));
    fs::write(files.questions(), "").unwrap();
    let said = ask(&files, ANYTHING).unwrap_err().to_string();
    assert!(said.contains("no socket"), "{said}");
    assert!(open(&files).is_ok(), "and makes room for one");
}
