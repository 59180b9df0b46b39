//! docs/keys.md, docs/control-manager.md, docs/updates.md and docs/objects.md, typed block by block: what
//! the pages say works.

use std::fs;
use std::path::Path;

use integration_tests::daemon::{binary, until};
use integration_tests::fleet::{Build, Fleet};
use integration_tests::listed::Listed;
use integration_tests::manager::Manager;
use integration_tests::python::root;
use integration_tests::sandbox::Sandbox;
use writ_protocol::id::Digest;

use crate::manager_custom::{AUTHORITY, EC, SIGNS, TLS, chain, issue};

/// A block of shell, the heading it stands below, and the host it is for.
struct Block {
    heading: String,
    host: String,
    script: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let (mut heading, mut blocks, mut is_inside) = ("", Vec::<Block>::new(), false);
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            is_inside = !is_inside && kind.starts_with("sh");
            if is_inside {
                let host = kind.strip_prefix("sh").unwrap().trim().to_owned();
                blocks.push(Block { heading: heading.to_owned(), host, script: String::new() });
            }
        } else if is_inside {
            blocks.last_mut().unwrap().script.extend([line, "\n"]);
        } else if let Some(title) = line.strip_prefix("## ") {
            heading = title;
        }
    }
    blocks
}

/// Types lines in a server's data directory, as the page has them but for names that only exist on paper.
/// Where they say that the server is started, it is.
fn type_on(fleet: &mut Fleet, script: &str, names: &[(&str, &str)]) {
    let folder = fleet.path("server");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(fleet.path("credentials")).unwrap();
    fs::copy(fleet.path("passphrase"), fleet.path("credentials/writ-passphrase")).unwrap();
    let (before, after) = script.split_once("writ-server run\n").unwrap_or((script, ""));
    sh(fleet, &folder, before, names);
    if !after.is_empty() {
        fleet.start_server(None);
        let admin = format!("localhost:{}", fleet.admin_port());
        sh(
            fleet,
            &folder,
            after,
            &[names, &[("HOST:7444", &admin), ("paris.example:7444", &admin)]].concat(),
        );
    }
}

