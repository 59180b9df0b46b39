//! A server behind a gate that translates addresses, and a manager outside: outbound only, and by a forwarded
//! port.

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::{Manager, failed};
use integration_tests::network::{GATE, MANAGER, Network};
use integration_tests::ports::free_port;

/// A fleet on the server's host, and a manager on its own.
fn apart(network: &Network) -> (Fleet, Manager) {
    let mut fleet = network.on_server(|| Fleet::unmade(Build::Shipped));
    fleet.notify_port = free_port();
    network.on_server(|| {
        let _made = fleet.init().ok();
        fleet.start_server(None);
        fleet.add_context();
    });
    let manager = network.on_manager(|| {
        let mut manager = Manager::unmade(&fleet, "manager", "");
        let _made = manager.init(&fleet, &["--tls-name", MANAGER, "--tls-name", "cm.test"]).ok();
        manager.start(None);
        manager.add_context(&fleet);
        manager
    });
    (fleet, manager)
}

#[test]
fn behind_a_gate_one_way_works_outbound_only_and_two_way_by_a_forwarded_port() {
    let network = Network::new();
    let (fleet, manager) = apart(&network);
    let port = manager.link_port.to_string();
    let ca = manager.ca();
    let token = network.on_manager(|| manager.token(&fleet));
    let to = ["--address", MANAGER, "--port", &port, "--ca", &ca, "--registration-token-file", &token];
    let often = ["--heartbeat", "1s", "--abnormal-after", "3s"];
    network.on_server(|| {
        let _set = fleet.settings(&[to.as_slice(), &often].concat()).ok();
        let status = fleet.json(&["manager", "register", "--update-source", "default"]);
        assert_eq!(
            (&status["state"], &status["mode"]),
            (&"registered".into(), &"one-way".into()),
            "{status}"
        );
    });
    // One-way: it waits at the manager and goes out on the next poll.
    let ends = |what: &str| {
        let issued = network.on_manager(|| fleet.cm(&["instruct", "status", "--all"]));
        let id = issued["instruction_id"].as_str().unwrap().to_owned();
        manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == id);
        let shown = network.on_manager(|| fleet.cm(&["instruct", "show", &id]));
        assert_eq!(shown["successful"], 1, "{what}: {shown:#}");
    };
    ends("one-way");

    // Two-way without a forwarding: the test says so.
    let outside = free_port();
    let forwarded = format!("{GATE}:{outside}");
    network.on_server(|| {
        let (legs, _) = fleet.legs(&["--two-way", &forwarded]);
        assert_eq!(failed(&legs)["leg"], "callback", "{legs:#?}");
    });
    network.forward(outside, fleet.notify_port);
    network.on_server(|| {
        let (legs, went_well) = fleet.legs(&["--two-way", &forwarded]);
        assert!(went_well, "{legs:#?}");
        // From here on a poll by itself is an hour away.
        let _set =
            fleet.settings(&["--two-way", &forwarded, "--heartbeat", "1h", "--abnormal-after", "3h"]).ok();
        let status = fleet.json(&["manager", "update"]);
        assert_eq!(status["mode"], "two-way", "{status}");
    });
    fleet.server().wait_for("listening for the Control Manager", |_| true);
    ends("two-way");
}

#[test]
fn on_a_host_with_ipv4_alone_names_addresses_and_black_holes_are_told_apart() {
    let mut network = Network::new();
    network.name_hosts();
    let (fleet, manager) = apart(&network);
    let port = manager.link_port.to_string();
    let ca = manager.ca();
    network.swallow("10.77.2.9");
    network.on_server(|| {
        let _set = fleet.settings(&["--port", &port, "--ca", &ca]).ok();
        let by = |address: &str| fleet.legs(&["--address", address]);
        let (legs, went_well) = by("cm.test");
        assert!(went_well, "{legs:#?}");
        for (address, leg, words) in [
            ("nobody.test", "dns", "DNS"),
            ("six.test", "dns", "only IPv6 addresses"),
            ("2001:db8::7", "input", "this host has none"),
            ("[2001:db8::7]", "input", "set an IPv4 address, or a name"),
            ("10.77.2.9", "tcp", "firewalls in between"),
            ("10.77.2.1", "tcp", "start the manager there"),
        ] {
            let (legs, _) = by(address);
            let failed = failed(&legs);
            assert_eq!(failed["leg"], leg, "{address}: {legs:#?}");
            let said = format!("{} {}", failed["detail"], failed["advice"]);
            assert!(said.contains(words), "{address}: {said}");
        }
        // A proxy's address obeys the same rule, and the manager's does not then: the proxy reaches it.
        let by = [
            "--proxy",
            "http",
            "--proxy-address",
            "2001:db8::9",
            "--proxy-port",
            "3128",
            "--address",
            "cm.test",
        ];
        let (legs, _) = fleet.legs(&by);
        assert_eq!(failed(&legs)["leg"], "input", "{legs:#?}");
    });
}
