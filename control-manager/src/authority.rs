//! The manager's certificate authority, and the two keys it vouches for: one for the channel, one for what
//! the manager says.

use std::path::{Path, PathBuf};
use std::sync::RwLock;

use tracing::warn;
use writ_common::files::{self, FileError};
use writ_common::keys::pem::{self, InvalidPem};
use writ_common::keys::vouched::{InvalidAuthority, NotVouched, PinnedAuthority};
use writ_common::tls::{IssueError, LeafFacts, ServerTls, TlsAuthority, TlsLeaf, TlsSetupError, not_after};
use writ_protocol::keys::private::InvalidPrivateKey;
use writ_protocol::keys::{Algorithm, Manager as ManagerHolder, PrivateKey};
use writ_protocol::time::Timestamp;

/// What lies where.
#[derive(Debug, Clone)]
pub(crate) struct Files(PathBuf);

impl Files {
    /// The manager of a folder.
    #[must_use]
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The folder.
    #[must_use]
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The authority that entities are given.
    #[must_use]
    pub(crate) fn ca(&self) -> PathBuf {
        self.0.join("control-manager-ca.pem")
    }

    /// Its key; missing when the organisation's own authority is used.
    #[must_use]
    pub(crate) fn ca_key(&self) -> PathBuf {
        self.0.join("control-manager-ca.key")
    }

    /// The channel's leaf and what is between it and the authority.
    #[must_use]
    pub(crate) fn tls(&self) -> PathBuf {
        self.0.join("tls.pem")
    }

    /// Its key.
    #[must_use]
    pub(crate) fn tls_key(&self) -> PathBuf {
        self.0.join("tls.key")
    }

    /// The certificate of the key that signs, and what is between it and the authority.
    #[must_use]
    pub(crate) fn signing(&self) -> PathBuf {
        self.0.join("signing.pem")
    }

    /// That key.
    #[must_use]
    pub(crate) fn signing_key(&self) -> PathBuf {
        self.0.join("signing.key")
    }

    /// The database.
    #[must_use]
    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("control-manager.db")
    }

    /// What has left the audit log.
    #[must_use]
    pub(crate) fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    /// The first administrator's token.
    #[must_use]
    pub(crate) fn admin_token(&self) -> PathBuf {
        self.0.join("admin-token")
    }
}

/// Why the manager's keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not PEM.
    #[error("{}: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: InvalidPem,
    },
    /// Not a key.
    #[error("{}: {source}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        source: InvalidPrivateKey,
    },
    /// The authority is none.
    #[error("{}: {source}", path.display())]
    Authority {
        /// Which.
        path: PathBuf,
        /// Why.
        source: InvalidAuthority,
    },
    /// The signing certificate does not lead to the authority.
    #[error("{}: {source}", path.display())]
    NotVouched {
        /// Which.
        path: PathBuf,
        /// Why.
        source: NotVouched,
    },
    /// The certificate is of another key.
    #[error("{} is not the certificate of the key in {}", certificate.display(), key.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The channel's certificate names no host.
    #[error("{}: it names no host (subjectAltName), so nobody could be sure whose it is", .0.display())]
    Nameless(PathBuf),
    /// A name no certificate can carry.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Leaf and key of the channel.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// An organisation's own certificates.
#[derive(Debug, Clone)]
pub(crate) struct Custom {
    /// The root entities are given.
    pub ca: PathBuf,
    /// The channel's leaf, then what is between it and the root.
    pub tls: PathBuf,
    /// Its key.
    pub tls_key: PathBuf,
    /// The signing certificate, then what is between it and the root.
    pub signing: PathBuf,
    /// Its key.
    pub signing_key: PathBuf,
}

/// Makes an authority and both keys.
///
/// # Errors
/// When a name cannot stand in a certificate, or a file cannot be written.
pub(crate) fn create(
    files: &Files,
    name: &str,
    hosts: &[String],
    now: Timestamp,
) -> Result<(), AuthorityError> {
    let authority = TlsAuthority::create(&format!("{name} control manager"), now)?;
    let signing = PrivateKey::<ManagerHolder>::generate(Algorithm::default());
    let certificate = authority.certify(&signing, &format!("{name} instructions"), now)?;
    let leaf = authority.issue(hosts, now)?;
    let key = |der: &[u8]| pem::encode("PRIVATE KEY", der);
    files::write_secret(&files.ca_key(), key(&authority.key).as_bytes())?;
    files::write_public(&files.ca(), pem::encode("CERTIFICATE", &authority.certificate).as_bytes())?;
    files::write_secret(&files.signing_key(), key(&signing.to_pkcs8()).as_bytes())?;
    files::write_public(&files.signing(), pem::encode("CERTIFICATE", &certificate).as_bytes())?;
    write_leaf(files, &leaf)
}

