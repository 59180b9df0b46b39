//! What every database must do for the store. A second database adds a constructor here; the tests stay as
//! they are.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use writ_common::admin::AuditLog;
use writ_common::admin::audit::{AuditStore as _, NewAudit};
use writ_common::admin::operators::{Caller, NewOperator, OperatorStore as _, Revocation, Scope};
use writ_common::shutdown::Shutdown;
use writ_database::file::Found;
use writ_protocol::command::ActionClass;
use writ_protocol::hello::JournalStanding;
use writ_protocol::id::{AgentId, CommandId, Digest, FleetId, JournalId, SessionMark};
use writ_protocol::identity::IdentityRecord;
use writ_protocol::keys::{Agent, Algorithm, PrivateKey, PublicKey};
use writ_protocol::manager::TaskState;
use writ_protocol::receipt::RefusalRecord;
use writ_protocol::receipt::RefusalReport;
use writ_protocol::refusal::RefusalCode;
use writ_protocol::report::ReportedSchema;
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use super::rows::Noted;
use super::rules::restore::Readmission;
use super::rules::rollout::{Plan, Standing};
use super::*;
use crate::selector::Selector;

/// A store and what it lives in.
struct Fixture {
    store: Store,
    /// Where it is found again.
    place: PathBuf,
    folder: tempfile::TempDir,
    shutdown: Shutdown,
}

/// A store in a file of its own.
async fn sqlite() -> Fixture {
    let (folder, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
    let place = folder.path().join("writ.db");
    let store = Store::make(&place, &shutdown).await.unwrap();
    Fixture { store, place, folder, shutdown }
}

/// Each test of the suite against each database.
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::sqlite().await).await;
            })*
        }
    };
}

suite!(
    a_fleet_is_made_once_and_found_again,
    a_restored_fleet_knows_agents_again_but_none_that_was_removed,
    a_bundle_follows_the_head_or_nothing_is_published,
    bundles_of_other_chains_are_kept_up_to_a_bound_with_who_holds_them,
    a_backup_that_was_proven_stays_proven,
    a_token_lets_in_as_often_as_it_says_and_its_key_again,
    tokens_are_listed_found_by_their_first_digits_and_revoked,
    a_command_is_recorded_once_with_the_call_that_asked_for_it,
    what_waits_is_told_until_it_is_sent_answered_cancelled_or_expired,
    commands_are_listed_by_who_what_when_for_whom_and_how_they_stand,
    a_rollout_is_kept_with_its_command_and_found_until_it_is_over_and_expired,
    the_first_receipt_counts_and_others_are_kept_with_an_alert,
    a_journal_that_goes_back_holds_its_agent_until_an_operator_decides,
    what_an_agent_says_while_it_stays_is_kept_and_an_older_session_changes_nothing,
    agents_are_chosen_by_what_is_known_of_them,
    selectors_are_saved_replaced_and_forgotten_up_to_a_bound,
    an_agent_that_replaces_another_has_its_name_and_labels,
    an_alert_is_one_row_however_often_it_is_raised,
    a_refusal_report_is_counted_once,
    what_the_control_manager_said_is_taken_once_and_told_until_it_was_heard,
    time_goes_forward_unless_an_operator_accepts_it,
    the_last_administrator_stays,
    calls_make_chains_and_what_only_reads_is_bounded,
);

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn later(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn agent_id(byte: u8) -> AgentId {
    AgentId::from_bytes([byte; 16])
}

fn command_id(byte: u8) -> CommandId {
    CommandId::from_bytes([byte; 16])
}

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn key() -> PublicKey {
    PrivateKey::<Agent>::generate(Algorithm::Ed25519).public().clone()
}

fn call(log: AuditLog, max_entries: u64) -> NewAudit {
    NewAudit {
        log,
        at: NOW,
        actor: "anna".to_owned(),
        role: "admin",
        method: "/writ.admin.v1.CommandService/Submit",
        request: None,
        subject: String::new(),
        sent: None,
        outcome: "ok",
        max_entries,
    }
}

async fn make_token(store: &Store, token: Digest, uses: u32) {
    let (realm, created_by) = ("prod".to_owned(), "anna".to_owned());
    let new = NewToken { token, realm, uses, expires_at: later(3600), created_by };
    store.create_enrolment_token(new).await.unwrap();
}

fn admission(agent: AgentId, name: &str, public_key: PublicKey, token: Digest) -> AgentAdmission {
    AgentAdmission {
        agent,
        name: name.to_owned(),
        public_key,
        identity_record: Bytes::copy_from_slice(agent.as_bytes()),
        token,
        agent_version: "1".to_owned(),
        now: NOW,
    }
}

/// Enrols agents called `web-1`, `web-2`, … with ids that count.
async fn enrol(store: &Store, agents: u8) {
    make_token(store, digest(200), u32::from(agents)).await;
    for number in 1..=agents {
        let name = format!("web-{number}");
        let admitted = store.admit(admission(agent_id(number), &name, key(), digest(200))).await.unwrap();
        assert!(matches!(admitted, TokenUse::Admitted(_)), "{admitted:?}");
    }
}

fn command(byte: u8, targets: &[u8]) -> NewCommand {
    NewCommand {
        id: command_id(byte),
        digest: digest(byte),
        request_digest: digest(byte),
        envelope: Bytes::from_static(b"envelope"),
        action: "ping".to_owned(),
        requested_by: "anna".to_owned(),
        issued_at: NOW,
        expires_at: later(60),
        targets: targets.iter().map(|byte| agent_id(*byte)).collect(),
        rollout: None,
        call: call(AuditLog::Changes, 1000),
    }
}

/// Alerts that are open.
const OPEN: WantedAlerts = WantedAlerts { all: false, since: Timestamp::ZERO };

fn caller(name: &str, role: u8) -> Caller {
    Caller { name: name.to_owned(), role, expires_at: Timestamp::ZERO, scope: Scope::default() }
}

fn new_operator(byte: u8, name: &str, role: u8) -> NewOperator {
    NewOperator { token: digest(byte), caller: caller(name, role), now: NOW }
}

/// Every command.
fn any() -> Wanted {
    let (requested_by, action) = (String::new(), String::new());
    Wanted { requested_by, action, state: None, since: Timestamp::ZERO, agent: None, now: NOW }
}

async fn record(store: &Store, new: NewCommand) {
    let recorded = store.record_command(new).await.unwrap().unwrap();
    assert!(recorded.is_new());
}

fn receipt(command: u8, agent: u8, own: u8, state: TargetState) -> NewReceipt {
    NewReceipt {
        command: command_id(command),
        command_digest: digest(command),
        agent: agent_id(agent),
        counter: (SessionMark::from_bytes([1; 16]), 7),
        digest: digest(own),
        envelope: Bytes::copy_from_slice(&[own]),
        state,
        refused: None,
        listed: None,
        is_replay: false,
        now: NOW,
        tell: |_, _| (),
    }
}

async fn record_receipt(store: &Store, receipt: NewReceipt) -> Result<ReceiptFate, StoreError> {
    store.queue_receipt(receipt).await?.committed().await
}

fn journal(id: u8, counter: u64, marks: &[u8], next: u8) -> JournalStanding {
    let mark = |byte| SessionMark::from_bytes([byte; 16]);
    JournalStanding {
        id: JournalId::from_bytes([id; 16]),
        counter,
        admissions: 0,
        marks: marks.iter().copied().map(mark).collect(),
        next_mark: mark(next),
    }
}

fn contact(agent: u8, at: Timestamp, journal: JournalStanding) -> Contact {
    Contact {
        agent: agent_id(agent),
        at,
        address: "192.0.2.7".to_owned(),
        agent_version: "2".to_owned(),
        bundle: (3, digest(3)),
        journal,
    }
}

async fn come(store: &Store, contact: Contact) -> Noted {
    begin(store, contact).await.noted
}

async fn begin(store: &Store, contact: Contact) -> Beginning {
    let gate = |queue: Box<dyn FnOnce() + Send + '_>| {
        queue();
        true
    };
    store.note_contact(contact, gate).await.unwrap().unwrap()
}

