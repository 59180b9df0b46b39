//! A way to a repository as the library wants it, with the bounds that no way needs to keep.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::once;
use tokio::time::{Instant, Sleep, sleep_until};
use tough::{Transport, TransportError, TransportErrorKind, TransportStream, async_trait};
use url::Url;

use super::{ByteStream, Link, LinkError, Pace};
use crate::{MAX_METADATA_BYTES, MAX_METADATA_FILES, MAX_METADATA_IN_ALL, MAX_REQUESTS};

/// Where metadata is, for the library. The host is nobody's: a [`Link`] sees the path alone.
pub(crate) const METADATA: &str = "link://repository/metadata/";
/// Where targets are.
pub(crate) const TARGETS: &str = "link://repository/targets/";

/// Asks a [`Link`] for the library.
#[derive(Debug, Clone)]
pub(crate) struct Adapter<L> {
    link: L,
    pace: Pace,
    spent: Arc<Spent>,
}

/// What a run has asked for.
#[derive(Debug, Default)]
struct Spent {
    files: AtomicUsize,
    metadata: AtomicUsize,
    metadata_bytes: AtomicU64,
}

impl<L> Adapter<L> {
    pub(crate) fn new(link: L, pace: Pace) -> Self {
        Self { link, pace, spent: Arc::default() }
    }

    /// Whether one more file may be asked for.
    fn may_ask(&self, path: &str) -> bool {
        let is_one_more = |count: &AtomicUsize, most| count.fetch_add(1, Ordering::Relaxed) < most;
        is_one_more(&self.spent.files, MAX_REQUESTS)
            && (!is_bounded_together(path) || is_one_more(&self.spent.metadata, MAX_METADATA_FILES))
    }
}

/// Metadata that the library keeps: all but roots, of which it holds one at a time.
fn is_bounded_together(path: &str) -> bool {
    path.starts_with("metadata/") && !path.ends_with(".root.json")
}

#[async_trait]
impl<L: Link> Transport for Adapter<L> {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let path = url.path().trim_start_matches('/').to_owned();
        let asked = if self.may_ask(&path) {
            // The way may be as slow to begin as the file to come.
            let asked = tokio::time::timeout(self.pace.window * 2, self.link.fetch(&path)).await;
            asked.unwrap_or_else(|_| Err(LinkError::Slow { path: path.clone(), pace: self.pace }))
        } else {
            Err(LinkError::Many)
        };
        Ok(match asked {
            Ok(stream) => {
                let spent = is_bounded_together(&path).then(|| Arc::clone(&self.spent));
                Box::pin(Bounded::new((stream, spent), path, self.pace, url))
            }
            // In the stream, not as an answer: the library takes every error of an answer for "there is no
            // newer root", and whoever can break a connection could so keep a replaced key in force.
            Err(error) => Box::pin(once(std::future::ready(Err(told(error, &url))))),
        })
    }
}

/// An error as the library wants it.
fn told(error: LinkError, url: &Url) -> TransportError {
    let kind = match error {
        LinkError::Missing(_) => TransportErrorKind::FileNotFound,
        _ => TransportErrorKind::Other,
    };
    TransportError::new_with_cause(kind, url, error)
}

/// What went wrong on the way, if it is there that it did.
pub(crate) fn of_the_way(error: &TransportError) -> Option<&LinkError> {
    error.source().and_then(|source| source.downcast_ref())
}

/// A file that must come at a pace, and end if it is metadata.
struct Bounded {
    from: ByteStream,
    spent: Option<Arc<Spent>>,
    path: String,
    url: Url,
    pace: Pace,
    /// When so much must have come again.
    until: Pin<Box<Sleep>>,
    in_window: u64,
    all: u64,
    most: u64,
    has_failed: bool,
}

impl Bounded {
    fn new((from, spent): (ByteStream, Option<Arc<Spent>>), path: String, pace: Pace, url: Url) -> Self {
        // Targets have their length in metadata, which the library holds them to.
        let most = if path.starts_with("metadata/") { MAX_METADATA_BYTES } else { u64::MAX };
        let until = Box::pin(sleep_until(Instant::now() + pace.window));
        Self { from, spent, path, url, pace, until, in_window: 0, all: 0, most, has_failed: false }
    }

    fn fail(&mut self, error: LinkError) -> Poll<Option<Result<Bytes, TransportError>>> {
        self.has_failed = true;
        Poll::Ready(Some(Err(told(error, &self.url))))
    }
}

