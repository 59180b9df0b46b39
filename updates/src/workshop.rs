//! Making a repository: its keys and the plan in one folder, what is published in another.
//!
//! The published folder is static files for any web server. Keys never are in it. The key of the root is
//! sealed by a passphrase and can be kept elsewhere between its uses; the others sign without anybody at
//! hand.

mod keys;
mod publish;
mod state;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use writ_common::files::{self, FileError};
use writ_common::keys::sealed::{Passphrase, SealError};
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

pub use keys::Role;
pub use publish::Published;
pub use state::{Offered, RepositoryState, RoleState};

use crate::run::DELTA_FROM;
use crate::{MAX_COMPONENT_BYTES, MAX_COMPONENTS, Name, Release, Version};

/// Why a repository was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum WorkshopError {
    /// There is one already.
    #[error("{}: there is a repository or its keys already; name other folders", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{}: there are no keys of a repository here; make one: writ-control-manager repo init", .0.display())]
    Nothing(PathBuf),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A sealed key.
    #[error("{}: {source}", path.display())]
    Sealed {
        /// Which.
        path: PathBuf,
        /// Why.
        source: SealError,
    },
    /// A key that is none.
    #[error("{}: it is no key of a repository: {why}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What is to be added.
    #[error("{0}")]
    Component(String),
    /// Nothing of that name.
    #[error("there is no component {0} in the plan; see: writ-control-manager repo status")]
    Unknown(Name),
    /// Published metadata that cannot be read.
    #[error("{}: {why}", path.display())]
    Metadata {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The library's word.
    #[error("cannot sign: {0}")]
    Sign(String),
    /// Every number was used.
    #[error("there is no version left: make a new repository")]
    Numbers,
    /// A time that ends before it begins.
    #[error("a lifetime is 1 hour to 10 years")]
    Lifetime,
}

impl WorkshopError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File(FileError::Io { path: path.to_owned(), source })
    }
}

/// How long what is signed counts. Whoever does not get newer metadata in that time is told so.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Of the timestamp, which says what is newest: short, so that what is held back is noticed soon.
    pub timestamp: Duration,
    /// Of the list of metadata.
    pub snapshot: Duration,
    /// Of the list of components.
    pub targets: Duration,
}

/// What will be published.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Plan {
    components: BTreeMap<Name, Release>,
    /// What was published last.
    #[serde(default)]
    published: BTreeMap<Name, Release>,
    /// What leads to lists of the plan from the lists that were published before them.
    #[serde(default)]
    deltas: BTreeMap<Name, Delta>,
    /// Changed since it was published.
    is_changed: bool,
}

/// What leads from one version of a list to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Delta {
    #[serde(with = "crate::component::hex_digest")]
    from: Digest,
    #[serde(with = "crate::component::hex_digest")]
    to: Digest,
    #[serde(with = "crate::component::hex_digest")]
    sha256: Digest,
    bytes: u64,
}

impl Delta {
    /// What it is called in the repository.
    fn target(&self, name: &Name) -> String {
        format!("{name}{DELTA_FROM}{}", self.from)
    }
}

/// A repository and its keys. Nobody else changes it meanwhile.
#[derive(Debug)]
pub struct Workshop {
    repository: PathBuf,
    keys: PathBuf,
    _lock: File,
}

impl Workshop {
    /// Makes a repository without components. Its first root is to be pinned by whoever updates from it.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub async fn make(
        (repository, keys): (&Path, &Path),
        passphrase: &Passphrase,
        root_lifetime: Duration,
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<(Self, Published), WorkshopError> {
        let is_taken = |path: &Path| !files::list(path).unwrap_or_default().is_empty();
        if let Some(taken) = [repository, keys].into_iter().find(|path| is_taken(path)) {
            return Err(WorkshopError::Exists(taken.to_owned()));
        }
        publish::check_lifetimes(&lifetimes, root_lifetime, now)?;
        files::private_folder(keys)?;
        let lock = files::lock_folder(keys)?;
        for folder in ["metadata", "targets"] {
            let folder = repository.join(folder);
            fs::create_dir_all(&folder).map_err(WorkshopError::io(&folder))?;
            // Whatever this user's mask is: it is published.
            let published = Permissions::from_mode(0o755);
            fs::set_permissions(&folder, published.clone()).map_err(WorkshopError::io(&folder))?;
            fs::set_permissions(repository, published).map_err(WorkshopError::io(repository))?;
        }
        let workshop = Self { repository: repository.to_owned(), keys: keys.to_owned(), _lock: lock };
        for role in Role::ALL {
            workshop.new_key(role, Some(passphrase))?;
        }
        workshop.sign_root(None, passphrase, root_lifetime, now).await?;
        workshop.write_numbers(&publish::Numbers { root: 1, ..publish::Numbers::default() })?;
        // At last: what can be opened has all that it needs.
        workshop.write_plan(&Plan::default())?;
        let published = workshop.publish(lifetimes, now).await?;
        Ok((workshop, published))
    }

