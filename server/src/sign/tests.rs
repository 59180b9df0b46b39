use std::sync::{Arc, Mutex};

use writ_common::time::Clock;
use writ_protocol::keys::{Algorithm, SigningCertificate};
use writ_protocol::trust::Role;

use super::*;

#[derive(Debug)]
struct FakeClock(Mutex<(Timestamp, Duration)>);

impl Clock for FakeClock {
    fn wall(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn signer() -> (Signer, Arc<FakeClock>) {
    let key = PrivateKey::<Server>::generate(Algorithm::Ed25519);
    let certificate = SigningCertificate::issue(&key, "acme", START).unwrap();
    let entry = SigningEntry {
        sign_from: START,
        accept_until: certificate.not_after(),
        certificate,
        revoked: false,
        realms: vec!["default".to_owned()],
    };
    let bundle = TrustBundle {
        fleet: FleetId::from_bytes([1; 16]),
        fleet_name: "acme".to_owned(),
        version: 1,
        prev: Vec::new(),
        authority: Role { keys: vec![key.public().clone()], threshold: 1 },
        signing: vec![entry],
        class_rules: Vec::new(),
        tls_cas: vec![vec![0]],
        endpoints: vec!["localhost:7443".to_owned()],
        floor_reset: None,
        issued_at: START,
    };
    let clock = Arc::new(FakeClock(Mutex::new((START, Duration::ZERO))));
    let shared: SharedClock = Arc::<FakeClock>::clone(&clock);
    (Signer::new(vec![key], &bundle, shared, START), clock)
}

fn draft() -> CommandDraft {
    CommandDraft {
        id: CommandId::from_bytes([2; 16]),
        targets: vec![AgentId::from_bytes([3; 16])],
        lifetime: Duration::from_secs(60),
        requested_by: "ann".to_owned(),
        rollout: None,
        action: Action::Ping,
    }
}

#[test]
fn nothing_is_signed_after_the_wall_clock_jumped_either_way() {
    let (signer, clock) = signer();
    let _signed = signer.command(draft()).unwrap();
    *clock.0.lock().unwrap() = (START + YEAR, Duration::from_secs(5));
    assert!(matches!(signer.command(draft()), Err(SignError::ClockJumped(_))));
    *clock.0.lock().unwrap() = (START - YEAR, Duration::from_secs(5));
    assert!(matches!(signer.command(draft()), Err(SignError::ClockJumped(_))));
}

#[test]
fn nothing_is_signed_under_an_expired_certificate() {
    let (signer, clock) = signer();
    *clock.0.lock().unwrap() = (START + YEAR * 3, YEAR * 3);
    assert!(matches!(signer.command(draft()), Err(SignError::NoKey { .. })));
}

#[test]
fn a_lifetime_past_thirty_days_is_refused_before_signing() {
    let (signer, _clock) = signer();
    let long = CommandDraft { lifetime: Duration::from_secs(31 * 24 * 3600), ..draft() };
    assert!(matches!(signer.command(long), Err(SignError::Command(_))));
}

#[test]
fn nothing_is_signed_at_a_time_before_one_that_was_signed_with() {
    let (signer, clock) = signer();
    let second = Duration::from_secs(1);
    *clock.0.lock().unwrap() = (START + second * 600, second * 600);
    let _signed = signer.command(draft()).unwrap();
    *clock.0.lock().unwrap() = (START + second * 570, second * 601);
    let _within_tolerance = signer.command(draft()).unwrap();
    *clock.0.lock().unwrap() = (START + second * 569, second * 602);
    assert!(matches!(signer.command(draft()), Err(SignError::ClockBehind { .. })));
}

#[test]
fn a_command_no_agent_would_look_at_is_not_signed() {
    let (signer, _clock) = signer();
    let parameters = (0..64).map(|number| (format!("p{number:02}"), "x".repeat(4096))).collect();
    let action = writ_protocol::command::NamedAction::new("big".to_owned(), parameters).unwrap();
    let big = CommandDraft { action: Action::Run(action), ..draft() };
    assert!(matches!(signer.command(big), Err(SignError::TooLarge(_))));
}
