//! What a repository holds and how long it counts.

use serde::Serialize;
use tough::schema::Signed;
use writ_common::files;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

use super::{Workshop, WorkshopError};
use crate::{Name, Release};

/// A repository as it is published, and what is planned.
#[derive(Debug, Serialize)]
pub struct RepositoryState {
    /// SHA-256 of the newest root's file.
    pub root_sha256: String,
    /// The roles, in the order root, targets, snapshot, timestamp.
    pub roles: Vec<RoleState>,
    /// What will be published next, or is.
    pub components: Vec<Offered>,
    /// The plan was changed since it was published.
    pub is_unpublished: bool,
}

/// One role's metadata.
#[derive(Debug, Serialize)]
pub struct RoleState {
    /// Which.
    pub role: &'static str,
    /// Its version.
    pub version: u64,
    /// Until when it counts, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The ids of the keys that sign it.
    pub key_ids: Vec<String>,
}

/// A component in the plan.
#[derive(Debug, Serialize)]
pub struct Offered {
    /// Which.
    pub name: Name,
    /// What it is.
    #[serde(flatten)]
    pub release: Release,
}

impl Workshop {
    /// What it holds.
    ///
    /// # Errors
    /// When published metadata cannot be read.
    pub fn state(&self) -> Result<RepositoryState, WorkshopError> {
        use tough::schema::{Root, Snapshot, Targets, Timestamp as Newest};
        let plan = self.plan()?;
        let version = self.newest_root()?.get();
        let root_bytes = files::read(&self.metadata(&format!("{version}.root.json")))?;
        let root = self.root(version)?;
        let named = |role: &str| -> Result<String, WorkshopError> {
            let version = self.version_of(role)?.map_or(0, std::num::NonZeroU64::get);
            Ok(if role == "timestamp" {
                "timestamp.json".to_owned()
            } else {
                format!("{version}.{role}.json")
            })
        };
        let mut roles = Vec::new();
        for role in super::Role::ALL {
            let file = named(role.as_str())?;
            let (version, expires) = match role {
                super::Role::Root => self.dates::<Root>(&file)?,
                super::Role::Targets => self.dates::<Targets>(&file)?,
                super::Role::Snapshot => self.dates::<Snapshot>(&file)?,
                super::Role::Timestamp => self.dates::<Newest>(&file)?,
            };
            let keys = root.roles.get(&role.tuf()).map(|keys| keys.keyids.clone()).unwrap_or_default();
            let key_ids = keys.into_iter().map(|id| hex::encode(id.into_vec())).collect();
            roles.push(RoleState { role: role.as_str(), version, expires_ms: expires.as_millis(), key_ids });
        }
        let components =
            plan.components.into_iter().map(|(name, release)| Offered { name, release }).collect();
        let root_sha256 = Digest::of(&root_bytes).to_string();
        Ok(RepositoryState { root_sha256, roles, components, is_unpublished: plan.is_changed })
    }

    fn dates<R>(&self, file: &str) -> Result<(u64, Timestamp), WorkshopError>
    where
        R: tough::schema::Role + serde::de::DeserializeOwned,
    {
        let path = self.metadata(file);
        let bytes = files::read(&path)?;
        let signed: Signed<R> = serde_json::from_slice(&bytes)
            .map_err(|error| WorkshopError::Metadata { path, why: error.to_string() })?;
        let second = u64::try_from(signed.signed.expires().as_second()).unwrap_or(0);
        Ok((signed.signed.version().get(), Timestamp::from_millis(second.saturating_mul(1000))))
    }
}
