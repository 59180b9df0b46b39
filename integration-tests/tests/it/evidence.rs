//! Proof for people who trust no server of ours.

use integration_tests::fleet::{Build, Fleet};
use integration_tests::python;

#[test]
fn evidence_holds_offline_here_and_in_python_and_nothing_altered_does() {
    let fleet = Fleet::unmade(Build::Shipped);
    let made = fleet.init().ok().json();
    let pin = made["bundle_digest"].as_str().unwrap();
    let mut fleet = fleet;
    fleet.start_server(None);
    fleet.add_context();
    let token = fleet.token(3);
    let _p256 = fleet.enroll_with("rome", &token, &["--key-algorithm", "ecdsa-p256"]).ok();
    let (_paris, _oslo) = (fleet.enroll("paris", &token).ok(), fleet.enroll("oslo", &token).ok());
    let _agents = (fleet.start_agent("rome", None), fleet.start_agent("paris", None));
    let sent = fleet.json(&["send", "action", "reboot", "--all"]);
    fleet.server().wait_for_count("receipt stored", 2);
    let file = fleet.path("evidence.json");
    let file = file.to_str().unwrap();
    let exported = fleet.json(&["evidence", "export", sent["command_id"].as_str().unwrap(), "--file", file]);
    assert_eq!((&exported["targets"], &exported["receipts"]), (&3.into(), &2.into()));
    let twice = fleet.writ(&["evidence", "export", sent["command_id"].as_str().unwrap(), "--file", file]);
    assert_eq!(twice.code, 8, "an existing file is not overwritten: {twice:?}");

    // Whoever verifies needs no server and no context.
    fleet.kill_server();
    let holds = fleet.json(&["evidence", "verify", file, "--pin", pin]);
    assert_eq!((&holds["holds"], &holds["digest"]), (&true.into(), &sent["digest"]));
    let answers: Vec<_> = holds["targets"].as_array().unwrap().iter().map(|t| &t["answer"]).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == "refused: action_not_allowed").count(), 2);
    let python = python::run("proto/vectors/evidence.py", &[file, pin]);
    let said =
        String::from_utf8_lossy(&python.stdout).into_owned() + &String::from_utf8_lossy(&python.stderr);
    assert!(said.contains("holds: 3 targets, 2 receipts"), "{said}");

    let other = fleet.writ(&["evidence", "verify", file, "--pin", &"0".repeat(64)]);
    assert!(other.code == 1 && other.stderr.contains("not from the file"), "{other:?}");
    let text = std::fs::read_to_string(file).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let receipts = |value: &serde_json::Value| -> Vec<usize> {
        (0..3).filter(|at| !value["targets"][*at]["receipt"].is_null()).collect()
    };
    let [one, two] = receipts(&parsed)[..] else { panic!("two answered") };
    let spoil = |what: &dyn Fn(&mut serde_json::Value)| {
        let mut spoilt = parsed.clone();
        what(&mut spoilt);
        let path = fleet.path("spoilt.json");
        std::fs::write(&path, spoilt.to_string()).unwrap();
        let said = fleet.writ(&["evidence", "verify", path.to_str().unwrap(), "--pin", pin]);
        assert_eq!(said.code, 1, "{said:?}");
        let python = python::run("proto/vectors/evidence.py", &[path.to_str().unwrap(), pin]);
        assert!(!python.status.success());
    };
    spoil(&|file| file["targets"][one]["receipt"] = file["targets"][two]["receipt"].clone());
    spoil(&|file| file["targets"][one]["identity_record"] = file["targets"][two]["identity_record"].clone());
    spoil(&|file| file["targets"][one]["proof"] = file["targets"][two]["proof"].clone());
    spoil(&|file| file["command"]["payload"] = file["bundles"][0]["payload"].clone());
    spoil(&|file| file["command"] = file["targets"][one]["receipt"].clone());
    spoil(&|file| {
        file["bundles"][0]["signatures"][0]["sig"] = file["command"]["signatures"][0]["sig"].clone()
    });
}
