//! What becomes of signing certificates. Standby, active, draining and retired are words for dates: one
//! bundle is one change.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use writ_common::files;
use writ_common::keys::pem;
use writ_common::keys::transfer::Pair;
use writ_protocol::id::KeyId;
use writ_protocol::keys::certificate::SIGNING_LIFETIME;
use writ_protocol::keys::{Algorithm, PrivateKey, Server, SigningCertificate};
use writ_protocol::limits::SKEW;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{SigningEntry, TrustBundle};

use super::create::DEFAULT_REALM;
use super::publisher::{Fresh, NewKey, PublishError, Published, TrustPublisher, Unlocked};
use super::read_signing_keys;
use crate::sign::signs_at;

/// How an entry stands; derived from its dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateState {
    /// It counts later.
    Standby,
    /// It counts, and of those that do it began last.
    Active,
    /// It counts; a newer one signs.
    Draining,
    /// It counts no more.
    Retired,
    /// It leaked.
    Revoked,
}

impl CertificateState {
    /// Of an entry of a bundle at a time.
    #[must_use]
    pub(crate) fn of(entry: &SigningEntry, bundle: &TrustBundle, now: Timestamp) -> Self {
        let counts =
            |entry: &SigningEntry| !entry.revoked && entry.sign_from <= now && now < entry.accept_until;
        let is_later = |other: &SigningEntry| {
            counts(other) && other.sign_from > entry.sign_from && shares_realm(other, &entry.realms)
        };
        if entry.revoked {
            Self::Revoked
        } else if now < entry.sign_from {
            Self::Standby
        } else if now >= entry.accept_until {
            Self::Retired
        } else if bundle.signing.iter().any(is_later) {
            Self::Draining
        } else {
            Self::Active
        }
    }

    /// For people.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }
}

/// Digits of a key id that name it.
const MIN_PREFIX: usize = 8;

/// Why a certificate was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// No bundle.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The certificate cannot be made.
    #[error(transparent)]
    Make(#[from] writ_protocol::keys::certificate::InvalidCertificate),
    /// A server signs all it says with one key.
    #[error(
        "this server commands {present}; a certificate for {asked} alone would leave the agents of the others without a greeting they believe. Give it a server of its own (--for FILE), or name all realms"
    )]
    Realms {
        /// What it commands.
        present: String,
        /// What was asked for.
        asked: String,
    },
    /// Two servers would sign for one agent, each with a key of its own.
    #[error(
        "this server commands {present} itself; a certificate for a further server needs realms of its own, or share this one: writ-server cert export --with-key"
    )]
    OurRealms {
        /// What it commands.
        present: String,
    },
    /// Nothing says which realms are this server's.
    #[error(
        "no key of this server was ever in a trust bundle, and the fleet has several sets of realms ({0}); say which this server commands: --realm"
    )]
    WhichRealms(String),
    /// There is none to rotate to.
    #[error(
        "no standby certificate is held here; make one: writ-server cert create --standby. To rotate at once: writ-server cert create"
    )]
    NoStandby,
    /// There is one already.
    #[error("certificate {0} stands by already; rotate to it: writ-server cert rotate")]
    HasStandby(KeyId),
    /// No such certificate.
    #[error(
        "no certificate's key id begins with `{0}`; see: writ-server cert list, or writ trust bundles for earlier ones"
    )]
    Unknown(String),
    /// It does not count at the moment.
    #[error("the certificate is valid from {from} to {until}, not now; nothing was imported")]
    NotNow {
        /// The first moment.
        from: Timestamp,
        /// The first moment past it.
        until: Timestamp,
    },
    /// It is in the bundle.
    #[error("certificate {0} is listed already, and its key is here")]
    Listed(KeyId),
    /// Too little of it.
    #[error("give at least the first {MIN_PREFIX} digits of the key id; see: writ-server cert list")]
    Short,
    /// It was revoked before.
    #[error("certificate {0} is revoked already")]
    Revoked(KeyId),
    /// More than one.
    #[error("several certificates' key ids begin with `{0}`; give more of it")]
    Ambiguous(String),
}

