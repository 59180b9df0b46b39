//! The repository that this manager mirrors: copied by itself from upstream, and sent to entities. Who asks
//! needs no proof, as the files are nobody's secret; what it costs is bounded.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Status;
use tracing::{info, warn};
use url::Url;
use writ_common::backoff::jitter;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::keys::pem;
use writ_common::net::source;
use writ_common::shutdown::Shutdown;
use writ_common::status::Failure;
use writ_common::tls::Peer;
use writ_proto::manager::v1::UpdatePiece;
use writ_protocol::id::Digest;
use writ_updates::{Disk, Folder, Mirrored, Pace, Reason, Source, UpdateError, Web, mirror};

use crate::context::Manager;

/// Files sent at a time.
const MAX_FILES: usize = 64;
/// Of these to one address.
const MAX_FILES_OF_ONE: usize = 8;
/// Bytes of one message.
const PIECE: usize = 64 << 10;
/// Messages that wait for one reader.
const WAITING: usize = 4;
/// How long a reader may take for one message.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon after a copy that failed the next is tried, at the latest.
const AGAIN: Duration = Duration::from_secs(600);

/// Where the repository comes from, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// The folder with `metadata` and `targets` in it.
    pub url: String,
    /// The file of the root that is pinned.
    pub root: PathBuf,
    /// Who vouches for the web server, PEM; `None`: whom this host trusts.
    pub ca: Option<PathBuf>,
    /// How often it is copied.
    pub every: Duration,
    /// How fast it must come.
    pub pace: Pace,
}

/// What a running manager keeps of it.
#[derive(Debug)]
pub(crate) struct Mirror {
    folder: Folder,
    sending: Sending,
}

/// Files that are being sent, by source.
type Sending = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A file that is being sent counts until this is dropped.
#[derive(Debug)]
struct Place {
    sending: Sending,
    to: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sending.get_mut(&self.to) {
            *count -= 1;
            if *count == 0 {
                sending.remove(&self.to);
            }
        }
    }
}

impl Mirror {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { folder: Folder::new(&data_dir.join("updates")), sending: Arc::default() }
    }

    fn take_place(&self, to: IpAddr) -> Result<Place, Failure> {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = sending.values().sum();
        let of_one = sending.get(&to).copied().unwrap_or(0);
        if all >= MAX_FILES || of_one >= MAX_FILES_OF_ONE {
            return Err(Failure::exhausted("the manager sends as many files as it may already; try again"));
        }
        *sending.entry(to).or_default() += 1;
        Ok(Place { sending: Arc::clone(&self.sending), to })
    }

    /// Begins to send a file. Its connection stays meanwhile, although nobody has proven anything on it.
    ///
    /// # Errors
    /// When there is none, or too many are being sent.
    pub(crate) fn send(
        &self,
        path: &str,
        peer: Option<&Peer>,
        shutdown: &Shutdown,
    ) -> Result<mpsc::Receiver<Result<UpdatePiece, Status>>, Failure> {
        let to = source(Peer::host(peer));
        let place = self.take_place(to)?;
        let unreadable = |error: UpdateError| {
            warn!(%error, "the mirrored repository cannot be read");
            Failure::unavailable("the manager cannot read its copy of the repository")
        };
        let Some(file) = self.folder.mirrored(path).map_err(unreadable)? else {
            let text = match self.folder.is_mirror().map_err(unreadable)? {
                true => "the manager's copy of the repository has no such file",
                false => "the manager mirrors no repository: set updates.upstream in its configuration",
            };
            return Err(Failure::not_found(text));
        };
        let mut file = File::open(&file).map_err(|error| {
            warn!(file = %file.display(), %error, "a file of the mirrored repository cannot be read");
            Failure::unavailable("the manager cannot read its copy of the repository")
        })?;
        let in_call = peer.map(|peer| peer.in_call(Digest::of(to.to_string().as_bytes())));
        let (sender, receiver) = mpsc::channel(WAITING);
        shutdown.spawn(async move {
            let _held = (place, in_call);
            loop {
                let mut piece = vec![0; PIECE];
                // From the page cache as a rule; a piece is small enough for what is not.
                let sent = match file.read(&mut piece) {
                    Ok(0) => return,
                    Ok(length) => {
                        piece.truncate(length);
                        Ok(UpdatePiece { data: Bytes::from(piece) })
                    }
                    Err(error) => {
                        warn!(%error, "a file of the mirrored repository cannot be read");
                        Err(Failure::unavailable("the manager cannot read its copy of the repository").into())
                    }
                };
                let is_last = sent.is_err();
                // A reader that is this slow would hold its place for hours.
                let taken = tokio::time::timeout(PATIENCE, sender.send(sent)).await;
                if is_last || !matches!(taken, Ok(Ok(()))) {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// Whether a configured upstream can be used.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(upstream: &Upstream) -> Result<(), Fatal> {
    way(upstream, &Shutdown::new())
        .map(|_| ())
        .map_err(|why| Fatal::usage(format!("`updates.upstream`: {why}")))
}

enum Way {
    Disk(Disk),
    Web(Box<Web>),
}

fn way(upstream: &Upstream, shutdown: &Shutdown) -> Result<Way, String> {
    let url = Url::parse(&upstream.url).map_err(|error| error.to_string())?;
    if url.scheme() == "file" {
        let folder = url.to_file_path().map_err(|()| "names no folder of this host".to_owned())?;
        return Ok(Way::Disk(Disk::new(folder)));
    }
    let authorities = match &upstream.ca {
        Some(path) => {
            let content = files::read(path).map_err(|error| error.to_string())?;
            let read = pem::certificates(&content).map_err(|error| error.to_string())?;
            writ_common::tls::check_authorities(&read)?;
            Some(read)
        }
        None => None,
    };
    Web::new(&url, authorities, None, shutdown.clone()).map(|web| Way::Web(Box::new(web)))
}

/// Copies upstream until the manager ends.
pub(crate) async fn run(manager: Arc<Manager>, upstream: Upstream) {
    loop {
        let copied = manager.shutdown.unless_requested(Box::pin(copy(&manager, &upstream))).await;
        let wait = match copied {
            None => return,
            Some(Ok(Mirrored { is_new, timestamp, components, others })) => {
                if is_new {
                    info!(timestamp, components, others, "the repository is mirrored");
                }
                upstream.every
            }
            Some(Err(error)) => {
                warn!(code = error.reason.as_str(), %error, "the repository could not be mirrored");
                upstream.every.min(AGAIN)
            }
        };
        let wait = wait - jitter(wait / 10);
        if manager.shutdown.unless_requested(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

async fn copy(manager: &Manager, upstream: &Upstream) -> Result<Mirrored, UpdateError> {
    let no_source = |why: String| UpdateError::new(Reason::NoSource, why);
    let root = files::read(&upstream.root).map_err(|error| no_source(error.to_string()))?;
    let (folder, pace) = (&manager.mirror.folder, upstream.pace);
    match way(upstream, &manager.shutdown).map_err(no_source)? {
        Way::Disk(link) => mirror(folder, Source { link, root, pace }).await,
        Way::Web(link) => mirror(folder, Source { link: *link, root, pace }).await,
    }
}
