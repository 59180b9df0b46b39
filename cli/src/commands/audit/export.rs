//! The file of `writ audit export`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Row;
use crate::failure::Failure;

/// A file that has its name when all of it is there. Until then it has another: a part could pass for the
/// whole.
pub(super) struct NewFile {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
}

#[derive(Serialize)]
struct Line<'r> {
    #[serde(flatten)]
    row: &'r Row,
    encoded: String,
}

impl NewFile {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        if path.exists() {
            return Err(failure(path, &io::ErrorKind::AlreadyExists.into()));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        // One that was left by an export that was killed.
        let _ = std::fs::remove_file(&part);
        let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let out = BufWriter::new(out.map_err(|error| failure(&part, &error))?);
        Ok(Self { path: path.to_owned(), part, out })
    }

    pub(super) fn write(&mut self, row: &Row, encoded: &[u8]) -> Result<(), Failure> {
        let line = serde_json::to_string(&Line { row, encoded: hex::encode(encoded) });
        let line = line.map_err(|error| Failure::local(error.to_string()))?;
        writeln!(self.out, "{line}").map_err(|error| failure(&self.part, &error))
    }

    /// Returns where it is.
    pub(super) fn keep(mut self) -> Result<String, Failure> {
        let written = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        // A link takes the place of nothing that was made meanwhile.
        let named = written.and_then(|()| std::fs::hard_link(&self.part, &self.path));
        named.map_err(|error| failure(&self.path, &error))?;
        Ok(self.path.display().to_string())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part);
    }
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::AlreadyExists => "exists already; name another file".to_owned(),
        _ => error.to_string(),
    };
    Failure::local(format!("{}: {why}", path.display()))
}
