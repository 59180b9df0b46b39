//! `writ-server init`: makes a fleet, or changes nothing that matters.
//!
//! The fleet's row in the database is written last. Until then the directory holds keys nobody has heard of,
//! and `init` may be run again; afterwards it refuses.

use std::path::PathBuf;

use serde::Serialize;
use writ_common::admin::new_token;
use writ_common::envelope::{BundlePurpose, sign};
use writ_common::facts::is_plain_name;
use writ_common::files::{self, FileError};
use writ_common::id::{Digest, FleetId};
use writ_common::keys::certificate::InvalidCertificate;
use writ_common::keys::sealed::{Passphrase, SealError, seal};
use writ_common::keys::{Algorithm, Authority, PrivateKey, Server, SigningCertificate, pem};
use writ_common::net::{Place, host_for_others};
use writ_common::shutdown::Shutdown;
use writ_common::time::Timestamp;
use writ_common::tls::{IssueError, TlsAuthority, spki_digest};
use writ_common::trust::{Chain, Role, SigningEntry, TrustBundle};

use super::Files;
use super::backup::{BackupError, contents, write_backup};
use super::presence::{self, Lost, Presence, PresenceError};
use crate::store::{BackupRow, Store, StoreError};

/// The realm of agents whose token names no other.
pub const DEFAULT_REALM: &str = "default";

/// What to make.
#[derive(Debug)]
pub struct Plan {
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
pub struct Made {
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
pub enum CreateError {
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
    Plan(String),
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
pub async fn create(
    files: &Files,
    plan: Plan,
    begin: impl FnOnce(),
    now: Timestamp,
    shutdown: &Shutdown,
) -> Result<Made, CreateError> {
    let Plan { name, endpoints, extra_names, algorithm, passphrase, replaces } = plan;
    if !is_plain_name(&name) {
        return Err(CreateError::Plan(
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
    let authority = PrivateKey::<Authority>::generate(algorithm);
    let signing = PrivateKey::<Server>::generate(algorithm);
    let certificate = SigningCertificate::issue(&signing, &name, now)?;
    let tls_ca = TlsAuthority::create(&format!("{name} channel"), now)?;
    let leaf = tls_ca.issue(&host_names, now)?;
    let accept_until = certificate.not_after();
    let bundle = TrustBundle {
        fleet,
        fleet_name: name.clone(),
        version: 1,
        prev: Vec::new(),
        authority: Role { keys: vec![authority.public().clone()], threshold: 1 },
        signing: vec![SigningEntry {
            sign_from: certificate.not_before(),
            accept_until,
            certificate: certificate.clone(),
            revoked: false,
            realms: vec![DEFAULT_REALM.to_owned()],
        }],
        class_rules: Vec::new(),
        tls_cas: vec![tls_ca.certificate.clone()],
        endpoints,
        floor_reset: None,
        issued_at: now,
    };
    bundle.check().map_err(|error| CreateError::Plan(error.to_string()))?;
    let sealed_bundle = sign::<BundlePurpose>(&[&authority.for_purpose()], &bundle);
    let chain = Chain::pinned(sealed_bundle.bytes().clone(), sealed_bundle.digest())
        .map_err(|refusal| CreateError::Plan(refusal.to_string()))?;
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

    let authority_key = seal(pem::encode("PRIVATE KEY", &authority.to_pkcs8()).as_bytes(), &passphrase)?;
    let signing_key = pem::encode("PRIVATE KEY", &signing.to_pkcs8());
    let tls_ca_key = pem::encode("PRIVATE KEY", &tls_ca.key);
    let tls_key = pem::encode("PRIVATE KEY", &leaf.key);
    let signing_pem = pem::encode("CERTIFICATE", certificate.der());
    let tls_ca_pem = pem::encode("CERTIFICATE", &tls_ca.certificate);
    let tls_pem: String = leaf.chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
    let public = [
        (files.signing_certificate(signing.public().id()), signing_pem.as_str()),
        (files.tls_ca(), tls_ca_pem.as_str()),
        (files.tls_certificate(), tls_pem.as_str()),
    ];
    let secret = [
        (files.authority(), authority_key.as_slice()),
        (files.signing_key(signing.public().id()), signing_key.as_bytes()),
        (files.tls_ca_key(), tls_ca_key.as_bytes()),
        (files.tls_key(), tls_key.as_bytes()),
        (files.admin_token(), admin_secret.as_bytes()),
    ];
    for (path, content) in &public {
        files::write_public(path, content.as_bytes())?;
    }
    for (path, content) in &secret {
        files::write_secret(path, content)?;
    }
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

    Ok(Made {
        fleet_id: fleet.to_string(),
        fleet_name: name,
        authority_key_id: authority.public().id().to_string(),
        signing_key_id: signing.public().id().to_string(),
        signing_accept_until: accept_until.to_string(),
        tls_ca_spki_sha256: spki_digest(&tls_ca.certificate)
            .map_or_else(String::new, |digest| digest.to_string()),
        bundle_digest: sealed_bundle.digest().to_string(),
        authority_file: files.authority(),
        admin_token_file: files.admin_token(),
        admin_ca_file: files.tls_ca(),
        backup_file,
        replaced_folder: aside,
    })
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
pub async fn check_room(files: &Files, replaces: Option<&str>) -> Result<(), CreateError> {
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
/// whoever is killed in between is told that keys without a database lie here, and gives them up once more.
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
pub fn endpoints_for_others(endpoints: &[String]) -> Result<Vec<Place>, CreateError> {
    let mut places: Vec<Place> = Vec::new();
    for endpoint in endpoints {
        let wrong = |error: &dyn std::fmt::Display| CreateError::Plan(format!("--endpoint: {error}"));
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
        names.push(name.map_err(|error| CreateError::Plan(format!("--tls-name: {error}")))?);
    }
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.sort();
    names.dedup();
    Ok(names)
}
