//! Lists: made from files as they are published, by the program that operators call.

use std::fs;

use integration_tests::fleet::{Build, Fleet};

const MANAGER: &str = "writ-control-manager-testing";

fn build<'a>(kind: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["lists", "build", "--kind", kind], more].concat()
}

#[test]
fn a_list_made_of_what_sha256sum_prints_knows_the_files_again() {
    let fleet = Fleet::unmade(Build::Testing);
    let [bad, good, sums, list, filter] =
        ["bad", "good", "sums", "list", "filter"].map(|name| fleet.path(name).display().to_string());
    fs::write(&bad, "bad").unwrap();
    fs::write(&good, "good").unwrap();
    let sum = |path: &str| fleet.run_tool("sha256sum", &[path]).ok().stdout;
    fs::write(&sums, format!("# seen today\r\n{}\r\n{}", sum(&bad), sum(&bad).to_uppercase())).unwrap();
    let told = fleet
        .run(MANAGER, &build("sha256", &["--out", &list, "--filter", &filter, "--output", "json", &sums]))
        .ok()
        .json();
    assert_eq!((&told["entries"], &told["repeated"], &told["bad_lines"]), (&1.into(), &1.into(), &0.into()));
    let digest = |path: &str| sum(path).split(' ').next().unwrap().to_owned();
    let looked = fleet.run(MANAGER, &["lists", "look", &list, &digest(&bad), &digest(&good)]).ok().stdout;
    assert_eq!(looked, format!("{}: listed\n{}: not listed\n", digest(&bad), digest(&good)));
    let shown = fleet.run(MANAGER, &["lists", "show", &list, "--output", "json"]).ok().json();
    assert_eq!((&shown["kind"], &shown["entries"]), (&"sha256".into(), &1.into()));
    assert!(fs::metadata(&filter).unwrap().len() < 120);
}

#[test]
fn a_list_that_cannot_be_made_leaves_the_one_that_is_there() {
    let fleet = Fleet::unmade(Build::Testing);
    let [source, list] = ["source", "list"].map(|name| fleet.path(name).display().to_string());
    fs::write(&source, "evil.example\nworse.example\n").unwrap();
    let arguments = build("domain", &["--out", &list, &source]);
    let _made = fleet.run(MANAGER, &arguments).ok();
    let before = fs::read(&list).unwrap();
    let utf16: Vec<u8> = "\u{feff}evil.example".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, more, code, reason) in [
        (b"evil.example\ncom\n".as_slice(), &["--strict"][..], 64, "source:2: is `com`, which is one word"),
        (b"", &[], 64, "the list is empty"),
        (b"\n# nothing\n", &[], 64, "the list is empty"),
        (b"domain,note\na.example,\"x\nb.example,y\n", &["--column", "domain"], 64, "never closed"),
        (&utf16, &[], 64, "is UTF-16 text; save it as UTF-8"),
        (b"name,note\na.example,b\n", &["--column", "domain"], 64, "its columns are `name`, `note`"),
    ] {
        fs::write(&source, content).unwrap();
        let said = fleet.run(MANAGER, &[arguments.as_slice(), more].concat()).failed(code);
        assert!(said.stderr.contains(reason), "{reason}: {said:?}");
        assert_eq!(fs::read(&list).unwrap(), before, "{reason}");
    }
    let [new, folder, nowhere] =
        ["new", "folder", "nowhere/filter"].map(|name| fleet.path(name).display().to_string());
    fs::create_dir(&folder).unwrap();
    fs::write(&source, "other.example\n").unwrap();
    for (more, code, reason) in [
        (&["--filter", list.as_str()][..], 64, "is named twice"),
        (&[list.as_str()], 64, "is named twice"),
        (&["--filter", nowhere.as_str()], 1, "No such file"),
        (&["--filter", folder.as_str()], 64, "is no file"),
    ] {
        let said = fleet.run(MANAGER, &[arguments.as_slice(), more].concat()).failed(code);
        assert!(said.stderr.contains(reason), "{said:?}");
        assert_eq!(fs::read(&list).unwrap(), before, "{reason}");
    }
    let beside = new.replace("/new", "/./new");
    let said =
        fleet.run(MANAGER, &build("domain", &["--out", &new, "--filter", &beside, &source])).failed(64);
    assert!(said.stderr.contains("is named twice") && !fs::exists(&new).unwrap(), "{said:?}");
    let said = fleet.run(MANAGER, &build("sha3", &["--out", &list, &source])).failed(2);
    assert!(said.stderr.contains("must be one of `sha256`"), "{said:?}");
    fs::write(&list, &before[..before.len() - 1]).unwrap();
    let said = fleet.run(MANAGER, &["lists", "look", &list, "evil.example"]).failed(1);
    assert!(said.stderr.contains("fetch it again"), "{said:?}");
}

#[test]
fn a_program_killed_before_the_new_list_is_in_place_leaves_the_old_one_and_no_rest() {
    let fleet = Fleet::unmade(Build::Testing);
    let [source, list] = ["source", "list"].map(|name| fleet.path(name).display().to_string());
    fs::create_dir(fleet.path("lists")).unwrap();
    let list = list.replace("/list", "/lists/list");
    fs::write(&source, "evil.example\n").unwrap();
    let arguments = build("domain", &["--out", &list, &source]);
    let _made = fleet.run(MANAGER, &arguments).ok();
    let before = fs::read(&list).unwrap();
    fs::write(&source, "worse.example\n").unwrap();
    fleet.kill_at("file_beside", MANAGER, &arguments);
    assert_eq!(fs::read(&list).unwrap(), before);
    let _made = fleet.run(MANAGER, &arguments).ok();
    assert_ne!(fs::read(&list).unwrap(), before);
    let left: Vec<_> =
        fs::read_dir(fleet.path("lists")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["list"], "what the killed program left is gone");
}
