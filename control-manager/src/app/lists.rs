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
/// Such reads between two words of progress.
const STEP: u64 = 64;

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
    if let Some(path) = replaced(&out, filter.as_deref(), &files) {
        let text = format!("{} is named twice: what is written would replace it", path.display());
        return Err(Fatal::usage(text));
    }
    let mut take = |key: Key| builder.add(key).map_err(|error| SourceError::Refused(error.to_string()));
    for path in files {
        let of_file = |error: &dyn std::fmt::Display| Fatal::usage(format!("{}: {error}", path.display()));
        let file = File::open(&path).map_err(|error| of_file(&SourceError::from(error)))?;
        let from = BufReader::with_capacity(BUFFER, Watched { file, path: &path, reads: 0, shutdown });
        let read = source::read(from, &layout, kind, &mut take).map_err(|error| of_file(&error))?;
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
    let sorted = builder.sort().map_err(Fatal::failure)?;
    // Before the list is replaced: what cannot be made leaves both files of before.
    let made = filter.as_ref().map(|_| sorted.filter()).transpose();
    let made = made.map_err(|error| Fatal::failure(format!("the filter {error}")))?;
    let bytes = sorted.write(&out).map_err(Fatal::failure)?;
    if let (Some(path), Some(made)) = (&filter, &made) {
        files::write_public(path, made.as_bytes()).map_err(Fatal::failure)?;
    }
    let told = NewList {
        list: out,
        kind: kind.as_str(),
        entries: sorted.entries(),
        repeated: sorted.repeated(),
        bytes,
        filter,
        filter_bytes: made.map(|made| made.as_bytes().len()),
        bad_lines,
        first_bad_lines,
    };
    match output {
        Output::Json => say_json(&told),
        Output::Text => {
            let NewList { list, entries, repeated, bytes, bad_lines, .. } = &told;
            let mut text = format!(
                "{}: {entries} different values of kind {kind} in {bytes} bytes\n{repeated} were repeated, {bad_lines} lines were no {kind} and are left out",
                list.display()
            );
            if let (Some(path), Some(bytes)) = (&told.filter, told.filter_bytes) {
                text += &format!("\n{}: its filter, {bytes} bytes", path.display());
            }
            say::result(text).map_err(Fatal::failure)
        }
    }
}

/// A path that is written and also read, or written twice.
fn replaced<'a>(out: &'a Path, filter: Option<&'a Path>, files: &[PathBuf]) -> Option<&'a Path> {
    let is_one = |one: &Path, other: &Path| {
        std::fs::canonicalize(one)
            .ok()
            .is_some_and(|one| std::fs::canonicalize(other).is_ok_and(|other| one == other))
    };
    let is_read = |path: &Path| files.iter().any(|file| is_one(path, file));
    let written = std::iter::once(out).chain(filter);
    written
        .clone()
        .find(|path| is_read(path))
        .or_else(|| filter.filter(|path| *path == out || is_one(path, out)))
}

/// A file of any size, whose reading is shown and can be stopped.
struct Watched<'a> {
    file: File,
    path: &'a Path,
    reads: u64,
    shutdown: &'a Shutdown,
}

impl io::Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.shutdown.is_requested() {
            return Err(io::Error::other("stopped; nothing was written"));
        }
        self.reads += 1;
        if self.reads.is_multiple_of(STEP) {
            say::aside(format_args!("{}: {} MiB read", self.path.display(), self.reads));
        }
        self.file.read(buffer)
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