fn write_leaf(files: &Files, leaf: &TlsLeaf) -> Result<(), AuthorityError> {
    files::write_secret(&files.tls_key(), pem::encode("PRIVATE KEY", &leaf.key).as_bytes())?;
    Ok(files::write_public(&files.tls(), text_of(&leaf.chain).as_bytes())?)
}

/// Issues a leaf for these names under our own authority, and puts it in place.
fn issue_leaf(
    files: &Files,
    ca: &PinnedAuthority,
    names: &[String],
    now: Timestamp,
) -> Result<TlsLeaf, AuthorityError> {
    let key = Spot { path: files.ca_key() }.key()?;
    let leaf = TlsAuthority { certificate: ca.der().to_vec(), key }.issue(names, now)?;
    write_leaf(files, &leaf)?;
    Ok(leaf)
}

/// Takes an organisation's own certificates, after they were found to belong together.
///
/// # Errors
/// Which file is wrong, and why; then nothing was copied.
pub(crate) fn adopt(files: &Files, custom: &Custom, now: Timestamp) -> Result<(), AuthorityError> {
    let from = |path: &PathBuf| Spot { path: path.clone() };
    let signing = (&from(&custom.signing), &from(&custom.signing_key));
    let leaf = read_leaf(&from(&custom.tls), &from(&custom.tls_key))?;
    Checked::read(&from(&custom.ca), signing, now)?.check_leaf(&custom.tls, &leaf, now)?;
    // Whatever form they had: entities and operators are given these files.
    let certificates = |path: PathBuf, spot: &Spot| -> Result<(), AuthorityError> {
        Ok(files::write_public(&path, text_of(&spot.certificates()?).as_bytes())?)
    };
    let key = |path: PathBuf, spot: &Spot| -> Result<(), AuthorityError> {
        Ok(files::write_secret(&path, pem::encode("PRIVATE KEY", &spot.key()?).as_bytes())?)
    };
    certificates(files.ca(), &from(&custom.ca))?;
    key(files.signing_key(), signing.1)?;
    certificates(files.signing(), signing.0)?;
    write_leaf(files, &leaf)
}

fn text_of(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect()
}

struct Spot {
    path: PathBuf,
}

impl Spot {
    fn certificates(&self) -> Result<Vec<Vec<u8>>, AuthorityError> {
        let text = files::read(&self.path)?;
        pem::certificates(&text).map_err(|source| AuthorityError::Pem { path: self.path.clone(), source })
    }

    fn key(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, AuthorityError> {
        let text = files::read_secret(&self.path)?;
        pem::private_key(&text).map_err(|source| AuthorityError::Pem { path: self.path.clone(), source })
    }
}

struct Checked {
    ca: PinnedAuthority,
    signing: PrivateKey<ManagerHolder>,
    chain: Vec<Vec<u8>>,
}

impl Checked {
    fn read(
        ca: &Spot,
        (signing, signing_key): (&Spot, &Spot),
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let root = ca.certificates()?.into_iter().next().unwrap_or_default();
        let pinned = PinnedAuthority::from_der(&root, now)
            .map_err(|source| AuthorityError::Authority { path: ca.path.clone(), source })?;
        let mut chain = signing.certificates()?;
        // The root is what entities have; it is not sent.
        chain.retain(|der| *der != root);
        let private = PrivateKey::<ManagerHolder>::from_pkcs8(&signing_key.key()?)
            .map_err(|source| AuthorityError::Key { path: signing_key.path.clone(), source })?;
        let (leaf, between) = chain.split_first().map_or((&[][..], &[][..]), |(leaf, rest)| (leaf, rest));
        let key = pinned
            .vouches_for(leaf, between, now)
            .map_err(|source| AuthorityError::NotVouched { path: signing.path.clone(), source })?;
        if key != *private.public() {
            let (certificate, key) = (signing.path.clone(), signing_key.path.clone());
            return Err(AuthorityError::Mismatch { certificate, key });
        }
        Ok(Self { ca: pinned, signing: private, chain })
    }

