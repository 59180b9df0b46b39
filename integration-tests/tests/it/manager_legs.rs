//! *Test Connection*: each leg fails against the real thing, and says what to do. Nothing of a test is saved.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::{Manager, failed};
use integration_tests::ports::free_port;
use integration_tests::proxies::{Nginx, PASSWORD, Proxy, USER};
use serde_json::Value;
use writ_common::keys::pem;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::{TlsAuthority, TlsLeaf};

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

/// A fleet that knows its manager.
fn introduced() -> (Fleet, Manager) {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    manager.introduce(&fleet);
    (fleet, manager)
}

/// Tests with these changes; the leg that failed, whose advice and detail hold these words.
fn fails(fleet: &Fleet, changes: &[&str], leg: &str, words: &[&str]) -> Value {
    let (legs, went_well) = fleet.legs(changes);
    assert!(!went_well, "{legs:#?}");
    let failed = failed(&legs).clone();
    assert_eq!(failed["leg"], leg, "{legs:#?}");
    let said = format!("{} {}", failed["detail"], failed["advice"]);
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    failed
}

fn passes(fleet: &Fleet, changes: &[&str]) -> Vec<Value> {
    let (legs, went_well) = fleet.legs(changes);
    assert!(went_well, "{legs:#?}");
    legs
}

fn outcome<'a>(legs: &'a [Value], leg: &str) -> &'a Value {
    &legs.iter().find(|row| row["leg"] == leg).unwrap()["outcome"]
}

/// A leaf in files, as nginx wants it.
fn leaf_files(fleet: &Fleet, name: &str, leaf: &TlsLeaf) -> (PathBuf, PathBuf) {
    let chain: String = leaf.chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
    let (certificate, key) = (fleet.path(&format!("{name}.pem")), fleet.path(&format!("{name}.key")));
    fs::write(&certificate, chain).unwrap();
    fs::write(&key, pem::encode("PRIVATE KEY", &leaf.key).as_bytes()).unwrap();
    (certificate, key)
}

/// A leaf by the manager's own authority, made at some time for some name.
fn leaf_of(manager: &Manager, name: &str, back: std::time::Duration) -> TlsLeaf {
    let certificate = pem::certificates(&fs::read(manager.ca()).unwrap()).unwrap().remove(0);
    let key = pem::private_key(&fs::read(manager.path("control-manager-ca.key")).unwrap()).unwrap();
    let authority = TlsAuthority { certificate, key };
    authority.issue(&[name.to_owned()], SystemClock::new().wall() - back).unwrap()
}

fn port(port: u16) -> String {
    port.to_string()
}

#[test]
fn a_closed_port_a_black_hole_and_a_wrong_name_are_told_apart() {
    let (fleet, manager) = introduced();
    let closed = port(free_port());
    fails(&fleet, &["--port", &closed], "tcp", &["refused", "start the manager"]);

    // Nobody accepts, and the backlog is full: what is sent is swallowed.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let swallowed = port(hole.local_addr().unwrap().port());
    fails(&fleet, &["--port", &swallowed], "tls", &["did not answer within", "firewalls"]);

    let failed =
        fails(&fleet, &["--address", "no-such-host.invalid"], "dns", &["no-such-host.invalid", "DNS"]);
    assert!(failed["elapsed_us"].as_u64().is_some(), "{failed}");

    // The leaf names localhost and the loopback; the host's own name it does not know.
    let legs = passes(&fleet, &["--address", "127.0.0.1"]);
    assert_eq!((outcome(&legs, "dns"), outcome(&legs, "host_name")), (&"skipped".into(), &"passed".into()));
    let (certificate, key) = leaf_files(&fleet, "other", &leaf_of(&manager, "other.example", DAY));
    let nginx =
        Proxy::nginx(&certificate, &key, manager.clear_port, Nginx { asks: false, protocols: "TLSv1.3" });
    fails(
        &fleet,
        &["--port", &port(nginx.port)],
        "host_name",
        &["other.example", "does not carry this name"],
    );
    assert_eq!(
        fleet.json(&["manager", "settings", "show"])["port"],
        manager.link_port,
        "a test saves nothing"
    );
    assert_eq!(fleet.cm(&["entities", "list"]), serde_json::json!([]), "and makes no entity");
}

