//! Who on a host talks to suspicious addresses, and whose command line names suspicious domains and URLs.

use std::fs;

use integration_tests::daemon::Daemon;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::listed::Listed;
use integration_tests::network::{MANAGER, Network};
use integration_tests::ports::free_port;
use serde_json::{Value, json};

/// A process with this in its command line, which talks to an address if one is given, and says when.
fn process(fleet: &Fleet, peer: Option<(&str, u16)>, more: &str) -> Daemon {
    let talk = "import socket, sys, threading
if sys.argv[1]: held = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print('{\"fields\": {\"message\": \"ready\"}}', file=sys.stderr, flush=True)
threading.Event().wait()";
    let (host, port) = peer.unwrap_or_default();
    let arguments = ["-c", talk, host, &port.to_string(), more].map(str::to_owned);
    let started = fleet.spawn_tool("python3", &arguments);
    started.wait_for("ready", |_| true);
    started
}

/// A process that takes connections.
fn listener(fleet: &Fleet, port: u16) -> Daemon {
    let listen = "import socket, sys, threading
held = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('{\"fields\": {\"message\": \"ready\"}}', file=sys.stderr, flush=True)
threading.Event().wait()";
    let arguments = ["-c", listen, MANAGER, &port.to_string()].map(str::to_owned);
    let started = fleet.spawn_tool("python3", &arguments);
    started.wait_for("ready", |_| true);
    started
}

