//! Whom an operator means: patterns, how agents stand, saved selectors, some of many, labels of many.

use std::collections::BTreeSet;
use std::fs;

use integration_tests::fleet::{Build, Daemon, Fleet};
use serde_json::Value;

/// Three agents of which Oslo is away.
fn scene() -> (Fleet, [Daemon; 2]) {
    let fleet = Fleet::new(Build::Testing);
    let (rome, oslo) = (fleet.agent("rome"), fleet.agent("oslo"));
    let paris = fleet.agent("paris");
    assert!(oslo.stop().success());
    fleet.server().wait_for("session ended", |said| said["agent.id"] == fleet.agent_id("oslo"));
    (fleet, [rome, paris])
}

fn chosen(fleet: &Fleet, selector: &str) -> Vec<String> {
    let listed = fleet.json(&["agents", "list", "--sort", "name", "--selector", selector]);
    listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn agents_are_chosen_by_patterns_and_by_how_they_stand() {
    let (fleet, _agents) = scene();
    assert_eq!(chosen(&fleet, "name=*o*"), ["oslo", "rome"]);
    assert_eq!(chosen(&fleet, "name in (p*s,rome)"), ["paris", "rome"]);
    assert_eq!(chosen(&fleet, "connected"), ["paris", "rome"]);
    assert_eq!(chosen(&fleet, "away"), ["oslo"]);
    assert_eq!(chosen(&fleet, "!connected,name!=r*"), ["oslo"]);
    assert_eq!(chosen(&fleet, "held"), [""; 0]);
    assert_eq!(chosen(&fleet, "away > 1d"), [""; 0]);
    fs::write(fleet.path("server-clock"), (2 * 86_400).to_string()).unwrap();
    assert_eq!(chosen(&fleet, "away > 1d"), ["oslo"]);
    fs::write(fleet.path("server-clock"), "0").unwrap();
    // Whoever sends by it sends to those who were so when it was signed.
    let sent = fleet.json(&["send", "ping", "--selector", "connected,name=*", "--wait"]);
    assert_eq!(sent["done"], 2, "{sent}");
    let nobody = fleet.writ(&["send", "ping", "--selector", "away > 1d"]).failed(7);
    assert!(nobody.stderr.contains("no agent matches `away>1day`"), "{nobody:?}");
    let slip = fleet.writ(&["send", "ping", "--selector", "nme=rome"]).failed(7);
    assert!(slip.stderr.contains("none has a label or fact `nme`"), "{slip:?}");
    let label = fleet.writ(&["agents", "label", "rome", "away=yes"]).failed(2);
    assert!(label.stderr.contains("asks in a selector how an agent stands"), "{label:?}");
    // Rights do not come and go with a connection, nor with what others save.
    for scope in ["connected", "site=rome,@web"] {
        let create = ["operator", "create", "vera", "--role", "operator", "--selector", scope];
        let refused = fleet.writ(&create).failed(2);
        assert!(refused.stderr.contains("a scope is about labels and facts"), "{refused:?}");
    }
}

#[test]
fn a_selector_that_was_saved_stands_for_what_it_says_when_it_is_asked() {
    let (fleet, _agents) = scene();
    let _labelled = fleet.json(&["agents", "label", "rome", "site=rome"]);
    let saved = fleet.json(&["selectors", "save", "web", "site=rome"]);
    assert_eq!(
        (&saved["selector"], &saved["agents"], &saved["saved_by"]),
        (&"site=rome".into(), &1.into(), &"admin".into())
    );
    assert_eq!(chosen(&fleet, "@web"), ["rome"]);
    let _again = fleet.json(&["selectors", "save", "@web", "connected"]);
    assert_eq!(chosen(&fleet, "@web,name!=rome"), ["paris"]);
    let sent = fleet.json(&["send", "ping", "--selector", "@web", "--wait"]);
    assert_eq!(sent["done"], 2, "{sent}");
    let listed = fleet.json(&["selectors", "list"]);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["selector"], &listed[0]["agents"]),
        (&"web".into(), &"connected".into(), &2.into())
    );
    for (wrong, code, says) in [
        (["selectors", "save", "loop", "@web"], 2, "a saved selector cannot name another one"),
        (["selectors", "save", "no good", "site=rome"], 7, "begin with a letter or digit"),
        (["selectors", "save", "db", "site in rome"], 2, "at character 9"),
        (["agents", "list", "--selector", "@nothing"], 5, "no selector was saved as `@nothing`"),
        (["send", "ping", "--selector", "@nothing"], 5, "no selector was saved as `@nothing`"),
    ] {
        let said = fleet.writ(&wrong);
        assert!(said.code == code && said.stderr.contains(says), "{said:?}");
    }
    let _deleted = fleet.json(&["selectors", "delete", "web"]);
    let gone = fleet.writ(&["selectors", "delete", "web"]).failed(5);
    assert!(gone.stderr.contains("no selector was saved as `@web`"), "{gone:?}");
    // Who asked is on record, and for what it stood.
    let send = &fleet.json(&["audit", "list", "--method", "Submit"])[0];
    assert_eq!(send["chosen_by"], "@web (connected)");
    let audit = fleet.json(&["audit", "list"]);
    let methods: Vec<_> = audit
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["subject"].as_str().unwrap().starts_with("web"))
        .map(|row| row["method"].as_str().unwrap())
        .collect();
    assert!(methods.contains(&"/writ.admin.v1.SelectorService/Save"), "{methods:?}");
    assert!(methods.contains(&"/writ.admin.v1.SelectorService/Delete"), "{methods:?}");
}

