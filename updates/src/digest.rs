//! SHA-256 of files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use writ_protocol::id::Digest;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// A digest while its bytes come.
pub(crate) struct Hasher(Context);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest::from_bytes(bytes)
    }
}

/// Of a whole file.
pub(crate) fn of_file(path: &Path) -> io::Result<Digest> {
    let (mut file, mut buffer, mut hasher) = (File::open(path)?, vec![0; CHUNK], Hasher::new());
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
