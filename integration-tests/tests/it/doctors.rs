//! `writ-server doctor` and `writ-agent doctor`: one primary cause for each fault.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::intruder::Intruder;
use integration_tests::old_tls::OldTls;
use integration_tests::stolen::now;
use serde_json::Value;
use writ_common::keys::pem;
use writ_common::tls::{LeafFacts, TlsAuthority};
use writ_protocol::keys::{Agent, Algorithm, PrivateKey, Server};

#[test]
fn the_doctor_names_one_primary_cause_for_each_fault() {
    let mut fleet = Fleet::new(Build::Testing);
    let verdict = |fleet: &Fleet, code: i32| {
        let said = fleet.keys(&["doctor"]).failed(code);
        said.json()["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict(&fleet, 0), "nothing is wrong");
    let backup_row = fleet.keys(&["doctor"]).json()["findings"][5].clone();
    assert_eq!(
        (&backup_row["level"], &backup_row["detail"]),
        (&"notice".into(), &"no backup was ever proven readable".into())
    );
    let file = fleet.backup();
    let _proven = fleet.keys(&["cert", "prove-backup", &file]).ok();
    assert_eq!(fleet.keys(&["doctor"]).json()["findings"][5]["level"], "good");

    fleet.kill_server();
    let key = fleet.signing_key();
    let aside = fleet.path("aside");
    fs::rename(&key, &aside).unwrap();
    assert!(verdict(&fleet, 1).contains("holds no signing key"), "missing");
    fs::copy(&aside, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(verdict(&fleet, 1).contains("lets others read it"), "permissions");
    fs::remove_file(&key).unwrap();
    let other = PrivateKey::<Server>::generate(Algorithm::Ed25519);
    fleet.write_secret(key.to_str().unwrap(), &pem::encode("PRIVATE KEY", &other.to_pkcs8()));
    assert!(verdict(&fleet, 1).contains("agents refuse it as `unknown_key`"), "mismatched");
    fs::rename(&aside, &key).unwrap();

    const DAY: i64 = 86_400;
    let at = |days: i64| fs::write(fleet.path("server-clock"), (days * DAY).to_string()).unwrap();
    at(3 * 365 - 20);
    let soon = fleet.keys(&["doctor"]).failed(1).json()["findings"][2].clone();
    assert!(
        soon["level"] == "notice" && soon["detail"].as_str().unwrap().contains("in less than 30 days"),
        "{soon}"
    );
    at(3 * 365 + 1);
    assert!(verdict(&fleet, 1).contains("is retired since"), "expired");
    at(-2);
    assert!(verdict(&fleet, 1).starts_with("clock: the clock says"), "clock");
    at(0);

    let leaf = fs::read(fleet.path("server/tls.pem")).unwrap();
    fs::write(fleet.path("server/tls.pem"), "no").unwrap();
    assert!(verdict(&fleet, 1).starts_with("channel:"), "channel");
    fs::write(fleet.path("server/tls.pem"), leaf).unwrap();
    what_it_says_of_a_damaged_key_mends_it(&fleet, &file);
    // Rights are mended by rights, never by other keys.
    let tls_key = fleet.path("server/tls.key");
    fs::set_permissions(&tls_key, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = fleet.keys(&["doctor"]).failed(1).json()["findings"][3].clone();
    assert_eq!(exposed["next"], format!("chmod 600 {}", tls_key.display()));
    fs::set_permissions(&tls_key, fs::Permissions::from_mode(0o600)).unwrap();
    let signing = fleet.signing_key();
    fs::set_permissions(&signing, fs::Permissions::from_mode(0o644)).unwrap();
    let findings = fleet.keys(&["doctor"]).failed(1).json()["findings"].clone();
    assert_eq!(findings[1]["next"], format!("chmod 600 {}", signing.display()));
    assert_eq!(findings[2]["detail"], "not judged: a key cannot be read, see above");
    fs::set_permissions(&signing, fs::Permissions::from_mode(0o600)).unwrap();
    let last = verdict(&fleet, 1);
    assert!(last.starts_with("ports: the server does not run"), "nothing else is wrong: {last}");
    fleet.start_again();
    assert_eq!(verdict(&fleet, 0), "nothing is wrong");
}

/// A restore replaces nothing, so the doctor has the damaged file moved away first.
fn what_it_says_of_a_damaged_key_mends_it(fleet: &Fleet, backup: &str) {
    for (damaged, place) in [(fleet.signing_key(), 1), (fleet.path("server/tls.pem"), 3)] {
        fs::write(&damaged, "no").unwrap();
        let next = fleet.keys(&["doctor"]).failed(1).json()["findings"][place]["next"].clone();
        let aside = format!("{}.damaged", damaged.display());
        let says = format!("mv {} {aside}, then: writ-server cert restore FILE", damaged.display());
        assert!(next.as_str().unwrap().starts_with(&says), "{next}");
        let too_soon = fleet.keys(&["cert", "restore", backup]).failed(1);
        assert!(
            too_soon.stderr.contains(&says) && too_soon.stderr.contains("nothing was changed"),
            "{too_soon:?}"
        );
        fs::rename(&damaged, &aside).unwrap();
        let _restored = fleet.keys(&["cert", "restore", backup]).ok();
        assert_eq!(fleet.keys(&["doctor"]).failed(1).json()["findings"][place]["level"], "good");
    }
    // An older backup than the chain's end would have said nothing else.
    let next = fleet.keys(&["doctor"]).failed(1).json()["verdict"].as_str().unwrap().to_owned();
    let (_, digest) = next.rsplit_once("writ-server authority confirm ").unwrap();
    let _confirmed = fleet.keys(&["authority", "confirm", digest]).ok();
}

#[test]
fn init_doubts_an_endpoint_only_this_host_finds_and_names_asked_for_outlive_a_damaged_tls_key() {
    let fleet = Fleet::unmade(Build::Testing);
    let made = fleet.init_with(&["--tls-name", "admin.example", "--endpoint", "127.0.0.1:7444"]).ok();
    for doubt in ["only agents on this host find it", "7444 is where operators come in"] {
        assert!(made.stderr.contains(doubt), "{doubt}: {made:?}");
    }
    let (key, aside) = (fleet.path("server/tls.key"), fleet.path("server/tls.key.damaged"));
    fs::write(&key, "no").unwrap();
    fs::rename(&key, &aside).unwrap();
    let backup = made.json()["backup_file"].as_str().unwrap().to_owned();
    let _restored = fleet.keys(&["cert", "restore", &backup]).ok();
    let leaf = pem::certificates(&fs::read(fleet.path("server/tls.pem")).unwrap()).unwrap();
    let names = LeafFacts::read(&leaf[0]).unwrap().names;
    assert!(names.contains(&"admin.example".to_owned()), "{names:?}");
}

/// What the agent's doctor says first, and its exit code.
fn verdict(fleet: &Fleet, code: i32) -> String {
    let config = fleet.agent_config("rome");
    let arguments = ["doctor", "--config", config.to_str().unwrap(), "--output", "json"];
    let said = fleet.run("writ-agent-testing", &arguments).failed(code);
    said.json()["verdict"].as_str().unwrap().to_owned()
}

fn says(fleet: &Fleet, start: &str, part: &str) {
    let said = verdict(fleet, 1);
    assert!(said.starts_with(start) && said.contains(part), "{start} … {part}: {said}");
}

#[test]
fn the_agents_doctor_names_what_is_wrong_with_its_files() {
    let fleet = Fleet::new(Build::Testing);
    says(&fleet, "identity:", "this agent is not enrolled");
    let agent = fleet.agent("rome");
    assert_eq!(verdict(&fleet, 0), "nothing is wrong");
    drop(agent);
    says(&fleet, "agent:", "it is not running");

    let key = fleet.path("rome/identity.key");
    let kept = fs::read(&key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    says(&fleet, "identity:", "lets others read it");
    fs::remove_file(&key).unwrap();
    says(&fleet, "identity:", "identity.key");
    let other = PrivateKey::<Agent>::generate(Algorithm::Ed25519);
    fleet.write_secret("rome/identity.key", &pem::encode("PRIVATE KEY", &other.to_pkcs8()));
    says(&fleet, "identity:", "both belong together");
    fs::write(&key, &kept).unwrap();

    let (chain, copy) = (fleet.path("rome/trust.chain"), fleet.path("rome/trust.chain.last-good"));
    let (whole, damaged) = (fs::read(&chain).unwrap(), b"garbage");
    fs::write(&chain, damaged).unwrap();
    says(&fleet, "agent:", "it is not running");
    fs::write(&copy, damaged).unwrap();
    says(&fleet, "trust:", "trust lost");
    fs::write(&chain, &whole).unwrap();
    fs::write(&copy, &whole).unwrap();

    let journal = fleet.path("rome/journal.redb");
    fs::rename(&journal, fleet.path("aside")).unwrap();
    says(&fleet, "journal:", "journal.redb");
    fs::rename(fleet.path("aside"), &journal).unwrap();
    fs::write(fleet.path("rome/settings"), damaged).unwrap();
    says(&fleet, "settings:", "damaged");
    fs::remove_file(fleet.path("rome/settings")).unwrap();
    fs::write(fleet.path("actions.d/bad.toml"), "program = \"ls\"\n").unwrap();
    says(&fleet, "actions:", "absolute path");
    fs::remove_file(fleet.path("actions.d/bad.toml")).unwrap();
}

#[test]
fn that_an_agent_hangs_is_told_by_status_and_doctor_and_its_journal_is_not_called_damaged() {
    let fleet = Fleet::new(Build::Shipped);
    let agent = fleet.agent("rome");
    let _done = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let config = fleet.agent_config("rome");
    let status = || {
        fleet.run("writ-agent", &["status", "--config", config.to_str().unwrap(), "--output", "json"]).json()
    };
    assert_eq!((&status()["remembered_commands"], &status()["journal"]), (&1.into(), &Value::Null));
    agent.signal("-STOP");
    let said = status();
    assert!(said["journal"].as_str().unwrap().contains("does not say how its journal stands"), "{said}");
    let doctor = fleet
        .run("writ-agent", &["doctor", "--config", config.to_str().unwrap(), "--output", "json"])
        .failed(1);
    let findings = doctor.json()["findings"].as_array().unwrap().clone();
    let found = findings.iter().find(|finding| finding["check"] == "journal").unwrap();
    assert!(
        found["level"] == "bad" && found["next"].as_str().unwrap().contains("systemctl restart"),
        "{found}"
    );
    agent.signal("-CONT");
    assert_eq!(status()["remembered_commands"], 1);
}

#[test]
fn the_agents_doctor_knows_that_an_operator_removed_the_agent() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let _removed = fleet.writ(&["agents", "remove", "rome"]).ok();
    agent.wait_for("no session", |_| true);
    says(&fleet, "agent: turned away:", "was removed by an operator");
}

#[test]
fn the_agents_doctor_names_what_is_wrong_with_the_server_it_finds() {
    let mut fleet = Fleet::new(Build::Testing);
    let _agent = fleet.agent("rome");
    fleet.road.cut();
    says(&fleet, "server:", "cannot");

    // A program that speaks TLS 1.2 at most.
    let authority = TlsAuthority::create("other", now()).unwrap();
    let leaf = authority.issue(&["localhost".to_owned()], now()).unwrap();
    let (cert, key) = (fleet.path("other.crt"), fleet.path("other.key"));
    fs::write(&cert, pem::encode("CERTIFICATE", &leaf.chain[0]).as_bytes()).unwrap();
    fs::write(&key, pem::encode("PRIVATE KEY", &leaf.key).as_bytes()).unwrap();
    let old = OldTls::serve(&cert, &key);
    fleet.road.lead_to(old.port);
    says(&fleet, "server:", "ProtocolVersion");
    drop(old);

    // Somebody else's certificate; then ours without the name.
    let stranger = Intruder::stranger(&fleet.road, &fleet.path("server"), now());
    says(&fleet, "server:", "UnknownIssuer");
    drop(stranger);
    fleet.kill_server();
    let read = |name: &str| fs::read(fleet.path("server").join(name)).unwrap();
    let ours = TlsAuthority {
        certificate: pem::certificates(&read("admin-ca.pem")).unwrap().remove(0),
        key: pem::private_key(&read("tls-ca.key")).unwrap(),
    };
    let wrong = ours.issue(&["elsewhere.example".to_owned()], now()).unwrap();
    let kept = (read("tls.pem"), read("tls.key"));
    let chain: String = wrong.chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
    fs::write(fleet.path("server/tls.pem"), chain).unwrap();
    fs::write(fleet.path("server/tls.key"), pem::encode("PRIVATE KEY", &wrong.key).as_bytes()).unwrap();
    // With its authority's key the server would issue a right one.
    let (authority, aside) = (fleet.path("server/tls-ca.key"), fleet.path("tls-ca.key"));
    fs::rename(&authority, &aside).unwrap();
    fleet.start_server(None);
    says(&fleet, "server:", "not valid for name");
    fleet.kill_server();
    fs::rename(&aside, &authority).unwrap();
    fs::write(fleet.path("server/tls.pem"), kept.0).unwrap();
    fs::write(fleet.path("server/tls.key"), kept.1).unwrap();

    // A key no bundle lists, as of a server made anew without the authority.
    let signing = fleet.signing_key();
    let kept = fs::read(&signing).unwrap();
    let other = PrivateKey::<Server>::generate(Algorithm::Ed25519);
    fleet.write_secret(signing.to_str().unwrap(), &pem::encode("PRIVATE KEY", &other.to_pkcs8()));
    fleet.start_server(None);
    says(&fleet, "server:", "holds no signing key that agents obey");
    fleet.kill_server();
    fs::write(&signing, kept).unwrap();

    // A clock on this host that is an hour off is worth a word, and nothing more.
    fleet.start_server(None);
    let config = fleet.agent_config("rome");
    let skewed = fleet.run_with_clock(
        "writ-agent-testing",
        &["doctor", "--config", config.to_str().unwrap(), "--output", "json"],
        3600,
    );
    let findings = skewed.json()["findings"].clone();
    let server = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "server").unwrap();
    assert!(
        server["level"] == "notice" && server["detail"].as_str().unwrap().contains("clock"),
        "{findings}"
    );
    assert_eq!(skewed.json()["verdict"], "nothing is wrong");

    // Expired: the server says so itself, and the agent's doctor hears it.
    fleet.restart_server_at(3 * 365 * 86_400 + 86_400);
    says(&fleet, "server:", "holds no signing key that agents obey");
}

#[test]
fn writ_doctor_goes_step_by_step_from_this_machine_to_the_server() {
    let mut fleet = Fleet::new(Build::Shipped);
    let cause = |fleet: &Fleet| {
        let said = fleet.writ(&["--output", "json", "doctor"]).failed(1).json();
        said["verdict"].as_str().unwrap().split(':').next().unwrap().to_owned()
    };
    let good = fleet.json(&["doctor"]);
    assert_eq!(good["verdict"], "nothing is wrong");
    let checks: Vec<_> =
        good["findings"].as_array().unwrap().iter().map(|found| found["check"].as_str().unwrap()).collect();
    assert_eq!(checks, ["context", "ca", "token", "name", "port", "channel", "server", "clock", "signing"]);
    assert!(fleet.writ(&["doctor"]).ok().stdout.starts_with("nothing is wrong\n  good   context"));

    let (token, ca) = (fleet.path("server/admin-token"), fleet.path("server/admin-ca.pem"));
    let (kept, kept_ca) = (fs::read(&token).unwrap(), fs::read(&ca).unwrap());
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(cause(&fleet), "token", "exposed");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&token, "0".repeat(kept.len())).unwrap();
    assert_eq!(cause(&fleet), "server", "a token nobody knows");
    fs::write(&token, kept).unwrap();
    let other = TlsAuthority::create("other", now()).unwrap();
    fs::write(&ca, pem::encode("CERTIFICATE", &other.certificate)).unwrap();
    assert_eq!(cause(&fleet), "channel", "another server's authority");
    fs::write(&ca, "no").unwrap();
    assert_eq!(cause(&fleet), "ca");
    fs::write(&ca, kept_ca).unwrap();
    fleet.kill_server();
    assert_eq!(cause(&fleet), "port");
    let said = fleet.writ(&["--context", "nobody", "doctor"]).failed(1);
    assert!(said.stdout.starts_with("context: there is no context `nobody`"), "{said:?}");
}

#[test]
fn doctors_look_at_the_host_too() {
    let mut fleet = Fleet::new(Build::Shipped);
    let agent = fleet.agent("rome");
    let finding = |said: &Value, check: &str| {
        let all = said["findings"].as_array().unwrap();
        all.iter()
            .find(|found| found["check"] == check)
            .unwrap_or_else(|| panic!("{check}: {said:#}"))
            .clone()
    };
    let config = fleet.path("server.toml");
    let data = fleet.path("server");
    let places = ["--config", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let server = |fleet: &Fleet| {
        fleet.run("writ-server", &[&["doctor", "--output", "json"], &places[..]].concat()).json()
    };
    let said = server(&fleet);
    for check in ["folder", "disk", "limits", "names"] {
        assert_eq!(finding(&said, check)["level"], "good", "{said:#}");
    }
    let doctor = fleet.agent_config("rome");
    let host = fleet
        .run("writ-agent", &["doctor", "--output", "json", "--config", doctor.to_str().unwrap()])
        .ok()
        .json();
    for check in ["folder", "disk", "limits"] {
        assert_eq!(finding(&host, check)["level"], "good", "{host:#}");
    }
    // Others may write into the folder: any of them can become the agent.
    let folder = fleet.path("rome");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let open = fleet
        .run("writ-agent", &["doctor", "--output", "json", "--config", doctor.to_str().unwrap()])
        .failed(1);
    assert!(finding(&open.json(), "folder")["next"].as_str().unwrap().starts_with("chmod go-w"), "{open:?}");
    drop(agent);
    // A port that somebody else has.
    fleet.kill_server();
    let free = finding(&server(&fleet), "ports");
    assert!(free["detail"].as_str().unwrap().contains("does not run"), "{free}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "[listen]\nagents = \"{}\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\n",
        taken.local_addr().unwrap()
    );
    fs::write(&config, text).unwrap();
    let said = finding(&server(&fleet), "ports");
    assert!(said["detail"].as_str().unwrap().contains("another program has this port"), "{said}");
    assert!(said["next"].as_str().unwrap().contains("listen.agents"), "{said}");
}

#[test]
fn every_command_finds_the_folder_the_configuration_names_and_keys_need_no_configuration() {
    let fleet = Fleet::unmade(Build::Shipped);
    let (folder, config) = (fleet.path("elsewhere"), fleet.path("elsewhere.toml"));
    let written = format!("data_dir = \"{}\"\n[listen]\nadmin = \"127.0.0.1:0\"\n", folder.display());
    fs::write(&config, written).unwrap();
    let (config, passphrase) = (config.to_str().unwrap(), fleet.path("passphrase").display().to_string());
    let init = ["init", "--config", config, "--name", "acme", "--endpoint", "localhost:7443"];
    let _made = fleet.run("writ-server", &[&init[..], &["--passphrase-file", &passphrase]].concat()).ok();
    assert!(folder.join("writ.db").exists());
    let listed =
        fleet.run("writ-server", &["cert", "list", "--output", "json", "--config", config]).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert!(fleet.run("writ-server", &["doctor", "--config", config]).stdout.contains("signing"));

    // A mistake in the configuration is said, and keeps nobody from the keys.
    fs::write(fleet.path("elsewhere.toml"), "data_dirr = \"x\"\n").unwrap();
    let said = fleet.run("writ-server", &["cert", "list", "--config", config]);
    assert!(said.code == 64 && said.stderr.contains("did you mean `data_dir`?"), "{said:?}");
    let _listed = fleet
        .run("writ-server", &["cert", "list", "--config", config, "--data-dir", folder.to_str().unwrap()])
        .ok();

    let (folder, config) = (fleet.path("manager"), fleet.path("manager.toml"));
    fs::write(&config, format!("data_dir = \"{}\"\n", folder.display())).unwrap();
    let init =
        ["init", "--name", "head-office", "--tls-name", "localhost", "--config", config.to_str().unwrap()];
    let _made = fleet.run("writ-control-manager", &init).ok();
    assert!(folder.join("control-manager.db").exists());
}
