//! What people read first, as it is: the help of every command, and what is said of the most common mistakes.
//! `make update` writes both anew; a change of wording then shows in the review.

use std::fmt::Write as _;

use clap::Command;
use integration_tests::daemon::Said;
use integration_tests::fleet::{Build, Fleet};

use super::pinned::pinned;

/// Columns of the terminal that help is wrapped for.
const WIDTH: usize = 100;

fn help(path: &str, command: &mut Command, text: &mut String) {
    let _ = writeln!(text, "## {path}\n\n{}", command.render_long_help().to_string().trim_end());
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        let sub = command.find_subcommand_mut(name).unwrap();
        if !sub.is_hide_set() {
            text.push('\n');
            help(&format!("{path} {name}"), sub, text);
        }
    }
}

#[test]
fn the_help_of_every_command_is_pinned() {
    for program in [
        writ::command_line(),
        writ_agent::command_line(),
        writ_server::command_line(),
        writ_control_manager::command_line(),
    ] {
        let mut program = program.term_width(WIDTH);
        program.build();
        let (name, mut text) = (program.get_name().to_owned(), String::new());
        help(&name, &mut program, &mut text);
        pinned(&format!("integration-tests/snapshots/help-{name}.txt"), text.as_bytes());
    }
}

/// The mistakes, in the order in which somebody new makes them.
struct Mistakes<'a> {
    fleet: &'a Fleet,
    text: String,
}

impl Mistakes<'_> {
    fn make(&mut self, title: &str, program: &str, arguments: &[&str]) {
        let said = self.fleet.run(program, arguments);
        self.note(title, program, arguments, &said);
    }

    fn note(&mut self, title: &str, program: &str, arguments: &[&str], said: &Said) {
        assert_ne!(said.code, 0, "{title}: {said:?}");
        let typed = format!("{program} {}", arguments.join(" "));
        // How often progress is shown depends on the machine; a result is not progress.
        let shown = if said.stdout.is_empty() { &said.stderr } else { &said.stdout };
        let (typed, told) = (self.plain(&typed), self.plain(shown.trim_end()));
        let _ = writeln!(self.text, "## {title}\n\n$ {typed}\nexit code {}\n{told}\n", said.code);
    }

    /// Without what differs from run to run: folders, ports, ids, digests and times.
    fn plain(&self, text: &str) -> String {
        let folder = self.fleet.path("").display().to_string();
        let text = text.replace(folder.trim_end_matches('/'), "FOLDER").replace("-testing", "");
        let is_time = |part: &str| part.len() == 20 && part.ends_with('Z') && part.starts_with("20");
        let times: Vec<_> = text.split_whitespace().filter(|part| is_time(part)).collect();
        let text = times.iter().fold(text.clone(), |text, time| text.replace(time, "TIME"));
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some(start) = rest.find(is_word) {
            let (before, tail) = rest.split_at(start);
            let (word, after) = tail.split_at(tail.find(|c| !is_word(c)).unwrap_or(tail.len()));
            plain.push_str(before);
            let is_hex = word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
            let is_port =
                before.ends_with(':') && word.len() >= 4 && word.chars().all(|c| c.is_ascii_digit());
            let is_process = before.ends_with("process ") && word.chars().all(|c| c.is_ascii_digit());
            plain.push_str(match (is_port, is_hex, is_process) {
                (true, ..) => "PORT",
                (_, true, _) => "ID",
                (.., true) => "NUMBER",
                _ => word,
            });
            rest = after;
        }
        plain + rest
    }
}

