//! What pages and error messages tell people to type exists: programs, subcommands and flags.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use integration_tests::python::root;

fn programs() -> [Command; 4] {
    let mut all = [
        writ::command_line(),
        writ_agent::app::command_line(),
        writ_server::app::command_line(),
        writ_control_manager::app::command_line(),
    ];
    all.iter_mut().for_each(Command::build);
    all
}

/// What is wrong with the words after a program's name, as far as they are one command.
fn fault(program: &Command, words: &[&str]) -> Option<String> {
    let (mut command, mut words) = (program, words.iter());
    while let Some(word) = words.next() {
        let end = word.len() - word.trim_end_matches([';', ',', '.', ':', ')', '"', '\'', '`']).len();
        let is_last = end > 0;
        // What a message fills in is a value.
        let word = word[..word.len() - end].split('{').next().unwrap_or_default();
        if word == "--" || matches!(word, "|" | "&&" | "||" | ">" | "<" | "&" | "#" | "…") {
            return None;
        }
        if let Some(flag) = word.strip_prefix("--") {
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            let mut known = command.get_arguments();
            let Some(known) = known.find(|argument| argument.get_long() == Some(name)) else {
                return Some(format!("`{}` has no flag --{name}", command.get_name()));
            };
            if value.is_none() && known.get_action().takes_values() {
                words.next();
            }
        } else if command.has_subcommands() {
            let is_placeholder = word.is_empty() || !word.starts_with(|c: char| c.is_ascii_lowercase());
            match command.find_subcommand(word) {
                Some(found) => command = found,
                None if is_placeholder => return None,
                None => return Some(format!("`{}` has no command `{word}`", command.get_name())),
            }
        }
        if is_last {
            return None;
        }
    }
    None
}

/// Everything in a piece of text that should be a command, and is none.
fn faults(text: &str) -> Vec<String> {
    let words: Vec<_> = text.split_whitespace().collect();
    let mut found = Vec::new();
    for program in programs() {
        let is_program = |place: usize| {
            let is_of_its_name = words[place].rsplit('/').next() == Some(program.get_name());
            // Users and services have its name, too.
            is_of_its_name && (place == 0 || !["-o", "-u", "-g"].contains(&words[place - 1]))
        };
        for place in (0..words.len()).filter(|place| is_program(*place)) {
            found.extend(fault(&program, &words[place + 1..]).map(|fault| format!("{fault}: {text}")));
        }
    }
    found
}

/// The commands of a page: lines of its blocks without their comments, and what stands between backticks.
fn commands(page: &str) -> Vec<String> {
    let (mut commands, mut prose, mut is_inside, mut line_so_far) =
        (Vec::new(), String::new(), false, String::new());
    for line in page.lines() {
        if line.starts_with("```") {
            is_inside = !is_inside;
        } else if is_inside {
            let line = line.split(" # ").next().unwrap();
            line_so_far.push_str(line.trim_end_matches('\\'));
            if !line.ends_with('\\') {
                commands.push(std::mem::take(&mut line_so_far));
            }
        } else {
            prose.push_str(line.trim_start());
            prose.push(' ');
        }
    }
    commands.extend(prose.split('`').skip(1).step_by(2).map(str::to_owned));
    commands
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_command_in_every_document_exists_with_its_flags() {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(
        ["README.md", "SECURITY.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root().join(name)),
    );
    let mut all = 0;
    for page in pages {
        let commands = commands(&fs::read_to_string(&page).unwrap());
        all += commands.len();
        let wrong: Vec<_> = commands.iter().flat_map(|command| faults(command)).collect();
        assert!(wrong.is_empty(), "{}: {wrong:#?}", page.display());
    }
    assert!(all > 1000, "{all}");
    assert_eq!(faults("writ send pong --all"), ["`send` has no command `pong`: writ send pong --all"]);
    assert_eq!(faults("sudo writ-server run --fast").len(), 1);
}

#[test]
fn every_command_an_error_message_tells_to_type_exists_with_its_flags() {
    let mut all = 0;
    for package in ["common", "server", "agent", "control-manager", "cli", "deploy"] {
        let folder = root().join(package);
        let mut sources = files(&folder, if package == "deploy" { "yaml" } else { "rs" });
        sources.retain(|path| !path.ends_with("compose.yaml"));
        for source in sources {
            let text = fs::read_to_string(&source).unwrap();
            let said = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            // After a colon, or between backticks: what is to be typed, not what is spoken of.
            for line in said {
                let hints = [": writ", "`writ"].into_iter().flat_map(|before| line.split(before).skip(1));
                for hint in hints {
                    let hint = format!("writ{}", hint.split(['`', '"', '<']).next().unwrap());
                    all += 1;
                    assert_eq!(faults(&hint), Vec::<String>::new(), "{}", source.display());
                }
            }
        }
    }
    assert!(all > 100, "{all}");
}
