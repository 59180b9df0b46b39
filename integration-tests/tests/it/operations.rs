//! Choosing agents, calling commands back, and deciding about agents.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use integration_tests::fleet::{Build, Fleet, lines};
use serde_json::Value;
use writ_common::keys::pem;
use writ_common::tls::{Anchors, connect};
use writ_proto::admin::v1::agent_service_client::AgentServiceClient;
use writ_proto::admin::v1::command_service_client::CommandServiceClient;
use writ_proto::admin::v1::{Attribute, GetCommandRequest, LabelAgentRequest};

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn names(rows: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn selectors_choose_by_labels_and_facts_and_a_dry_run_shows_the_frozen_targets() {
    let mut fleet = Fleet::new(Build::Shipped);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let _agents = [fleet.agent("rome"), fleet.agent("paris"), fleet.agent("oslo")];
    for (agent, labels) in [("rome", "site=rome"), ("paris", "site=paris"), ("oslo", "site=paris")] {
        let shown = fleet.json(&["agents", "label", agent, labels]);
        assert_eq!(shown["labels"]["site"], labels.split_once('=').unwrap().1);
    }
    let _labelled = fleet.json(&["agents", "label", "oslo", "legacy=yes"]);
    // Facts come with the report after a session began; a ping's receipt shows that it was taken.
    let _answered = fleet.json(&["send", "ping", "--all", "--wait"]);

    let selector = "os=linux,site in (paris,rome),!legacy";
    let listed = fleet.json(&["agents", "list", "--selector", selector]);
    assert_eq!(names(&listed), ["paris", "rome"]);
    assert_eq!(
        names(&fleet.json(&["agents", "list", "--selector", "hostname,name!=rome"])),
        ["oslo", "paris"]
    );
    assert_eq!(
        names(&fleet.json(&["agents", "list", "--selector", "os notin (linux),realm=default"])),
        [""; 0]
    );

    let before = fleet.json(&["commands", "list"]).as_array().unwrap().len();
    let send = ["send", "action", "note", "word=chosen", "--selector", selector];
    let preview = fleet.json(&[send.as_slice(), &["--dry-run"]].concat());
    assert_eq!((&preview["target_count"], &preview["action_class"]), (&2.into(), &"change".into()));
    assert_eq!(preview["not_allowing"], 0);
    assert_eq!(fleet.json(&["commands", "list"]).as_array().unwrap().len(), before, "nothing was stored");
    assert!(lines(&notes).is_empty());
    let refused = fleet.json(&["send", "action", "reboot", "--all", "--dry-run"]);
    assert_eq!((&refused["action_class"], &refused["not_allowing"]), (&"destructive".into(), &3.into()));

    let sent = fleet.json(&[send.as_slice(), &["--wait"]].concat());
    let answered: Vec<_> = sent["targets"].as_array().unwrap().iter().map(|t| &t["agent_id"]).collect();
    let frozen: Vec<_> = preview["targets"].as_array().unwrap().iter().map(|t| &t["agent_id"]).collect();
    assert_eq!(answered, frozen, "what was shown is what was signed for");
    assert_eq!(lines(&notes), ["chosen", "chosen"]);

    for (wrong, code, says) in [
        (["send", "ping", "--selector", "os in linux"], 2, "at character 7: expected `(`"),
        (["send", "ping", "--selector", "site=lima"], 7, "no agent matches `site=lima`"),
        (["agents", "label", "rome", "os=windows"], 2, "choose another name"),
        (["agents", "label", "rome", "_x=y"], 2, "cannot be a label"),
    ] {
        let said = fleet.writ(&[wrong.as_slice(), &["--output", "json"]].concat());
        assert!(said.code == code && said.stderr.contains(says), "{said:?}");
    }
    let gone = fleet.json(&["agents", "label", "oslo", "legacy-"]);
    assert_eq!(gone["labels"], serde_json::json!({"site": "paris"}));
}

#[test]
fn a_cancelled_command_is_sent_to_nobody_else() {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    fleet.agent("paris").kill();
    let _rome = fleet.agent("rome");
    let sent = fleet.json(&["send", "action", "note", "word=once", "--all"]);
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    let cancelled = fleet.json(&["commands", "cancel", id]);
    assert_eq!((&cancelled["done"], &cancelled["cancelled"]), (&1.into(), &1.into()));
    assert_ne!(cancelled["cancelled_at"], Value::Null);
    // Waiting for it ends: nothing more is awaited.
    let again = fleet.writ(&["send", "action", "note", "word=once", "--all", "--id", id, "--wait"]);
    assert_eq!(again.code, 6, "{again:?}");
    let _paris = fleet.start_agent("paris", None);
    let _obeys = fleet.writ(&["send", "ping", "--agent", "paris", "--wait"]).ok();
    assert_eq!(lines(&notes), ["once"]);
    assert_eq!(fleet.json(&["commands", "cancel", id]), cancelled, "cancelling twice is cancelling once");
    let unknown = fleet.writ(&["commands", "cancel", "0192f1c0-0000-7000-8000-00000000000f"]);
    assert_eq!(unknown.code, 5);
}

#[test]
fn a_stopped_agent_delays_nobody_and_obeys_when_it_goes_on() {
    let fleet = Fleet::new(Build::Testing);
    let (_rome, paris) = (fleet.agent("rome"), fleet.agent("paris"));
    paris.signal("-STOP");
    let sent = fleet.json(&["send", "ping", "--all"]);
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    let _others = fleet.writ(&["send", "ping", "--agent", "rome", "--wait"]).ok();
    assert_eq!(fleet.json(&["commands", "show", id])["done"], 1);
    paris.signal("-CONT");
    fleet.server().wait_for_count("receipt stored", 3);
    assert_eq!(fleet.json(&["commands", "show", id])["done"], 2);
}

#[test]
fn a_removed_agent_gets_nothing_and_is_listed_as_removed_when_it_comes_back() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let id = fleet.agent_id("rome");
    let removed = fleet.json(&["agents", "remove", "rome"]);
    assert_ne!(removed["removed_at"], Value::Null);
    agent.wait_for("no session", |said| {
        said["error"].as_str().unwrap().contains("was removed by an operator")
    });
    fleet.server().wait_for("session refused: removed agent", |said| said["agent.id"] == id.as_str());
    assert!(fleet.json(&["agents", "list"]).as_array().unwrap().is_empty());
    assert_eq!(fleet.json(&["agents", "list", "--removed"])[0]["agent_id"], id.as_str());
    for target in [["--agent", &id], ["--selector", "name=rome"]] {
        let said = fleet.writ(&[["send", "ping"], target].concat());
        assert_eq!(said.code, 7, "{said:?}");
    }
    let why = fleet.writ(&["why", &id]);
    assert!(why.code == 1 && why.stdout.contains("enrol the host anew"), "{why:?}");
}