/// A new certificate and what it replaces.
#[derive(Debug)]
pub(crate) struct CertificatePlan {
    /// How it signs.
    pub algorithm: Algorithm,
    /// How long the ones before are still accepted.
    pub overlap: Duration,
    /// Whether it only stands by.
    pub is_standby: bool,
    /// The realms it commands; those of the present one unless given.
    pub realms: Option<Vec<String>>,
    /// The file of a further server that holds its key, instead of this one.
    pub elsewhere: Option<PathBuf>,
}

/// Makes a certificate that signs from now on, or stands by.
///
/// # Errors
/// When it cannot be made or no bundle may be minted.
pub(crate) async fn create(
    publisher: &TrustPublisher,
    unlocked: &Unlocked,
    plan: CertificatePlan,
) -> Result<Published, CertificateError> {
    let CertificatePlan { algorithm, overlap, is_standby, realms, elsewhere } = plan;
    // A server that names realms may have none yet: one that was rebuilt.
    let present = match (&realms, signing_here(publisher)) {
        (Some(_), None) => Vec::new(),
        _ => present_realms(publisher)?,
    };
    let mut realms = realms.unwrap_or_else(|| present.clone());
    realms.sort();
    realms.dedup();
    let is_ours = |realm: &String| realms.contains(realm);
    if elsewhere.is_none() && !present.iter().all(is_ours) {
        return Err(CertificateError::Realms { present: present.join(", "), asked: realms.join(", ") });
    }
    if elsewhere.is_some() && present.iter().any(is_ours) {
        return Err(CertificateError::OurRealms { present: present.join(", ") });
    }
    if let Some(held) = standby(publisher, &realms)?.filter(|_| is_standby) {
        return Err(CertificateError::HasStandby(held));
    }
    let key = PrivateKey::<Server>::generate(algorithm);
    // A standby lives as long as others, counted from when it takes over.
    let begins = if is_standby { ends(publisher, &realms).max(publisher.now) } else { publisher.now };
    let certificate = SigningCertificate::issue_until(
        &key,
        &publisher.name,
        publisher.now - SKEW,
        begins + SIGNING_LIFETIME,
    )?;
    let new = NewKey { key, certificate };
    let command = if is_standby { "writ-server cert create --standby" } else { "writ-server cert create" };
    let entry = SigningEntry {
        sign_from: Timestamp::ZERO,
        accept_until: new.certificate.not_after(),
        certificate: new.certificate.clone(),
        revoked: false,
        realms,
    };
    let (now, last) = (publisher.now, ends(publisher, &entry.realms));
    let fresh = match elsewhere {
        Some(file) => Fresh { elsewhere: Some((new, file)), ..Fresh::default() },
        None => Fresh { keys: vec![new], ..Fresh::default() },
    };
    let published = publisher.publish(command, &fresh, unlocked, |next| {
        let mut entry = entry;
        if is_standby {
            entry.sign_from = takes_over_at(last, &entry, now);
            next.signing.push(entry);
        } else {
            let id = entry.certificate.key().id();
            next.signing.push(entry);
            activate(next, id, overlap, now);
        }
    });
    Ok(published.await?)
}

