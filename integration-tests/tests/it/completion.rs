//! The tab key offers what the server knows, in a real shell.

use integration_tests::daemon::binary;
use integration_tests::fleet::{Build, Fleet};

/// What bash offers for the last of these words.
fn offered(fleet: &Fleet, words: &[&str]) -> Vec<String> {
    let typed = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let (last, folder) = (words.last().unwrap(), binary("writ").parent().unwrap().display().to_string());
    let script = format!(
        "export PATH='{folder}':$PATH XDG_CONFIG_HOME='{}'
         source <(writ completion bash)
         COMP_WORDS=(writ {typed}); COMP_CWORD={}; COMP_TYPE=9
         _clap_complete_writ writ '{last}'
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        fleet.path("config").display(),
        words.len()
    );
    let said = fleet.run_tool("bash", &["-c", &script]).ok();
    said.stdout.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn a_shell_offers_agents_actions_ids_contexts_and_saved_selectors() {
    let mut fleet = Fleet::new(Build::Shipped);
    fleet.allow("restart", "exit 0", "");
    let _agents = [fleet.agent("rome"), fleet.agent("rimini"), fleet.agent("oslo")];
    // Who has a token names a host as they like; a shell is offered no word that it would take for more.
    let _villain = fleet.enroll("r;touch villain", &fleet.token(1));
    let sent = fleet.json(&["send", "ping", "--all", "--wait"]);
    let id = sent["command_id"].as_str().unwrap();
    let _saved = fleet.json(&["selectors", "save", "web", "site=rome"]);
    let mut named = offered(&fleet, &["why", "r"]);
    named.sort();
    assert_eq!(named, ["rimini", "rome"]);
    assert_eq!(offered(&fleet, &["send", "ping", "--agent", "os"]), ["oslo"]);
    assert_eq!(offered(&fleet, &["send", "action", "re"]), ["restart", "restore-quarantined"]);
    assert_eq!(offered(&fleet, &["send", "action", "restart", "w"]), ["word="]);
    let offers = offered(&fleet, &["rollouts", "watch", ""]);
    assert!(offers.iter().all(|word| word.starts_with("--")), "a ping to all is no rollout: {offers:?}");
    assert_eq!(offered(&fleet, &["commands", "watch", ""])[0], id[id.len() - 8..]);
    assert_eq!(offered(&fleet, &["agents", "list", "--selector", "@"]), ["@web"]);
    assert_eq!(offered(&fleet, &["context", "use", "a"]), ["acme"]);
    assert_eq!(offered(&fleet, &["selectors", "sa"]), ["save"]);

    // Where no server answers, names are left out, and nothing is said into the line that is typed.
    fleet.kill_server();
    assert_eq!(offered(&fleet, &["why", "r"]), [""; 0]);
    for shell in ["zsh", "fish"] {
        assert!(fleet.writ(&["completion", shell]).ok().stdout.contains("WRIT_COMPLETE"));
    }
}

#[test]
fn a_context_is_forgotten_and_no_other_takes_its_place() {
    let fleet = Fleet::new(Build::Shipped);
    let _seen = fleet.json(&["agents", "list"]);
    let left = fleet.json(&["context", "remove", "acme"]);
    assert_eq!(left.as_array().unwrap().len(), 0);
    let none = fleet.writ(&["agents", "list"]).failed(8);
    assert!(none.stderr.contains("no server is known; add one"), "{none:?}");
    let unknown = fleet.writ(&["context", "remove", "acme"]).failed(8);
    assert!(unknown.stderr.contains("there is no context `acme`"), "{unknown:?}");
}
