//! Certificates come from and go to other programs: judged by the real OpenSSL.

use std::fs;

use integration_tests::fleet::{Build, Fleet, Said};
use integration_tests::python;

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
        (&path("garbage"), &[], "it is neither PEM nor DER"),
        (&path("good.crt"), &[], "no private key in it"),
        (&path("good.key"), &[], "no certificate of its key"),
        (&path("mixed.pem"), &[], "no certificate of its key"),
        (
            &path("locked.key"),
            &[],
            "a passphrase opens it: name a file that holds it with --file-passphrase-file",
        ),
        (&rsa, &[], "it holds an RSA key; Writ signs with Ed25519 or P-256"),
        (&path("good.p12"), &[], "a passphrase opens it"),
        (
            &path("good.p12"),
            &["--file-passphrase-file", wrong.to_str().unwrap()],
            "the passphrase does not open it",
        ),
        (
            &path("cut.p12"),
            &["--file-passphrase-file", secret.to_str().unwrap()],
            "it is neither PEM nor DER",
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

    // A backup of this server does not hold it; a server restored so keeps none of its keys from leaving but
    // by its own files.
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

/// Files with a certificate and its key as all kinds of programs leave them; the passphrase opens those that
/// need one.
fn as_others_write_it(fleet: &Fleet, secret: &str) -> Vec<(String, String)> {
    let pair = made(fleet, "whole", &ED25519);
    let curve = made(fleet, "curve", &P256);
    let path = |name: &str| fleet.path(name).to_str().unwrap().to_owned();
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    let pass = format!("file:{secret}");
    openssl(fleet, &["ec", "-in", &path("curve.key"), "-out", &path("sec1.key")]);
    let sec1 = read("sec1.key");
    assert!(sec1.contains("BEGIN EC PRIVATE KEY"), "{sec1}");
    for (name, more) in [
        ("aes256", &["-v2", "aes-256-cbc"][..]),
        ("sha1", &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"]),
        ("3des", &["-v2", "des3"]),
        ("scrypt", &["-scrypt"]),
    ] {
        let locked = path(&format!("{name}.key"));
        let begin = ["pkcs8", "-topk8", "-in", &path("whole.key"), "-passout", &pass, "-out", &locked];
        openssl(fleet, &[&begin, more].concat());
    }
    openssl(
        fleet,
        &["x509", "-in", &path("whole.crt"), "-trustout", "-setalias", "x", "-out", &path("trusted.crt")],
    );
    openssl(fleet, &["x509", "-in", &path("whole.crt"), "-text", "-out", &path("text.crt")]);
    let whole = fs::read_to_string(&pair).unwrap();
    let (key, crt) = (read("whole.key"), read("whole.crt"));
    let mut files = vec![
        ("a byte order mark", format!("\u{feff}{whole}")),
        ("line ends of another system", whole.replace('\n', "\r\n")),
        ("glued blocks", whole.replace("-----\n-----BEGIN", "----------BEGIN")),
        ("the certificate first", format!("{crt}{key}")),
        ("two keys, one with its certificate", format!("{}{whole}", read("curve.key"))),
        (
            "the SEC1 form",
            format!(
                "{sec1}{}",
                fs::read_to_string(&curve).unwrap().split_once("-----END PRIVATE KEY-----").unwrap().1
            ),
        ),
        ("a trusted certificate", format!("{key}{}", read("trusted.crt"))),
        ("text of openssl", format!("{}{key}", read("text.crt"))),
    ]
    .into_iter()
    .map(|(what, text)| (what.to_owned(), text))
    .collect::<Vec<_>>();
    for name in ["aes256", "sha1", "3des", "scrypt"] {
        files.push((format!("a key sealed by {name}"), format!("{}{crt}", read(&format!("{name}.key")))));
    }
    let written = files.into_iter().enumerate().map(|(number, (what, text))| {
        let file = fleet.write_secret(&format!("handed-in-{number}"), &text);
        (what, file.to_str().unwrap().to_owned())
    });
    written.collect()
}

#[test]
fn whatever_program_wrote_a_key_and_its_certificate_they_are_read() {
    let fleet = Fleet::new(Build::Testing);
    let secret = fleet.write_secret("secret", "correct horse battery\n");
    let secret = secret.to_str().unwrap();
    let mut files = as_others_write_it(&fleet, secret);
    let fixture = fleet.path("prf.p12");
    let given = python::root().join("integration-tests/fixtures/pbes2-default-prf.p12");
    fs::copy(given, &fixture).unwrap();
    files.push(("PKCS#12 with the usual PRF left out".to_owned(), fixture.to_str().unwrap().to_owned()));
    for (what, file) in files {
        let said = import(&fleet, &file, &["--file-passphrase-file", secret, "--dry-run"]);
        assert_eq!(said.code, 0, "{what}: {said:?}");
    }
}

#[test]
fn what_is_of_another_format_is_named_and_each_cure_is_typed_to_success() {
    let fleet = Fleet::new(Build::Testing);
    make_formats(&fleet);
    certificates_of_another_format(&fleet);
    keys_of_another_format(&fleet);
    halves(&fleet);
}

fn path(fleet: &Fleet, name: &str) -> String {
    fleet.path(name).to_str().unwrap().to_owned()
}

/// Where openssl finds its password.
fn password(fleet: &Fleet) -> String {
    format!("file:{}", path(fleet, "secret"))
}

/// A certificate and its key in the forms that other programs write.
fn make_formats(fleet: &Fleet) {
    let whole = made(fleet, "whole", &ED25519);
    let path = |name: &str| path(fleet, name);
    fleet.write_secret("secret", "correct horse battery\n");
    let pass = password(fleet);
    openssl(fleet, &["crl2pkcs7", "-nocrl", "-certfile", &path("whole.crt"), "-out", &path("bundle.p7b")]);
    openssl(
        fleet,
        &[
            "crl2pkcs7",
            "-nocrl",
            "-certfile",
            &path("whole.crt"),
            "-outform",
            "DER",
            "-out",
            &path("bundle.p7c"),
        ],
    );
    openssl(fleet, &["pkcs12", "-export", "-in", &whole, "-out", &path("whole.p12"), "-passout", &pass]);
    openssl(
        fleet,
        &["req", "-new", "-key", &path("whole.key"), "-subj", "/CN=x", "-out", &path("asked.csr")],
    );
    openssl(
        fleet,
        &[
            "rsa",
            "-in",
            &made(fleet, "rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
            "-traditional",
            "-out",
            &path("rsa1.key"),
        ],
    );
    openssl(fleet, &["x509", "-in", &path("whole.crt"), "-outform", "DER", "-out", &path("whole.der")]);
}

/// Adds a context that trusts this certificate.
fn context(fleet: &Fleet, ca: &str) -> Said {
    let token = fleet.write_secret("some-token", "token\n");
    let server = format!("localhost:{}", fleet.admin_port());
    fleet.writ(&[
        "context",
        "add",
        "tried",
        "--server",
        &server,
        "--ca",
        ca,
        "--token-file",
        token.to_str().unwrap(),
        "--untried",
    ])
}

/// Types the cure that an error names, as a reader would.
fn follow(fleet: &Fleet, said: &str, file: &str) {
    let (path, pass) = (|name: &str| path(fleet, name), password(fleet));
    let (_, cure) = said.split_once(": openssl ").unwrap_or_else(|| panic!("no cure: {said}"));
    let cure = cure.lines().next().unwrap().split("; ").next().unwrap();
    let typed = format!("openssl {cure}").replace("FILE", file).replace("PLAIN", &path("cured"));
    // Where openssl would ask.
    let typed = typed.replace("NEW", &path("cured")).replace("pkey -in", &format!("pkey -passin {pass} -in"));
    let typed = typed.replace("pkcs12 -in", &format!("pkcs12 -passin {pass} -in"));
    let _ = fs::remove_file(path("cured"));
    let _done = fleet.run_tool("sh", &["-c", &format!("umask 077; {typed}")]).ok();
}

fn certificates_of_another_format(fleet: &Fleet) {
    let path = |name: &str| path(fleet, name);
    for (name, format) in
        [("bundle.p7b", "a PKCS#7 file"), ("bundle.p7c", "a PKCS#7 file"), ("whole.p12", "a PKCS#12 file")]
    {
        let said = context(fleet, &path(name)).failed(8);
        assert!(said.stderr.contains(format), "{said:?}");
        follow(fleet, &said.stderr, &path(name));
        let _added = context(fleet, &path("cured")).ok();
    }
    for (name, says) in [
        ("asked.csr", "no certificate in it, only a certificate signing request"),
        ("rsa1.key", "no certificate in it, only a private key"),
    ] {
        let said = context(fleet, &path(name)).failed(8);
        assert!(said.stderr.contains(says), "{said:?}");
    }
    for name in ["whole.der", "whole.crt"] {
        let _added = context(fleet, &path(name)).ok();
    }
    fs::write(path("bom.crt"), format!("\u{feff}{}", fs::read_to_string(path("whole.crt")).unwrap()))
        .unwrap();
    let _added = context(fleet, &path("bom.crt")).ok();
}

fn keys_of_another_format(fleet: &Fleet) {
    let path = |name: &str| path(fleet, name);
    let pass = password(fleet);
    let rsa = import(fleet, &path("rsa1.key"), &["--dry-run"]);
    assert!(rsa.stderr.contains("an RSA key"), "{rsa:?}");
    // An encrypted key of the form before PKCS#8, with its certificate.
    let curve = made(fleet, "curve", &P256);
    let old = path("old.pem");
    openssl(
        fleet,
        &["ec", "-in", &path("curve.key"), "-aes128", "-passout", &pass, "-out", &path("old.key")],
    );
    let both = [fs::read(path("old.key")).unwrap(), fs::read(path("curve.crt")).unwrap()].concat();
    fleet.write_secret("old.pem", &String::from_utf8(both).unwrap());
    assert!(fs::read_to_string(&old).unwrap().contains("Proc-Type"), "{curve}");
    let locked = import(fleet, &old, &["--dry-run"]).failed(64);
    assert!(locked.stderr.contains("a form older than PKCS#8"), "{locked:?}");
    follow(fleet, &locked.stderr, &old);
    let _read = import(fleet, &path("cured"), &["--dry-run"]).ok();
}

/// A key alone, a certificate alone, and what leads to either: each cure leads to what is taken.
fn halves(fleet: &Fleet) {
    let path = |name: &str| path(fleet, name);
    let ssh = fleet.write_secret(
        "ssh.key",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    );
    let said = import(fleet, ssh.to_str().unwrap(), &["--dry-run"]).failed(64);
    follow(fleet, &said.stderr, ssh.to_str().unwrap());
    let _read = import(fleet, &path("cured"), &["--dry-run"]).ok();
    let said = import(fleet, &path("bundle.p7b"), &["--dry-run"]).failed(64);
    follow(fleet, &said.stderr, &path("bundle.p7b"));
    fs::copy(path("cured"), path("alone.crt")).unwrap();
    for half in ["alone.crt", "whole.key"] {
        let said = import(fleet, &path(half), &["--dry-run"]).failed(64);
        let (_, cure) = said.stderr.split_once("into one file: ").unwrap_or_else(|| panic!("{said:?}"));
        let cure = cure.split("; ").next().unwrap();
        let typed = cure.trim().replace("KEY", &path("whole.key"));
        let typed = typed.replace("CERTIFICATE", &path("alone.crt")).replace("NEW", &path("cured"));
        let _ = fs::remove_file(path("cured"));
        let _done = fleet.run_tool("sh", &["-c", &format!("umask 077; {typed}")]).ok();
        let _read = import(fleet, &path("cured"), &["--dry-run"]).ok();
    }
}