#[test]
fn two_hosts_of_one_name_are_two_agents_and_one_takes_over_only_by_an_operators_word() {
    let fleet = Fleet::new(Build::Testing);
    fleet.agent("rome").kill();
    let first = fleet.agent_id("rome");
    let _labelled = fleet.json(&["agents", "label", "rome", "site=rome"]);
    let _queued = fleet.json(&["send", "ping", "--all"]);
    // The host is installed anew: another key, the same name.
    fs::remove_dir_all(fleet.path("rome")).unwrap();
    let second = fleet.enroll("rome", &fleet.token(1)).ok().json()["agent_id"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    let ambiguous = fleet.writ(&["send", "ping", "--agent", "rome"]);
    assert!(ambiguous.code == 7 && ambiguous.stderr.contains("several agents are called `rome`"));
    let ambiguous = fleet.writ(&["send", "ping", "--selector", "name in (rome, oslo)"]);
    assert!(ambiguous.code == 7 && ambiguous.stderr.contains("are called `rome`"), "{ambiguous:?}");
    let told_apart = fleet.json(&["send", "ping", "--selector", "name=rome,site=rome", "--dry-run"]);
    assert_eq!(told_apart["target_count"], 1);
    let alert = fleet.alerts("same_name", "").remove(0);
    assert_eq!(alert["agent_id"], second.as_str());
    assert!(alert["detail"].as_str().unwrap().contains(&first), "{alert}");
    let shown = fleet.writ(&["alerts"]).ok();
    assert!(
        shown.stdout.contains("same_name: If the host was installed anew: `writ agents approve"),
        "{shown:?}"
    );
    let agent = fleet.start_agent("rome", None);
    assert_eq!(fleet.json(&["agents", "show", &second])["labels"], serde_json::json!({}));
    assert_eq!(agent.count("command admitted"), 0, "what waited for the old one is not for the new one");

    let approved = fleet.json(&["agents", "approve", &second, "--replaces", &first]);
    assert_eq!(fleet.json(&["audit", "list", "--limit", "1"])[0]["subject"], format!("{second} for {first}"));
    assert_eq!(approved["labels"], serde_json::json!({"site": "rome"}));
    let answered = fleet.json(&["send", "ping", "--agent", "rome", "--wait"]);
    assert_eq!(answered["targets"][0]["agent_id"], second.as_str());
    assert_eq!(fleet.json(&["agents", "list", "--removed"])[0]["agent_id"], first.as_str());
    let nothing = fleet.writ(&["agents", "approve", &second]);
    assert!(nothing.code == 7 && nothing.stderr.contains("nothing is held"), "{nothing:?}");
}

#[test]
fn a_host_put_back_to_an_earlier_state_gets_nothing_until_an_operator_decides() {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    assert!(fleet.agent("rome").stop().success());
    fs::copy(fleet.path("rome/journal.redb"), fleet.path("snapshot")).unwrap();
    let agent = fleet.start_agent("rome", None);
    let _done = fleet.writ(&["send", "action", "note", "word=one", "--all", "--wait"]).ok();
    assert!(agent.stop().success());
    // Nobody could say whether it was obeyed before the host was put back.
    let before = fleet.json(&["send", "action", "note", "word=before", "--all"]);
    fs::copy(fleet.path("snapshot"), fleet.path("rome/journal.redb")).unwrap();
    let agent = fleet.start_agent("rome", None);
    fleet.server().wait_for("nothing is sent to this agent until an operator decides", |_| true);

    let sent = fleet.json(&["send", "action", "note", "word=two", "--all"]);
    let why = fleet.writ(&["why", "rome", "--output", "json"]);
    assert_eq!(why.code, 1);
    assert!(why.json()["verdict"].as_str().unwrap().contains("put back to an earlier state"), "{why:?}");
    assert_eq!(fleet.alerts("rewound", "").len(), 1);
    // Restarting it changes nothing.
    assert!(agent.stop().success());
    let agent = fleet.start_agent("rome", None);
    assert_eq!(agent.count("command admitted"), 0);
    assert_eq!(fleet.json(&["agents", "show", "rome"])["waiting"], 2);

    let approved = fleet.json(&["agents", "approve", "rome"]);
    assert_eq!(approved["held"], "");
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    let before =
        fleet.writ(&["commands", "show", before["command_id"].as_str().unwrap(), "--output", "json"]);
    assert_eq!(before.json()["targets"][0]["refusal_code"], "too_old", "{before:?}");
    assert_eq!(lines(&notes), ["one", "two"]);
    assert_eq!(fleet.writ(&["why", "rome"]).code, 0);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // Where an agent is asked about its journal: it is no file.
        if entry.file_type().unwrap().is_socket() {
            continue;
        }
        match fs::copy(entry.path(), to.join(entry.file_name())) {
            // An agent that runs writes a file beside another, and then in its place.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

#[test]
fn a_host_put_back_to_a_state_within_its_session_starts_nothing_a_second_time() {
    let mut fleet = Fleet::unmade(Build::Testing);
    "info,writ_server=debug".clone_into(&mut fleet.log_filter);
    fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    // It ends when somebody opens the gate, and nobody does.
    let gate = fleet.path("gate");
    let _made = fleet.run_tool("mkfifo", &[gate.to_str().unwrap()]).ok();
    let notes = fleet.allow("wait", &format!("echo \"$1\" >> \"$NOTES\"; read _ < {}", gate.display()), "");
    let agent = fleet.agent("rome");
    copy_folder(&fleet.path("rome"), &fleet.path("snapshot"));
    let sent = fleet.json(&["send", "action", "wait", "word=once", "--all"]);
    let id = sent["command_id"].as_str().unwrap();
    fleet.server().wait_for("start announced", |said| said["command.id"] == id);
    agent.wait_for("action started", |said| said["command.id"] == id);
    // A machine that is put back closes no connection: the server still takes its session for alive.
    agent.signal("-STOP");
    let put_back = fleet.start_agent("snapshot", None);
    fleet.server().wait_for("nothing is sent to this agent until an operator decides", |_| true);
    let detail = fleet.alerts("rewound", "")[0]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("put back to an earlier state"), "{detail}");
    assert_eq!((lines(&notes).len(), put_back.count("command admitted")), (1, 0));
    // Nor later, when an operator lets it go on: the command is older than that.
    let _approved = fleet.writ(&["agents", "approve", "rome"]).ok();
    fleet.server().wait_for("receipt stored", |said| said["command.id"] == id);
    let shown = fleet.json(&["commands", "show", id]);
    assert_eq!(shown["targets"][0]["refusal_code"], "too_old", "{shown}");
    assert_eq!(lines(&notes), ["once"]);
}

#[test]
fn two_hosts_with_one_identity_are_found_out() {
    let fleet = Fleet::new(Build::Testing);
    assert!(fleet.agent("rome").stop().success());
    copy_folder(&fleet.path("rome"), &fleet.path("copy"));
    let _original = fleet.start_agent("rome", None);
    let _done = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let _copy = fleet.start_agent("copy", None);
    fleet.server().wait_for("nothing is sent to this agent until an operator decides", |_| true);
    assert_eq!(fleet.alerts("rewound", "").len(), 1);
}

#[test]
fn roles_bound_what_operators_may_do_and_revoking_takes_effect_with_the_next_call() {
    let fleet = Fleet::new(Build::Shipped);
    let token = fleet.path("vera-token");
    let create = ["operator", "create", "vera", "--role", "viewer", "--token-file", token.to_str().unwrap()];
    let _created = fleet.json(&create);
    let (ca, server) = (fleet.path("server/admin-ca.pem"), format!("localhost:{}", fleet.admin_port()));
    let places = ["--ca", ca.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
    let _added =
        fleet.writ(&[["context", "add", "vera", "--server", &server].as_slice(), &places].concat()).ok();
    let _used = fleet.writ(&["context", "use", "acme"]).ok();
    let vera = |call: &[&str]| fleet.writ(&[&["--context", "vera"], call].concat());

    let _may_look = vera(&["agents", "list"]).ok();
    for call in [
        ["send", "ping", "--all"].as_slice(),
        &["operator", "list"],
        &["enroll", "token", "create"],
        &["agents", "remove", "rome"],
        &["commands", "cancel", "0192f1c0-0000-7000-8000-00000000000f"],
    ] {
        let said = vera(call);
        assert!(said.code == 4 && said.stderr.contains("`vera` is viewer"), "{said:?}");
    }
    let again = fleet.writ(&["operator", "create", "vera", "--role", "admin"]);
    assert!(again.code == 7 && again.stderr.contains("never given twice"), "{again:?}");
    let last = fleet.writ(&["operator", "revoke", "admin"]);
    assert!(last.code == 7 && last.stderr.contains("the last admin"), "{last:?}");

    // She watches a command nobody answers; with her token that ends, too.
    assert!(fleet.agent("rome").stop().success());
    let sent = fleet.json(&["send", "ping", "--agent", "rome"]);
    let token = fs::read_to_string(&token).unwrap();
    let authorities = pem::certificates(&fs::read(&ca).unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut watched = runtime.block_on(async {
        let connection = connect(&server, &Anchors::Authorities(authorities)).await.unwrap();
        let mut commands = CommandServiceClient::new(connection.channel);
        let mut request = tonic::Request::new(GetCommandRequest { command_id: text(&sent["command_id"]) });
        request.metadata_mut().insert("authorization", format!("Bearer {}", token.trim()).parse().unwrap());
        let mut watched = commands.watch(request).await.unwrap().into_inner();
        assert!(watched.message().await.unwrap().is_some());
        watched
    });
    let _revoked = fleet.json(&["operator", "revoke", "vera"]);
    let ended = runtime.block_on(watched.message()).unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unauthenticated, "{ended}");
    let said = vera(&["agents", "list"]);
    assert!(said.code == 4 && said.stderr.contains("does not know this token"), "{said:?}");
    let known = fleet.json(&["operator", "list"]);
    assert_eq!((names(&known), &known[1]["role"]), (vec!["admin", "vera"], &"viewer".into()));
}

#[test]
fn every_call_is_in_the_log_with_its_outcome_and_a_change_in_the_middle_shows() {
    let fleet = Fleet::new(Build::Shipped);
    let _created = fleet.json(&["enroll", "token", "create"]);
    let id = "0192f1c0-0000-7000-8000-00000000000f";
    assert_eq!(fleet.writ(&["send", "ping", "--agent", "nobody", "--id", id]).code, 5);
    assert_eq!(fleet.writ(&["agents", "remove", "nobody"]).code, 5);
    let _sent = fleet.agent("rome");
    let sent = fleet.json(&["send", "ping", "--all", "--wait"])["command_id"].as_str().unwrap().to_owned();
    let rows = fleet.json(&["audit", "list"]);
    let said = |rows: &Value| -> Vec<[String; 3]> {
        let columns = |row: &Value| ["method", "subject", "outcome"].map(|column| text(&row[column]));
        rows.as_array().unwrap().iter().rev().map(columns).collect()
    };
    let shown = |lines: &[[&str; 3]]| lines.iter().map(|line| line.map(str::to_owned)).collect::<Vec<_>>();
    let token = ["/writ.admin.v1.EnrollmentService/CreateToken", "", "ok"];
    assert_eq!(said(&rows), shown(&[token, token, ["/writ.admin.v1.CommandService/Submit", &sent, "ok"]]));
    let tried = fleet.json(&["audit", "list", "--tries"]);
    assert_eq!(
        said(&tried)[..4],
        shown(&[
            ["/writ.admin.v1.EnrollmentService/CreateToken", "", "asked"],
            ["/writ.admin.v1.CommandService/Submit", id, "NOT_FOUND"],
            ["/writ.admin.v1.AgentService/Remove", "nobody", "asked"],
            ["/writ.admin.v1.AgentService/Remove", "nobody", "NOT_FOUND"],
        ])
    );
    let _holds = fleet.writ(&["audit", "verify", "--tries"]).ok();
    let looked = fleet.json(&["audit", "list", "--looks"]);
    let looked = &looked.as_array().unwrap()[0];
    assert_eq!(
        (&looked["method"], &looked["outcome"]),
        (&"/writ.admin.v1.AuditService/List".into(), &"ok".into())
    );
    let _holds = fleet.writ(&["audit", "verify", "--looks"]).ok();
    assert!(rows.as_array().unwrap().iter().all(|row| row["actor"] == "admin" && row["role"] == "admin"));
    let holds = fleet.json(&["audit", "verify"]);
    let head = holds["head"].as_str().unwrap().to_owned();
    let _still_there = fleet.writ(&["audit", "verify", "--known", &head]).ok();

    let other = format!("{}:{}", head.split_once(':').unwrap().0, "0".repeat(64));
    let anew = fleet.writ(&["audit", "verify", "--known", &other]);
    assert!(anew.code == 1 && anew.stdout.contains("written anew"), "{anew:?}");
    let cut = fleet.writ(&["audit", "verify", "--known", &format!("9999:{}", "0".repeat(64))]);
    assert!(cut.code == 1 && cut.stdout.contains("its end was cut off"), "{cut:?}");

    sqlite(
        &fleet.path("server/writ.db"),
        "UPDATE audit SET entry = CAST(entry || x'00' AS BLOB) WHERE log = 0 AND sequence = 2",
    );
    let changed = fleet.writ(&["audit", "verify"]);
    assert!(changed.code != 0, "{changed:?}");
    sqlite(&fleet.path("server/writ.db"), "DELETE FROM audit WHERE log = 0 AND sequence = 2");
    let gone = fleet.writ(&["audit", "verify"]);
    assert!(gone.code == 1 && gone.stdout.contains("entries between them are gone"), "{gone:?}");
}

fn sqlite(file: &Path, sql: &str) {
    let script = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1]) as db: db.execute(sys.argv[2])\n";
    let output = integration_tests::python::inline(script, &[file.to_str().unwrap(), sql]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_revoked_enrolment_token_lets_nobody_in_and_those_who_came_with_it_stay() {
    let fleet = Fleet::new(Build::Testing);
    let token = fleet.token(2);
    let _first = fleet.enroll("rome", &token).ok();
    let listed = fleet.json(&["enroll", "token", "list"]);
    assert_eq!((&listed[0]["uses"], &listed[0]["used"]), (&2.into(), &1.into()));
    let id = listed[0]["token_id"].as_str().unwrap();
    let secret = fs::read_to_string(&token).unwrap();
    assert!(!listed.to_string().contains(secret.trim()), "a list shows no secret");
    let _revoked = fleet.json(&["enroll", "token", "revoke", &id[..8]]);
    let said = fleet.enroll("paris", &token);
    assert!(said.code == 1 && said.stderr.contains("unknown, spent or expired"), "{said:?}");
    let _stays = fleet.start_agent("rome", None);
    let unknown = fleet.writ(&["enroll", "token", "revoke", "00000000"]);
    assert_eq!(unknown.code, 5, "{unknown:?}");
}

#[test]
fn calls_that_change_nothing_push_no_change_out_of_the_log() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    fleet.server_config = "[audit]\nmax_entries = 1000\n".to_owned();
    let _made = fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    let _rome = fleet.agent("rome");
    let labelled = fleet.json(&["agents", "label", "rome", "tier=web"]);
    assert_eq!(labelled["labels"]["tier"], "web", "{labelled}");
    let token = fs::read_to_string(fleet.path("server/admin-token")).unwrap();
    let authorities = pem::certificates(&fs::read(fleet.path("server/admin-ca.pem")).unwrap()).unwrap();
    let endpoint = format!("localhost:{}", fleet.admin_port());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let connection = connect(&endpoint, &Anchors::Authorities(authorities)).await.unwrap();
        let mut agents = AgentServiceClient::new(connection.channel);
        for number in 0..1200 {
            // What is there already, and what nobody has.
            let (agent, value) = if number % 2 == 0 { ("rome", "web") } else { ("nobody", "web") };
            let set = vec![Attribute { name: "tier".to_owned(), value: value.to_owned() }];
            let mut request =
                tonic::Request::new(LabelAgentRequest { agent: agent.to_owned(), set, remove: Vec::new() });
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            assert_eq!(agents.label(request).await.is_ok(), agent == "rome");
        }
    });
    let changes = fleet.json(&["audit", "list"]);
    let methods: Vec<_> = changes.as_array().unwrap().iter().map(|row| text(&row["method"])).collect();
    let service = "/writ.admin.v1.";
    assert_eq!(
        methods,
        ["AgentService/Label", "EnrollmentService/CreateToken"].map(|name| format!("{service}{name}"))
    );
    let tries = fleet.json(&["audit", "list", "--tries", "--limit", "1000"]);
    let outcomes: BTreeSet<_> = tries.as_array().unwrap().iter().map(|row| text(&row["outcome"])).collect();
    assert_eq!(outcomes.iter().map(String::as_str).collect::<Vec<_>>(), ["NOT_FOUND", "asked", "unchanged"]);
    assert_eq!(tries.as_array().unwrap().len(), 1000, "and they have a bound of their own");
}

