//! Other people's networks: proxies, kernels without IPv6.

use std::fs;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::ports::free_port;
use integration_tests::proxies::{PASSWORD, Proxy, USER};
use integration_tests::python;

fn through(fleet: &Fleet, scheme: &str, proxy: &Proxy, password: &str) -> String {
    let file = fleet.write_secret(&format!("{scheme}-{password}"), &format!("{password}\n"));
    format!(
        "[proxy]\nurl = \"{scheme}://127.0.0.1:{}\"\nuser = \"{USER}\"\npassword_file = \"{}\"\n",
        proxy.port,
        file.display()
    )
}

#[test]
fn agents_enrol_obey_and_look_for_causes_through_squid_and_a_socks_proxy() {
    let mut fleet = Fleet::new(Build::Shipped);
    let (squid, socks) = (Proxy::squid(), Proxy::microsocks());
    for (name, scheme, proxy) in [("rome", "http", &squid), ("paris", "socks5", &socks)] {
        fleet.agent_config = through(&fleet, scheme, proxy, PASSWORD);
        let _agent = fleet.agent(name);
        assert_eq!(fleet.json(&["send", "ping", "--agent", name, "--wait"])["done"], 1);
        let config = fleet.agent_config(name);
        let doctor = fleet.run("writ-agent", &["doctor", "--config", config.to_str().unwrap()]);
        assert!(doctor.code == 0 && doctor.stdout.contains("is obeyed"), "{doctor:?}");
    }
    let went = format!("CONNECT localhost:{}", fleet.road.port());
    until("squid led nobody on", || squid.said().contains(&went));

    let guessed = through(&fleet, "http", &squid, "guessed");
    let nobody = format!("[proxy]\nurl = \"http://127.0.0.1:{}\"\n", squid.port);
    let other = format!("[proxy]\nurl = \"http://127.0.0.1:{}\"\n", socks.port);
    let closed = format!("[proxy]\nurl = \"socks5://127.0.0.1:{}\"\n", free_port());
    for (config, says) in [
        (&guessed, "the proxy refuses user `op`"),
        (&nobody, "the proxy asks for a user and a password"),
        (&other, "what answers there is no such proxy"),
        (&closed, "cannot connect to the proxy 127.0.0.1"),
    ] {
        fleet.agent_config.clone_from(config);
        let said = fleet.enroll("oslo", &fleet.token(1)).failed(1);
        assert!(said.stderr.contains(says), "{says}: {said:?}");
    }
    for (config, says) in [
        (
            "[proxy]\nurl = \"https://127.0.0.1:3128\"\n",
            "`proxy.url` is `https://127.0.0.1:3128`; it must be `http://HOST:PORT`",
        ),
        ("[proxy]\nuser = \"op\"\n", "`proxy.url` is missing"),
        ("[proxy]\nurl = \"http://127.0.0.1:1\"\nuser = \"op\"\n", "set both, or none"),
    ] {
        config.clone_into(&mut fleet.agent_config);
        let said = fleet.enroll("oslo", &fleet.token(1)).failed(64);
        assert!(said.stderr.contains(says), "{says}: {said:?}");
    }
}

#[test]
fn a_kernel_without_ipv6_serves_every_ipv4_address_and_what_asks_for_ipv6_is_told_why_not() {
    let fleet = Fleet::unmade(Build::Shipped);
    let _made = fleet.init().ok();
    let script = python::root().join("integration-tests/src/without_ipv6.py");
    let (agents, admin) = (free_port(), free_port());
    let config = fleet.path("plain.toml");
    let listen = |host: &str| {
        let text = format!(
            "data_dir = \"{}\"\n[listen]\nagents = \"{host}:{agents}\"\nadmin = \"[::]:{admin}\"\nmetrics = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n",
            fleet.path("server").display()
        );
        fs::write(&config, text).unwrap();
    };
    let run = |arguments: &[&str]| {
        let program = integration_tests::fleet::binary("writ-server");
        let begin = [script.to_str().unwrap(), program.to_str().unwrap()];
        let end = ["--config", config.to_str().unwrap()];
        [&begin[..], arguments, &end].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let texts = |all: &[String]| all.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
    listen("[::]");
    let server = fleet.spawn_tool("python3", &texts(&run(&["run"])));
    let serving = server.wait_for("serving", |_| true);
    assert_eq!(serving["agents"], format!("0.0.0.0:{agents}"), "{serving}");
    server.wait_for("this host has no IPv6: listening at every IPv4 address", |said| {
        said["key"] == "listen.agents"
    });
    let arguments = run(&["health"]);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let _healthy = fleet.run_tool("python3", &arguments).ok();
    assert!(server.stop().success());

    listen("[2001:db8::1]");
    let said = fleet.spawn_tool("python3", &texts(&run(&["run"]))).wait().1;
    let cure =
        format!("this host has no IPv6; set listen.agents to an IPv4 address, such as 0.0.0.0:{agents}");
    assert!(said.contains(&cure), "{said}");
    let arguments = run(&["doctor"]);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let doctor = fleet.run_tool("python3", &arguments).failed(1);
    assert!(doctor.stdout.contains("this host has no IPv6"), "{doctor:?}");
}