async fn kinds(store: &Store) -> Vec<String> {
    let mut kinds: Vec<_> = store.alert_counts().await.unwrap().into_iter().map(|(kind, _)| kind).collect();
    kinds.sort();
    kinds
}

async fn a_fleet_is_made_once_and_found_again(fixture: Fixture) {
    let Fixture { store, place, folder: _folder, shutdown } = fixture;
    assert_eq!(store.fleet().await.unwrap(), None);
    assert_eq!(Store::find_fleet(&place).await.unwrap(), Found::Missing("holds no fleet".to_owned()));
    let fleet = FleetId::from_bytes([5; 16]);
    let bundles = || vec![(1, digest(1), Bytes::from_static(b"one"))];
    store.create_fleet(fleet, "north".to_owned(), bundles(), digest(9), NOW).await.unwrap();
    let twice = store.create_fleet(fleet, "south".to_owned(), bundles(), digest(8), NOW).await;
    assert!(twice.is_err());
    assert_eq!(store.fleet().await.unwrap(), Some((fleet, "north".to_owned())));
    assert_eq!(store.head().await.unwrap(), Some(digest(1)));
    assert_eq!(store.database().operator(digest(9)).await.unwrap(), Some(caller("admin", 4)));
    assert_eq!(store.database().operator(digest(8)).await.unwrap(), None);
    assert!(!store.is_head_unconfirmed().await.unwrap());
    store.database().clone().close().await;
    drop(store);
    assert!(shutdown.drain(Duration::from_secs(60)).await);
    assert_eq!(Store::find_fleet(&place).await.unwrap(), Found::Present((fleet, "north".to_owned())));
}

async fn a_restored_fleet_knows_agents_again_but_none_that_was_removed(Fixture { store, .. }: Fixture) {
    let decide = async |agent| store.returning(agent_id(agent)).await.unwrap().decide();
    assert_eq!(decide(1).await, Readmission::NotRestored);
    let fleet = (FleetId::from_bytes([5; 16]), "north".to_owned());
    let bundles = vec![(1, digest(1), Bytes::from_static(b"one"))];
    store.restore_fleet(fleet, bundles, vec![agent_id(2)], digest(9), NOW).await.unwrap();
    assert!(store.is_head_unconfirmed().await.unwrap());
    assert_eq!(decide(1).await, Readmission::Possible);
    assert_eq!(decide(2).await, Readmission::Removed);
    let record = IdentityRecord {
        fleet: FleetId::from_bytes([5; 16]),
        agent: agent_id(1),
        public_key: key(),
        name: "web-1".to_owned(),
        realm: "prod".to_owned(),
        recorded_at: NOW,
    };
    store.readmit(record, Bytes::from_static(b"record"), later(1)).await.unwrap();
    let known = store.agent(agent_id(1), NOW).await.unwrap().unwrap();
    assert_eq!((known.name.as_str(), known.realm.as_str()), ("web-1", "prod"));
    // What a later backup lacks is added; what was removed stays removed.
    store
        .record_restore(vec![(2, digest(2), Bytes::from_static(b"two"))], vec![agent_id(2)], later(2))
        .await
        .unwrap();
    assert_eq!(store.head().await.unwrap(), Some(digest(2)));
    assert_eq!(store.removed_agents().await.unwrap(), [agent_id(2)]);
    store.confirm_head().await.unwrap();
    assert!(!store.is_head_unconfirmed().await.unwrap());
}

async fn a_bundle_follows_the_head_or_nothing_is_published(Fixture { store, .. }: Fixture) {
    let bundles = vec![(1, digest(1), Bytes::from_static(b"one"))];
    store
        .create_fleet(FleetId::from_bytes([5; 16]), "north".to_owned(), bundles, digest(9), NOW)
        .await
        .unwrap();
    let two = || vec![(2, digest(2), Bytes::from_static(b"two"))];
    let changes = async || store.database().ends(AuditLog::Changes).await.unwrap();
    assert!(!store.publish(two(), digest(7), Some(call(AuditLog::Changes, 9))).await.unwrap());
    assert_eq!((store.head().await.unwrap(), changes().await), (Some(digest(1)), (0, 0)));
    assert!(store.publish(two(), digest(1), Some(call(AuditLog::Changes, 9))).await.unwrap());
    assert_eq!((store.head().await.unwrap(), changes().await), (Some(digest(2)), (1, 1)));
    assert!(!store.publish(two(), digest(1), None).await.unwrap(), "somebody else was quicker");
    let chain: Vec<_> = store.bundles().await.unwrap().into_iter().map(|(digest, _)| digest).collect();
    assert_eq!(chain, [digest(1), digest(2)]);
}

