//! What every agent can do by itself: tell what its host is, and change how it runs.

use integration_tests::fleet::{Build, Fleet};
use integration_tests::road::Road;
use serde_json::Value;

#[test]
fn an_inventory_tells_what_the_host_is() {
    let fleet = Fleet::new(Build::Shipped);
    let _agent = fleet.agent("rome");
    let answered = fleet.json(&["send", "inventory", "--all", "--wait"]);
    let said: Value = serde_json::from_str(answered["targets"][0]["output"].as_str().unwrap()).unwrap();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(said["kernel"], kernel.trim());
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!((said["uptime_seconds"].as_f64().unwrap() - uptime).abs() < 60.0);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t").count();
    assert_eq!(said["cpus"], cpus);
    let admin = fleet.admin_port();
    let ports = said["listening"]["rows"].as_array().unwrap();
    assert!(ports.iter().any(|row| row["port"] == admin && row["protocol"] == "tcp"), "{ports:?}");
    assert!(said["agent_version"].is_string() && said["packages"]["installed"].is_u64());
}

#[test]
fn the_whole_output_of_one_agent_is_shown() {
    let mut fleet = Fleet::new(Build::Shipped);
    let _notes = fleet.allow("print", "seq 1 9000; echo \"$1\"", "");
    let _rome = fleet.agent("rome");
    let answered = fleet.json(&["send", "action", "print", "word=end", "--all", "--wait"]);
    let output = answered["targets"][0]["output"].as_str().unwrap();
    assert!(output.starts_with("1\n2\n") && output.ends_with("\n9000\nend\n"), "{} bytes", output.len());
}

#[test]
fn settings_are_tried_kept_over_restarts_and_rolled_back_when_they_do_not_work() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let send = |more: &[&str]| {
        fleet.writ(&[&["--output", "json", "send", "settings", "--all", "--wait"], more].concat())
    };
    let other = Road::open();
    other.lead_to(fleet.road.destination());
    let endpoint = format!("localhost:{}", other.port());
    let kept = send(&["--heartbeat", "2s", "--endpoint", &endpoint, "--log-filter", "info,writ_agent=debug"]);
    assert_eq!(kept.code, 0, "{kept:?}");
    // The report that follows says what is in force.
    let _later = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let revision = fleet.json(&["agents", "show", "rome"])["settings_revision"].as_u64().unwrap();
    assert!(revision > 0);

    for (wrong, why) in [
        (["--heartbeat", "50s"], "too seldom"),
        (["--log-filter", "writ_agent=loudest"], "is not a log filter"),
        (["--endpoint", "localhost:1"], "cannot connect"),
    ] {
        let said = send(&wrong);
        let target = &said.json()["targets"][0];
        assert_eq!((said.code, &target["ending"]), (1, &"failed".into()), "{said:?}");
        assert!(target["detail"].as_str().unwrap().contains(why), "{said:?}");
        let _later = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
        assert_eq!(fleet.json(&["agents", "show", "rome"])["settings_revision"], revision);
    }
    for malformed in [["--heartbeat", "2h"], ["--endpoint", "https://x"]] {
        assert_eq!(send(&malformed).code, 7);
    }

    assert!(agent.stop().success());
    let agent = fleet.start_agent("rome", None);
    agent.wait_for("session began", |said| said["endpoint"] == endpoint.as_str());
    // The settings' endpoint fails later: the trust bundle's is tried next, nobody has to visit.
    other.lead_to(0);
    agent.wait_for("session began", |said| said["endpoint"] != endpoint.as_str());
    let _obeys = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
}