#[test]
fn the_audit_log_answers_who_did_what_to_whom_and_shows_no_secret() {
    let mut fleet = Fleet::new(Build::Shipped);
    fleet.allow("login", "echo \"$1 $WRIT_PARAMETER_PASSWORD\" >> \"$NOTES\"", "");
    let path = fleet.path("actions.d/login.toml");
    let definition = fs::read_to_string(&path).unwrap();
    let secret = "[parameters.password]\ntype = \"text\"\npattern = \".+\"\nsecret = true\n";
    fs::write(&path, format!("{definition}{secret}")).unwrap();
    let _agents = [fleet.agent("rome"), fleet.agent("paris")];
    let _answered = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    let (vera, password) = (fleet.path("vera"), fleet.path("password"));
    let create = ["operator", "create", "vera", "--role", "operator", "--token-file", vera.to_str().unwrap()];
    let _made = fleet.writ(&create).ok();
    fs::write(&password, "hunter2\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let given = format!("password={}", password.display());
    let send =
        ["send", "action", "login", "word=anna", "--secret", &given, "--selector", "name=r*", "--wait"];
    let sent = fleet.json(&send);
    assert_eq!(lines(&fleet.path("login.notes")), ["anna hunter2"]);
    // Nobody is shown the secret.
    assert_eq!(sent["action"], "login password=(secret) word=anna");
    let asked = |filter: &[&str]| -> Vec<Value> {
        let listed = fleet.json(&[&["audit", "list"], filter].concat());
        listed.as_array().unwrap().clone()
    };
    let found = asked(&["--action", "login"]);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["action"], "login password=(secret) word=anna");
    assert_eq!((&found[0]["agents"], &found[0]["chosen_by"]), (&1.into(), &"name=r*".into()));
    assert_eq!(found[0]["subject"], sent["command_id"]);
    assert!(!fleet.server().said().contains("hunter2"));
    let told = fleet.writ(&["audit", "list", "--action", "login"]).ok();
    assert!(told.stdout.contains("login password=(secret) word=anna for 1: name=r*"), "{told:?}");

    // Nor where its agent has not said yet that it is one, and its evidence is not for everybody who may
    // look.
    let _enrolled = fleet.enroll("oslo", &fleet.token(1)).ok();
    let early = fleet.json(&["send", "action", "login", "word=anna", "--secret", &given, "--agent", "oslo"]);
    assert_eq!(early["action"], "login password=(secret) word=anna");
    let (eyes, ca) = (fleet.path("eyes"), fleet.path("server/admin-ca.pem"));
    let create = ["operator", "create", "eyes", "--role", "viewer", "--token-file", eyes.to_str().unwrap()];
    let _made = fleet.writ(&create).ok();
    let port = format!("localhost:{}", fleet.admin_port());
    let files = ["--ca", ca.to_str().unwrap(), "--token-file", eyes.to_str().unwrap()];
    let _added =
        fleet.writ(&[&["context", "add", "eyes", "--server", &port], files.as_slice()].concat()).ok();
    let _back = fleet.writ(&["context", "use", "acme"]).ok();
    let evidence = fleet.path("evidence.json");
    let export = |context: &str| {
        let id = text(&sent["command_id"]);
        fleet.writ(&["--context", context, "evidence", "export", &id, "--file", evidence.to_str().unwrap()])
    };
    let denied = export("eyes").failed(4);
    assert!(denied.stderr.contains("has secret parameters"), "{denied:?}");
    let _allowed = export("acme").ok();
    let submits = fleet.json(&["audit", "list", "--method", "Submit", "--action", "login"]);
    assert!(submits.as_array().unwrap().iter().all(|row| row["request_digest"] == ""), "{submits:#}");
    // By whom, what, about what, and when.
    assert_eq!(asked(&["--by", "admin", "--method", "submit"]).len(), 3);
    assert_eq!(asked(&["--by", "vera"]).len(), 0);
    assert_eq!(asked(&["--method", "OperatorService/Create", "--subject", "vera"]).len(), 1);
    assert_eq!(asked(&["--subject", "name=r"]).len(), 1);
    assert_eq!(asked(&["--method", "ubmit"]).len(), 0);
    assert_eq!(asked(&["--since", "1h"]).len(), asked(&[]).len());
    assert_eq!(asked(&["--until", "1h"]).len(), 0);
    assert_eq!(asked(&["--tries", "--method", "Create"]).len(), 2);
    // A page that is full of others is followed to its end.
    assert_eq!(asked(&["--action", "login", "--limit", "1"]).len(), 1);
    let lines_of_json = fleet.writ(&["--output", "jsonl", "audit", "list", "--by", "admin"]).ok();
    assert!(
        lines_of_json
            .stdout
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).unwrap()["actor"] == "admin")
    );
    let sheet = fleet.writ(&["-o", "csv", "audit", "list", "--action", "login"]).ok();
    assert!(
        sheet.stdout.starts_with("\"AT\",\"ACTOR\",\"METHOD\",\"ABOUT\",\"OUTCOME\""),
        "{}",
        sheet.stdout
    );
}