async fn bundles_of_other_chains_are_kept_up_to_a_bound_with_who_holds_them(Fixture { store, .. }: Fixture) {
    enrol(&store, 3).await;
    come(&store, contact(1, NOW, journal(1, 0, &[], 1))).await;
    let fork = |number: u8| (u64::from(number), digest(number), Bytes::copy_from_slice(&[number]));
    store.note_forks((1..=70).map(fork).collect()).await.unwrap();
    store.note_forks(vec![fork(3)]).await.unwrap();
    let forks = store.forks().await.unwrap();
    assert_eq!(forks.len(), usize::try_from(MAX_FORKS).unwrap());
    assert_eq!((forks[0].version, forks[0].agents), (64, 0), "newest first");
    assert_eq!(forks.iter().find(|fork| fork.digest == digest(3)).map(|fork| fork.agents), Some(1));
    let holders = store.bundle_holders().await.unwrap();
    let told: Vec<_> = holders.iter().map(|held| (held.version, held.digest, held.agents)).collect();
    assert_eq!(told, [(3, Some(digest(3)), 1), (0, None, 2)]);
    // An agent that never said what it holds is behind.
    let behind = async |after, limit| {
        let page = store.behind(digest(3), after, limit).await.unwrap();
        page.into_iter().map(|row| (row.id, row.digest)).collect::<Vec<_>>()
    };
    assert_eq!(behind(None, 1).await, [(agent_id(2), None)]);
    assert_eq!(behind(Some(agent_id(2)), 9).await, [(agent_id(3), None)]);
    assert_eq!(store.behind(digest(4), None, 9).await.unwrap().len(), 3);
}

async fn a_backup_that_was_proven_stays_proven(Fixture { store, .. }: Fixture) {
    let backup = |path: &str, proven_at| BackupRow {
        digest: digest(1),
        path: path.to_owned(),
        bundle_version: 4,
        made_at: NOW,
        proven_at,
    };
    for (path, proven_at) in [("a", Timestamp::ZERO), ("b", later(5)), ("c", Timestamp::ZERO)] {
        store.note_backup(backup(path, proven_at)).await.unwrap();
    }
    let backups = store.backups().await.unwrap();
    assert_eq!(backups.len(), 1);
    assert_eq!((backups[0].path.as_str(), backups[0].proven_at), ("c", later(5)));
}

async fn a_token_lets_in_as_often_as_it_says_and_its_key_again(Fixture { store, .. }: Fixture) {
    make_token(&store, digest(1), 2).await;
    let first = key();
    let admit = async |agent, name, key: &PublicKey, token| {
        store.admit(admission(agent_id(agent), name, key.clone(), digest(token))).await.unwrap()
    };
    let record = |agent| TokenUse::Admitted(Bytes::copy_from_slice(agent_id(agent).as_bytes()));
    assert_eq!(admit(1, "web-1", &first, 1).await, record(1));
    assert_eq!(admit(2, "web-1", &first, 1).await, record(1), "the same key gets the same record");
    assert_eq!(admit(2, "web-1", &first, 7).await, TokenUse::Refused, "its key with another token");
    assert!(kinds(&store).await.is_empty());
    assert_eq!(admit(3, "web-1", &key(), 1).await, record(3));
    assert_eq!(kinds(&store).await, ["same_name"]);
    assert_eq!(admit(4, "web-4", &key(), 1).await, TokenUse::Refused, "spent");
    assert_eq!(store.count_agents().await.unwrap(), 2);
    assert_eq!(store.enrolment_tokens(u64::MAX, 9).await.unwrap()[0].uses, 2);
    assert_eq!(store.agents_named("web-1", NOW).await.unwrap().len(), 2);
    // Spent ones have a realm as long as they have not ended: their own agents may ask again.
    assert_eq!(store.enrolment_realm(digest(1), NOW).await.unwrap().as_deref(), Some("prod"));
    assert_eq!(store.enrolment_realm(digest(1), later(3600)).await.unwrap(), None);
}

async fn tokens_are_listed_found_by_their_first_digits_and_revoked(Fixture { store, .. }: Fixture) {
    for byte in [0xab, 0x07, 0xac] {
        make_token(&store, digest(byte), 1).await;
    }
    let listed = async |before, limit| {
        let rows = store.enrolment_tokens(before, limit).await.unwrap();
        rows.into_iter().map(|row| (row.sequence, row.token)).collect::<Vec<_>>()
    };
    assert_eq!(listed(u64::MAX, 2).await, [(3, digest(0xac)), (2, digest(0x07))]);
    assert_eq!(listed(2, 2).await, [(1, digest(0xab))]);
    let like = async |prefix| store.enrolment_tokens_like(prefix).await.unwrap().len();
    assert_eq!((like("a").await, like("AB").await, like("b").await, like("x").await), (2, 1, 0, 0));
    store.revoke_enrolment_token(digest(7), later(1)).await.unwrap();
    store.revoke_enrolment_token(digest(7), later(2)).await.unwrap();
    assert_eq!(store.enrolment_tokens_like("07").await.unwrap()[0].revoked_at, later(1));
    assert_eq!(store.enrolment_realm(digest(7), NOW).await.unwrap(), None);
}

async fn a_command_is_recorded_once_with_the_call_that_asked_for_it(Fixture { store, .. }: Fixture) {
    enrol(&store, 2).await;
    record(&store, command(1, &[1, 2])).await;
    let again = store.record_command(command(1, &[1, 2])).await.unwrap().unwrap();
    assert!(!again.is_new());
    let other = NewCommand { request_digest: digest(9), ..command(1, &[1]) };
    assert!(store.record_command(other).await.unwrap().is_none());
    assert_eq!(store.request_of(command_id(1)).await.unwrap(), Some(digest(1)));
    assert_eq!(store.database().ends(AuditLog::Changes).await.unwrap(), (1, 1));
    let row = store.command(command_id(1)).await.unwrap().unwrap();
    assert_eq!((row.sequence, row.action.as_str(), row.cancelled_at), (1, "ping", Timestamp::ZERO));
    record(&store, command(2, &[2])).await;
    let listed: Vec<_> =
        store.commands(u64::MAX, 9, any()).await.unwrap().0.into_iter().map(|row| row.id).collect();
    assert_eq!(listed, [command_id(2), command_id(1)]);
    let page = store.targets(command_id(1), 1, 9).await.unwrap();
    assert_eq!((page.len(), page[0].place, page[0].agent), (1, 1, agent_id(2)));
    assert_eq!(store.evidence_targets(command_id(1), 0, 9).await.unwrap().len(), 2);
    assert_eq!(store.envelope(command_id(1)).await.unwrap().unwrap().targets, [agent_id(1), agent_id(2)]);
    assert!(store.envelope(command_id(9)).await.unwrap().is_none());
}

