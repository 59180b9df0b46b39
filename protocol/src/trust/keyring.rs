//! Which keys count now, for agents of one realm.

use super::{SigningEntry, TrustBundle};
use crate::envelope::{Candidate, Purpose, Verified, verify};
use crate::id::KeyId;
use crate::refusal::{Refusal, RefusalCode};
use crate::time::Timestamp;

/// The signing keys of a bundle as seen by one realm at one time.
#[derive(Debug, Clone, Copy)]
pub struct Keyring<'a> {
    bundle: &'a TrustBundle,
    realm: &'a str,
}

impl<'a> Keyring<'a> {
    /// The keys of this bundle for agents of this realm.
    #[must_use]
    pub const fn new(bundle: &'a TrustBundle, realm: &'a str) -> Self {
        Self { bundle, realm }
    }

    /// Every listed key with its standing at `now`. Revoked keys stay listed so that their use is named.
    #[must_use]
    pub fn candidates(&self, now: Timestamp) -> Vec<Candidate<'a>> {
        let judge = |entry: &'a SigningEntry| Candidate {
            key: entry.certificate.key(),
            standing: self.undated(entry).and_then(|()| dated(entry, now)),
        };
        self.bundle.signing.iter().map(judge).collect()
    }

    /// The same without dates, for a document that brings its own time; see [`Self::verify_at`].
    #[must_use]
    pub fn undated_candidates(&self) -> Vec<Candidate<'a>> {
        let judge = |entry: &'a SigningEntry| Candidate {
            key: entry.certificate.key(),
            standing: self.undated(entry),
        };
        self.bundle.signing.iter().map(judge).collect()
    }

    /// Verifies a document that brings its own time, such as a hello or an identity record: each signer must
    /// count then.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verify_at<P: Purpose>(
        &self,
        envelope: &[u8],
        time: impl FnOnce(&P::Document) -> Timestamp,
    ) -> Result<Verified<P>, Refusal> {
        let verified = verify::<P>(envelope, &self.undated_candidates(), 1)?;
        let time = time(verified.document());
        for key in verified.signers() {
            let dated = self.check_dates(*key, time);
            dated.map_err(|code| Refusal::new(code, format!("the document is of {time}, key {key}")))?;
        }
        Ok(verified)
    }

    /// Whether a listed key counts at a time.
    fn check_dates(&self, key: KeyId, now: Timestamp) -> Result<(), RefusalCode> {
        let entry = self.bundle.signing.iter().find(|entry| entry.certificate.key().id() == key);
        entry.ok_or(RefusalCode::UnknownKey).and_then(|entry| dated(entry, now))
    }

    fn undated(&self, entry: &SigningEntry) -> Result<(), RefusalCode> {
        if entry.revoked {
            Err(RefusalCode::CertificateRevoked)
        } else if !entry.realms.iter().any(|realm| realm == self.realm) {
            Err(RefusalCode::WrongRealm)
        } else {
            Ok(())
        }
    }
}

fn dated(entry: &SigningEntry, now: Timestamp) -> Result<(), RefusalCode> {
    if now < entry.sign_from {
        Err(RefusalCode::CertificateNotYetValid)
    } else if now >= entry.accept_until {
        Err(RefusalCode::CertificateExpired)
    } else {
        Ok(())
    }
}
