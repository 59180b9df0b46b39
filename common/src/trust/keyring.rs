//! Which keys count now, for agents of one realm.

use super::TrustBundle;
use crate::envelope::Candidate;
use crate::refusal::RefusalCode;
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
        self.bundle
            .signing
            .iter()
            .map(|entry| {
                let standing = if entry.revoked {
                    Err(RefusalCode::CertificateRevoked)
                } else if now >= entry.accept_until {
                    Err(RefusalCode::CertificateExpired)
                } else if now < entry.sign_from {
                    Err(RefusalCode::CertificateNotYetValid)
                } else if !entry.realms.iter().any(|realm| realm == self.realm) {
                    Err(RefusalCode::WrongRealm)
                } else {
                    Ok(())
                };
                Candidate { key: entry.certificate.key(), standing }
            })
            .collect()
    }
}
