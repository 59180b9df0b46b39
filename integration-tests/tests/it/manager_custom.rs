//! A manager under the organisation's own authority, made with OpenSSL.

use std::fs;
use std::path::Path;

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use integration_tests::stolen::now;

use crate::telemetry::{DAY, metrics_of, value};

/// Makes a key and a certificate signed by an issuer, with these extensions.
pub(crate) fn issue(fleet: &Fleet, name: &str, issuer: Option<&str>, extensions: &str, algorithm: &[&str]) {
    issue_for(30, fleet, name, issuer, extensions, algorithm);
}

/// The same for another number of days.
fn issue_for(
    days: u32,
    fleet: &Fleet,
    name: &str,
    issuer: Option<&str>,
    extensions: &str,
    algorithm: &[&str],
) {
    let days = days.to_string();
    let path = |suffix: &str| fleet.path(&format!("{name}.{suffix}")).to_str().unwrap().to_owned();
    let openssl = |arguments: &[&str]| {
        let _done = fleet.run_tool("openssl", arguments).ok();
    };
    fs::write(path("ext"), extensions).unwrap();
    openssl(&[["genpkey", "-out", &path("key")].as_slice(), algorithm].concat());
    let _kept = fleet.write_secret(&format!("{name}.key"), &fs::read_to_string(path("key")).unwrap());
    let subject = format!("/O=Example/CN={name}");
    openssl(&["req", "-new", "-key", &path("key"), "-subj", &subject, "-out", &path("csr")]);
    let (csr, pem, ext) = (path("csr"), path("pem"), path("ext"));
    let common = ["x509", "-req", "-in", &csr, "-out", &pem, "-days", &days, "-extfile", &ext];
    match issuer {
        None => openssl(&[common.as_slice(), &["-signkey", &path("key")]].concat()),
        Some(issuer) => {
            let of = |suffix: &str| fleet.path(&format!("{issuer}.{suffix}")).to_str().unwrap().to_owned();
            openssl(
                &[common.as_slice(), &["-CA", &of("pem"), "-CAkey", &of("key"), "-CAcreateserial"]].concat(),
            );
        }
    }
}

pub(crate) fn chain(fleet: &Fleet, file: &str, parts: &[&str]) -> String {
    let text: String =
        parts.iter().map(|part| fs::read_to_string(fleet.path(&format!("{part}.pem"))).unwrap()).collect();
    let path = fleet.path(file);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) const EC: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
pub(crate) const AUTHORITY: &str =
    "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
/// What the channel's certificate is for, and the one that signs instructions.
pub(crate) const TLS: &str = "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";
pub(crate) const SIGNS: &str =
    "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=1.3.6.1.5.5.7.3.36\n";