impl Stream for Bounded {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        // The time first: a source that always has a byte ready would never be found slow.
        while self.until.as_mut().poll(context).is_ready() {
            if self.in_window < self.pace.bytes {
                let slow = LinkError::Slow { path: self.path.clone(), pace: self.pace };
                return self.fail(slow);
            }
            self.in_window = 0;
            let next = Instant::now() + self.pace.window;
            self.until.as_mut().reset(next);
        }
        match ready!(self.from.as_mut().poll_next(context)) {
            None => Poll::Ready(None),
            Some(Err(error)) => self.fail(error),
            Some(Ok(bytes)) => {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                self.in_window = self.in_window.saturating_add(length);
                self.all = self.all.saturating_add(length);
                let in_all = |spent: &Arc<Spent>| {
                    spent.metadata_bytes.fetch_add(length, Ordering::Relaxed).saturating_add(length)
                };
                let in_all = self.spent.as_ref().map_or(0, in_all);
                if self.all > self.most || in_all > MAX_METADATA_IN_ALL {
                    let long = LinkError::Long(self.path.clone());
                    return self.fail(long);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt as _;

    use super::*;

    /// Brings so many bytes every second, without end.
    #[derive(Debug, Clone)]
    struct Dripping(usize);

    struct Drops {
        bytes: Bytes,
        next: Pin<Box<Sleep>>,
    }

    impl Stream for Drops {
        type Item = Result<Bytes, LinkError>;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            ready!(self.next.as_mut().poll(context));
            self.next.as_mut().reset(Instant::now() + Duration::from_secs(1));
            Poll::Ready(Some(Ok(self.bytes.clone())))
        }
    }

    impl Link for Dripping {
        async fn fetch(&self, _: &str) -> Result<ByteStream, LinkError> {
            let next = Box::pin(sleep_until(Instant::now() + Duration::from_secs(1)));
            Ok(Box::pin(Drops { bytes: Bytes::from(vec![b' '; self.0]), next }))
        }
    }

    /// How many bytes came until it was given up, and in which words.
    async fn given_up(rate: usize, path: &str) -> (u64, String) {
        let adapter = Adapter::new(Dripping(rate), Pace::default());
        let url = Url::parse("link://repository/").unwrap().join(path).unwrap();
        let mut stream = adapter.fetch(url).await.unwrap();
        let mut came = 0;
        let error = loop {
            match stream.next().await.expect("it has no end") {
                Ok(bytes) => came += u64::try_from(bytes.len()).unwrap(),
                Err(error) => break error,
            }
        };
        assert!(stream.next().await.is_none());
        (came, of_the_way(&error).unwrap().to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_drips_is_given_up() {
        let (came, why) = given_up(500, "targets/a").await;
        assert_eq!(why, "targets/a comes slower than 16384 bytes in 30s");
        assert!((14_000..=15_000).contains(&came), "{came}");
    }

    #[tokio::test(start_paused = true)]
    async fn metadata_without_end_is_given_up_at_the_bound() {
        let (came, why) = given_up(32 << 10, "metadata/timestamp.json").await;
        assert_eq!(came, MAX_METADATA_BYTES);
        assert!(why.starts_with("metadata/timestamp.json has more than 262144 bytes"), "{why}");
    }

    /// A way that fails for another reason than that there is no file.
    #[derive(Debug, Clone)]
    struct Cut;

    impl Link for Cut {
        async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
            Err(LinkError::Broken { path: path.to_owned(), why: "cut".to_owned() })
        }
    }

    #[tokio::test]
    async fn a_cut_is_no_sign_that_there_is_no_newer_root() {
        let adapter = Adapter::new(Cut, Pace::default());
        let url = Url::parse(METADATA).unwrap().join("2.root.json").unwrap();
        let error = adapter.fetch(url).await.unwrap().next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Other);
    }

    #[tokio::test]
    async fn a_run_asks_for_no_more_files_than_the_bound() {
        let adapter = Adapter::new(Cut, Pace::default());
        let ask = async |name: &str| {
            let url = Url::parse(METADATA).unwrap().join(name).unwrap();
            let error = adapter.fetch(url).await.unwrap().next().await.unwrap().unwrap_err();
            matches!(of_the_way(&error), Some(LinkError::Many))
        };
        for _ in 0..MAX_METADATA_FILES {
            assert!(!ask("1.role.json").await);
        }
        assert!(ask("1.role.json").await, "of a chain of delegations there is an end");
        assert!(!ask("2.root.json").await);
        adapter.spent.files.store(MAX_REQUESTS, Ordering::Relaxed);
        assert!(ask("2.root.json").await);
    }
}
