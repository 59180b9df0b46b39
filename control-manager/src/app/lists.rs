//! `writ-control-manager lists`: lists of files, domains and URLs, made and looked at without a manager.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::say;
use writ_common::shutdown::Shutdown;
use writ_lists::source::{self, Layout, SourceError};
use writ_lists::{Builder, Key, Kind, List};

use super::Output;

/// Bytes read at once.
const BUFFER: usize = 1 << 20;
/// Bytes between two words of progress.
const STEP: usize = 64 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Lists {
    /// Make a list from files as the world publishes them: one value a line, or a column of CSV. Lines that
    /// are no value are left out, counted, and the first twenty are told with their number.
    Build(Build),
    /// Show what a list holds.
    Show(Show),
    /// Look values up in a list, one line for each. A domain is found if one that it is below is listed.
    Look(Look),
}

#[derive(Debug, Args)]
pub(super) struct Build {
    /// What the values are: sha256, sha1, md5, domain or url.
    #[arg(long, value_name = "KIND")]
    kind: Kind,
    /// The files are CSV, and the values are in the column of this name.
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Where the list goes. One that is there is replaced at once, when all is well.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where the filter goes that agents hold: about nine bits an entry.
    #[arg(long, value_name = "FILE")]
    filter: Option<PathBuf>,
    /// Write nothing when there is a line that is no value.
    #[arg(long)]
    strict: bool,
    /// The files, as they were published.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The list.
    #[arg(value_name = "LIST")]
    list: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Look {
    /// The list.
    #[arg(value_name = "LIST")]
    list: PathBuf,
    /// The values, of the list's kind.
    #[arg(required = true, value_name = "VALUE")]
    values: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(command: Lists, shutdown: &Shutdown) -> Result<(), Fatal> {
    match command {
        Lists::Build(options) => build(options, shutdown),
        Lists::Show(options) => show(&options),
        Lists::Look(options) => look(&options),
    }
}

/// A list that was made.
#[derive(Serialize)]
struct NewList {
    list: PathBuf,
    kind: &'static str,
    entries: u32,
    repeated: u32,
    bytes: u64,
    filter: Option<PathBuf>,
    filter_bytes: Option<usize>,
    bad_lines: u64,
    first_bad_lines: Vec<BadLine>,
}

#[derive(Serialize)]
struct BadLine {
    file: PathBuf,
    line: u64,
    reason: String,
}

fn build(options: Build, shutdown: &Shutdown) -> Result<(), Fatal> {
    let Build { kind, column, out, filter, strict, files, output } = options;
    let layout = column.map_or(Layout::Lines, Layout::Column);
    let (mut builder, mut bad_lines, mut first_bad_lines) = (Builder::new(kind), 0, Vec::new());
    let written: Vec<_> = std::iter::once(&out).chain(&filter).collect();
    for (index, path) in written.iter().enumerate() {
        check_place(path, files.iter().chain(written[..index].iter().copied()))?;
    }
    let mut take = |key: Key| builder.add(key).map_err(|error| SourceError::Refused(error.to_string()));
    for path in files {
        let failed = |error: SourceError| {
            let text = format!("{}: {error}", path.display());
            if matches!(error, SourceError::Unreadable(_)) {
                Fatal::failure(text)
            } else {
                Fatal::usage(text)
            }
        };
        let file = File::open(&path).map_err(|error| failed(error.into()))?;
        let from = BufReader::with_capacity(BUFFER, Watched { file, path: &path, read: 0, shutdown });
        let read = source::read(from, &layout, kind, &mut take).map_err(failed)?;
        bad_lines += read.bad;
        first_bad_lines.extend(read.bad_lines.into_iter().map(|line| {
            let source::BadLine { number, reason } = line;
            BadLine { file: path.clone(), line: number, reason }
        }));
    }
    first_bad_lines.truncate(source::MAX_TOLD);
    for BadLine { file, line, reason } in &first_bad_lines {
        say::aside(format_args!("{}:{line}: {reason}", file.display()));
    }
    if strict && bad_lines > 0 {
        return Err(Fatal::usage(format!("{bad_lines} lines are no {kind}; nothing was written")));
    }
    let sorted = builder.sort().map_err(Fatal::usage)?;
    // The filter first: if it cannot be made or written, the list of before stays. It names its list, so what
    // a crash leaves between the two is seen for what it is.
    let mut filter_bytes = None;
    if let Some(path) = &filter {
        let made = sorted.filter().map_err(|error| Fatal::failure(format!("the filter {error}")))?;
        files::write_public(path, made.as_bytes()).map_err(Fatal::failure)?;
        filter_bytes = Some(made.as_bytes().len());
    }
    let bytes = sorted.write(&out).map_err(Fatal::failure)?;
    let told = NewList {
        list: out,
        kind: kind.as_str(),
        entries: sorted.entries(),
        repeated: sorted.repeated(),
        bytes,
        filter,
        filter_bytes,
        bad_lines,
        first_bad_lines,
    };
    match output {
        Output::Json => say_json(&told),
        Output::Text => {
            let NewList { list, entries, repeated, bytes, bad_lines, .. } = &told;
            let list = list.display();
            let mut text = format!("{list}: {entries} different values of kind {kind} in {bytes} bytes");
            text += &format!("\n{repeated} were repeated, {bad_lines} lines were no {kind} and are left out");
            if let (Some(path), Some(bytes)) = (&told.filter, told.filter_bytes) {
                text += &format!("\n{}: its filter, {bytes} bytes", path.display());
            }
            say::result(text).map_err(Fatal::failure)
        }
    }
}

/// Whether a file may be written: it is no other's name, and replaces nothing but a file.
fn check_place<'a>(path: &Path, mut others: impl Iterator<Item = &'a PathBuf>) -> Result<(), Fatal> {
    let refuse = |why: &str| Err(Fatal::usage(format!("{} {why}", path.display())));
    // One that is not there yet is where its folder is.
    let whole = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new(".")).canonicalize().ok()?;
        path.canonicalize().ok().or_else(|| Some(folder.join(path.file_name()?)))
    };
    let here = whole(path);
    if others.any(|other| other == path || (here.is_some() && whole(other) == here)) {
        return refuse("is named twice: what is written would replace it");
    }
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => refuse("is there and is no file; name another"),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A file of any size, whose reading is shown and can be stopped.
struct Watched<'a> {
    file: File,
    path: &'a Path,
    read: usize,
    shutdown: &'a Shutdown,
}