async fn what_waits_is_told_until_it_is_sent_answered_cancelled_or_expired(Fixture { store, .. }: Fixture) {
    enrol(&store, 2).await;
    for byte in 1..=3 {
        record(&store, command(byte, &[1, 2])).await;
    }
    let mut changes = store.watch();
    let waiting = async |agent, after, now| {
        let rows = store.waiting(agent_id(agent), after, 9, now).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(waiting(1, 1, NOW).await, [command_id(2), command_id(3)]);
    assert!(waiting(1, 0, later(60)).await.is_empty(), "expired");
    assert_eq!(store.backlog(NOW).await.unwrap(), (6, NOW));
    store.note_sent(command_id(1), vec![0]).await.unwrap();
    store.cancel(command_id(2), later(1)).await.unwrap();
    store.cancel(command_id(2), later(2)).await.unwrap();
    record_receipt(&store, receipt(3, 1, 50, TargetState::Done)).await.unwrap();
    assert_eq!(waiting(1, 0, NOW).await, [command_id(1)], "sent is not answered");
    assert_eq!(waiting(2, 0, NOW).await, [command_id(1), command_id(3)]);
    let told: Vec<_> = [(); 4].iter().map(|()| changes.try_recv().unwrap()).collect();
    assert_eq!(told, [1, 2, 2, 3].map(command_id));
    let progress = store.progress(command_id(1)).await.unwrap();
    assert_eq!((progress.targets, progress.delivered, progress.waiting), (2, 1, 1));
    assert_eq!(store.progress(command_id(2)).await.unwrap().cancelled, 2);
    assert_eq!(store.command(command_id(2)).await.unwrap().unwrap().cancelled_at, later(1));
    let queued: Vec<_> = store.queued(0, 9, NOW).await.unwrap().into_iter().map(|row| row.id).collect();
    assert_eq!(queued, [command_id(1), command_id(3)]);
    assert!(store.is_unanswered(command_id(1), agent_id(1), NOW).await.unwrap());
    assert!(!store.is_unanswered(command_id(3), agent_id(1), NOW).await.unwrap());
    assert!(!store.is_unanswered(command_id(1), agent_id(9), NOW).await.unwrap());
    store.replace_envelope(command_id(1), digest(1), Bytes::from_static(b"new")).await.unwrap();
    store.replace_envelope(command_id(3), digest(9), Bytes::from_static(b"other payload")).await.unwrap();
    assert_eq!(store.envelope(command_id(1)).await.unwrap().unwrap().envelope, "new");
    assert_eq!(store.envelope(command_id(3)).await.unwrap().unwrap().envelope, "envelope");
    // A session begins with what waits, and looks for nothing else.
    let begun = async |agent, now| {
        let begun = begin(&store, contact(agent, now, journal(agent, 3, &[], agent))).await;
        (begun.has_waiting, begun.is_removed)
    };
    assert_eq!(begun(1, NOW).await, (true, false));
    assert_eq!(begun(1, later(60)).await, (false, false), "expired");
    // One that was sent just before it was cancelled was sent.
    store.note_sent(command_id(2), vec![1]).await.unwrap();
    let progress = store.progress(command_id(2)).await.unwrap();
    assert_eq!((progress.delivered, progress.cancelled), (1, 1));
}

async fn commands_are_listed_by_who_what_when_for_whom_and_how_they_stand(Fixture { store, .. }: Fixture) {
    enrol(&store, 2).await;
    let restart = "restart unit=nginx".to_owned();
    record(&store, NewCommand { requested_by: "vera".to_owned(), ..command(1, &[1]) }).await;
    record(&store, NewCommand { action: restart, issued_at: later(5), ..command(2, &[1, 2]) }).await;
    record(&store, command(3, &[2])).await;
    record_receipt(&store, receipt(1, 1, 11, TargetState::Done)).await.unwrap();
    record_receipt(&store, receipt(2, 1, 12, TargetState::Failed)).await.unwrap();
    store.cancel(command_id(3), later(1)).await.unwrap();
    let listed = async |wanted: Wanted| {
        let (rows, next) = store.commands(u64::MAX, 9, wanted).await.unwrap();
        assert_eq!(next, None, "nothing older is left");
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let [one, two, three] = [1, 2, 3].map(command_id);
    assert_eq!(listed(any()).await, [three, two, one]);
    assert_eq!(listed(Wanted { requested_by: "vera".to_owned(), ..any() }).await, [one]);
    assert_eq!(listed(Wanted { action: "restart".to_owned(), ..any() }).await, [two]);
    assert!(listed(Wanted { action: "rest".to_owned(), ..any() }).await.is_empty());
    assert_eq!(listed(Wanted { since: later(5), ..any() }).await, [two]);
    assert_eq!(listed(Wanted { agent: Some(agent_id(1)), ..any() }).await, [two, one]);
    let of = |state, now| Wanted { state: Some(state), now, ..any() };
    assert_eq!(listed(of(WantedState::Open, NOW)).await, [two]);
    assert_eq!(listed(of(WantedState::Expired, later(60))).await, [two]);
    assert_eq!(listed(of(WantedState::Done, NOW)).await, [one]);
    assert_eq!(listed(of(WantedState::Failed, NOW)).await, [two]);
    assert_eq!(listed(of(WantedState::Cancelled, NOW)).await, [three]);
    let tail = one.as_bytes()[12..].to_vec();
    assert_eq!(store.commands_ending(tail).await.unwrap(), [one]);
}

async fn a_rollout_is_kept_with_its_command_and_found_until_it_is_over_and_expired(
    Fixture { store, .. }: Fixture,
) {
    enrol(&store, 3).await;
    let plan = Plan {
        canary: 1,
        batch: 2,
        pause: Duration::from_secs(5),
        max_failures: 1,
        rate: 7,
        window: Some("22:00-04:00".parse().unwrap()),
        start_at: NOW,
        patience: Duration::from_secs(9),
    };
    let seed = Seed::new(4711).unwrap();
    record(&store, NewCommand { rollout: Some(Box::new((seed, plan.clone()))), ..command(1, &[2, 1, 3]) })
        .await;
    record(&store, command(2, &[1])).await;
    let row = store.rollout(command_id(1)).await.unwrap().unwrap();
    assert_eq!((&row.plan, row.seed, row.targets, row.digest), (&plan, seed, 3, digest(1)));
    assert!(store.rollout(command_id(2)).await.unwrap().is_none());
    let standing = Standing { state: RolloutState::Stopped, wave: 1, released: 2, forgiven: 1 };
    let (reason, release) = ("two failed".to_owned(), Bytes::from_static(b"release"));
    let next = RolloutRow { standing, reason, wave_ended_at: later(3), release: release.clone(), ..row };
    store.keep_rollout(&next).await.unwrap();
    let held = store.rollouts(u64::MAX, 9).await.unwrap().remove(0);
    assert_eq!((held.standing, held.reason.as_str(), held.release), (standing, "two failed", release));
    let stored = store.envelope(command_id(1)).await.unwrap().unwrap();
    assert_eq!(stored.targets, [agent_id(2), agent_id(1), agent_id(3)]);
    assert_eq!(stored.rollout.unwrap().0, seed);
    record_receipt(&store, receipt(1, 2, 11, TargetState::Refused)).await.unwrap();
    let answers = store.answers(command_id(1), 2, 0).await.unwrap();
    let open: Vec<_> = answers.open.iter().map(|open| (open.place, open.agent, open.is_sent)).collect();
    assert_eq!(open, [(1, agent_id(1), false)]);
    assert_eq!((answers.done, answers.failed, answers.tried), (0, 1, 1));
    assert_eq!(store.answers(command_id(1), 2, 1).await.unwrap().tried, 0, "of the present wave nobody has");
    assert_eq!(store.live_rollouts(later(9999)).await.unwrap().len(), 1);
    let over = Standing { state: RolloutState::Finished, ..standing };
    store.keep_rollout(&RolloutRow { standing: over, ..next }).await.unwrap();
    assert_eq!(store.live_rollouts(NOW).await.unwrap().len(), 1, "agents that are away may still get it");
    assert!(store.live_rollouts(later(9999)).await.unwrap().is_empty());
}

async fn the_first_receipt_counts_and_others_are_kept_with_an_alert(Fixture { store, .. }: Fixture) {
    enrol(&store, 2).await;
    come(&store, contact(1, NOW, journal(1, 3, &[], 1))).await;
    record(&store, command(1, &[1])).await;
    // Two of one target at the same moment are in one batch most likely: one counts, whatever the order.
    let (first, second) = tokio::join!(
        record_receipt(&store, receipt(1, 1, 50, TargetState::Done)),
        record_receipt(&store, receipt(1, 1, 51, TargetState::Failed))
    );
    assert_eq!((first.unwrap(), second.unwrap()), (ReceiptFate::Stored, ReceiptFate::Contradicts));
    let fate = async |receipt| record_receipt(&store, receipt).await.unwrap();
    assert_eq!(fate(receipt(1, 1, 50, TargetState::Done)).await, ReceiptFate::Known);
    assert_eq!(fate(receipt(1, 2, 52, TargetState::Done)).await, ReceiptFate::Unsolicited);
    let replay = NewReceipt { is_replay: true, ..receipt(1, 1, 53, TargetState::Failed) };
    assert_eq!(fate(replay).await, ReceiptFate::Known);
    assert_eq!(kinds(&store).await, ["contradicted", "unsolicited"]);
    let target = &store.targets(command_id(1), 0, 1).await.unwrap()[0];
    assert_eq!((target.state, target.receipt.as_deref()), (TargetState::Done, Some([50].as_slice())));
    // How far the journal was is known by the receipt, too.
    let back = come(&store, contact(1, later(9), journal(1, 6, &[1], 2))).await;
    assert!(back.held.unwrap().contains("it stood at 7"));
}

async fn a_journal_that_goes_back_holds_its_agent_until_an_operator_decides(Fixture { store, .. }: Fixture) {
    enrol(&store, 1).await;
    // Two sessions at the same moment are in one batch most likely: the second is judged by the first.
    let gate = |queue: Box<dyn FnOnce() + Send + '_>| {
        queue();
        true
    };
    let (first, second) = tokio::join!(
        store.note_contact(contact(1, later(1), journal(1, 5, &[], 1)), gate),
        store.note_contact(contact(1, later(2), journal(1, 4, &[1], 2)), gate)
    );
    assert_eq!(first.unwrap().unwrap().noted.held, None);
    let second = second.unwrap().unwrap().noted;
    assert!(second.held.is_some());
    assert_eq!(second.commands_from, later(2));
    assert_eq!(kinds(&store).await, ["rewound"]);
    let known = store.known_agent(agent_id(1)).await.unwrap().unwrap();
    assert_eq!(known.held, second.held);
    store.approve_agent(agent_id(1), None, later(3)).await.unwrap();
    assert_eq!(store.known_agent(agent_id(1)).await.unwrap().unwrap().held, None);
    let third = come(&store, contact(1, later(4), journal(1, 6, &[2, 1], 3))).await;
    assert_eq!((third.held, third.commands_from), (None, later(2)));
    let renewed = come(&store, contact(1, later(5), journal(9, 0, &[], 4))).await;
    assert_eq!((renewed.held, renewed.commands_from), (None, later(5)));
    let back = come(&store, contact(1, later(6), journal(1, 9, &[3], 5))).await;
    assert!(back.held.unwrap().contains("given up"));
    let refused = store.note_contact(contact(1, later(7), journal(1, 9, &[3], 5)), |_| false).await.unwrap();
    assert!(refused.is_none(), "the gate left it be");
}

async fn what_an_agent_says_while_it_stays_is_kept_and_an_older_session_changes_nothing(
    Fixture { store, .. }: Fixture,
) {
    enrol(&store, 1).await;
    come(&store, contact(1, NOW, journal(1, 0, &[], 1))).await;
    let sign = |mark, admissions, at, report| SignOfLife {
        agent: agent_id(1),
        at,
        admissions: (SessionMark::from_bytes([mark; 16]), admissions),
        report,
    };
    let restart = || ListedAction {
        name: "restart".to_owned(),
        class: ActionClass::Change,
        schema: ReportedSchema::from_wire(Bytes::from_static(b"any bytes")),
    };
    let report = |facts: &[(&str, &str)]| Report {
        bundle: (4, digest(4)),
        settings_revision: 2,
        actions: vec![restart()],
        facts: facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    store.note_heard(sign(1, 3, later(5), Some(report(&[("os", "linux"), ("cpus", "2")])))).await.unwrap();
    store.note_heard(sign(9, 99, later(50), None)).await.unwrap();
    let row = store.agent(agent_id(1), NOW).await.unwrap().unwrap();
    assert_eq!((row.last_contact, row.reported_at, row.bundle_version), (later(5), later(5), 4));
    assert_eq!(row.actions, [restart()]);
    let facts = |row: &AgentRow| {
        let facts = row.attributes.iter().filter(|attribute| attribute.source == AttributeSource::Fact);
        facts.map(|fact| format!("{}={}", fact.name, fact.value)).collect::<Vec<_>>()
    };
    assert_eq!(facts(&row), ["cpus=2", "os=linux"]);
    store.note_heard(sign(1, 3, later(6), Some(report(&[("os", "linux")])))).await.unwrap();
    let row = store.agent(agent_id(1), NOW).await.unwrap().unwrap();
    assert_eq!((row.reported_at, facts(&row)), (later(6), vec!["os=linux".to_owned()]));
    let tables = store.action_tables(&[agent_id(1)], None).await.unwrap();
    assert_eq!((tables.len(), tables[0].actions.len()), (1, 1));
    let tables = store.action_tables(&[agent_id(1)], Some("rest")).await.unwrap();
    assert_eq!((tables[0].actions.len(), tables[0].has_reported), (0, true));
    // The host that comes back has admitted fewer than its session announced.
    let back = come(&store, contact(1, later(9), journal(1, 0, &[1], 2))).await;
    assert!(back.held.unwrap().contains("it stood at 0 with 3"));
}

async fn agents_are_chosen_by_what_is_known_of_them(Fixture { store, .. }: Fixture) {
    enrol(&store, 4).await;
    let set = |agent, name: &str, value: &str| LabelChange {
        agents: vec![agent_id(agent)],
        set: vec![(name.to_owned(), value.to_owned())],
        remove: Vec::new(),
    };
    let all = vec![set(1, "site", "paris"), set(2, "site", "rome"), set(3, "site", "oslo")];
    assert_eq!(store.label(all.clone()).await.unwrap(), Ok(3));
    assert_eq!(store.label(all).await.unwrap(), Ok(0), "they have them");
    let remove = vec!["site".to_owned(), "realm".to_owned()];
    let change = LabelChange { agents: vec![agent_id(3)], set: Vec::new(), remove };
    assert_eq!(store.label(vec![change]).await.unwrap(), Ok(1));
    // Of none, when one of them would have too many.
    let many = (0..=MAX_LABELS).map(|number| (format!("n{number}"), String::new())).collect();
    let many = LabelChange { agents: vec![agent_id(2)], set: many, remove: Vec::new() };
    assert_eq!(store.label(vec![set(1, "site", "lima"), many]).await.unwrap(), Err(agent_id(2)));
    let chosen = async |selector: &str| {
        let selector = selector.parse::<Selector>().unwrap();
        let ids = store.agent_ids(Some(&selector)).await.unwrap();
        let page = store.agents((Membership::Present, Some(&selector)), None, 9, NOW).await.unwrap();
        assert_eq!(ids, page.iter().map(|row| row.id).collect::<Vec<_>>());
        ids.iter().map(|id| id.as_bytes()[0]).collect::<Vec<_>>()
    };
    assert_eq!(chosen("site in (paris,rome)").await, [1, 2]);
    assert_eq!(chosen("site").await, [1, 2]);
    assert_eq!(chosen("site in (p*s,*z*)").await, [1]);
    assert_eq!(chosen("site=*").await, [1, 2]);
    assert_eq!(chosen("site!=*o*").await, [1, 3, 4]);
    assert_eq!(chosen("site in (?ome,[pr]*,rome)").await, [2], "only the star means something");
    assert_eq!(chosen("held").await, [0; 0]);
    assert_eq!(chosen("!held,site").await, [1, 2]);
    assert_eq!(chosen("!site").await, [3, 4]);
    assert_eq!(chosen("site!=paris").await, [2, 3, 4]);
    assert_eq!(chosen("realm=prod,site=rome").await, [2]);
    assert_eq!(chosen("realm=prod").await, [1, 2, 3, 4], "what its record says is no label");
    let page = store.agents((Membership::Present, None), Some(agent_id(2)), 1, NOW).await.unwrap();
    assert_eq!(page.iter().map(|row| row.id).collect::<Vec<_>>(), [agent_id(3)]);
    record(&store, command(1, &[4])).await;
    assert_eq!(store.agent(agent_id(4), NOW).await.unwrap().unwrap().waiting, 1);
    store.remove_agent(agent_id(4), later(1)).await.unwrap();
    store.remove_agent(agent_id(4), later(2)).await.unwrap();
    assert_eq!(chosen("!site").await, [3]);
    let removed = store.agents((Membership::Removed, None), None, 9, NOW).await.unwrap();
    assert_eq!((removed.len(), removed[0].removed_at, removed[0].waiting), (1, later(1), 0));
    assert_eq!(store.count_agents().await.unwrap(), 3);
    assert_eq!(store.shared_name(&"name=web-1".parse().unwrap()).await.unwrap(), None);
    make_token(&store, digest(1), 1).await;
    store.admit(admission(agent_id(9), "web-1", key(), digest(1))).await.unwrap();
    let shared = store.shared_name(&"name in (web-1,web-2)".parse().unwrap()).await.unwrap();
    assert_eq!(shared.as_deref(), Some("web-1"));
    assert_eq!(store.shared_name(&"site=rome".parse().unwrap()).await.unwrap(), None);
}

async fn selectors_are_saved_replaced_and_forgotten_up_to_a_bound(Fixture { store, .. }: Fixture) {
    let save = async |name: String, selector: &str| {
        let saved_by = "anna".to_owned();
        store
            .save_selector(SavedSelector { name, selector: selector.to_owned(), saved_by, saved_at: NOW })
            .await
            .unwrap()
    };
    for number in 0..MAX_SAVED_SELECTORS {
        assert!(save(format!("n{number}"), "site=rome").await);
    }
    assert!(!save("web".to_owned(), "site=rome").await, "there is no room");
    assert!(save("n1".to_owned(), "site=oslo").await, "one of the name is replaced");
    assert_eq!(store.saved_selector("n1").await.unwrap().unwrap().selector, "site=oslo");
    assert!(store.saved_selector("web").await.unwrap().is_none());
    assert!(store.delete_selector("n1").await.unwrap() && !store.delete_selector("n1").await.unwrap());
    assert!(save("web".to_owned(), "site=rome").await);
    let saved = store.saved_selectors().await.unwrap();
    let names: Vec<_> = saved.iter().map(|saved| saved.name.as_str()).collect();
    assert!(names.is_sorted() && names.contains(&"web") && !names.contains(&"n1"));
}

async fn an_agent_that_replaces_another_has_its_name_and_labels(Fixture { store, .. }: Fixture) {
    enrol(&store, 2).await;
    let label = |agent, name: &str| LabelChange {
        agents: vec![agent_id(agent)],
        set: vec![(name.to_owned(), "yes".to_owned())],
        remove: Vec::new(),
    };
    assert_eq!(store.label(vec![label(1, "old"), label(2, "new")]).await.unwrap(), Ok(2));
    record(&store, command(1, &[1])).await;
    store.approve_agent(agent_id(2), Some(agent_id(1)), later(1)).await.unwrap();
    let row = store.agent(agent_id(2), NOW).await.unwrap().unwrap();
    let told: Vec<_> = row.attributes.iter().map(|held| format!("{}={}", held.name, held.value)).collect();
    assert_eq!(
        (row.name.as_str(), told),
        ("web-1", ["name=web-1", "old=yes", "realm=prod"].map(str::to_owned).to_vec())
    );
    assert!(store.known_agent(agent_id(1)).await.unwrap().unwrap().is_removed);
    assert!(begin(&store, contact(1, NOW, journal(1, 3, &[], 1))).await.is_removed);
    assert_eq!(store.progress(command_id(1)).await.unwrap().cancelled, 1);
    store.renew_record(agent_id(2), Bytes::from_static(b"renewed")).await.unwrap();
}

async fn an_alert_is_one_row_however_often_it_is_raised(Fixture { store, .. }: Fixture) {
    enrol(&store, 1).await;
    let alarm = |agent, count, detail: &str| Alarm {
        kind: AlertKind::Lost,
        code: "",
        agent,
        count,
        detail: detail.to_owned(),
    };
    for (count, detail) in [(1, "one"), (u64::MAX / 4, "two"), (u64::MAX / 4, "three")] {
        store.raise(alarm(agent_id(1), count, detail), None, NOW).await.unwrap();
    }
    store
        .raise(alarm(SERVER, 1, "here"), Some((digest(1), Bytes::from_static(b"proof"))), later(1))
        .await
        .unwrap();
    let rows = store.alerts(0, 9, OPEN).await.unwrap();
    let told: Vec<_> =
        rows.iter().map(|row| (row.agent_name.as_str(), row.detail.as_str(), row.count)).collect();
    let most = writ_protocol::limits::MAX_REFUSALS_COUNTED;
    assert_eq!(told, [("", "here", 1), ("web-1", "three", most)]);
    assert_eq!(store.alerts(1, 9, OPEN).await.unwrap().len(), 1);
    let all = WantedAlerts { all: true, since: Timestamp::ZERO };
    let open = async |wanted| store.alerts(0, 9, wanted).await.unwrap().len();
    store.end_alert(AlertKind::Lost, SERVER, later(2)).await.unwrap();
    let seen = store.acknowledge_alert(rows[1].id, "anna".to_owned(), "a test".to_owned(), later(3)).await;
    let seen = seen.unwrap().unwrap();
    assert_eq!((seen.acknowledged_by.as_str(), seen.note.as_str()), ("anna", "a test"));
    assert!(store.acknowledge_alert(99, String::new(), String::new(), NOW).await.unwrap().is_none());
    assert_eq!((open(OPEN).await, open(all).await), (0, 2));
    assert_eq!(open(WantedAlerts { since: later(1), ..all }).await, 1);
    store.raise(alarm(SERVER, 1, "here"), None, later(4)).await.unwrap();
    assert_eq!(open(OPEN).await, 1, "raised again, it is open again");
    store.raise(alarm(agent_id(1), 1, "three"), None, later(4)).await.unwrap();
    let counted = store.alert_counts().await.unwrap();
    assert_eq!(store.alerts_of(agent_id(1), 9).await.unwrap()[0].detail, "three");
    assert_eq!(counted, [("lost".to_owned(), 1_000_002)]);
}

async fn a_refusal_report_is_counted_once(Fixture { store, .. }: Fixture) {
    enrol(&store, 1).await;
    let report = || RefusalReport {
        fleet: FleetId::from_bytes([5; 16]),
        agent: agent_id(1),
        sequence: 1,
        reported_at: NOW,
        records: vec![RefusalRecord {
            code: RefusalCode::Expired,
            count: 3,
            first_at: NOW,
            last_at: NOW,
            sample_digest: digest(1),
            sample_keyid: String::new(),
        }],
    };
    for is_new in [true, false] {
        let recorded = store.record_refusals(report(), digest(4), Bytes::from_static(b"report"), NOW).await;
        assert_eq!(recorded.unwrap(), is_new);
    }
    let alerts = store.alerts_of(agent_id(1), 9).await.unwrap();
    assert_eq!((alerts.len(), alerts[0].count, alerts[0].code.as_str()), (1, 3, "expired"));
    assert!(alerts[0].detail.contains("It claimed no key."));
}

async fn what_the_control_manager_said_is_taken_once_and_told_until_it_was_heard(
    Fixture { store, .. }: Fixture,
) {
    let documents = vec![("saved", Some("one".to_owned())), ("gone", Some("two".to_owned()))];
    store.put_manager_documents(documents).await.unwrap();
    store.put_manager_documents(vec![("saved", Some("three".to_owned())), ("gone", None)]).await.unwrap();
    assert_eq!(store.manager_document("saved").await.unwrap().as_deref(), Some("three"));
    assert_eq!(store.manager_document("gone").await.unwrap(), None);
    assert_eq!(store.next_manager_counter(true, NOW).await.unwrap(), NOW.as_millis());
    assert_eq!(store.next_manager_counter(false, NOW).await.unwrap(), NOW.as_millis() + 1);
    let taken = |sequence: u64| TakenRow {
        epoch: 7,
        sequence,
        instruction: Bytes::from_static(b"task"),
        command: command_id(1),
        state: TaskState::InProgress,
        detail: String::new(),
    };
    for sequence in 1..=3 {
        store.take_instruction(taken(sequence), NOW).await.unwrap();
    }
    assert!(store.take_instruction(taken(3), NOW).await.is_err());
    assert_eq!((store.last_taken(7).await.unwrap(), store.last_taken(8).await.unwrap()), (3, 0));
    let numbers = |rows: Vec<TakenRow>| rows.into_iter().map(|row| row.sequence).collect::<Vec<_>>();
    assert_eq!(numbers(store.unacted(7, 9).await.unwrap()), [1, 2, 3]);
    store.note_taken((7, 1), TaskState::InProgress, "runs".to_owned()).await.unwrap();
    store.note_taken((7, 2), TaskState::Successful, "done".to_owned()).await.unwrap();
    assert_eq!(numbers(store.going_on(7, 0, 9).await.unwrap()), [1]);
    assert_eq!(numbers(store.unreported(7, 9).await.unwrap()), [2]);
    assert_eq!(numbers(store.unacted(7, 9).await.unwrap()), [3]);
    assert_eq!(store.count_unreported(7).await.unwrap(), 3);
    store.note_reported(7, vec![2]).await.unwrap();
    assert!(store.unreported(7, 9).await.unwrap().is_empty());
    assert_eq!(store.count_unreported(7).await.unwrap(), 2);
}

async fn time_goes_forward_unless_an_operator_accepts_it(Fixture { store, .. }: Fixture) {
    assert_eq!(store.latest_time().await.unwrap(), Timestamp::ZERO);
    for (now, is_accepted, latest) in [(later(5), false, later(5)), (NOW, false, later(5)), (NOW, true, NOW)]
    {
        store.note_time(now, is_accepted).await.unwrap();
        assert_eq!(store.latest_time().await.unwrap(), latest);
    }
    assert!(store.is_writing());
}

async fn the_last_administrator_stays(Fixture { store, .. }: Fixture) {
    let operators = store.database();
    for (byte, name, role) in [(1, "anna", 4), (2, "bert", 4), (3, "carl", 2)] {
        assert!(operators.create_operator(new_operator(byte, name, role)).await.unwrap());
    }
    assert!(!operators.create_operator(new_operator(9, "anna", 1)).await.unwrap(), "given before");
    let revoke = async |name: &str, at| operators.revoke_operator(name.to_owned(), 4, at).await.unwrap();
    assert_eq!(operators.operator(digest(1)).await.unwrap(), Some(caller("anna", 4)));
    assert!(matches!(revoke("anna", later(1)).await, Revocation::Done { is_new: true, .. }));
    assert_eq!(operators.operator(digest(1)).await.unwrap(), None, "at once, though it was remembered");
    assert!(matches!(revoke("anna", later(2)).await, Revocation::Done { is_new: false, .. }));
    assert_eq!(revoke("bert", later(3)).await, Revocation::IsLast);
    assert_eq!(revoke("dora", later(3)).await, Revocation::Unknown);
    assert!(matches!(revoke("carl", later(3)).await, Revocation::Done { .. }));
    let rows = operators.operators("anna".to_owned(), 9).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.revoked_at)).collect();
    assert_eq!(told, [("bert", Timestamp::ZERO), ("carl", later(3))]);
}