    /// Whether a leaf of the channel leads to the authority and names a host, now.
    fn check_leaf(&self, path: &Path, leaf: &TlsLeaf, now: Timestamp) -> Result<(), AuthorityError> {
        let mut shown = leaf.chain.clone();
        shown.retain(|der| der.as_slice() != self.ca.der());
        let (own, between) = shown.split_first().map_or((&[][..], &[][..]), |(own, rest)| (own, rest));
        self.ca
            .leads_from(own, between, now)
            .map_err(|source| AuthorityError::NotVouched { path: path.to_owned(), source })?;
        if LeafFacts::read(own).is_none() {
            return Err(AuthorityError::Nameless(path.to_owned()));
        }
        ServerTls::new(leaf)?;
        Ok(())
    }
}

/// The channel's leaf and its key.
fn read_leaf(tls: &Spot, tls_key: &Spot) -> Result<TlsLeaf, AuthorityError> {
    Ok(TlsLeaf { chain: tls.certificates()?, key: tls_key.key()? })
}

/// The manager's keys in use.
#[derive(Debug)]
pub(crate) struct Authority {
    /// What entities are given.
    pub ca: PinnedAuthority,
    /// Signs replies and instructions.
    pub signing: PrivateKey<ManagerHolder>,
    /// Its certificate, then what is between it and the authority.
    pub chain: Vec<Vec<u8>>,
    /// The channel.
    pub tls: ServerTls,
    leaf: RwLock<LeafFacts>,
}

impl Authority {
    /// Until when what is signed is believed: as long as every link from it to the authority lasts.
    #[must_use]
    pub(crate) fn signs_until(&self) -> Timestamp {
        let links = self.chain.iter().map(|der| not_after(der).unwrap_or(Timestamp::ZERO));
        links.fold(self.ca.not_after, Timestamp::min)
    }

    /// Reads and checks the files.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub(crate) fn open(files: &Files, now: Timestamp) -> Result<Self, AuthorityError> {
        let at = |path: PathBuf| Spot { path };
        let signing = (&at(files.signing()), &at(files.signing_key()));
        let checked = Checked::read(&at(files.ca()), signing, now)?;
        if files.ca_key().exists()
            && let Err(error) = at(files.ca_key()).key()
        {
            warn!(%error, "no certificate of the channel can be issued any more; put the file back from a copy");
        }
        let read = read_leaf(&at(files.tls()), &at(files.tls_key()));
        let usable = read.and_then(|leaf| checked.check_leaf(&files.tls(), &leaf, now).map(|()| leaf));
        // Also beside a key that cannot be read.
        let shown = at(files.tls()).certificates().unwrap_or_default();
        let facts = shown.first().and_then(|der| LeafFacts::read(der));
        // One that ended while nobody ran, or lies beside another's key after a crash in the middle of a
        // renewal.
        let is_to_renew = usable.is_err() || facts.as_ref().is_none_or(|facts| facts.is_due(now));
        let leaf = match (is_to_renew && files.ca_key().exists(), facts) {
            (true, Some(facts)) => issue_leaf(files, &checked.ca, &facts.names, now)?,
            _ => usable?,
        };
        let Checked { ca, signing, chain } = checked;
        let tls = ServerTls::new(&leaf)?;
        let facts = leaf.chain.first().and_then(|der| LeafFacts::read(der));
        let leaf = RwLock::new(facts.ok_or(TlsSetupError::NotACertificate)?);
        Ok(Self { ca, signing, chain, tls, leaf })
    }

    /// Issues the channel's leaf anew with more names.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or the authority is not ours.
    pub(crate) fn add_names(
        &self,
        files: &Files,
        names: &[String],
        now: Timestamp,
    ) -> Result<Vec<String>, AuthorityError> {
        let mut facts = self.leaf.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut all = facts.names.clone();
        all.extend(names.iter().cloned());
        all.sort();
        all.dedup();
        issue_leaf(files, &self.ca, &all, now)?;
        facts.names.clone_from(&all);
        Ok(all)
    }

    /// Issues the channel's leaf anew at two thirds of its life, if the authority is ours.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn renew_if_due(&self, files: &Files, now: Timestamp) -> Result<bool, AuthorityError> {
        let mut facts = self.leaf.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !facts.is_due(now) || !files.ca_key().exists() {
            return Ok(false);
        }
        let leaf = issue_leaf(files, &self.ca, &facts.names, now)?;
        self.tls.show(&leaf)?;
        if let Some(renewed) = leaf.chain.first().and_then(|der| LeafFacts::read(der)) {
            *facts = renewed;
        }
        Ok(true)
    }
}