    /// A repository that was made earlier.
    ///
    /// # Errors
    /// When it is not there, or somebody else changes it.
    pub fn open(repository: &Path, keys: &Path) -> Result<Self, WorkshopError> {
        if !keys.join("plan.json").exists() {
            return Err(WorkshopError::Nothing(keys.to_owned()));
        }
        let lock = files::lock_folder(keys)?;
        let workshop = Self { repository: repository.to_owned(), keys: keys.to_owned(), _lock: lock };
        workshop.finish_rotation()?;
        Ok(workshop)
    }

    /// Plans a version of a component, in the place of the one before. `told` hears how many bytes of it are
    /// copied.
    ///
    /// # Errors
    /// When the file cannot be used as that component, or cannot be copied.
    pub fn add(
        &self,
        name: Name,
        version: Version,
        file: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<Release, WorkshopError> {
        let refuse = |why: String| WorkshopError::Component(format!("{}: {why}", file.display()));
        let found = fs::metadata(file).map_err(WorkshopError::io(file))?;
        if !found.is_file() {
            return Err(refuse("it is no file".to_owned()));
        }
        if found.len() > MAX_COMPONENT_BYTES {
            return Err(refuse(format!(
                "it has {} bytes, and {MAX_COMPONENT_BYTES} are the most",
                found.len()
            )));
        }
        name.check(file).map_err(WorkshopError::Component)?;
        let mut plan = self.plan()?;
        if !plan.components.contains_key(&name) && plan.components.len() >= MAX_COMPONENTS {
            return Err(refuse(format!("there are {MAX_COMPONENTS} components already, which are the most")));
        }
        // Copied under a name of its own first: its digest, which is its name, is known when it was read.
        let beside = self.repository.join("targets").join(format!(".{name}.new"));
        let digest = publish::copy(file, &beside, told)?;
        let bytes = fs::metadata(&beside).map_err(WorkshopError::io(&beside))?.len();
        let release = Release { version, sha256: digest, bytes };
        files::rename(&beside, &self.target(&name, digest))?;
        plan.components.insert(name, release.clone());
        plan.is_changed = true;
        self.write_plan(&plan)?;
        Ok(release)
    }

    /// Plans a repository without this component. Those who have it keep it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &Name) -> Result<(), WorkshopError> {
        let mut plan = self.plan()?;
        if plan.components.remove(name).is_none() {
            return Err(WorkshopError::Unknown(name.clone()));
        }
        plan.is_changed = true;
        self.write_plan(&plan)
    }

    fn target(&self, name: &Name, digest: Digest) -> PathBuf {
        self.repository.join("targets").join(format!("{digest}.{name}"))
    }

    fn metadata(&self, name: &str) -> PathBuf {
        self.repository.join("metadata").join(name)
    }

    fn plan(&self) -> Result<Plan, WorkshopError> {
        let path = self.keys.join("plan.json");
        let bytes = files::read(&path)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| WorkshopError::Metadata { path, why: format!("it is damaged: {error}") })
    }

    fn write_plan(&self, plan: &Plan) -> Result<(), WorkshopError> {
        let bytes =
            serde_json::to_vec_pretty(plan).map_err(|error| WorkshopError::Sign(error.to_string()))?;
        Ok(files::write_secret(&self.keys.join("plan.json"), &bytes)?)
    }
}
