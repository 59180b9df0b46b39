//! `writ-server init`: makes a fleet, or changes nothing that matters.
//!
//! The fleet's row in the database is written last. Until then the directory holds keys nobody has heard of,
//! and `init` may be run again; afterwards it refuses.

use std::path::PathBuf;

use serde::Serialize;
use writ_common::admin::new_token;
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::keys::sealed::{Passphrase, SealError, seal};
use writ_common::shutdown::Shutdown;
use writ_common::tls::{IssueError, TlsAuthority, TlsLeaf, spki_digest};
use writ_protocol::envelope::{BundlePurpose, sign};
use writ_protocol::facts::is_plain_name;
use writ_protocol::id::{Digest, FleetId};
use writ_protocol::keys::certificate::InvalidCertificate;
use writ_protocol::keys::{Algorithm, Authority, PrivateKey, Server, SigningCertificate};
use writ_protocol::place::{Place, host_for_others};
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, Role, SigningEntry, TrustBundle};

use super::Files;
use super::backup::{BackupError, contents, write_backup};
use super::presence::{self, Lost, Presence, PresenceError};
use crate::store::{BackupRow, Store, StoreError};

/// The realm of agents whose token names no other.
pub(crate) const DEFAULT_REALM: &str = "default";

/// What to make.
#[derive(Debug)]
pub(crate) struct FleetPlan {
    /// The fleet's name.
    pub name: String,
    /// Where agents find the server, "host:port"; the hosts become names of the TLS certificate.
    pub endpoints: Vec<String>,
    /// Further names of the TLS certificate.
    pub extra_names: Vec<String>,
    /// How authority and server sign.
    pub algorithm: Algorithm,
    /// Seals the authority's key and the backup.
    pub passphrase: Passphrase,
    /// The name of the fleet that is given up for it.
    pub replaces: Option<String>,
}

/// What was made: public facts and where things lie, no secret.
#[derive(Debug, Serialize)]
pub(crate) struct NewFleet {
    /// The fleet.
    pub fleet_id: String,
    /// Its name.
    pub fleet_name: String,
    /// The key that signs trust bundles.
    pub authority_key_id: String,
    /// The key that signs commands.
    pub signing_key_id: String,
    /// The last moment of the signing certificate.
    pub signing_accept_until: String,
    /// SHA-256 of the TLS authority's SubjectPublicKeyInfo.
    pub tls_ca_spki_sha256: String,
    /// The first trust bundle.
    pub bundle_digest: String,
    /// The sealed authority key.
    pub authority_file: PathBuf,
    /// The first administrator's token.
    pub admin_token_file: PathBuf,
    /// For operators.
    pub admin_ca_file: PathBuf,
    /// The sealed backup.
    pub backup_file: PathBuf,
    /// Where the state of the fleet that was given up lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_folder: Option<PathBuf>,
}

/// Why no fleet was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// There is one.
    #[error(
        "{}: fleet `{name}` ({fleet}) lives here already. A second one needs another --data-dir. If its keys are lost: writ-server cert restore, or writ-server authority rebuild. To give it up, so that none of its agents obeys this server any more: --replace-fleet {name}",
        folder.display()
    )]
    Exists {
        /// Where.
        folder: PathBuf,
        /// Its name.
        name: String,
        /// Its id.
        fleet: FleetId,
    },
    /// The keys of a fleet are there, its database is not.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// What is there cannot be told.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// A host name or the fleet's name cannot stand in a certificate or bundle.
    #[error("{0}")]
    FleetPlan(String),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backup failed; nothing was published.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Sealing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A TLS certificate could not be made.
    #[error(transparent)]
    Tls(#[from] IssueError),
    /// The signing certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
}

