//! The chain of bundles: one bundle is enough to check the next.
//!
//! The rule is TUF's for root metadata (TUF specification §5.3), with the predecessor named by digest:
//! a successor carries the thresholds of its predecessor *and* its own.

use bytes::Bytes;
use prost::Message as _;
use writ_proto::v1 as proto;

use super::{Role, TrustBundle};
use crate::envelope::{BundlePurpose, Candidate, Verified, digest, verify};
use crate::id::Digest;
use crate::refusal::{Refusal, RefusalCode};

/// One verified bundle, as it travels.
#[derive(Debug, Clone)]
pub struct Link {
    /// The envelope.
    pub envelope: Bytes,
    /// SHA-256 over what was signed.
    pub digest: Digest,
    /// What it says.
    pub bundle: TrustBundle,
}

/// Bundles in ascending order; never empty. The last is the head.
#[derive(Debug, Clone)]
pub struct Chain {
    links: Vec<Link>,
}

impl Chain {
    /// Starts a chain at a bundle whose digest is known from elsewhere: the fleet's set-up or a token.
    ///
    /// # Errors
    /// When the bundle is another one, void, or not signed by its own authority.
    pub fn pinned(envelope: Bytes, pinned: Digest) -> Result<Self, Refusal> {
        let link = read(envelope)?;
        if link.digest != pinned {
            let detail = format!("bundle {} was offered where {pinned} is pinned", link.digest);
            return Err(Refusal::new(RefusalCode::BundleWrongPrev, detail));
        }
        Ok(Self { links: vec![link] })
    }

    /// A chain from one's own disk, where every bundle was verified before it was kept: it begins at whatever
    /// is first.
    ///
    /// # Errors
    /// When there is none, or one does not follow.
    pub fn stored(bundles: impl IntoIterator<Item = Bytes>) -> Result<Self, Refusal> {
        let mut bundles = bundles.into_iter();
        let void = |detail: &'static str| Refusal::new(RefusalCode::BundleInvalid, detail);
        let first = bundles.next().ok_or_else(|| void("there is no trust bundle"))?;
        let digest = Self::digest_of(&first).ok_or_else(|| void("the first trust bundle is no envelope"))?;
        let mut chain = Self::pinned(first, digest)?;
        for envelope in bundles {
            chain.extend(envelope)?;
        }
        Ok(chain)
    }

    /// The digest a bundle would be known by, before anything of it is believed.
    #[must_use]
    pub fn digest_of(envelope: &[u8]) -> Option<Digest> {
        let decoded = proto::Envelope::decode(envelope).ok()?;
        Some(digest(&decoded.payload_type, &decoded.payload))
    }

    /// The newest bundle.
    #[must_use]
    pub fn head(&self) -> &Link {
        self.links.last().expect("a chain is made with one link and only grows")
    }

    /// All bundles, oldest first.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The bundles newer than a version, oldest first.
    pub fn after(&self, version: u64) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.bundle.version > version)
    }

    /// Whether this bundle is part of the chain.
    #[must_use]
    pub fn contains(&self, digest: Digest) -> bool {
        self.links.iter().any(|link| link.digest == digest)
    }

    /// Another chain, which leaves this one at an earlier bundle and goes on by these: two servers minted at
    /// the same time.
    ///
    /// # Errors
    /// When the first follows no bundle of this chain, or one does not follow the one before.
    pub fn fork(&self, bundles: impl IntoIterator<Item = Bytes>) -> Result<Self, Refusal> {
        let mut bundles = bundles.into_iter();
        let void = || Refusal::new(RefusalCode::BundleInvalid, "there is no trust bundle");
        let first = bundles.next().ok_or_else(void)?;
        let prev = read(first.clone())?.bundle.prev;
        let shared = self.links.iter().rposition(|link| prev.contains(&link.digest));
        let shared = shared.ok_or_else(|| {
            Refusal::new(RefusalCode::BundleWrongPrev, "the first trust bundle follows none of this chain")
        })?;
        let mut other = Self { links: self.links[..=shared].to_vec() };
        for envelope in std::iter::once(first).chain(bundles) {
            other.extend(envelope)?;
        }
        Ok(other)
    }

    /// Accepts the next bundle, or changes nothing (protocol.md §5.3).
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn extend(&mut self, envelope: Bytes) -> Result<&Link, Refusal> {
        let head = self.head();
        // §5.3.1: the predecessor's authority; nothing of the payload is believed before.
        let _by_predecessor = check_threshold(&envelope, &head.bundle.authority)?;
        let link = read(envelope)?;
        if link.bundle.fleet != head.bundle.fleet {
            let detail =
                format!("bundle of fleet {}, this is fleet {}", link.bundle.fleet, head.bundle.fleet);
            return Err(Refusal::new(RefusalCode::WrongFleet, detail));
        }
        // §5.3.3
        if link.bundle.version <= head.bundle.version {
            let detail = format!(
                "version {} was offered, version {} is held",
                link.bundle.version, head.bundle.version
            );
            return Err(Refusal::new(RefusalCode::BundleNotNewer, detail));
        }
        // §5.3.4
        if !link.bundle.prev.contains(&head.digest) {
            let detail = format!("version {} does not follow {}", link.bundle.version, head.digest);
            return Err(Refusal::new(RefusalCode::BundleWrongPrev, detail));
        }
        self.links.push(link);
        Ok(self.head())
    }
}

/// A bundle that is consistent and signed by its own authority (§5.2, §5.3.2).
fn read(envelope: Bytes) -> Result<Link, Refusal> {
    // A bundle names its own authority, so that is read before it is verified, and used for nothing else.
    let unverified = proto::Envelope::decode(envelope.clone())
        .ok()
        .and_then(|decoded| proto::TrustBundle::decode(decoded.payload).ok())
        .and_then(|bundle| TrustBundle::try_from(bundle).ok());
    let Some(own) = unverified.map(|bundle| bundle.authority) else {
        return Err(Refusal::new(RefusalCode::BundleInvalid, "the payload is no trust bundle"));
    };
    let verified = check_threshold(&envelope, &own)?;
    let digest = verified.digest();
    let bundle = verified.into_document();
    bundle.check().map_err(|error| Refusal::new(RefusalCode::BundleInvalid, error.to_string()))?;
    Ok(Link { envelope, digest, bundle })
}

fn check_threshold(envelope: &[u8], role: &Role) -> Result<Verified<BundlePurpose>, Refusal> {
    let candidates: Vec<_> = role.keys.iter().map(Candidate::accepted).collect();
    verify(envelope, &candidates, role.threshold)
}
