//! The file of `writ audit export`.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Row;
use crate::failure::Failure;

/// A file that is there when all of it is, and else is not.
pub(super) struct NewFile {
    path: PathBuf,
    out: BufWriter<File>,
    is_whole: bool,
}

#[derive(Serialize)]
struct Line<'r> {
    #[serde(flatten)]
    row: &'r Row,
    encoded: String,
}

impl NewFile {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let out = File::create_new(path).map_err(|error| failure(path, &error))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::new(out), is_whole: false })
    }

    pub(super) fn write(&mut self, row: &Row, encoded: &[u8]) -> Result<(), Failure> {
        let line = serde_json::to_string(&Line { row, encoded: hex::encode(encoded) });
        let line = line.map_err(|error| Failure::local(error.to_string()))?;
        writeln!(self.out, "{line}").map_err(|error| failure(&self.path, &error))
    }

    /// Returns where it is.
    pub(super) fn keep(mut self) -> Result<String, Failure> {
        let written = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        written.map_err(|error| failure(&self.path, &error))?;
        self.is_whole = true;
        Ok(self.path.display().to_string())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_whole {
            // What is left of it would pass for the whole log.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::AlreadyExists => "exists already; name another file".to_owned(),
        _ => error.to_string(),
    };
    Failure::local(format!("{}: {why}", path.display()))
}