impl io::Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.shutdown.is_requested() {
            return Err(io::Error::other("stopped; nothing was written"));
        }
        let read = self.file.read(buffer)?;
        let steps = self.read / STEP;
        self.read += read;
        if self.read / STEP > steps {
            say::aside(format_args!("{}: {} MiB read", self.path.display(), self.read >> 20));
        }
        Ok(read)
    }
}

fn say_json(told: &impl Serialize) -> Result<(), Fatal> {
    let text = serde_json::to_string_pretty(told).map_err(Fatal::failure)?;
    say::result(text).map_err(Fatal::failure)
}

fn open(path: &Path) -> Result<List, Fatal> {
    List::open(path).map_err(Fatal::failure)
}

#[derive(Serialize)]
struct ListShown<'a> {
    list: &'a Path,
    kind: &'static str,
    entries: u32,
    bytes: u64,
}

fn show(options: &Show) -> Result<(), Fatal> {
    let list = open(&options.list)?;
    let (path, kind) = (options.list.as_path(), list.kind().as_str());
    let told = ListShown { list: path, kind, entries: list.entries(), bytes: list.bytes() };
    match options.output {
        Output::Json => say_json(&told),
        Output::Text => {
            let ListShown { entries, bytes, .. } = told;
            let text = format!("{}: {entries} values of kind {kind} in {bytes} bytes", path.display());
            say::result(text).map_err(Fatal::failure)
        }
    }
}

#[derive(Serialize)]
struct Looked<'a> {
    value: &'a str,
    is_listed: bool,
}

fn look(options: &Look) -> Result<(), Fatal> {
    let list = open(&options.list)?;
    let mut told = Vec::new();
    for value in &options.values {
        let looked = list.contains_value(value).map_err(Fatal::failure)?;
        let is_listed = looked.map_err(|error| Fatal::usage(format!("a value {error}")))?;
        told.push(Looked { value, is_listed });
    }
    match options.output {
        Output::Json => say_json(&told),
        Output::Text => told.iter().try_for_each(|Looked { value, is_listed }| {
            let word = if *is_listed { "listed" } else { "not listed" };
            say::result(format_args!("{value}: {word}")).map_err(Fatal::failure)
        }),
    }
}
