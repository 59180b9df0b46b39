//! The pages of the manual: from the command lines, with the examples of our documents. Each of those is
//! checked against the programs, and most are typed by a story.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use clap::Command;

use crate::python::root;

/// Examples on one page.
const MOST: usize = 6;

/// A line of a document that somebody types.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Example {
    typed: String,
    /// What stands behind it there.
    said: String,
    document: String,
}

/// The programs, with all that clap adds.
#[must_use]
pub fn programs() -> [Command; 4] {
    let mut all = [
        writ::command_line(),
        writ_agent::command_line(),
        writ_server::command_line(),
        writ_control_manager::command_line(),
    ]
    .map(|program| program.disable_help_subcommand(true));
    all.iter_mut().for_each(Command::build);
    all
}

/// The pages of one program: the file of each and its text.
///
/// # Errors
/// When a document cannot be read.
pub fn pages(program: &Command) -> io::Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    let examples = examples(program)?;
    write_pages(program, &[], &examples, &mut pages)?;
    Ok(pages)
}

/// The commands of a program that no document shows; names of their pages.
///
/// # Errors
/// When a document cannot be read.
pub fn without_example(program: &Command) -> io::Result<Vec<String>> {
    let shown = pages(program)?;
    Ok(shown.into_iter().filter(|(_, text)| !text.contains(".SH EXAMPLES")).map(|(name, _)| name).collect())
}

fn write_pages(
    command: &Command,
    above: &[String],
    examples: &[(Vec<String>, Example)],
    pages: &mut BTreeMap<String, String>,
) -> io::Result<()> {
    let path = [above, &[command.get_name().to_owned()]].concat();
    let below: Vec<_> = command.get_subcommands().filter(|below| !below.is_hide_set()).collect();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(path.join("-")).bin_name(path.join(" ")))
        .render(&mut page)?;
    let mut page = String::from_utf8(page).map_err(io::Error::other)?;
    // Of a command that has others below it: one of each, as the documents begin.
    let mut seen = Vec::new();
    let mut shown = Vec::new();
    for (command, example) in examples.iter().filter(|(command, _)| command.starts_with(&path)) {
        if shown.len() < MOST && (below.is_empty() || !seen.contains(command)) {
            seen.push(command.clone());
            shown.push(example);
        }
    }
    if !shown.is_empty() {
        page.push_str(".SH EXAMPLES\n");
    }
    for Example { typed, said, .. } in &shown {
        if !said.is_empty() {
            let _ = writeln!(page, ".PP\n{}", escaped(said));
        }
        let _ = writeln!(page, ".PP\n.RS 4\n.nf\n{}\n.fi\n.RE", escaped(typed));
    }
    let mut others: Vec<_> = (1..path.len()).map(|length| path[..length].join("-")).collect();
    others.extend(below.iter().map(|below| format!("{}-{}", path.join("-"), below.get_name())));
    let program = path.first().map_or("", String::as_str);
    let mut documents: Vec<_> =
        shown.iter().map(|example| format!("/usr/share/doc/{program}/{}", example.document)).collect();
    documents.sort_unstable();
    documents.dedup();
    let pages_of_others = others.iter().map(|name| format!("\\fB{}\\fR(1)", escaped(name)));
    let see: Vec<_> = pages_of_others.chain(documents.iter().map(|path| escaped(path))).collect();
    let _ = writeln!(page, ".SH \"SEE ALSO\"\n{}", see.join(", "));
    pages.insert(format!("{}.1", path.join("-")), page);
    below.into_iter().try_for_each(|below| write_pages(below, &path, examples, pages))
}

/// What our documents show of a program, each with its command, in the order in which somebody reads them.
fn examples(program: &Command) -> io::Result<Vec<(Vec<String>, Example)>> {
    let mut found = Vec::<(Vec<String>, Example)>::new();
    let mut documents = vec![root().join("README.md")];
    let mut more: Vec<_> =
        fs::read_dir(root().join("docs"))?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    more.retain(|path| path.extension().is_some_and(|end| end == "md"));
    more.sort();
    documents.extend(more);
    for path in documents {
        let document = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (typed, said) in lines(&fs::read_to_string(&path)?) {
            let Some(command) = command_of(program, &typed) else { continue };
            if !found.iter().any(|(_, known)| known.typed == typed) {
                found.push((command, Example { typed, said, document: document.clone() }));
            }
        }
    }
    Ok(found)
}

/// The lines of a document's blocks, whole, and what is said behind each.
fn lines(document: &str) -> Vec<(String, String)> {
    let (mut found, mut is_inside, mut so_far) = (Vec::new(), false, String::new());
    for line in document.lines() {
        if line.starts_with("```") {
            is_inside = !is_inside && line.starts_with("```sh");
        } else if is_inside {
            so_far.push_str(line.trim_end_matches('\\'));
            if !line.ends_with('\\') {
                let whole = std::mem::take(&mut so_far);
                let (typed, said) = whole.split_once(" # ").unwrap_or((&whole, ""));
                found.push((typed.trim().to_owned(), said.trim().to_owned()));
            }
        }
    }
    found
}

/// The command of a program that a line types, if it types one, by its path.
fn command_of(program: &Command, line: &str) -> Option<Vec<String>> {
    let mut words = line.split_whitespace().peekable();
    // As another user: the name of the program is also a user's.
    if words.peek() == Some(&"runuser") {
        words.find(|word| *word == "--")?;
    }
    if words.next()? != program.get_name() {
        return None;
    }
    let (mut command, mut path) = (program, vec![program.get_name().to_owned()]);
    while let Some(word) = words.next() {
        if let Some(flag) = word.strip_prefix("--") {
            let known = command.get_arguments().find(|known| known.get_long() == Some(flag));
            if known.is_some_and(|known| known.get_action().takes_values()) {
                words.next();
            }
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
            path.push(word.to_owned());
        } else {
            break;
        }
    }
    // One that needs another below it is typed with a word that is to be filled in.
    (!command.is_subcommand_required_set()).then_some(path)
}

/// Text as roff takes it (groff_man(7)): nothing of it is a request, hyphens can be copied.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// Writes the pages of a program into a folder.
///
/// # Errors
/// When a document cannot be read or a page not be written.
pub fn write(program: &Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    pages(program)?.into_iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))
}