/// A certificate made elsewhere signs from now on, or stands by: one for several servers, or an
/// organisation's own.
///
/// # Errors
/// When it does not count now, is listed already, or no bundle may be minted.
pub(crate) async fn import(
    publisher: &TrustPublisher,
    unlocked: &Unlocked,
    pair: Pair,
    overlap: Duration,
) -> Result<Published, CertificateError> {
    let Pair { key, certificate } = pair;
    let id = key.public().id();
    let (from, until, now) = (certificate.not_before(), certificate.not_after(), publisher.now);
    if now < from || until <= now {
        return Err(CertificateError::NotNow { from, until });
    }
    if publisher.chain.head().bundle.signing.iter().any(|entry| entry.certificate.key().id() == id) {
        return Err(CertificateError::Listed(id));
    }
    let entry = SigningEntry {
        sign_from: from,
        accept_until: until,
        certificate: certificate.clone(),
        revoked: false,
        realms: present_realms(publisher)?,
    };
    let fresh = Fresh { keys: vec![NewKey { key, certificate }], ..Fresh::default() };
    let change = |next: &mut TrustBundle| {
        next.signing.push(entry);
        activate(next, id, overlap, now);
    };
    Ok(publisher.publish("writ-server cert import", &fresh, unlocked, change).await?)
}

/// The key of a listed certificate, put in place on a further server that shares it: no bundle is needed.
///
/// # Errors
/// When no bundle lists it, or it cannot be written.
pub(crate) async fn share(publisher: &TrustPublisher, pair: &Pair) -> Result<bool, CertificateError> {
    let id = pair.key.public().id();
    let entries = &publisher.chain.head().bundle.signing;
    if !entries.iter().any(|entry| entry.certificate.key().id() == id && !entry.revoked) {
        return Ok(false);
    }
    if publisher.is_dry_run {
        return Ok(true);
    }
    let text = pem::encode("PRIVATE KEY", &pair.key.to_pkcs8());
    files::write_secret(&publisher.files.signing_key(id), text.as_bytes()).map_err(PublishError::from)?;
    let text = pem::encode("CERTIFICATE", pair.certificate.der());
    files::write_public(&publisher.files.signing_certificate(id), text.as_bytes())
        .map_err(PublishError::from)?;
    publisher.record("writ-server cert import").await.map_err(PublishError::from)?;
    Ok(true)
}

/// The standby certificate signs from now on; those before it are accepted for a while.
///
/// # Errors
/// When there is none, or no bundle may be minted.
pub(crate) async fn rotate(
    publisher: &TrustPublisher,
    unlocked: &Unlocked,
    overlap: Duration,
) -> Result<Published, CertificateError> {
    let next_key = standby(publisher, &present_realms(publisher)?)?.ok_or(CertificateError::NoStandby)?;
    let now = publisher.now;
    let change = |next: &mut TrustBundle| activate(next, next_key, overlap, now);
    Ok(publisher.publish("writ-server cert rotate", &Fresh::default(), unlocked, change).await?)
}