/// Makes a fleet in a data directory.
///
/// # Errors
/// When there is one already, or something cannot be written.
pub(crate) async fn create(
    files: &Files,
    plan: FleetPlan,
    begin: impl FnOnce(),
    now: Timestamp,
    shutdown: &Shutdown,
) -> Result<NewFleet, CreateError> {
    let FleetPlan { name, endpoints, extra_names, algorithm, passphrase, replaces } = plan;
    if !is_plain_name(&name) {
        return Err(CreateError::FleetPlan(
            "--name must have 1 to 128 of A-Z, a-z, 0-9, `.`, `_` and `-`".to_owned(),
        ));
    }
    let places = endpoints_for_others(&endpoints)?;
    let endpoints = places.iter().map(ToString::to_string).collect();
    let host_names = host_names(&places, extra_names)?;
    files::private_folder(files.folder())?;
    let _lock = files.lock()?;
    let replaced = room(files, replaces.as_deref()).await?;

    let fleet = FleetId::generate(now);
    let keys = NewKeys::make(&name, &host_names, algorithm, now)?;
    let bundle = keys.first_bundle(fleet, &name, endpoints, now);
    bundle.check().map_err(|error| CreateError::FleetPlan(error.to_string()))?;
    let sealed_bundle = sign::<BundlePurpose>(&[&keys.authority.for_purpose()], &bundle);
    let chain = Chain::pinned(sealed_bundle.bytes().clone(), sealed_bundle.digest())
        .map_err(|refusal| CreateError::FleetPlan(refusal.to_string()))?;
    // Whatever was asked for can be made: only now what is here goes.
    let aside = match replaced {
        Room::Free => None,
        Room::Unfinished => {
            move_aside(files, "unfinished", now)?;
            None
        }
        Room::GivenUp => Some(move_aside(files, "replaced", now)?),
    };
    files::begin_making(files.folder())?;
    files::private_folder(&files.backups())?;
    files::private_folder(&files.signing())?;
    let store = Store::make(&files.database(), shutdown).await?;
    begin();
    let admin_secret = new_token();

    keys.write(files, &passphrase)?;
    files::write_secret(&files.admin_token(), admin_secret.as_bytes())?;
    // design: no bundle is in force before a backup of its private keys is on disk.
    let backup_file = files.backups().join(format!("writ-{}.age", now.to_string().replace(':', "")));
    let held = contents(files, &chain)?;
    let sealed = write_backup(&backup_file, (fleet, &name), &held, &passphrase, now)?;
    writ_common::checkpoint!("fleet_made");
    let admin_digest = Digest::of(admin_secret.as_bytes());
    let first = vec![(1, sealed_bundle.digest(), sealed_bundle.bytes().clone())];
    store.create_fleet(fleet, name.clone(), first, admin_digest, now).await?;
    files::end_making(files.folder())?;
    store.note_backup(BackupRow::made(&backup_file, &sealed, 1, now)).await?;

    Ok(NewFleet {
        fleet_id: fleet.to_string(),
        fleet_name: name,
        authority_key_id: keys.authority.public().id().to_string(),
        signing_key_id: keys.signing.public().id().to_string(),
        signing_accept_until: keys.certificate.not_after().to_string(),
        tls_ca_spki_sha256: spki_digest(&keys.tls_ca.certificate)
            .map_or_else(String::new, |digest| digest.to_string()),
        bundle_digest: sealed_bundle.digest().to_string(),
        authority_file: files.authority(),
        admin_token_file: files.admin_token(),
        admin_ca_file: files.tls_ca(),
        backup_file,
        replaced_folder: aside,
    })
}

/// The keys of a new fleet, and what certifies them.
struct NewKeys {
    authority: PrivateKey<Authority>,
    signing: PrivateKey<Server>,
    certificate: SigningCertificate,
    tls_ca: TlsAuthority,
    leaf: TlsLeaf,
}

