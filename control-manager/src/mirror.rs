//! The repository that this manager mirrors: copied by itself from upstream, and sent to entities. Who asks
//! needs no proof, as the files are nobody's secret; what it costs is bounded.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::Stream;
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
const MAX_FILES: usize = 128;
/// Of these to one address. A web server in front on this host stands for all of its entities, and has no
/// such bound.
const MAX_FILES_OF_ONE: usize = 16;
/// Bytes of one message.
const PIECE: usize = 64 << 10;
/// Messages that wait for one reader.
const WAITING: usize = 4;
/// How long a reader may take for one message: as slow as entities themselves are patient, 16 KiB in 30 s.
const PATIENCE: Duration = Duration::from_secs(120);
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
        if all >= MAX_FILES || (of_one >= MAX_FILES_OF_ONE && !to.is_loopback()) {
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
    ) -> Result<Pieces, Failure> {
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
        let is_whole = Arc::new(AtomicBool::new(false));
        let pieces = Pieces { receiver, is_whole: Arc::clone(&is_whole), is_told: false };
        shutdown.spawn(async move {
            let _held = (place, in_call);
            loop {
                let mut piece = vec![0; PIECE];
                // From the page cache as a rule; a piece is small enough for what is not.
                match file.read(&mut piece) {
                    Ok(0) => return is_whole.store(true, Ordering::Release),
                    Ok(length) => piece.truncate(length),
                    Err(error) => {
                        return warn!(%error, "a file of the mirrored repository cannot be read");
                    }
                }
                let sent = sender.send(UpdatePiece { data: Bytes::from(piece) });
                // A reader that is this slow would hold its place for hours.
                if !matches!(tokio::time::timeout(PATIENCE, sent).await, Ok(Ok(()))) {
                    return;
                }
            }
        });
        Ok(pieces)
    }
}

/// A file on its way. One that ends before its end says so: it must not be taken for a whole one.
#[derive(Debug)]
pub(crate) struct Pieces {
    receiver: mpsc::Receiver<UpdatePiece>,
    is_whole: Arc<AtomicBool>,
    is_told: bool,
}

impl Stream for Pieces {
    type Item = Result<UpdatePiece, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(self.receiver.poll_recv(context)) {
            Some(piece) => Poll::Ready(Some(Ok(piece))),
            None if self.is_told || self.is_whole.load(Ordering::Acquire) => Poll::Ready(None),
            None => {
                self.is_told = true;
                let text =
                    "the file is not whole: its reader was too slow, or the manager ends or cannot read it";
                Poll::Ready(Some(Err(Failure::unavailable(text).into())))
            }
        }
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

/// Who vouches for a web server, of a file (PEM); in DER.
pub(crate) fn authorities(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let content = files::read(path).map_err(|error| error.to_string())?;
    let read = pem::certificates(&content).map_err(|error| error.to_string())?;
    writ_common::tls::check_authorities(&read)?;
    Ok(read)
}

fn way(upstream: &Upstream, shutdown: &Shutdown) -> Result<Way, String> {
    let url = Url::parse(&upstream.url).map_err(|error| error.to_string())?;
    if url.scheme() == "file" {
        let folder = url.to_file_path().map_err(|()| "names no folder of this host".to_owned())?;
        return Ok(Way::Disk(Disk::new(folder)));
    }
    let authorities = upstream.ca.as_deref().map(authorities).transpose()?;
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio_stream::StreamExt as _;
    use writ_common::keys::sealed::Passphrase;
    use writ_common::time::{Clock as _, SystemClock};
    use writ_updates::{Lifetimes, Workshop};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A mirror that holds one component of a MiB.
    async fn mirrored(folder: &Path) -> Mirror {
        let (repository, keys) = (folder.join("repository"), folder.join("keys"));
        let passphrase = Passphrase::new("correct horse battery").unwrap();
        let lifetimes = Lifetimes { timestamp: DAY, snapshot: DAY, targets: DAY };
        let now = SystemClock::new().wall();
        let made = Workshop::make((&repository, &keys), &passphrase, DAY, lifetimes, now);
        let (workshop, _) = made.await.unwrap();
        let file = folder.join("file");
        std::fs::write(&file, vec![7; 1 << 20]).unwrap();
        workshop.add("tool".parse().unwrap(), "1".parse().unwrap(), &file, &mut |_| {}).unwrap();
        workshop.publish(lifetimes, now).await.unwrap();
        let served = Mirror::new(folder);
        let root = std::fs::read(repository.join("metadata/1.root.json")).unwrap();
        let source = Source { link: Disk::new(repository), root, pace: Pace::default() };
        mirror(&served.folder, source).await.unwrap();
        served
    }

    fn component(folder: &Path) -> String {
        let file = std::fs::read_dir(folder.join("updates/mirror/targets")).unwrap().next().unwrap().unwrap();
        format!("targets/{}", file.file_name().display())
    }

    #[tokio::test]
    async fn a_file_comes_whole_and_what_is_no_file_of_the_repository_does_not_come() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = mirrored(folder.path()).await;
        let shutdown = Shutdown::new();
        let pieces = mirror.send(&component(folder.path()), None, &shutdown).unwrap();
        let came: Vec<_> = pieces.collect().await;
        let bytes: usize = came.into_iter().map(|piece| piece.unwrap().data.len()).sum();
        assert_eq!(bytes, 1 << 20);
        for path in [
            "",
            "metadata",
            "metadata/",
            "metadata/none.json",
            "metadata/../../keys/root.key",
            "metadata/.hidden",
            "targets/../metadata/timestamp.json",
            "/etc/passwd",
            "mirror/timestamp.json",
            "metadata/a/b",
            &format!("metadata/{}", "x".repeat(300)),
        ] {
            let refused = mirror.send(path, None, &shutdown).unwrap_err();
            assert!(refused.message().contains("no such file"), "{path}: {refused:?}");
        }
        let empty = Mirror::new(&folder.path().join("nothing"));
        let refused = empty.send("metadata/timestamp.json", None, &shutdown).unwrap_err();
        assert!(refused.message().contains("updates.upstream"), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_too_slow_is_told_that_the_file_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = mirrored(folder.path()).await;
        let mut pieces = mirror.send(&component(folder.path()), None, &Shutdown::new()).unwrap();
        tokio::time::sleep(PATIENCE * 2).await;
        let mut came = 0;
        let error = loop {
            match pieces.next().await.expect("it does not end as if it were whole") {
                Ok(piece) => came += piece.data.len(),
                Err(error) => break error,
            }
        };
        assert!(came < 1 << 20 && error.message().contains("not whole"), "{came} {error}");
        assert!(pieces.next().await.is_none());
        assert!(mirror.sending.lock().unwrap().is_empty(), "its place is free");
    }

    #[test]
    fn one_address_takes_no_more_places_than_its_share() {
        let mirror = Mirror::new(Path::new("/nowhere"));
        let address = |last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last));
        let mut places: Vec<_> =
            (0..MAX_FILES_OF_ONE).map(|_| mirror.take_place(address(1)).unwrap()).collect();
        mirror.take_place(address(1)).unwrap_err();
        places.push(mirror.take_place(address(2)).unwrap());
        places.remove(0);
        places.push(mirror.take_place(address(1)).unwrap());
        // A web server on this host stands for many.
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        while places.len() < MAX_FILES {
            places.push(mirror.take_place(here).unwrap());
        }
        mirror.take_place(here).unwrap_err();
    }
}