#[test]
fn some_of_many_are_picked_and_the_same_another_time() {
    let (fleet, _agents) = scene();
    let picked = |more: &[&str]| -> BTreeSet<String> {
        let shown = fleet.json(&[&["send", "ping", "--all", "--dry-run"], more].concat());
        let targets = shown["targets"].as_array().unwrap();
        targets.iter().map(|row| row["agent_name"].as_str().unwrap().to_owned()).collect()
    };
    let one = picked(&["--limit", "1", "--seed", "7"]);
    let two = picked(&["--limit", "2", "--seed", "7"]);
    assert!(one.len() == 1 && two.len() == 2 && one.is_subset(&two));
    assert_eq!(one, picked(&["--limit", "1", "--seed", "7"]));
    assert_eq!(picked(&["--limit", "9", "--seed", "7"]).len(), 3);
    let ones: BTreeSet<_> =
        (1..30).flat_map(|seed: u32| picked(&["--limit", "1", "--seed", &seed.to_string()])).collect();
    assert_eq!(ones.len(), 3, "other seeds pick others");
    // Without a seed one is made up and told; with it the same request is the same.
    let id = "0192f1c0-0000-7000-8000-00000000000a";
    let sent = fleet.writ(&["send", "ping", "--all", "--limit", "2", "--id", id]).ok();
    let seed = sent.stderr.trim().rsplit(' ').next().unwrap().to_owned();
    let again = fleet
        .writ(&["--output", "json", "send", "ping", "--all", "--limit", "2", "--id", id, "--seed", &seed])
        .ok();
    assert_eq!(again.json()["target_count"], 2);
    let other = fleet.writ(&["send", "ping", "--all", "--limit", "1", "--id", id, "--seed", &seed]).failed(7);
    assert!(other.stderr.contains("is a different one"), "{other:?}");
    let unseeded = fleet.call("CommandService/Submit", "{\"all\": true, \"ping\": {}, \"limit\": 1}");
    assert!(unseeded.code != 0 && unseeded.stderr.contains("must be 1 to 2^53 - 1"), "{unseeded:?}");
    // A seed that picks asks for no waves; both are one, if both are asked for.
    let staged =
        fleet.json(&["send", "ping", "--all", "--limit", "2", "--seed", "7", "--canary", "1", "--dry-run"]);
    assert_eq!(staged["waves"], serde_json::json!([1, 1]));
}