impl NewKeys {
    fn make(
        name: &str,
        host_names: &[String],
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<Self, CreateError> {
        let signing = PrivateKey::<Server>::generate(algorithm);
        let certificate = SigningCertificate::issue(&signing, name, now)?;
        let tls_ca = TlsAuthority::create(&format!("{name} channel"), now)?;
        let leaf = tls_ca.issue(host_names, now)?;
        Ok(Self { authority: PrivateKey::generate(algorithm), signing, certificate, tls_ca, leaf })
    }

    fn first_bundle(
        &self,
        fleet: FleetId,
        name: &str,
        endpoints: Vec<String>,
        now: Timestamp,
    ) -> TrustBundle {
        TrustBundle {
            fleet,
            fleet_name: name.to_owned(),
            version: 1,
            prev: Vec::new(),
            authority: Role { keys: vec![self.authority.public().clone()], threshold: 1 },
            signing: vec![SigningEntry {
                sign_from: self.certificate.not_before(),
                accept_until: self.certificate.not_after(),
                certificate: self.certificate.clone(),
                revoked: false,
                realms: vec![DEFAULT_REALM.to_owned()],
            }],
            class_rules: Vec::new(),
            tls_cas: vec![self.tls_ca.certificate.clone()],
            endpoints,
            floor_reset: None,
            issued_at: now,
        }
    }

    /// Writes each to its file, the authority's key sealed.
    fn write(&self, files: &Files, passphrase: &Passphrase) -> Result<(), CreateError> {
        let private = |key: &[u8]| pem::encode("PRIVATE KEY", key);
        let certificate = |der: &[u8]| pem::encode("CERTIFICATE", der);
        let signing = self.signing.public().id();
        let tls: String = self.leaf.chain.iter().map(|der| certificate(der).to_string()).collect();
        let authority = seal(private(&self.authority.to_pkcs8()).as_bytes(), passphrase)?;
        files::write_public(
            &files.signing_certificate(signing),
            certificate(self.certificate.der()).as_bytes(),
        )?;
        files::write_public(&files.tls_ca(), certificate(&self.tls_ca.certificate).as_bytes())?;
        files::write_public(&files.tls_certificate(), tls.as_bytes())?;
        files::write_secret(&files.authority(), &authority)?;
        files::write_secret(&files.signing_key(signing), private(&self.signing.to_pkcs8()).as_bytes())?;
        files::write_secret(&files.tls_ca_key(), private(&self.tls_ca.key).as_bytes())?;
        files::write_secret(&files.tls_key(), private(&self.leaf.key).as_bytes())?;
        Ok(())
    }
}

/// Room for a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Nothing is here.
    Free,
    /// What an interrupted `init` left.
    Unfinished,
    /// A fleet that is given up by its name.
    GivenUp,
}

/// Whether a fleet may be made here; `replaces` names one that is given up for it.
///
/// # Errors
/// Why not: a fleet, or what is left of one, is here.
pub(crate) async fn check_room(files: &Files, replaces: Option<&str>) -> Result<(), CreateError> {
    room(files, replaces).await.map(|_| ())
}

async fn room(files: &Files, replaces: Option<&str>) -> Result<Room, CreateError> {
    match presence::find(files).await? {
        Presence::Nothing => Ok(Room::Free),
        Presence::Unfinished => Ok(Room::Unfinished),
        Presence::Lost(lost) if replaces != Some(&lost.name) => Err(lost.into()),
        Presence::Fleet { fleet, name } if replaces != Some(&name) => {
            Err(CreateError::Exists { folder: files.folder().to_owned(), name, fleet })
        }
        Presence::Lost(_) | Presence::Fleet { .. } => Ok(Room::GivenUp),
    }
}

/// Nothing is lost: what was here lies in a folder beside. The database goes first and the signing keys last:
/// a command killed in between is told that keys without a database lie here, and gives them up once more.
fn move_aside(files: &Files, what: &str, now: Timestamp) -> Result<PathBuf, CreateError> {
    files::private_folder(&files.signing())?;
    // A local command that changes keys holds this, and goes on by path.
    let _alone = files::lock_folder(&files.signing())?;
    let turn = |name: &str| (name == "signing", !name.starts_with("writ.db"), name.to_owned());
    Ok(files::move_aside(files.folder(), what, now, turn)?)
}

/// Endpoints as they are signed: one way to write each, and none that means nothing elsewhere.
///
/// # Errors
/// Which of them is none.
pub(crate) fn endpoints_for_others(endpoints: &[String]) -> Result<Vec<Place>, CreateError> {
    let mut places: Vec<Place> = Vec::new();
    for endpoint in endpoints {
        let wrong = |error: &dyn std::fmt::Display| CreateError::FleetPlan(format!("--endpoint: {error}"));
        let place = Place::for_others(endpoint).map_err(|error| wrong(&error))?;
        if places.contains(&place) {
            return Err(wrong(&format_args!("{place} is given twice")));
        }
        places.push(place);
    }
    Ok(places)
}

fn host_names(endpoints: &[Place], extra: Vec<String>) -> Result<Vec<String>, CreateError> {
    let mut names: Vec<_> = endpoints.iter().map(|place| place.host().to_owned()).collect();
    for name in extra {
        let name = host_for_others(&name);
        names.push(name.map_err(|error| CreateError::FleetPlan(format!("--tls-name: {error}")))?);
    }
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.sort();
    names.dedup();
    Ok(names)
}