#[test]
fn a_manager_under_the_organisations_own_authority_and_intermediates_is_met_by_its_root() {
    let fleet = Fleet::new(Build::Shipped);
    issue(&fleet, "root", None, AUTHORITY, &EC);
    issue_for(20, &fleet, "between", Some("root"), AUTHORITY, &EC);
    issue(&fleet, "tls", Some("between"), TLS, &EC);
    issue(&fleet, "signs", Some("between"), SIGNS, &EC);
    // Any other key the organisation vouches for is nobody's voice: a web server's among them.
    let web_chain = chain(&fleet, "web-chain.pem", &["tls", "between"]);
    issue(&fleet, "cannot", Some("between"), "basicConstraints=CA:FALSE\nkeyUsage=keyEncipherment\n", &EC);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let file = |name: &str| text(&fleet.path(name));
    let tls_chain = chain(&fleet, "tls-chain.pem", &["tls", "between"]);
    let signing_chain = chain(&fleet, "signing-chain.pem", &["signs", "between"]);
    let cut = chain(&fleet, "cut.pem", &["signs"]);
    let cannot = chain(&fleet, "cannot-chain.pem", &["cannot", "between"]);

    let mut manager = Manager::unmade(&fleet, "manager", "");
    let init = |signing: &str, key: &str| {
        let (root, tls_key, key) = (file("root.pem"), file("tls.key"), file(key));
        let custom = [
            "--custom-ca",
            &root,
            "--tls-certificate",
            &tls_chain,
            "--tls-key",
            &tls_key,
            "--signing-certificate",
            signing,
            "--signing-key",
            &key,
        ];
        manager.init(&fleet, &custom)
    };
    // What does not belong together is refused, and nothing is copied.
    for (signing, key, word) in [
        (&cut, "signs.key", "not certified by the authority"),
        (&signing_chain, "tls.key", "is not the certificate of the key"),
        (&cannot, "cannot.key", "does not allow digital signatures"),
        (&web_chain, "tls.key", "not one for signing documents"),
    ] {
        let refused = init(signing, key).failed(64);
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
        assert!(!manager.path("signing.pem").exists() && !manager.path("control-manager-ca.pem").exists());
    }
    let made = init(&signing_chain, "signs.key").ok().json();
    assert!(made["ca_subject"].as_str().unwrap().contains("CN=root"), "{made}");
    assert!(!manager.path("control-manager-ca.key").exists(), "the organisation's key is none of ours");
    manager.start(None);
    manager.add_context(&fleet);
    // What is between ends before what it vouches for: so long is the manager believed.
    let ends = "writ_manager_signing_certificate_not_after_timestamp_seconds";
    let left = value(&metrics_of(manager.daemon()), ends) - i64::try_from(now().as_millis() / 1000).unwrap();
    assert!((20 * DAY - 600..=20 * DAY).contains(&left), "{left}");

    // The intermediate is not the root.
    let port = manager.link_port.to_string();
    let to = ["--address", "localhost", "--port", &port, "--ca", &file("root.pem")];
    let shown = fleet.settings(&to).ok().json();
    assert!(shown["authorities"][0]["issuer"].as_str().unwrap().contains("CN=root"), "{shown}");
    let (legs, went_well) = fleet.legs(&[]);
    assert!(went_well, "{legs:#?}");
    let token = manager.token(&fleet);
    let _set = fleet
        .settings(&["--registration-token-file", &token, "--heartbeat", "1s", "--abnormal-after", "3s"])
        .ok();
    let status = fleet.json(&["manager", "register", "--update-source", "manager"]);
    assert_eq!(
        (&status["state"], &status["certificate_authorization"]),
        (&"registered".into(), &true.into()),
        "{status}"
    );
    it_is_obeyed(&fleet, &manager);
    another_signer_is_not_the_manager(&fleet, &mut manager);
}

/// Its instruction ends, and stands in the log as its operator's.
fn it_is_obeyed(fleet: &Fleet, manager: &Manager) {
    let issued = fleet.cm(&["instruct", "status", "--all"]);
    manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == issued["instruction_id"]);
    let looked = fleet.json(&["audit", "list", "--looks"]);
    let asked = looked
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["method"] == "/writ.manager.v1.Instruction/AskStatus");
    assert!(asked.unwrap()["actor"].as_str().unwrap().starts_with("control-manager/"), "{looked}");
}

/// Another signer of documents under the same authority is not the manager; a renewed certificate of the
/// manager is.
fn another_signer_is_not_the_manager(fleet: &Fleet, manager: &mut Manager) {
    issue(fleet, "notary", Some("between"), SIGNS, &EC);
    let notary = chain(fleet, "notary-chain.pem", &["notary", "between"]);
    let put = |manager: &mut Manager, chain: &str, key: &str| {
        manager.stop();
        fs::copy(chain, manager.path("signing.pem")).unwrap();
        fs::copy(fleet.path(key), manager.path("signing.key")).unwrap();
        manager.start(None);
    };
    let heard = || fleet.json(&["manager", "status"])["last_error"].as_str().unwrap().to_owned();
    put(manager, &notary, "notary.key");
    until("the notary is not the manager", || heard().contains("CN=notary"));
    assert!(heard().contains("writ manager re-register"), "{}", heard());
    issue(fleet, "signs", Some("between"), SIGNS, &EC);
    let renewed = chain(fleet, "renewed-chain.pem", &["signs", "between"]);
    put(manager, &renewed, "signs.key");
    until("the manager has a new key", || heard().is_empty());
    put(manager, &notary, "notary.key");
    until("the notary is not the manager", || heard().contains("CN=notary"));
    let status = fleet.json(&["manager", "re-register"]);
    assert_eq!(status["last_error"], "", "an operator decided: {status}");
}
