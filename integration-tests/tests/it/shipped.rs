//! What users get, and what they never get.

use std::fs;
use std::path::Path;

use integration_tests::fleet::{Build, Fleet, binary};
use writ_common::keys::pem;
use writ_protocol::identity::EnrolmentToken;
use writ_protocol::keys::{PrivateKey, Server};

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn shipped_binaries_have_no_checkpoints_and_testing_ones_do() {
    for shipped in ["writ-server", "writ-agent", "writ-control-manager"] {
        let testing = &format!("{shipped}-testing");
        assert!(!contains(&fs::read(binary(shipped)).unwrap(), b"WRITTEST_"), "{shipped} has a seam");
        assert!(contains(&fs::read(binary(testing)).unwrap(), b"WRITTEST_"), "{testing} has none");
    }
}

/// Every file below a folder; a socket holds nothing.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn no_private_byte_of_the_server_reaches_an_agent_and_no_secret_reaches_a_log() {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    let agent = fleet.agent("rome");
    let _sent = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();

    let read = |name: &str| fs::read(fleet.path(name)).unwrap();
    let signing =
        PrivateKey::<Server>::from_pkcs8(&pem::private_key(&fs::read(fleet.signing_key()).unwrap()).unwrap())
            .unwrap();
    let seed = signing.to_pkcs8()[16..].to_vec();
    for (path, content) in files(&fleet.path("rome")) {
        assert!(!contains(&content, &seed), "{path} holds the signing key");
    }
    let logs = fleet.server().said() + &agent.said();
    let token = fs::read_to_string(fleet.path("token")).unwrap();
    let admin = fs::read_to_string(fleet.path("server/admin-token")).unwrap();
    let pem = fs::read_to_string(fleet.signing_key()).unwrap();
    let base64 = pem.lines().nth(1).unwrap().to_owned();
    for secret in [hex::encode(&seed), base64, token.clone(), admin, "correct horse".to_owned()] {
        assert!(!logs.contains(&secret), "a secret is in a log");
    }
    // Only digests of tokens are kept.
    let secret = EnrolmentToken::from_text(&token).unwrap().secret;
    for file in ["server/writ.db", "server/writ.db-wal"] {
        let stored = read(file);
        assert!(!contains(&stored, fs::read(fleet.path("server/admin-token")).unwrap().as_slice()), "{file}");
        assert!(!contains(&stored, &secret), "{file} holds an enrolment secret");
    }
}

#[test]
fn the_backup_holds_every_private_key_sealed() {
    let fleet = Fleet::unmade(Build::Testing);
    let made = fleet.init().ok().json();
    let backup = fs::read(made["backup_file"].as_str().unwrap()).unwrap();
    let passphrase = writ_common::keys::sealed::Passphrase::new("correct horse battery staple").unwrap();
    let plain = writ_common::keys::sealed::open(&backup, &passphrase).unwrap();
    let folder = fleet.path("server");
    for path in [fleet.signing_key(), folder.join("tls-ca.key"), folder.join("authority.key.age")] {
        let content = fs::read(&path).unwrap();
        assert!(contains(&plain, &content), "{} is not in the backup", path.display());
        assert!(!contains(&backup, &content), "{} is in the clear", path.display());
    }
}

#[test]
fn all_demonstrations_come_out_as_they_should() {
    let fleet = Fleet::unmade(Build::Shipped);
    for demo in ["demo", "demo-keys", "demo-manager", "demo-rollout"] {
        let said = fleet.run(demo, &[]).ok();
        assert!(!said.stdout.is_empty(), "{demo} says nothing");
    }
}