async fn calls_make_chains_and_what_only_reads_is_bounded(Fixture { store, .. }: Fixture) {
    let audit = store.database();
    for _ in 0..5 {
        audit.enqueue(call(AuditLog::Reads, 3)).await.unwrap();
        audit.enqueue(call(AuditLog::Changes, 3)).await.unwrap();
    }
    audit.settle().await.unwrap();
    assert_eq!(audit.ends(AuditLog::Reads).await.unwrap(), (3, 5));
    assert_eq!(audit.ends(AuditLog::Changes).await.unwrap(), (1, 5), "these wait until they are in a file");
    assert_eq!(audit.ends(AuditLog::Tries).await.unwrap(), (0, 0));
    let links = audit.links(AuditLog::Changes, 0, false, 9).await.unwrap();
    let mut before = Digest::from_bytes([0; 32]);
    for link in &links {
        assert_eq!(link.hash, Digest::of(&[before.as_bytes().as_slice(), &link.entry].concat()));
        before = link.hash;
    }
    let newest = audit.links(AuditLog::Changes, u64::MAX, true, 2).await.unwrap();
    assert_eq!(newest.iter().map(|link| link.sequence).collect::<Vec<_>>(), [5, 4]);
    audit.forget(AuditLog::Changes, 4).await.unwrap();
    assert_eq!(audit.ends(AuditLog::Changes).await.unwrap(), (5, 5));
    audit.append(call(AuditLog::Changes, 3)).await.unwrap();
    let last = &audit.links(AuditLog::Changes, 5, false, 9).await.unwrap()[0];
    assert_eq!(last.hash, Digest::of(&[before.as_bytes().as_slice(), &last.entry].concat()));
}