#[test]
fn an_unknown_ca_an_expired_certificate_and_tls_1_2_are_told_apart() {
    let (fleet, manager) = introduced();
    let stranger = TlsAuthority::create("somebody else", SystemClock::new().wall()).unwrap();
    let other_ca = fleet.path("other-ca.pem");
    fs::write(&other_ca, pem::encode("CERTIFICATE", &stranger.certificate).as_bytes()).unwrap();
    fails(&fleet, &["--ca", other_ca.to_str().unwrap()], "certificate_trust", &["somebody else answers"]);

    let (certificate, key) = leaf_files(&fleet, "old", &leaf_of(&manager, "localhost", DAY * 500));
    let expired =
        Proxy::nginx(&certificate, &key, manager.clear_port, Nginx { asks: false, protocols: "TLSv1.3" });
    fails(&fleet, &["--port", &port(expired.port)], "certificate_trust", &["ended at", "clocks"]);

    let (certificate, key) = leaf_files(&fleet, "new", &leaf_of(&manager, "localhost", DAY));
    let old =
        Proxy::nginx(&certificate, &key, manager.clear_port, Nginx { asks: false, protocols: "TLSv1.2" });
    fails(&fleet, &["--port", &port(old.port)], "tls", &["TLS 1.3"]);
}

#[test]
fn a_web_server_that_asks_gets_the_password_and_one_that_does_not_ask_never_sees_it() {
    let (fleet, manager) = introduced();
    let (certificate, key) = leaf_files(&fleet, "web", &leaf_of(&manager, "localhost", DAY));
    let asking =
        Proxy::nginx(&certificate, &key, manager.clear_port, Nginx { asks: true, protocols: "TLSv1.3" });
    let web = port(asking.port);
    fails(&fleet, &["--port", &web], "web_authentication", &["401", "set user and password"]);

    let (right, wrong) = (fleet.write_secret("right", PASSWORD), fleet.write_secret("wrong", "guess"));
    let login = |file: &Path| {
        ["--port", &web, "--web-user", USER, "--web-password-file", file.to_str().unwrap()].map(str::to_owned)
    };
    let wrong: Vec<_> = login(&wrong).into();
    let wrong: Vec<_> = wrong.iter().map(String::as_str).collect();
    fails(&fleet, &wrong, "web_authentication", &["refuses user `op`", "correct user and password"]);
    let right: Vec<_> = login(&right).into();
    let right: Vec<_> = right.iter().map(String::as_str).collect();
    let legs = passes(&fleet, &right);
    assert_eq!(outcome(&legs, "web_authentication"), "passed");
    let _saved = fleet.settings(&right).ok();
    let status = fleet.json(&["manager", "register", "--update-source", "default"]);
    assert_eq!(status["state"], "waiting", "{status}");

    // In front of the manager itself nobody asks, and nothing is shown.
    let legs = passes(&fleet, &["--port", &port(manager.link_port)]);
    let row = legs.iter().find(|row| row["leg"] == "web_authentication").unwrap();
    assert_eq!(
        (&row["outcome"], &row["detail"]),
        (&"skipped".into(), &"no web server asked; the password was not sent".into())
    );

    // Never in clear text.
    let refused = fleet.settings(&["--clear-text-i-know-what-i-am-doing", "true"]).failed(7);
    assert!(refused.stderr.contains("web_user must be empty in clear text"), "{refused:?}");

    // Nothing behind the web server.
    let nothing = Proxy::nginx(&certificate, &key, free_port(), Nginx { asks: false, protocols: "TLSv1.3" });
    fails(&fleet, &["--port", &port(nothing.port)], "protocol_version", &["HTTP 502", "start the manager"]);
    for said in [fleet.server().said(), manager.daemon().said(), asking.said()] {
        assert!(!said.contains(PASSWORD), "a log holds the password");
    }
}

