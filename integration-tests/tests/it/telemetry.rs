//! What people watch over months: metrics, and the end of certificates.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use integration_tests::daemon::{Daemon, until};
use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use integration_tests::stolen::now;

pub(crate) const DAY: i64 = 86_400;

/// What `GET /metrics` answers.
pub(crate) fn metrics(fleet: &Fleet) -> String {
    metrics_of(fleet.server())
}

pub(crate) fn metrics_of(daemon: &Daemon) -> String {
    let serving = daemon.wait_for("serving", |_| true);
    let mut stream = TcpStream::connect(serving["metrics"].as_str().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

pub(crate) fn value(metrics: &str, name: &str) -> i64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().unwrap()
}

#[test]
fn every_metric_is_documented_and_says_what_is_true() {
    let fleet = Fleet::new(Build::Shipped);
    let _rome = fleet.agent("rome");
    let away = fleet.agent("oslo");
    assert!(away.stop().success());
    let _made = fleet.keys(&["cert", "create", "--overlap", "0s"]).ok();
    fleet.server().wait_for("trust bundle in force", |said| said["bundle.version"] == 2);
    let file = fleet.backup();
    let _proven = fleet.keys(&["cert", "prove-backup", &file]).ok();
    let _done = fleet.writ(&["trust", "converge", "--watch", "--timeout", "1s"]);

    let answer = metrics(&fleet);
    let manager = Manager::new(&fleet);
    let both = answer.clone() + &metrics_of(manager.daemon());
    let served: BTreeSet<_> = both
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/telemetry.md")).unwrap();
    let documented: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `writ_")?.split(['`', '{']).next())
        .filter(|name| !name.contains(' '))
        .map(|name| format!("writ_{name}"))
        .collect();
    assert_eq!(served, documented);
    let counts = ["enrolled", "connected", "with_newest_bundle", "obeying"];
    let counts = counts.map(|name| value(&answer, &format!("writ_agents_{name}")));
    assert_eq!(counts, [2, 1, 1, 1], "{answer}");
    assert_eq!(value(&answer, "writ_trust_bundle_version"), 2);
    assert_eq!(value(&answer, "writ_backup_proven_bundle_version"), 2);
    assert_eq!(value(&answer, "writ_stranger_addresses"), 0);
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(|c: char| !is_of_name(c)).filter(|word| word.starts_with("writ_"));
    words.map(str::to_owned).collect()
}

#[test]
fn readers_of_metrics_are_few_at_a_time_and_keep_nobody_from_ending() {
    let fleet = Fleet::new(Build::Shipped);
    let serving = fleet.server().wait_for("serving", |_| true);
    let address = serving["metrics"].as_str().unwrap().to_owned();
    let half_asked = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /met").unwrap();
        stream
    };
    let open_files = |fleet: &Fleet| {
        let sockets = fs::read_dir(format!("/proc/{}/fd", fleet.server().pid())).unwrap();
        sockets.count()
    };
    let before = open_files(&fleet);
    let readers: Vec<_> = (0..64).map(|_| half_asked()).collect();
    // The oldest of an address go: an earnest request is answered among those that are not.
    assert!(metrics(&fleet).contains("writ_"), "metrics");
    until("eight readers, and what else is open for a moment", || open_files(&fleet) <= before + 12);
    fleet.server().signal("-TERM");
    fleet.server().wait_for("ended", |_| true);
    assert_eq!(fleet.server().count("some sessions did not end in time"), 0);
    drop(readers);
}

#[test]
fn alert_rules_and_the_dashboard_use_metrics_that_exist_and_the_rules_fire_when_they_should() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let served = named(&(metrics(&fleet) + &metrics_of(manager.daemon())));
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
    let read = |name: &str| fs::read_to_string(format!("{deploy}/{name}")).unwrap();
    let (rules, dashboard) = (named(&read("prometheus/alerts.yaml")), named(&read("grafana/writ.json")));
    assert_eq!(rules.difference(&served).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(
        served.difference(&dashboard).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not on the dashboard"
    );
    assert_eq!(dashboard.difference(&served).collect::<Vec<_>>(), Vec::<&String>::new());
    let panels = serde_json::from_str::<serde_json::Value>(&read("grafana/writ.json")).unwrap();
    assert_eq!(panels["panels"].as_array().unwrap().len(), 16);
    let tested =
        fleet.run_tool("promtool", &["test", "rules", &format!("{deploy}/prometheus/alerts.test.yaml")]);
    assert!(tested.stdout.contains("SUCCESS"), "{tested:?}");
    let _tested = tested.ok();
}

#[test]
fn what_a_fleet_does_is_counted() {
    let mut fleet = Fleet::new(Build::Shipped);
    fleet.allow("say", "echo \"$1\"", "");
    let _rome = fleet.agent("rome");
    let _done = fleet.writ(&["send", "action", "say", "word=hello", "--all", "--wait"]).ok();
    let _refused = fleet.writ(&["send", "action", "dance", "--all", "--wait", "--unchecked"]).failed(1);
    let answer = metrics(&fleet);
    for (series, expected) in [
        ("writ_commands_total", 2),
        ("writ_receipts_total{outcome=\"done\"}", 1),
        ("writ_receipts_total{outcome=\"refused\"}", 1),
        ("writ_refusals_total{code=\"action_not_allowed\"}", 1),
        // There before it happens, so that the first time is seen.
        ("writ_refusals_total{code=\"bad_signature\"}", 0),
        ("writ_alerts_total{kind=\"impostor\"}", 0),
        ("writ_deliveries_open", 0),
        ("writ_delivery_oldest_open_timestamp_seconds", 0),
    ] {
        assert_eq!(value(&answer, series), expected, "{series}: {answer}");
    }
    // One who is away has a backlog, with its age.
    let away = fleet.agent("oslo");
    assert!(away.stop().success());
    let _sent = fleet.writ(&["send", "ping", "--agent", "oslo"]).ok();
    let answer = metrics(&fleet);
    assert_eq!(value(&answer, "writ_deliveries_open"), 1);
    assert!(value(&answer, "writ_delivery_oldest_open_timestamp_seconds") > 1_700_000_000, "{answer}");
}

#[test]
fn what_a_manager_sees_of_its_entities_is_counted() {
    let fleet = Fleet::new(Build::Testing);
    let mut manager = Manager::new(&fleet);
    let series = |manager: &Manager, name: &str| value(&metrics_of(manager.daemon()), name);
    let active = "writ_manager_entities{state=\"active\"}";
    assert_eq!(series(&manager, active), 0);
    let _registered = fleet.registered(&manager);
    assert_eq!(series(&manager, active), 1);
    // It was nobody's entity when it registered; since then it is.
    assert_eq!(series(&manager, "writ_manager_calls_total{from=\"stranger\",outcome=\"taken\"}"), 1);
    let taken = "writ_manager_calls_total{from=\"entity\",outcome=\"taken\"}";
    until("a poll", || series(&manager, taken) > 0);
    assert_eq!(series(&manager, "writ_manager_calls_total{from=\"entity\",outcome=\"replayed\"}"), 0);
    let ends = series(&manager, "writ_manager_signing_certificate_not_after_timestamp_seconds");
    let left = ends - i64::try_from(now().as_millis() / 1000).unwrap();
    assert!((3 * 365 * DAY - 600..=3 * 365 * DAY).contains(&left), "{left}");
    // Nobody takes it up, for the entity is away; a day later it is not open any more.
    fleet.server().signal("-STOP");
    let _asked = fleet.cm(&["instruct", "ping", "--all", "--expires", "1h"]);
    assert_eq!(series(&manager, "writ_manager_instruction_deliveries_open"), 1);
    manager.restart_at(DAY);
    assert_eq!(series(&manager, "writ_manager_instruction_deliveries_open"), 0);
    assert_eq!(series(&manager, "writ_manager_entities{state=\"abnormal\"}"), 1);
    fleet.server().signal("-CONT");
}

#[test]
fn the_end_of_a_certificate_is_said_in_the_log_by_an_alert_by_a_metric_and_by_the_doctor() {
    let mut fleet = Fleet::new(Build::Testing);
    let ends = value(&metrics(&fleet), "writ_signing_certificate_accept_until_timestamp_seconds");
    assert!(!metrics(&fleet).contains("nan"));
    let leaf = ["tls.pem", "tls.key"].map(|name| (fleet.path("server").join(name), name));
    let kept = leaf.clone().map(|(path, _)| fs::read(path).unwrap());
    fleet.restart_server_at(3 * 365 * DAY - 20 * DAY);
    let said = fleet.server().wait_for(
        "the signing certificate ends soon, or has ended; make the next one: writ-server cert create",
        |_| true,
    );
    assert_eq!(said["days"], 30);
    assert_eq!(value(&metrics(&fleet), "writ_signing_certificate_accept_until_timestamp_seconds"), ends);
    let finding = fleet.keys(&["doctor"]).ok().json()["findings"][2].clone();
    assert_eq!((&finding["check"], &finding["level"]), (&"signing".into(), &"notice".into()));

    // Back in the present, where the operator is; the leaf was renewed in that future.
    fleet.kill_server();
    for ((path, _), content) in leaf.into_iter().zip(kept) {
        fs::write(path, content).unwrap();
    }
    fs::write(fleet.path("server-clock"), "0").unwrap();
    fleet.server_flags = vec!["--accept-clock".to_owned()];
    fleet.start_again();
    // In the present it does not end soon, so the alert does.
    let alerts = || fleet.json(&["alerts", "--all"]);
    until("the alert never ended", || alerts()[0]["state"] == "ended");
    let alerts = alerts();
    assert_eq!(alerts[0]["kind"], "certificate_ends");
    assert_eq!((&alerts[0]["agent_id"], &alerts[0]["count"]), (&"".into(), &1.into()));
    assert!(alerts[0]["detail"].as_str().unwrap().contains("in less than 30 days"), "{alerts:?}");
    let table = fleet.writ(&["alerts", "--all"]).ok().stdout;
    assert!(table.contains("the server"), "{table}");
}