/// A certificate counts no more, from the first contact with each agent on. If nothing else would sign, the
/// standby or a new certificate does, by the same bundle.
///
/// # Errors
/// When there is no such certificate, or no bundle may be minted.
pub(crate) async fn revoke(
    publisher: &TrustPublisher,
    unlocked: &Unlocked,
    key: &str,
) -> Result<Published, CertificateError> {
    // One that made room for others comes back, revoked: nothing it signed is believed any more, whatever
    // date that bears.
    let (key, left) = find_ever(publisher, key)?;
    let returns = left.is_some();
    let is_revoked = |entry: &SigningEntry| entry.revoked && entry.certificate.key().id() == key;
    if publisher.chain.head().bundle.signing.iter().any(is_revoked) {
        return Err(CertificateError::Revoked(key));
    }
    let (held, now) = (held(publisher)?, publisher.now);
    let bundle = &publisher.chain.head().bundle;
    let listed = bundle.signing.iter().find(|entry| entry.certificate.key().id() == key);
    let realms = listed.map_or_else(Vec::new, |entry| entry.realms.clone());
    // One that drains ends soon: it is no successor.
    let signs = |entry: &SigningEntry| {
        let id = entry.certificate.key().id();
        let standing = CertificateState::of(entry, bundle, now);
        id != key
            && held.contains(&id)
            && standing == CertificateState::Active
            && shares_realm(entry, &realms)
    };
    let mut new = Vec::new();
    let mut successor = None;
    // The key of a further server is replaced there: one made here would have this server sign for realms it
    // does not command.
    let was_ours =
        held.contains(&key) || signing_here(publisher).is_some_and(|entry| shares_realm(entry, &realms));
    if !returns && was_ours && !bundle.signing.iter().any(signs) {
        successor = standby(publisher, &realms)?.filter(|standby| *standby != key);
        if successor.is_none() {
            let revoked = bundle.signing.iter().find(|entry| entry.certificate.key().id() == key);
            let algorithm =
                revoked.map_or_else(Algorithm::default, |entry| entry.certificate.key().algorithm());
            let made = PrivateKey::<Server>::generate(algorithm);
            let certificate = SigningCertificate::issue(&made, &publisher.name, now - SKEW)?;
            successor = Some(made.public().id());
            new.push(NewKey { key: made, certificate });
        }
    }
    let added: Vec<_> = new.iter().map(|new| new.certificate.clone()).collect();
    let change = |next: &mut TrustBundle| {
        for certificate in added {
            next.signing.push(SigningEntry {
                sign_from: Timestamp::ZERO,
                accept_until: certificate.not_after(),
                certificate,
                revoked: false,
                realms: realms.clone(),
            });
        }
        next.signing.extend(left);
        for entry in &mut next.signing {
            entry.revoked |= entry.certificate.key().id() == key;
        }
        if let Some(successor) = successor {
            activate(next, successor, Duration::ZERO, now);
        }
    };
    Ok(publisher
        .publish("writ-server cert revoke", &Fresh { keys: new, ..Fresh::default() }, unlocked, change)
        .await?)
}

/// The entry whose key id begins so.
///
/// # Errors
/// When there is none, or more than one.
pub(crate) fn find(publisher: &TrustPublisher, prefix: &str) -> Result<KeyId, CertificateError> {
    if prefix.len() < MIN_PREFIX {
        return Err(CertificateError::Short);
    }
    let ids = publisher.chain.head().bundle.signing.iter().map(|entry| entry.certificate.key().id());
    let mut found: Vec<_> = ids.filter(|id| id.to_string().starts_with(prefix)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(CertificateError::Ambiguous(prefix.to_owned())),
        (None, _) => Err(CertificateError::Unknown(prefix.to_owned())),
    }
}

/// The same among all bundles there ever were; the entry, if the newest one lists it no more.
fn find_ever(
    publisher: &TrustPublisher,
    prefix: &str,
) -> Result<(KeyId, Option<SigningEntry>), CertificateError> {
    match find(publisher, prefix) {
        Err(CertificateError::Unknown(_)) => {}
        found => return Ok((found?, None)),
    }
    let entries = publisher.chain.links().iter().rev().flat_map(|link| &link.bundle.signing);
    let mut found: Vec<_> = entries
        .filter(|entry| entry.certificate.key().id().to_string().starts_with(prefix))
        .cloned()
        .collect();
    found.sort_by_key(|entry| entry.certificate.key().id());
    found.dedup_by_key(|entry| entry.certificate.key().id());
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok((only.certificate.key().id(), Some(only))),
        (Some(_), false) => Err(CertificateError::Ambiguous(prefix.to_owned())),
        (None, _) => Err(CertificateError::Unknown(prefix.to_owned())),
    }
}

/// Whose private keys are here.
///
/// # Errors
/// When a key cannot be read.
pub(crate) fn held(publisher: &TrustPublisher) -> Result<Vec<KeyId>, CertificateError> {
    let keys = read_signing_keys(&publisher.files).map_err(PublishError::from)?;
    Ok(keys.iter().map(|key| key.public().id()).collect())
}

fn standby(publisher: &TrustPublisher, realms: &[String]) -> Result<Option<KeyId>, CertificateError> {
    let held = held(publisher)?;
    let bundle = &publisher.chain.head().bundle;
    let stands_by = |entry: &&SigningEntry| {
        CertificateState::of(entry, bundle, publisher.now) == CertificateState::Standby
            && shares_realm(entry, realms)
            && held.contains(&entry.certificate.key().id())
    };
    Ok(bundle.signing.iter().find(stands_by).map(|entry| entry.certificate.key().id()))
}

