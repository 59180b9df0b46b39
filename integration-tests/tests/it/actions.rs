//! What agents can do is known before anything is signed: listed, checked, and asked for by people.

use std::fs;

use integration_tests::fleet::{Build, Fleet, Said, lines};
use serde_json::Value;

const RESTART: &str =
    "[parameters.unit]\ntype = \"choice\"\nchoices = [\"nginx\", \"squid\"]\ndefault = \"squid\"\n";

/// Rome takes a word; Paris, whose file is another, also a unit. Both have said so.
fn scene() -> (Fleet, [integration_tests::fleet::Daemon; 2]) {
    let mut fleet = Fleet::new(Build::Shipped);
    fleet.allow("restart", "echo \"$1\" >> \"$NOTES\"", "timeout = \"30s\"");
    let rome = fleet.agent("rome");
    let path = fleet.path("actions.d/restart.toml");
    let definition = fs::read_to_string(&path).unwrap().replace("[\"{word}\"]", "[\"{word}\", \"{unit}\"]");
    fs::write(&path, format!("{definition}{RESTART}")).unwrap();
    let paris = fleet.agent("paris");
    // A receipt comes after the report of its session.
    let _answered = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    (fleet, [rome, paris])
}

fn commands(fleet: &Fleet) -> usize {
    fleet.json(&["commands", "list"]).as_array().unwrap().len()
}

#[test]
fn actions_are_listed_with_who_has_which_version_of_them() {
    let (fleet, _agents) = scene();
    let listed = fleet.json(&["actions", "list"]);
    let restart = listed.as_array().unwrap().iter().find(|row| row["name"] == "restart").unwrap();
    assert_eq!(
        (&restart["class"], &restart["agents"], &restart["versions"]),
        (&"change".into(), &2.into(), &2.into())
    );
    let ping = listed.as_array().unwrap().iter().find(|row| row["name"] == "ping").unwrap();
    assert_eq!((&ping["agents"], &ping["versions"]), (&2.into(), &1.into()));

    let shown = fleet.json(&["actions", "show", "restart", "--selector", "name=paris"]);
    let version = &shown["versions"][0];
    assert_eq!(version["timeout"], "30s");
    assert_eq!(version["agent_names"], serde_json::json!(["paris"]));
    let takes: Vec<_> =
        version["parameters"].as_array().unwrap().iter().map(|one| one["takes"].as_str().unwrap()).collect();
    assert_eq!(takes, ["one of nginx, squid", "text that matches [a-z0-9]{1,40}"]);
    let file = fs::read(fleet.path("actions.d/restart.toml")).unwrap();
    assert_eq!(version["definition_digest"], writ_protocol::id::Digest::of(&file).to_string());
    let told = fleet.writ(&["actions", "show", "restart"]).ok();
    for said in
        ["version       1 of 2", "unit: one of nginx, squid; squid unless given", "writ send action restart"]
    {
        assert!(told.stdout.contains(said), "{said}: {}", told.stdout);
    }
    let unknown = fleet.writ(&["actions", "show", "dance"]).failed(5);
    assert!(unknown.stderr.contains("no agent has an action `dance`"), "{unknown:?}");
}

#[test]
fn a_slip_of_the_pen_is_found_before_anything_is_signed() {
    let (fleet, _agents) = scene();
    let before = commands(&fleet);
    let send = |more: &[&str]| fleet.writ(&[&["--output", "json", "send", "action"], more].concat());
    let refused = |said: &Said, why: &str| {
        assert!(said.code == 7 && said.stderr.contains(why), "{said:?}");
        let said: Value = serde_json::from_str(&said.stderr).unwrap();
        assert_eq!(said["reason"], "would_be_refused");
    };
    refused(&send(&["restart", "word=OK", "--all"]), "2 of 2 agents would refuse it, such as");
    let unit = send(&["restart", "word=ok", "unit=nginx", "--all"]);
    refused(&unit, "1 of 2 agents would refuse it, such as rome: `restart` has no parameter `unit`");
    refused(
        &send(&["restrat", "word=ok", "--all"]),
        "has `restrat` on its list; did you mean `restart`? See: writ actions list",
    );
    assert_eq!(commands(&fleet), before, "nothing was signed");

    // A dry run says who and why.
    let preview = fleet.json(&["send", "action", "restart", "word=ok", "unit=nginx", "--all", "--dry-run"]);
    assert_eq!((&preview["target_count"], &preview["not_allowing"]), (&2.into(), &1.into()));
    let row = |name: &str| {
        preview["targets"].as_array().unwrap().iter().find(|row| row["agent_name"] == name).unwrap()
    };
    assert_eq!(row("rome")["refusal"], "`restart` has no parameter `unit`");
    assert_eq!((&row("paris")["allows"], row("paris").get("refusal")), (&true.into(), None));

    // The agents decide, if one wants them to.
    let sent = send(&["restart", "word=ok", "unit=nginx", "--all", "--wait", "--unchecked"]).failed(1).json();
    let state = |name: &str| {
        sent["targets"].as_array().unwrap().iter().find(|row| row["agent_name"] == name).unwrap()["state"]
            .clone()
    };
    assert_eq!((state("rome"), state("paris")), ("refused".into(), "done".into()));
}