#[test]
fn the_audit_log_is_kept_in_a_file_that_can_be_checked_and_goes_on_from_its_head() {
    let fleet = Fleet::new(Build::Shipped);
    let _agent = fleet.agent("rome");
    let _answered = fleet.writ(&["send", "ping", "--all", "--wait"]).ok();
    for tier in ["tier=lead", "tier=gold"] {
        let _labelled = fleet.json(&["agents", "label", "rome", tier]);
    }
    // The whole of it, and later what came since; each line hangs on the one before.
    let file = fleet.path("changes.jsonl");
    let export = |file: &Path, more: &[&str]| {
        fleet.writ(&[&["--output", "json", "audit", "export", file.to_str().unwrap()], more].concat())
    };
    let whole = export(&file, &[]).ok().json();
    assert_eq!(whole["holds"], true);
    assert_eq!(lines(&file).len(), fleet.json(&["audit", "list"]).as_array().unwrap().len());
    assert!(!fleet.path("changes.jsonl.part").exists());
    let again = export(&file, &[]).failed(8);
    assert!(again.stderr.contains("exists already; name another file"), "{again:?}");
    let _labelled = fleet.json(&["agents", "label", "rome", "site=rome"]);
    let (later, head) = (fleet.path("later.jsonl"), text(&whole["head"]));
    let _more = export(&later, &["--known", &head]).ok();
    let since: Value = serde_json::from_str(&lines(&later)[0]).unwrap();
    assert_eq!((&since["action"], &since["chosen_by"]), (&"label site=rome".into(), &"rome".into()));
    assert_eq!((lines(&later).len(), &since["subject"]), (1, &"rome".into()));
    // Offline, what is shown must be what was hashed.
    let check = |file: &Path| fleet.writ(&["audit", "check", file.to_str().unwrap()]);
    assert!(check(&file).ok().stdout.contains("each entry hangs on the one before"));
    let altered = fleet.path("altered.jsonl");
    for (from, to, says) in [
        ("\"actor\":\"admin\"", "\"actor\":\"anna\"", "is shown otherwise than it was written"),
        ("\"sequence\":2", "\"sequence\":9", "is shown otherwise than it was written"),
    ] {
        fs::write(&altered, fs::read_to_string(&file).unwrap().replacen(from, to, 1)).unwrap();
        let refused = check(&altered).failed(1);
        assert!(refused.stdout.contains(says), "{refused:?}");
    }
    let without_second = lines(&file).into_iter().enumerate().filter(|(number, _)| *number != 1);
    fs::write(&altered, without_second.map(|(_, line)| line + "\n").collect::<String>()).unwrap();
    assert!(check(&altered).failed(1).stdout.contains("entries between them are gone"));
    fs::write(&altered, "").unwrap();
    assert!(check(&altered).failed(2).stderr.contains("it holds no entry"));
    let wrong = format!("{}:{}", head.split_once(':').unwrap().0, "0".repeat(64));
    let lost = fleet.path("lost.jsonl");
    let _refused = export(&lost, &["--known", &wrong]).failed(1);
    assert!(!lost.exists(), "of a log that does not hold nothing is left");
}
