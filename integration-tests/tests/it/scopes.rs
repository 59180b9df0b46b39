//! What a stolen console can do: no more than its token's scope, and no longer than it lives.

use integration_tests::fleet::{Build, Daemon, Fleet};

/// Two agents, of which one is in Rome, and an operator whose token is limited.
struct Scene {
    fleet: Fleet,
    _agents: [Daemon; 2],
}

impl Scene {
    fn new(limits: &[&str]) -> Self {
        let mut fleet = Fleet::new(Build::Testing);
        fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
        let agents = [fleet.agent("rome"), fleet.agent("paris")];
        let _labelled = fleet.writ(&["agents", "label", "rome", "site=rome"]).ok();
        let token = fleet.path("vera-token");
        let create =
            ["operator", "create", "vera", "--role", "operator", "--token-file", token.to_str().unwrap()];
        let _created = fleet.writ(&[&create, limits].concat()).ok();
        let (server, ca) = (format!("localhost:{}", fleet.admin_port()), fleet.path("server/admin-ca.pem"));
        let places =
            ["--server", &server, "--ca", ca.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
        let _added = fleet.writ(&[["context", "add", "vera"].as_slice(), &places].concat()).ok();
        let _back = fleet.writ(&["context", "use", "acme"]).ok();
        Self { fleet, _agents: agents }
    }

    /// Vera is told that she may not.
    fn is_denied(&self, arguments: &[&str], says: &str) {
        let said = self.fleet.writ(&[&["--context", "vera"], arguments].concat()).failed(4);
        assert!(said.stderr.contains(says), "{arguments:?}: {said:?}");
    }
}

#[test]
fn an_operator_with_a_scope_commands_within_it_and_changes_nothing_else() {
    let scene = Scene::new(&["--selector", "site=rome", "--actions", "ping,inventory", "--expires", "30d"]);
    let rome = ["--context", "vera", "send", "ping", "--selector", "site=rome", "--wait"];
    let _answered = scene.fleet.writ(&rome).ok();
    let outside = "are outside of what `vera` may command: site=rome";
    scene.is_denied(&["send", "ping", "--all"], outside);
    scene.is_denied(&["send", "ping", "--all", "--dry-run"], outside);
    scene.is_denied(&["send", "ping", "--agent", "paris"], outside);
    let note = ["send", "action", "note", "word=never", "--agent", "rome"];
    scene.is_denied(&note, "`vera` may send ping, inventory, and not `note`");
    // Who looks after a token was stolen finds what was tried with it.
    let tried = scene.fleet.json(&["audit", "list", "--tries", "--by", "vera", "--action", "note"]);
    assert_eq!((&tried[0]["outcome"], &tried[0]["chosen_by"]), (&"PERMISSION_DENIED".into(), &"rome".into()));
    let elsewhere = "may command agents within its scope, and change nothing else";
    scene.is_denied(&["agents", "label", "paris", "site=rome"], elsewhere);
    scene.is_denied(&["enroll", "token", "create"], elsewhere);
    // What others sent to more agents she ends as little as she could have sent it.
    let staged = ["send", "ping", "--all", "--canary", "1", "--pause", "1h", "--expires", "12h"];
    let sent = scene.fleet.json(&staged);
    let id = sent["command_id"].as_str().unwrap();
    for verb in [["commands", "cancel"], ["commands", "stop"], ["rollouts", "abort"], ["rollouts", "pause"]] {
        scene.is_denied(&[&verb, [id].as_slice()].concat(), outside);
    }
    // She looks at all of it.
    let _seen = scene.fleet.writ(&["--context", "vera", "commands", "show", id]).ok();
    let operators = scene.fleet.json(&["operator", "list"]);
    let vera = operators.as_array().unwrap().iter().find(|row| row["name"] == "vera").unwrap();
    assert_eq!((&vera["selector"], vera["actions"].as_array().unwrap().len()), (&"site=rome".into(), 2));
    let audited = scene.fleet.writ(&["audit", "list"]).ok();
    assert!(audited.stdout.contains("vera for site=rome for ping,inventory"), "{audited:?}");
}

#[test]
fn a_token_with_a_scope_does_not_fill_the_journals_of_its_agents() {
    let mut scene = Scene::new(&["--actions", "ping"]);
    scene.fleet.kill_server();
    scene.fleet.server_config = "[limits]\nscoped_commands = 2\n".to_owned();
    scene.fleet.start_server(None);
    let ping = ["--context", "vera", "send", "ping", "--all"];
    let _sent = (scene.fleet.writ(&ping).ok(), scene.fleet.writ(&ping).ok());
    let said = scene.fleet.writ(&ping);
    assert!(said.code != 0 && said.stderr.contains("2 commands of `vera` have not expired"), "{said:?}");
    let _others = scene.fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let revoked = scene.fleet.writ(&["operator", "revoke", "vera"]).ok().stdout;
    assert!(revoked.contains("writ commands list --by vera"), "{revoked}");
}

#[test]
fn a_token_ends_when_it_was_to() {
    let scene = Scene::new(&["--expires", "10m"]);
    let _answered = scene.fleet.writ(&["--context", "vera", "send", "ping", "--all", "--wait"]).ok();
    std::fs::write(scene.fleet.path("server-clock"), "1800").unwrap();
    scene.is_denied(&["agents", "list"], "this token ended at");
    std::fs::write(scene.fleet.path("server-clock"), "0").unwrap();
    let _again = scene.fleet.writ(&["--context", "vera", "agents", "list"]).ok();
    // The one that is left must stay.
    let token = scene.fleet.path("eva-token");
    let create = ["operator", "create", "eva", "--role", "admin", "--expires", "1h", "--token-file"];
    let _created = scene.fleet.writ(&[create.as_slice(), &[token.to_str().unwrap()]].concat()).ok();
    let said = scene.fleet.writ(&["operator", "revoke", "admin"]).failed(7);
    assert!(said.stderr.contains("is the last admin"), "{said:?}");
}

#[test]
fn a_scope_that_limits_nothing_or_cannot_be_read_is_refused() {
    let fleet = Fleet::new(Build::Testing);
    for (limits, code, says) in [
        (["--role", "viewer", "--selector", "site=rome"], 7, "only an operator's token has a scope"),
        (["--role", "admin", "--actions", "ping"], 7, "only an operator's token has a scope"),
        (["--role", "operator", "--actions", "rm -rf"], 7, "`rm -rf` is no action's name"),
        (["--role", "operator", "--selector", "site in"], 2, "--selector"),
        (["--role", "operator", "--selector", ""], 2, "is empty, which would limit nothing"),
        (["--role", "operator", "--actions", ""], 2, "is empty, which would limit nothing"),
        (["--role", "operator", "--expires", "9999d"], 7, "--expires: must be at most 3660 days"),
    ] {
        let said = fleet.writ(&[["operator", "create", "vera"].as_slice(), &limits].concat()).failed(code);
        assert!(said.stderr.contains(says), "{limits:?}: {said:?}");
    }
    assert_eq!(fleet.json(&["operator", "list"]).as_array().unwrap().len(), 1);
}