/// A key signs from now on, and those of its realms before it are accepted for the overlap. It counts from a
/// little earlier, for an agent's idea of now may lag; but never from before the one it replaces, or that one
/// would go on signing.
fn activate(next: &mut TrustBundle, key: KeyId, overlap: Duration, now: Timestamp) {
    let Some(realms) = next.signing.iter().find(|entry| entry.certificate.key().id() == key) else { return };
    let realms = realms.realms.clone();
    let mut from = now - SKEW;
    for entry in &mut next.signing {
        let is_before = entry.sign_from <= now && entry.certificate.key().id() != key;
        if is_before && shares_realm(entry, &realms) {
            from = from.max(entry.sign_from + Duration::from_millis(1));
            let until = entry.accept_until.min(now + overlap);
            entry.accept_until = until.max(entry.sign_from + Duration::from_millis(1));
        }
    }
    for entry in &mut next.signing {
        if entry.certificate.key().id() == key {
            entry.sign_from = from;
        }
    }
}

/// When the last certificate of these realms ends.
fn ends(publisher: &TrustPublisher, realms: &[String]) -> Timestamp {
    let entries = publisher.chain.head().bundle.signing.iter();
    let counting = entries.filter(|entry| !entry.revoked && shares_realm(entry, realms));
    counting.map(|entry| entry.accept_until).max().unwrap_or(publisher.now)
}

/// When a standby begins by itself: when the last of its realms ends.
fn takes_over_at(last: Timestamp, standby: &SigningEntry, now: Timestamp) -> Timestamp {
    last.min(standby.accept_until - Duration::from_secs(1)).max(now + Duration::from_secs(1))
}

fn shares_realm(entry: &SigningEntry, realms: &[String]) -> bool {
    entry.realms.iter().any(|realm| realms.contains(realm))
}

/// The realms this server commands: those of its key that signs now; if none does, of the last it held; if it
/// never held one, the only ones there are.
fn present_realms(publisher: &TrustPublisher) -> Result<Vec<String>, CertificateError> {
    let here = held(publisher)?;
    let entries = &publisher.chain.head().bundle.signing;
    let ours = entries.iter().filter(|entry| here.contains(&entry.certificate.key().id()));
    let last = signing_here(publisher).or_else(|| ours.max_by_key(|entry| entry.sign_from));
    if let Some(entry) = last {
        return Ok(entry.realms.clone());
    }
    let all: BTreeSet<_> = entries.iter().map(|entry| &entry.realms).collect();
    match all.into_iter().collect::<Vec<_>>().as_slice() {
        [] => Ok(vec![DEFAULT_REALM.to_owned()]),
        [only] => Ok((*only).clone()),
        several => Err(CertificateError::WhichRealms(
            several.iter().map(|realms| realms.join(", ")).collect::<Vec<_>>().join("; "),
        )),
    }
}

/// The realms this server commands with what it holds; none if it holds nothing that counts.
#[must_use]
pub(crate) fn realms_here(publisher: &TrustPublisher) -> Vec<String> {
    signing_here(publisher).map_or_else(Vec::new, |entry| entry.realms.clone())
}

/// The entry of the newest bundle by whose key this server signs now.
#[must_use]
pub(crate) fn signing_here(publisher: &TrustPublisher) -> Option<&SigningEntry> {
    signs_at(held_entries(publisher), publisher.now)
}

/// The entries of the newest bundle whose keys are here.
pub(crate) fn held_entries(publisher: &TrustPublisher) -> impl Iterator<Item = &SigningEntry> {
    let held = held(publisher).unwrap_or_default();
    publisher
        .chain
        .head()
        .bundle
        .signing
        .iter()
        .filter(move |entry| held.contains(&entry.certificate.key().id()))
}
