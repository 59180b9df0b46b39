//! Certificates come from and go to other programs: judged by the real OpenSSL.

use std::fs;

use integration_tests::fleet::{Build, Fleet, Said};

fn openssl(fleet: &Fleet, arguments: &[&str]) {
    let said = fleet.run_tool("openssl", arguments);
    assert_eq!(said.code, 0, "{said:?}");
}

/// A self-signed certificate with its key, made by OpenSSL, in a PEM file.
fn made(fleet: &Fleet, name: &str, algorithm: &[&str]) -> String {
    let (key, cert) = (fleet.path(&format!("{name}.key")), fleet.path(&format!("{name}.crt")));
    let (key, cert) = (key.to_str().unwrap(), cert.to_str().unwrap());
    openssl(fleet, &[&["genpkey", "-out", key], algorithm].concat());
    openssl(fleet, &["req", "-new", "-x509", "-key", key, "-out", cert, "-days", "365", "-subj", "/CN=acme"]);
    let both = [fs::read_to_string(key).unwrap(), fs::read_to_string(cert).unwrap()].concat();
    fleet.write_secret(&format!("{name}.pem"), &both).to_str().unwrap().to_owned()
}

const ED25519: [&str; 2] = ["-algorithm", "ed25519"];
const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

fn import(fleet: &Fleet, file: &str, more: &[&str]) -> Said {
    fleet.keys(&[["cert", "import", file].as_slice(), more].concat())
}

#[test]
fn certificates_of_openssl_sign_commands_and_ours_are_read_by_openssl() {
    let fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    let secret = fleet.write_secret("p12-passphrase", "a passphrase for files\n");
    let secret = secret.to_str().unwrap();
    for (version, (name, algorithm)) in [(2, ("ed", ED25519.as_slice())), (4, ("ec", P256.as_slice()))] {
        let pem = made(&fleet, name, algorithm);
        let by_pem = import(&fleet, &pem, &[]).ok().json();
        rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == version);
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
        // The same algorithm once more, as PKCS#12.
        let again = made(&fleet, &format!("{name}-p12"), algorithm);
        let p12 = fleet.path(&format!("{name}.p12"));
        let p12 = p12.to_str().unwrap();
        let pass = format!("file:{secret}");
        openssl(
            &fleet,
            &["pkcs12", "-export", "-in", &again, "-out", p12, "-passout", &pass, "-name", "acme"],
        );
        let by_p12 = import(&fleet, p12, &["--file-passphrase-file", secret]).ok().json();
        assert_ne!(by_pem["signing_key_id"], by_p12["signing_key_id"]);
        rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == version + 1);
        assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);

        let (public, exported) =
            (fleet.path(&format!("{name}.out.pem")), fleet.path(&format!("{name}.out.p12")));
        let (public, exported) = (public.to_str().unwrap(), exported.to_str().unwrap());
        let _written = fleet.keys(&["cert", "export", public]).ok();
        openssl(&fleet, &["x509", "-in", public, "-noout", "-text"]);
        let _written = fleet.keys(&["cert", "export", exported, "--with-key", secret]).ok();
        let back = fleet.path(&format!("{name}.back.pem"));
        let back = back.to_str().unwrap();
        openssl(&fleet, &["pkcs12", "-in", exported, "-passin", &pass, "-nodes", "-out", back]);
        // A further server that shares the certificate: nothing but its key is missing there.
        let key = by_p12["signing_key_id"].as_str().unwrap();
        fs::remove_file(fleet.path(&format!("server/signing/{key}.key"))).unwrap();
        let shared = import(&fleet, back, &[]).ok();
        assert!(shared.stdout.contains(key) && fleet.path(&format!("server/signing/{key}.key")).exists());
    }
}