fn sh(fleet: &Fleet, folder: &Path, script: &str, names: &[(&str, &str)]) {
    let mut script = format!("set -eu\n{script}");
    for (name, value) in names {
        script = script.replace(name, value);
    }
    let programs = binary("writ").parent().unwrap().display().to_string();
    #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
    let mut shell = std::process::Command::new("sh");
    shell.args(["-xc", &script]).current_dir(folder);
    shell.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
    shell.env("WRIT_DATA_DIR", folder).env("CREDENTIALS_DIRECTORY", fleet.path("credentials"));
    shell.env("XDG_CONFIG_HOME", fleet.path("config"));
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{said}\n{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_block_of_the_keys_page_works_as_it_stands() {
    let all = blocks("docs/keys.md");
    let mut headings: Vec<_> = all.iter().map(|block| block.heading.as_str()).collect();
    headings.dedup();
    let parts = std::thread::scope(|scope| {
        let parts = headings.iter().map(|heading| {
            let part: Vec<_> = all.iter().filter(|block| block.heading == **heading).collect();
            scope.spawn(move || part_of_the_keys_page(&part))
        });
        parts.collect::<Vec<_>>().into_iter().map(|part| part.join().unwrap()).sum::<usize>()
    });
    assert_eq!((parts, all.len()), (all.len(), 14));
}

/// One part on a fleet of its own: a server with a host that obeys it, and what the part says of a second
/// server.
fn part_of_the_keys_page(blocks: &[&Block]) -> usize {
    let mut first = Fleet::new(Build::Shipped);
    let _rome = first.agent("rome");
    let usb = first.path("usb").display().to_string();
    fs::create_dir(&usb).unwrap();
    let key = first.keys(&["cert", "list"]).ok().json()[0]["key_id"].as_str().unwrap().to_owned();
    let passphrase = first.path("passphrase").display().to_string();
    let backup = first.backup();
    let mut second = Fleet::unmade(Build::Shipped);
    let there = second.endpoint();
    for block in blocks {
        let head = first.json(&["server"])["chain_digest"].as_str().unwrap_or_default().to_owned();
        let here = first.endpoint();
        let names = [
            ("/media/usb", usb.as_str()),
            ("KEYID", &key),
            ("PASSPHRASE_FILE", &passphrase),
            ("DIGEST", &head),
            ("first.example:7443", &here),
            ("old.example:7443", &here),
            ("new.example:7443", &there),
            ("paris.example:7443", &there),
        ];
        if block.host == "holder" {
            let away = first.path("holder");
            fs::create_dir(&away).unwrap();
            sh(&first, &away, &block.script, &names);
            // The public parts are sent; two holders come with their keys.
            for name in ["a.age.pub.pem", "b.age.pub.pem", "c.age.pub.pem", "a.age", "b.age"] {
                fs::copy(away.join(name), first.path("server").join(name)).unwrap();
            }
            continue;
        }
        if block.host == "first" {
            type_on(&mut first, &block.script, &names);
            continue;
        }
        assert_eq!(block.host, "second", "{}", block.script);
        if block.script.contains("cert import") {
            // A second server that has everything but the key they are to share.
            let _restored = second.keys(&["cert", "restore", &backup]).ok();
            fs::remove_file(second.signing_key()).unwrap();
        }
        if block.script.contains("/media/usb") {
            fs::copy(&backup, format!("{usb}/writ.age")).unwrap();
        }
        if block.script.contains(" restore ") || block.script.contains(" rebuild ") {
            second = Fleet::unmade(Build::Shipped);
        }
        if block.script.contains(" rebuild ") {
            fs::create_dir(second.path("server")).unwrap();
            fs::copy(first.path("rome/trust.chain"), second.path("server/trust.chain")).unwrap();
            fs::copy(first.path("server/authority.key.age"), second.path("server/authority.key.age"))
                .unwrap();
        }
        for name in ["shared.p12", "paris.age"] {
            let made = first.path("server").join(name);
            if block.script.contains(name) {
                fs::create_dir_all(second.path("server")).unwrap();
                fs::copy(made, second.path("server").join(name)).unwrap();
            }
        }
        type_on(&mut second, &block.script, &names);
    }
    blocks.len()
}

#[test]
fn every_block_of_the_managers_page_works_as_it_stands() {
    let fleet = Fleet::new(Build::Shipped);
    let _rome = fleet.agent("rome");
    let mut manager = Manager::unmade(&fleet, "manager", "");
    let (folder, admin) =
        (manager.path("").display().to_string(), format!("localhost:{}", manager.admin_port));
    let paper = [
        ("/var/lib/writ/control-manager", folder.trim_end_matches('/')),
        ("cm.example:7544", &admin),
        ("cm.example", "localhost"),
    ];
    let all = blocks("docs/control-manager.md");
    let [make, custom, instruct] = all.as_slice() else { panic!("{} blocks", all.len()) };
    let line = "writ-control-manager run --data-dir /var/lib/writ/control-manager    # goes on: the rest in another terminal\n";
    let (before, after) = make.script.split_once(line).unwrap();
    sh(&fleet, &fleet.path(""), before, &paper);
    manager.start(None);
    sh(&fleet, &fleet.path(""), after, &paper);

    issue(&fleet, "root", None, AUTHORITY, &EC);
    issue(&fleet, "tls", Some("root"), TLS, &EC);
    issue(&fleet, "signing", Some("root"), SIGNS, &EC);
    chain(&fleet, "tls-chain.pem", &["tls"]);
    chain(&fleet, "signing-chain.pem", &["signing"]);
    // The page leaves the folder to the configuration.
    let theirs = fleet.path("custom").display().to_string();
    sh(&fleet, &fleet.path(""), &format!("export WRIT_DATA_DIR={theirs}\n{}", custom.script), &paper);
    assert!(fleet.path("custom/signing.pem").exists());

    let _named = fleet.settings(&["--display-name", "front office"]).ok();
    let _registered = fleet.registered(&manager);
    let asked = fleet.cm(&["instruct", "ping", "--all"]);
    let id = asked["instruction_id"].as_str().unwrap();
    sh(&fleet, &fleet.path(""), &instruct.script, &[("ID", id)]);
}

#[test]
fn every_block_of_the_updates_page_works_as_it_stands() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    let _made = fleet.init().ok();
    let folder = fleet.path("server");
    fs::copy(fleet.path("passphrase"), folder.join("passphrase")).unwrap();
    let [hello, other] =
        ["2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", &"0".repeat(64)]
            .map(str::to_owned);
    fs::write(folder.join("published.txt"), &hello).unwrap();
    fs::write(folder.join("published.csv"), format!("first_seen,sha256_hash\n2026-11-01,{other}\n")).unwrap();
    let all = blocks("docs/updates.md");
    assert_eq!(all.len(), 6);
    let type_block = |fleet: &Fleet, number: usize, more: &str| {
        let script = format!("{}\n{more}", all[number].script);
        sh(fleet, &folder, &script, &[]);
    };
    type_block(&fleet, 0, "test -s malware.filter");
    for (list, value) in [("malware.list", &hello), ("feed.list", &other)] {
        let list = folder.join(list).display().to_string();
        let looked = fleet.run("writ-control-manager", &["lists", "look", &list, value]).ok();
        assert_eq!(looked.stdout, format!("{value}: listed\n"));
    }
    type_block(&fleet, 1, "");
    type_block(&fleet, 2, "");
    type_block(&fleet, 3, "");
    let active = |fleet: &Fleet| {
        fleet.keys(&["updates", "status"]).ok().json()["components"][0]["active"]["version"].clone()
    };
    assert_eq!(active(&fleet), "2026-11-28");
    type_block(&fleet, 4, "writ-server updates sync");
    assert_eq!(active(&fleet), "2026-11-29");
    fleet.start_server(None);
    fleet.add_context();
    let rome = fleet.agent("rome");
    rome.wait_for("component in force", |said| said["version"] == "2026-11-28");
    sh(&fleet, &folder, &all[5].script, &[]);
}

#[test]
fn every_block_of_the_page_on_listed_files_works_as_it_stands() {
    let mut scene = Listed::over(Fleet::unmade(Build::Testing));
    let (content, folder) = ("what nobody wants\n", scene.fleet.path("srv"));
    let sha256 = Digest::of(content.as_bytes()).to_string();
    scene.publish_text("1", &format!("{sha256}\n"));
    scene.start();
    let rome = scene.fleet.agent("rome");
    rome.wait_for("component in force", |_| true);
    for made in [&folder, &folder.join("backup")] {
        fs::create_dir(made).unwrap();
        fs::write(made.join("evil"), content).unwrap();
    }
    let all = blocks("docs/objects.md");
    assert_eq!(all.len(), 6);
    let srv = folder.display().to_string();
    let home = scene.fleet.path("home").display().to_string();
    let names = [("/srv", srv.as_str()), ("/home", &home), ("AGENT", "rome"), ("SHA256", &sha256)];
    let place = scene.fleet.path("");
    fs::write(place.join("indicators.json"), "{\"type\": \"bundle\", \"objects\": []}").unwrap();
    sh(&scene.fleet, &place, &all[0].script, &names);
    sh(&scene.fleet, &place, &all[3].script, &names);
    assert_eq!(scene.fleet.alerts("listed", "").len(), 1);
    sh(&scene.fleet, &place, &all[4].script, &names);
    assert!(!folder.join("evil").exists() && !folder.join("backup/evil").exists());
    sh(&scene.fleet, &place, &all[5].script, &names);
}

#[test]
fn every_block_of_that_page_on_objects_of_the_manager_works_as_it_stands() {
    let fleet = Fleet::new(Build::Testing);
    let sandbox = Sandbox::start(&fleet);
    let manager = Manager::with(&fleet, "manager", &sandbox.config(""));
    let _registered = fleet.registered(&manager);
    let (all, place) = (blocks("docs/objects.md"), fleet.path(""));
    sh(&fleet, &place, &all[1].script, &[]);
    sh(&fleet, &place, &all[2].script, &[]);
    until("the manager's object did not come", || {
        fleet.json(&["objects", "subscription", "sync"])["objects"] == 1
    });
    // The keys of the page are those of the program.
    let page = fs::read_to_string(root().join("docs/objects.md")).unwrap();
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut manager = manager;
    manager.stop();
    let password = fleet.path("sandbox/password").display().to_string();
    manager.config = example.replace("/etc/writ/sandbox-password", &password);
    manager.start(None);
}

#[test]
fn each_reason_why_an_update_fails_has_its_row() {
    let page = fs::read_to_string(root().join("docs/updates.md")).unwrap();
    for reason in writ_updates::Reason::ALL {
        let row = format!("| `{}` |", reason.as_str());
        assert_eq!(page.matches(&row).count(), 1, "docs/updates.md: {row}");
    }
}
