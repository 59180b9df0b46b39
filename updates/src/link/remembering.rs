//! Metadata as it came.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::once;

use super::{ByteStream, Link, LinkError};
use crate::MAX_METADATA_BYTES;

/// Brings metadata whole, and remembers it: what the library verified is what is kept, and what a mirror
/// serves, although the source may have changed meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Remembering<L> {
    link: L,
    read: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl<L> Remembering<L> {
    pub(crate) fn new(link: L) -> Self {
        Self { link, read: Arc::default() }
    }

    /// The metadata that came under a name.
    pub(crate) fn came(&self, name: &str) -> Option<Vec<u8>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.get(&format!("metadata/{name}")).map(|bytes| bytes.to_vec())
    }
}

impl<L: Link> Link for Remembering<L> {
    async fn fetch(&self, path: &str) -> Result<ByteStream, LinkError> {
        if !path.starts_with("metadata/") {
            return self.link.fetch(path).await;
        }
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let mut stream = self.link.fetch(path).await?;
                let mut bytes = BytesMut::new();
                while let Some(piece) = stream.next().await {
                    bytes.extend_from_slice(&piece?);
                    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_METADATA_BYTES {
                        return Err(LinkError::Long(path.to_owned()));
                    }
                }
                let bytes = bytes.freeze();
                let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
                read.insert(path.to_owned(), bytes.clone());
                bytes
            }
        };
        Ok(Box::pin(once(std::future::ready(Ok(bytes)))))
    }
}
