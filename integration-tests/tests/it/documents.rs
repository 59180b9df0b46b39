//! What pages and error messages tell people to type exists: programs, subcommands, flags and configuration
//! keys.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::manual::{self, programs};
use integration_tests::python::root;

/// Words as a shell sees them: what is quoted is part of one.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            Some(_) => word.push('_'),
            None => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// What is wrong with the words after a program's name, as far as they are one command.
fn fault(program: &Command, words: &[String]) -> Option<String> {
    let (mut command, mut words) = (program, words.iter().map(String::as_str));
    while let Some(word) = words.next() {
        let ends =
            matches!(word, "--" | "|" | "&&" | "||" | ">" | "<" | "&" | "#" | "…") || word.ends_with(')');
        if ends {
            return None;
        }
        // The end of a command, and of a sentence; what a message fills in is a value.
        let is_last = word.ends_with([';', ',', '.', ':']);
        let word = word.trim_end_matches([';', ',', '.', ':']).split('{').next().unwrap_or_default();
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
        } else if command.has_subcommands() && !word.starts_with('-') {
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

/// How many commands of ours stand in a piece of text, and what is wrong with them.
fn faults(text: &str) -> (usize, Vec<String>) {
    let words = split(text);
    let (mut all, mut found) = (0, Vec::new());
    for program in programs() {
        let is_program = |place: usize| {
            let is_of_its_name = words[place].rsplit('/').next() == Some(program.get_name());
            // Users and services have its name, too.
            is_of_its_name && (place == 0 || !["-o", "-u", "-g"].contains(&words[place - 1].as_str()))
        };
        for place in (0..words.len()).filter(|place| is_program(*place)) {
            all += usize::from(place + 1 < words.len());
            found.extend(fault(&program, &words[place + 1..]).map(|fault| format!("{fault}: {text}")));
        }
    }
    (all, found)
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
fn every_path_that_a_page_names_exists() {
    let folders = [
        "proto",
        "protocol",
        "common",
        "lists",
        "objects",
        "updates",
        "database",
        "server",
        "agent",
        "control-manager",
        "cli",
    ];
    let others = ["integration-tests", "bench", "deploy", "fuzz", "docs"];
    let mut pages = files(&root().join("docs"), "md");
    // A decision tells of its day.
    pages.retain(|page| !page.parent().unwrap().ends_with("adr"));
    pages.extend(["README.md", "SECURITY.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|n| root().join(n)));
    let mut all = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((first, _)) = quoted.split_once('/') else { continue };
            let is_ours = folders.iter().chain(&others).any(|folder| *folder == first);
            // A word in capitals stands for something that the reader puts in.
            let is_pattern = quoted.contains([' ', '…', '*', '<'])
                || quoted
                    .split('/')
                    .any(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase()));
            if is_ours && !is_pattern {
                all += 1;
                assert!(root().join(quoted).exists(), "{}: there is no {quoted}", page.display());
            }
        }
    }
    assert!(all > 60, "{all}");
}

#[test]
fn every_command_in_every_document_exists_with_its_flags() {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(
        ["README.md", "SECURITY.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root().join(name)),
    );
    let mut all = 0;
    for page in pages {
        for command in commands(&fs::read_to_string(&page).unwrap()) {
            let (count, wrong) = faults(&command);
            all += count;
            assert_eq!(wrong, Vec::<String>::new(), "{}", page.display());
        }
    }
    assert!(all > 120, "{all}");
    let found = |text: &str| faults(text).1;
    assert_eq!(found("writ send pong --all"), ["`send` has no command `pong`: writ send pong --all"]);
    assert_eq!(found("sudo writ-server run --fast").len(), 1);
    assert_eq!(found("writ send ping --selector 'site in (rome,paris),!legacy' --dry").len(), 1);
}

#[test]
fn every_command_an_error_message_tells_to_type_exists_with_its_flags() {
    let mut all = 0;
    for package in [
        "protocol",
        "common",
        "lists",
        "objects",
        "updates",
        "database",
        "server",
        "agent",
        "control-manager",
        "cli",
        "deploy",
    ] {
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
                    let (count, wrong) = faults(&hint);
                    all += count;
                    assert_eq!(wrong, Vec::<String>::new(), "{}", source.display());
                }
            }
        }
    }
    assert!(all > 100, "{all}");
}

/// The keys in the first table below a heading.
fn keys_in_page(page: &str, heading: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut lines = text.lines().skip_while(|line| *line != heading);
    let mut table = lines.by_ref().skip_while(|line| !line.starts_with('|')).skip(2);
    let rows = table.by_ref().take_while(|line| line.starts_with('|'));
    let keys = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    keys.map(str::to_owned).collect()
}

/// The keys a program lists when it is given one that resembles none.
fn keys_of_program(program: &str) -> BTreeSet<String> {
    let fleet = Fleet::new(Build::Testing);
    let path = fleet.path("wrong.toml");
    fs::write(&path, "this_is_surely_no_key_of_any_program_of_ours = 1\n").unwrap();
    let said = fleet.run(program, &["run", "--config", path.to_str().unwrap()]);
    assert_eq!(said.code, 64, "{said:?}");
    let (_, keys) = said.stderr.split_once("the keys are ").unwrap();
    let keys = keys.lines().next().unwrap().split('`').skip(1).step_by(2);
    keys.map(str::to_owned).collect()
}

#[test]
fn every_configuration_key_has_its_row_and_every_row_its_key() {
    for (program, page, heading) in [
        ("writ-server-testing", "docs/configuration.md", "## writ-server run"),
        ("writ-agent-testing", "docs/configuration.md", "## writ-agent"),
        ("writ-control-manager-testing", "docs/control-manager.md", "### control-manager.toml"),
    ] {
        assert_eq!(keys_of_program(program), keys_in_page(page, heading), "{program} and {page}");
    }
}

#[test]
fn every_page_of_the_manual_has_an_example_and_says_where_to_read_on() {
    for program in programs() {
        assert_eq!(manual::without_example(&program).unwrap(), Vec::<String>::new());
        for (name, page) in manual::pages(&program).unwrap() {
            assert!(page.contains(".SH \"SEE ALSO\"\n"), "{name}");
        }
    }
}
