//! The ways to a repository: web servers and folders here, whatever else by [`Link`].

mod adapter;
mod remembering;
mod web;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::{AsyncRead as _, ReadBuf};
use writ_common::tls::ConnectError;

pub(crate) use adapter::{Adapter, METADATA, TARGETS, of_the_way};
pub(crate) use remembering::Remembering;
pub use web::Web;

use crate::{MAX_METADATA_BYTES, MAX_METADATA_FILES, MAX_REQUESTS};

/// Bytes read from a file at once.
const CHUNK: usize = 256 << 10;

/// A file of a repository, piece by piece.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, LinkError>> + Send + Sync>>;

/// A way to the files of one repository. It need not be trusted, nor bound what it brings: who asks does.
pub trait Link: Debug + Clone + Send + Sync + 'static {
    /// Begins to bring a file, by its path below the repository, such as `metadata/timestamp.json`.
    fn fetch(&self, path: &str) -> impl Future<Output = Result<ByteStream, LinkError>> + Send;
}

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It is not there.
    #[error("there is no {0}")]
    Missing(String),
    /// Name, proxy, TCP or TLS.
    #[error("{0}")]
    Connect(#[source] Box<ConnectError>),
    /// What answers says something else than the file.
    #[error("the web server answers {status} for {path}{}", hint(*.status))]
    Status {
        /// In numbers.
        status: u16,
        /// Which file.
        path: String,
    },
    /// It came to an end in the middle, or was no HTTP.
    #[error("{path} did not come whole: {why}")]
    Broken {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// Less than [`Pace`] asks for.
    #[error("{path} comes slower than {} bytes in {:?}", .pace.bytes, .pace.window)]
    Slow {
        /// Which file.
        path: String,
        /// What was asked for.
        pace: Pace,
    },
    /// More than the bound.
    #[error("{0} has more than {MAX_METADATA_BYTES} bytes, or all metadata more than it may have")]
    Long(String),
    /// More than the bound.
    #[error(
        "the repository needs more files than an update has: {MAX_REQUESTS} in all, {MAX_METADATA_FILES} of metadata"
    )]
    Many,
    /// A folder that cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever leads there says no; in their words.
    #[error("{0}")]
    Refused(String),
}

fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => "; redirects are not followed: give the address it leads to",
        401 | 407 => "; it asks who comes, and updates have no password",
        403 => "; it may not read the file, or forbids it to this host",
        _ => "",
    }
}

/// The least that must come in a time; slower is as good as never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// In so much time,
    pub window: Duration,
    /// so many bytes, or the end of the file.
    pub bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), bytes: 16 << 10 }
    }
}

/// A repository in a folder of this host, such as what a courier brought.
#[derive(Debug, Clone)]
pub struct Disk(PathBuf);

impl Disk {
    /// The folder with `metadata` and `targets` in it.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self(folder)
    }
}

impl Link for Disk {
    async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
        let file = self.0.join(path);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => LinkError::Missing(file.display().to_string()),
            _ => LinkError::File { path: file.clone(), source },
        };
        // A pipe would be waited for without end.
        if !tokio::fs::metadata(&file).await.map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("it is no file")));
        }
        let opened = tokio::fs::File::open(&file).await.map_err(failed)?;
        Ok(Box::pin(Pieces { file: opened, buffer: vec![0; CHUNK], path: file }))
    }
}

/// A file as it is read. A stream of its own: one that is made of async blocks cannot be shared by threads.
struct Pieces {
    file: tokio::fs::File,
    buffer: Vec<u8>,
    path: PathBuf,
}

impl Stream for Pieces {
    type Item = Result<Bytes, LinkError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { file, buffer, path } = &mut *self;
        let mut read = ReadBuf::new(buffer);
        Poll::Ready(match ready!(Pin::new(file).poll_read(context, &mut read)) {
            Ok(()) if read.filled().is_empty() => None,
            Ok(()) => Some(Ok(Bytes::copy_from_slice(read.filled()))),
            Err(source) => Some(Err(LinkError::File { path: path.clone(), source })),
        })
    }
}