#[test]
fn on_a_terminal_what_changes_hosts_is_confirmed_by_how_many_there_are() {
    let (fleet, _agents) = scene();
    let notes = fleet.path("restart.notes");
    let send = ["send", "action", "restart", "word=ok", "--agent", "rome", "--wait"];
    let asked = "restart word=ok: class change, for rome. Type 1 to go on:";
    let before = commands(&fleet);
    for typed in ["2\n", "\n", ""] {
        let said = fleet.writ_at_terminal(&send, typed);
        assert!(said.code == 2 && said.stdout.contains(asked), "{said:?}");
        assert!(said.stdout.contains("it was not confirmed, so nothing was done"), "{said:?}");
    }
    assert_eq!(commands(&fleet), before);
    let said = fleet.writ_at_terminal(&send, "1\n");
    assert!(said.code == 0 && said.stdout.contains(asked), "{said:?}");
    let said = fleet.writ_at_terminal(&[&send[..], &["--yes"]].concat(), "");
    assert!(said.code == 0 && !said.stdout.contains("Type"), "{said:?}");
    assert_eq!(lines(&notes), ["ok", "ok"]);
    // What only looks is not asked for, unless it is for all.
    let said = fleet.writ_at_terminal(&["send", "ping", "--agent", "rome", "--wait"], "");
    assert!(said.code == 0 && !said.stdout.contains("Type"), "{said:?}");
    let said = fleet.writ_at_terminal(&["send", "ping", "--all", "--wait", "--canary", "1"], "2\n");
    assert!(
        said.code == 0 && said.stdout.contains("ping: class read, for 2 agents. Type 2 to go on:"),
        "{said:?}"
    );

    // Nor is an agent removed by a slip.
    let said = fleet.writ_at_terminal(&["agents", "remove", "paris"], "rome\n");
    assert!(said.code == 2 && said.stdout.contains("Type paris to go on:"), "{said:?}");
    let said = fleet.writ_at_terminal(&["agents", "remove", "paris"], "paris\n");
    assert_eq!(said.code, 0, "{said:?}");
    // It is found again by its name.
    assert!(fleet.json(&["agents", "show", "paris"])["removed_at"].is_string());
    let why = fleet.writ(&["why", "paris"]);
    assert!(why.stdout.contains("it was removed at"), "{why:?}");
    let label = fleet.writ(&["agents", "label", "paris", "site=paris"]).failed(7);
    assert!(label.stderr.contains("`paris` was removed at"), "{label:?}");
}

#[test]
fn what_is_sent_goes_to_those_who_were_shown_or_to_nobody() {
    let (fleet, _agents) = scene();
    let shown = fleet.json(&["send", "ping", "--all", "--dry-run"]);
    let root = shown["audience_root"].as_str().unwrap();
    let submit = |root: &str| {
        let request = format!("{{\"all\": true, \"ping\": {{}}, \"audience_root\": \"{root}\"}}");
        fleet.call("CommandService/Submit", &request)
    };
    let _sent = submit(root).ok();
    let _removed = fleet.writ(&["agents", "remove", "paris"]).ok();
    let before = commands(&fleet);
    let changed = submit(root);
    assert!(
        changed.code != 0
            && changed.stderr.contains("1 agents are chosen now, and they are not those that were shown"),
        "{changed:?}"
    );
    assert_eq!(commands(&fleet), before);
}

#[test]
fn an_upgrade_that_cannot_be_meant_is_refused_before_anything_is_signed() {
    let (fleet, _agents) = scene();
    let before = commands(&fleet);
    for (flags, says) in [
        (["--version", "latest"].as_slice(), "`latest`, which is no version such as 0.2.0"),
        (&["--version", "0.2.0", "--greet-within", "5s"], "it must be 10 to 1800"),
        (&["--version", "0.2.0"], "there is none at all. Publish it, writ-control-manager repo add"),
    ] {
        let said = fleet.writ(&[["send", "upgrade", "--all"].as_slice(), flags].concat());
        assert!(said.code != 0 && said.stderr.contains(says), "{said:?}");
    }
    // What hosts run as root is chosen by nobody who asks.
    let package =
        r#"{"component": "agent-deb-amd64", "version": "0.2.0", "sha256": "AAAA", "size_bytes": "1"}"#;
    let asked = format!(r#"{{"all": true, "upgrade": {{"version": "0.2.0", "packages": [{package}]}}}}"#);
    let refused = fleet.call("CommandService/Submit", &asked);
    assert!(
        refused.code != 0 && refused.stderr.contains("must be left out: they are those of the version"),
        "{refused:?}"
    );
    let shown = fleet.writ(&["actions", "show", "upgrade"]);
    assert!(shown.code == 5 && shown.stderr.contains("writ-agent upgrade allow"), "{shown:?}");
    assert_eq!(commands(&fleet), before);
}
