//! One trust bundle and the rules it must satisfy by itself.

use std::collections::BTreeSet;

use crate::command::ActionClass;
use crate::envelope::InvalidDocument;
use crate::id::{Digest, FleetId};
use crate::keys::{PublicKey, SigningCertificate};
use crate::limits::{MAX_ENDPOINTS, MAX_KEYS};
use crate::time::Timestamp;

/// A fleet's trust at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// The fleet.
    pub fleet: FleetId,
    /// Its name, for people.
    pub fleet_name: String,
    /// From 1.
    pub version: u64,
    /// The bundles it follows; none only in the first.
    pub prev: Vec<Digest>,
    /// Who signs the next one.
    pub authority: Role,
    /// Who signs commands.
    pub signing: Vec<SigningEntry>,
    /// Approvals asked for, by class.
    pub class_rules: Vec<ClassRule>,
    /// X.509 DER of the certificate authorities of the channel.
    pub tls_cas: Vec<Vec<u8>>,
    /// Rendezvous endpoints, "host:port".
    pub endpoints: Vec<String>,
    /// If set, the agent's time floor becomes this.
    pub floor_reset: Option<Timestamp>,
    /// When it was minted.
    pub issued_at: Timestamp,
}

/// m of n distinct keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The keys.
    pub keys: Vec<PublicKey>,
    /// How many of them must sign.
    pub threshold: usize,
}

/// One signing certificate and when it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningEntry {
    /// The certificate.
    pub certificate: SigningCertificate,
    /// The first moment its signatures count.
    pub sign_from: Timestamp,
    /// The first moment they do not any more; not later than the certificate's notAfter.
    pub accept_until: Timestamp,
    /// Whether it leaked.
    pub revoked: bool,
    /// The realms it may command, strictly ascending.
    pub realms: Vec<String>,
}

/// How many operators must approve an action of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRule {
    /// The class.
    pub class: ActionClass,
    /// The operators.
    pub operators: Role,
}

impl TrustBundle {
    /// The operators who must approve actions of this class; `None` when nobody has to.
    #[must_use]
    pub fn rule(&self, class: ActionClass) -> Option<&Role> {
        self.class_rules.iter().find(|rule| rule.class == class).map(|rule| &rule.operators)
    }

    /// The rules of protocol.md §5.2, which a bundle satisfies or is void.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), InvalidDocument> {
        let broken = |field, rule: &str| Err(InvalidDocument { field, rule: rule.to_owned() });
        if self.version == 0 {
            return broken("version", "must be at least 1");
        }
        if self.prev.is_empty() != (self.version == 1) || self.prev.len() > MAX_KEYS {
            return broken("prev", "must name 1 to 16 bundles, and none in the first bundle only");
        }
        self.authority.check("authority")?;
        if self.signing.len() > MAX_KEYS {
            return broken("signing", "must have at most 16 entries");
        }
        let distinct: BTreeSet<_> = self.signing.iter().map(|entry| entry.certificate.key().id()).collect();
        if distinct.len() != self.signing.len() {
            return broken("signing", "must not list a key twice");
        }
        for entry in &self.signing {
            let is_within_certificate = entry.accept_until <= entry.certificate.not_after();
            if entry.sign_from >= entry.accept_until || !is_within_certificate {
                return broken("signing", "must have sign_from < accept_until <= the certificate's notAfter");
            }
            if entry.realms.is_empty() || !entry.realms.is_sorted_by(|a, b| a < b) {
                return broken("signing", "must name realms in strictly ascending order");
            }
        }
        let classes: BTreeSet<_> = self.class_rules.iter().map(|rule| rule.class).collect();
        if classes.len() != self.class_rules.len() {
            return broken("class_rules", "must not name a class twice");
        }
        for rule in &self.class_rules {
            rule.operators.check("class_rules")?;
        }
        if self.tls_cas.is_empty() || self.tls_cas.len() > MAX_KEYS {
            return broken("tls_cas", "must hold 1 to 16 certificates");
        }
        if self.endpoints.is_empty() || self.endpoints.len() > MAX_ENDPOINTS {
            return broken("endpoints", "must hold 1 to 8");
        }
        Ok(())
    }
}

impl Role {
    fn check(&self, field: &'static str) -> Result<(), InvalidDocument> {
        let broken = |rule: &str| Err(InvalidDocument { field, rule: rule.to_owned() });
        if self.keys.len() > MAX_KEYS {
            return broken("must have at most 16 keys");
        }
        if self.threshold == 0 || self.threshold > self.keys.len() {
            return broken("must have a threshold of at least 1 and at most the number of keys");
        }
        let distinct: BTreeSet<_> = self.keys.iter().map(PublicKey::id).collect();
        if distinct.len() != self.keys.len() {
            return broken("must not list a key twice");
        }
        Ok(())
    }
}
