//! `make demo-manager`: a server under its Control Manager, through a real web server and a real proxy, on
//! real processes, in a temporary folder.
#![allow(clippy::print_stdout, reason = "talking is what a demonstration does")]
#![allow(clippy::unwrap_used, reason = "in a demonstration a panic is the failed step")]

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use integration_tests::ports::free_port;
use integration_tests::proxies::{Nginx, PASSWORD, Proxy, USER};
use serde_json::Value;

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn proved(text: &str) {
    println!("   => {text}");
}

/// What an operator types, for somebody to watch; its exit code must be this one.
fn types(fleet: &Fleet, arguments: &[&str], code: i32) {
    println!("   $ writ {}", arguments.join(" "));
    assert_eq!(fleet.show(arguments), code);
}

/// The leg a test fails at.
fn fails_at(fleet: &Fleet, leg: &str) {
    types(fleet, &["manager", "test"], 1);
    let (legs, _) = fleet.legs(&[]);
    let failed = integration_tests::manager::failed(&legs);
    assert_eq!(failed["leg"], leg, "{legs:#?}");
    proved(&format!("it fails at {leg}: {}", failed["advice"].as_str().unwrap()));
}

fn tracked(fleet: &Fleet, manager: &Manager, arguments: &[&str]) -> Value {
    println!("   $ writ --context cm {}", arguments.join(" "));
    let issued = fleet.cm(arguments);
    let id = issued["instruction_id"].as_str().unwrap().to_owned();
    manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == id);
    types(fleet, &["--context", "cm", "instruct", "show", &id], 0);
    let shown = fleet.cm(&["instruct", "show", &id]);
    assert_eq!((&shown["successful"], &shown["total"]), (&1.into(), &1.into()), "{shown:#}");
    shown
}

fn main() {
    println!("One manager above a server; between the two a web server and a proxy, each with a password.");

    step(1, "A fleet of two, and a Control Manager behind nginx, reached by squid");
    let mut fleet = Fleet::unmade(Build::Shipped);
    let here = free_port();
    fleet.notify_port = here;
    let _made = fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    let _agents = [fleet.agent("rome"), fleet.agent("paris")];
    let manager = Manager::new(&fleet);
    let (certificate, key) = (manager.path("tls.pem"), manager.path("tls.key"));
    let how = Nginx { asks: true, protocols: "TLSv1.3" };
    let nginx = Proxy::nginx(&certificate, &key, manager.clear_port, how);
    let squid = Proxy::squid();
    let (right, wrong) = (fleet.write_secret("password", PASSWORD), fleet.write_secret("typo", "guess"));
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());
    proved("the server was given nothing yet");

    step(2, "Test Connection fails at three legs, and says what to do each time");
    let (web, gate, ca) = (nginx.port.to_string(), squid.port.to_string(), manager.ca());
    let place = ["--address", "localhost", "--port", &web, "--ca", &ca];
    let proxy = ["--proxy", "http", "--proxy-address", "127.0.0.1", "--proxy-port", &gate];
    let typo = ["--proxy-user", USER, "--proxy-password-file", wrong];
    let _set = fleet.settings(&[place.as_slice(), &proxy, &typo].concat()).ok();
    fails_at(&fleet, "proxy_authentication");
    let _set = fleet.settings(&["--proxy-password-file", right]).ok();
    fails_at(&fleet, "web_authentication");
    let login = ["--web-user", USER, "--web-password-file", right];
    let nowhere = format!("localhost:{}", free_port());
    let _set = fleet.settings(&[login.as_slice(), &["--two-way", &nowhere]].concat()).ok();
    fails_at(&fleet, "callback");

    step(3, "Set right, every leg is gone");
    let _set = fleet.settings(&["--one-way", "--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    types(&fleet, &["manager", "test"], 0);
    assert_eq!(fleet.cm(&["entities", "list"]), serde_json::json!([]));
    proved("nothing was registered by testing");

    step(4, "Register, and answer whether the manager becomes the update source");
    let refused = fleet.writ(&["--output", "json", "manager", "register"]).failed(7);
    assert!(refused.stderr.contains("update_source_unanswered"), "{refused:?}");
    proved("a program that does not answer registers nothing");
    types(&fleet, &["manager", "register", "--update-source", "manager"], 0);
    let entity = fleet.line()["entity_id"].as_str().unwrap().to_owned();
    types(&fleet, &["--context", "cm", "entities", "approve", &entity], 0);
    types(&fleet, &["--context", "cm", "entities", "list"], 0);
    proved("the manager's operator let it in");

    instructions(&fleet, &manager, here);

    step(8, "Unregister");
    types(&fleet, &["manager", "unregister"], 0);
    assert_eq!(fleet.cm(&["entities", "list"]), serde_json::json!([]));
    let status = fleet.line();
    assert_eq!(
        (&status["state"], &status["update_source"]),
        (&"unregistered".into(), &"default".into()),
        "{status}"
    );
    for said in [fleet.server().said(), manager.daemon().said(), nginx.said()] {
        assert!(!said.contains(PASSWORD), "a log holds a password");
    }
    proved("the manager lists nobody, updates come from where they came before, and no log holds a password");
    println!("\nEvery step came out as it should.");
}

/// What the manager tells the server to do, and what the server tells it.
fn instructions(fleet: &Fleet, manager: &Manager, here: u16) {
    step(5, "An instruction to the fleet, tracked to its end");
    let shown = tracked(fleet, manager, &["instruct", "ping", "--all"]);
    let command = shown["deliveries"][0]["command_id"].as_str().unwrap().to_owned();
    types(fleet, &["commands", "show", &command], 0);
    assert_eq!(fleet.json(&["commands", "show", &command])["requested_by"], "control-manager/admin");
    proved("two agents obeyed the server's own key; the manager never held it");

    step(6, "A change is not sent until it is");
    let _set = fleet.settings(&["--display-name", "front office"]).ok();
    assert_eq!(fleet.line()["settings_not_sent"], true);
    types(fleet, &["manager", "update"], 0);
    assert_eq!(fleet.cm(&["entities", "list"])[0]["display_name"], "front office");
    proved("the manager lists it by its new name");

    step(7, "Two-way: the manager calls, and the answer does not wait for the next poll");
    let forwarded = format!("localhost:{here}");
    let _set = fleet.settings(&["--two-way", &forwarded, "--heartbeat", "1h", "--abnormal-after", "3h"]).ok();
    types(fleet, &["manager", "test"], 0);
    let _sent = fleet.json(&["manager", "update"]);
    fleet.server().wait_for("listening for the Control Manager", |_| true);
    let _shown = tracked(fleet, manager, &["instruct", "status", "--entity", "front office"]);
    proved("the next poll by itself was an hour away");
}