#[test]
fn what_is_no_certificate_with_its_key_is_refused_by_what_it_is() {
    let fleet = Fleet::new(Build::Testing);
    let good = made(&fleet, "good", &ED25519);
    let other = made(&fleet, "other", &ED25519);
    let rsa = made(&fleet, "rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let path = |name: &str| fleet.path(name).to_str().unwrap().to_owned();
    let (secret, wrong) = (
        fleet.write_secret("right", "the right passphrase\n"),
        fleet.write_secret("wrong", "another passphrase\n"),
    );
    let pass = format!("file:{}", secret.display());
    openssl(&fleet, &["pkcs12", "-export", "-in", &good, "-out", &path("good.p12"), "-passout", &pass]);
    openssl(
        &fleet,
        &["pkey", "-in", &path("good.key"), "-aes256", "-passout", &pass, "-out", &path("locked.key")],
    );
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    let _mixed = fleet.write_secret("mixed.pem", &[read("good.key"), read("other.crt")].concat());
    fs::write(path("exposed.pem"), fs::read(&good).unwrap()).unwrap();
    let whole = fs::read(path("good.p12")).unwrap();
    fs::write(path("cut.p12"), &whole[..whole.len() / 2]).unwrap();
    fs::write(path("garbage"), "no").unwrap();
    let cases: [(&str, &[&str], &str); 10] = [
        (&path("exposed.pem"), &[], "lets others read it"),
        (&path("garbage"), &[], "neither PEM nor a whole PKCS#12 file"),
        (&path("good.crt"), &[], "no private key in it"),
        (&path("good.key"), &[], "no certificate of its key"),
        (&path("mixed.pem"), &[], "no certificate of its key"),
        (&path("locked.key"), &[], "is encrypted; decrypt it first"),
        (&rsa, &[], "not an Ed25519 or P-256 key"),
        (&path("good.p12"), &[], "which a passphrase opens"),
        (
            &path("good.p12"),
            &["--file-passphrase-file", wrong.to_str().unwrap()],
            "the passphrase does not open it",
        ),
        (
            &path("cut.p12"),
            &["--file-passphrase-file", secret.to_str().unwrap()],
            "neither PEM nor a whole PKCS#12 file",
        ),
    ];
    for (file, more, says) in cases {
        let said = import(&fleet, file, more);
        assert!(said.code == 64 && said.stderr.contains(says), "{file}: {says}: {said:?}");
    }
    let _imported = import(&fleet, &other, &[]).ok();
    let twice = import(&fleet, &other, &[]);
    assert!(twice.code == 1 && twice.stderr.contains("is listed already"), "{twice:?}");
    fleet.server().wait_for("trust bundle in force", |said| said["bundle.version"] == 2);
    assert_eq!(fleet.json(&["server"])["chain_version"], 2);
}

#[test]
fn keys_that_stay_here_are_neither_exported_nor_backed_up_again() {
    let mut fleet = Fleet::new(Build::Testing);
    let rome = fleet.agent("rome");
    let pem = made(&fleet, "stays", &ED25519);
    let imported = import(&fleet, &pem, &["--non-exportable"]).ok().json();
    let key = imported["signing_key_id"].as_str().unwrap().to_owned();
    rome.wait_for("trust bundle accepted", |said| said["bundle.version"] == 2);
    let listed = fleet.keys(&["cert", "list"]).ok().json();
    assert_eq!((&listed[0]["exportable"], &listed[1]["exportable"]), (&true.into(), &false.into()));
    let secret = fleet.write_secret("p12-passphrase", "a passphrase for files\n");
    let out = fleet.path("out.p12").to_str().unwrap().to_owned();
    let export = |key: &[&str]| {
        let with = ["cert", "export", &out, "--with-key", secret.to_str().unwrap()];
        fleet.keys(&[with.as_slice(), key].concat())
    };
    let refused = export(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("was put here as not exportable"), "{refused:?}");
    let _public = fleet.keys(&["cert", "export", &out]).ok();

    // A backup of this server does not hold it; a server restored so keeps none of its keys from leaving but by its own files.
    let backup = fleet.backup();
    let _proven = fleet.keys(&["cert", "prove-backup", &backup]).ok();
    fleet.lose_the_server();
    let _restored = fleet.keys(&["cert", "restore", &backup, "--non-exportable"]).ok();
    let listed = fleet.keys(&["cert", "list"]).ok().json();
    assert_eq!((&listed[0]["held_here"], &listed[0]["exportable"]), (&true.into(), &false.into()));
    assert_eq!((&listed[1]["key_id"], &listed[1]["held_here"]), (&key.as_str().into(), &false.into()));
}

#[test]
fn a_dry_run_changes_nothing_and_what_changes_is_in_the_audit_log() {
    let fleet = Fleet::new(Build::Testing);
    let _rome = fleet.agent("rome");
    let pem = made(&fleet, "new", &ED25519);
    let backup = fleet.path("dry.age").to_str().unwrap().to_owned();
    let leaked = fleet.json(&["server"])["signing_key_id"].as_str().unwrap()[..16].to_owned();
    let endpoint = fleet.endpoint();
    let changes: [&[&str]; 8] = [
        &["cert", "create"],
        &["cert", "create", "--standby"],
        &["cert", "revoke", &leaked],
        &["cert", "import", &pem],
        &["cert", "backup", &backup],
        &["authority", "channel"],
        &["authority", "reset-floor"],
        &["authority", "endpoints", "--endpoint", &endpoint],
    ];
    let before = fleet.run_tool(
        "find",
        &[fleet.path("server").to_str().unwrap(), "-name", "*.key", "-o", "-name", "*.age"],
    );
    for change in changes {
        let said = fleet.keys(&[change, &["--dry-run"]].concat()).ok();
        assert!(!said.stdout.contains("\"published\": true"), "{said:?}");
    }
    let after = fleet.run_tool(
        "find",
        &[fleet.path("server").to_str().unwrap(), "-name", "*.key", "-o", "-name", "*.age"],
    );
    assert_eq!(before.stdout, after.stdout);
    assert_eq!(fleet.json(&["server"])["chain_version"], 1);
    assert!(!fleet.path("dry.age").exists());

    let _made = fleet.keys(&["cert", "create"]).ok();
    let file = fleet.backup();
    let _proven = fleet.keys(&["cert", "prove-backup", &file]).ok();
    let looked = fleet.keys(&["cert", "restore", &file, "--dry-run"]).ok().json();
    assert!(looked.as_array().unwrap().iter().any(|name| name == "authority.key.age"), "{looked}");
    let audited = fleet.json(&["audit", "list"]).to_string();
    for command in ["cert create", "cert backup", "cert prove-backup"] {
        assert!(audited.contains(&format!("writ-server {command}")), "{command}: {audited}");
    }
}
