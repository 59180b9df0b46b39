//! What `status`, `doctor` and `explain` want to know of the journal. The agent that runs has the file for
//! itself, since redb flushes twice for each transaction of a file that others may read; so it is asked, on a
//! socket in its data directory. Where no agent runs, the file is read.
//!
//! A question is one message and the end of the stream, and so is its answer.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tracing::{debug, warn};
use writ_common::text::plain;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::id::{CommandId, Digest, JournalId};
use writ_protocol::time::Timestamp;

use super::journal::{Facts, Journal, JournalError};
use crate::identity::Files;

/// Bytes of a question, and of an answer, at most.
const MAX_BYTES: usize = 4096;
/// How long the agent listens to one that asks, while others wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an answer is waited for: that of a busy disk, behind a few others that ask.
const DEADLINE: Duration = Duration::from_secs(5);
/// After the system refused a connection, as it does when no more files may be open.
const PAUSE: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    /// Whether it is known.
    pub(crate) command: Option<CommandId>,
    /// The time for which is asked whether a command finds room.
    pub(crate) now: Timestamp,
    /// How many commands a journal may hold that no agent has open.
    pub(crate) max_entries: u64,
}

/// What the journal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Of the journal as a whole.
    pub(crate) facts: Facts,
    /// The digest of the command that was asked for, if it is known.
    pub(crate) known: Option<Digest>,
    /// Whether it would take no further command.
    pub(crate) is_full: bool,
}

/// Asks the agent that runs, or reads the file if none does.
///
/// # Errors
/// When the journal cannot be read, or the agent does not answer.
pub(crate) fn ask(files: &Files, question: Question) -> Result<Answer, JournalError> {
    let none_runs = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    match converse(&files.questions(), question) {
        Ok(told) => told.into_answer(),
        Err(error) if none_runs(&error) => match Journal::read_file(&files.journal(), question) {
            Err(JournalError::InUse) => Err(JournalError::Between),
            read => read,
        },
        Err(error) => Err(JournalError::NotAnswered(format!("{}: {error}", files.questions().display()))),
    }
}

fn converse(socket: &Path, question: Question) -> io::Result<Told> {
    let clock = SystemClock::new();
    let begun = clock.monotonic();
    let mut stream = connect(socket)?;
    let asked = Asked {
        command: question.command.map(|command| Bytes::copy_from_slice(command.as_bytes())),
        now_ms: question.now.as_millis(),
    };
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(&asked.encode_to_vec())?;
    stream.shutdown(Shutdown::Write)?;
    let (mut told, mut part) = (Vec::new(), [0; 512]);
    while told.len() < MAX_BYTES {
        // One deadline for all of it.
        let left =
            DEADLINE.checked_sub(clock.monotonic().saturating_sub(begun)).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        match stream.read(&mut part)? {
            0 => break,
            bytes => told.extend_from_slice(&part[..bytes]),
        }
    }
    if told.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Told::decode(told.as_slice()).map_err(io::Error::other)
}

/// The folder is the agent's, and this may be root: what is connected to is what was looked at, and nothing
/// is said to what is no socket.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let found = rustix::fs::open(socket, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_socket() {
        return Err(io::Error::other("this is no socket"));
    }
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let stream = net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // An agent that takes no more connections lets others wait without an end.
    net::connect(&stream, &SocketAddrUnix::new(short(&found))?).map_err(|error| match error {
        Errno::AGAIN => io::ErrorKind::TimedOut.into(),
        other => io::Error::from(other),
    })?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A path that leads to what is open: an address of a socket holds 107 bytes, and that of a data directory