fn scan(fleet: &Fleet, more: &[&str]) -> Value {
    let files = fleet.path("files").display().to_string();
    let scan = [&["--output", "json", "send", "scan", &files], more, &["--all", "--wait"]].concat();
    fleet.writ(&scan).json()["targets"][0].clone()
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn who_talks_to_a_suspicious_address_is_an_alert_with_process_and_peer() {
    let mut network = Network::new();
    network.name_hosts();
    let mut fleet = network.on_server(|| Fleet::unmade(Build::Testing));
    fleet.leave_the_road();
    let port = free_port();
    let _listens = network.on_manager(|| listener(&fleet, port));
    network.on_server(|| {
        let _made = fleet.init().ok();
        fleet.start_server(None);
        fleet.add_context();
        fs::create_dir(fleet.path("files")).unwrap();
        let rome = fleet.agent("rome");
        let talker = process(&fleet, Some((MANAGER, port)), "nothing");
        let who = format!("(process {}, user 0)", talker.pid());
        let in_force = |count| rome.wait_for_count("component in force", count);

        // Another address is nobody's.
        let _added = fleet.json(&["objects", "add", "ip", "192.0.2.7"]);
        in_force(1);
        let answer = scan(&fleet, &[]);
        assert!(!text(&answer, "detail").contains("met") && answer["state"] == "done", "{answer}");
        assert!(text(&answer, "output").contains("no file was looked at"), "{answer}");
        assert_eq!(fleet.alerts("listed", "").len(), 0);

        // The address itself, then its network, then by an inventory. However many connections lead elsewhere.
        let _added = fleet.json(&["objects", "add", "ip", MANAGER, "--remedy", "block"]);
        in_force(2);
        let answer = scan(&fleet, &[]);
        let told = format!("talks to {MANAGER}:{port} (tcp, from 10.77.1.2:");
        let output = text(&answer, "output");
        assert!(output.contains(&format!("ip {MANAGER}: /")) && output.contains(&told), "{answer}");
        assert!(output.contains(&who), "{answer}");
        let detail = text(&answer, "detail");
        assert!(detail.contains("suspicious objects met: 2: ip 10.77.2.2: /"), "{answer}");
        // The other host of this network is in a namespace of this one, as containers are.
        assert!(output.contains(&format!(" listens at {MANAGER}:{port} (tcp)")), "{answer}");
        let alerts = fleet.alerts("listed", "");
        let alert = alerts[0]["detail"].as_str().unwrap();
        assert!(alert.contains(&who) && alert.contains(&told), "{alerts:?}");
        let _removed = fleet.json(&["objects", "remove", "ip", MANAGER]);
        let _added = fleet.json(&["objects", "add", "cidr", "10.77.2.0/24"]);
        in_force(3);
        let asked = fleet.json(&["send", "inventory", "--all", "--wait"]);
        let inventory: Value = serde_json::from_str(text(&asked["targets"][0], "output")).unwrap();
        let met = &inventory["suspicious"]["met"];
        assert_eq!((&met[0]["type"], &met[0]["value"]), (&json!("cidr"), &json!("10.77.2.0/24")), "{met}");
        assert_eq!((&met[0]["how"], &met[0]["process"]["pid"]), (&json!("peer"), &json!(talker.pid())));
        assert_eq!(met[0]["peer"], format!("{MANAGER}:{port}"));

        // A name is known by its addresses only where name servers may be asked.
        let _removed = fleet.json(&["objects", "remove", "cidr", "10.77.2.0/24"]);
        let _added = fleet.json(&["objects", "add", "domain", "cm.test"]);
        let _added = fleet.json(&["objects", "add", "url", "http://nobody.test/x"]);
        in_force(4);
        let answer = scan(&fleet, &[]);
        let output = text(&answer, "output");
        assert!(output.contains("of 2 suspicious names only command lines were asked"), "{answer}");
        assert!(!text(&answer, "detail").contains("met"), "{answer}");
        assert!(!network.was_asked_for("nobody.test"));
        let answer = scan(&fleet, &["--resolve"]);
        assert!(network.was_asked_for("nobody.test"));
        let output = text(&answer, "output");
        assert!(
            output.contains("domain cm.test: /") && output.contains("an address of that name"),
            "{answer}"
        );
        assert!(!output.contains("only command lines"), "{answer}");

        // The kernel keeps what has ended for a minute.
        talker.kill();
        let answer = scan(&fleet, &["--resolve"]);
        assert!(
            text(&answer, "output").contains("domain cm.test: a process that has just ended"),
            "{answer}"
        );
    });
}

#[test]
fn what_a_command_line_names_is_compared_with_objects_and_with_the_list_of_the_web() {
    let mut scene = Listed::over(Fleet::unmade(Build::Testing));
    scene.publish_web("1", "http://listed.example/x\n");
    scene.start();
    let fleet = &scene.fleet;
    fs::create_dir(fleet.path("files")).unwrap();
    let rome = fleet.agent("rome");
    rome.wait_for("component in force", |said| said["component"] == "web-reputation-filter");
    for (kind, value) in [("domain", "evil.example"), ("url", "https://bad.example/a?b=c")] {
        let _added = fleet.json(&["objects", "add", kind, value]);
    }
    rome.wait_for("component in force", |said| said["component"] == "suspicious-objects");
    let honest =
        process(fleet, None, "http://good.example/ https://bad.example/a?b=d http://listed.example/y");
    let answer = scan(fleet, &[]);
    assert!(!text(&answer, "detail").contains("met"), "{answer}");
    let [by_domain, by_url, by_list] =
        ["--from=http://sub.Evil.example:80/z", "x https://bad.example/a?b=c", "http://listed.example/x"]
            .map(|more| process(fleet, None, more));
    let answer = scan(fleet, &[]);
    let output = text(&answer, "output");
    for (what, who) in [
        ("domain evil.example", &by_domain),
        ("url https://bad.example/a?b=c", &by_url),
        ("web-reputation 1 http://listed.example/x", &by_list),
    ] {
        let line = output.lines().find(|line| line.starts_with(&format!("{what}: "))).unwrap_or_else(|| {
            panic!("{what}: {output}");
        });
        assert!(
            line.contains(&format!("(process {}, user 0) names it in its command line", who.pid())),
            "{line}"
        );
    }
    assert!(!output.contains(&format!("process {}", honest.pid())), "{output}");
    assert!(text(&answer, "detail").contains("suspicious objects met: 3: "), "{answer}");
    // No command line is in the answer.
    assert!(!output.contains("--from") && !output.contains("/z"), "{output}");
}