#[test]
fn many_are_labelled_by_a_selector_or_a_table_or_none_of_them() {
    let (fleet, _agents) = scene();
    let labels = |agent: &str| fleet.json(&["agents", "show", agent])["labels"].clone();
    let done = fleet.json(&["agents", "label", "--selector", "name=*o*", "tier=gold", "site=x"]);
    assert_eq!((&done["chosen"], &done["changed"]), (&2.into(), &2.into()));
    let done = fleet.json(&["agents", "label", "--selector", "tier=gold", "tier=gold"]);
    assert_eq!((&done["chosen"], &done["changed"]), (&2.into(), &0.into()));
    let table = fleet.path("labels.csv");
    let label = |text: &str| {
        fs::write(&table, text).unwrap();
        fleet.writ(&["--output", "json", "agents", "label", "--csv", table.to_str().unwrap()])
    };
    let done: Value = label("agent,site,tier\r\nrome,rome,-\r\nparis,paris,\r\n").ok().json();
    assert_eq!((&done["chosen"], &done["changed"]), (&2.into(), &2.into()));
    assert_eq!(
        (labels("rome"), labels("paris")),
        (serde_json::json!({"site": "rome"}), serde_json::json!({"site": "paris"}))
    );
    // The log says what was set.
    let labelled = fleet.json(&["audit", "list", "--action", "label"]);
    assert_eq!(
        (&labelled[0]["agents"], &labelled[0]["action"]),
        (&2.into(), &"label site=rome tier-".into())
    );
    assert_eq!((&labelled[1]["chosen_by"], &labelled[1]["outcome"]), (&"name=*o*".into(), &"ok".into()));
    // One line that is wrong, and nobody is labelled.
    let before = labels("rome");
    for (wrong, code, says) in [
        ("agent,site\nrome,lima\nlima,lima\n", 5, "no agent has the id or name `lima`"),
        ("agent,site\nrome,lima\nparis,a b\n", 2, "`paris`: `site` has a value of more than 128 bytes"),
        ("agent,os\nrome,windows\n", 2, "choose another name"),
        ("agent,site\nrome,lima,more\n", 2, "nobody was labelled"),
        ("site\nlima\n", 2, "no column `agent`"),
    ] {
        let said = label(wrong);
        assert!(said.code == code && said.stderr.contains(says), "{said:?}");
        assert_eq!(labels("rome"), before);
    }
    // On a terminal who labels many says how many.
    let said = fleet.writ_at_terminal(&["agents", "label", "--selector", "connected", "tier=lead"], "3\n");
    assert!(
        said.code == 2 && said.stdout.contains("Labels of 2 agents change: tier=lead. Type 2"),
        "{said:?}"
    );
    assert_eq!(labels("rome"), before);
    let nothing = fleet.writ(&["agents", "label", "tier=lead"]).failed(2);
    assert!(nothing.stderr.contains("names no agent and a change"), "{nothing:?}");
}

#[test]
fn agents_are_sorted_by_what_one_looks_for() {
    let (fleet, _agents) = scene();
    let _waits = fleet.json(&["send", "ping", "--agent", "oslo"]);
    let order = |sort: &[&str]| -> Vec<String> {
        let listed = fleet.json(&[&["agents", "list", "--sort"], sort].concat());
        listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&["name"]), ["oslo", "paris", "rome"]);
    assert_eq!(order(&["name", "--reverse"]), ["rome", "paris", "oslo"]);
    assert_eq!(order(&["waiting"])[0], "oslo");
    let listed = fleet.json(&["agents", "list", "--sort", "contact"]);
    let contacts = listed.as_array().unwrap().iter().map(|row| row["last_contact"].as_str().unwrap());
    assert!(contacts.is_sorted());
    assert_eq!(order(&["id"]), ["rome", "oslo", "paris"], "as they were enrolled");
}