/// may have more.
fn short(open: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

/// Where the agent that runs is asked. Only who has the journal may open it.
pub(crate) fn open(files: &Files) -> io::Result<UnixListener> {
    let socket = files.questions();
    // That of an agent that ended.
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let folder = File::open(files.folder())?;
    let listener = UnixListener::bind(short(&folder).join(socket.file_name().unwrap_or_default()))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Leaves nothing behind for who copies the folder. Whoever has the journal may, and before it lets go of it:
/// the next agent opens its own.
pub(crate) fn close(files: &Files) {
    if let Err(error) = fs::remove_file(files.questions()) {
        debug!(file = %files.questions().display(), %error, "the socket of an agent that ended is left");
    }
}

/// Answers, one after the other.
pub(crate) async fn answer_all(
    listener: UnixListener,
    answer: impl Fn(Question) -> Result<Answer, JournalError>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "whoever asks about the journal is not heard");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match tokio::time::timeout(PATIENCE, hear(stream, &answer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a question about the journal was not answered"),
            Err(_) => debug!("a question about the journal did not end in time"),
        }
    }
}

async fn hear(
    mut stream: tokio::net::UnixStream,
    answer: impl Fn(Question) -> Result<Answer, JournalError>,
) -> io::Result<()> {
    let mut asked = Vec::new();
    while asked.len() < MAX_BYTES && stream.read_buf(&mut asked).await? > 0 {}
    let question = Asked::decode(asked.as_slice()).map_err(io::Error::other)?.into_question()?;
    stream.write_all(&Told::new(answer(question)).encode_to_vec()).await?;
    stream.shutdown().await
}

#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(bytes = "bytes", optional, tag = "1")]
    command: Option<Bytes>,
    /// Unix milliseconds, as all times here.
    #[prost(uint64, tag = "2")]
    now_ms: u64,
}

impl Asked {
    fn into_question(self) -> io::Result<Question> {
        let command = self.command.map(|id| CommandId::try_from(id.as_ref())).transpose();
        // How many it may hold, the running agent knows.
        let (now, max_entries) = (Timestamp::from_millis(self.now_ms), u64::MAX);
        Ok(Question { command: command.map_err(io::Error::other)?, now, max_entries })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    /// Why there is no answer; empty if there is one.
    #[prost(string, tag = "1")]
    error: String,
    #[prost(bytes = "bytes", tag = "2")]
    journal_id: Bytes,
    #[prost(uint64, tag = "3")]
    counter: u64,
    #[prost(uint64, tag = "4")]
    admissions: u64,
    #[prost(uint64, tag = "5")]
    birth_ms: u64,
    #[prost(uint64, tag = "6")]
    forgotten_until_ms: u64,
    #[prost(uint64, tag = "7")]
    floor_ms: u64,
    #[prost(uint64, tag = "8")]
    entries: u64,
    #[prost(bytes = "bytes", optional, tag = "9")]
    known: Option<Bytes>,
    #[prost(bool, tag = "10")]
    is_full: bool,
}

impl Told {
    fn new(answered: Result<Answer, JournalError>) -> Self {
        let Answer { facts, known, is_full } = match answered {
            Ok(answer) => answer,
            Err(error) => return Self { error: error.to_string(), ..Self::default() },
        };
        Self {
            error: String::new(),
            journal_id: Bytes::copy_from_slice(facts.id.as_bytes()),
            counter: facts.counter,
            admissions: facts.admissions,
            birth_ms: facts.birth.as_millis(),
            forgotten_until_ms: facts.forgotten_until.as_millis(),
            floor_ms: facts.floor.as_millis(),
            entries: facts.entries,
            known: known.map(|digest| Bytes::copy_from_slice(digest.as_bytes())),
            is_full,
        }
    }

    fn into_answer(self) -> Result<Answer, JournalError> {
        if !self.error.is_empty() {
            // The agent's user wrote it, root may read it.
            return Err(JournalError::Told(plain(&self.error)));
        }
        let known = self.known.map(|digest| Digest::try_from(digest.as_ref())).transpose();
        Ok(Answer {
            facts: Facts {
                id: JournalId::try_from(self.journal_id.as_ref()).map_err(|_| JournalError::Damaged)?,
                counter: self.counter,
                admissions: self.admissions,
                birth: Timestamp::from_millis(self.birth_ms),
                forgotten_until: Timestamp::from_millis(self.forgotten_until_ms),
                floor: Timestamp::from_millis(self.floor_ms),
                entries: self.entries,
            },
            known: known.map_err(|_| JournalError::Damaged)?,
            is_full: self.is_full,
        })
    }
}

#[cfg(test)]
mod tests;