/// What SQLite does for a statement, in its words.
async fn plan(store: &Store, sql: &str) -> String {
    let sql = format!("EXPLAIN QUERY PLAN {sql}");
    let steps = store
        .database
        .read(move |connection| connection.fetch(&sql, &[], |record| record.get::<String>("detail")));
    steps.await.unwrap().join("; ")
}

/// Nothing looks through every command or target there ever was.
#[tokio::test]
async fn what_waits_is_found_by_an_index_that_has_nothing_else() {
    let Fixture { store, folder: _folder, .. } = sqlite().await;
    let first_ended = rows::FIRST_ENDED;
    let waiting = format!(
        "SELECT sequence FROM targets JOIN commands ON sequence = command
         WHERE agent_id = x'00' AND state < {first_ended} AND command > 5 AND expires_at > 7 ORDER BY command"
    );
    let plan_of_waiting = plan(&store, &waiting).await;
    assert!(plan_of_waiting.contains("targets_waiting"), "{plan_of_waiting}");
    assert!(!plan_of_waiting.contains("SCAN"), "{plan_of_waiting}");
    let receipt = "SELECT place FROM commands JOIN targets ON targets.command = sequence
         LEFT JOIN receipts ON receipts.command = sequence AND receipts.agent_id = targets.agent_id
         WHERE command_id = x'01' AND commands.digest = x'02' AND targets.agent_id = x'03'";
    let plan_of_receipt = plan(&store, receipt).await;
    assert!(!plan_of_receipt.contains("SCAN"), "{plan_of_receipt}");
}