#[test]
fn what_is_said_of_the_twenty_most_common_mistakes_is_pinned() {
    let fleet = Fleet::new(Build::Testing);
    let _agent = fleet.agent("web1");
    let path = |name: &str| fleet.path(name).to_str().unwrap().to_owned();
    let (server, agent) = ("writ-server-testing", "writ-agent-testing");
    let port = format!("localhost:{}", fleet.admin_port());
    let _made = fleet
        .writ(&["operator", "create", "victor", "--role", "viewer", "--token-file", &path("viewer")])
        .ok();
    fleet.write_secret("wrong-token", "writ-admin.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    fleet.write_secret("wrong-passphrase", "four words of another\n");
    let spent = fleet.write_secret("spent", &std::fs::read_to_string(fleet.token(1)).unwrap());
    let _other = fleet.enroll("web2", &spent).ok();
    std::fs::write(path("typo.toml"), "[listen]\nagnets = \"0.0.0.0:7443\"\n").unwrap();
    std::fs::write(path("evidence.json"), "{}").unwrap();
    let ca = path("server/admin-ca.pem");
    let mut mistakes = Mistakes { fleet: &fleet, text: String::new() };

    mistakes.make("No fleet was made", server, &["run", "--data-dir", &path("nowhere")]);
    mistakes.make("A key of the configuration is mistyped", server, &["run", "--config", &path("typo.toml")]);
    let again = ["init", "--name", "acme", "--endpoint", "localhost:7443", "--data-dir", &path("server")];
    mistakes.make("A fleet is here already", server, &again);
    mistakes.make("The server runs already", server, &["run", "--data-dir", &path("server")]);
    let (archive, data) = (path("writ.age"), path("server"));
    let (right, guess) = (path("passphrase"), path("wrong-passphrase"));
    let backup = ["cert", "backup", &archive, "--data-dir", &data, "--passphrase-file", &right];
    let _made = fleet.run(server, &backup).ok();
    let elsewhere = path("restored");
    let restore = ["cert", "restore", &archive, "--data-dir", &elsewhere, "--passphrase-file", &guess];
    mistakes.make("The passphrase is another one", server, &restore);
    mistakes.make("No context is chosen", "writ", &["--context", "nowhere", "agents", "list"]);
    let context = |token: &str, ca: &str, to: &str| {
        let all = ["context", "add", "other", "--server", to, "--ca", ca, "--token-file", token];
        all.map(str::to_owned)
    };
    let typed = context(&path("server/admin-token"), &path("server/tls.key"), &port);
    mistakes.make("The CA file is a key", "writ", &typed.each_ref().map(String::as_str));
    let typed = context(&path("server/admin-token"), &ca, "localhost:1");
    mistakes.make("Nobody answers there", "writ", &typed.each_ref().map(String::as_str));
    let typed = context(&path("wrong-token"), &ca, &port);
    mistakes.make("The token is unknown", "writ", &typed.each_ref().map(String::as_str));
    let viewer = context(&path("viewer"), &ca, &port);
    let _added = fleet.writ(&viewer.each_ref().map(String::as_str)).ok();
    mistakes.make("The role is too small", "writ", &["--context", "other", "send", "ping", "--all"]);
    let _used = fleet.writ(&["context", "use", "acme"]).ok();
    mistakes.make("A subcommand is mistyped", "writ", &["agent", "list"]);
    mistakes.make("Nobody is named", "writ", &["send", "ping"]);
    mistakes.make("An agent of that name is not enrolled", "writ", &["send", "ping", "--agent", "web9"]);
    mistakes.make("A selector is not one", "writ", &["send", "ping", "--selector", "os in linux"]);
    mistakes.make(
        "An action is on no allow-list",
        "writ",
        &["send", "action", "reboot", "--agent", "web1", "--wait"],
    );
    let unknown = "01890000-0000-7000-8000-000000000000";
    mistakes.make("A command of that id is unknown", "writ", &["commands", "show", unknown]);
    mistakes.make(
        "Evidence is damaged",
        "writ",
        &["evidence", "verify", &path("evidence.json"), "--pin", &"0".repeat(64)],
    );
    mistakes.make("An agent was never enrolled", agent, &["run", "--data-dir", &path("nobody")]);
    let spent = ["enroll", "--token-file", &path("spent"), "--name", "web3", "--data-dir", &path("web3")];
    mistakes.make("A token is spent", agent, &spent);
    let manager = ["run", "--data-dir", &path("no-manager")];
    mistakes.make("No Control Manager was made", "writ-control-manager-testing", &manager);
    pinned("integration-tests/snapshots/mistakes.txt", mistakes.text.as_bytes());
}