#[test]
fn squid_microsocks_and_pproxy_are_passed_and_each_refusal_is_told_apart() {
    let (fleet, manager) = introduced();
    let (right, wrong) = (fleet.write_secret("right", PASSWORD), fleet.write_secret("wrong", "guess"));
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    let (squid, socks, socks4) = (Proxy::squid(), Proxy::microsocks(), Proxy::socks4());

    for (protocol, proxy) in [("http", &squid), ("socks5", &socks)] {
        let place = port(proxy.port);
        let by = ["--proxy", protocol, "--proxy-address", "127.0.0.1", "--proxy-port", &place];
        let with =
            |more: &[&'static str], file| [by.as_slice(), more, &["--proxy-password-file", file]].concat();
        fails(&fleet, &by, "proxy_authentication", &["set user and password of the proxy"]);
        fails(&fleet, &with(&["--proxy-user", USER], wrong), "proxy_authentication", &["refuses user `op`"]);
        let legs = passes(&fleet, &with(&["--proxy-user", USER], right));
        for leg in ["proxy_connect", "proxy_authentication", "tcp", "tls", "authorization"] {
            assert_eq!(outcome(&legs, leg), "passed", "{protocol} {legs:#?}");
        }
        let closed = port(free_port());
        let beyond = [with(&["--proxy-user", USER], right), vec!["--port", &closed]].concat();
        fails(&fleet, &beyond, "tcp", &["the proxy cannot reach"]);
        let gone = [by.as_slice(), &["--proxy-port", &closed]].concat();
        fails(
            &fleet,
            &gone[..4].iter().chain(&["--proxy-port", &closed]).copied().collect::<Vec<_>>(),
            "proxy_connect",
            &["start the proxy"],
        );
        drop(gone);
    }
    // What squid forbids is not what it cannot reach.
    let place = port(squid.port);
    let by = ["--proxy", "http", "--proxy-address", "127.0.0.1", "--proxy-port", &place];
    let login = ["--proxy-user", USER, "--proxy-password-file", right];
    let forbidden = [by.as_slice(), &login, &["--address", "192.0.2.1"]].concat();
    fails(&fleet, &forbidden, "tcp", &["forbids 192.0.2.1"]);
    // SOCKS4 knows no passwords.
    let place = port(socks4.port);
    let by = ["--proxy", "socks4", "--proxy-address", "127.0.0.1", "--proxy-port", &place];
    let legs = passes(&fleet, &[by.as_slice(), &["--address", "127.0.0.1"]].concat());
    assert_eq!(outcome(&legs, "proxy_connect"), "passed");
    let refused = fleet.settings(&[by.as_slice(), &login].concat()).failed(7);
    assert!(refused.stderr.contains("SOCKS4 has no passwords"), "{refused:?}");
    // A proxy of another kind hangs up; one that says nothing is waited for.
    let place = port(socks.port);
    let other = ["--proxy", "http", "--proxy-address", "127.0.0.1", "--proxy-port", &place];
    fails(&fleet, &other, "proxy_connect", &["no such proxy"]);
    let place = port(squid.port);
    let mistaken = ["--proxy", "socks5", "--proxy-address", "127.0.0.1", "--proxy-port", &place];
    fails(&fleet, &mistaken, "tcp", &["nor said no", "the proxy's protocol"]);

    // In everyday use too, and nothing of a proxy that is switched off.
    let place = port(squid.port);
    let by = ["--proxy", "http", "--proxy-address", "127.0.0.1", "--proxy-port", &place];
    let _set = fleet.settings(&[by.as_slice(), &login].concat()).ok();
    let _registered = fleet.json(&["manager", "register", "--update-source", "default"]);
    assert!(squid.said().contains(&format!("CONNECT localhost:{}", manager.link_port)), "{}", squid.said());
    let off = fleet.settings(&["--proxy", "none"]).ok().json();
    assert_eq!(
        (&off["proxy"], &off["proxy_address"], &off["proxy_password_set"]),
        (&"none".into(), &"".into(), &false.into())
    );
    let database = fs::read(fleet.path("server/writ.db")).unwrap();
    let log = fs::read(fleet.path("server/writ.db-wal")).unwrap_or_default();
    let holds = |text: &[u8]| text.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
    assert!(!holds(&database) && !holds(&log), "the password lies in the database");
    assert!(!fleet.server().said().contains(PASSWORD));
}

#[test]
fn a_clock_that_differs_an_entity_that_was_rejected_and_a_callback_that_never_comes_are_told_apart() {
    let mut fleet = Fleet::new(Build::Testing);
    let mut manager = Manager::new(&fleet);
    let _status = fleet.registered(&manager);
    let legs = passes(&fleet, &[]);
    let row = legs.iter().find(|row| row["leg"] == "authorization").unwrap();
    assert!(row["detail"].as_str().unwrap().contains("it knows this server"), "{row}");

    let nobody = format!("localhost:{}", free_port());
    fails(
        &fleet,
        &["--two-way", &nobody],
        "callback",
        &["could not hand anything over", "forwarded to port"],
    );
    // Somebody else listens there.
    let elsewhere = format!("localhost:{}", manager.link_port);
    fails(&fleet, &["--two-way", &elsewhere], "callback", &["forwarded to port"]);
    let here = free_port();
    fleet.notify_port = here;
    fleet.kill_server();
    fleet.start_server(None);
    fleet.add_context();
    let legs = passes(&fleet, &["--two-way", &format!("localhost:{here}")]);
    assert_eq!(outcome(&legs, "callback"), "passed");

    manager.restart_at(120);
    fails(&fleet, &[], "clock", &["ahead of", "clocks of both hosts"]);
    manager.restart_at(0);

    let id = fleet.line()["entity_id"].as_str().unwrap().to_owned();
    let _rejected = fleet.cm(&["entities", "reject", &id]);
    fails(&fleet, &[], "authorization", &["rejected", "approve it again"]);
}

#[test]
fn what_cannot_be_tried_fails_at_the_input_and_no_byte_is_sent() {
    let fleet = Fleet::new(Build::Shipped);
    fails(&fleet, &[], "input", &["no address is set"]);
    fails(&fleet, &["--address", "localhost"], "input", &["no CA certificate"]);
    for (changes, word) in [
        (["--address", "https://localhost"].as_slice(), "without scheme"),
        (&["--address", "10.0.0.300"], "neither an address"),
        (&["--address", "[localhost]"], "host name, an IPv4"),
        (&["--port", "0"], "1 to 65535"),
        (&["--port", "65536"], "1 to 65535"),
        (&["--two-way", "nowhere"], "host:port"),
        (&["--heartbeat", "10s", "--abnormal-after", "20s"], "at least three heartbeats"),
        (&["--proxy", "http"], "proxy_address must be set"),
        (&["--proxy", "http", "--proxy-address", "p", "--proxy-port", "0"], "proxy_port"),
        (&["--web-user", "a:b"], "no `:`"),
        (&["--web-user", "op"], "web_password must be set"),
    ] {
        fails(&fleet, changes, "input", &[word]);
        let refused = fleet.settings(changes).failed(7);
        assert!(refused.stderr.contains(word), "{changes:?} {refused:?}");
    }
    let key = fleet.path("server/tls.key");
    let leaf = fleet.path("server/tls.pem");
    let garbage = fleet.write_secret("garbage", "not a certificate");
    let old = TlsAuthority::create("old", SystemClock::new().wall() - DAY * 4000).unwrap();
    let expired = fleet.path("expired.pem");
    fs::write(&expired, pem::encode("CERTIFICATE", &old.certificate).as_bytes()).unwrap();
    let lone = fleet.path("leaf.pem");
    let first = pem::certificates(&fs::read(&leaf).unwrap()).unwrap().remove(0);
    fs::write(&lone, pem::encode("CERTIFICATE", &first).as_bytes()).unwrap();
    for (file, word) in [
        (&key, "holds a private key, which was not sent"),
        (&leaf, "holds 2 certificates"),
        (&lone, "not a certificate authority"),
        (&garbage, "neither PEM nor DER"),
        (&expired, "expired at"),
    ] {
        // What is no certificate does not leave the host; the rest is the server's to judge.
        let code = if *file == key || *file == garbage { 8 } else { 7 };
        let refused = fleet.settings(&["--ca", file.to_str().unwrap()]).failed(code);
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    let empty = fleet.write_secret("empty", "");
    let refused = fleet.settings(&["--ca", empty.to_str().unwrap()]).failed(8);
    assert!(refused.stderr.contains("`none` removes the CA"), "{refused:?}");
    let unseen = ["--output", "json", "manager", "settings", "set", "--ca", expired.to_str().unwrap()];
    let refused = fleet.writ(&unseen).failed(2);
    assert!(refused.stderr.contains("say --yes") && refused.stderr.contains("SHA-256"), "{refused:?}");
    // DER is as good as PEM, and what is trusted is shown.
    let der = fleet.path("ca.der");
    let ca = pem::certificates(&fs::read(fleet.path("server/admin-ca.pem")).unwrap()).unwrap().remove(0);
    fs::write(&der, &ca).unwrap();
    let shown = fleet.settings(&["--ca", der.to_str().unwrap()]).ok();
    let authority = &shown.json()["authorities"][0];
    assert_eq!(authority["sha256"], writ_protocol::id::Digest::of(&ca).to_string());
    assert!(authority["subject"].as_str().unwrap().contains("acme channel"), "{authority}");
}
